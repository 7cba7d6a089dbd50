"""A view whose target is the frames themselves, from 0 to 1, however later links change them."""

from dataclasses import replace
from typing import Any

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Clip
from unlabel.modalities.draws import arguments


def pixels_target(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """Ask for the frames as they are at this place of the chain, in pixels from 0 to 1.

    The target is `(batch, times, colours, rows, columns)`, one place a frame; `whole` asks for the
    same by token, in the encoder's own units.
    """
    arguments(spec)
    return replace(clip, target=clip.frames, is_target=clip.mask[:, :, None, None, None])


__all__ = ["pixels_target"]
