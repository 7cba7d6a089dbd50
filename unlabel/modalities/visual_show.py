"""What a view of frames looks like to the encoder, as small pictures for the report."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabel.core import View
from unlabel.modalities.clip import Cell
from unlabel.modalities.pictures import png
from unlabel.modalities.visual_colors import to_lab

# Frames of a clip that a strip shows at most.
_FRAMES = 8


def show(
    view: View, rows: int, *, mean: Tensor, std: Tensor, cell: Cell, grid: tuple[int, int, int]
) -> dict[str, Any]:
    """The first rows of a view as strips of frames.

    Returns:
        `clips`: for each row `seen` and `asked` (the same with what is to be predicted filled in),
        each a PNG in base64 (`asked` empty where no pixels are), and `target`, the class asked for
        or None.
    """
    scale = lambda x: x * std[:, None, None] + mean[:, None, None]  # noqa: E731
    return {"clips": [_row(view, row, scale, cell, grid) for row in range(rows)]}


def _row(view: View, row: int, scale: Any, cell: Cell, grid: Any) -> dict[str, Any]:
    if "patches" in view.inputs:
        where = view.inputs.get("grid")
        grid = grid if where is None else tuple(where.shape[2:])
        frames = _frames_of(view, row, cell, grid)
    else:
        frames = view.inputs["frames"][row]
    target, is_target = view.target, view.is_target
    shown: dict[str, Any] = {"seen": strip(scale(frames)), "asked": "", "target": None}
    if target is None or is_target is None:
        return shown
    if not target.is_floating_point():
        # A montage has several, which are no classes.
        shown["target"] = int(target[row]) if target[row].numel() == 1 else None
    elif target.dim() == 5:  # pictures from 0 to 1, of every frame
        shown["asked"] = strip(torch.where(is_target[row], target[row], 0))
    elif target.shape[2] == cell.frames * cell.rows * cell.columns * frames.shape[1]:
        grid = tuple(n // k for n, k in zip(_sizes(frames, target, row, cell), cell, strict=True))
        whole = torch.where(is_target[row], target[row], _values(frames, cell, grid))
        shown["asked"] = strip(scale(pictures(whole, cell, grid)))
    elif target.shape[2] == 2:
        shown["asked"] = strip(recolored(scale(frames), target[row], cell))
    return shown


def recolored(frames: Tensor, ab: Tensor, cell: Cell) -> Tensor:
    """Grey frames from 0 to 1 with the colour of each cell, a and b from -1 to 1."""
    from kornia.color import lab_to_rgb

    rows, columns = frames.shape[2] // cell.rows, frames.shape[3] // cell.columns
    wide = rearrange(ab, "(t y x) c -> t c y x", y=rows, x=columns)
    wide = F.interpolate(wide.float(), frames.shape[2:], mode="bilinear")
    wide = wide.repeat_interleave(cell.frames, dim=0)[: len(frames)]
    lightness, _ = to_lab(frames[None].clamp(0, 1))
    return lab_to_rgb(torch.cat([100 * lightness[0].float(), 110 * wide], dim=1))


def _sizes(frames: Tensor, target: Tensor, row: int, cell: Cell) -> tuple[int, int, int]:
    rows, columns = frames.shape[2:]
    places = (rows // cell.rows) * (columns // cell.columns)
    return target.shape[1] // places * cell.frames, rows, columns


def _frames_of(view: View, row: int, cell: Cell, grid: tuple[int, ...]) -> Tensor:
    """A row's patches at their places; what is left out is 0."""
    patches, real = view.inputs["patches"][row], view.mask[row]
    places = view.inputs["positions"][row]
    times = int(places.max()) // (grid[1] * grid[2]) + 1
    whole = patches.new_zeros(times * grid[1] * grid[2], patches.shape[1])
    whole[places[real]] = patches[real]
    return pictures(whole, cell, (times, *grid[1:]))


def _values(frames: Tensor, cell: Cell, grid: tuple[int, ...]) -> Tensor:
    """Pixels of frames as cells, the inverse of `pictures`; frames that are not there are 0."""
    missing = grid[0] * cell.frames - len(frames)
    whole = F.pad(frames, (0, 0, 0, 0, 0, 0, 0, missing))
    pattern = "(t kt) c (y ky) (x kx) -> (t y x) (c kt ky kx)"
    return rearrange(whole, pattern, kt=cell.frames, ky=cell.rows, kx=cell.columns)


def pictures(values: Tensor, cell: Cell, grid: tuple[int, ...]) -> Tensor:
    """Pixels of all cells as frames, `(..., times, channels, rows, columns)`."""
    pattern = "... (t y x) (c kt ky kx) -> ... (t kt) c (y ky) (x kx)"
    sizes = {"t": grid[0], "y": grid[1], "x": grid[2]}
    return rearrange(values, pattern, **sizes, kt=cell.frames, ky=cell.rows, kx=cell.columns)


def strip(frames: Tensor) -> str:
    """Frames from 0 to 1, some of them side by side, as a PNG in base64."""
    count = min(len(frames), _FRAMES)
    chosen = frames[torch.linspace(0, len(frames) - 1, count).round().long()]
    wide = rearrange(chosen, "t c y x -> y (t x) c").clamp(0, 1)
    return png((wide.float().cpu().numpy() * 255).round().astype(np.uint8))


__all__ = ["pictures", "show", "strip"]
