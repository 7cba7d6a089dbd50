"""Distillation between sides of a sample: what one shows is to be told from another."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.gather import global_mean
from unlabel.objectives.kernels import regress
from unlabel.objectives.objective import Term
from unlabel.objectives.sides import Side, Sided, sides_of


class DistillSides(Sided):
    """The tokens of a sample are to be those of its other sides: pictures as their flow, say.

    `|h - sg(h_s)|^2 / D`, mean over the places that both show, a term for each side s; D is the
    width and sg takes no gradient. Sides that look alike give 0. All samples alike do too, so it
    is meant as a part of a `Sum`. One encoder sees every side, and its last layer is compared. Of a
    joint encoder, which has a tower for each side as the paper does, h are the pooled vectors:
    tokens of a text and of a clip do not lie at the same places.

    Args:
        sides: as for `CMC`; the first learns from the others. None takes those of a joint encoder,
            and of any other the pictures and themselves in grey.
        augment: views that come before each side, drawn alike for all sides, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: fewer than two sides, two that are the same, one without a name, or an argument
            of a view that is not there.

    Reference: Piergiovanni et al. 2020, arXiv 2002.12177, section 3.1 (distillation losses).
    """

    paper = "Evolving Losses (Piergiovanni et al. 2020, arXiv 2002.12177)"
    needs = frozenset({"tokens"})
    otherwise = ({"name": "plain"}, {"name": "gray", "ratio": 1.0})

    def __init__(
        self,
        *,
        sides: Sequence[Side] | None = None,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(sides, augment, args)

    def meet(
        self,
        encoder: Encoder | type[Encoder],
        samples: int | None = None,
        classes: int | None = None,
    ) -> None:
        """Learn the sides, and whether they have towers of their own."""
        super().meet(encoder, samples, classes)
        if sides_of(encoder):
            self.needs = self.needs - {"tokens"} | {"pooled"}

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """A term for each other side: `from_1`, `from_2`, and so on."""
        first, *others = encodings
        terms = {}
        for i, other in enumerate(others, start=1):
            if "tokens" in self.needs:
                own, theirs, both = first.tokens, other.tokens, first.mask & other.mask
            else:
                own, theirs, both = first.pooled, other.pooled, None
            losses = regress(own, theirs.detach(), both, reduction="none")
            terms[f"from_{i}"] = Term(global_mean(losses), 1 / len(others))
        return terms


__all__ = ["DistillSides"]
