"""Files of any kind of data as vectors of one space: one each, or one for each text or series."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32

from unlabel.data_pipes.formats import SUFFIXES as TEXTS
from unlabel.data_pipes.formats import kind_of
from unlabel.data_pipes.media import SOUND_SUFFIXES
from unlabel.data_pipes.report import NothingUsable
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import Series, SeriesData
from unlabel.data_pipes.series_files import SUFFIXES as SERIES
from unlabel.data_pipes.text import read_text
from unlabel.data_pipes.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from unlabel.data_pipes.video_windows import STEPS
from unlabel.media_embedding import media_vectors
from unlabel.series_embedding import series_vectors

# A file goes to the first of these kinds of data that there is a side of.
GUESSED = (
    ("video", VIDEO_SUFFIXES),
    ("frames", (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)),
    ("audio", (*SOUND_SUFFIXES, *VIDEO_SUFFIXES)),
    ("text", (".txt", ".jsonl", ".ndjson", ".json")),
    ("series", tuple(s for s in SERIES if s != ".txt")),
)
# Where one side is asked for, tables may hold texts, and plain text may be numbers.
ASKED = (("text", TEXTS), ("series", SERIES))


class Embedded(NamedTuple):
    """What files hold, and a vector for each of it.

    Attributes:
        items: a row each: `path`, `row` (place in the file), `text` (or the id of a series),
            `frames` (or samples, or steps), `rate` (of them a second), and `fault`, why the file
            has no vector.
        vectors: of length 1; zeros where there is a fault, `(items, width)`.
    """

    items: pd.DataFrame
    vectors: Float32[np.ndarray, "items width"]


def side_for(path: Path, kinds: Mapping[str, str]) -> str | None:
    """The side whose encoder sees a file, by its suffix; None where there is none.

    Args:
        path: of the file.
        kinds: kind of data of each side, in order; of a lone side, more is tried.
    """
    first = {kind: side for side, kind in reversed(list(kinds.items()))}
    tried = [*GUESSED, *(ASKED if len(kinds) == 1 else ())]
    return next((first[k] for k, known in tried if k in first and kind_of(path, known)), None)


def suffixes_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """Of all files that encoders of these kinds of data may be given."""
    wanted = set(kinds)
    tried = [*GUESSED, *(ASKED if len(wanted) == 1 else ())]
    return tuple(dict.fromkeys(s for kind, known in tried if kind in wanted for s in known))


@torch.no_grad()
def embed_files(
    encoder: Any,
    side: str,
    paths: Sequence[str],
    *,
    options: Any,
    column: str | None = None,
    batch_size: int = 32,
) -> Embedded:
    """Vectors of what files of one side hold, in their order.

    Args:
        encoder: a `JointEncoder`.
        side: whose encoder sees them.
        paths: of the files.
        options: how the side was read in training, an options class of its kind of data.
        column: of a table that holds texts.
        batch_size: samples a forward pass.
    """
    tower: Any = encoder.towers[side]
    kind = encoder.kinds[side]
    if kind == "text":
        rows, raw = _texts(tower, paths, column, batch_size)
    elif kind == "series":
        rows, raw = _series(tower, paths, options.reading(), batch_size)
    else:
        rows, raw = _media(tower, paths, options, batch_size)
    unit = encoder.project(side, torch.from_numpy(raw.astype(np.float32))).numpy()
    return _in_order(rows, unit, paths)


def sampling_of(options: Any) -> dict[str, Any]:
    """How the frames of a clip lay in a video in training, as `VideoStore` takes it."""
    said = {k: getattr(options, k, None) for k in STEPS}
    return {k: v for k, v in said.items() if v is not None}


def _in_order(rows: list[dict[str, Any]], vectors: np.ndarray, paths: Sequence[str]) -> Embedded:
    """Rows with vectors come first, then those with a fault; all take their files' order."""
    nothing = {"row": 0, "text": "", "frames": 0, "rate": 0.0, "fault": ""}
    items = pd.DataFrame([{**nothing, **r} for r in rows], columns=["path", *nothing])
    whole = np.zeros((len(items), vectors.shape[1]), np.float32)
    whole[: len(vectors)] = vectors
    place = {path: i for i, path in enumerate(paths)}
    keys = zip(items["path"].map(lambda path: place[path]), items["row"], strict=True)
    order = [row for _, row in sorted((key, row) for row, key in enumerate(keys))]
    return Embedded(items.iloc[order].reset_index(drop=True), whole[order])


def _media(
    tower: Any, paths: Sequence[str], options: Any, batch_size: int
) -> tuple[list[dict[str, Any]], np.ndarray]:
    how: dict[str, Any] = {"batch_size": batch_size, "sampling": sampling_of(options)}
    try:
        store, vectors = media_vectors(tower, list(paths), **how)
    except NothingUsable as error:
        return _faults(error.report.broken), np.zeros((0, tower.width))
    bad = dict.fromkeys(store.lost, "it went bad while it was read")
    good = [i for i, item in enumerate(store.data) if item.name not in bad]
    found = [store.data[i] for i in good]
    rows = [{"path": x.name, "frames": len(x), "rate": x.media.fps} for x in found]
    return rows + _faults({**store.data.report.broken, **bad}), vectors[good]


def _texts(
    tower: Any, paths: Sequence[str], column: str | None, batch_size: int
) -> tuple[list[dict[str, Any]], np.ndarray]:
    rows, broken = [], {}
    for path in paths:
        try:
            stream: Any = read_text(path, column=column, keep_repeats=True, streaming=True)
            for record in stream:
                place = stream.report.lines - 1
                rows.append({"path": path, "row": place, "text": next(iter(record.values()))})
        except ValueError as error:
            broken[path] = str(error)
    texts = [row["text"] for row in rows]
    return rows + _faults(broken), tower.encode(texts, batch_size=batch_size)


def _series(
    tower: Any, paths: Sequence[str], reading: Mapping[str, Any], batch_size: int
) -> tuple[list[dict[str, Any]], np.ndarray]:
    found: list[Series] = []
    rows, broken = [], {}
    how = {**reading, "time_gap": tower.time_gap or False, "limit": None}
    for path in paths:
        try:
            read = read_series(path, **how).series
            _check_channels(read, tower.channels)
        except ValueError as error:
            broken[path] = str(error)
            continue
        found += read
        rows += [
            {"path": path, "row": i, "text": str(s.id), "frames": len(s)}
            for i, s in enumerate(read)
        ]
    if not found:
        return _faults(broken), np.zeros((0, tower.width))
    data = SeriesData(found, time_gap=tower.time_gap)
    return rows + _faults(broken), series_vectors(tower, data, size=batch_size)


def _check_channels(read: Sequence[Series], channels: int) -> None:
    widths = {s.values.shape[1] for s in read}
    if channels > 1 and widths != {channels}:
        raise ValueError(
            f"it has {', '.join(map(str, sorted(widths)))} channel(s), but the encoder takes "
            f"{channels} together"
        )


def _faults(broken: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"path": path, "fault": why} for path, why in broken.items()]


def grouped(paths: Sequence[Path], kinds: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Sides with the files that their encoders see; files that none sees are left out."""
    sides = [side_for(path, kinds) for path in paths]
    for side in kinds:
        own = (str(p.resolve()) for p, s in zip(paths, sides, strict=True) if s == side)
        if files := list(dict.fromkeys(own)):
            yield side, files


__all__ = ["Embedded", "embed_files", "grouped", "sampling_of", "side_for", "suffixes_of"]
