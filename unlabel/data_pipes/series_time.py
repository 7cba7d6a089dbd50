"""Time stamps to step numbers: which step a series has, and where its gaps are."""

import math
import re
import warnings
from datetime import timedelta
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64
from pandas.tseries import offsets
from pandas.tseries.frequencies import to_offset

_DAY = 86_400_000_000  # microseconds
_OFFSET = re.compile(r"(?:Z|[-+]\d{2}:?\d{2})\s*$")
_DAY_OR_MONTH = re.compile(r"\s*\d{1,2}([-/.])\d{1,2}\1\d{2}")


class BadStamp(ValueError):
    """A time stamp that cannot be read.

    Attributes:
        row: its place in the column, from 0.
    """

    def __init__(self, row: int, text: str, like: str = ""):
        super().__init__(f"{text!r} is no date{like}")
        self.row = row


class Step(NamedTuple):
    """The regular step of a series.

    Attributes:
        unit: `ticks` (microseconds of dates, or the numbers of a counting time column), `months`
            or `business` days.
        size: how many of them.
        ends: of months, each stamp is the last day of one.
    """

    unit: str
    size: int
    ends: bool = False


class Stamps(NamedTuple):
    """A time column as whole numbers.

    Attributes:
        values: microseconds since 1970, or numbers that count.
        known: False where the field is empty.
        dates: whether the numbers are dates.
        ticks: of them in a second, or in one of a counting column.
    """

    values: Int64[np.ndarray, "rows"]
    known: Bool[np.ndarray, "rows"]
    dates: bool
    ticks: int = 1_000_000


def parse_stamps(column: pd.Series) -> Stamps:
    """Read a time column.

    Stamps of a time zone become wall-clock dates where all lie at midnight, and UTC otherwise.
    Where 01.02.2024 may be either, dots mean that the day comes first; otherwise the month does,
    unless only the other reading gives a step with fewer gaps.
    Numbers of 10, 13, 16 or 19 digits are seconds, milli-, micro- or nanoseconds since 1970, and
    20240131 is a date where all are such; other numbers count steps, in millionths where they have
    a fraction.

    Raises:
        BadStamp: naming the first stamp that cannot be read.
    """
    if pd.api.types.is_bool_dtype(column):
        raise BadStamp(0, str(column.iloc[0]))
    if pd.api.types.is_numeric_dtype(column):
        return _parse_numbers(column)
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    dates = _without_zone(_parse_dates(column)).to_numpy(dtype="datetime64[us]")
    return Stamps(dates.astype(np.int64), ~np.isnat(dates), True)


def timestamp(microseconds: int) -> pd.Timestamp:
    """The date that a stamp stands for."""
    return cast(pd.Timestamp, pd.Timestamp(microseconds, unit="us"))


def _parse_numbers(column: pd.Series) -> Stamps:
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(numbers)
    for digits in (10, 13, 16, 19):  # seconds to nanoseconds since 1970, of 2001 to 2286
        if known.any() and _has_digits(numbers[known], digits):
            unit = {10: "s", 13: "ms", 16: "us", 19: "ns"}[digits]
            return parse_stamps(cast(pd.Series, pd.to_datetime(column, unit=unit)))
    if known.any() and _has_digits(numbers[known], 8) and (numbers[known] % 1 == 0).all():
        text = pd.Series([f"{n:.0f}" if k else None for n, k in zip(numbers, known, strict=True)])
        dates = pd.to_datetime(text, format="%Y%m%d", errors="coerce")
        if bool(dates[known].dt.year.between(1800, 2200).all()):
            return parse_stamps(dates)
    if pd.api.types.is_integer_dtype(column):  # beyond 2 ** 53 a float is not exact
        return Stamps(column.to_numpy(dtype=np.int64, na_value=0), known, False, 1)
    numbers = np.where(known, numbers, 0.0)
    scale = 1 if (numbers % 1 == 0).all() else 1_000_000
    return Stamps(np.rint(numbers * scale).astype(np.int64), known, False, scale)


def _has_digits(numbers: Float[np.ndarray, "rows"], digits: int) -> bool:
    return bool((numbers >= 10 ** (digits - 1)).all() and (numbers < 10**digits).all())


