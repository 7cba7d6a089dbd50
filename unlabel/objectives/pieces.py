"""Pretext tasks on pieces of a picture: where each lies, and what they say of the whole."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import gather, global_mean
from unlabel.objectives.heads import mlp
from unlabel.objectives.kernels import classify, rank
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term

# Colours give places away (lenses bend them apart): a piece keeps one of three, or a picture none.
_COLORS = MappingProxyType({"channel_cutoff.ratio": 0.67, "gray.ratio": 0.3})


def pieces(
    *places: Mapping[str, Any],
    before: str = "",
    after: str = "",
    args: Mapping[str, Any] | None = None,
) -> tuple[ViewSpec, ...]:
    """One view for each piece of a picture, all of one draw.

    Args:
        places: arguments of `piece` for each view.
        before: views of the whole, joined by `+`, alike for all its pieces.
        after: views of each piece, drawn for it alone.
        args: arguments of the views. Unless said otherwise `channel_cutoff` leaves one colour of
            three, and `gray` takes them from 0.3 of the samples.

    Raises:
        ValueError: an argument of a view that is not there.
    """
    links = {*before.split("+"), *after.split("+")}
    usual = {k: v for k, v in _COLORS.items() if k.partition(".")[0] in links}
    return tuple(
        chain(
            before,
            "piece",
            after,
            args={**usual, **{f"piece.{k}": v for k, v in own.items()}, **(args or {})},
        )
        for own in places
    )


class _Places(Objective):
    """A class read off the vectors of some pieces, side by side.

    Args:
        classes: how many there are.
        hidden: width of the head inside; each piece goes through the encoder alone.
        views: of the pieces; the last one's target is the class.
    """

    def __init__(self, *, classes: int, hidden: int, views: tuple[ViewSpec, ...]):
        super().__init__()
        self.places, self.hidden, self.views = classes, hidden, views

    def build(self, encoder: Encoder) -> None:
        """Make the head over all pieces."""
        self.classifier = mlp(len(self.views) * encoder.width, self.hidden, self.places)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `place`."""
        target = views[-1].target
        assert target is not None  # the view makes it
        logits = self.classifier(torch.cat([e.pooled for e in encodings], 1))
        losses = classify(logits, target[:, 0], reduction="none")
        return {"place": Term(global_mean(losses), chance=math.log(self.places))}


class ContextPrediction(_Places):
    """Context prediction: on which side of the middle piece of a picture does another one lie?

    Eight pieces lie around the middle one of a 3 x 3 grid; one of them is drawn, and a head reads
    both vectors side by side. Cross-entropy over the eight sides; ln 8 where the head knows
    nothing.

    Args:
        gap: between two pieces, in shares of their side; edges that meet would give it away.
        jitter: how far each piece is moved at random, likewise, each way.
        hidden: width of the head inside.
        before: views of the whole picture before it is cut, joined by `+`.
        after: views of each piece, drawn for it alone; `channel_cutoff` leaves it one colour of
            three.
        args: arguments of the views.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Doersch et al. 2015, arXiv 1505.05192, section 4.1: pieces of 96 pixels, 48 apart,
    moved by up to 7.
    """

    paper = "Context prediction (Doersch et al. 2015, arXiv 1505.05192)"

    def __init__(
        self,
        *,
        gap: float = 0.5,
        jitter: float = 0.073,
        hidden: int = 512,
        before: str = "",
        after: str = "channel_cutoff",
        args: Mapping[str, Any] | None = None,
    ):
        own = [{"place": place, "gap": gap, "jitter": jitter} for place in (4, "beside")]
        views = pieces(*own, before=before, after=after, args=args)
        super().__init__(classes=8, hidden=hidden, views=views)


