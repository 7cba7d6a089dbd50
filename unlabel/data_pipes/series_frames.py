"""A table to series: which column is what, rows put on a regular grid, oddities counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64

from unlabel.data_pipes.formats import BrokenFile
from unlabel.data_pipes.labels import said_in
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_files import ID_COLUMNS
from unlabel.data_pipes.series_future import stamps_from
from unlabel.data_pipes.series_grid import Grid, grid_of, time_gaps
from unlabel.data_pipes.series_oddities import clean, note_oddities
from unlabel.data_pipes.series_time import BadStamp, Stamps, parse_stamps, step_of, timestamp

_TIMES = ("timestamp", "ds", "date", "datetime", "time")
_TARGETS = ("target", "y")
NO_TIME = "it has no time column, which time_gap measures gaps in; name it with timestamp_column="


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what; None or empty: told by name and content."""

    id: str | None = None
    time: str | None = None
    target: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Rules:
    """How tables are read.

    Attributes:
        columns: which column is what.
        freq: the step, in pandas' names; None to infer it.
        missing: values that mean 'missing'.
        time_gap: rows are steps, whose last covariate is the time since the one observed before.
    """

    columns: Columns = Columns()
    freq: str | None = None
    missing: tuple[float, ...] = ()
    time_gap: bool = False


def read_frame(
    frame: pd.DataFrame,
    name: str,
    rules: Rules,
    report: ReadReport,
    *,
    line: int = 0,
    classes: dict[str, int] | None = None,
) -> list[Series]:
    """The series of a table, each a view of one array.

    Args:
        frame: long (an id column: many series) or wide (every number column a channel).
        name: of the file, for messages; its stem is the id of a series without one.
        rules: how to read it.
        report: takes counts.
        line: of the file in which row 0 stands, for messages.
        classes: names of the classes met so far, and their places; takes further ones.

    Raises:
        BrokenFile: naming the column, and the row, that cannot be used.
    """
    frame = _index_to_column(frame)
    frame.columns = [str(c).strip() for c in frame.columns]
    if twice := frame.columns[frame.columns.duplicated()].tolist():
        raise BrokenFile(f"it has several columns called {twice[0]!r}")
    frame = _lists_to_rows(frame, name, report, rules.freq)
    if not len(frame):
        raise BrokenFile("it has a header but no rows" if line else "it has no rows")
    columns = _choose(frame, rules.columns, name, report)
    report.lines += len(frame)
    place = lambda row: f"{name}:{row + line}"  # noqa: E731
    codes, ids = _codes(frame, columns.id, name)
    stamps = _stamps(frame, columns.time, line)
    if rules.time_gap and stamps is None:
        raise BrokenFile(NO_TIME)
    keep = _usable(codes, stamps, report, place)
    if columns.id is None and stamps:
        _refuse_many_in_one(stamps.values[keep], frame, columns)
    grid = grid_of(
        codes[keep],
        stamps and Stamps(stamps.values[keep], stamps.known[keep], stamps.dates),
        ids,
        freq=rules.freq,
        report=report,
        place=lambda i: place(int(keep[i])),
        as_rows=rules.time_gap,
    )
    report.kept += len(grid.source)
    source = keep[grid.source]
    names = columns.target
    read = lambda own, rows: clean(  # noqa: E731
        _numbers(frame, own, line)[rows], own, name, rules.missing, report
    )
    values = grid.lay(read(names, source))
    covariates = static = None
    if columns.covariates:
        covariates = grid.lay(read(columns.covariates, source))
        if empty := int(np.isnan(covariates).sum()):
            report.note("filled_covariates", ", ".join(columns.covariates), count=empty)
            covariates = grid.fill_forward(covariates)
    if rules.time_gap and stamps is not None:
        is_observed = np.asarray(np.isfinite(values).any(axis=1))
        gaps = time_gaps(stamps.values[source], grid.first, is_observed) / stamps.ticks
        gaps = gaps[:, None].astype(np.float32)
        covariates = gaps if covariates is None else np.concatenate([covariates, gaps], axis=1)
    if columns.static:
        static = read(columns.static, source[grid.first]).astype(np.float32)
        if empty := int(np.isnan(static).sum()):
            report.note("filled_statics", ", ".join(columns.static), count=empty)
            static = np.nan_to_num(static)
    note_oddities(values, grid.offsets, [ids[c] for c in grid.codes], names, report)
    found = _cut(values, covariates, static, grid, ids, columns)
    if columns.label is not None and classes is not None:
        first = _column(frame, columns.label).iloc[source[grid.first]]
        for one, label in zip(found, first, strict=True):
            if (said := said_in(label)) is not None:
                one.label = classes.setdefault(said, len(classes))
    return found


