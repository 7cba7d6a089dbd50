"""Views that make values continuous, so that a density of them is bounded."""

from typing import Any

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.series_window import Window, mean_and_std
from unlabel.modalities.visual_fit import change


def spread_window(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Add uniform noise, around 0, to the values of a window.

    Values that repeat exactly (a sensor's steps, a flat stretch) have no finite density.

    Args of the spec:
        share: width of the noise, of each channel's standard deviation (default 0.05).
    """
    share = arguments(spec, share=0.05)["share"]
    std = mean_and_std(window.values, window.known)[1]
    noise = draw(batch, spec, window.values[0].numel()).view_as(window.values).to(window.values)
    return window.change(window.values + share * std * (noise - 0.5))


def spread_clip(clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, **_: Any) -> Clip:
    """Add uniform noise to pixels: `(k + u) / 256`, k the nearest of 256 levels, u from 0 to 1.

    This is uniform dequantization: the density's integral over a level is what the model gives that
    level. Pixels between two levels, which resizing makes, are those of 8 bits again.

    Reference: Theis et al. 2015, arXiv 1511.01844, section 3.1.
    """
    arguments(spec)
    noise = draw(batch, spec, clip.frames[0].numel()).view_as(clip.frames).to(clip.frames)
    return change(clip, ((255 * clip.frames).round() + noise) / 256, cell)


__all__ = ["spread_clip", "spread_window"]
