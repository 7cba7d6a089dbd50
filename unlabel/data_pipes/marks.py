"""Places where a stream can be entered again, so that going on costs no reading anew."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

EVERY = 1 << 17  # rows from mark to mark; a stream forgets there what it compares repeats with


class Mark(NamedTuple):
    """A place between two rows: what came before it, and where in which file it is.

    Attributes:
        kept: records before it.
        rows: before it, of all files.
        file: number of the file.
        line: of that file before it; of Parquet the row.
        cookie: place in the file, as `io.TextIOWrapper.tell` gives it; 0 in Parquet; of a
            `datasets` object its state, and a digest of the rows behind.
    """

    kept: int
    rows: int
    file: int
    line: int
    cookie: Any


class Tape:
    """Files of lines that are read from a mark on, and marks of where the reading passes.

    Args:
        of: tells the source and how it is read: other marks are not of it.
        path: file of marks; it need not be there.
        start: records that need not be read, as far as marks allow.
        writes: add marks that the file does not have.
    """

    def __init__(self, of: Any, path: Path, start: int = 0, *, writes: bool = False):
        self.of = hashlib.sha256(repr(of).encode()).hexdigest()[:16]
        self.path, self.writes = path, writes
        known = self._known()
        self._last = max((mark.rows for mark in known), default=0)
        before = (mark for mark in known if mark.kept <= start)
        self.begin = max(before, key=lambda mark: mark.rows, default=None)
        self._file, self._line = 0, 0
        self._place: Callable[[], Any] | None = None

    def _known(self) -> list[Mark]:
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                of, *numbers = json.loads(line)
                found += [Mark(*numbers)] if of == self.of else []
            except (ValueError, TypeError):  # cut off in the middle of a line
                continue
        return found

    def opens(self, number: int) -> bool:
        """Whether the file of this number is read; the next lines are its own."""
        self._file, self._place = number, None
        return self.begin is None or number >= self.begin.file

    @property
    def enters(self) -> bool:
        """Whether the present file is entered at a mark."""
        return self.begin is not None and self.begin.file == self._file

    def lines(self, file: IO[str], lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """The numbered lines of the present file; of one that is entered, the first and the rest.

        The first line is there for what it tells of the others, such as their columns.
        """
        self._place, past = file.tell, 0
        if self.begin is not None and self.enters:
            yield next(lines)
            file.seek(self.begin.cookie)
            past = self.begin.line - 1
        for number, line in lines:
            self._line = number + past
            yield self._line, line

    @property
    def row(self) -> int:
        """Rows of the present file that need not be read, where it is no text."""
        return self.begin.line if self.begin is not None and self.enters else 0

    def reaches(self, row: int, cookie: Any = 0) -> None:
        """So many rows of the present file, which is no text, have been read."""
        self._place, self._line = None if cookie is None else lambda: cookie, row

    def forget(self) -> None:
        """The marks are not of what the source gives now; it is read from its beginning."""
        self.begin, self._last = None, 0
        if self.writes:
            self.path.unlink(missing_ok=True)

    def here(self, rows: int) -> Mark | None:
        """The place behind the latest row, where it is worth a mark, but for its `kept`."""
        if not self.writes or rows % EVERY or rows <= self._last or self._place is None:
            return None
        try:
            return Mark(0, rows, self._file, self._line, self._place())
        except (io.UnsupportedOperation, OSError):  # packed so that it cannot be entered
            return None

    def keep(self, mark: Mark, kept: int) -> None:
        """Write a mark down, where marks are written and it is a new one."""
        if not self.writes or mark.rows <= self._last:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write("\n" + json.dumps([self.of, *mark._replace(kept=kept)]))
        self._last = mark.rows


__all__ = ["EVERY", "Mark", "Tape"]
