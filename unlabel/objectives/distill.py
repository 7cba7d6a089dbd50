"""Distillation between sides of a sample: what one shows is to be told from another."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlabel.core import Batch, Encoding, View
from unlabel.objectives.gather import global_mean
from unlabel.objectives.kernels import regress
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.sides import side_views


class DistillSides(Objective):
    """The tokens of a sample are to be those of its other sides: pictures as their flow, say.

    `|h - sg(h_s)|^2 / D`, mean over the places that both show, a term for each side s; D is the
    width and sg takes no gradient. Sides that look alike give 0. All samples alike do too, so it
    is meant as a part of a `Sum`. One encoder sees every side, where the paper has one for each,
    and its last layer is compared.

    Args:
        sides: as for `CMC`; the first learns from the others.
        augment: views that come before each side, drawn alike for all sides, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: fewer than two sides, two that are the same, one without a name, or an argument
            of a view that is not there.

    Reference: Piergiovanni et al. 2020, arXiv 2002.12177, section 3.1 (distillation losses).
    """

    paper = "Evolving Losses (Piergiovanni et al. 2020, arXiv 2002.12177)"
    needs = frozenset({"tokens"})

    def __init__(
        self,
        *,
        sides: Sequence[Mapping[str, Any]] = (
            {"name": "plain"},
            {"name": "gray", "ratio": 1.0},
        ),
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.views = side_views(sides, augment, args)
        self.needs = self.needs | {v.partner for v in self.views if v.partner}

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """A term for each other side: `from_1`, `from_2`, and so on."""
        first, *others = encodings
        terms = {}
        for i, other in enumerate(others, start=1):
            both = first.mask & other.mask
            losses = regress(first.tokens, other.tokens.detach(), both, reduction="none")
            terms[f"from_{i}"] = Term(global_mean(losses), 1 / len(others))
        return terms


__all__ = ["DistillSides"]
