"""Series laid end to end, cut at any step into what was and what came, many at a time."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Float32, Int64

from unlabel.core import Batch
from unlabel.data_pipes.series_data import Series

Counts = Int64[np.ndarray, "rows"]


class SeriesRows:
    """Rows to forecast: a channel each, or all channels of a series together.

    A window is a row and an `origin`, the step at which its future begins. Its history reaches
    back as far as the row does; what lies before the row's first step is padding.

    Attributes:
        values: of all rows end to end, NaN where missing, `(steps, channels)`.
        length: steps of each row.
        series: place of each row's series.
        channel: of each row in its series; 0 where all are together.

    Args:
        series: those to lay.
        together: all channels of a series in one row; the series need equally many then.
        fill: show encoders a straight line where a history of at least 2 values has gaps.
    """

    def __init__(self, series: Sequence[Series], *, together: bool = False, fill: bool = False):
        self.fill = fill
        order = "t c -> t c" if together else "t c -> (c t) 1"
        self.values = np.concatenate([rearrange(s.values, order) for s in series])
        widths = np.array([1 if together else s.values.shape[1] for s in series])
        places = np.repeat(np.arange(len(series)), widths)
        self.channel = np.arange(len(places)) - np.repeat(np.cumsum(widths) - widths, widths)
        steps = np.array([len(s) for s in series], dtype=np.int64)
        self.series, self.length = places, steps[places]
        self.begin = np.cumsum(self.length) - self.length
        self._known_begin = (np.cumsum(steps) - steps)[places]
        self._known = _stack(s.covariates for s in series)
        static = [s.static for s in series if s.static is not None]
        self._static = np.stack(static) if static else None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.length)

    def batch(self, row: Counts, origin: Counts, context: int, horizon: int = 0) -> Batch:
        """The `context` steps before the origins (and the `horizon` after), for the encoder."""
        span = (-context, horizon)
        values, exists = self._cut(self.values, self.begin, row, origin, *span)
        values = np.where(exists[..., None], values, np.nan)
        if self.fill and np.isnan(values[:, :context]).any():
            past = values[:, :context]
            bridged = exists[:, :context, None] & (np.isfinite(past).sum(1, keepdims=True) >= 2)
            values[:, :context] = np.where(bridged, filled(past), past)
        observed = np.isfinite(values)
        inputs = {"values": np.where(observed, values, 0).astype(np.float32), "observed": observed}
        if self._known is not None:
            known, _ = self._cut(self._known, self._known_begin, row, origin, *span)
            inputs["covariates"] = np.where(exists[..., None], known, 0).astype(np.float32)
        if self._static is not None:
            inputs["static"] = self._static[self.series[row]]
        places = torch.arange(len(row))
        tensors = {k: torch.from_numpy(v) for k, v in inputs.items()}
        return Batch(tensors, torch.from_numpy(exists), index=places, ordinal=places)

    def futures(
        self, row: Counts, origin: Counts, horizon: int
    ) -> Float32[np.ndarray, "windows horizon channels"]:
        """The `horizon` steps from the origins on, NaN where missing or after the last row."""
        values, exists = self._cut(self.values, self.begin, row, origin, 0, horizon)
        return np.where(exists[..., None], values, np.nan)

    def known(
        self, row: Counts, origin: Counts, horizon: int
    ) -> Float32[np.ndarray, "windows horizon covariates"] | None:
        """Covariates of those steps; after the last row the last ones again."""
        if self._known is None:
            return None
        return self._cut(self._known, self._known_begin, row, origin, 0, horizon)[0]

    def _cut(
        self, flat: np.ndarray, begin: Counts, row: Counts, origin: Counts, start: int, stop: int
    ) -> tuple[np.ndarray, Bool[np.ndarray, "windows steps"]]:
        """Steps `origin + start` to `origin + stop` of each window, and True where there are."""
        steps = origin[:, None] + np.arange(start, stop)
        last = self.length[row][:, None] - 1
        return flat[begin[row][:, None] + np.clip(steps, 0, last)], (0 <= steps) & (steps <= last)

    def extended(
        self,
        values: Float[np.ndarray, "rows horizon channels"],
        known: Float[np.ndarray, "rows horizon covariates"] | None,
    ) -> "SeriesRows":
        """The rows with further steps, such as those that were forecast."""
        more = object.__new__(SeriesRows)
        more.__dict__.update(self.__dict__)
        more.values = _extend(self.values, self.begin, self.length, values)
        if self._known is not None:
            assert known is not None  # they go on with the values
            more._known = _extend(self._known, self._known_begin, self.length, known)
        more.length = self.length + values.shape[1]
        more.begin = more._known_begin = np.cumsum(more.length) - more.length
        return more


def windows_between(
    first: Counts, last: Counts, *, limit: int | None = None
) -> tuple[Counts, Counts]:
    """Row and origin of the windows with origins `first <= origin < last` of each row.

    Args:
        first: of each row.
        last: one past the last; not above `first` where a row has none.
        limit: take so many at most, evenly spaced.
    """
    counts = np.maximum(last - first, 0)
    until = np.cumsum(counts)
    total = int(until[-1])
    wanted = total if limit is None else min(total, limit)
    places = np.arange(wanted, dtype=np.int64) * total // max(wanted, 1)
    row = np.searchsorted(until, places, side="right")
    return row, first[row] + places - (until - counts)[row]


def filled(values: Float32[np.ndarray, "windows horizon channels"]) -> np.ndarray:
    """Gaps along a straight line between their neighbours, level at the ends; NaN if all gap."""
    horizon = values.shape[1]
    seen = np.isfinite(values)
    steps = repeat(np.arange(horizon), "h -> 1 h 1")
    before = np.maximum.accumulate(np.where(seen, steps, -1), axis=1)
    after = np.minimum.accumulate(np.where(seen, steps, horizon)[:, ::-1], axis=1)[:, ::-1]
    before, after = np.where(before < 0, after, before), np.where(after == horizon, before, after)
    left, right = (
        np.take_along_axis(values, x.clip(0, horizon - 1), axis=1) for x in (before, after)
    )
    share = (steps - before) / np.maximum(after - before, 1)
    return np.where(seen, values, left + (right - left) * share)


def _stack(parts: Iterable[np.ndarray | None]) -> np.ndarray | None:
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if given else None


def _extend(flat: np.ndarray, begin: Counts, length: Counts, more: np.ndarray) -> np.ndarray:
    """Each row's steps, then its new ones."""
    ahead = more.shape[1]
    total = length + ahead
    row = np.repeat(np.arange(len(length)), total)
    step = np.arange(len(row)) - np.repeat(np.cumsum(total) - total, total)
    old = flat[begin[row] + np.minimum(step, length[row] - 1)]
    new = more[row, np.clip(step - length[row], 0, ahead - 1)]
    return np.where((step < length[row])[:, None], old, new).astype(flat.dtype)
