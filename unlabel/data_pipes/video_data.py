"""Read a collection of videos or pictures: what is there, how long, and what cannot be used."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.media import Media
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.scan import scan_files
from unlabel.data_pipes.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, places_at, read_clip
from unlabel.data_pipes.video_list import Columns, Entry, Row, by_pattern, list_media

__all__ = ["VideoData", "VideoItem", "read_frames", "read_videos"]


@dataclass
class VideoItem:
    """One video, or the part of one that a list names.

    Attributes:
        name: of its file or place.
        source: what `read_clip` takes.
        media: what decoding it found.
        first: frame where the part begins.
        last: frame before which it ends.
        label: place of its class in `VideoData.classes`, -1 for none.
        view: which camera, "" for a lone one.
        partners: places in the data of the same take seen by other cameras.
        row: further columns of the list it came from.
    """

    name: str
    source: Any
    media: Media
    first: int
    last: int
    label: int = -1
    view: str = ""
    partners: tuple[int, ...] = ()
    row: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of frames."""
        return self.last - self.first

    def content(self) -> Any:
        """What `read_clip` takes, fetched from its data set where it lies in one."""
        return self.source.load() if isinstance(self.source, Row) else self.source

    def check_unchanged(self) -> None:
        """Refuse a file that is not the one that was examined: it may crash the process.

        Raises:
            DecodeError: it changed, or is gone.
        """
        if isinstance(self.source, (str, Path)) and not self.media.unchanged():
            gone = not Path(self.source).expanduser().exists()
            cause = "it is gone" if gone else "it changed since it was examined"
            raise DecodeError(self.name, cause, reader="store")


@dataclass
class VideoData:
    """Videos that were read together, and the report of the reading.

    Attributes:
        items: one by one.
        report: what was read, and what was left out and why (`broken`).
        classes: names of the classes that the labels count, sorted.
    """

    items: list[VideoItem]
    report: ReadReport = field(default_factory=ReadReport)
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.items)

    def __getitem__(self, index: int) -> VideoItem:
        """One video."""
        return self.items[index]

    def __iter__(self) -> Iterator[VideoItem]:
        """The videos in order."""
        return iter(self.items)

    @property
    def labels(self) -> np.ndarray:
        """Class of each video, -1 for none, `(count,)`."""
        return np.array([item.label for item in self.items], np.int64)

    def column(self, name: str) -> list[Any]:
        """A further column of the list, for each video; None where a video has no such.

        Raises:
            KeyError: no video has it.
        """
        if not any(name in item.row for item in self.items):
            has = sorted({key for item in self.items for key in item.row})
            raise KeyError(f"No column {name!r}; there are {', '.join(has) or 'none'}.")
        return [item.row.get(name) for item in self.items]

    def part(self, places: Sequence[int]) -> "VideoData":
        """Some of the videos, with the same classes; pairs of views stay where both are in it."""
        new = {int(old): place for place, old in enumerate(places)}
        items = []
        for old in new:
            item = self.items[old]
            kept = tuple(new[p] for p in item.partners if p in new)
            items.append(VideoItem(**{**item.__dict__, "partners": kept}))
        return VideoData(items, self.report, self.classes)

    def summary(self) -> str:
        """One line: how many, how long, which sizes, and what was left out and why."""
        seconds = [len(item) / item.media.fps for item in self.items]
        kinds = {item.media.kind for item in self.items}
        if kinds == {"sound"}:
            rates = sorted({int(item.media.fps) for item in self.items})
            long = f"{min(seconds):.2f} to {max(seconds):.2f} s ({sum(seconds):,.0f} s in all)"
            shown = f"{_shown([f'{rate:,}' for rate in rates])} samples a second"
            parts = [f"{len(self):,} recordings of {long}", shown]
        else:
            sizes = sorted({(i.media.columns, i.media.rows) for i in self.items})
            long = f"{_span([len(i) for i in self.items])} frames ({sum(seconds):,.0f} s in all)"
            what = "pictures" if kinds == {"picture"} else f"videos of {long}"
            parts = [f"{len(self):,} {what}", _shown([f"{c}x{r}" for c, r in sizes])]
        if self.classes:
            parts.append(f"{len(self.classes)} classes")
        return ", ".join([*parts, *_notes(self.report)])


