"""Keep the weights that do best on what was held out."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback


class KeepBest(TrainerCallback):
    """Looks at held-out data before the first step and on the way, and keeps the best weights.

    Args:
        module: what is trained.
        score: its error on what was held out.
        every: steps between two looks; the last step has one in any case.
        patience: looks without a better one that end the training; 0 for never.
    """

    def __init__(
        self, module: nn.Module, score: Callable[[], float], *, every: int, patience: int = 0
    ):
        self.module, self.score, self.every, self.patience = module, score, every, patience
        self.looks: list[tuple[int, float]] = []
        self.best, self.best_step = math.inf, 0
        self.weights: dict[str, Tensor] = {}
        self.ended = False

    @property
    def about(self) -> dict[str, Any]:
        """Validation error of the start, of the best look, and of all."""
        start = self.looks[0][1]
        found = {"at_start": start, "validation": self.best, "best_step": self.best_step}
        return {**found, "looks": self.looks}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The start counts too: training never ends worse than it."""
        self._look(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, and end the training where nothing has become better for long."""
        step, last = state.global_step, state.global_step >= state.max_steps
        if step % self.every == 0 or last:
            self._look(step)
        since = sum(at > self.best_step for at, _ in self.looks)
        self.ended = last or bool(self.patience and since >= self.patience)
        control.should_training_stop |= self.ended

    def _look(self, step: int) -> None:
        error = self.score()
        self.looks.append((step, error))
        better = error < self.best  # never so for an error that is no number
        if better or not self.weights:
            state = self.module.state_dict()
            self.weights = {k: v.detach().clone() for k, v in state.items()}
        if better:
            self.best, self.best_step = error, step


__all__ = ["KeepBest"]
