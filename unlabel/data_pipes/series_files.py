"""One reader for each kind of file of series: a table, an array, or the cases of a .ts file."""

import csv
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from unlabel.data_pipes.formats import UNREADABLE, BrokenFile, kind_of, open_text, unpack
from unlabel.data_pipes.report import ReadReport

ID_COLUMNS = ("item_id", "unique_id")
MISSING = ["", "?", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None"]
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".npy", ".ts")

_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_POINT = re.compile(r"[-+]?\d*\.\d+(?:[eE][-+]?\d+)?")
_SPACES = r"\s+"  # as numpy.savetxt parts numbers
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")


@dataclass
class Cases:
    """The cases of a .ts file.

    Attributes:
        values: `(steps, channels)` a case, NaN where missing.
        classes: names of the classes, in the order of the header.
        labels: place of each case's class in `classes`; -1 without classes.
        target: whether each line ended in a regression target, which is left out.
    """

    values: list[np.ndarray] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    labels: list[int] = field(default_factory=list)
    target: bool = False


def read_file(
    path: Path, report: ReadReport, encoding: str | None = None, id_column: str | None = None
) -> pd.DataFrame | np.ndarray | Cases:
    """The content of one file; an id column stays text.

    Args:
        path: of the file.
        report: takes a number with a decimal comma, where there are some.
        encoding: of text; None means UTF-8 (or UTF-16 where the file says so).
        id_column: of a table.

    Raises:
        BrokenFile: when the file cannot be read; the message says why.
    """
    kind = kind_of(path, SUFFIXES)
    try:
        if path.stat().st_size == 0:
            raise BrokenFile("the file is empty")
        if kind == ".parquet":
            return pd.read_parquet(path)
        if kind == ".npy":
            with unpack(path) as file:
                return np.load(io.BytesIO(file.read()), allow_pickle=False)
        with open_text(path, encoding, errors="strict") as file:
            if kind == ".ts":
                return _read_cases(file)
            found, comma = _read_table(file, kind, id_column)
            if comma:
                report.note("decimal_commas", f"{path}: {comma} is {comma.replace(',', '.')}")
            return found
    except UnicodeError as e:
        raise BrokenFile(
            f"it is not {e.encoding} text; save it as UTF-8, or in Python name its encoding to "
            "read_series, such as encoding='latin-1'"
        ) from e
    except (
        *UNREADABLE,
        csv.Error,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        BadZipFile,
    ) as e:
        raise BrokenFile(f"it cannot be read: {str(e).strip()}") from e
    except ValueError as e:
        if isinstance(e, BrokenFile):
            raise
        raise BrokenFile(f"it cannot be read: {e}") from e


def _read_table(
    file: IO[str], kind: str | None, id_column: str | None
) -> tuple[pd.DataFrame, str | None]:
    """The table, and its first number with a decimal comma."""
    first, head = file.readline(1 << 20), file.readline(1 << 20) + file.read(1 << 16)
    if not first.strip():
        raise BrokenFile("line 1 is empty, but the names of the columns (or numbers) go there")
    separator = "\t" if kind == ".tsv" else _separator(first, head)
    fields = first.split() if separator == _SPACES else _fields(first, separator)
    about = pd.read_csv(io.StringIO(first), sep=separator, nrows=0, skipinitialspace=True)
    names = [str(name) for name in about.columns]
    ids = [n for n in names if n.strip() == id_column or n.strip().lower() in ID_COLUMNS]
    header = None if _is_data(fields) else 0
    below = head if header == 0 else first + head
    comma = None if separator == "," else _decimal_comma(below, separator)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # more fields than the header
        try:
            return _parse_table(file, separator, names, ids, header, "," if comma else "."), comma
        except pd.errors.ParserWarning as e:
            raise BrokenFile(
                f"line 1 has {len(names)} field(s) and lines below it have more; what stands above "
                "the names of the columns is to be taken out"
            ) from e


def _separator(first: str, head: str) -> str:
    """What parts the fields, by the first line and those below."""
    if numbers := [s for s in ";\t|" if s in first and _is_data(_fields(first, s))]:
        return numbers[0]  # those with decimal commas have more commas
    # A name may hold one of them, too.
    found = max(",;\t|", key=lambda s: (first.count(s), head.count(s)))
    return _SPACES if found not in first and _is_data(first.split()) else found


