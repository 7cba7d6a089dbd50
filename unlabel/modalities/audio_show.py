"""What a view of sound looks like to the encoder, as small pictures for the report."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unlabel.core import View
from unlabel.modalities.pictures import png

_ROWS = 48  # of the picture of a waveform
_LOUD = 2.5  # normalised values from there on are white, or full height


def show(view: View, rows: int, *, grid: Sequence[int], cell: Sequence[int]) -> dict[str, Any]:
    """The first rows of a view, as spectrograms (time to the right, pitch upwards) or envelopes.

    Args:
        view: of an encoder of sound.
        rows: how many.
        grid: tokens over time and over bands.
        cell: frames and bands of a token.

    Returns:
        `clips`: for each row `seen` and `asked` (the same with what is to be predicted filled in),
        each a PNG in base64 (`asked` empty where no values are), and `target`, the class asked
        for or None.
    """
    return {"clips": [_row(view, row, grid, cell) for row in range(rows)]}


def _row(view: View, row: int, grid: Sequence[int], cell: Sequence[int]) -> dict[str, Any]:
    values = view.inputs["patches" if "patches" in view.inputs else "waveform"][row]
    real, length = view.mask[row], grid[0] * grid[1]
    places = view.inputs["positions"][row] if "positions" in view.inputs else None
    seen = values.new_zeros(length, values.shape[1])
    seen[torch.arange(len(values)) if places is None else places[real]] = (
        values if places is None else values[real]
    )
    shown: dict[str, Any] = {"seen": _picture(seen, grid, cell), "asked": "", "target": None}
    target, is_target = view.target, view.is_target
    if target is None or is_target is None:
        return shown
    if not target.is_floating_point():
        shown["target"] = target[row].flatten().tolist()[0]
    elif target[row].shape == seen.shape:
        whole = torch.where(is_target[row], target[row], seen)
        shown["asked"] = _picture(whole, grid, cell)
    return shown


def _picture(values: Tensor, grid: Sequence[int], cell: Sequence[int]) -> str:
    tokens = values.detach().float().cpu().numpy()
    if tokens.shape[1] != cell[0] * cell[1] or grid[1] * cell[1] == 1:
        return png(_envelope(tokens))
    pattern = "(t b) (m f) -> (b m) (t f)"
    bands = rearrange(tokens, pattern, t=grid[0], b=grid[1], m=cell[1], f=cell[0])[::-1]
    return png((np.clip(bands / (2 * _LOUD) + 0.5, 0, 1) * 255).round().astype(np.uint8))


def _envelope(tokens: Float[np.ndarray, "tokens samples"]) -> np.ndarray:
    """Dark where the loudest sample of a token reaches."""
    height = np.minimum(np.abs(tokens).max(axis=1) / _LOUD, 1)
    away = np.abs(np.linspace(-1, 1, _ROWS))[:, None]
    return np.where(away <= height, 40, 235).astype(np.uint8).repeat(2, axis=1)


__all__ = ["show"]
