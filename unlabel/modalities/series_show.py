"""What a view of series looks like to the encoder, as plain numbers for the report."""

from typing import Any

from einops import rearrange, repeat
from torch import Tensor

from unlabel.core import View


def show(view: View, rows: int) -> dict[str, Any]:
    """The first rows of a view, first channel, step by step in normalised units.

    Returns:
        `series`: for each row `seen`, `asked` (hidden and to be predicted) and `future`, lists
        with None where there is no such value, and `cut`, True at steps zeroed after the input
        projection.
    """
    return {"series": [_row(view, row) for row in range(rows)]}


def _row(view: View, row: int) -> dict[str, Any]:
    values, observed = (view.inputs[k][row] for k in ("values", "observed"))
    _, patch, channels = values.shape
    steps = lambda x: rearrange(x, "l p c -> (l p) c")[:, 0]  # noqa: E731
    shown = {"seen": _numbers(steps(values), steps(observed)), "asked": [], "future": [], "cut": []}
    if view.keep_positions is not None:
        cut = ~view.keep_positions[row] & view.mask[row]
        shown["cut"] = repeat(cut, "l -> (l p)", p=patch).tolist()
    target, is_target = view.target, view.is_target
    if target is None or is_target is None or not target.is_floating_point():
        return shown
    target, is_target = target[row], is_target[row]
    if target.shape[-1] == channels and target.shape[0] != len(values):
        shown["future"] = _numbers(target[:, 0], is_target[:, 0])
    else:
        to_steps = lambda x: steps(rearrange(x, "l (p c) -> l p c", c=channels))  # noqa: E731
        shown["asked"] = _numbers(to_steps(target), to_steps(is_target))
    return shown


def _numbers(values: Tensor, is_there: Tensor) -> list[float | None]:
    kept = zip(values.tolist(), is_there.tolist(), strict=True)
    return [round(v, 3) if there else None for v, there in kept]
