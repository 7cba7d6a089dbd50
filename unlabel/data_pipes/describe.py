"""What a series looks like, in one sentence of plain statistics."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Shares of the variance from which a line, a season and noise are told.
_TREND, _STEADY, _SEASON, _SHORT_SEASON = 0.15, 0.8, 0.35, 0.6
_CONSTANT = 1e-6  # of the root mean square: less varies by rounding alone
_UNITS = {
    "s": "second", "min": "minute", "h": "hour", "d": "day", "b": "working day", "w": "week",
    "m": "month", "ms": "month", "me": "month", "q": "quarter", "qs": "quarter",
    "qe": "quarter", "y": "year", "ys": "year", "ye": "year", "a": "year", "as": "year",
}  # fmt: skip
Values = Float[np.ndarray, "steps"]


def describe(
    values: Float[np.ndarray, "steps *channels"],
    *,
    names: Sequence[str] = (),
    freq: str | None = None,
) -> str:
    """One sentence on a series: trend, season, noise, level, extremes and the largest change.

    Of each channel it says whether a straight line rises or falls (it explains 15% of the variance
    or more), after how many steps it repeats, how much of its variance is noise (half the mean
    square of the differences, the season taken out), mean, least and greatest value and where
    they lie, and where it changes most from one step to the next. Missing values are bridged.
    Equal values give equal sentences.

    Known answers: a line of slope 1 "rises steadily", a sine of period 24 "repeats every 24
    steps" (from four repeats on to the step), a constant "stays at" its value.

    Args:
        values: NaN where missing.
        names: of the channels; numbers are no names.
        freq: of a step, in pandas' names (`"h"`); None calls it a step.

    Raises:
        ValueError: another shape, or no steps.
    """
    table = np.asarray(values, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not table.size:
        raise ValueError(f"A series is (steps,) or (steps, channels), but {table.shape} came.")
    many = table.shape[1] > 1
    told = [_subject(names, i, many) for i in range(table.shape[1])]
    each = [f"{name} {_clause(x, freq)}" for name, x in zip(told, table.T, strict=True)]
    return f"Over {_time(len(table), freq)} {'; '.join(each)}."


def _subject(names: Sequence[str], place: int, many: bool) -> str:
    name = str(names[place]).replace("_", " ").strip() if place < len(names) else ""
    if re.search(r"[^\W\d]", name) and name.lower() not in ("value", "values", "y", "target"):
        return name
    return f"channel {place + 1}" if many else "the series"


def _time(steps: float, freq: str | None) -> str:
    """So many steps, in words."""
    steps = round(steps, 1)
    times, name = re.fullmatch(r"(\d*)(.*)", (freq or "").split("-")[0]).groups()  # type: ignore[union-attr]
    unit = _UNITS.get(name.lower() if name not in ("M", "MS", "ME") else "m")
    if unit is None:
        return f"{steps:g} step{'s' * (steps != 1)}"
    count = steps * int(times or 1)
    for small, large, size in (("second", "minute", 60), ("minute", "hour", 60)):
        if times and unit == small and count % size == 0:
            unit, count = large, count // size
    return f"{count:g} {unit}{'s' * (count != 1)}"


def _clause(x: Values, freq: str | None) -> str:
    seen = np.isfinite(x)
    if not seen.any():
        return "has no value"
    places = np.flatnonzero(seen)
    x = np.interp(np.arange(len(x)), places, x[seen])
    if np.ptp(x) <= _CONSTANT * np.sqrt(np.mean(x**2)):
        return f"stays at {_number(x.mean())}"
    found = _Parts.of(x)
    season = f"repeats every {_time(found.period, freq)}" if found.period else ""
    moves = " and ".join(filter(None, [_trend(found), season]))
    low, high = _where(int(x.argmin()), len(x)), _where(int(x.argmax()), len(x))
    least, most = float(x.min()), float(x.max())
    mean = 0.0 if abs(x.mean()) < _CONSTANT * (most - least) else float(x.mean())
    size = f"{_number(mean)} between {_number(least)} and {_number(most)}"
    return (
        f"{moves}, {_noise(found)}{_spread(found)}, around {size}, lowest {low} and highest {high},"
        f" and {_change(x)}"
    )


@dataclass(frozen=True)
class _Parts:
    """A line, a season and what is left of a series.

    Attributes:
        share: of the variance that the line explains.
        slope: of the line, per step.
        period: steps of the season, perhaps no whole number; 0 for none.
        noise: share of the variance that is noise.
        halves: size of the noise in the second half, in that of the first.
    """

    share: float
    slope: float
    period: float
    noise: float
    halves: float

    @classmethod
    def of(cls, x: Values) -> "_Parts":
        t = np.arange(len(x)) - (len(x) - 1) / 2
        slope = float((t * x).sum() / (t**2).sum())
        level = x - slope * t
        share = float(1 - level.var() / x.var())
        period = _period(level)
        bare = level - _season(level, period) if period else level
        steps = np.diff(bare)
        noise = float(np.mean(steps**2) / 2 / x.var())
        half = len(steps) // 2
        first, second = (float(s.std()) if len(s) else 0.0 for s in (steps[:half], steps[half:]))
        return cls(share, slope, period, noise, second / first if first > 0 else 1.0)


def _season(x: Values, period: float) -> Values:
    """The mean of each phase, a step wide."""
    count = round(period)
    phase = (np.arange(len(x)) % period * (count / period)).astype(int) % count
    return (np.bincount(phase, x) / np.maximum(np.bincount(phase), 1))[phase]


def _period(x: Values) -> float:
    """The shortest lag at which a series is about as like itself as at any; 0 for none.

    A lag counts where the means of its phases explain the variance, with the freedom that they
    take accounted for; of two to three repeats they must explain more.
    """
    x = x - x.mean()
    steps, longest = len(x), len(x) // 2
    if longest < 2 or x.var() <= _CONSTANT**2:
        return 0
    power = np.abs(np.fft.rfft(x, 2 * steps)) ** 2
    like = np.fft.irfft(power)[: longest + 2] / (steps - np.arange(longest + 2))
    inner = like[1:-1]
    peaks = 1 + np.flatnonzero((inner >= like[:-2]) & (inner >= like[2:]))
    peaks = peaks[(peaks >= 2) & (peaks <= longest)]
    good = [int(p) for p in peaks if like[p] >= 0.85 * like[peaks].max()]
    if not good or like[good[0]] <= 0:
        return 0
    found = min(max(_refined(good[0], like), 2), longest)
    near = [found] if found != round(found) else [found + i for i in range(-2, 3)]
    told = {p: _explained(x, p) for p in near if 2 <= p <= longest}
    period = max(told, key=lambda p: told[p])
    least = _SEASON if 3 * period <= steps else _SHORT_SEASON
    return period if told[period] >= least else 0


def _explained(x: Values, period: float) -> float:
    """Share of the variance that the means of the phases explain, adjusted for their number."""
    left = (x - _season(x, period)).var() / x.var()
    return float(1 - left * (len(x) - 1) / max(len(x) - period, 1))


def _refined(period: float, like: Values) -> float:
    """A period to a part of a step, from where its multiples lie; whole ones stay as they are."""
    times = 1
    while (lag := round(times * period)) < len(like) - 1:
        left, top, right = like[lag - 1 : lag + 2]
        bend = left - 2 * top + right
        moved = float(np.clip((left - right) / (2 * bend), -1, 1)) if bend < 0 else 0.0
        period = (lag + moved) / times
        times *= 2
    near = round(period)
    return near if period >= 10 or abs(period - near) < 0.1 else period


def _trend(found: _Parts) -> str:
    if found.share < _TREND:
        return "" if found.period else "has no trend"
    way = "rises" if found.slope > 0 else "falls"
    return f"{way} steadily" if found.share >= _STEADY else way


def _noise(found: _Parts) -> str:
    for least, words in ((0.5, "very noisy"), (0.15, "noisy"), (0.01, "slightly noisy")):
        if found.noise >= least:
            return words
    return "smooth"


def _spread(found: _Parts) -> str:
    if found.noise < 0.01 or 0.5 < found.halves < 2:
        return ""
    return " and ever wilder" if found.halves >= 2 else " and ever calmer"


def _change(x: Values) -> str:
    """The largest step, and whether it stands out."""
    steps = np.diff(x)
    place = int(np.abs(steps).argmax())
    if np.ptp(steps) <= _CONSTANT * np.ptp(x):
        return "changes evenly"
    way = "up" if steps[place] > 0 else "down"
    others = np.delete(np.abs(steps), place)
    jumps = len(others) > 0 and abs(steps[place]) > 4 * max(others.max(), _CONSTANT * np.ptp(x))
    where = _where(place + 0.5, len(x))
    return f"jumps {way} {where}" if jumps else f"changes most {where}, {way}"


def _where(place: float, steps: int) -> str:
    share = place / max(steps - 1, 1)
    for until, words in ((0.1, "at the start"), (0.4, "early"), (0.6, "in the middle")):
        if share < until:
            return words
    return "late" if share <= 0.9 else "at the end"


def _number(x: float) -> str:
    return f"{x:.3g}"


__all__ = ["describe"]