def _stamps(frame: pd.DataFrame, column: str | None, line: int) -> Stamps | None:
    if column is None:
        return None
    try:
        return parse_stamps(_column(frame, column))
    except BadStamp as e:
        raise BrokenFile(f"column {column!r}, row {e.row + line}: {e}") from e


def _usable(
    codes: Int64[np.ndarray, "rows"],
    stamps: Stamps | None,
    report: ReadReport,
    place: Callable[[int], str],
) -> Int64[np.ndarray, "usable"]:
    """Rows with an id and a time; the others are counted."""
    named = codes >= 0
    known = np.ones_like(named) if stamps is None else stamps.known
    for kind, lost in (("without_id", ~named), ("without_time", named & ~known)):
        if lost.any():
            report.drop_rows(kind, list(map(place, np.flatnonzero(lost)[:3])), int(lost.sum()))
    keep = np.flatnonzero(named & known)
    if not len(keep):
        raise BrokenFile("no row has both an id and a time" if stamps else "no row has an id")
    return keep


def _refuse_many_in_one(
    stamps: Int64[np.ndarray, "rows"], frame: pd.DataFrame, columns: Columns
) -> None:
    """Several series one below the other, whose ids nobody named, would lose most rows."""
    if 3 * len(np.unique(stamps)) > 2 * len(stamps):
        return
    repeated = f"a third or more of its rows repeat a time of {columns.time!r}"
    others = [c for c in frame.columns if c != columns.time]
    if rest := [c for c in others if c.lower() in _TIMES]:
        raise BrokenFile(
            f"{repeated}, and {rest[0]!r} seems to hold the rest of it; join them into one column, "
            f"or name the column that tells the series apart with id_column="
        )
    others = [c for c in others if c not in columns.target]
    raise BrokenFile(
        f"{repeated}; name the column that tells the series apart with "
        f"id_column={(others or ['...'])[0]!r}"
    )


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return cast(pd.Series, frame[name])


def _cut(
    values: Float32[np.ndarray, "steps channels"],
    covariates: Float32[np.ndarray, "steps covariates"] | None,
    static: Float32[np.ndarray, "series static"] | None,
    grid: Grid,
    ids: list[str],
    columns: Columns,
) -> list[Series]:
    return [
        Series(
            ids[code],
            values[begin:end],
            columns.target,
            start=grid.starts[i],
            freq=grid.freqs[i],
            covariates=None if covariates is None else covariates[begin:end],
            static=None if static is None else static[i],
            step=grid.steps[i],
            id_name=columns.id or "",
            time_name=columns.time or "",
        )
        for i, (code, begin, end) in enumerate(
            zip(grid.codes, grid.offsets[:-1], grid.offsets[1:], strict=True)
        )
    ]


def _index_to_column(frame: pd.DataFrame) -> pd.DataFrame:
    index = frame.index
    if isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)):
        return frame.rename_axis(index.name or "timestamp").reset_index()
    if isinstance(index, pd.MultiIndex) or index.name is not None:
        return frame.reset_index()
    return frame.reset_index(drop=True)


def _lists_to_rows(
    frame: pd.DataFrame, name: str, report: ReadReport, freq: str | None
) -> pd.DataFrame:
    """A table with a whole series in each row (as on the Hugging Face hub) as a long one."""
    lists = [c for c in frame if _holds_lists(_column(frame, c))]
    if not lists:
        return frame
    main = next((c for c in lists if c.lower() in _TARGETS), lists[0])
    if not any(c.lower() in ID_COLUMNS for c in frame):
        own = next((c for c in frame if c.lower() == "id" and c not in lists), None)
        frame = frame.assign(item_id=frame[own] if own else [str(i) for i in range(len(frame))])
        frame = frame.drop(columns=[own] if own else [])
    empty = np.flatnonzero(_lengths(frame, main) == 0)
    if len(empty):
        report.note("empty_series", *(f"{name}: row {row}" for row in empty[:3]), count=len(empty))
        frame = frame.drop(index=empty)
    # Lists of another length are features of the series (`feat_static_cat`), not steps.
    steps = [c for c in lists if (_lengths(frame, c) == _lengths(frame, main)).all()]
    frame = frame.drop(columns=[c for c in lists if c not in steps])
    # One date for a whole series (`start`) is the time of its steps where the step is said.
    if start := _find_dates(frame, [c for c in frame if c not in steps]):
        begins = parse_stamps(_column(frame, start))
        if freq is not None and begins.known.all():
            counts = zip(map(timestamp, begins.values.tolist()), _lengths(frame, main), strict=True)
            step = step_of(freq)
            stamps = [stamps_from(begin, step, 0, n).tolist() for begin, n in counts]
            frame, steps = frame.assign(**{start: stamps}), [*steps, start]
        else:
            report.note("unused_columns", f"{name}: {start!r}; give freq=, the step from there on")
            frame = frame.drop(columns=[start])
    flat = frame.explode(steps, ignore_index=True)
    return flat.assign(**{c: flat[c].infer_objects() for c in steps})


