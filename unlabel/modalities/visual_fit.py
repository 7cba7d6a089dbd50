"""How a clip gets its frames, its size and its cells, and how it becomes a view."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from unlabel.core import View
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.visible import visible_only


def pick(clip: Clip, index: Int[Tensor, "batch picked"]) -> Clip:
    """The frames at these places; a place past a clip's last frame repeats that, as padding."""
    count = clip.mask.sum(1, keepdim=True)
    last = (count - 1).clamp(min=0)
    rows = torch.arange(len(index), device=index.device)[:, None]
    frames = clip.frames[rows, torch.minimum(index, last)]
    before = clip.picked
    picked = index if before is None else before.gather(1, index.clamp(max=before.shape[1] - 1))
    whole = count if before is None else clip.count
    return replace(clip, frames=frames, mask=index < count, picked=picked, count=whole)


def middle(mask: Bool[Tensor, "batch times"], frames: int) -> Int[Tensor, "batch frames"]:
    """The places of as many frames around the middle; the first where there are fewer."""
    start = ((mask.sum(1, keepdim=True) - frames) // 2).clamp(min=0)
    return start + torch.arange(frames, device=mask.device)


def as_float(clip: Clip, dtype: torch.dtype) -> Clip:
    """The clip with frames from 0 to 1."""
    if clip.frames.is_floating_point():
        return clip
    return replace(clip, frames=clip.frames.to(dtype) / 255)


def fit(clip: Clip, *, frames: int, size: int, cell: Cell, dtype: torch.dtype) -> Clip:
    """Bring a clip to the encoder's frames and size, where no link has chosen others.

    The middle frames are taken; pictures are resized so that the shorter side fits, and cropped
    in the middle. Frames are padded to whole cells.
    """
    if clip.picked is None:
        clip = pick(clip, middle(clip.mask, frames))
    if extra := -clip.mask.shape[1] % cell.frames:
        places = torch.arange(clip.mask.shape[1] + extra, device=clip.mask.device)
        picked = clip.picked
        clip = pick(clip, places.expand(len(clip.mask), -1))
        clip = replace(clip, picked=picked)
    clip = as_float(clip, dtype)
    if clip.is_sized:
        return clip
    rows, columns = (size / side / 2 for side in _scaled(clip.frames, size))
    clip = clip.moved(0.5 - rows, 0.5 + rows, 0.5 - columns, 0.5 + columns)
    return replace(clip, frames=resize(clip.frames, size), is_sized=True)


def _scaled(frames: Tensor, size: int) -> tuple[int, int]:
    """Rows and columns once the shorter side is `size`, rounded down as image processors do."""
    rows, columns = frames.shape[3:]
    short = min(rows, columns)
    return rows * size // short, columns * size // short


def resize(frames: Shaped[Tensor, "batch times channels rows columns"], size: int) -> Tensor:
    """Frames whose shorter side is `size`, cropped to a square in the middle."""
    rows, columns = frames.shape[3:]
    if (rows, columns) == (size, size):
        return frames
    shape = _scaled(frames, size)
    if shape != (rows, columns):
        flat = rearrange(frames, "b t c y x -> b (t c) y x")
        flat = F.interpolate(flat, size=shape, mode="bilinear", antialias=True)
        frames = flat.unflatten(1, frames.shape[1:3])
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return frames[..., top : top + size, left : left + size]


def grid_of(clip: Clip, cell: Cell) -> tuple[int, int, int]:
    """Cells of a clip that has its size.

    Raises:
        ValueError: the pictures are no whole cells.
    """
    times, (rows, columns) = clip.frames.shape[1], clip.frames.shape[3:]
    if rows % cell.rows or columns % cell.columns:
        raise ValueError(
            f"Pictures of {rows} x {columns} pixels are no whole cells of {cell.rows} x "
            f"{cell.columns}; choose a size that is a multiple."
        )
    return times // cell.frames, rows // cell.rows, columns // cell.columns


def real_cells(
    mask: Bool[Tensor, "batch times"], cell: Cell, grid: Sequence[int]
) -> Bool[Tensor, "batch cells_t cells_y cells_x"]:
    """True at cells with a frame that exists."""
    times = rearrange(mask, "b (t k) -> b t k", k=cell.frames).any(2)
    return times[:, :, None, None].expand(-1, *grid)


def cells(
    frames: Shaped[Tensor, "batch times channels rows columns"], cell: Cell
) -> Shaped[Tensor, "batch length values"]:
    """Pixels by cell, each flattened as the weight of a convolution is: channels first."""
    pattern = "b (t kt) c (y ky) (x kx) -> b (t y x) (c kt ky kx)"
    return rearrange(frames, pattern, kt=cell.frames, ky=cell.rows, kx=cell.columns)


def pixels(
    of_cells: Shaped[Tensor, "batch cells_t cells_y cells_x"], cell: Cell
) -> Shaped[Tensor, "batch times 1 rows columns"]:
    """What holds for a cell, for each of its pixels."""
    for dim, size in enumerate(cell, start=1):
        of_cells = of_cells.repeat_interleave(size, dim)
    return of_cells[:, :, None]


def places_of(
    clip: Clip, cell: Cell, own: Sequence[int], has_time: bool
) -> Float[Tensor, "batch length axes 2"] | None:
    """Middle and extent of each cell in the sample, see `View.places`.

    Args:
        clip: that has its size.
        cell: what a token stands for.
        own: cells of the clip.
        has_time: time is an axis.
    """
    if clip.corners is None or clip.count is None or clip.picked is None:
        return None
    times, rows, columns = own
    origin, along, down = clip.corners.unbind(1)
    along, down = along - origin, down - origin
    y, x = ((torch.arange(n, device=origin.device) + 0.5) / n for n in (rows, columns))
    middle = (
        origin[:, None, None]
        + y[None, :, None, None] * down[:, None, None]
        + x[None, None, :, None] * along[:, None, None]
    )
    extent = (along.abs() / columns + down.abs() / rows)[:, None, None].expand_as(middle)
    space = repeat(torch.stack([middle, extent], -1), "b y x a n -> b t y x a n", t=times)
    if not has_time:
        return space.flatten(1, 3)
    # Padding may have been added behind what was picked; it lies outside the mask.
    at = torch.arange(clip.mask.shape[1], device=origin.device).clamp(max=clip.picked.shape[1] - 1)
    frames = rearrange(clip.picked[:, at], "b (t k) -> b t k", k=cell.frames)
    first, last = frames.amin(2), frames.amax(2)
    count = clip.count.clamp(min=1)
    time = torch.stack([(first + last + 1) / 2 / count, (last - first + 1) / count], -1)
    time = repeat(time, "b t n -> b t y x 1 n", y=rows, x=columns)
    return torch.cat([time.to(space), space], 4).flatten(1, 3)


def change(clip: Clip, frames: Tensor, cell: Cell) -> Clip:
    """New pixels where the encoder sees them; what is hidden stays as it was."""
    if clip.is_hidden is not None:
        frames = torch.where(pixels(clip.is_hidden, cell), clip.frames, frames)
    return replace(clip, frames=frames)


def finish(
    clip: Clip,
    *,
    mean: Tensor,
    std: Tensor,
    cell: Cell,
    grid: tuple[int, int, int],
    in_patches: bool,
) -> View:
    """Normalise a clip that has its size and cut it into what the encoder takes.

    Args:
        clip: made by the links of a view.
        mean: of the pixels, by channel; `(3,)`.
        std: likewise.
        cell: what a token stands for.
        grid: cells of a whole view of the encoder.
        in_patches: give patches with positions, else frames with hidden cells blanked.
    """
    own = grid_of(clip, cell)
    real = real_cells(clip.mask, cell, own)
    scale = lambda x: (x - mean[:, None, None]) / std[:, None, None]  # noqa: E731
    scaled = scale(clip.frames)
    values = cells(scaled, cell)
    is_target, target = _target(clip, values, real)
    if clip.clean is not None and clip.target is None:
        asked, mask = clip.clean
        is_real = real_cells(mask, cell, grid_of(replace(clip, frames=asked), cell))
        target = cells(scale(asked), cell)
        is_target = is_real.flatten(1)[:, :, None].expand_as(target)
    places = places_of(clip, cell, own, grid[0] > 1)
    flat = lambda x: None if x is None else x.flatten(1)  # noqa: E731
    if not in_patches:
        blank = ~real if clip.is_hidden is None else ~real | clip.is_hidden
        if clip.keep_positions is not None:
            # A convolution has no vectors of tokens before it mixes them.
            blank = blank | ~clip.keep_positions
        frames = scaled.masked_fill(pixels(blank, cell), 0)
        return View({"frames": frames}, clip.mask, is_target, target, places=places)
    seen = real if clip.is_hidden is None else real & ~clip.is_hidden
    order = torch.arange(values.shape[1], device=values.device)
    view = View(
        inputs={
            "patches": values,
            "positions": order.expand(len(values), -1),
        },
        mask=real.flatten(1),
        is_target=is_target,
        target=target,
        keep_positions=flat(clip.keep_positions),
        keep_features=clip.keep_features,
        places=places,
    )
    if own[1:] != grid[1:] or own[0] > grid[0]:
        # No numbers: its shape says on which grid the positions lie, and keeps views of
        # different grids apart when they are encoded.
        view.inputs["grid"] = values.new_zeros(len(values), 0, *own)
    is_seen = seen.flatten(1)
    if clip.keeps is not None:
        view = visible_only(view, is_seen, clip.keeps, pad="right", apart="grid")
        is_seen = view.mask
    view.inputs["patches"] = view.inputs["patches"].masked_fill(~is_seen[:, :, None], 0)
    return view


def _target(clip: Clip, values: Tensor, real: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if clip.target is not None:
        if clip.is_target is not None:
            return clip.is_target, clip.target
        return torch.ones_like(clip.target, dtype=torch.bool), clip.target
    if clip.is_asked is None:
        return None, None
    is_target = (clip.is_asked & real).flatten(1)[:, :, None]
    return is_target.expand_as(values), values.masked_fill(~is_target, 0)


__all__ = [
    "as_float",
    "cells",
    "change",
    "finish",
    "fit",
    "grid_of",
    "middle",
    "pick",
    "pixels",
    "places_of",
    "real_cells",
    "resize",
]
