"""One side of a sample as its source names it: what can be used, and what is wrong with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unlabel.data_pipes.held import Member
from unlabel.data_pipes.media import SOUND_SUFFIXES
from unlabel.data_pipes.series_files import SUFFIXES as SERIES_SUFFIXES
from unlabel.data_pipes.text import clean_text
from unlabel.data_pipes.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

# Files that a side of a kind can be read from; the sound of a video is read as well.
FITTING = {
    "series": SERIES_SUFFIXES,
    "frames": (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES),
    "video": VIDEO_SUFFIXES,
    "audio": (*SOUND_SUFFIXES, *VIDEO_SUFFIXES),
}


@dataclass(frozen=True)
class Part:
    """The part of a file that counts, in seconds.

    Attributes:
        source: the file.
        start: where it begins.
        end: where it ends, None for the file's end.
    """

    source: Any
    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        """File and seconds, for messages."""
        end = "its end" if self.end is None else f"{self.end:g} s"
        return f"{self.source}, {self.start:g} s to {end}"


def part_of(value: Any, start: Any, end: Any) -> tuple[Any, str | None]:
    """A value, or the part of it, and the problem in words that a side's name ends.

    Args:
        value: ready to be read.
        start: seconds, as a number or as text; nothing for the beginning.
        end: likewise; nothing for the end.
    """
    try:
        begin, until = _seconds(start), _seconds(end)
    except ValueError:
        return None, "with_unreadable_times_of"
    if begin is None and until is None:
        return value, None
    part = Part(value, begin or 0.0, until)
    if part.start < 0:
        return None, "with_start_below_0_of"
    if part.end is not None and part.end <= part.start:
        return None, "with_end_not_after_start_of"
    return part, None


def _seconds(value: Any) -> float | None:
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float(value)
    except TypeError as e:
        raise ValueError(value) from e
    if not math.isfinite(seconds):
        raise ValueError(value)
    return seconds


def side_value(kind: str, value: Any, base: Path) -> tuple[Any, str | None]:
    """A value ready to be read, and the problem in words that a side's name ends.

    Args:
        kind: of the side's data.
        value: text or several texts, a path, numbers, `Held`, or what lies in memory.
        base: folder that paths are relative to.
    """
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None, "without"
    if kind == "text":
        return _texts(value)
    if isinstance(value, (str, Path)):
        return _file(str(value), base)
    if kind == "series" and isinstance(value, (Sequence, np.ndarray)):
        return _numbers(value)
    return value, None


def _texts(value: Any) -> tuple[Any, str | None]:
    if not isinstance(value, (list, tuple, np.ndarray)):
        text, problem = clean_text(value)
        return text, _WORDS.get(problem, f"with_{problem}") if problem else None
    each = [clean_text(v) for v in value]
    good = tuple(text for text, problem in each if problem is None)
    return (good, None) if good else (None, "without")


_WORDS = {"missing": "without", "empty": "without"}


def _file(value: str, base: Path) -> tuple[str | None, str | None]:
    if not value.strip():
        return None, "without"
    path = base / Path(value).expanduser()
    try:
        there = path.exists()
    except (OSError, ValueError):  # such as a name longer than any file's
        there = False
    return (str(path), None) if there else (None, "without_file_of")


def _numbers(value: Any) -> tuple[np.ndarray | None, str | None]:
    """`(steps,)` or `(steps, channels)`; None and NaN are missing values."""
    try:
        array = np.array(list(value), np.float32)
    except (ValueError, TypeError):
        return None, "with_unreadable"
    if array.ndim not in (1, 2) or not array.size:
        return None, "with_unreadable"
    return array, None


def check_endings(side: str, kind: str, values: Sequence[Any]) -> None:
    """Refuse a side whose files are all of another kind.

    Raises:
        ValueError: naming what they are, and the kind that fits.
    """
    files = [v.source if isinstance(v, Part) else v for v in values]
    names = [v.name if isinstance(v, Member) else v for v in files]
    ends = {Path(n).suffix.lower() for n in names if isinstance(n, str)}
    if kind not in FITTING or not ends or ends & set(FITTING[kind]):
        return
    known = {other for other, suffixes in FITTING.items() if ends & set(suffixes)}
    if known:
        raise ValueError(
            f"The side {side!r} is of kind {kind}, but its files end in {', '.join(sorted(ends))}; "
            f"give its column, or kind: {' or '.join(sorted(known))}."
        )


def distinct(values: Sequence[Any]) -> tuple[list[Any], Int64[np.ndarray, "rows"]]:
    """The different values in order, and the place of each row's value among them."""
    places: dict[Any, int] = {}
    kept: list[Any] = []
    found = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        key = _key(value)
        if key not in places:
            places[key] = len(kept)
            kept.append(value)
        found[row] = places[key]
    return kept, found


def in_common(columns: Sequence[Sequence[Any]]) -> Int64[np.ndarray, "rows"]:
    """A number for each row; equal where rows have a value of a column in common, or with a third.

    Args:
        columns: of values; of several texts, each counts.
    """
    values: dict[Any, int] = {}
    rows, places = [], []
    for number, column in enumerate(columns):
        for row, value in enumerate(column):
            for one in value if isinstance(value, tuple) else (value,):
                rows.append(row)
                places.append(values.setdefault((number, _key(one)), len(values)))
    count = len(columns[0])
    size = count + len(values)
    links = (np.ones(len(rows), bool), (rows, np.add(places, count)))
    found = connected_components(coo_array(links, shape=(size, size)), directed=False)[1]
    return found[:count].astype(np.int64)


def _key(value: Any) -> Any:
    if isinstance(value, Part):
        return _key(value.source), value.start, value.end
    return value if isinstance(value, (str, tuple)) else id(value)


__all__ = ["Part", "check_endings", "distinct", "in_common", "part_of", "side_value"]
