"""Read time series from nearly any source, and say what was mended or could not be used."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unlabel.data_pipes.formats import BrokenFile, kind_of
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.series_data import Series, SeriesData, scale_gaps
from unlabel.data_pipes.series_files import SUFFIXES, Cases, read_file
from unlabel.data_pipes.series_frames import NO_TIME, Columns, Rules, read_frame, stem
from unlabel.data_pipes.series_oddities import clean, note_oddities
from unlabel.data_pipes.series_time import step_of
from unlabel.data_pipes.sources import Files, find_files, load_hub

__all__ = ["Reading", "Series", "SeriesData", "read_series"]

Names = str | Sequence[str] | None


def read_series(
    source: Any,
    *,
    id_column: str | None = None,
    timestamp_column: str | None = None,
    target: Names = None,
    covariates: Names = None,
    static: Names = None,
    label_column: str | None = None,
    freq: str | None = None,
    time_gap: bool | float = False,
    missing: Sequence[float] = (),
    limit: int | None = None,
    encoding: str | None = None,
) -> SeriesData:
    """Read series from nearly anything; what was mended or is odd is counted and named.

    A table with an id column (`item_id` or `unique_id`) is long: a series an id, its values in
    the column `target` or `y`. Any other table is wide: one series, every column of numbers a
    channel. The time column is `timestamp`, `ds`, `date`, `datetime`, `time`, or the first whose
    text reads as dates; without one the rows are steps.

    Rows are put in order of time, of repeated times the last is kept, and rows that a regular
    step wants but the table lacks are put in as missing. A series without a regular step keeps
    its rows as steps. Empty fields, `?`, NaN and infinities are missing values.

    Args:
        source: a path, a glob, a folder (searched to the bottom) or a list of paths of .csv, .tsv,
            .txt, .parquet, .npy and .ts (UCR/UEA) files, text perhaps packed as .gz, .bz2, .xz or
            .zst; a pandas DataFrame; a numpy array of (steps,), (steps, channels) or (series,
            steps, channels); a list of DataFrames or arrays, or of rows as dicts; a `datasets`
            object of rows or of whole series; or `"hf:name[:config[:split]]"`.
        id_column: which column of a table tells the series apart.
        timestamp_column: which column holds the time; dates, or numbers that count.
        target: columns of values; None as said above.
        covariates: columns known beside the values; their gaps are filled forward.
        static: columns of numbers that hold for a whole series; the first row counts, and where
            nothing stands there 0.
        label_column: of a table, the class of a whole series, likewise; an empty field is none.
        freq: the step, in pandas' names (`"h"`, `"MS"`); None takes the commonest difference.
            Where each row holds a whole series and the date of its start, its steps are from there.
        time_gap: for irregular times: rows stay steps, and the last covariate of each is
            `ln(gap / unit)`, the gap being the time since the last row before that holds a value
            (0 at a series' first). The unit in seconds (or counts of the time column), or True
            for the median gap.
        missing: values that mean 'missing', such as -9999, in any of these columns.
        limit: stop after so many series.
        encoding: of text files; None means UTF-8 (or UTF-16 where the file says so).

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: when a lone source cannot be used, or none of several; the message names the
            file, and the column and row where there are some.
    """
    reading = Reading.of(
        id_column, timestamp_column, target, covariates, static, freq, time_gap, missing, encoding,
        label_column,
    )  # fmt: skip
    check_limit(limit)
    series: list[Series] = []
    parts = _parts(source, reading.report)
    for name, part in parts:
        series += reading.read(name, part, alone=len(parts) == 1, limit=limit)
        if limit is not None and len(series) >= limit:
            break
    report = reading.report
    if not series:
        raise ValueError(
            f"No usable series among {len(parts)} sources: "
            + "; ".join(f"{name}: {why}" for name, why in list(report.broken.items())[:3])
        )
    unit = None
    if time_gap:
        unit = scale_gaps(series, None if time_gap is True else time_gap)
    return SeriesData(_rename(series[:limit], report), report, tuple(reading.classes), unit)


@dataclass
class Reading:
    """How a source is read, and what that met so far.

    Attributes:
        rules: for tables.
        encoding: of text files.
        report: what was read, mended and left out.
        classes: names of the classes met, and their places.
    """

    rules: Rules
    encoding: str | None = None
    report: ReadReport = field(default_factory=ReadReport)
    classes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, id_column: str | None, timestamp_column: str | None, target: Names, covariates: Names,
        static: Names, freq: str | None, time_gap: bool | float, missing: Sequence[float],
        encoding: str | None, label_column: str | None = None,
    ) -> "Reading":  # fmt: skip
        """From the arguments of `read_series`."""
        if freq is not None:
            step_of(freq)  # a wrong one is refused before anything is read
        if freq is not None and time_gap:
            raise ValueError("freq puts rows on a grid, and time_gap leaves them; give one.")
        if time_gap is not False and not 0 < time_gap < float("inf"):
            raise ValueError(f"time_gap is True or a unit of time above 0, but is {time_gap}.")
        columns = Columns(
            id_column, timestamp_column, _tuple(target), _tuple(covariates), _tuple(static),
            label_column,
        )  # fmt: skip
        return cls(Rules(columns, freq, tuple(missing), bool(time_gap)), encoding)

    def read(self, name: str, part: Any, *, alone: bool, limit: int | None = None) -> list[Series]:
        """The series of a file, table or array; one that is broken is noted.

        Raises:
            ValueError: it is broken, and alone.
        """
        try:
            content = part
            if isinstance(part, Path):
                content = read_file(part, self.report, self.encoding, self.rules.columns.id)
            line = _first_line(part, content)
            found = _read(content, name, self.rules, self.report, self.classes, line, limit)
        except BrokenFile as e:
            if alone:
                raise ValueError(f"{name}: {e}.") from e
            self.report.broken[name] = str(e)
            return []
        if self.report.files[-1:] != [name]:  # a stream reads some rows of a file at a time
            self.report.files.append(name)
        return found


def check_limit(limit: int | None) -> None:
    """Refuse a limit that lets nothing through."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, but is {limit}; leave it out to read all.")


