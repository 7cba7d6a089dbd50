"""What a side of `series_step` is given to do, and how its steps are timed."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

RATIO = 0.4  # of the patches that are masked
PADDING = 200  # earlier steps that TS2Vec's own forecasting task shows the encoder
TRAINED = 0.8  # share of the rows that is trained on; the error is that of the rest
WARM = 2  # steps before the clock starts


class Missing(RuntimeError):
    """A peer that is not there; its rows are left out with this note."""


@dataclass(frozen=True)
class Job:
    """What one side is given to do.

    Attributes:
        task: `masked`, `contrast` or `encode`.
        side: who does it.
        values: `.npy` file of `(steps, channels)`, standardised, without gaps.
        context: steps of a window.
        windows: windows a step.
        steps: training steps that are timed, or rows of the series that are encoded.
        seed: of weights and order.
        threads: of torch.
        ts2vec: folder of the public TS2Vec code.
        sizes: configuration keys of the encoder, over its defaults.
    """

    task: str
    side: str
    values: str
    context: int
    windows: int
    steps: int
    seed: int = 0
    threads: int = 1
    ts2vec: str | None = None
    sizes: dict[str, Any] | None = None


def timed(step: Callable[[], Tensor], steps: int) -> dict[str, Any]:
    """Seconds of `steps` calls after a few that are not counted, and the loss of the last ones."""
    for _ in range(WARM):
        step()
    losses, cpu, wall = [], time.process_time(), time.perf_counter()
    for _ in range(steps):
        losses.append(step().detach())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    last = torch.stack(losses[-max(1, steps // 4) :]).mean()
    return {"cpu_seconds": cpu, "wall_seconds": wall, "steps": steps, "loss": float(last)}


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Its batches, epoch after epoch."""
    while True:
        yield from loader


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """The optimizer of all sides: TS2Vec's."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def size_of(model: nn.Module) -> int:
    """Weights that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def stride_of(job: Job, values: np.ndarray) -> int:
    """Between windows, so that there are about 512, and at least a batch."""
    return max(1, (len(values) - job.context) // max(512, job.windows))


def first(loader: Iterable[Any], batches: int = 8) -> Iterator[Any]:
    """A few batches of a loader."""
    return (batch for _, batch in zip(range(batches), loader, strict=False))


def share(error: list[Tensor], power: list[Tensor]) -> float:
    """Squared error over the squared values that were hidden: 1 for predicting the mean."""
    return float(torch.stack(error).mean() / torch.stack(power).mean())
