"""How much of the training time passes in waiting for batches."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MUCH = 1 / 3


class Waiting:
    """Share of the time between asking for a step's batches and the step's end that is waiting.

    Waiting is the time between asking the loader and having all batches of the step. Log lines
    and checkpoints lie between steps and are not counted. What a device has still to do of the
    step before, when the next one's batches are asked for, counts as waiting; since a step waits
    for its gradient's norm, that is the optimizer's share alone.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._asked = self._waited = 0.0
        self._since = [0.0, 0.0]  # waited and all seconds since the last line
        self._before = [0.0, 0.0]

    @contextmanager
    def for_batches(self) -> Iterator[None]:
        """Around asking the loader for the batches of a step."""
        self._asked = self._clock()
        yield
        self._waited = self._clock() - self._asked

    def end_step(self) -> None:
        """The step that those batches were for has ended."""
        self._since[0] += self._waited
        self._since[1] += self._clock() - self._asked

    def share(self) -> float:
        """Of the steps since the last call; 0 where there was none."""
        share = _share(self._since)
        self._before = [a + b for a, b in zip(self._before, self._since, strict=True)]
        self._since = [0.0, 0.0]
        return share

    @property
    def total(self) -> float:
        """Of all steps; a resumed run counts from where it went on."""
        return _share([a + b for a, b in zip(self._before, self._since, strict=True)])


def _share(seconds: list[float]) -> float:
    return seconds[0] / seconds[1] if seconds[1] else 0.0


def waiting_alarm(share: float) -> str | None:
    """A plain warning, with the remedy, where more than a third of the time is waiting."""
    if share <= MUCH:
        return None
    return (
        f"{100 * share:.0f} % of the training time was waiting for data, not training. Let more "
        "processes read (--training.dataloader_num_workers, up to the cores there are), or keep "
        "more of what was decoded (for pictures and video a larger cache_gb)."
    )


def told_by_worker(error: Exception) -> str | None:
    """What a worker of torch's loader found wrong with the data, without its traces; else None.

    torch puts the trace into the message, and that of an error which it cannot make anew into a
    RuntimeError.
    """
    said = str(error).strip()
    if not said.startswith(("Caught ValueError in Data", "Caught DecodeError in Data")):
        return None
    return said.splitlines()[-1].partition(": ")[2] or None


__all__ = ["MUCH", "Waiting", "told_by_worker", "waiting_alarm"]
