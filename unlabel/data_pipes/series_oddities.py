"""Values that are none, codes for missing ones, and channels that say nothing."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int64

from unlabel.data_pipes.report import ReadReport


def clean(
    values: Float[np.ndarray, "rows channels"],
    names: Sequence[str],
    name: str,
    missing: Sequence[float],
    report: ReadReport,
) -> Float[np.ndarray, "rows channels"]:
    """Infinite and declared values made missing; other suspects named.

    Args:
        values: of one source.
        names: of its channels.
        name: of the source.
        missing: values that mean 'missing'.
        report: takes counts.
    """
    # What float32 cannot hold would become infinite later.
    if (infinite := np.abs(values) > np.finfo(np.float32).max).any():
        report.note(
            "infinite",
            f"{name}: {names[int(infinite.any(0).argmax())]!r}",
            count=int(infinite.sum()),
        )
        values = np.where(infinite, np.nan, values)
    if len(missing) and (declared := np.isin(values, missing)).any():
        report.note("declared_missing", name, count=int(declared.sum()))
        values = np.where(declared, np.nan, values)
    for channel, value, count in find_sentinels(values):
        report.note(
            "sentinels",
            f"{value:g} {count} times in {names[channel]!r} of {name}: missing=[{value:g}]?",
        )
    return values


def find_sentinels(
    values: Float[np.ndarray, "rows channels"], *, scale: float = 10.0
) -> list[tuple[int, float, int]]:
    """Lowest and highest values that recur, far from all others: -9999 among degrees.

    Args:
        values: NaN where missing.
        scale: how many interquartile ranges lie between the value and its nearest neighbour.

    Returns:
        channel, value and count of each.
    """
    found = []
    for channel, column in enumerate(values.T):
        column = np.sort(column[~np.isnan(column)])
        if len(column) < 8:
            continue
        far = scale * np.subtract(*np.percentile(column, [75, 25]))
        for value, others in (
            (column[0], column[np.searchsorted(column, column[0], "right") :]),
            (column[-1], column[: np.searchsorted(column, column[-1], "left")][::-1]),
        ):
            count = len(column) - len(others)
            if far > 0 and 2 <= count < len(column) and abs(others[0] - value) > far:
                found.append((channel, float(value), count))
    return found


def note_oddities(
    values: Float32[np.ndarray, "steps channels"],
    offsets: Int64[np.ndarray, "series+1"],
    ids: Sequence[str],
    names: Sequence[str],
    report: ReadReport,
) -> None:
    """Count and name the channels without a value, and those that never change."""
    low = np.fmin.reduceat(values, offsets[:-1], axis=0)
    high = np.fmax.reduceat(values, offsets[:-1], axis=0)
    for kind, odd in (
        ("empty_channels", np.isnan(low)),
        ("constant_channels", (low == high) & (np.diff(offsets)[:, None] > 1)),
    ):
        where = np.argwhere(odd)
        if len(where):
            places = [f"{ids[series]}/{names[channel]}" for series, channel in where[:3]]
            report.note(kind, *places, count=len(where))
