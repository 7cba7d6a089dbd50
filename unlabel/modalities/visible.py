"""Views without what is hidden, for encoders that take the visible tokens alone."""

from dataclasses import replace
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from unlabel.core import View


def visible_only(
    view: View,
    is_visible: Bool[Tensor, "batch tokens"],
    keeps: int,
    *,
    pad: Literal["left", "right"],
    apart: str = "",
) -> View:
    """The view with its `keeps` visible tokens alone, in their order; the target is that of all.

    Args:
        view: of all tokens.
        is_visible: True at tokens to keep.
        keeps: how many a row has.
        pad: the end at which a row with fewer of them is padded.
        apart: an input that does not run along the tokens.
    """
    if pad == "left":
        order = is_visible.long().argsort(dim=1, stable=True)[:, is_visible.shape[1] - keeps :]
    else:
        order = (~is_visible).long().argsort(dim=1, stable=True)[:, :keeps]

    def take(x: Tensor) -> Tensor:
        at = order.reshape(*order.shape, *(1,) * (x.dim() - 2))
        return x.gather(1, at.expand(-1, -1, *x.shape[2:]))

    keep = view.keep_positions
    return replace(
        view,
        inputs={k: v if k == apart else take(v) for k, v in view.inputs.items()},
        mask=take(is_visible),
        keep_positions=None if keep is None else take(keep),
        places=None if view.places is None else take(view.places),
    )


def narrowed(
    kept: Bool[Tensor, "batch n"] | None, keep: Bool[Tensor, "batch n"]
) -> Bool[Tensor, "batch n"]:
    """What is kept of what links before kept; None where they kept all."""
    return keep if kept is None else kept & keep


__all__ = ["narrowed", "visible_only"]
