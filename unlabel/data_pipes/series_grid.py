"""Rows of many series put on regular grids at once: sorted, repeats dropped, gaps left open."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64

from unlabel.data_pipes.formats import BrokenFile
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.series_time import (
    Stamps,
    Step,
    count_steps,
    infer_step,
    name_of,
    step_of,
    timestamp,
)

Rows = Int64[np.ndarray, "rows"]


@dataclass(frozen=True)
class Grid:
    """Where each row goes.

    Attributes:
        source: rows of the table in order of series and time, repeats left out.
        target: step that each of them fills, counted through all series.
        first: first of `source` of each series, `(series,)`.
        offsets: first step of each series, and one past the last, `(series + 1,)`.
        codes: of the series, `(series,)`.
        starts: first time stamp of each series.
        freqs: step of each series, in pandas' names.
        steps: likewise, None where there is none.
    """

    source: Rows
    target: Rows
    first: Int64[np.ndarray, "series"]
    offsets: Int64[np.ndarray, "series+1"]
    codes: Int64[np.ndarray, "series"]
    starts: list[pd.Timestamp | int | None]
    freqs: list[str | None]
    steps: list[Step | None]

    def lay(self, rows: Float[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "steps columns"]:
        """Rows (in the order of `source`) at their steps, NaN in the gaps."""
        laid = np.full((self.offsets[-1], rows.shape[1]), np.nan, np.float32)
        laid[self.target] = rows
        return laid

    def fill_forward(
        self, laid: Float32[np.ndarray, "steps columns"]
    ) -> Float32[np.ndarray, "steps columns"]:
        """Gaps take the last value of their series before them, and 0 where there is none."""
        steps = np.arange(len(laid))
        begin = np.repeat(self.offsets[:-1], np.diff(self.offsets))
        last = np.maximum.accumulate(np.where(np.isnan(laid), begin[:, None], steps[:, None]), 0)
        return np.nan_to_num(np.take_along_axis(laid, last, axis=0))


def grid_of(
    codes: Rows,
    times: Stamps | None,
    ids: list[str],
    *,
    freq: str | None,
    report: ReadReport,
    place: Callable[[int], str],
    as_rows: bool = False,
) -> Grid:
    """Sort the rows by series and time and find their steps.

    Of rows with one series and time the last in the table is kept. The step is the commonest
    difference over all series; a series that does not fit it gets its own, and one that fits
    none keeps its rows as steps.

    Args:
        codes: which series a row belongs to.
        times: of the rows; None: rows are steps.
        ids: name of each series, by code.
        freq: the step, in pandas' names; None to infer it.
        report: takes counts.
        place: a row's place, for messages.
        as_rows: put the rows in order, and let each be a step whatever its time.

    Raises:
        BrokenFile: a `freq` that does not fit, or a grid that would be nearly all gap.
    """
    if times is None:
        order = np.argsort(codes, kind="stable")
    else:
        _note_unsorted(codes, times.values, ids, report)
        order = np.lexsort((times.values, codes))
        order = _drop_repeats(order, codes, times.values, report, place)
    codes = codes[order]
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    counts = np.diff(first, append=len(codes))
    starts: list[pd.Timestamp | int | None] = [None] * len(first)
    freqs: list[str | None] = [None] * len(first)
    own: list[Step | None] = [None] * len(first)
    if times is None or as_rows:
        steps = np.arange(len(codes)) - np.repeat(first, counts)
    if times is not None and as_rows:
        stamps = times.values[order][first].tolist()
        starts = [timestamp(t) if times.dates else t for t in stamps]
    elif times is not None:
        stamps, dates = times.values[order], times.dates
        names = [ids[c] for c in codes[first]]
        steps, own, freqs = _count(stamps, first, counts, names, dates, freq, report)
        starts = [timestamp(t) if dates else t for t in stamps[first].tolist()]
        _note_gaps(steps, stamps, first, names, dates, report)
    lengths = steps[first + counts - 1] + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    target = steps + np.repeat(offsets[:-1], counts)
    return Grid(order, target, first, offsets, codes[first], starts, freqs, own)


def time_gaps(
    stamps: Rows, first: Int64[np.ndarray, "series"], is_observed: Bool[np.ndarray, "rows"]
) -> Rows:
    """Time since the last row before that holds a value (else since the series' first row).

    Args:
        stamps: of the rows, in order of series and time.
        first: row of each series.
        is_observed: True where a row holds a value.
    """
    rows = np.arange(len(stamps))
    begin = np.repeat(first, np.diff(first, append=len(stamps)))
    last = np.maximum.accumulate(np.where(is_observed, rows, 0))
    before = np.concatenate([[0], last[:-1]])
    return stamps - stamps[np.maximum(before, begin)]


def _note_unsorted(codes: Rows, stamps: Rows, ids: list[str], report: ReadReport) -> None:
    by_series = np.argsort(codes, kind="stable")
    back = np.diff(stamps[by_series]) < 0
    unsorted = np.unique(codes[by_series][1:][back & (np.diff(codes[by_series]) == 0)])
    if len(unsorted):
        report.note("unsorted", *(ids[code] for code in unsorted[:3]), count=len(unsorted))


def _drop_repeats(
    order: Rows, codes: Rows, stamps: Rows, report: ReadReport, place: Callable[[int], str]
) -> Rows:
    same = (np.diff(codes[order]) == 0) & (np.diff(stamps[order]) == 0)
    repeated = np.append(same, False)
    if not same.any():
        return order
    report.drop_rows("repeated", list(map(place, order[repeated][:3])), int(same.sum()))
    return order[~repeated]


def _count(
    stamps: Rows, first: Rows, counts: Rows, names: list[str],
    dates: bool, freq: str | None, report: ReadReport,
) -> tuple[Rows, list[Step | None], list[str | None]]:  # fmt: skip
    inside = np.ones(len(stamps), bool)
    inside[first] = False
    differences = np.diff(stamps, prepend=stamps[:1])[inside]
    step = step_of(freq) if freq and dates else infer_step(stamps, differences, dates=dates)
    steps, fits = _try(stamps, first, counts, step)
    if not freq:  # days lie on a grid of hours too
        single = np.add.reduceat(np.diff(steps, prepend=0) * inside == 1, first, dtype=np.int64)
        fits &= 2 * single >= counts - 1
    chosen: list[Step | None] = [step] * len(first)
    for i in np.flatnonzero(~fits):
        rows = slice(int(first[i]), int(first[i] + counts[i]))
        if freq and dates:
            raise BrokenFile(f"the time stamps of {names[i]!r} do not lie on a step of {freq!r}")
        own = infer_step(stamps[rows], np.diff(stamps[rows]), dates=dates)
        zero, count = np.zeros(1, np.int64), counts[i : i + 1]
        steps[rows], ok = _try(stamps[rows], zero, count, own)
        chosen[i] = own if ok[0] else None
        if not ok[0]:
            report.note("irregular", names[i])
            steps[rows] = np.arange(counts[i])
    spans = steps[first + counts - 1] + 1
    if (sparse := spans > 50 * counts + 10_000).any():
        i = int(sparse.argmax())
        raise BrokenFile(
            f"the {counts[i]:,} rows of {names[i]!r} span {spans[i]:,} steps, so nearly all would "
            "be missing; mend its time stamps, or name a longer step with freq="
        )
    return steps, chosen, _names(stamps[first], chosen, freq, dates)


def _try(
    stamps: Rows, first: Rows, counts: Rows, step: Step | None
) -> tuple[Rows, Bool[np.ndarray, "series"]]:
    begin = np.repeat(stamps[first], counts)
    if step is None:  # a row a series
        return np.arange(len(stamps)) - np.repeat(first, counts), counts == 1
    steps, on_grid = count_steps(stamps, begin, step)
    moves = np.diff(steps, prepend=-1) > 0
    moves[first] = True
    return steps, np.logical_and.reduceat(on_grid & moves, first)


def _names(
    starts: Rows, chosen: list[Step | None], freq: str | None, dates: bool
) -> list[str | None]:
    if not dates or freq:
        return [freq if dates else None] * len(starts)
    name = cache(name_of)  # series of a panel start together more often than not
    return [
        None if step is None else name(step, timestamp(start))
        for start, step in zip(starts.tolist(), chosen, strict=True)
    ]


def _note_gaps(
    steps: Rows, stamps: Rows, first: Rows, names: list[str], dates: bool, report: ReadReport
) -> None:
    jumps = np.diff(steps, prepend=-1) - 1
    jumps[first] = 0
    gaps = np.flatnonzero(jumps > 0)
    if not len(gaps):
        return
    series = np.searchsorted(first, gaps[:3], side="right") - 1
    before = [timestamp(t) if dates else t for t in stamps[gaps[:3] - 1].tolist()]
    places = [f"{names[i]} after {t}" for i, t in zip(series, before, strict=True)]
    report.note("gaps", *places, count=len(gaps))
    report.note("gap_steps", count=int(jumps[gaps].sum()))
