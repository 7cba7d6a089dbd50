"""Three moments of one sample, in the order of time or not; for every modality with time."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.draws import arguments, draw


class Triple(NamedTuple):
    """What was drawn.

    Attributes:
        five: places a < b < c < d < e among a sample's moments, `(batch, 5)`.
        chosen: the one that this view shows, `(batch,)`.
        target: 1 where the three are in order, or in the opposite order, `(batch, 1)`.
    """

    five: Int[Tensor, "batch 5"]
    chosen: Int[Tensor, "batch"]
    target: Int[Tensor, "batch 1"]


def options(spec: ViewSpec, **more: float) -> dict[str, float]:
    """Arguments of the view: those of every modality, and more.

    Raises:
        ValueError: no place 0, 1 or 2, or an argument that the view does not have.
    """
    args = arguments(spec, place=0, negatives=0.75, unlike=1e-4, **more)
    if args["place"] not in (0, 1, 2):
        raise ValueError(f"place of view 'triple' is 0, 1 or 2, but {args['place']} came.")
    return args


def draw_triple(
    batch: Batch,
    spec: ViewSpec,
    weight: Float[Tensor, "batch moments"],
    exists: Bool[Tensor, "batch moments"],
    *,
    place: int,
    negatives: float,
) -> Triple:
    """Five moments drawn by their weights without repetition, and one of the three shown.

    (b, c, d) is in order, (b, a, d) and (b, e, d) are not; each is turned round half of the time.

    Args:
        batch: the samples.
        spec: of the view; its arguments do not change the draw, so that three views agree.
        weight: of each moment, at least 0.
        exists: True at moments that may be drawn.
        place: which of the three.
        negatives: share of triples that are not in order.
    """
    # The moments whose exponential clocks ring first; a faster clock for a larger weight.
    draws = draw(batch, spec, weight.shape[1]).clamp(min=2.0**-25)
    rings = -draws.log() / (weight + 1e-6 * weight.amax(1, keepdim=True) + 1e-12)
    first = rings.masked_fill(~exists, torch.inf).argsort(dim=1, stable=True)[:, :5]
    five = first.sort(dim=1).values
    kind, side, turn = draw(batch, spec, 3, use=1).unbind(1)
    is_positive = kind >= negatives
    middle = torch.where(is_positive, 2, torch.where(side < 0.5, 0, 4))
    begin = torch.where(turn < 0.5, 1, 3)
    shown = (begin, middle, 4 - begin)[place]
    chosen = five.gather(1, shown[:, None])[:, 0]
    return Triple(five, chosen, is_positive.long()[:, None])


def is_told(
    pictures: Float[Tensor, "batch moments values"], triple: Triple, unlike: float
) -> Bool[Tensor, "batch 1"]:
    """True where a differs from c, and c from e: their mean squared difference exceeds `unlike`."""
    at = lambda i: pictures.take_along_dim(triple.five[:, i, None, None], 1)[:, 0]  # noqa: E731
    apart = lambda i, j: (at(i) - at(j)).square().mean(1, keepdim=True) > unlike  # noqa: E731
    return apart(0, 2) & apart(2, 4)


__all__ = ["Triple", "draw_triple", "is_told", "options"]
