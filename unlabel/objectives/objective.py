"""Objective: views, heads, target and kernel; and the weighted sum, which is an objective too."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec
from unlabel.objectives.chains import usual
from unlabel.objectives.state import Ramp, State


class Term(NamedTuple):
    """One named part of a loss.

    Attributes:
        loss: scalar.
        weight: its factor in the sum.
        chance: the value of a model that knows nothing (ln N for N candidates), None if unknown.
    """

    loss: Tensor
    weight: float = 1.0
    chance: float | None = None


class Objective(nn.Module):
    """What a method is: the views it wants, the heads it trains, and its terms.

    A method sets `views` and `needs`, makes its heads in `build`, and computes its terms in
    `forward`. It never calls the encoder, gathers nothing but rows, and knows no modality.

    Attributes:
        views: the views it wants encoded, in the order `forward` gets them.
        needs: what it asks of an encoding (`pooled`, `tokens`, `layers`, `table`).
        teacher_momentum: set where a view wants the `teacher` encoder; a `Ramp` where it changes.
        horizon: steps after the encoder's view that it wants of each sample, to predict them.
        samples: of the data set, where their number is known.
        paper: reference.
    """

    views: tuple[ViewSpec, ...] = ()
    needs: frozenset[str] = frozenset({"pooled"})
    teacher_momentum: float | Ramp | None = None
    horizon: int = 0
    samples: int | None = None
    paper: str = ""

    def meet(self, encoder: Encoder | type[Encoder], samples: int | None = None) -> None:
        """Learn what it will train: the encoder's usual and local views, the number of samples."""
        named = (usual(spec, encoder) for spec in self.views)
        self.views = tuple(spec for spec in named if spec is not None)
        self.samples = samples

    def build(self, encoder: Encoder) -> None:
        """Make the heads, now that the encoder's sizes are known."""

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """The method's terms for one batch.

        Args:
            encodings: one for each of `self.views`, in that order.
            views: what the encoder saw, likewise.
            batch: index and label of the samples.
        """
        raise NotImplementedError

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """For pictures: each view with what the heads predict in place of its target.

        None where they predict nothing that could be looked at.
        """
        return [None] * len(views)

    def step(self) -> None:
        """Move memories, clusters and teachers; called once after each optimizer step."""
        for part in self.modules():
            if isinstance(part, State):
                part.step()


class Sum(Objective):
    """Weighted sum of named objectives on one encoder, sharing its views and forward pass.

    Args:
        objectives: name -> objective.
        weights: name -> factor; 1 where not named. An objective of weight 0 is not run.

    Raises:
        ValueError: a weight for an objective that is not there, or a negative one.
    """

    def __init__(
        self, objectives: dict[str, Objective], weights: Mapping[str, float] | None = None
    ):
        super().__init__()
        weights = dict(weights or {})
        if unknown := sorted(set(weights) - set(objectives)):
            raise ValueError(
                f"Weight given for {', '.join(unknown)}, but the objectives are "
                f"{', '.join(objectives)}."
            )
        if any(w < 0 for w in weights.values()) or not objectives:
            raise ValueError("A sum needs at least one objective, and weights of at least 0.")
        active = {n: o for n, o in objectives.items() if weights.get(n, 1.0) != 0}
        self.parts: Mapping[str, Objective] = nn.ModuleDict(active)  # type: ignore[assignment]
        self.weights = {n: float(weights.get(n, 1.0)) for n in active}
        self.views = tuple(dict.fromkeys(v for o in active.values() for v in o.views))
        self.needs = frozenset().union(*(o.needs for o in active.values()))
        self.paper = "; ".join(o.paper for o in active.values())
        momenta = {m for o in active.values() if (m := o.teacher_momentum) is not None}
        if len(momenta) > 1:
            raise ValueError(
                f"The objectives want different teachers (momenta {sorted(map(str, momenta))})."
            )
        self.teacher_momentum = next(iter(momenta), None)
        self.horizon = max(o.horizon for o in active.values())

    def meet(self, encoder: Encoder | type[Encoder], samples: int | None = None) -> None:
        """Every part learns it."""
        for part in self.parts.values():
            part.meet(encoder, samples)
        self.views = tuple(dict.fromkeys(v for o in self.parts.values() for v in o.views))
        self.samples = samples

    def build(self, encoder: Encoder) -> None:
        """Make every part's heads."""
        for part in self.parts.values():
            part.build(encoder)
        # What a part needs may depend on what the encoder gives.
        self.needs = frozenset().union(*(part.needs for part in self.parts.values()))

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """The terms of all parts, named `part/term`, weights multiplied in."""
        terms = {}
        for name, part in self.parts.items():
            own = part(*self._own(part, encodings, views), batch)
            for key, term in own.items():
                terms[f"{name}/{key}"] = term._replace(weight=term.weight * self.weights[name])
        return terms

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """What the first part that predicts something for a view predicts there."""
        found: dict[ViewSpec, View | None] = {}
        for part in self.parts.values():
            theirs = part.filled(*self._own(part, encodings, views))
            for spec, view in zip(part.views, theirs, strict=True):
                found[spec] = found.get(spec) or view
        return [found[spec] for spec in self.views]

    def _own(
        self, part: Objective, encodings: Sequence[Encoding], views: Sequence[View]
    ) -> tuple[list[Encoding], list[View]]:
        """What belongs to one part."""
        place = {spec: i for i, spec in enumerate(self.views)}
        rows = [place[spec] for spec in part.views]
        return [encodings[i] for i in rows], [views[i] for i in rows]


def total(terms: Mapping[str, Term]) -> Tensor:
    """The loss: the weighted sum of the terms."""
    return sum((t.weight * t.loss for t in terms.values()), start=0.0)  # type: ignore[return-value]
