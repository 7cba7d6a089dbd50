"""State that outlives a step: memories, moving-average teachers, and the count of steps.

All of it lives in buffers, so it is checkpointed with the model, and all of it moves only in
`step()`, which the trainer calls once for every optimizer step that was really made: a step
skipped for a NaN leaves no trace here either.
"""

import copy
import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class State(nn.Module):
    """What outlives a step and moves only in `step()`."""

    def step(self) -> None:
        """Move; called once for every optimizer step that was made."""
        raise NotImplementedError


def _check_share(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise ValueError(f"A momentum is a share from 0 to 1, but {momentum} came.")


class _Memory(State):
    """Rows that change only in `step()`, from random unit rows on that are alike on every rank."""

    rows: Tensor

    def __init__(self, size: int, width: int, seed: int):
        super().__init__()
        start = torch.randn(size, width, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("rows", F.normalize(start, dim=1))
        self._pending: tuple[Tensor, Tensor] | None = None

    def put(self, rows: Float[Tensor, "rows width"], index: Int[Tensor, "rows"]) -> None:
        """Hold rows, and the samples they belong to, back until `step()`."""
        self._pending = (rows.detach(), index)

    def step(self) -> None:
        """Take the held rows in; once, however often it is called."""
        if self._pending is not None:
            (rows, index), self._pending = self._pending, None
            self._take(rows.to(self.rows.dtype), index)

    def _take(self, rows: Tensor, index: Tensor) -> None:
        raise NotImplementedError


class Queue(_Memory):
    """First-in-first-out memory of the latest keys (MoCo, He et al. 2020, section 3.1).

    A batch that wraps around the end loses nothing.

    Args:
        size: rows kept.
        width: of a row.
        seed: of the random unit rows it starts from.
    """

    index: Tensor
    position: Tensor

    def __init__(self, size: int, width: int, *, seed: int = 0):
        super().__init__(size, width, seed)
        self.register_buffer("index", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def _take(self, rows: Tensor, index: Tensor) -> None:
        # The held rows replace the oldest ones.
        size = self.rows.shape[0]
        rows, index = rows[-size:], index[-size:]
        place = (self.position + torch.arange(len(rows), device=rows.device)) % size
        self.rows[place] = rows
        self.index[place] = index
        self.position.copy_((self.position + len(rows)) % size)


class Bank(_Memory):
    """Memory with one row for every sample of the data set (Wu et al. 2018, section 3.2).

    Args:
        size: samples in the data set.
        width: of a row.
        momentum: share of the old row that stays.
        seed: of the random unit rows it starts from.

    Raises:
        ValueError: a momentum that is no share.
    """

    def __init__(self, size: int, width: int, *, momentum: float = 0.5, seed: int = 0):
        super().__init__(size, width, seed)
        _check_share(momentum)
        self.momentum = momentum

    def _take(self, rows: Tensor, index: Tensor) -> None:
        # Of a sample that came twice the last row counts: the order of writing is left to chance.
        ordered, order = index.sort(stable=True)
        rows = rows[order[torch.searchsorted(ordered, index, right=True) - 1]]
        # Blend the held rows into their samples' places, and scale them to length 1 again.
        mixed = torch.lerp(rows, self.rows[index], self.momentum)
        self.rows[index] = F.normalize(mixed, dim=1)


class Ramp(NamedTuple):
    """A number that goes from one value to another over the first optimizer steps.

    Attributes:
        start: before the first step.
        end: from `steps` on.
        steps: how long it takes; 0 is `end` at once.
        is_cosine: along half a wave of the cosine, else along a line.
    """

    start: float
    end: float
    steps: int
    is_cosine: bool = False

    def at(self, made: Int[Tensor, ""]) -> Float[Tensor, ""]:
        """The value after `made` steps."""
        share = (made / self.steps).clamp(max=1) if self.steps else torch.ones_like(made)
        if self.is_cosine:
            share = (1 - torch.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share


def growing(momentum: float, steps: int | None) -> float | Ramp:
    """A momentum that grows to 1 over `steps` along a cosine (Grill et al. 2020); None keeps it.

    Raises:
        ValueError: no share, or no steps.
    """
    if not 0 <= momentum <= 1 or (steps is not None and steps < 1):
        raise ValueError(
            f"A momentum is a share from 0 to 1 that grows over at least one step, but {momentum} "
            f"and {steps} came."
        )
    return momentum if steps is None else Ramp(momentum, 1.0, steps, is_cosine=True)


class Teacher(State):
    """Exponential moving average of a module, buffers copied (momentum 1 freezes, 0 copies).

    The averaged module is `teacher.module`; it has no gradient. What it follows is not a part of
    it, so it is not saved twice. Weights of bfloat16 cannot take steps as small as 1 - .999 of a
    difference, which is said once: train by autocast (`bf16`) instead.

    Args:
        online: the module to follow; copied, never aliased.
        momentum: share of the old weights that stays at each step, or how it changes; then the
            steps made are saved too.

    Raises:
        ValueError: a momentum that is no share.
    """

    steps: Tensor

    def __init__(self, online: nn.Module, *, momentum: float | Ramp = 0.999):
        super().__init__()
        for share in momentum[:2] if isinstance(momentum, Ramp) else (momentum,):
            _check_share(share)
        self.module = copy.deepcopy(online).requires_grad_(False)
        self.momentum, self._said = momentum, False
        if isinstance(momentum, Ramp):
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._online: Iterator[nn.Module] | tuple[nn.Module] = (online,)

    @property
    def present(self) -> float:
        """The momentum of the step to come."""
        momentum = self.momentum
        return float(momentum.at(self.steps)) if isinstance(momentum, Ramp) else momentum

    @torch.no_grad()
    def step(self) -> None:
        """Move towards the online module's weights."""
        (online,) = self._online
        momentum = self.present
        if isinstance(self.momentum, Ramp):
            self.steps += 1
        mine: list[Tensor] = list(self.module.parameters())
        theirs = list(online.parameters())
        if mine:
            self._warn(mine[0].dtype, momentum)
            torch._foreach_lerp_(mine, [p.detach() for p in theirs], 1.0 - momentum)
        for buffer, source in zip(self.module.buffers(), online.buffers(), strict=True):
            buffer.copy_(source)

    def _warn(self, dtype: torch.dtype, momentum: float) -> None:
        if not self._said and 0 < 1 - momentum < torch.finfo(dtype).eps / 2:
            self._said = True
            logger.warning(
                "The teacher hardly moves: steps of %g of a difference are below what weights of "
                "%s can hold. Keep the weights in float32 and train by autocast (bf16), or lower "
                "the momentum.",
                1 - momentum,
                dtype,
            )

    @torch.no_grad()
    def forward(self, *args, **kwargs):
        """Call the averaged module without gradient."""
        return self.module(*args, **kwargs)


class Settled(Teacher):
    """A copy that follows a module for a number of steps, and then stays as it is.

    Args:
        online: the module to follow; copied, never aliased.
        until: steps after which the copy stays.
    """

    steps: Tensor

    def __init__(self, online: nn.Module, *, until: int):
        super().__init__(online, momentum=0.0)
        self.until = until
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def step(self) -> None:
        """Take the online module's weights over, unless the time for it is past."""
        if int(self.steps) < self.until:
            super().step()
        self.steps += 1

    @property
    def follows(self) -> Bool[Tensor, ""]:
        """True while it still follows."""
        return self.steps < self.until


class Clock(State):
    """How many optimizer steps were made, for what changes in the course of training."""

    steps: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def step(self) -> None:
        """Count one."""
        self.steps += 1


class Fixed(State):
    """A number that the first step settles and that stays from then on; NaN until then."""

    value: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("value", torch.full((), torch.nan))
        self._pending: Tensor | None = None

    def forward(self, first: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The settled number, or `first`, which the next `step()` settles."""
        self._pending = torch.where(self.value.isnan(), first.detach(), self.value)
        return self._pending

    def step(self) -> None:
        """Settle it, if it is not."""
        if self._pending is not None:
            self.value.copy_(self._pending)


class Centre(State):
    """Moving average of a vector, from 0 on; it moves only in `step()`.

    Args:
        width: of the vector.
        momentum: share of the old value that stays.

    Raises:
        ValueError: a momentum that is no share.
    """

    value: Tensor

    def __init__(self, width: int, *, momentum: float = 0.9):
        super().__init__()
        _check_share(momentum)
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(width))
        self._pending: Tensor | None = None

    def put(self, value: Float[Tensor, "width"]) -> None:
        """Hold the value of a batch (of all ranks) back until `step()`."""
        self._pending = value.detach()

    def step(self) -> None:
        """Move towards the held value; once, however often it is called."""
        if self._pending is not None:
            self.value.lerp_(self._pending.to(self.value.dtype), 1 - self.momentum)
            self._pending = None


class Tally(State):
    """How often each class came up so far; it moves only in `step()`.

    Args:
        classes: how many.
    """

    total: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("total", torch.zeros(classes, dtype=torch.float64))
        self._pending: Tensor | None = None

    def put(self, counts: Float[Tensor, "classes"]) -> None:
        """Hold the counts of a batch back until `step()`."""
        self._pending = counts.detach()

    def step(self) -> None:
        """Add the held counts; once, however often it is called."""
        if self._pending is not None:
            self.total += self._pending.to(self.total.dtype)
            self._pending = None

    def shares(self) -> Float[Tensor, "classes"]:
        """Share of each class so far; alike for all while nothing came."""
        total = self.total.sum()
        even = torch.full_like(self.total, 1 / len(self.total))
        return torch.where(total > 0, self.total / total.clamp(min=1), even)
