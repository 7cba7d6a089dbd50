"""Views that change colours, pixel by pixel; one draw for all frames of a clip."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.series_masks import smallest
from unlabel.modalities.visual_fit import change, pixels, real_cells

# Luma of RGB, and RGB in YIQ, where hue is an angle (Recommendation ITU-R BT.601; NTSC 1953).
_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
_OF_YIQ = np.linalg.inv(_YIQ).tolist()
# Lab's a and b of colours that screens show lie within this.
_REACH = 110.0


def jitter(clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, **_: Any) -> Clip:
    """Change brightness, contrast, saturation and hue by random factors of the sample.

    All four are one 3 x 3 matrix and an offset for each clip: brightness scales, contrast moves
    away from the clip's mean luma, saturation away from each pixel's, and hue turns the plane of
    equal luma in YIQ. Values are clipped to 0..1 once, at the end.

    Args of the spec:
        strength: factor of the next four (default 1).
        brightness, contrast, saturation: factors from 1 - s to 1 + s (default 0.4).
        hue: turned by up to this share of a circle, either way (default 0.1).
        ratio: share of samples that are changed (default 0.8).

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, appendix A (its s = 0.5).
    """
    args = arguments(
        spec, strength=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, ratio=0.8
    )
    names = ("brightness", "contrast", "saturation", "hue")
    spread = torch.tensor([args[n] * args["strength"] for n in names], device=clip.frames.device)
    moved = (2 * draw(batch, spec, 4) - 1) * spread
    moved = moved * (draw(batch, spec, 1, use=1) < args["ratio"])
    bright, contrast, saturation = (1 + moved[:, :3]).clamp(min=0).to(clip.frames).T
    matrix = bright[:, None, None] * _recolor(saturation, moved[:, 3].to(clip.frames))
    mean = bright * _mean_luma(clip, cell)
    matrix, offset = contrast[:, None, None] * matrix, (1 - contrast) * mean
    new = torch.einsum("bdc,btcyx->btdyx", matrix, clip.frames) + offset[:, None, None, None, None]
    same = (moved == 0).all(1)[:, None, None, None, None]
    return change(clip, torch.where(same, clip.frames, new.clamp(0, 1)), cell)


def gray(clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, **_: Any) -> Clip:
    """Take the colours of samples away.

    Args of the spec: ratio (share of samples whose are, default 0.2).
    """
    ratio = arguments(spec, ratio=0.2)["ratio"]
    chosen = (draw(batch, spec, 1) < ratio)[:, :, None, None, None]
    luma = torch.einsum("c,btcyx->btyx", clip.frames.new_tensor(_LUMA), clip.frames)
    return change(clip, torch.where(chosen, luma[:, :, None], clip.frames), cell)


def solarize(clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, **_: Any) -> Clip:
    """Invert the pixels above a threshold.

    Args of the spec: ratio (share of samples, default 0.2), threshold (default 0.5).

    Reference: Grill et al. 2020 (BYOL), arXiv 2006.07733, appendix B.
    """
    args = arguments(spec, ratio=0.2, threshold=0.5)
    chosen = (draw(batch, spec, 1) < args["ratio"])[:, :, None, None, None]
    above = chosen & (clip.frames >= args["threshold"])
    return change(clip, torch.where(above, 1 - clip.frames, clip.frames), cell)


def channel_cutoff(
    clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, mean: Tensor, **_: Any
) -> Clip:
    """Replace `int(ratio * 3)` random channels by the data's mean.

    Args of the spec: ratio (default 0.34, one channel).
    """
    ratio = arguments(spec, ratio=0.34)["ratio"]
    scores = draw(batch, spec, 3)
    count = torch.full((len(scores),), int(3 * ratio), device=scores.device)
    cut = smallest(scores, torch.ones_like(scores, dtype=torch.bool), count)
    blank = mean.to(clip.frames)[:, None, None]
    return change(clip, torch.where(cut[:, None, :, None, None], blank, clip.frames), cell)


def lab(clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, **_: Any) -> Clip:
    """Show lightness or colour alone: two views of a sample that share no channel.

    Args of the spec: part, `l` (lightness, as a grey picture) or `ab` (the two colour axes as red
        and green, blue at one half; default `l`).

    Raises:
        ValueError: another part.

    Reference: Tian et al. 2019 (CMC), arXiv 1906.05849, section 4.1.
    """
    part = arguments(spec, part="l")["part"]
    if part not in ("l", "ab"):
        raise ValueError(f"part of view 'lab' is l or ab, but {part!r} came.")
    light, colors = to_lab(clip.frames)
    if part == "l":
        return change(clip, light.expand_as(clip.frames), cell)
    shown = torch.cat([(colors + 1) / 2, torch.full_like(light, 0.5)], 2)
    return change(clip, shown, cell)


def colors(
    clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, grid: Sequence[int], **_: Any
) -> Clip:
    """Show the lightness and ask for the colours: the mean a and b of each cell.

    The target is `(batch, tokens, 2)` in units of 110, so that it lies within -1 and 1.

    Args of the spec: hide (share of samples whose colours are hidden, default 1; the others are
        shown as they are, so that the encoder learns to use colours as well).

    Reference: Vondrick et al. 2018, arXiv 1806.09594, section 3; Zhang et al. 2016, 1603.08511;
    colours that are hidden at times: Lai & Xie 2019 (CorrFlow), arXiv 1905.00875, section 3.2.
    """
    hide = arguments(spec, hide=1.0)["hide"]
    light, ab = to_lab(clip.frames)
    cells = "b (t kt) c (y ky) (x kx) -> b (t y x) c"
    target = reduce(ab, cells, "mean", kt=cell.frames, ky=cell.rows, kx=cell.columns)
    real = real_cells(clip.mask, cell, grid).flatten(1)[:, :, None]
    hidden = (draw(batch, spec, 1) < hide)[:, :, None, None, None]
    clip = change(clip, torch.where(hidden, light, clip.frames), cell)
    return replace(clip, target=target, is_target=real.expand_as(target))


def to_lab(
    frames: Float[Tensor, "batch times 3 rows columns"],
) -> tuple[
    Float[Tensor, "batch times 1 rows columns"], Float[Tensor, "batch times 2 rows columns"]
]:
    """Lightness from 0 to 1, and a and b in units of 110."""
    from kornia.color import rgb_to_lab

    converted = rgb_to_lab(rearrange(frames, "b t c y x -> (b t) c y x"))
    converted = converted.unflatten(0, frames.shape[:2])
    return converted[:, :, :1] / 100, converted[:, :, 1:] / _REACH


def _recolor(saturation: Tensor, hue: Tensor) -> Float[Tensor, "batch 3 3"]:
    """Matrices on RGB that scale the distance from grey and turn the hue; grey stays."""
    yiq, back = torch.tensor((_YIQ, _OF_YIQ), dtype=torch.float64, device=hue.device).to(hue)
    angle = 2 * math.pi * hue
    cos, sin, zero = saturation * angle.cos(), saturation * angle.sin(), torch.zeros_like(hue)
    turn = torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], 1)
    return back @ turn.unflatten(1, (3, 3)) @ yiq


def _mean_luma(clip: Clip, cell: Cell) -> Float[Tensor, "batch"]:
    """Of the pixels that exist and are shown."""
    luma = torch.einsum("c,btcyx->btyx", clip.frames.new_tensor(_LUMA), clip.frames)[:, :, None]
    seen = clip.mask[:, :, None, None, None]
    if clip.is_hidden is not None:
        seen = seen & ~pixels(clip.is_hidden, cell)
    seen = seen.expand_as(luma).to(luma.dtype)
    return (luma * seen).sum((1, 2, 3, 4)) / seen.sum((1, 2, 3, 4)).clamp(min=1)


__all__ = ["channel_cutoff", "colors", "gray", "jitter", "lab", "solarize", "to_lab"]
