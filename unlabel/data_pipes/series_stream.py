"""Series that are read while training: more of them than memory holds, a part at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from unlabel.data_pipes.formats import UNREADABLE, kind_of
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.series import Names, Reading, check_limit
from unlabel.data_pipes.series_data import Series, scale_gaps
from unlabel.data_pipes.series_files import ID_COLUMNS, SUFFIXES
from unlabel.data_pipes.sources import Files, find_files, load_hub

_ROWS = 32  # of a table that are read at a time, each with a whole series


class Place(NamedTuple):
    """Where a series lies in a stream.

    Attributes:
        before: series that come before it.
        file: number of its file.
        batch: number of the rows that are read together, of that file.
        row: number of the series among them.
    """

    before: int = 0
    file: int = 0
    batch: int = 0
    row: int = 0


@dataclass
class SeriesStream:
    """The same series as `SeriesData`, read anew on every pass and never held together.

    Two passes give the same series in the same order. A file of a series or a long table is
    read when its turn comes, whole; a table (Parquet, `datasets`) with a series in each row, some
    rows at a time. An id that comes twice is not renamed.

    Attributes:
        source: files, or a `datasets` object.
        arguments: of `Reading.of`.
        limit: series at most.
        time_gap: unit of the time gaps that are the last covariate; None where there are none.
        report: of the latest pass in this process, up to where it is now.
    """

    source: Any
    arguments: tuple[Any, ...]
    limit: int | None = None
    time_gap: float | None = None
    report: ReadReport = field(default_factory=ReadReport)

    def __iter__(self) -> Iterator[Series]:
        """A pass from the first series on."""
        return (one for _, one in self.placed())

    def placed(self, begin: Place = Place()) -> Iterator[tuple[Place, Series]]:  # noqa: B008
        """A pass from a place on; what comes before it is not read, as far as files allow."""
        left = None if self.limit is None else max(self.limit - begin.before, 0)
        return islice(self._pass(begin), left)

    def _pass(self, begin: Place) -> Iterator[tuple[Place, Series]]:
        reading = Reading.of(*self.arguments)
        self.report = reading.report
        alone = not isinstance(self.source, Files) or len(self.source.paths) == 1
        before = begin.before
        for file, batch, name, part in self._parts(begin):
            found = reading.read(name, part, alone=alone)
            if self.time_gap is not None:
                scale_gaps(found, self.time_gap)
            entered = (file, batch) == (begin.file, begin.batch)
            for row in range(begin.row if entered else 0, len(found)):
                yield Place(before, file, batch, row), found[row]
                before += 1

    def _parts(self, begin: Place) -> Iterator[tuple[int, int, str, Any]]:
        """Files or rows of them that are read together, each with its number and its file's."""
        id_column = self.arguments[0]
        if not isinstance(self.source, Files):
            batches, name = self.source.with_format("arrow").iter(_ROWS), type(self.source).__name__
            for batch, table in _tables(name, batches, id_column, begin.batch):
                yield 0, batch, name, table
            return
        for file, path in enumerate(self.source.paths[begin.file :], begin.file):
            rows = _rows_of(path)
            if rows is None:
                yield file, 0, str(path), path
                continue
            first = begin.batch if file == begin.file else 0
            for batch, table in _tables(str(path), rows, id_column, first):
                yield file, batch, str(path), table


def stream_series(
    source: Any,
    *,
    id_column: str | None = None,
    timestamp_column: str | None = None,
    target: Names = None,
    covariates: Names = None,
    static: Names = None,
    freq: str | None = None,
    time_gap: bool | float = False,
    missing: Sequence[float] = (),
    limit: int | None = None,
    encoding: str | None = None,
) -> SeriesStream:
    """Read series as `read_series` does, but one after the other, whenever they are asked for.

    Args:
        source: a path, a glob, a folder or a list of paths; a `datasets` object with a whole
            series in each row (its values a list); or `"hf:name[:config[:split]]"`.
        id_column: as for `read_series`, and likewise the rest.
        timestamp_column: likewise.
        target: likewise.
        covariates: likewise.
        static: likewise.
        freq: likewise.
        time_gap: likewise, but a number: the median of a stream is not known when it begins.
        missing: likewise.
        limit: likewise.
        encoding: likewise.

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: what came is no stream, or gives no series.
    """
    check_limit(limit)
    arguments = (
        id_column, timestamp_column, target, covariates, static, freq, time_gap, missing, encoding,
    )  # fmt: skip
    if time_gap is True:
        raise ValueError(
            "The median gap of a stream is not known when it begins; give time_gap= a unit in "
            "seconds, such as 3600."
        )
    unit = float(time_gap) if time_gap else None
    stream = SeriesStream(_resolve(source), arguments, limit, unit)
    if next(iter(stream), None) is None:
        broken = "; ".join(f"{k}: {v}" for k, v in list(stream.report.broken.items())[:3])
        raise ValueError(f"No usable series to stream{': ' if broken else ''}{broken}.")
    return stream


def _resolve(source: Any) -> Any:
    if isinstance(source, str) and source.startswith("hf:"):
        return load_hub(source)
    paths = [source] if isinstance(source, str | Path) else source
    if isinstance(paths, Sequence) and paths and all(isinstance(p, str | Path) for p in paths):
        return find_files(paths, SUFFIXES, "series")
    if not hasattr(source, "select_columns"):
        raise ValueError(
            f"Series are streamed from paths or a `datasets` object, but a {type(source).__name__} "
            "came; what is in memory already, read_series takes."
        )
    return source


def _rows_of(path: Path) -> Iterator[pa.RecordBatch] | None:
    """Some rows of a Parquet file at a time, where each holds a whole series."""
    if kind_of(path, SUFFIXES) != ".parquet":
        return None
    try:
        file = pq.ParquetFile(path)
        has_lists = any(map(_is_list, file.schema_arrow.types))
    except UNREADABLE:
        return None  # refused by name when it is read
    return file.iter_batches(_ROWS) if has_lists else None


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _tables(
    name: str, batches: Iterable[Any], id_column: str | None, first: int
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Batches of rows as tables, from one on; a series without a name gets its place."""
    place = 0
    for number, batch in enumerate(batches):
        if number < first:
            place += batch.num_rows
            continue
        if not any(map(_is_list, batch.schema.types)):
            raise ValueError(
                f"{name}: a row holds one step of a series, which a stream cannot gather; give a "
                "whole series in each row (its values a list), or read it without streaming."
            )
        table = batch.to_pandas()
        if not any(str(c) == id_column or str(c).lower() in (*ID_COLUMNS, "id") for c in table):
            table["item_id"] = [str(i) for i in range(place, place + len(table))]
        place += len(table)
        yield number, table
