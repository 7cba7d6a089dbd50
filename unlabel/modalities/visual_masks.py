"""Views that show the encoder fewer cells of a clip: masks, and cutoffs after the embedding."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.series_masks import smallest
from unlabel.modalities.visible import narrowed
from unlabel.modalities.visual_fit import real_cells

UNITS = ("patch", "tube", "frame", "block", "square", "centre")
# Rectangles drawn for a block mask; what they leave uncovered is hidden row by row.
_BLOCKS = 64


def mask_values(
    clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, grid: Sequence[int], **_: Any
) -> Clip:
    """Hide cells and ask for their pixels.

    Links that move pixels from cell to cell (`crop`, `flip`, `blur`, ...) go before it.

    Args of the spec:
        unit: `patch` hides cells of their own each; `tube` the same places at all times; `frame`
            all places of some times; `block` the union of random rectangles, at all times;
            `square` squares of a grid of their own, at all times; `centre` the middle of the
            picture, at all times. All hide an exact share of what exists, at least one.
        ratio: the share (default 0.4).
        drop: leave the hidden cells out of the view, so that the encoder sees the visible ones
            only (MAE).
        area: share of the picture that one rectangle of a block mask covers (default 0.15).
        side: of a square, in pixels (default 32).
        mean_length: for series; not read.

    Raises:
        ValueError: another unit, squares that do not fit, or everything would be hidden.

    Reference: Tong et al. 2022 (VideoMAE), arXiv 2203.12602, section 3.3 (tubes); Feichtenhofer
    et al. 2022, arXiv 2205.09113, section 3 (patches); Bardes et al. 2024 (V-JEPA), arXiv
    2404.08471, section 3.2, and Bao et al. 2021 (BEiT), 2106.08254, algorithm 1 (blocks); Xie
    et al. 2022 (SimMIM), 2111.09886, section 3.2 (squares); Pathak et al. 2016, 1604.07379,
    section 3.3 (centre).
    """
    args = arguments(spec, unit="patch", ratio=0.4, drop=False, area=0.15, side=32, mean_length=3)
    unit, ratio = args["unit"], args["ratio"]
    if unit not in UNITS:
        raise ValueError(f"Masks have no unit {unit!r}; choose one of {', '.join(UNITS)}.")
    real = real_cells(clip.mask, cell, grid)
    side = _side(args["side"], cell, grid) if unit == "square" else 1
    hidden = _hidden(batch, spec, unit, ratio, args["area"], side, real) & real
    times, rows, columns = grid
    units = {"patch": times * rows * columns, "frame": times}.get(unit, rows * columns // side**2)
    if units - _share(units, ratio) < 1:
        raise ValueError(
            f"View {spec.name!r} would hide all {units} units ({unit}); lower the ratio, or choose "
            "another unit."
        )
    keeps = (units - _share(units, ratio)) * (times * rows * columns // units)
    return replace(
        clip,
        is_hidden=hidden if clip.is_hidden is None else clip.is_hidden | hidden,
        is_asked=hidden if clip.is_asked is None else clip.is_asked | hidden,
        # As many as a whole clip leaves visible; a shorter sample leaves fewer.
        keeps=keeps if args["drop"] else clip.keeps,
    )


def token_cutoff(
    clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, grid: Sequence[int], **_: Any
) -> Clip:
    """Zero the vectors of `int(ratio * tokens)` random cells after the embedding.

    A convolution has no such vectors: it sees blank pixels there.

    Args of the spec: ratio (default 0.1).

    Reference: Shen et al. 2020, arXiv 2009.13818.
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    can = real_cells(clip.mask, cell, grid).flatten(1)
    cut = smallest(draw(batch, spec, can.shape[1]), can, (can.sum(1) * ratio).long())
    return _zero(clip, cut.unflatten(1, tuple(grid)))


def span_cutoff(
    clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, grid: Sequence[int], **_: Any
) -> Clip:
    """Zero the vectors of one run of `int(ratio * times)` times.

    Args of the spec: ratio (default 0.1).
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    real = real_cells(clip.mask, cell, grid)
    count = real[:, :, 0, 0].sum(1)
    long = (count * ratio).long()
    start = (draw(batch, spec, 1)[:, 0] * (count - long + 1)).long()
    times = torch.arange(grid[0], device=real.device)
    cut = (times >= start[:, None]) & (times < (start + long)[:, None])
    return _zero(clip, cut[:, :, None, None] & real)


def feature_cutoff(clip: Clip, batch: Batch, spec: ViewSpec, *, width: int, **_: Any) -> Clip:
    """Zero `int(ratio * width)` embedding columns in every token of a sample.

    Args of the spec: ratio (default 0.1).
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    scores = draw(batch, spec, width)
    count = torch.full((len(scores),), int(width * ratio), device=scores.device)
    keep = ~smallest(scores, torch.ones_like(scores, dtype=torch.bool), count)
    return replace(clip, keep_features=narrowed(clip.keep_features, keep))


