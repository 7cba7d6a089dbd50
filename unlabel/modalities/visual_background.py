"""A view that changes what lies behind: backgrounds removed, made up, or taken from others."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.visual_fit import as_float, change

_BINS = 64
_COLORS = 4  # rows and columns of colours that a made-up background is drawn from
WAYS = ("remove", "random", "swap")


def background(
    clip: Clip,
    batch: Batch,
    spec: ViewSpec,
    *,
    cell: Cell,
    dtype: torch.dtype,
    **_: Any,
) -> Clip:
    """Put something else behind what is in front; all frames of a clip alike.

    What is in front is told from the pixels, see `foreground`; a sample where nothing is, such as a
    clip in which nothing moves, stays as it is. With `swap` a sample gets the background of
    another one of the batch, so that its view depends on who else is there (on this rank, in this
    micro-batch); where that one has its own foreground, its background is guessed.

    Args of the spec:
        way: `remove` leaves one random grey, `random` random colours that run into each other,
            `swap` the background of another sample (default `swap`).
        ratio: share of samples that are changed (default 0.5).
        unlike: how far from its background, as a share of black to white, something of a sample
            must lie for anything to be in front (default 0.1).

    Raises:
        ValueError: another way.

    Reference: Ryali et al. 2021, arXiv 2103.12719, section 3.
    """
    args = arguments(spec, way="swap", ratio=0.5, unlike=0.1)
    way = args["way"]
    if way not in WAYS:
        raise ValueError(f"way of view 'background' is one of {', '.join(WAYS)}, but {way!r} came.")
    clip = as_float(clip, dtype)
    frames = clip.frames
    front, behind = foreground(frames, clip.mask, unlike=args["unlike"])
    if way == "remove":
        new = draw(batch, spec, 1, use=1).to(frames)[:, :, None, None, None]
    elif way == "random":
        drawn = draw(batch, spec, 3 * _COLORS**2, use=1).to(frames)
        drawn = rearrange(drawn, "b (c y x) -> b c y x", c=3, y=_COLORS)
        new = F.interpolate(drawn, size=frames.shape[3:], mode="bilinear")[:, None]
    else:
        # The next one in an order of its own, whatever the order of the batch: never itself.
        order = draw(batch, spec, 1, use=1)[:, 0].argsort()
        other = torch.empty_like(order).scatter_(0, order, order.roll(-1))
        guessed = front | ~clip.mask[:, :, None, None, None]
        new = torch.where(guessed, behind, frames)[other]
    stays = front | (draw(batch, spec, 1) >= args["ratio"])[:, :, None, None, None]
    return change(clip, torch.where(stays, frames, new), cell)


def foreground(
    frames: Float[Tensor, "batch times 3 rows columns"],
    mask: Bool[Tensor, "batch times"],
    *,
    unlike: float = 0.1,
) -> tuple[Bool[Tensor, "batch times 1 rows columns"], Float[Tensor, "batch 1 3 _ _"]]:
    """What is in front, and what is thought to lie behind it.

    The background of a clip is each pixel's median over time; that of a single frame is the mean
    colour of its border. In front are the pixels farther from it than Otsu's threshold of the
    sample, distances being averaged over a 16th of the picture. Where nothing is as far as
    `unlike`, all is in front.

    Args:
        frames: from 0 to 1.
        mask: True at frames that exist.
        unlike: see above.

    Reference: Otsu 1979, A threshold selection method from gray-level histograms.
    """
    real = mask[:, :, None, None, None]
    if frames.shape[1] == 1:
        behind = _border(frames)
    else:
        behind = frames.masked_fill(~real, torch.nan).nanmedian(1, keepdim=True).values
        behind = behind.nan_to_num()  # of a clip without a frame
    apart = (frames - behind).square().mean(2).sqrt()
    side = max(1, min(frames.shape[3:]) // 16) // 2 * 2 + 1
    apart = F.avg_pool2d(apart, side, 1, side // 2, count_include_pad=False)[:, :, None]
    seen = real.expand_as(apart).flatten(1).to(apart.dtype)
    threshold, largest = _otsu(apart.flatten(1), seen)
    wide = (-1, *(1,) * 4)
    return (apart > threshold.view(wide)) | (largest < unlike).view(wide), behind


def _border(frames: Tensor) -> Tensor:
    """Mean colour of the pixels at the edge, a 16th of the picture wide."""
    rows, columns = frames.shape[3:]
    edge = max(1, min(rows, columns) // 16)
    inner = frames[..., edge : rows - edge, edge : columns - edge]
    total = frames.sum((3, 4), keepdim=True) - inner.sum((3, 4), keepdim=True)
    return total / (rows * columns - inner.shape[3] * inner.shape[4])


def _otsu(
    values: Float[Tensor, "batch values"], weight: Float[Tensor, "batch values"]
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """The threshold that leaves the most variance between its two sides, and the largest value."""
    largest = (values * weight).amax(1)
    top = largest.clamp(min=1e-6)[:, None]
    place = (values / top * _BINS).long().clamp(max=_BINS - 1)
    count = values.new_zeros(len(values), _BINS, dtype=torch.float32)
    count.scatter_add_(1, place, weight.float())
    share = count / count.sum(1, keepdim=True).clamp(min=1)
    below = share.cumsum(1)
    mass = (share * torch.arange(_BINS, device=values.device)).cumsum(1)
    between = (mass[:, -1:] * below - mass).square() / (below * (1 - below)).clamp(min=1e-6)
    return (between.argmax(1) + 1) / _BINS * top[:, 0], largest


__all__ = ["background", "foreground"]