def _tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _parts(source: Any, report: ReadReport) -> list[tuple[str, Any]]:
    if isinstance(source, str) and source.startswith("hf:"):
        return [(source, _to_frame(load_hub(source)))]
    if isinstance(source, (str, Path)):
        return _paths(find_files([source], SUFFIXES, "series"), report)
    if isinstance(source, pd.Series):
        source = source.to_frame(source.name if source.name is not None else "value")
    if isinstance(source, (pd.DataFrame, np.ndarray)):
        part = _array(source) if isinstance(source, np.ndarray) else source
        return [(type(source).__name__, part)]
    if isinstance(source, Mapping):
        raise ValueError(f"Several splits came ({', '.join(map(str, source))}); give one of them.")
    if hasattr(source, "select_columns"):
        return [(type(source).__name__, _to_frame(source))]
    if hasattr(source, "__array__"):
        return [(type(source).__name__, np.asarray(source))]
    if isinstance(source, Iterator) or not isinstance(source, Iterable):
        raise ValueError(
            f"Cannot read series from a {type(source).__name__}; give a path, a DataFrame, an "
            "array or a list of them."
        )
    items = list(source)
    if not items:
        raise ValueError("An empty list came; give paths, DataFrames or arrays.")
    if all(isinstance(item, (str, Path)) for item in items):
        return _paths(find_files(items, SUFFIXES, "series"), report)
    if all(item is None or isinstance(item, (int, float)) for item in items):
        return [("list", np.asarray(items, dtype=np.float64))]
    if all(isinstance(item, Mapping) for item in items):
        return [("the list", pd.DataFrame(items))]
    return [(str(i), x if isinstance(x, pd.DataFrame) else _array(x)) for i, x in enumerate(items)]


def _paths(files: Files, report: ReadReport) -> list[tuple[str, Any]]:
    report.ignored.extend(files.ignored)
    return [(str(path), path) for path in files.paths]


def _array(item: Any) -> np.ndarray:
    try:
        array = np.asanyarray(item)  # a mask stays
        return array.astype(np.float64) if array.dtype == object else array  # None is missing
    except (ValueError, TypeError):
        return np.empty(0, dtype=object)  # refused below, by name


