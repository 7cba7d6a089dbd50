"""Features of pictures that are made by rule, as targets: histograms of oriented gradients."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.draws import arguments
from unlabel.modalities.visual_fit import real_cells

_BINS, _SCALES = 9, (1.0,)


def gradient_sums(
    pictures: Float[Tensor, "batch channels rows columns"], cell: tuple[int, int], *, bins: int = 9
) -> Float[Tensor, "batch channels bins cells_y cells_x"]:
    """Mean length of the gradient by its direction, for each cell and channel alone.

    Gradients are differences of the two neighbours, 0 along the border; a direction and its
    opposite are one.

    Args:
        pictures: of any range.
        cell: rows and columns of a cell; whole cells fill the picture.
        bins: that half a turn is divided into.

    Raises:
        ValueError: the pictures are no whole cells.
    """
    rows, columns = pictures.shape[2:]
    if rows % cell[0] or columns % cell[1]:
        raise ValueError(
            f"Pictures of {rows} x {columns} pixels are no whole cells of {cell[0]} x {cell[1]}."
        )
    down = F.pad(pictures[:, :, 2:] - pictures[:, :, :-2], (0, 0, 1, 1))
    across = F.pad(pictures[..., 2:] - pictures[..., :-2], (1, 1))
    # -0.0 would turn the direction by half a turn and a hair, into the last bin.
    turn = torch.atan2(down + 0.0, across).remainder(math.pi) * (bins / math.pi)
    which = turn.floor().clamp(max=bins - 1)
    size = (down.square() + across.square()).sqrt()
    # One bin at a time: a picture for each would need nine times the memory.
    return torch.stack([F.avg_pool2d(size * (which == k), cell) for k in range(bins)], 2)


def hog(
    pictures: Float[Tensor, "batch channels rows columns"], cell: tuple[int, int], *, bins: int = 9
) -> Float[Tensor, "batch cells_y cells_x values"]:
    """Histograms of oriented gradients: `h / sqrt(|h|^2 + 1e-10)` for each cell and channel.

    A flat picture gives 0. The values of a cell are counted by channel, then by bin. The block
    that is normalised together is one cell, as MaskFeat and LocalMIM have it. It is the same as
    scikit-image's `hog(..., cells_per_block=(1, 1), block_norm="L2")` of each channel.

    Args:
        pictures: of any range.
        cell: rows and columns of a cell.
        bins: that half a turn is divided into.

    Raises:
        ValueError: the pictures are no whole cells.

    Reference: Dalal & Triggs 2005, section 6; as a target: Wei et al. 2022 (MaskFeat), arXiv
    2112.09133, section 3.2.
    """
    sums = _unit(gradient_sums(pictures, cell, bins=bins))
    return rearrange(sums, "b c n y x -> b y x (c n)")


def hog_target(
    clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, grid: Sequence[int], **_: Any
) -> Clip:
    """Ask for histograms of oriented gradients instead of pixels, where cells are asked for.

    Where none are, for those of all cells. Several frames of one token have one histogram. Goes
    right behind `mask_values`: a link before `hog` that changes pixels changes what it measures.

    Args of the spec:
        scales: side of a histogram's cell over that of a token, each a power of two (default 1).
            Below 1, a token is asked for all of its smaller cells; above 1, for the cell that it
            lies in, counted from the corner of the picture.

    Raises:
        ValueError: no power of two, or smaller than a pixel.

    Reference: Wang et al. 2023 (LocalMIM), section 3.3; MaskFeat, arXiv 2112.09133, section 3.2.
    """
    scales = _scales(spec, cell)
    finest = min(1.0, *scales)
    small = (int(cell.rows * finest), int(cell.columns * finest))
    sums = gradient_sums(rearrange(clip.frames, "b t c y x -> (b t) c y x"), small, bins=_BINS)
    # Frames that pad a sample repeat its last.
    sums = rearrange(sums, "(b t kt) c n y x -> b t kt c n y x", b=len(clip.frames), kt=cell.frames)
    made = [_of_tokens(sums.mean(2), scale, finest, grid) for scale in scales]
    target = torch.cat(made, -1)
    real = real_cells(clip.mask, cell, grid)
    asked = real if clip.is_asked is None else clip.is_asked & real
    is_target = asked.flatten(1)[:, :, None].expand_as(target)
    return replace(clip, target=target.masked_fill(~is_target, 0), is_target=is_target)


def hog_values(spec: ViewSpec, cell: Cell, channels: int) -> int:
    """Numbers that `hog_target` asks of a token."""
    return sum(channels * _BINS * round(max(1.0, 1 / s)) ** 2 for s in _scales(spec, cell))


def _scales(spec: ViewSpec, cell: Cell) -> tuple[float, ...]:
    scales = tuple(float(s) for s in arguments(spec, scales=_SCALES)["scales"])
    for scale in scales or (0.0,):
        least = 1 / math.gcd(cell.rows, cell.columns)
        if scale < least or not math.log2(scale).is_integer() or cell.rows * scale % 1:
            raise ValueError(
                f"scales of view 'hog' are powers of two of the token's side ({cell.rows} x "
                f"{cell.columns} pixels), of at least a pixel, but {list(scales)} came; give (1,), "
                "or some such as (0.5, 1, 2)."
            )
    return scales


def _of_tokens(
    sums: Float[Tensor, "batch times channels bins small_y small_x"],
    scale: float,
    finest: float,
    grid: Sequence[int],
) -> Float[Tensor, "batch length values"]:
    """One scale's histograms of each token, from those of the smallest cells."""
    _, rows, columns = grid
    flat = sums.flatten(0, 3)[:, None]
    # At the border a large cell may be cut off; the mean is over what there is of it.
    pooled = F.avg_pool2d(flat, round(scale / finest), ceil_mode=True)
    shape = sums.shape[:4]
    pooled = _unit(pooled[:, 0].unflatten(0, shape))
    if scale <= 1:
        each = "b t c n (y ky) (x kx) -> b (t y x) (ky kx c n)"
        return rearrange(pooled, each, y=rows, x=columns)
    wide = repeat(pooled, "b t c n y x -> b t (y ky) (x kx) (c n)", ky=int(scale), kx=int(scale))
    return wide[:, :, :rows, :columns].flatten(1, 3)


def _unit(sums: Float[Tensor, "batch *more bins rows columns"]) -> Tensor:
    return sums / (sums.square().sum(-3, keepdim=True) + 1e-10).sqrt()


__all__ = ["gradient_sums", "hog", "hog_target", "hog_values"]
