"""A sample by its ordinal; where its file went bad, another one in its place."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unlabel.data_pipes.faults import DecodeError

_REDRAWS = 100


class ByOrdinal:
    """Samples asked for by their ordinal in the run, which has no end; a loop gives one epoch."""

    def __len__(self) -> int:
        """Samples in an epoch."""
        raise NotImplementedError

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The sample at place `ordinal` of the run."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The samples of the first epoch, in order."""
        return (self[i] for i in range(len(self)))


def sample_at(
    ordinal: int,
    *,
    count: int,
    seed: int,
    make: Callable[[int, np.random.Generator], dict[str, Any]],
) -> dict[str, Any]:
    """The sample at a place of the run, with its `index` and `ordinal`.

    Args:
        ordinal: place in the run; `ordinal % count` is the sample's place in the data.
        count: samples in an epoch.
        seed: of the run.
        make: reads the sample at a place of the data; its random numbers are those of
            `(seed, ordinal)`, whatever worker asks.

    Raises:
        IndexError: for a negative ordinal.
        DecodeError: when a hundred samples drawn one after the other cannot be read.
    """
    if ordinal < 0:
        raise IndexError(f"An ordinal is a place in the run, 0 or more, but came {ordinal}.")
    ordinal = int(ordinal)
    index, name = ordinal % count, ""
    for attempt in range(_REDRAWS):
        random = np.random.default_rng([seed, ordinal, attempt])
        if attempt:
            index = int(random.integers(count))
        try:
            return {**make(index, random), "index": index, "ordinal": ordinal}
        except DecodeError as e:
            name = e.path
    raise DecodeError(name, f"the last of {_REDRAWS} files drawn in turn that are all bad")


__all__ = ["ByOrdinal", "sample_at"]
