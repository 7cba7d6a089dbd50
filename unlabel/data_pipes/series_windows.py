"""Which windows many series have, by counting (nothing is listed), and their settings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

Counts = Int64[np.ndarray, "series"]
# The settings of a store's windows, beside `context`; see `SeriesStore`.
DEFAULTS: dict[str, Any] = {
    "horizon": 0,
    "stride": 1,
    "min_length": None,
    "sensor": False,
    "balance": "windows",
    "span": (0, None),
}


@dataclass(frozen=True)
class Windows:
    """Windows of every series, ordered by series, then time, then channel.

    Attributes:
        first: row where the windows of a series begin.
        last: row before which they end.
        samples: of each series: windows, times the channels that are samples of their own.
        until: samples of the series up to this one.
        shorter: series that give one window of fewer steps.
        longest: steps of the longest series.
    """

    first: Counts
    last: Counts
    samples: Counts
    until: Counts
    shorter: int
    longest: int

    @classmethod
    def of(
        cls,
        steps: Counts,
        per_window: Counts | int,
        *,
        size: int,
        stride: int,
        min_length: int,
        span: tuple[float, float | None],
    ) -> "Windows":
        """Count them.

        Args:
            steps: of each series.
            per_window: samples of each window.
            size: steps of a window.
            stride: steps between the starts of neighbouring windows.
            min_length: steps that a series shorter than a window must have.
            span: rows between which windows lie, see `SeriesStore.part`.
        """
        first = _rows_at(span[0], steps)
        last = steps if span[1] is None else _rows_at(span[1], steps)
        lengths = np.maximum(last - first, 0)
        whole = lengths >= size
        shorter = ~whole & (lengths >= min_length)
        windows = np.where(whole, (lengths - size) // stride + 1, shorter)
        samples = windows * per_window
        return cls(first, last, samples, np.cumsum(samples), int(shorter.sum()), int(lengths.max()))

    @property
    def count(self) -> int:
        """All samples."""
        return int(self.until[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Series of a sample, and its place among the samples of that series."""
        series = int(np.searchsorted(self.until, index, side="right"))
        return series, index - int(self.until[series] - self.samples[series])


def hash_of(ordinal: int, use: int = 0) -> int:
    """64 random bits that belong to a sample; `use` tells apart what they are for.

    The finaliser of splitmix64 (Steele et al. 2014) on plain integers.
    """
    full = (1 << 64) - 1
    x = (ordinal * 2 + use + 1) * 0x9E3779B97F4A7C15 & full
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & full
    x = (x ^ x >> 27) * 0x94D049BB133111EB & full
    return x ^ x >> 31


def _rows_at(place: float, steps: Counts) -> Counts:
    if isinstance(place, float):
        return (place * steps).astype(np.int64).clip(0, steps)
    return (steps + place if place < 0 else np.full_like(steps, place)).clip(0, steps)


def check_settings(settings: dict[str, Any], channels: str, widths: Counts) -> None:
    """Refuse windows that cannot be made.

    Raises:
        ValueError: an unknown setting, a size below 1, or `sensor` without another channel.
    """
    if unknown := sorted(set(settings) - {"context", *DEFAULTS}):
        raise ValueError(f"A store has no {', '.join(unknown)}; it has {', '.join(DEFAULTS)}.")
    for name, least in (("context", 1), ("horizon", 0), ("stride", 1)):
        if settings[name] < least:
            raise ValueError(f"{name} is at least {least}, but {settings[name]} came.")
    if settings["balance"] not in ("windows", "series"):
        raise ValueError(f"balance is 'windows' or 'series', but {settings['balance']!r} came.")
    if settings["sensor"] and channels == "together":
        raise ValueError("sensor=True pairs single channels; take channels='independent'.")
    if settings["sensor"] and widths.min() < 2:
        raise ValueError(
            "sensor=True pairs a channel with another one of its series, but a series has only "
            "one; leave sensor out."
        )
