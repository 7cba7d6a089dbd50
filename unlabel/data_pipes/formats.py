"""One reader for each kind of file: bytes on disk -> numbered rows of the wanted columns."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unlabel.data_pipes.marks import Tape

Columns = tuple[str | int, ...] | None

Wanted = Callable[[int, int], bool]
PASSED = "of_other_parts"

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
PACKED = (".gz", ".bz2", ".xz", ".zst")
UNREADABLE = (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeError)
_FIRST = 100  # objects whose keys are looked at for the columns there are
MAX_LINE = 1 << 24  # characters: no line of a file, however broken, takes more memory than this


class BrokenFile(ValueError):
    """A file that gives no rows at all, or stops giving them; the message says why."""


class Row(NamedTuple):
    """One row as it stood in the file: its place and its values, or what is wrong with it."""

    line: int
    values: tuple[Any, ...]
    problem: str | None = None


def kind_of(path: Path, suffixes: Sequence[str] = SUFFIXES) -> str | None:
    """The suffix that decides the format, without that of the compression; None if unknown."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return next((suffix for suffix in suffixes if name.endswith(suffix)), None)


def read_rows(
    path: Path,
    columns: Columns,
    encoding: str | None = None,
    wanted: Wanted | None = None,
    tape: Tape | None = None,
) -> Iterator[Row]:
    """The rows of one file.

    Args:
        path: of a text, CSV, TSV, JSON, JSON-lines or Parquet file; compression is told by content.
        columns: names, or places from 0 in a table without a header row; None takes the only
            column there is, or the one called `text` or `sentence`.
        encoding: of text files; None means UTF-8, or UTF-16 where the file says so.
        wanted: whether any row is, from a place to before another one. A row group of Parquet of
            which none is wanted is not read: one row stands for all, its problem is `PASSED` and
            its value their number.
        tape: where the file is entered; one of a single JSON value, or whose header has several
            lines, is read anew.

    Raises:
        BrokenFile: when the file cannot be read (any more) or has no such column.
    """
    kind = kind_of(path)
    try:
        if path.stat().st_size == 0:
            raise BrokenFile("the file is empty")
        if kind == ".parquet":
            yield from _parquet(path, columns, wanted or (lambda start, stop: True), tape)
            return
        with open_text(path, encoding) as file:
            lines = _lines(file)
            again = 0  # rows of an entered file that were there before: its first, or its header
            if tape is not None and kind != ".json":
                first = next(lines)
                lines = chain([first], lines)
                if kind != ".csv" or first[1].count('"') % 2 == 0:
                    again = int(tape.enters)
                    lines = tape.lines(file, lines)
            if kind in (".csv", ".tsv"):
                by_place = columns is not None and all(isinstance(c, int) for c in columns)
                rows = _table(lines, columns, quoted=kind == ".csv", by_place=by_place)
                again = again if by_place else 0
            elif kind == ".json" and (items := _whole_json(path, encoding)) is not None:
                rows = pick_values(enumerate(items, start=1), columns or in_first(items))
            elif kind in (".jsonl", ".ndjson", ".json"):
                columns = columns or _in_first_lines(path, encoding)
                rows = pick_values(((number, _load(line)) for number, line in lines), columns)
            elif columns:
                raise BrokenFile(f"it holds plain lines and no columns, so no {_names(columns)}")
            else:
                rows = (Row(number, (line,)) for number, line in lines)
            yield from islice(rows, again, None)
    except UNREADABLE as e:
        raise BrokenFile(f"it cannot be read: {e}") from e


def choose(there: Sequence[str], columns: Columns) -> tuple[str, ...]:
    """The wanted columns among those there are.

    Raises:
        BrokenFile: naming the columns there are.
    """
    if columns is not None:
        if missing := [c for c in columns if c not in there]:
            raise BrokenFile(f"no column {_names(missing)}; it has the columns {_names(there)}")
        return tuple(str(c) for c in columns)
    for name in ("text", "sentence"):
        if name in there:
            return (name,)
    if len(there) != 1:
        raise BrokenFile(f"which column? Name one of {_names(there)} with column=")
    return (there[0],)


def _names(columns: Iterable[object]) -> str:
    return ", ".join(repr(c) for c in columns)


