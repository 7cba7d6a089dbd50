"""Views that move pixels: crops, mirror images, turns and blur; all frames of a clip alike."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Clip
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.visual_fit import as_float, pick


def plain(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """The clip as it is; two draws of it differ by the encoder's dropout alone."""
    arguments(spec)
    return clip


def crop(
    clip: Clip,
    batch: Batch,
    spec: ViewSpec,
    *,
    frames: int,
    size: int,
    dtype: torch.dtype,
    **_: Any,
) -> Clip:
    """Cut out a random box, the same from all frames, and resize it; from frames in a row.

    The box has a random share of the picture's area and a random aspect, and lies anywhere inside.
    As the first link it cuts from the pictures as stored, else from what is left of them.

    Args of the spec:
        low and high: share of the area (defaults 0.3 and 1).
        aspect: widest ratio of the sides, either way (default 4/3).
        size: of the result, in pixels (default the encoder's); for crops of several sizes.
        frames: of the result (default the encoder's), from a random start where there are more.

    Raises:
        ValueError: low and high are no range of shares.

    Reference: Szegedy et al. 2014, arXiv 1409.4842, section 6; shares for clips: Feichtenhofer et
    al. 2021, arXiv 2104.14558, appendix; several sizes: Caron et al. 2020 (SwAV), 2006.09882.
    """
    args = arguments(spec, low=0.3, high=1.0, aspect=4 / 3, size=size, frames=frames)
    low, high, aspect = args["low"], args["high"], args["aspect"]
    if not 0 < low <= high <= 1 or aspect < 1:
        raise ValueError(
            f"crop needs 0 < low <= high <= 1 and aspect >= 1, but low is {low}, high is {high} "
            f"and aspect is {aspect}."
        )
    clip = random_frames(clip, batch, spec, args["frames"], dtype)
    box = boxes(draw(batch, spec, 4), clip.frames.shape[3:], low=low, high=high, aspect=aspect)
    frames_ = cut_box(clip.frames, box.to(clip.frames), args["size"])
    y, x, height, width = box.T[:, :, None]
    edges = ((1 + edge) / 2 for edge in (y - height, y + height, x - width, x + width))
    clip = clip.moved(*edges)
    return replace(clip, frames=frames_, is_sized=True)


def random_frames(clip: Clip, batch: Batch, spec: ViewSpec, count: int, dtype: torch.dtype) -> Clip:
    """The clip with pixels from 0 to 1, of `count` frames in a row where no link picked others."""
    if clip.picked is None:
        start = random_start(clip, batch, spec, count, use=1)
        clip = pick(clip, start + torch.arange(count, device=start.device))
    return as_float(clip, dtype)


def random_start(clip: Clip, batch: Batch, spec: ViewSpec, count: int, use: int) -> Tensor:
    """Where a random run of `count` frames begins, `(batch, 1)`; 0 where there are no more."""
    room = (clip.mask.sum(1, keepdim=True) - count).clamp(min=0) + 1
    return (draw(batch, spec, 1, use) * room).long()


def boxes(
    draws: Float[Tensor, "batch 4"],
    shape: tuple[int, ...],
    *,
    low: float,
    high: float,
    aspect: float,
) -> Float[Tensor, "batch 4"]:
    """Random boxes inside pictures of a shape: centre y and x, half height and half width.

    In the units of `grid_sample`, -1 to 1. A side that would not fit is as long as the picture's.
    """
    rows, columns = shape
    area = (low + (high - low) * draws[:, 0]) * rows * columns
    ratio = torch.exp((2 * draws[:, 1] - 1) * math.log(aspect))
    height = ((area / ratio).sqrt() / rows).clamp(max=1)
    width = ((area * ratio).sqrt() / columns).clamp(max=1)
    y, x = ((1 - half) * (2 * at - 1) for half, at in ((height, draws[:, 2]), (width, draws[:, 3])))
    return torch.stack([y, x, height, width], 1)