def _fields(line: str, separator: str) -> list[str]:
    parts = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    return [part.strip() for part in parts]


def _decimal_comma(text: str, separator: str) -> str | None:
    """The first number with a decimal comma; none where others have points, as 1,000 and 0.5."""
    fields = [f.strip(' "') for line in text.splitlines() for f in line.split(separator)]
    if any(_POINT.fullmatch(field) for field in fields):
        return None
    return next((field for field in fields if _COMMA.fullmatch(field)), None)


def _parse_table(
    file: IO[str],
    separator: str,
    names: list[str],
    ids: list[str],
    header: int | None,
    decimal: str,
) -> pd.DataFrame:
    return pd.read_csv(
        file,
        sep=separator,
        header=header,
        decimal=decimal,
        # Ids such as 007 must not become numbers, nor one such as NA a gap.
        dtype=dict.fromkeys(ids, str),
        na_values={name: MISSING for name in names if name not in ids} if ids else MISSING,
        keep_default_na=False,
        index_col=False,  # else a row of one field too many has its first column taken away
        low_memory=False,
        skipinitialspace=True,
    )


def _is_data(fields: list[str]) -> bool:
    """Whether the first line holds numbers (and dates), and is no header of numbered columns."""
    numbers = [f for f in fields if _is_number(f) or _COMMA.fullmatch(f)]
    dates = sum(bool(_DATE.match(f)) for f in fields if f not in numbers)
    missing = sum(f in MISSING for f in fields if f not in numbers)
    # An empty name at the beginning stands over the row numbers that pandas writes.
    if not numbers or not fields[0] or len(numbers) + dates + missing < len(fields):
        return False
    return dates > 0 or numbers != [str(place) for place in range(len(numbers))]


def _read_cases(file: IO[str]) -> Cases:
    lines = enumerate(file, start=1)
    classes, target = _header(lines)
    cases = Cases(classes=classes or (), target=target)
    places = {name: i for i, name in enumerate(cases.classes)}
    for number, line in lines:
        if not (line := line.strip()) or line[0] in "#%":
            continue
        parts = line.split(":")
        label = parts.pop().strip() if classes is not None or target else None
        if classes is not None and label not in places:
            known = ", ".join(classes[:20])
            raise BrokenFile(f"line {number}: {label!r:.40} is none of its classes {known}")
        values = _case(parts, number)
        if cases.values and values.shape[1] != cases.values[0].shape[1]:
            raise BrokenFile(
                f"line {number} has {values.shape[1]} dimensions, but the first case has "
                f"{cases.values[0].shape[1]}"
            )
        cases.values.append(values)
        cases.labels.append(places[str(label)] if classes is not None else -1)
    return cases


def _header(lines: Iterator[tuple[int, str]]) -> tuple[tuple[str, ...] | None, bool]:
    classes, target = None, False
    for _, line in lines:
        words = line.split()
        word = words[0].lower() if words else ""
        if word == "@data":
            return classes, target
        if word == "@timestamps" and words[1:2] == ["true"]:
            raise BrokenFile("its values carry time stamps; write plain values, or a CSV table")
        if word == "@classlabel" and words[1:2] == ["true"]:
            classes = tuple(words[2:])
        if word == "@targetlabel":
            target = words[1:2] == ["true"]
    raise BrokenFile("it has no line @data, so it is no .ts file of time series")


def _case(parts: list[str], number: int) -> np.ndarray:
    rows = []
    for place, part in enumerate(parts, start=1):
        fields = [f.strip() or "nan" for f in part.replace("?", "nan").split(",")]
        try:
            rows.append(np.array(fields, dtype=np.float64))
        except ValueError as e:
            wrong = next((f for f in fields if not _is_number(f)), part)
            raise BrokenFile(
                f"line {number}, dimension {place}: {wrong[:40]!r} is no number"
            ) from e
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise BrokenFile(f"line {number}: its dimensions have {lengths} values; all need the same")
    return np.stack(rows, axis=1)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
