"""Read sentences, pairs or triplets from any source, and say what could not be used."""

import codecs
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from unlabel.data_pipes.formats import PASSED, Columns, Row, Wanted
from unlabel.data_pipes.labels import said_in
from unlabel.data_pipes.marks import EVERY, Tape
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.sources import Files, resolve, rows_of, stands
from unlabel.files import identity

_NO_TEXT = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class _Options:
    columns: Columns
    min_words: int
    max_words: int | None
    max_chars: int
    limit: int | None
    keep_repeats: bool
    encoding: str | None
    labelled: bool = False  # the last column is a class


@dataclass
class TextData:
    """Sentences, pairs or triplets in memory.

    Attributes:
        columns: name -> one text a record; the first column is the anchor.
        report: what was read and what was left out.
        labels: place of each record's class in `classes`, -1 for none; None without a column.
        classes: names of the classes, sorted.
    """

    columns: dict[str, list[str]]
    report: ReadReport
    labels: Int64[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The first column: the sentences, or the anchors."""
        return next(iter(self.columns.values()))

    @property
    def partners(self) -> dict[str, list[str]]:
        """The further columns."""
        return dict(list(self.columns.items())[1:])

    def __len__(self) -> int:
        """Number of records."""
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, str]:
        """One record, by column."""
        return {name: texts[index] for name, texts in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, str]]:
        """The records in order."""
        return (self[i] for i in range(len(self)))


@dataclass
class TextStream:
    """The same records as `TextData`, read anew on every pass and never held in memory.

    Two passes give the same records in the same order, so a place in the stream is one integer.
    Repeats are found within blocks of 131,072 rows only.

    Attributes:
        names: of the columns.
        report: of the latest pass in this process, up to where it is now.
    """

    source: Any
    names: tuple[str, ...]
    options: _Options
    report: ReadReport = field(default_factory=ReadReport)

    def __iter__(self) -> Iterator[dict[str, str]]:
        """A pass from the first record on."""
        return self.records()

    def records(self, start: int = 0) -> Iterator[dict[str, str]]:
        """A pass that leaves out the first `start` records (they are read, and thrown away)."""
        return islice(self.enter()[1], start, None)

    def enter(
        self, start: int = 0, marks: Path | None = None, *, writes: bool = False
    ) -> tuple[int, Iterator[dict[str, str]]]:
        """A record at or before `start`, by its place, and a pass from it on.

        Args:
            start: the record that is wanted; files and `datasets` are entered near it.
            marks: file of the places that earlier passes came by; None begins at the first record.
            writes: add the places that this pass comes by.
        """
        tape = None
        if marks is not None and isinstance(self.source, Files):
            files = [(str(p), *identity(p)) for p in self.source.paths]
            tape = Tape((files, self.options), marks, start, writes=writes)
        elif marks is not None and hasattr(self.source, "select_columns"):
            tape = Tape((self.source, self.options), marks, start, writes=writes)
            if tape.begin and not stands(self.source, self.options.columns, tape.begin):
                tape.forget()
        self.report = ReadReport()
        first = 0
        if tape is not None and tape.begin is not None:
            self.report.lines, self.report.kept = tape.begin.rows, (first := tape.begin.kept)
            self.report.dropped["read_before"] = tape.begin.rows - first
        rows = _records(self.source, self.report, self.options, forgets=True, tape=tape)
        return first, (dict(zip(self.names, row, strict=True)) for _, row in rows)

    def chosen(self, wanted: Wanted) -> Iterator[tuple[int, str]]:
        """The first text of each record of the rows that are wanted, after the row's place.

        Args:
            wanted: whether any row of the source is, from a place to before another one; others
                are told in the report.
        """
        self.report = ReadReport()
        rows = _records(self.source, self.report, self.options, forgets=True, wanted=wanted)
        return ((place, row[0]) for place, row in rows)


def read_text(
    source: Any,
    *,
    column: str | int | None = None,
    columns: Sequence[str | int] | None = None,
    label_column: str | int | None = None,
    min_words: int = 1,
    max_words: int | None = None,
    max_chars: int = 100_000,
    limit: int | None = None,
    keep_repeats: bool = False,
    encoding: str | None = None,
    streaming: bool = False,
) -> TextData | TextStream:
    """Read text from nearly anything; what cannot be used is counted and named in the report.

    Runs of white space become one space, as in SimCSE's data.

    Args:
        source: a path, a glob, a folder (searched to the bottom), a list of paths; a list of
            sentences, tuples or dicts; a DataFrame; a `datasets` object; or
            `"hf:name[:config[:split]]"`.
            Files: one sentence a line (.txt), .csv, .tsv (split at tabs, no quoting), .jsonl,
            .json, .parquet; text may be packed as .gz, .bz2, .xz or .zst.
        column: which column of a table holds the text. A number means a table without header row.
        columns: several columns instead: anchor, positive and perhaps negative.
        label_column: the column of classes beside them; an empty field is none.
        min_words: records in which a text has fewer words are left out.
        max_words: the same for more words; None for no bound. (Tokenising truncates anyway.)
        max_chars: the same in characters, so that a file without line ends does no harm.
        limit: stop after so many records.
        keep_repeats: keep records that were there before; they are counted all the same.
        encoding: of text files; None means UTF-8 (or UTF-16 where the file says so).
        streaming: return a `TextStream` that holds nothing in memory.

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: when nothing usable is left, a lone file is broken, or the column is unknown.
    """
    if column is not None and columns is not None:
        raise ValueError("Give column= for sentences or columns= for pairs, not both.")
    if isinstance(columns, str) or (columns is not None and len(columns) < 2):
        raise ValueError(
            f"columns= takes two or more names, but came {columns!r}; for one: column=."
        )
    if label_column is not None and (streaming or (column is None and columns is None)):
        raise ValueError(
            f"label_column={label_column!r} needs the column of the text by name (column=, or "
            "columns=), and data that is no stream."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, but is {limit}; leave it out to read all.")
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError as e:
            raise ValueError(f"Python knows no encoding {encoding!r}; try 'latin-1'.") from e
    wanted: Columns = tuple(columns) if columns else None if column is None else (column,)
    names = tuple(str(c) for c in columns) if columns else ("text",)
    labelled = label_column is not None
    if wanted and label_column is not None:
        wanted = (*wanted, label_column)
    bounds = (min_words, max_words, max_chars, limit, keep_repeats, encoding)
    options = _Options(wanted, *bounds, labelled)
    source = resolve(source)
    if streaming:
        stream = TextStream(source, names, options)
        _refuse_nothing(any(True for _ in stream), stream.report)
        return stream
    report = ReadReport()
    records = [row for _, row in _records(source, report, options)]
    _refuse_nothing(bool(records), report)
    found = list(map(list, zip(*records, strict=True)))
    labels, classes = _classes(found.pop()) if labelled else (None, ())
    return TextData(dict(zip(names, found, strict=True)), report, labels, classes)


def _classes(names: Sequence[str]) -> tuple[Int64[np.ndarray, "count"], tuple[str, ...]]:
    """Labels, and what they count; an empty name is no class."""
    classes = tuple(sorted(set(names) - {""}))
    place = {"": -1} | {name: i for i, name in enumerate(classes)}
    return np.array([place[name] for name in names], np.int64), classes


def read_documents(
    source: Any,
    *,
    min_words: int = 1,
    limit: int | None = None,
    encoding: str | None = None,
    seed: int = 0,
) -> TextData:
    """Each sentence with the `next` one of its document, and an `other` one of another document.

    An empty line, or the end of a file, ends a document; so does a line that cannot be used.

    Args:
        source: plain text files with one sentence a line, as for `read_text`.
        min_words: shorter sentences are left out.
        limit: sentences read at most.
        encoding: of the files; None means UTF-8.
        seed: of the other sentences.

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: there are no two documents of two sentences.
    """
    report = ReadReport()
    options = _Options(None, min_words, None, 100_000, limit, True, encoding)
    runs: list[list[str]] = [[]]
    place = ""
    for name, row in rows_of(resolve(source), report, None, encoding):
        report.lines += 1
        texts, problem = _clean(row, options)
        if problem is not None and problem != "empty":
            report.drop(problem, f"{name}:{row.line}", row.values)
        if problem is not None or name != place:
            runs.append([])
        place = name
        if problem is None:
            report.kept += 1
            runs[-1].append(texts[0])
            if report.kept == limit:
                break
    documents = [run for run in runs if len(run) > 1]
    if len(documents) < 2:
        raise ValueError(
            f"{len(documents)} documents of two sentences or more: {report.summary()}. Give plain "
            "text, one sentence a line, with an empty line between documents."
        )
    return TextData(_with_next(documents, random.Random(seed)), report)


def _with_next(documents: list[list[str]], draw: random.Random) -> dict[str, list[str]]:
    """Sentences, the next ones, and others drawn from other documents."""
    flat = [text for one in documents for text in one]
    columns: dict[str, list[str]] = {"text": [], "next": [], "other": []}
    start = 0
    for one in documents:
        columns["text"] += one[:-1]
        columns["next"] += one[1:]
        # A place among the sentences of the others, those before this document and those behind.
        drawn = (draw.randrange(len(flat) - len(one)) for _ in one[1:])
        columns["other"] += [flat[i if i < start else i + len(one)] for i in drawn]
        start += len(one)
    return columns


def _refuse_nothing(found: bool, report: ReadReport) -> None:
    if found:
        return
    seen = "; ".join(shown[0] for shown in report.examples.values())
    hint = ""
    if report.dropped["undecodable"]:
        hint = (
            " If the text is not UTF-8, save it as UTF-8, or in Python name its encoding to "
            "read_text, for instance encoding='latin-1'."
        )
    raise ValueError(f"No usable text: {report.summary()}. {seen}{hint}".strip())


def _records(
    source: Any,
    report: ReadReport,
    options: _Options,
    *,
    forgets: bool = False,
    wanted: Wanted | None = None,
    tape: Tape | None = None,
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Each record after the place of its row in the source."""
    seen: set[tuple[str, ...]] = set()
    block, mark = report.lines // EVERY, None
    for name, row in rows_of(source, report, options.columns, options.encoding, wanted, tape):
        if tape is not None and mark is not None:
            tape.keep(mark, report.kept)
        count = row.values[0] if row.problem == PASSED else 1
        report.lines += count
        mark = None if tape is None else tape.here(report.lines)
        if forgets and (report.lines - 1) // EVERY != block:
            block = (report.lines - 1) // EVERY
            seen.clear()
        if row.problem == PASSED or (wanted and not wanted(report.lines - 1, report.lines)):
            report.dropped[PASSED] += count
            continue
        texts, problem = _clean(row, options)
        if problem is None and texts in seen:
            report.repeats_kept += options.keep_repeats
            problem = None if options.keep_repeats else "repeated"
        elif problem is None:
            seen.add(texts)
        if problem:
            report.drop(problem, f"{name}:{row.line}", row.values)
            continue
        report.kept += 1
        yield report.lines - 1, texts
        if report.kept == options.limit:
            return


def _clean(row: Row, options: _Options) -> tuple[tuple[str, ...], str | None]:
    if row.problem:
        return (), row.problem
    texts, label = [], ()
    values = row.values
    if options.labelled:
        *values, last = values
        label = (said_in(last) or "",)
    bounds = (options.min_words, options.max_words, options.max_chars)
    for value in values:
        text, problem = clean_text(value, *bounds)
        if problem is not None:
            return (), problem
        texts.append(text)
    return (*texts, *label), None


def clean_text(
    value: Any, min_words: int = 1, max_words: int | None = None, max_chars: int = 100_000
) -> tuple[str, str | None]:
    """A text with its white space in order, and what is wrong with it, in a word.

    Args:
        value: as it stood in the source.
        min_words: that it needs.
        max_words: that it has at most; None for no bound.
        max_chars: likewise.
    """
    if not isinstance(value, str):
        return "", "missing"
    if len(value) > max_chars:
        return "", "too_long"
    if "\0" in value:
        return "", "nul"
    if not value.isascii() and _NO_TEXT.search(value):
        return "", "undecodable"
    words = value.split()
    if not words:
        return "", "empty"
    if len(words) < min_words:
        return "", "too_short"
    if max_words is not None and len(words) > max_words:
        return "", "too_long"
    return " ".join(words), None