def _parse_dates(column: pd.Series) -> pd.Series:
    tries: tuple[dict[str, Any], ...] = (
        {},
        {"dayfirst": True},
        {"format": "ISO8601"},
        {"format": "ISO8601", "utc": True},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a format that had to be guessed, quarters as text
        for options in tries:
            try:
                dates = pd.to_datetime(column, **options)
            except (ValueError, TypeError, OverflowError):
                continue
            if "utc" in options:
                return _wall_clock(column, dates)
            return dates if options else _by_day_or_month(column, dates)
        dates = pd.to_datetime(column, errors="coerce", utc=True, format="mixed")
        wrong, like = np.flatnonzero((dates.isna() & column.notna()).to_numpy()), ""
        if not len(wrong):  # each reads as a date, but not all in one way
            dates = pd.to_datetime(column, errors="coerce")
            wrong = np.flatnonzero((dates.isna() & column.notna()).to_numpy())
            like = f" written like {str(column.dropna().iloc[0])[:40]!r} before it"
    row = int(wrong[0]) if len(wrong) else 0
    raise BadStamp(row, str(column.iloc[row])[:40], like)


def _wall_clock(column: pd.Series, dates: pd.Series) -> pd.Series:
    """Dates of several offsets (a zone's summer and winter) as clocks show them, at midnight."""
    text = column.astype("string").str.replace(_OFFSET, "", regex=True)
    shown = pd.to_datetime(text, format="ISO8601")
    return shown if _at_midnight(shown) else dates


def _by_day_or_month(column: pd.Series, dates: pd.Series) -> pd.Series:
    """The dates, or the reading in which the day comes first, see `parse_stamps`."""
    known = column.dropna()
    found = _DAY_OR_MONTH.match(str(known.iloc[0])) if len(known) else None
    if found is None:
        return dates
    try:
        other = pd.to_datetime(column, dayfirst=True)
    except (ValueError, TypeError, OverflowError):
        return dates
    return other if found[1] == "." or _gaps(other) < _gaps(dates) else dates


def _gaps(dates: pd.Series) -> float:
    """Steps that a regular grid of the dates lacks; infinity where they have no step."""
    stamps = np.unique(dates.dropna().to_numpy(dtype="datetime64[us]").astype(np.int64))
    step = infer_step(stamps, np.diff(stamps), dates=True)
    if step is None:
        return math.inf
    return float(count_steps(stamps, stamps[:1], step)[0][-1] + 1 - len(stamps))


def _without_zone(dates: pd.Series) -> pd.Series:
    if dates.dt.tz is None:
        return dates
    return dates.dt.tz_localize(None) if _at_midnight(dates) else dates.dt.tz_convert(None)


def _at_midnight(dates: pd.Series) -> bool:
    known = dates.dropna()
    return bool((known == known.dt.normalize()).all())


def in_zone(times: pd.Index, column: pd.Series) -> pd.Index:
    """Dates that go on from those of a column, in the column's time zone, if it has one.

    Args:
        times: without a zone, as `parse_stamps` reads the column.
        column: as the caller has it.
    """
    if not isinstance(column.dtype, pd.DatetimeTZDtype) or not isinstance(times, pd.DatetimeIndex):
        return times
    if not _at_midnight(column):
        return times.tz_localize("UTC").tz_convert(column.dtype.tz)
    first = np.ones(len(times), dtype=bool)  # of two midnights in a night that has two
    return times.tz_localize(column.dtype.tz, ambiguous=first, nonexistent="shift_forward")


def infer_step(
    stamps: Int64[np.ndarray, "rows"], differences: Int64[np.ndarray, "pairs"], *, dates: bool
) -> Step | None:
    """The commonest difference as a step; calendar months and business days are told apart.

    None where even the commonest one is rare.

    Args:
        stamps: microseconds since 1970, or counts.
        differences: of neighbours in time within a series, all above 0.
        dates: whether the stamps are dates.
    """
    if not len(differences):
        return None
    sizes, counts = np.unique(differences, return_counts=True)
    if len(differences) > 3 and counts.max() < max(2, len(differences) / 5):
        return None
    size = int(sizes[counts.argmax()])
    if dates and 28 * _DAY <= size <= 366 * _DAY and _same_day_of_month(stamps):
        months = np.diff(np.unique(_months(stamps)))
        return Step("months", int(np.bincount(months).argmax()), _at_month_ends(stamps))
    if dates and size == _DAY and (sizes == 3 * _DAY).any():
        days = stamps // _DAY
        if np.is_busday(days.astype("datetime64[D]")).all():
            return Step("business", 1)
    return Step("ticks", size)


def step_of(freq: str) -> Step:
    """What pandas' name of a frequency means.

    Raises:
        ValueError: for a name pandas does not know, or a step that is not of equal length.
    """
    try:
        offset = to_offset(freq)
    except ValueError as e:
        raise ValueError(f"freq={freq!r} is no step that pandas knows; try 'h' or 'MS'.") from e
    months = {"M": 1, "Q": 3, "Y": 12, "B": 0}
    name = offset.rule_code.split("-")[0]
    if isinstance(offset, offsets.Week):
        return Step("ticks", 7 * _DAY * offset.n)
    if isinstance(offset, offsets.Day):
        return Step("ticks", _DAY * offset.n)
    if isinstance(offset, offsets.Tick):
        return Step("ticks", offset.nanos // 1000)
    if name == "B":
        return Step("business", offset.n)
    if name in {f"{period}{end}" for period in "MQY" for end in "SE"}:
        return Step("months", months[name[0]] * offset.n, name[1] == "E")
    raise ValueError(f"freq={freq!r} is not supported; take minutes to years, such as 'h', 'MS'.")


def count_steps(
    stamps: Int64[np.ndarray, "rows"], first: Int64[np.ndarray, "rows"], step: Step
) -> tuple[Int64[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]:
    """Steps from `first` to each stamp, and True where the stamp lies on the grid."""
    if step.unit == "months":
        number, rest = np.divmod(_months(stamps) - _months(first), step.size)
        return number, rest == 0
    if step.unit == "business":
        days, starts = stamps // _DAY, first // _DAY
        dates = days.astype("datetime64[D]")
        passed = np.busday_count(starts.astype("datetime64[D]"), dates)
        number, rest = np.divmod(passed, step.size)
        same_hour = stamps - days * _DAY == first - starts * _DAY
        return number, (rest == 0) & same_hour & np.is_busday(dates)
    number, rest = np.divmod(stamps - first, step.size)
    return number, rest == 0


def name_of(step: Step, first: pd.Timestamp) -> str | None:
    """Pandas' name of a step, such as `"h"`, `"W-FRI"` or `"QS-OCT"`; None where it has none."""
    if step.unit == "business":
        return offsets.BDay(step.size).freqstr
    if step.unit == "months":
        return _name_of_months(step, first)
    days, rest = divmod(step.size, _DAY)
    if rest:
        return to_offset(timedelta(microseconds=step.size)).freqstr
    if days % 7:
        return offsets.Day(days).freqstr
    return offsets.Week(days // 7, weekday=first.weekday()).freqstr


def _name_of_months(step: Step, first: pd.Timestamp) -> str | None:
    if not (step.ends or first.is_month_start):
        return None
    months, month = step.size, first.month
    if months % 12 == 0:
        year = offsets.YearEnd if step.ends else offsets.YearBegin
        return year(months // 12, month=month).freqstr
    if months % 3 == 0:
        quarter = offsets.QuarterEnd if step.ends else offsets.QuarterBegin
        return quarter(months // 3, startingMonth=month).freqstr
    return (offsets.MonthEnd if step.ends else offsets.MonthBegin)(months).freqstr


def _months(stamps: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows"]:
    return stamps.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)


def _same_day_of_month(stamps: Int64[np.ndarray, "rows"]) -> bool:
    return bool(np.ptp(_in_month(stamps)) == 0) or _at_month_ends(stamps)


def _at_month_ends(stamps: Int64[np.ndarray, "rows"]) -> bool:
    return bool((_in_month(stamps + _DAY) < _DAY).all())


def _in_month(stamps: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows"]:
    """Time since the month began."""
    months = stamps.astype("datetime64[us]").astype("datetime64[M]")
    return stamps - months.astype("datetime64[us]").astype(np.int64)
