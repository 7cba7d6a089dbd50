"""Text that is written from windows of series."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from unlabel.data_pipes.describe import describe


class Described:
    """Token ids of a sentence on each window of a store of series, see `describe`.

    The same ordinal asks both stores for the same window.

    Attributes:
        tokenizer: makes the ids; set before a sample is asked for.
        max_length: tokens at most.

    Args:
        series: the windows.
        names: of the channels.
        freq: of a step.
    """

    def __init__(self, series: Any, *, names: Sequence[str] = (), freq: str | None = None):
        self.series, self.names, self.freq = series, tuple(names), freq
        self.tokenizer: Any = None
        self.max_length = 0

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.series)

    @property
    def lengths(self) -> Int64[np.ndarray, "count"]:
        """Tokens of each sentence at most."""
        return np.broadcast_to(np.int64(self.max_length), len(self))

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The sample at place `ordinal` of the run."""
        sample = self.series[ordinal]
        ids = self.tokenizer(self.text(sample), truncation=True, max_length=self.max_length)
        return {"input_ids": ids["input_ids"], **{k: sample[k] for k in ("index", "ordinal")}}

    def text(self, sample: dict[str, Any]) -> str:
        """The sentence on a window."""
        return describe(sample["values"], names=self.names, freq=self.freq)

    def texts(self, count: int) -> list[str]:
        """Those on the first windows."""
        return [self.text(self.series[i]) for i in range(count)]


__all__ = ["Described"]
