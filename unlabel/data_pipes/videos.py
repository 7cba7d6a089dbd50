"""Read collections of videos or pictures: find them, decode each once, leave out what is broken."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unlabel.data_pipes.cells import Cell
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.frame_cache import passing_folder
from unlabel.data_pipes.held import Held, Member
from unlabel.data_pipes.kept_frames import Keep, KeptFrames
from unlabel.data_pipes.media import Media
from unlabel.data_pipes.report import NothingUsable, ReadReport
from unlabel.data_pipes.scan import scan_files
from unlabel.data_pipes.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, places_at, read_clip, suffix_of
from unlabel.data_pipes.video_data import VideoData, VideoItem
from unlabel.data_pipes.video_list import Columns, Entry, by_pattern, list_media

_AT_ONCE = 1 << 30  # bytes of shards that are examined as files of their own at a time

__all__ = ["VideoData", "VideoItem", "look_into", "read_frames", "read_videos"]


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
    keep: Keep | None = None,
) -> VideoData:
    """Find the videos of nearly any source, and decode each once to know what can be used of it.

    Every file is decoded in a process of its own (see `scan`), so that what crashes or hangs is
    one more broken file. Broken files are left out, counted and named in the report. A damaged
    file, one with whole frames before its damage, is left out too, or used up to there.

    Args:
        source: a folder (searched to the bottom; sub-folders are classes where all files lie in
            them; a folder without videos but with folders of pictures has a video in each), a
            glob, a `.csv`, `.tsv`, `.jsonl` or `.parquet` list or DataFrame (Parquet may hold the
            media themselves, as `datasets` writes them), WebDataset shards (`.tar`, not packed; a
            `.cls` of the same stem is the class), a list of paths, of bytes, of arrays or of rows
            as dicts, a uint8 array `(times, rows, columns, 3)`, a `datasets.Dataset`, or
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
        keep: what to keep of the frames while they are decoded, for a store of that size.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no video can be used; the first are named, with the reason.
    """
    columns = Columns(path_column, label_column, start_column, end_column, view_column)
    report = ReadReport()
    entries = list_media(source, VIDEO_SUFFIXES, columns, report)[:limit]
    by_pattern(entries, pattern)
    about = {"manifest": manifest, "jobs": jobs, "patience": patience, "keep": keep}
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
    keep: Keep | None = None,
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
        keep: as for `read_videos`.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: nothing of it can be used.
    """
    report, suffixes = ReadReport(), (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    columns = Columns(path_column, label_column)
    entries = list_media(source, suffixes, columns, report)[:limit]
    by_pattern(entries, pattern)
    about = {"manifest": manifest, "jobs": jobs, "patience": patience, "keep": keep}
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
    keep: Keep | None = None,
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
        keep: as for `read_videos`.

    Raises:
        NothingUsable: as it says.
    """
    if damaged not in ("skip", "use"):
        raise ValueError(f"damaged is 'skip' or 'use', but {damaged!r} came.")
    about = {"manifest": None if manifest is None else Path(manifest), "kind": kind}
    kept = None if keep is None else KeptFrames(keep, damaged=damaged == "use")
    media = _examined(entries, **about, jobs=jobs, patience=patience, kept=kept)
    classes = tuple(sorted({e.label for e in entries if e.label is not None}))
    places = {name: i for i, name in enumerate(classes)}
    items = []
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
    if not items:
        named = "; ".join(f"{name}: {why}" for name, why in list(report.broken.items())[:3])
        raise NothingUsable(f"No usable {what} among {len(entries)}: {named}.", report)
    _pair(items)
    return VideoData(items, report, classes, kept, about["manifest"])


def _usable(entry: Entry, media: Media, damaged: str) -> tuple[int, int, str]:
    """First and last frame of the part that counts, and why it cannot be used."""
    if media.fault and (damaged == "skip" or not media.frames):
        what = "samples" if media.kind == "sound" else "whole frames"
        before = f"; {media.frames} {what} before" if media.frames else ""
        return 0, 0, media.fault + before
    first, last = 0, media.frames
    if entry.start or entry.end is not None:
        first, last = _part(media, entry.start, entry.end)
        if last <= first or not 0 <= entry.start < media.seconds:
            end = "its end" if entry.end is None else f"{entry.end:g} s"
            part = f"its part from {entry.start:g} s to {end}"
            return 0, 0, f"{part} holds no frame of {media.seconds:.2f} s"
    return first, last, ""


def _part(media: Media, start: float, end: float | None) -> tuple[int, int]:
    if media.kind == "sound":
        last = media.frames if end is None else min(round(end * media.fps), media.frames)
        return round(start * media.fps), last
    times = media.times
    # The frame that begins at the very end is not of the part.
    last = media.frames if end is None else int(np.searchsorted(times, end - 5e-4))
    return int(places_at(times, [start])[0]), last


def _examined(entries: list[Entry], *, kind: str | None, **about: Any) -> list[Media]:
    """What each entry holds; a file that several entries name is decoded once."""
    found: dict[int, Media] = {}
    for part in _parts(entries):
        with passing_folder("unlabel-examined-") as folder:
            paths: dict[int, Path] = {}
            met: dict[Held, int] = {}
            for place in part:
                held = entries[place].source
                if isinstance(held, Held) and met.setdefault(held, place) != place:
                    continue  # another part of it
                source = _content(entries[place])
                if isinstance(source, (str, Path)):
                    paths[place] = Path(source).expanduser()
                elif content := _bytes(source):
                    # What crashes a decoder does so from memory, too: it is examined as a file.
                    paths[place] = folder / f"{place}{_suffix(source)}"
                    paths[place].write_bytes(content)
                else:
                    found[place] = _in_memory(source, entries[place].name, kind)
            unique = list(dict.fromkeys(paths.values()))
            # A file that is gone again has no place in a manifest.
            own = (
                about
                if not any(folder in p.parents for p in unique)
                else {**about, "manifest": None}
            )
            media = dict(zip(unique, scan_files(unique, kind=kind, **own), strict=True))
            found |= {place: media[path] for place, path in paths.items()}
            parts = [p for p in part if p not in found]
            found |= {p: found[met[entries[p].source]] for p in parts}
    return [found[i] for i in range(len(entries))]


def _parts(entries: list[Entry]) -> Iterator[list[int]]:
    """Places of the entries, cut where the files of a shard would fill the disk a second time."""
    part: list[int] = []
    room = _AT_ONCE
    for place, entry in enumerate(entries):
        size = entry.source.size if isinstance(entry.source, (Member, Cell)) else 0
        if part and size > room:
            yield part
            part, room = [], _AT_ONCE
        part.append(place)
        room -= size
    if part:
        yield part


def _content(entry: Entry) -> Any:
    """What the entry names: a path, bytes, or what lies in memory."""
    try:
        source = entry.source.load() if isinstance(entry.source, Held) else entry.source
    except DecodeError as e:
        return e
    if isinstance(source, dict) and source.get("bytes") is None and source.get("path"):
        return Path(source["path"])
    return source


def _bytes(source: Any) -> bytes:
    content = source.get("bytes") if isinstance(source, dict) else source
    return bytes(content) if isinstance(content, (bytes, bytearray, memoryview)) else b""


def _suffix(source: Any) -> str:
    """That of its path, or where it has none, that of the pictures which begin like it."""
    named = Path(str(source.get("path") or "")).suffix if isinstance(source, dict) else ""
    return named or suffix_of(_bytes(source)[:12])


def _in_memory(source: Any, name: str, kind: str | None) -> Media:
    try:
        if isinstance(source, DecodeError):
            raise source
        if kind == "sound":
            from unlabel.data_pipes.audio import measure_waveform

            samples, rate, fault = measure_waveform(source)
            return Media(name, "sound", samples, float(rate), codec="memory", fault=fault)
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
