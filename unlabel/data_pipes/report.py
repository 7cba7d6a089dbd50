"""What reading met: how much was kept, and what was left out and why."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ReadReport:
    """What was read and what was left out: `lines == kept + sum(dropped.values())`.

    Attributes:
        files: that were read (to the end, or up to the line told in `broken`).
        broken: file -> why it was skipped or where it broke off.
        ignored: files of a folder whose suffix is of no known kind.
        lines: rows met.
        kept: records handed on.
        dropped: kind -> rows: `empty`, `repeated`, `undecodable` (not valid in the encoding),
            `nul` (NUL bytes), `too_short`, `too_long`, `missing` (no such column, or no text in
            it), `ragged` (more or fewer fields than the header), `bad_csv`, `bad_json`;
            rows of series `without_id`, `without_time` and of a `repeated` time.
        repeats_kept: repeated records handed on because of `keep_repeats`.
        examples: kind -> up to three places, as `file:line: text`.
        counts: further figures of a source, such as packages and docstrings.
    """

    files: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    lines: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repeats_kept: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def drop(self, kind: str, place: str, values: Sequence[Any]) -> None:
        """Count a row that is left out, and keep the first three as examples."""
        self.dropped[kind] += 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < 3:
            text = " ".join(" | ".join(str(v)[:200] for v in values).split())[:80]
            shown.append(f"{place}: {text.encode('ascii', 'backslashreplace').decode()}")

    def drop_rows(self, kind: str, places: Sequence[str], count: int) -> None:
        """Count many rows of one kind that are left out; the first three places are examples."""
        self.dropped[kind] += count
        shown = self.examples.setdefault(kind, [])
        shown += places[: 3 - len(shown)]

    def note(self, kind: str, *places: str, count: int = 1) -> None:
        """Count what was found and left in (or mended), and keep the first three as examples."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        if places:
            shown = self.examples.setdefault(kind, [])
            shown += places[: 3 - len(shown)]

    def summary(self) -> str:
        """One line: files, records kept, and what was left out and why."""
        parts = [f"{self.kept:,} of {self.lines:,} rows kept from {len(self.files)} source(s)"]
        parts += [f"{n:,} {kind.replace('_', ' ')}" for kind, n in sorted(self.dropped.items())]
        if self.repeats_kept:
            parts.append(f"{self.repeats_kept:,} repeated rows kept")
        if self.broken:
            named = "; ".join(f"{name} ({why})" for name, why in list(self.broken.items())[:3])
            parts.append(f"{len(self.broken)} broken file(s): {named}")
        if self.ignored:
            parts.append(f"{len(self.ignored)} file(s) of another kind ignored")
        return ", ".join(parts)


class NothingUsable(ValueError):
    """Of what was found nothing can be used.

    Attributes:
        report: what was found, and what is wrong with each of them.
    """

    def __init__(self, message: str, report: ReadReport):
        super().__init__(message)
        self.report = report


def first_of(names: Collection[str]) -> str:
    """The first three names, and whether there are more."""
    return ", ".join([*names][:3]) + ", ..." * (len(names) > 3)