def _hidden(
    batch: Batch, spec: ViewSpec, unit: str, ratio: float, area: float, side: int, real: Tensor
) -> Bool[Tensor, "batch cells_t cells_y cells_x"]:
    """Which cells to hide, padding or not."""
    times, rows, columns = real.shape[1:]
    if unit in ("tube", "block", "square", "centre"):
        places = rows * columns // side**2
        if unit == "block":
            scores = block_order(draw(batch, spec, 4 * _BLOCKS), rows, columns, area).flatten(1)
        elif unit == "centre":
            scores = from_centre(rows, columns, real.device).flatten().expand(len(real), -1)
        else:
            scores = draw(batch, spec, places)
        can = torch.ones_like(scores, dtype=torch.bool)
        chosen = smallest(scores, can, scores.new_full((len(real),), _share(places, ratio)))
        wide = "b (y x) -> b 1 (y ky) (x kx)"
        return repeat(chosen, wide, y=rows // side, ky=side, kx=side).expand_as(real)
    can = real.flatten(1) if unit == "patch" else real[:, :, 0, 0]
    count, whole = can.sum(1), can.shape[1]
    part = (count * ratio).long().clamp(min=1 if ratio else 0)
    # A tensor's product may round otherwise than `_share`, and views are cut to equal counts.
    part = torch.where(count == whole, _share(whole, ratio), part)
    chosen = smallest(draw(batch, spec, whole), can, part)
    if unit == "patch":
        return chosen.unflatten(1, (times, rows, columns))
    return chosen[:, :, None, None].expand_as(real)


def block_order(
    draws: Float[Tensor, "batch four_blocks"], rows: int, columns: int, area: float
) -> Float[Tensor, "batch rows columns"]:
    """When each cell is covered as random rectangles fall one after another, row by row in each.

    Args:
        draws: uniform, four a rectangle.
        rows: of the picture, in cells.
        columns: likewise.
        area: share of the picture that a rectangle covers; its sides are as 0.75 to 1.5.
    """
    aspect, top, left, _ = rearrange(draws, "b (k n) -> n b k", n=4)
    aspect = 0.75 * 2**aspect
    side = (area * rows * columns) ** 0.5
    height = (side * aspect.sqrt()).round().clamp(1, rows)
    width = (side / aspect.sqrt()).round().clamp(1, columns)
    top, left = (top * (rows - height + 1)).floor(), (left * (columns - width + 1)).floor()
    inside = lambda n, start, long: (  # noqa: E731
        (n >= start[..., None]) & (n < (start + long)[..., None])
    )
    y, x = (torch.arange(n, device=draws.device) for n in (rows, columns))
    covers = inside(y, top, height)[..., :, None] & inside(x, left, width)[..., None, :]
    number = torch.arange(covers.shape[1], device=draws.device)[:, None, None]
    first = torch.where(covers, number, covers.shape[1]).amin(1)
    place = torch.arange(rows * columns, device=draws.device).view(rows, columns)
    return first * (rows * columns) + place.to(draws.dtype)


def from_centre(
    rows: int, columns: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "rows columns"]:
    """How far each cell lies from the middle of the picture, as shares of its half sides."""
    away = lambda n: ((torch.arange(n, device=device) + 0.5) * (2 / n) - 1).abs()  # noqa: E731
    return torch.maximum(away(rows)[:, None], away(columns)[None, :])


def _side(pixels: int, cell: Cell, grid: Sequence[int]) -> int:
    """Cells along a square's side."""
    side = pixels // cell.rows
    if (
        side < 1
        or (side * cell.rows, side * cell.columns) != (pixels, pixels)
        or any(n % side for n in grid[1:])
    ):
        raise ValueError(
            f"Squares of {pixels} pixels do not divide a picture of {grid[1]} x {grid[2]} cells of "
            f"{cell.rows} x {cell.columns} pixels; give mask_values another side."
        )
    return side


def _share(count: int, ratio: float) -> int:
    return max(1, int(count * ratio)) if ratio else 0


def _zero(clip: Clip, cut: Tensor) -> Clip:
    return replace(clip, keep_positions=narrowed(clip.keep_positions, ~cut))


__all__ = [
    "UNITS",
    "block_order",
    "feature_cutoff",
    "from_centre",
    "mask_values",
    "span_cutoff",
    "token_cutoff",
]
