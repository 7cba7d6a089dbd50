"""Views that ask for everything: what later links change of it, the encoder alone sees changed."""

from dataclasses import replace
from typing import Any

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.audio_sound import Layout, Sound
from unlabel.modalities.clip import Clip
from unlabel.modalities.draws import arguments
from unlabel.modalities.series_window import Window


def whole_window(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Ask for every measured value of the history, as it is at this place of the chain.

    Links after it (`jitter`, `hide`, `crop`, `token_cutoff`, ...) change what the encoder sees and
    not what is asked for; the target is in units of what is seen.
    """
    arguments(spec)
    now = window.history
    return replace(window, clean=(window.values[:, :now], window.visible[:, :now]))


def whole_clip(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """Ask for every pixel of the frames that exist, as it is at this place of the chain."""
    arguments(spec)
    return replace(clip, clean=(clip.frames, clip.mask))


def whole_sound(sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any) -> Sound:
    """Ask for every value of the sound that exists, as it is at this place of the chain."""
    arguments(spec)
    everywhere = sound.mask.new_ones(len(sound.mask), layout.frames, layout.bands)
    return replace(sound, is_asked=everywhere, clean=sound.waveform)


__all__ = ["whole_clip", "whole_sound", "whole_window"]
