"""Several objectives on one encoder: a weighted sum, which is an objective too."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.weighting import GradientShares, Schedule, Weight, paired


class Sum(Objective):
    """Weighted sum of named objectives on one encoder, sharing its views and forward pass.

    With `balance="uncertainty"` each part k costs `w_k (exp(-s_k) L_k + s_k)`, s_k learned from 0
    on: at its best `exp(s_k) = L_k`, and every part counts `w_k`. Meant for losses above 0. With
    `"gradient"` a part is weighed so that its share of the gradient at the encoder's outputs is its
    weight's share of all weights. The log has each part's share of that gradient.

    Args:
        objectives: name -> objective.
        weights: name -> factor; 1 where not named. An objective of weight 0 is not run. In place
            of a number, (step, factor) points are joined by straight lines.
        balance: `"fixed"` takes the weights as they are; for the other two see above.

    Raises:
        ValueError: a weight for an objective that is not there, a negative one, points out of
            order, an unknown balance, or a name that torch has for itself.

    Reference: uncertainty: Kendall et al. 2018, arXiv 1705.07115, equation 7 (twice that);
    gradients: what GradNorm settles at with alpha = 0, Chen et al. 2018, arXiv 1711.02257, section
    3.2, taken directly.
    """

    def __init__(
        self,
        objectives: dict[str, Objective],
        weights: Mapping[str, float | Sequence[tuple[int, float]]] | None = None,
        balance: Literal["fixed", "uncertainty", "gradient"] = "fixed",
    ):
        super().__init__()
        weights = dict(weights or {})
        if unknown := sorted(set(weights) - set(objectives)):
            raise ValueError(
                f"Weight given for {', '.join(unknown)}, but the objectives are "
                f"{', '.join(objectives)}."
            )
        if balance not in ("fixed", "uncertainty", "gradient"):
            raise ValueError(f"balance is fixed, uncertainty or gradient, but {balance!r} came.")
        active = {n: o for n, o in objectives.items() if weights.get(n, 1.0) != 0}
        if not active:
            raise ValueError("A sum needs at least one objective of a weight above 0.")
        if taken := [n for n in active if "." in n or hasattr(nn.ModuleDict, n)]:
            raise ValueError(
                f"An objective of a sum cannot be named {taken[0]!r}: give a plain word that "
                "torch's ModuleDict does not use itself."
            )
        self.parts: Mapping[str, Objective] = nn.ModuleDict(active)  # type: ignore[assignment]
        self._ask()
        self.weights: dict[str, Weight] = {n: weights.get(n, 1.0) for n in active}
        self.balance: Literal["fixed", "uncertainty", "gradient"] = balance
        self.schedule = Schedule(list(self.weights.values()))
        self.pulls = GradientShares(len(active))
        if balance == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(active)))
        self.paper = "; ".join(o.paper for o in active.values())
        self.pictured = "; ".join(o.pictured for o in active.values() if o.pictured)
        momenta = {m for o in active.values() if (m := o.teacher_momentum) is not None}
        if len(momenta) > 1:
            raise ValueError(
                f"The objectives want different teachers (momenta {sorted(map(str, momenta))})."
            )
        self.teacher_momentum = next(iter(momenta), None)
        self.horizon = max(o.horizon for o in active.values())
        self.needs_others = any(o.needs_others for o in active.values())

    def meet(
        self,
        encoder: Encoder | type[Encoder],
        samples: int | None = None,
        classes: int | None = None,
    ) -> None:
        """Every part learns it."""
        for part in self.parts.values():
            part.meet(encoder, samples, classes)
        self._ask()
        self.samples, self.classes = samples, classes

    def build(self, encoder: Encoder) -> None:
        """Make every part's heads."""
        for part in self.parts.values():
            part.build(encoder)
        self._ask()

    def _ask(self) -> None:
        # What a part looks at and needs may depend on the encoder.
        parts = self.parts.values()
        self.views = tuple(dict.fromkeys(v for part in parts for v in part.views))
        self.needs = frozenset().union(*(part.needs for part in parts))

    def rewrite(self, views: Sequence[View], batch: Batch) -> Sequence[View]:
        """Every part changes its own views.

        Raises:
            ValueError: two parts changed the same view.
        """
        out = list(views)
        for name, part in self.parts.items():
            rows = self._rows(part)
            for i, seen in zip(rows, part.rewrite([views[i] for i in rows], batch), strict=True):
                if seen is not views[i] and out[i] is not views[i]:
                    raise ValueError(
                        f"{name} rewrites the view {self.views[i].name!r}, which another part of "
                        "the sum rewrites too; give them different arguments."
                    )
                out[i] = out[i] if seen is views[i] else seen
        return out

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """The terms of all parts, named `part/term`, weights multiplied in."""
        named, terms = self.schedule(), {}
        weights = self._now(named)
        self.pulls.begin(weights)
        for i, (name, part) in enumerate(self.parts.items()):
            theirs, seen = self._own(part, encodings, views)
            own = part(self.pulls.watched(theirs, i), seen, batch)
            weight = self._weight(i, weights)
            for key, term in own.items():
                terms[f"{name}/{key}"] = term._replace(weight=term.weight * weight)
            if self.balance == "uncertainty":
                term = Term(self.log_variance[i], named[i])
                terms[f"{name}/log_variance"] = term
        return terms

    def _now(self, named: Tensor) -> Tensor:
        """The weights of this step, the learned ones at their present value."""
        if self.balance == "gradient":
            return self.pulls.balanced(named)
        if self.balance == "uncertainty":
            return named * torch.exp(-self.log_variance.clamp(-10, 10))
        return named

    def _weight(self, part: int, weights: Tensor) -> float | Tensor:
        """A plain number where it never changes."""
        if self.balance == "fixed" and self.schedule.is_fixed:
            return self.schedule.points[part][0][1]
        return weights[part]

    def figures(self) -> dict[str, float]:
        """Each part's share of the gradient at the encoder's outputs, and its weight."""
        found = {f"share/{n}": x for n, x in paired(list(self.parts), self.pulls.shares())}
        if self.balance != "fixed" or not self.schedule.is_fixed:
            found |= {
                f"weight/{n}": x
                for n, x in paired(list(self.parts), self._now(self.schedule()).detach())
            }
        for name, part in self.parts.items():
            found |= {f"{key}/{name}": value for key, value in part.figures().items()}
        return found

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """What the first part that predicts something for a view predicts there."""
        found: dict[ViewSpec, View | None] = {}
        for part in self.parts.values():
            theirs = part.filled(*self._own(part, encodings, views))
            for spec, view in zip(part.views, theirs, strict=True):
                found[spec] = found.get(spec) or view
        return [found[spec] for spec in self.views]

    def drawn(
        self, encoder: Encoder, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Float[Tensor, "count length values"] | None:
        """What the first part draws that draws anything."""
        how = {"seed": seed, "temperature": temperature}
        every = (part.drawn(encoder, count, **how) for part in self.parts.values())
        return next((found for found in every if found is not None), None)

    def _own(
        self, part: Objective, encodings: Sequence[Encoding], views: Sequence[View]
    ) -> tuple[list[Encoding], list[View]]:
        """What belongs to one part."""
        rows = self._rows(part)
        return [encodings[i] for i in rows], [views[i] for i in rows]

    def _rows(self, part: Objective) -> list[int]:
        """The places of a part's views among all views."""
        place = {spec: i for i, spec in enumerate(self.views)}
        return [place[spec] for spec in part.views]


__all__ = ["Sum"]