def _to_frame(source: Any) -> pd.DataFrame:
    if hasattr(source, "to_pandas"):
        return source.to_pandas()
    return pd.concat([pd.DataFrame(dict(b)) for b in source.iter(1000)], ignore_index=True)


def _first_line(part: Any, content: Any) -> int:
    if not isinstance(part, Path) or kind_of(part, SUFFIXES) == ".parquet":
        return 0
    # A table without a header has numbered columns, and its first row on the first line.
    headed = isinstance(content, pd.DataFrame) and not isinstance(content.columns, pd.RangeIndex)
    return 2 if headed else 1


def _read(
    content: Any, name: str, rules: Rules, report: ReadReport,
    classes: dict[str, int], line: int, limit: int | None,
) -> list[Series]:  # fmt: skip
    if isinstance(content, pd.DataFrame):
        return read_frame(content, name, rules, report, line=line, classes=classes)
    if rules.time_gap:
        raise BrokenFile(NO_TIME)
    if isinstance(content, Cases):
        return _from_cases(content, name, rules, report, classes)
    return _from_array(content, name, rules, report)[:limit]


def _from_cases(
    cases: Cases, name: str, rules: Rules, report: ReadReport, classes: dict[str, int]
) -> list[Series]:
    if not cases.values:
        raise BrokenFile("it holds no case after @data")
    for label in cases.classes:
        classes.setdefault(label, len(classes))
    if cases.target:
        report.note("targets_left_out", name, count=len(cases.values))
    labels = [classes[cases.classes[i]] if i >= 0 else -1 for i in cases.labels]
    ids = [f"{stem(name)}:{i}" for i in range(len(cases.values))]
    report.lines += len(ids)
    report.kept += len(ids)
    lengths = list(map(len, cases.values))
    return _views(np.concatenate(cases.values), lengths, ids, labels, name, rules, report)


def _from_array(array: np.ndarray, name: str, rules: Rules, report: ReadReport) -> list[Series]:
    if isinstance(array, np.ma.MaskedArray) and array.dtype.kind in "fiub":
        array = array.astype(np.float64).filled(np.nan)  # what is masked is missing
    if array.dtype.kind not in "fiub":
        raise BrokenFile(f"an array of {array.dtype} came, but numbers of one shape are wanted")
    if not 1 <= array.ndim <= 3 or not array.size:
        raise BrokenFile(
            f"an array of shape {array.shape} came, but (steps,), (steps, channels) or (series, "
            "steps, channels) is wanted"
        )
    array = array[:, None] if array.ndim == 1 else array
    array = array[None] if array.ndim == 2 else array
    if array.shape[2] > array.shape[1]:
        report.note("wide_arrays", f"{name}: steps come first; transpose it if they do not")
    count, steps, channels = array.shape
    report.lines += count * steps
    report.kept += count * steps
    values = array.reshape(count * steps, channels).astype(np.float64)
    ids = [stem(name) if count == 1 else f"{stem(name)}:{i}" for i in range(count)]
    return _views(values, [steps] * count, ids, [-1] * count, name, rules, report)


def _views(
    values: np.ndarray,
    lengths: Sequence[int],
    ids: Sequence[str],
    labels: Sequence[int],
    name: str,
    rules: Rules,
    report: ReadReport,
) -> list[Series]:
    names = tuple(map(str, range(values.shape[1])))
    flat = clean(values, names, name, rules.missing, report).astype(np.float32)
    ends = np.cumsum(lengths)
    note_oddities(flat, np.concatenate([[0], ends]), ids, names, report)
    parts = zip(ids, np.split(flat, ends[:-1]), labels, strict=True)
    return [Series(i, part, names, label=label) for i, part, label in parts]


def _rename(series: list[Series], report: ReadReport) -> list[Series]:
    """Ids that came before get a number, so that each names one series."""
    seen: Counter[str] = Counter()
    for one in series:
        seen[one.id] += 1
        if seen[one.id] > 1:
            report.note("renamed", one.id)
            one.id = f"{one.id}#{seen[one.id]}"
    return series
