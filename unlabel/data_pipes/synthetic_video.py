"""Real video files of synthetic scenes, with sound and captions: the data that needs no download.

No frame tells the action, only the change from frame to frame does (see `synthetic_scenes`), and
the sound says it too.
"""

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from unlabel.data_pipes.faults import library
from unlabel.data_pipes.synthetic_render import CHUNK, render_frames, render_sound
from unlabel.data_pipes.synthetic_scenes import (
    ACTIONS,
    COLORS,
    SHAPES,
    TEXTURES,
    Scenes,
    draw_scenes,
)
from unlabel.files import replacing, write_json

VERSION = 1  # of what the generator draws; another one writes to another folder
SEEDS = {"train": 0, "test": 1}
COUNTS = {"train": 288, "test": 96}
_CODECS: dict[str, dict[str, str]] = {
    "h264": {"preset": "veryfast", "crf": "16"},
    "mpeg4": {"qscale": "2"},
}


@dataclass(frozen=True)
class SyntheticClip:
    """A video file and what it shows.

    Attributes:
        path: of the file.
        action: one of `ACTIONS`.
        label: its place there.
        caption: a sentence.
        direction: `left`, `right`, `up`, `down`, `clockwise`, `anticlockwise`, or nothing.
        shapes: of the two things that are seen.
        colors: of them.
        texture: of what is behind them.
    """

    path: Path
    action: str
    label: int
    caption: str
    direction: str
    shapes: tuple[str, str]
    colors: tuple[str, str]
    texture: str


def cache_folder() -> Path:
    """Where files go that can be made again: `$UNLABEL_CACHE`, else the user's cache directory."""
    if own := os.environ.get("UNLABEL_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "unlabel"


def embedded_videos(
    folder: str | Path | None = None,
    *,
    split: Literal["train", "test"] = "train",
    count: int | None = None,
    size: int = 64,
    frames: int = 32,
    fps: int = 16,
    rate: int = 16_000,
) -> list[SyntheticClip]:
    """The default videos: written once, then found where they are.

    Args:
        folder: to keep them in; default `videos` in `cache_folder()`. Each setting has a folder
            of its own there.
        split: `train` or `test`, drawn from different seeds.
        count: of clips; default 288 and 96.
        size: rows and columns.
        frames: of a clip.
        fps: frames a second.
        rate: samples of sound a second; 0 for no sound.

    Raises:
        ValueError: an unknown split, or sizes that cannot be encoded.
    """
    if split not in SEEDS:
        raise ValueError(f"split={split!r}: choose 'train' or 'test'.")
    about = {
        "version": VERSION, "seed": SEEDS[split], "count": count or COUNTS[split], "size": size,
        "frames": frames, "fps": fps, "rate": rate,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:10]
    base = Path(folder) if folder is not None else cache_folder() / "videos"
    place = base / f"shapes-{split}-{key}"
    found = _listed(place)
    if found is None:
        sizes = {k: about[k] for k in ("size", "frames", "fps", "rate")}
        found = write_videos(place, draw_scenes(about["count"], seed=about["seed"]), **sizes)
        # Written last: a folder without it is not whole, and is written again.
        rows = [{**asdict(c), "path": c.path.name} for c in found]
        write_json(place / "clips.json", {"about": about, "clips": rows})
    return found


def _listed(place: Path) -> list[SyntheticClip] | None:
    file = place / "clips.json"
    if not file.is_file():
        return None
    rows = json.loads(file.read_text(encoding="utf-8"))["clips"]
    pair = lambda row: {k: tuple(row[k]) for k in ("shapes", "colors")}  # noqa: E731
    clips = [SyntheticClip(**{**row, **pair(row), "path": place / row["path"]}) for row in rows]
    return clips if all(c.path.is_file() for c in clips) else None


def write_videos(
    folder: str | Path, scenes: Scenes, *, size: int, frames: int, fps: int, rate: int
) -> list[SyntheticClip]:
    """Draw scenes, and write a file each: H.264 and AAC in MP4, the caption as its title.

    Args:
        folder: to write to.
        scenes: what to draw.
        size: rows and columns, even.
        frames: of a clip.
        fps: frames a second.
        rate: samples of sound a second; 0 for no sound.

    Raises:
        ValueError: sizes that cannot be encoded.
    """
    check_sizes(size, frames, fps, rate)
    clips = []
    for start in range(0, len(scenes), CHUNK):
        part = scenes.rows(slice(start, start + CHUNK))
        pictures = render_frames(part, size=size, frames=frames, fps=fps)
        sound = render_sound(part, rate=rate, seconds=frames / fps) if rate else None
        for row in range(len(part)):
            clip = _described(part, row, Path(folder) / f"{start + row:05d}.mp4")
            waveform = None if sound is None else sound[row]
            with replacing(clip.path) as partial:
                write_video(partial, pictures[row], fps, waveform, rate, title=clip.caption)
            clips.append(clip)
    return clips


def _described(scenes: Scenes, row: int, path: Path) -> SyntheticClip:
    action, colors = int(scenes.action[row]), list(COLORS)
    named = lambda names, places: tuple(names[p] for p in places)  # noqa: E731
    return SyntheticClip(
        path, ACTIONS[action], action, scenes.caption(row), scenes.direction[row],
        named(SHAPES, scenes.shape[row]), named(colors, scenes.color[row]),
        TEXTURES[scenes.texture[row]],
    )  # fmt: skip


def write_video(
    path: str | Path,
    frames: UInt8[np.ndarray, "frames rows columns 3"],
    fps: float,
    waveform: Float32[np.ndarray, "samples"] | None = None,
    rate: int = 16_000,
    *,
    title: str = "",
) -> None:
    """Write one MP4, in H.264 where PyAV has an encoder of it, else in MPEG-4 part 2.

    Args:
        path: of the file.
        frames: RGB, of even height and width.
        fps: frames a second.
        waveform: sound, mono, from -1 to 1; None for a silent file without a track.
        rate: its samples a second.
        title: kept in the file.
    """
    av = library("av", "video")

    codec = next(c for c in _CODECS if _encodes(c))
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        file.metadata["title"] = title
        video: Any = file.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt, video.options, video.thread_count = "yuv420p", _CODECS[codec], 1
        coder = {"aac_coder": "fast"}
        sound = (
            None
            if waveform is None
            else file.add_stream("aac", rate=rate, options=coder, layout="mono")
        )
        for frame in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(video.encode())
        if waveform is not None and sound is not None:
            samples: Any = np.ascontiguousarray(waveform[None], dtype=np.float32)
            block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            block.sample_rate, block.pts = rate, 0
            file.mux(sound.encode(block))
            file.mux(sound.encode())


def _encodes(codec: str) -> bool:
    av = library("av", "video")

    try:
        return av.Codec(codec, "w").is_encoder
    except (ValueError, LookupError):  # av.codec.UnknownCodecError is a ValueError
        return False


def check_sizes(size: int, frames: int, fps: int, rate: int) -> None:
    if size < 16 or size % 2:
        raise ValueError(f"size is an even number of at least 16, but {size} came.")
    if frames < 1 or fps < 1:
        raise ValueError(f"frames and fps are at least 1, but {frames} and {fps} came.")
    if rate and not 8000 <= rate <= 96_000:
        raise ValueError(f"rate is 0 or from 8000 to 96000 samples a second, but {rate} came.")


__all__ = ["SyntheticClip", "cache_folder", "embedded_videos", "write_video", "write_videos"]