def read_videos(
    source: Any,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    start_column: str | None = None,
    end_column: str | None = None,
    view_column: str | None = None,
    pattern: str | None = None,
    damaged: Literal["skip", "use"] = "skip",
    manifest: str | Path | None = None,
    limit: int | None = None,
    jobs: int | None = None,
    patience: float = 30.0,
) -> VideoData:
    """Find the videos of nearly any source, and decode each once to know what can be used of it.

    Every file is decoded in a process of its own (see `scan`), so that what crashes or hangs is
    one more broken file. Broken files are left out, counted and named in the report. A damaged
    file, one with whole frames before its damage, is left out too, or used up to there.

    Args:
        source: a folder (searched to the bottom; sub-folders are classes where all files lie in
            them; a folder without videos but with folders of pictures has a video in each), a
            glob, a `.csv`, `.tsv` or `.parquet` list or DataFrame, a list of paths, bytes or
            arrays, a uint8 array `(times, rows, columns, 3)`, a `datasets.Dataset`, or
            `"hf:name[:config[:split]]"`.
        path_column: of a list; None takes `path` (relative to the list), or the data set's column
            of videos.
        label_column: of a list; None takes `label` where it is there.
        start_column: seconds at which the part that counts begins; None takes `start`, likewise.
        end_column: seconds at which it ends; None takes `end`.
        view_column: which camera; None takes `view`. Rows that are equal in all other columns but
            the path show the same take, and are each other's partners.
        pattern: regular expression for file names; its named groups become columns, and the group
            `label` the class.
        damaged: `"skip"`, or `"use"` what lies before the damage.
        manifest: file to keep what was found in (see `scan`), so that it is found out once.
        limit: videos taken at most.
        jobs: as for `scan`.
        patience: as for `scan`.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no video can be used; the first are named, with the reason.
    """
    columns = Columns(path_column, label_column, start_column, end_column, view_column)
    report = ReadReport()
    entries = list_media(source, VIDEO_SUFFIXES, columns, report)[:limit]
    by_pattern(entries, pattern)
    about = {"manifest": manifest, "jobs": jobs, "patience": patience}
    return look_into(entries, report, damaged=damaged, what="video", **about)