class Jigsaw(_Places):
    """Jigsaw puzzle: in which order were the nine pieces of a picture put?

    The orders are some that lie far apart in Hamming distance, the identity among them. Each piece
    goes through the encoder alone, and a head reads the nine vectors side by side in the order
    shown. Cross-entropy over the orders, ln of their number where the head knows nothing.

    Args:
        orders: how many.
        grid: pieces in a row and in a column, 2 or 3.
        gap: between two pieces, in shares of their side.
        jitter: how far each piece is moved at random, likewise, each way.
        hidden: width of the head inside.
        before: views of the whole picture before it is cut, joined by `+`.
        after: views of each piece, drawn for it alone.
        args: arguments of the views.

    Raises:
        ValueError: another grid, more orders than there are, or an argument of a view that is not
            there.

    Reference: Noroozi & Favaro 2016, arXiv 1603.09246, section 3: pieces of 64 pixels from cells
    of 75, 0.3 of the pictures grey.
    """

    paper = "Jigsaw puzzles (Noroozi & Favaro 2016, arXiv 1603.09246)"

    def __init__(
        self,
        *,
        orders: int = 100,
        grid: int = 3,
        gap: float = 0.172,
        jitter: float = 0.086,
        hidden: int = 512,
        before: str = "crop+gray",
        after: str = "standardize",
        args: Mapping[str, Any] | None = None,
    ):
        if grid not in (2, 3) or not 2 <= orders <= math.factorial(grid**2):
            raise ValueError(
                f"A puzzle has a grid of 2 or 3 and 2 to grid^2! orders (24 or 362880), but grid "
                f"{grid} and {orders} orders came."
            )
        shared = {"grid": grid, "orders": orders, "gap": gap, "jitter": jitter}
        own = [{"place": place, **shared} for place in range(grid**2)]
        views = pieces(*own, before=before, after=after, args=args)
        super().__init__(classes=orders, hidden=hidden, views=views)


class Counting(Objective):
    """Learning to count: what the four quarters of a picture hold adds up to what the whole holds.

    `|phi(D x) - sum_j phi(T_j x)|^2 + max(0, M - |phi(D y) - sum_j phi(T_j x)|^2)`, mean over the
    samples x: D x is x at half its size, T_j its quarters, y another sample (the next one of the
    batch of all ranks, by its place in the run), phi the encoder and a head that ends in a ReLU.
    phi = 0 gives M; a phi that adds up over areas gives 0 in the first term. A sample that is alone
    has no second term.

    Args:
        margin: M.
        width: of phi.
        hidden: width of the head inside.
        before: views of the whole picture before it is cut, joined by `+`.
        args: arguments of the views.

    Raises:
        ValueError: a margin or width that is not above 0, or an argument of a view that is not
            there.

    Reference: Noroozi et al. 2017, arXiv 1708.06734, equations 2 and 5, and section 3.3 (grey
    pictures). The authors' code takes a hinge of each element.
    """

    paper = "Learning to count (Noroozi et al. 2017, arXiv 1708.06734)"

    def __init__(
        self,
        *,
        margin: float = 10.0,
        width: int = 1000,
        hidden: int = 512,
        before: str = "crop+gray",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if margin <= 0 or width < 1:
            raise ValueError(
                f"margin and width are above 0, but {margin} and {width} came: phi = 0 would be "
                "all there is to learn."
            )
        whole = {"grid": 1, "scale": 0.5}
        quarters = [{"grid": 2, "place": place, "scale": 0.5} for place in range(4)]
        self.views = pieces(whole, *quarters, before=before, args=args)
        self.margin, self.width, self.hidden = margin, width, hidden

    def build(self, encoder: Encoder) -> None:
        """Make the head of phi."""
        self.counter = nn.Sequential(mlp(encoder.width, self.hidden, self.width), nn.ReLU())

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `pair` and `contrast`."""
        whole, *parts = (exact(self.counter(e.pooled)) for e in encodings)
        count = torch.stack(parts).sum(0)
        other, is_other = _next(whole, batch)
        apart = lambda x: (x - count).square().sum(1)  # noqa: E731
        none, far = count.new_zeros(len(count)), apart(other)
        pushed = rank(none, far, margin=self.margin, reduction="none")
        return {
            "pair": Term(global_mean(apart(whole))),
            "contrast": Term(global_mean(pushed[is_other]), chance=self.margin),
        }


def _next(rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Each sample's next one in the run, of those of all ranks, and True where it is another."""
    place, index, everyone = gather(batch.ordinal), gather(batch.index), gather(rows)
    order = place.argsort(stable=True)
    # The first is next to the last. Equal places are one sample.
    after = torch.searchsorted(place[order], batch.ordinal, right=True) % len(order)
    chosen = order[after]
    return everyone[chosen], index[chosen] != batch.index


__all__ = ["ContextPrediction", "Counting", "Jigsaw", "pieces"]
