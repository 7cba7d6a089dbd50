"""Pretext tasks: a class that the view made up, to be read off what it made of the sample."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.kernels import classify
from unlabel.objectives.objective import Objective, Term


class ReorderPrediction(Objective):
    """Reorder prediction: which of the orders its segments were put in, from the sample's vector.

    Cross-entropy over the `segments!` orders, ln of that where the head knows nothing.

    Args:
        segments: into how many a sample is cut, 2 to 5.
        after: views applied after the reordering, joined by `+`.
        args: arguments of the views.

    Raises:
        ValueError: a number of segments whose orders are too few or too many.

    Reference: Noroozi & Favaro 2016 (jigsaw puzzles), arXiv 1603.09246; in time: Lee et al. 2017
    (sorting sequences), arXiv 1708.01246, section 3.
    """

    paper = "Sorting sequences (Lee et al. 2017, arXiv 1708.01246)"

    def __init__(
        self, *, segments: int = 3, after: str = "", args: Mapping[str, Any] | None = None
    ):
        super().__init__()
        if not 2 <= segments <= 5:
            raise ValueError(f"segments is 2 to 5 (2 to 120 orders), but {segments} came.")
        how = {"reorder.segments": segments, "reorder.ask": True, **(args or {})}
        self.views = (chain("reorder", after, args=how),)
        self.orders = math.factorial(segments)

    def build(self, encoder: Encoder) -> None:
        """Make the head over the orders."""
        self.classifier = nn.Linear(encoder.width, self.orders)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `order`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        logits = self.classifier(encoding.pooled)
        losses = classify(logits, seen.target[:, 0], reduction="none")
        return {"order": Term(global_mean(losses), chance=math.log(self.orders))}


__all__ = ["ReorderPrediction"]