def _holds_lists(column: pd.Series) -> bool:
    first = column.first_valid_index()
    return first is not None and isinstance(column.loc[first], (list, np.ndarray))


def _lengths(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Steps of each list; 0 where there is none."""
    lists = _column(frame, name)
    return np.array([len(x) if isinstance(x, (list, np.ndarray)) else 0 for x in lists])


def _choose(frame: pd.DataFrame, given: Columns, name: str, report: ReadReport) -> Columns:
    there = list(frame.columns)
    wanted = [given.id, given.time, *given.target, *given.covariates, *given.static]
    wanted.append(given.label)
    if unknown := [c for c in wanted if c is not None and c not in there]:
        shown = ", ".join(map(repr, there[:20])) + ", ..." * (len(there) > 20)
        raise BrokenFile(f"no column {', '.join(map(repr, unknown))}; it has the columns {shown}")
    by_name = {c.lower(): c for c in reversed(there) if c not in wanted}
    find = lambda names: next((by_name[n] for n in names if n in by_name), None)  # noqa: E731
    id_column = given.id or find(ID_COLUMNS)
    rest = [c for c in there if c not in wanted and c != id_column]
    time = given.time or find(_TIMES) or _find_dates(frame, rest)
    target = given.target or tuple(c for c in [find(_TARGETS)] if c and id_column)
    if target and not given.target and (others := [c for c in rest if c not in (time, *target)]):
        report.note(
            "unused_columns", f"{name}: {', '.join(map(repr, others[:3]))}", count=len(others)
        )
    if not target:
        rest = [c for c in rest if c != time and not _is_left_over(_column(frame, c))]
        text = [c for c in rest if not _has_numbers(_column(frame, c))]
        target = tuple(c for c in rest if c not in text)
        if text:
            report.note(
                "text_columns", f"{name}: {', '.join(map(repr, text[:3]))}", count=len(text)
            )
    if not target:
        raise BrokenFile(f"no column of numbers among {', '.join(map(repr, there[:20]))}")
    return Columns(id_column, time, target, given.covariates, given.static, given.label)


def _find_dates(frame: pd.DataFrame, columns: Sequence[str]) -> str | None:
    for column in columns:
        head = _column(frame, column).dropna().head(5)
        if not len(head) or pd.api.types.is_numeric_dtype(head):
            continue
        try:
            parse_stamps(head)
        except ValueError:
            continue
        return column
    return None


def _is_left_over(column: pd.Series) -> bool:
    """Row numbers that pandas writes with a table, or nothing, after a separator at line ends."""
    if not str(column.name).startswith("Unnamed:"):
        return False
    return bool(column.isna().all()) or column.tolist() == list(range(len(column)))


def _has_numbers(column: pd.Series) -> bool:
    if pd.api.types.is_numeric_dtype(column):
        return not pd.api.types.is_complex_dtype(column)
    if column.dtype.kind in "mM":
        return False
    return bool(pd.to_numeric(column, errors="coerce").notna().any())


def _codes(
    frame: pd.DataFrame, column: str | None, name: str
) -> tuple[Int64[np.ndarray, "rows"], list[str]]:
    if column is None:
        return np.zeros(len(frame), np.int64), [stem(name)]
    given = _column(frame, column)
    codes, ids = pd.factorize(given.mask(given.eq("")))
    return codes.astype(np.int64), [str(i) for i in ids]


def stem(name: str) -> str:
    """A file's name without its folder and suffixes."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return last.split(".")[0] or last


def _numbers(
    frame: pd.DataFrame, columns: Sequence[str], line: int
) -> Float[np.ndarray, "rows columns"]:
    parts = []
    for name in columns:
        column = _column(frame, name)
        numbers = pd.to_numeric(column, errors="coerce")
        wrong = (numbers.isna() & column.notna()).to_numpy()
        if column.dtype.kind in "mMc" or wrong.any():
            row = int(wrong.argmax())
            raise BrokenFile(
                f"column {name!r}, row {row + line}: {str(column.iloc[row])[:40]!r} is no number; "
                "mend it, or name the columns to read with target="
            )
        parts.append(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.stack(parts, axis=1)
