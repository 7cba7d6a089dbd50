"""Series that are read while training: more of them than memory holds, a part at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

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
        return islice(self._pass(), self.limit)

    def _pass(self) -> Iterator[Series]:
        reading = Reading.of(*self.arguments)
        self.report = reading.report
        alone = not isinstance(self.source, Files) or len(self.source.paths) == 1
        for name, part in self._parts():
            found = reading.read(name, part, alone=alone)
            if self.time_gap is not None:
                scale_gaps(found, self.time_gap)
            yield from found

    def _parts(self) -> Iterator[tuple[str, Any]]:
        id_column = self.arguments[0]
        if not isinstance(self.source, Files):
            batches = self.source.with_format("arrow").iter(_ROWS)
            yield from _tables(type(self.source).__name__, batches, id_column)
            return
        for path in self.source.paths:
            rows = _rows_of(path)
            if rows is None:
                yield str(path), path
            else:
                yield from _tables(str(path), rows, id_column)


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
    name: str, batches: Iterable[Any], id_column: str | None
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Batches of rows as tables; a series without a name gets its place."""
    place = 0
    for batch in batches:
        if not any(map(_is_list, batch.schema.types)):
            raise ValueError(
                f"{name}: a row holds one step of a series, which a stream cannot gather; give a "
                "whole series in each row (its values a list), or read it without streaming."
            )
        table = batch.to_pandas()
        if not any(str(c) == id_column or str(c).lower() in (*ID_COLUMNS, "id") for c in table):
            table["item_id"] = [str(i) for i in range(place, place + len(table))]
        place += len(table)
        yield name, table
