"""Real files of one moving object each, seen, heard, told and measured: pairs without a download.

The test split shows combinations of shape, colour and motion that the train split never does.
"""

import csv
import hashlib
import json
import tempfile
import wave
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from unlabel.data_pipes.synthetic_captions import write_caption
from unlabel.data_pipes.synthetic_objects import Objects, Split, draw_objects
from unlabel.data_pipes.synthetic_render import CHUNK
from unlabel.data_pipes.synthetic_senses import (
    COLUMNS,
    SENSOR_RATE,
    object_frames,
    object_readings,
    object_sound,
)
from unlabel.data_pipes.synthetic_video import cache_folder, check_sizes, write_video

VERSION = 1  # of what the generator draws; another one writes to another folder
COUNTS = {"train": 1536, "test": 192}  # every combination 6 and 3 times: each pace twice and once
FILES = ("video", "audio", "series")
FIELDS = ("video", "audio", "text", "series", "label", "shape", "color", "motion", "pace",
          "direction")  # fmt: skip
_NAME = "pairs.csv"


def embedded_pairs(
    folder: str | Path | None = None,
    *,
    split: Split = "train",
    count: int | None = None,
    size: int = 64,
    frames: int = 16,
    fps: int = 10,
    rate: int = 8_000,
) -> Path:
    """A list of samples of four kinds: written once with their files, then found where they are.

    Its columns are `video` (MP4, the sound as its track), `audio` (WAV), `text` (a caption),
    `series` (CSV, 40 readings a second), `label` (colour, shape and motion together), `shape`,
    `color`, `motion`, `pace` and `direction`; paths are relative to the list. Samples come in
    rounds: each shows every combination of the split once, in another order and at another pace,
    so that the 64 first of `test` differ in what they show, and all 192 in that or in their pace.

    Args:
        folder: to keep them in; default `pairs` in `cache_folder()`. Each setting has a folder
            of its own there.
        split: `train`, or `test`: the fifth of the combinations that is held out.
        count: of samples; default 1,536 and 192.
        size: rows and columns of a clip.
        frames: of a clip.
        fps: frames a second.
        rate: samples of sound a second.

    Returns:
        Path of the list.

    Raises:
        ValueError: an unknown split, or sizes that cannot be encoded.
    """
    if split not in COUNTS:
        raise ValueError(f"split={split!r}: choose 'train' or 'test'.")
    sizes = {"size": size, "frames": frames, "fps": fps, "rate": rate}
    check_sizes(**sizes)
    if not rate:
        raise ValueError("Pairs have sound: rate is from 8000 to 96000 samples a second.")
    count = COUNTS[split] if count is None else count
    about = {"version": VERSION, "split": split, "count": count, **sizes}
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:10]
    base = Path(folder) if folder is not None else cache_folder() / "pairs"
    place = base / f"objects-{split}-{key}"
    if not _is_whole(place):
        objects = draw_objects(count, split=split)
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base, prefix=".pairs-") as partial:
            made = Path(partial) / "made"
            write_pairs(made, objects, **sizes)
            _move(made, place, Path(partial) / "broken")
    return place / _NAME


def _move(made: Path, place: Path, aside: Path) -> None:
    """Move a folder to its place, unless another process was faster; what is not whole goes."""
    for _ in range(2):
        try:
            made.replace(place)
            return
        except OSError:  # a folder with files in it is never replaced
            if _is_whole(place):
                return
            with suppress(FileNotFoundError):  # the other process was faster here too
                place.replace(aside)
    raise FileExistsError(f"{place}: something else writes there.")


def _is_whole(place: Path) -> bool:
    file = place / _NAME
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", newline="") as lines:
        return all((place / row[side]).is_file() for row in csv.DictReader(lines) for side in FILES)


def write_pairs(
    folder: str | Path, objects: Objects, *, size: int, frames: int, fps: int, rate: int
) -> Path:
    """Write samples: three files each, and the list of them last.

    Args:
        folder: to write to.
        objects: what is seen, heard, told and measured.
        size: rows and columns of a clip.
        frames: of a clip.
        fps: frames a second.
        rate: samples of sound a second.

    Returns:
        Path of the list.
    """
    folder, seconds = Path(folder), frames / fps
    for side in FILES:
        (folder / side).mkdir(parents=True, exist_ok=True)
    shown, heard = np.arange(frames) / fps, np.arange(round(seconds * rate)) / rate
    read = np.arange(round(seconds * SENSOR_RATE)) / SENSOR_RATE
    rows = []
    for start in range(0, len(objects), CHUNK):
        part = objects.rows(slice(start, start + CHUNK))
        pictures = object_frames(part, shown, size=size)
        sounds = object_sound(part, heard, rate=rate)
        readings = object_readings(part, read)
        for row in range(len(part)):
            line = _described(part, row, f"{start + row:05d}")
            write_video(
                folder / line["video"], pictures[row], fps, sounds[row], rate, title=line["text"]
            )
            _write_sound(folder / line["audio"], sounds[row], rate)
            _write_series(folder / line["series"], read, readings[row])
            rows.append(line)
    with (folder / _NAME).open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, FIELDS, lineterminator="\n")
        lines.writeheader()
        lines.writerows(rows)
    return folder / _NAME


def _described(objects: Objects, row: int, stem: str) -> dict[str, str]:
    names = objects.names(row)
    text = write_caption(np.random.default_rng([int(objects.seed[row]), 3]), **names)
    label = f"{names['color']} {names['shape']} {names['motion']}"
    suffixes = {"video": ".mp4", "audio": ".wav", "series": ".csv"}
    files = {side: f"{side}/{stem}{suffix}" for side, suffix in suffixes.items()}
    return {**files, "text": text, "label": label, **names}


def _write_sound(path: Path, waveform: Float32[np.ndarray, "samples"], rate: int) -> None:
    """16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(waveform * 32767).astype("<i2").tobytes())


def _write_series(
    path: Path, times: Float[np.ndarray, "times"], readings: Float[np.ndarray, "times columns"]
) -> None:
    table = np.column_stack([times, readings])
    header = ",".join(("time", *COLUMNS))
    np.savetxt(path, table, fmt="%.4f", delimiter=",", header=header, comments="")


__all__ = ["COUNTS", "embedded_pairs", "write_pairs"]
