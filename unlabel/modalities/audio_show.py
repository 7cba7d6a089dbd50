"""What a view of sound looks like to the encoder, as plain numbers for the report."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from unlabel.core import View


def show(view: View, rows: int, *, grid: Sequence[int], cell: Sequence[int]) -> dict[str, Any]:
    """The first rows of a view, token by token in normalised units.

    Args:
        view: of an encoder of sound.
        rows: how many.
        grid: tokens over time and over bands.
        cell: frames and bands of a token.

    Returns:
        `sound`: for each row `seen` and `asked` (hidden and to be predicted), a list of values
        for each token counted time first, None for one that is not; `grid` and `cell`.
    """
    values = view.inputs["patches" if "patches" in view.inputs else "waveform"]
    length = grid[0] * grid[1]
    return {
        "sound": [_row(view, values, row, length) for row in range(rows)],
        "grid": list(grid),
        "cell": list(cell),
    }


def _row(view: View, values: Tensor, row: int, length: int) -> dict[str, Any]:
    seen: list[list[float] | None] = [None] * length
    real = view.mask[row]
    places = view.inputs["positions"][row][real].tolist()
    for place, token in zip(places, _numbers(values[row][real]), strict=True):
        seen[place] = token
    target, is_target = view.target, view.is_target
    if target is None or is_target is None or target.dim() != 3:
        return {"seen": seen, "asked": []}
    asked = zip(_numbers(target[row]), is_target[row].any(1).tolist(), strict=True)
    return {"seen": seen, "asked": [values if there else None for values, there in asked]}


def _numbers(values: Tensor) -> list[list[float]]:
    return [[round(v, 2) for v in token] for token in values.tolist()]


__all__ = ["show"]