def read_frames(
    source: Any,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    pattern: str | None = None,
    damaged: Literal["skip", "use"] = "skip",
    manifest: str | Path | None = None,
    limit: int | None = None,
    jobs: int | None = None,
    patience: float = 30.0,
) -> VideoData:
    """Find pictures, and videos to take frames from; arguments and faults as `read_videos`.

    Args:
        source: as for `read_videos`; pictures lie in folders as they like, and each is a video
            of one frame.
        path_column: as for `read_videos`.
        label_column: as for `read_videos`.
        pattern: as for `read_videos`.
        damaged: as for `read_videos`.
        manifest: as for `read_videos`.
        limit: as for `read_videos`.
        jobs: as for `scan`.
        patience: as for `scan`.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: nothing of it can be used.
    """
    report, suffixes = ReadReport(), (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    columns = Columns(path_column, label_column)
    entries = list_media(source, suffixes, columns, report)[:limit]
    by_pattern(entries, pattern)
    about = {"manifest": manifest, "jobs": jobs, "patience": patience}
    return look_into(entries, report, damaged=damaged, what="frame", **about)


def look_into(
    entries: list[Entry],
    report: ReadReport,
    *,
    what: str,
    damaged: str = "skip",
    kind: str | None = None,
    manifest: str | Path | None = None,
    jobs: int | None = None,
    patience: float = 30.0,
) -> VideoData:
    """Decode each entry once, and keep what can be used.

    Args:
        entries: what was found.
        report: takes what is left out, and why.
        what: they are, in words.
        damaged: as for `read_videos`.
        kind: see `examine`.
        manifest: as for `scan`.
        jobs: as for `scan`.
        patience: as for `scan`.

    Raises:
        ValueError: nothing can be used.
    """
    if damaged not in ("skip", "use"):
        raise ValueError(f"damaged is 'skip' or 'use', but {damaged!r} came.")
    about = {"manifest": None if manifest is None else Path(manifest), "kind": kind}
    media = _examined(entries, **about, jobs=jobs, patience=patience)
    classes = tuple(sorted({e.label for e in entries if e.label is not None}))
    places = {name: i for i, name in enumerate(classes)}
    items, kept = [], []
    for entry, found in zip(entries, media, strict=True):
        report.lines += 1
        first, last, fault = _usable(entry, found, damaged)
        if fault:
            report.broken[entry.name] = fault
            report.dropped["broken"] += 1
            continue
        if found.fault or found.cut:
            why = found.fault or f"cut off after {found.frames} of {found.header} frames"
            report.note("damaged_used" if found.fault else "cut_off", f"{entry.name}: {why}")
        report.kept += 1
        report.files.append(entry.name)
        label = -1 if entry.label is None else places[entry.label]
        items.append(
            VideoItem(
                entry.name, entry.source, found, first, last, label, entry.view, (), entry.row
            )
        )
        kept.append(entry)
    if not items:
        named = "; ".join(f"{name}: {why}" for name, why in list(report.broken.items())[:3])
        raise ValueError(f"No usable {what} among {len(entries)}: {named}.")
    _pair(items)
    return VideoData(items, report, classes)


def _usable(entry: Entry, media: Media, damaged: str) -> tuple[int, int, str]:
    """First and last frame of the part that counts, and why it cannot be used."""
    if media.fault and (damaged == "skip" or not media.frames):
        before = f"; {media.frames} whole frames before" if media.frames else ""
        return 0, 0, media.fault + before
    first, last = 0, media.frames
    if entry.start or entry.end is not None:
        times = media.times
        first = int(places_at(times, [entry.start])[0])
        # The frame shown at the very end is not of the part, unless the file ends there.
        last = last if entry.end is None else int(np.searchsorted(times, entry.end - 5e-4))
        if last <= first or entry.start >= media.seconds:
            return (
                0,
                0,
                (
                    f"its part from {entry.start:g} s to {entry.end} s holds no frame of "
                    f"{media.seconds:.2f} s"
                ),
            )
    return first, last, ""


def _examined(entries: list[Entry], *, kind: str | None, **about: Any) -> list[Media]:
    """What each entry holds; a file that several entries name is decoded once."""
    with tempfile.TemporaryDirectory() as name:
        found: dict[int, Media] = {}
        paths: dict[int, Path] = {}
        for place, entry in enumerate(entries):
            source = entry.source.load() if isinstance(entry.source, Row) else entry.source
            if isinstance(source, dict) and source.get("bytes") is None and source.get("path"):
                source = Path(source["path"])
            if isinstance(source, (str, Path)):
                paths[place] = Path(source).expanduser()
            elif content := _bytes(source):
                # What crashes a decoder does so from memory, too: it is examined as a file.
                paths[place] = Path(name) / f"{place}{_suffix(source)}"
                paths[place].write_bytes(content)
            else:
                found[place] = _in_memory(source, entry.name, kind)
        unique = list(dict.fromkeys(paths.values()))
        media = dict(zip(unique, scan_files(unique, kind=kind, **about), strict=True))
        return [found.get(i) or media[paths[i]] for i in range(len(entries))]


def _bytes(source: Any) -> bytes:
    content = source.get("bytes") if isinstance(source, dict) else source
    return bytes(content) if isinstance(content, (bytes, bytearray, memoryview)) else b""


def _suffix(source: Any) -> str:
    return Path(str(source.get("path") or "")).suffix if isinstance(source, dict) else ""


def _in_memory(source: Any, name: str, kind: str | None) -> Media:
    try:
        if kind == "sound":
            from unlabel.data_pipes.audio import read_waveform

            waveform, rate = read_waveform(source)
            return Media(name, "sound", len(waveform), float(rate), codec="memory")
        frames = read_clip(source)
    except DecodeError as e:
        return Media(name, fault=e.cause)
    found = "picture" if len(frames) == 1 else "video"
    return Media(name, found, len(frames), 25.0, frames.shape[1], frames.shape[2], "memory")


def _pair(items: list[VideoItem]) -> None:
    """Rows that differ in the view alone show the same take."""
    takes: dict[tuple[Any, ...], list[int]] = {}
    for place, item in enumerate(items):
        if item.view:
            key = (item.label, item.first, *sorted((k, str(v)) for k, v in item.row.items()))
            takes.setdefault(key, []).append(place)
    for places in takes.values():
        for place in places:
            mine = items[place].view
            items[place].partners = tuple(p for p in places if items[p].view != mine)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _notes(report: ReadReport) -> list[str]:
    notes = []
    for kind, words in (
        ("cut_off", "cut off, used"),
        ("damaged_used", "damaged, used up to there"),
    ):
        if count := report.counts.get(kind):
            notes.append(f"{count:,} {words} ({'; '.join(report.examples[kind])})")
    if report.broken:
        named = "; ".join(f"{n}: {why}" for n, why in list(report.broken.items())[:3])
        notes.append(f"{len(report.broken):,} broken, left out ({named})")
    if report.ignored:
        notes.append(f"{len(report.ignored):,} file(s) of another kind ignored")
    return notes