def cut_box(
    frames: Float[Tensor, "batch times channels rows columns"],
    box: Float[Tensor, "batch 4"],
    size: int,
) -> Float[Tensor, "batch times channels size size"]:
    """The pixels inside one box a clip, resized bilinearly."""
    y, x, height, width = box.T[:, :, None]
    # Centres of the new pixels from -1 to 1.
    line = (2 * torch.arange(size, device=box.device, dtype=box.dtype) + 1) / size - 1
    rows, columns = y + height * line, x + width * line
    grid = torch.stack(
        [columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], -1
    )
    flat = rearrange(frames, "b t c y x -> b (t c) y x")
    cut = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.unflatten(1, frames.shape[1:3])


def flip(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """Mirror samples from left to right.

    Args of the spec: ratio (share of samples that are, default 0.5).
    """
    ratio = arguments(spec, ratio=0.5)["ratio"]
    is_turned = draw(batch, spec, 1) < ratio
    frames = torch.where(is_turned[:, :, None, None, None], clip.frames.flip(4), clip.frames)
    left = is_turned.float()
    return replace(clip.moved(0, 1, left, 1 - left), frames=frames)


def rotate(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """Turn samples by 0, 90, 180 or 270 degrees (counterclockwise), drawn evenly.

    Args of the spec: ask (make the number of quarter turns the target, default False), turns (so
        many for every sample; None, the default, draws them).

    Raises:
        ValueError: the pictures are not square.

    Reference: Gidaris et al. 2018 (RotNet), arXiv 1803.07728, section 3.
    """
    args = arguments(spec, ask=False, turns=None)
    rows, columns = clip.frames.shape[3:]
    if rows != columns:
        raise ValueError(f"rotate takes square pictures, but they are {rows} x {columns}.")
    turns = (draw(batch, spec, 1) * 4).long()
    if args["turns"] is not None:
        turns = torch.full_like(turns, args["turns"] % 4)
    frames, corners = clip.frames, clip.corners
    for count in (1, 2, 3):
        is_it = (turns == count)[:, :, None]
        frames = torch.where(is_it[..., None, None], clip.frames.rot90(count, (3, 4)), frames)
        if corners is not None:
            corners = torch.where(is_it, _turned(clip, count), corners)
    return replace(
        clip, frames=frames, corners=corners, target=turns if args["ask"] else clip.target
    )


def _turned(clip: Clip, count: int) -> Tensor:
    """Corners after a number of quarter turns: what was at the right is on top."""
    corners = clip.corners
    assert corners is not None  # asked for by who has some
    for _ in range(count):
        origin, along, down = corners.unbind(1)
        corners = torch.stack([along, along + down - origin, origin], 1)
    return corners


def blur(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """Blur samples by a Gaussian of a random width.

    Args of the spec: ratio (share of samples that are, default 0.5), low and high (its standard
        deviation in shares of the picture's side, defaults 0.0005 and 0.01).

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, appendix A: 0.1 to 2 pixels of 224.
    """
    from kornia.filters import gaussian_blur2d

    args = arguments(spec, ratio=0.5, low=0.0005, high=0.01)
    if not args["ratio"]:
        return clip
    side = min(clip.frames.shape[3:])
    sigma = side * (args["low"] + (args["high"] - args["low"]) * draw(batch, spec, 1, use=1))
    reach = max(1, math.ceil(3 * args["high"] * side))
    flat = rearrange(clip.frames, "b t c y x -> b (t c) y x")
    sigma = sigma.clamp(min=1e-3).to(flat).expand(-1, 2)
    blurred = gaussian_blur2d(flat, (2 * reach + 1, 2 * reach + 1), sigma, border_type="replicate")
    chosen = (draw(batch, spec, 1) < args["ratio"])[:, :, None, None, None]
    new = blurred.unflatten(1, clip.frames.shape[1:3])
    return replace(clip, frames=torch.where(chosen, new, clip.frames))


__all__ = [
    "blur",
    "boxes",
    "crop",
    "cut_box",
    "flip",
    "plain",
    "random_frames",
    "random_start",
    "rotate",
]
