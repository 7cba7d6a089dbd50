"""Media that lie in Parquet files, of which the row group of a row is read when it is wanted."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.formats import UNREADABLE
from unlabel.data_pipes.held import Held
from unlabel.files import identity

_ROOM = 1 << 30  # bytes of row groups that a process keeps
_kept: OrderedDict[Hashable, pa.ChunkedArray] = OrderedDict()


@dataclass(frozen=True)
class Cell(Held):
    """A field of bytes in a Parquet file, plain or with a path (as `datasets` writes media).

    Attributes:
        file: that it lies in.
        group: row group there.
        place: row in the group.
        column: its name.
        size: bytes of a row of the group, on average.
        known: size and time of change of the file when it was looked into.
    """

    file: str
    group: int
    place: int
    column: str
    size: int
    known: tuple[int, int]

    @property
    def shard(self) -> Hashable:
        """The row group."""
        return self.file, self.group

    def load(self) -> dict[str, Any]:
        """Its bytes, and its path where it has one.

        Raises:
            DecodeError: the file changed, is gone, or cannot be read there, or the field is empty.
        """
        value = _group(self)[self.place].as_py()
        value = value if isinstance(value, dict) else {"bytes": value}
        if not value.get("bytes"):
            raise DecodeError(self, "the field is empty")
        return {"bytes": value["bytes"], "path": value.get("path")}

    def __str__(self) -> str:
        """File and place, for messages."""
        return f"{self.file}:{self.column}, row {self.place} of group {self.group}"


def _group(cell: Cell) -> pa.ChunkedArray:
    """The column of a row group, read once while there is room for it."""
    if identity(Path(cell.file)) != cell.known:
        raise DecodeError(cell, "the file changed since it was looked into, or is gone")
    key = (cell.file, cell.known, cell.group, cell.column)
    if key not in _kept:
        try:
            with pq.ParquetFile(cell.file) as file:
                _kept[key] = file.read_row_group(cell.group, columns=[cell.column]).column(0)
        except UNREADABLE as e:
            raise DecodeError(cell, e) from e
    _kept.move_to_end(key)
    while len(_kept) > 1 and sum(c.nbytes for c in _kept.values()) > _ROOM:
        _kept.popitem(last=False)
    return _kept[key]


def held_columns(path: Path, wanted: Sequence[str] | None = None) -> list[str]:
    """The columns of a Parquet file that hold media, among those wanted; none of another file."""
    if path.suffix.lower() != ".parquet":
        return []
    try:
        schema = pq.read_schema(path)
    except UNREADABLE:
        return []  # refused by name when it is read
    return [f.name for f in schema if _is_held(f.type) and (wanted is None or f.name in wanted)]


def _is_held(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_held(kind.field(place).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def cells_of(path: Path, column: str) -> Iterator[Cell]:
    """The fields of a column, none of them read."""
    about, known = pq.read_metadata(path), identity(path)
    for group in range(about.num_row_groups):
        one = about.row_group(group)
        size = one.total_byte_size // max(one.num_rows, 1)
        for place in range(one.num_rows):
            yield Cell(str(path), group, place, column, size, known)


__all__ = ["Cell", "cells_of", "held_columns"]
