"""The calendar of a series beyond its last row: time stamps of any step, and steps of a season."""

from functools import lru_cache

import numpy as np
import pandas as pd

from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_time import Step, step_of

_DAY = 86_400_000_000  # microseconds


def times_of(series: Series, first: int, count: int) -> pd.Index:
    """Time stamps of the steps `first` to `first + count - 1`, counted from the series' first.

    Numbers where its time column counts, and the steps themselves where it has none.

    Raises:
        ValueError: the series is of irregular step, so that no later stamp is known.
    """
    if series.start is None:
        return pd.RangeIndex(first, first + count)
    step = step_of_series(series)
    if step is None:
        raise ValueError(
            f"The time stamps of {series.id!r} have no regular step, so those of a forecast are "
            "not known; name the step with freq=, such as freq='D', or mend the stamps."
        )
    return stamps_from(series.start, step, first, count)


def step_of_series(series: Series) -> Step | None:
    """What one row of the series stands for, None where it is not known."""
    if series.step is not None or series.freq is None:
        return series.step
    return step_of(series.freq)


@lru_cache(maxsize=1024)  # series of a panel share their calendar more often than not
def stamps_from(start: pd.Timestamp | int, step: Step, first: int, count: int) -> pd.Index:
    """Time stamps of the steps `first` to `first + count - 1` from `start` on."""
    ahead = np.arange(first, first + count, dtype=np.int64) * step.size
    if not isinstance(start, pd.Timestamp):
        return pd.Index(start + ahead)
    if step.unit == "months":
        if step.ends and start.is_month_end:
            months = pd.period_range(start, periods=int(ahead[-1]) + 1, freq="M")[ahead]
            return months.to_timestamp(how="end").normalize() + (start - start.normalize())
        return pd.DatetimeIndex([start + pd.DateOffset(months=int(m)) for m in ahead])
    if step.unit == "business":
        days = np.busday_offset(start.normalize().to_datetime64().astype("M8[D]"), ahead)
        return pd.DatetimeIndex(days).as_unit("us") + (start - start.normalize())
    return pd.DatetimeIndex(start.to_datetime64().astype("M8[us]") + ahead.astype("m8[us]"))


def season_of(step: Step | None) -> int:
    """Steps of the usual season: a day of less than daily steps, a week, a year; 1 for none.

    Reference: the table of the M4 competition (Makridakis et al. 2020, section 2), where hourly
    series have a season of 24, monthly ones of 12; weekly ones have 52 here.
    """
    if step is None:
        return 1
    if step.unit == "months":
        return 12 // step.size if 12 % step.size == 0 else 1
    if step.unit == "business":
        return 5 if step.size == 1 else 1
    for season in (_DAY, 7 * _DAY, 364 * _DAY):
        if step.size < season and season % step.size == 0:
            return season // step.size
    return 1