def open_text(path: Path, encoding: str | None, *, errors: str = "surrogateescape") -> IO[str]:
    """A text file, unpacked.

    Raises:
        BrokenFile: when it is empty or looks binary.
    """
    with unpack(path) as file:
        head = file.read(8192)
    if encoding is not None and codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # a mark at the beginning is none of the text
    if encoding is None:
        encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        # Damaged text holds a stray control byte; a picture or a model is full of them.
        control = len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", head))
        if encoding != "utf-16" and control > max(2, len(head) // 20):
            raise BrokenFile("it looks binary, not text")
    if not head:
        raise BrokenFile("the file is empty")
    # Bytes that are no UTF-8 become lone surrogates, which the caller finds, counts and names.
    return io.TextIOWrapper(unpack(path), encoding=encoding, errors=errors)


def unpack(path: Path) -> Any:
    """The bytes of a file; how they are packed is told by content."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return gzip.open(path, "rb")
    if magic[:3] == b"BZh":
        return bz2.open(path, "rb")
    if magic == b"\xfd7zX":
        return lzma.open(path, "rb")
    if magic == b"\x28\xb5\x2f\xfd":
        return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return path.open("rb")


def _lines(file: IO[str]) -> Iterator[tuple[int, str]]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        cut = line
        while len(cut) == MAX_LINE and not cut.endswith("\n"):
            cut = file.readline(MAX_LINE)
        yield number, line


def _table(
    lines: Iterator[tuple[int, str]], columns: Columns, *, quoted: bool, by_place: bool
) -> Iterator[Row]:
    first = next(lines)
    if not first[1].strip():
        raise BrokenFile("line 1 is empty, but the names of the columns go there")
    delimiter = delimiter_of(first[1]) if quoted else "\t"
    again = chain([first], lines)
    rows = _quoted(again, delimiter) if quoted else _unquoted(again, delimiter)
    if by_place:
        head = next(rows)
        header = [str(i) for i in range(len(head.values))]
        wanted = choose(header, tuple(str(c) for c in columns or ()))
        rows = chain([head], rows)
    else:
        header = [str(name).strip() for name in next(rows).values]
        wanted = choose(header, columns)
    places = [header.index(name) for name in wanted]
    for row in rows:
        if row.problem:
            yield row
        elif not any(row.values):
            yield Row(row.line, ("",) * len(places))
        elif len(row.values) != len(header):
            yield Row(row.line, row.values, "ragged")
        else:
            yield Row(row.line, tuple(row.values[i] for i in places))


def delimiter_of(first: str) -> str:
    """What parts the fields of a table that is no .tsv, by its first line."""
    return max(",;\t|", key=first.count)


def _unquoted(lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[Row]:
    for number, line in lines:
        yield Row(number, tuple(line.rstrip("\r\n").split(delimiter)))


def _quoted(lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[Row]:
    last = 0

    def texts() -> Iterator[str]:
        nonlocal last
        for number, line in lines:
            last = number
            yield line

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    while True:
        before = reader.line_num
        try:
            values = tuple(next(reader))
            yield Row(last - reader.line_num + before + 1, values)
        except StopIteration:
            return
        except csv.Error as e:
            # After an error the reader starts afresh on the next line.
            start = last - reader.line_num + before + 1
            yield Row(start, (f"{e} (up to line {last})",), "bad_csv")


def _whole_json(path: Path, encoding: str | None) -> list[Any] | None:
    """The items of a file that is one list; None where each line is a value of its own.

    Raises:
        BrokenFile: it is one value of another kind, or damaged.
    """
    with open_text(path, encoding) as file:
        first = file.readline(MAX_LINE)
        if first.lstrip()[:1] != "[" and first.strip() != "{":
            return None
        try:
            items = json.loads(first + file.read())
        except ValueError as e:
            raise BrokenFile(f"not valid JSON: {e}") from e
    if not isinstance(items, list):
        raise BrokenFile(
            f"it holds one object (of {_names(list(items)[:5])}), but a list of rows is wanted, or "
            "a row a line"
        )
    return items


def in_first(items: Iterable[Any]) -> Columns:
    """The column to take by the keys of the first objects, of which some may lack some.

    Args:
        items: objects, or values that have no keys, for which it is None.

    Raises:
        BrokenFile: the keys leave a choice.
    """
    objects = [item for item in islice(items, _FIRST) if isinstance(item, Mapping)]
    keys = list(dict.fromkeys(key for item in objects for key in item))
    return choose(keys, None) if keys else None


def _in_first_lines(path: Path, encoding: str | None) -> Columns:
    with open_text(path, encoding) as file:  # anew: the lines themselves may be entered anywhere
        return in_first([_load(line) for _, line in islice(_lines(file), _FIRST)])


def _load(line: str) -> Any:
    if not line.strip():
        return ""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Row(0, (line,), "bad_json")


def pick_values(items: Iterable[tuple[int, Any]], columns: Columns) -> Iterator[Row]:
    """Rows of the wanted columns from numbered objects, tuples or bare strings.

    Raises:
        BrokenFile: when `columns` is None and the first object leaves a choice, or when no row
            had the columns.
    """
    found, keys = False, {}
    for number, item in items:
        if isinstance(item, Row):
            yield Row(number, item.values, item.problem)
            continue
        if isinstance(item, str):
            item = (item,)
        if isinstance(item, Mapping):
            keys.update(dict.fromkeys(item))
            columns = columns or choose(list(item), None)
            values = tuple(item.get(name) for name in columns)
        elif isinstance(item, Sequence) and len(item) == len(columns or (0,)):
            values = tuple(item)
        else:
            yield Row(number, (repr(item)[:80],), "missing")
            continue
        found = found or any(value is not None for value in values)
        yield Row(number, values)
    if keys and columns and not found:
        choose(list(keys), columns)


def _parquet(path: Path, columns: Columns, wanted: Wanted, tape: Tape | None) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        names = choose(file.schema_arrow.names, columns)
        number, begin = 0, 0 if tape is None else tape.row
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number + rows <= begin:
                number += rows
                continue
            if not wanted(number, number + rows):
                number += rows
                yield Row(number, (rows,), PASSED)
                continue
            how: dict[str, Any] = {"batch_size": 4096, "columns": list(names)}
            for batch in file.iter_batches(row_groups=[group], **how):
                for values in zip(*(batch.column(n).to_pylist() for n in names), strict=True):
                    number += 1
                    if number <= begin:
                        continue
                    if tape is not None:
                        tape.reaches(number)
                    yield Row(number, values)
