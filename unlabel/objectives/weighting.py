"""How much each part of a sum weighs: as named, over time, by uncertainty, or by its gradient."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Encoding
from unlabel.objectives.gather import world
from unlabel.objectives.state import Clock, State
from unlabel.objectives.unit import opaque

Weight = float | Sequence[tuple[int, float]]  # fixed, or (step, weight) points


class Schedule(Clock):
    """Weights that change with the steps: straight lines between points, flat outside them.

    Args:
        weights: a number, or (step, weight) points in the order of their steps.

    Raises:
        ValueError: a negative weight, or points out of order.
    """

    def __init__(self, weights: Sequence[Weight]):
        super().__init__()
        self.points = [[(0, float(w))] if isinstance(w, int | float) else list(w) for w in weights]
        for points in self.points:
            steps = [step for step, _ in points]
            if not points or steps != sorted(set(steps)) or min(w for _, w in points) < 0:
                raise ValueError(
                    "A weight is a number of at least 0, or such numbers by step, as in "
                    f"[[0, 1.0], [1000, 0.1]], each step once and in order; {points} came."
                )
        self.is_fixed = all(len(points) == 1 for points in self.points)

    def forward(self) -> Float[Tensor, "parts"]:
        """The weights of the step to come."""
        if self.is_fixed:
            return self.steps.new_tensor([p[0][1] for p in self.points], dtype=torch.float32)
        return torch.stack([self._at(points) for points in self.points])

    def _at(self, points: Sequence[tuple[int, float]]) -> Float[Tensor, ""]:
        step = self.steps.to(torch.float32)
        found = torch.full_like(step, points[0][1])
        for (start, low), (end, high) in pairwise(points):
            along = ((step - start) / (end - start)).clamp(0, 1)
            found = torch.where(step >= start, low + along * (high - low), found)
        return found


class GradientShares(State):
    """How strongly each part of a sum pulls at the encoder: an average of its gradient's length.

    The gradient is that with respect to the encoder's outputs which the part reads (pooled, tokens
    and layers together), as the backward pass of the whole sum brings it: measuring costs no pass
    of its own. It is that of all ranks' samples together, as one process would see it.

    Args:
        parts: how many.
        momentum: share of the old average that stays at each step.
    """

    norms: Tensor
    steps: Tensor

    def __init__(self, parts: int, *, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("norms", torch.zeros(parts))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._weights: Tensor | None = None
        self._squares: dict[int, Tensor] = {}

    def begin(self, weights: Float[Tensor, "parts"]) -> None:
        """A forward pass whose parts weigh so much begins."""
        self._weights, self._squares = weights.detach(), {}

    @opaque  # hooks
    def watched(self, encodings: Sequence[Encoding], part: int) -> list[Encoding]:
        """The encodings with a look at the gradient that the part sends back through them."""

        def note(gradient: Tensor | None) -> None:
            if gradient is None:
                return
            wide = torch.promote_types(gradient.dtype, torch.float32)
            square = gradient.detach().to(wide).square().sum()
            self._squares[part] = self._squares.get(part, 0.0) + square

        def through(x: Tensor) -> Tensor:
            if not x.requires_grad:
                return x
            copy = x.view_as(x)
            copy.register_hook(note)
            return copy

        return [
            replace(
                e,
                pooled=through(e.pooled),
                tokens=through(e.tokens),
                layers=None if e.layers is None else tuple(map(through, e.layers)),
            )
            for e in encodings
        ]

    def step(self) -> None:
        """Take in what the last backward pass brought; once, however often it is called."""
        if self._weights is None or not self._squares:
            return
        zero = self.norms.new_zeros(())
        squares = torch.stack([self._squares.get(i, zero) for i in range(len(self.norms))])
        if world()[1] > 1:
            # A rank's own gradient is what the mean over ranks will divide by their number.
            dist.all_reduce(squares)
            squares /= world()[1] ** 2
        # Of the part itself: its weight is taken out again.
        found = squares.sqrt() / self._weights.clamp(min=1e-12)
        stays = torch.where(self.steps > 0, self.momentum, 0.0)
        self.norms.copy_(torch.lerp(found.to(self.norms), self.norms, stays.to(self.norms)))
        self.steps += 1
        self._squares = {}

    def balanced(self, weights: Float[Tensor, "parts"]) -> Float[Tensor, "parts"]:
        """Weights under which each part's share of the gradient is that of its named weight.

        The length of all gradients together stays as it was; until a step was seen the weights do.
        """
        pulls = weights * self.norms
        even = weights / weights.sum().clamp(min=1e-12) * pulls.sum()
        return torch.where(self.norms > 0, even / self.norms.clamp(min=1e-12), weights)

    def shares(self) -> Float[Tensor, "parts"]:
        """Each part's share of the gradients' lengths, with the weights of the last step."""
        weights = torch.ones_like(self.norms) if self._weights is None else self._weights
        pulls = weights.to(self.norms) * self.norms
        return pulls / pulls.sum().clamp(min=1e-12)


def paired(names: Sequence[str], values: Tensor) -> Iterator[tuple[str, float]]:
    """Names with numbers, in one transfer from the device."""
    return zip(names, values.tolist(), strict=True)


__all__ = ["GradientShares", "Schedule", "Weight", "paired"]
