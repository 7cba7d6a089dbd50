"""What one file of video, pictures or sound holds, found out by decoding all of it."""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.data_pipes.faults import DecodeError, library, told
from unlabel.data_pipes.kept_frames import Spool
from unlabel.data_pipes.pixels import resized, rgb
from unlabel.data_pipes.sound_header import promised
from unlabel.data_pipes.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, pictures_in
from unlabel.data_pipes.video_readers import Pixels, frame_shape, marked_frames
from unlabel.files import identity

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus", ".aac", ".aiff", ".aif", ".wma")
SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, *SOUND_SUFFIXES)

_HEARTBEAT = 25  # frames between two signs of life
# Codecs of one frame a packet: a packet that gives none was lost. Others have hidden frames.
_COUNTED = ("mpeg4", "msmpeg4v2", "msmpeg4v3", "mjpeg", "h263")


@dataclass(frozen=True)
class Media:
    """A file and what decoding it to the end found.

    Attributes:
        path: of the file; a folder of pictures is one video.
        kind: `video`, `picture` or `sound`.
        frames: whole frames before the first damage; samples of a sound.
        fps: frames a second, by the time stamps where there are some; samples a second.
        rows: pixels, after the turn that a phone's file asks for.
        columns: pixels, likewise.
        codec: as FFmpeg names it.
        fault: what is wrong, "" where nothing is.
        header: frames or samples that the header told of (or its duration), 0 where it is silent.
        size: bytes of the file.
        changed: time of its last change, in nanoseconds.
        sound: whether a video has a sound track.
        stamps: seconds of each frame where the rate is not constant, else None.
    """

    path: str
    kind: str = "video"
    frames: int = 0
    fps: float = 0.0
    rows: int = 0
    columns: int = 0
    codec: str = ""
    fault: str = ""
    header: int = 0
    size: int = 0
    changed: int = 0
    sound: bool = False
    stamps: tuple[float, ...] | None = None

    @property
    def seconds(self) -> float:
        """Length of what can be used."""
        return self.frames / self.fps if self.fps else 0.0

    @property
    def times(self) -> np.ndarray:
        """Seconds at which each frame begins."""
        return np.arange(self.frames) / self.fps if self.stamps is None else np.array(self.stamps)

    @property
    def cut(self) -> bool:
        """Whether it is whole but shorter than its header says: cut off between two frames."""
        return not self.fault and self.header > 1.1 * self.frames + 2

    def unchanged(self) -> bool:
        """Whether the file is the one that was examined."""
        return (self.size, self.changed) == identity(Path(self.path))

    def as_dict(self) -> dict[str, Any]:
        """Its fields, for a manifest."""
        return {**asdict(self), "stamps": None if self.stamps is None else list(self.stamps)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Media":
        """The inverse of `as_dict`."""
        stamps = fields.get("stamps")
        return cls(**{**fields, "stamps": None if stamps is None else tuple(stamps)})


def kind_of_media(path: Path) -> str:
    """`video`, `picture` or `sound`, by the suffix; a folder is a video."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES and not path.is_dir():
        return "picture"
    return "sound" if suffix in SOUND_SUFFIXES else "video"


def examine(
    path: str | Path,
    kind: str | None = None,
    alive: Callable[[], None] = lambda: None,
    spool: Spool | None = None,
) -> Media:
    """Decode one file to its end, or to its first damage; never raises for what is in it.

    Args:
        path: of the file.
        kind: `video`, `picture` or `sound` (of a video, its sound track); None goes by the name.
        alive: called now and then while frames keep coming.
        spool: takes the frames of a video or picture.
    """
    path = Path(path)
    size, changed = identity(path)
    about = {
        "path": str(path),
        "kind": kind or kind_of_media(path),
        "size": size,
        "changed": changed,
    }
    try:
        if not path.exists():
            raise DecodeError(path, "there is no such file")
        if not size:
            raise DecodeError(path, "the file is empty")
        look = _folder if path.is_dir() else _EXAMINERS[about["kind"]]
        with closing(spool or Spool()) as spool:
            return Media(**about, **look(path, alive, spool))
    except DecodeError as e:
        return Media(**about, fault=e.cause)
    except (ImportError, MemoryError):
        raise
    except Exception as e:  # whatever a library says about a file is that file's fault
        return Media(**about, fault=told(e))


def _folder(path: Path, alive: Callable[[], None], spool: Spool) -> dict[str, Any]:
    files = pictures_in(path)
    if not files:
        raise DecodeError(path, "the folder holds no frames")
    spool.expect(len(files))
    about: dict[str, Any] = {"fps": 25.0, "header": len(files), "codec": "pictures"}
    shape = None
    for place, file in enumerate(files):
        if place % _HEARTBEAT == 0:
            alive()
        try:
            found = _picture(file, alive, spool)
        except Exception as e:
            return {**about, "frames": place, "fault": f"{file.name}: {told(e)}"}
        shape = shape or (found["rows"], found["columns"])
        about |= {"rows": shape[0], "columns": shape[1]}
        if shape != (found["rows"], found["columns"]):
            return {**about, "frames": place, "fault": f"{file.name} has another size"}
    return {**about, "frames": len(files)}


def _picture(path: Path, alive: Callable[[], None], spool: Spool) -> dict[str, Any]:
    with library("PIL.Image", "video").open(path) as picture:
        picture.load()
        pixels = rgb(picture)
        rows, columns = pixels.shape[:2]
        spool.add((rows, columns), lambda size: resized(pixels[None], size)[0])
        return {
            "frames": 1, "fps": 25.0, "rows": rows, "columns": columns,
            "codec": str(picture.format).lower(), "header": 1,
        }  # fmt: skip


def _sound(path: Path, alive: Callable[[], None], spool: Spool) -> dict[str, Any]:
    from unlabel.data_pipes.audio import measure_waveform

    samples, rate, fault = measure_waveform(path, alive)
    about = {"frames": samples, "fps": float(rate), "codec": path.suffix.lower()[1:]}
    header = promised(path, samples)
    if header == math.inf:
        fault = fault or "it is cut off"
    elif header > samples:
        fault = f"{fault or 'it is cut off'}, its header tells of {header:.0f} samples"
        about["header"] = round(header)
    return {**about, "fault": fault}


def _video(path: Path, alive: Callable[[], None], spool: Spool) -> dict[str, Any]:
    av = library("av", "video")
    with av.open(str(path), metadata_errors="ignore") as file:
        stream = file.streams.best("video")
        if stream is None:
            raise DecodeError(path, "it holds no video stream")
        if file.format.name == "tty":  # which draws letters as pictures
            raise DecodeError(path, "it is text, not a video")
        if file.format.name.endswith("_pipe") or file.format.name == "image2":
            raise DecodeError(path, f"it is a picture ({stream.codec_context.name}), not a video")
        stream.thread_type = "NONE"
        spool.expect(stream.frames)
        times, fault, shape = _decode(file, stream, alive, spool)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        fps, stamps = _rate(times, float(stream.time_base or 1), rate)
        # Of Matroska the duration counts from 0, wherever the first frame lies.
        long = (file.duration or 0) - max(file.start_time or 0, 0)
        header = stream.frames or max(round(long / av.time_base * fps), 0)
        if not times and not fault:
            fault = "it holds no frame"
        return {
            "frames": len(times), "fps": fps, "rows": shape[0], "columns": shape[1],
            "codec": stream.codec_context.name, "fault": fault, "header": header,
            "sound": bool(file.streams.audio), "stamps": stamps,
        }  # fmt: skip


def _decode(
    file: Any, stream: Any, alive: Callable[[], None], spool: Spool
) -> tuple[list[int | None], str, tuple[int, int]]:
    """Time stamps of the whole frames before the first damage, what that is, and their shape."""
    times: list[int | None] = []
    shape, pixels = (0, 0), Pixels()
    try:
        for frame, broken in marked_frames(file, stream):
            if broken:
                return times, f"frame {len(times)} is damaged", shape
            if times and frame_shape(frame) != shape:
                return times, f"frame {len(times)} has another size", shape
            shape = frame_shape(frame)
            times.append(frame.pts)
            spool.add(shape, partial(pixels, frame))
            if len(times) % _HEARTBEAT == 0:
                alive()
    except (OSError, ValueError) as e:
        return times, f"{told(e)}, after frame {len(times) - 1}" if times else told(e), shape
    packets = _packets(file, stream) if stream.codec_context.name in _COUNTED else 0
    if packets > len(times):
        # Which ones were lost is not known, so none is known to stand at its place.
        return [], f"{packets - len(times)} of {packets} frames are lost", shape
    return times, "", shape


def _packets(file: Any, stream: Any) -> int:
    file.seek(0)
    return sum(bool(p.size) and not p.is_discard for p in file.demux(stream))


def _rate(
    times: list[int | None], base: float, rate: float
) -> tuple[float, tuple[float, ...] | None]:
    """Frames a second by the time stamps, and the stamps where they are not regular."""
    ticks = np.array([np.nan if t is None else t for t in times], np.float64) * base
    if len(ticks) < 2 or not np.isfinite(ticks).all() or (np.diff(ticks) <= 0).any():
        return rate, None
    stamps = ticks - ticks[0]
    fps = (len(stamps) - 1) / float(stamps[-1])
    if abs(fps / rate - 1) < 0.02:
        fps = rate  # the header says it without the rounding of time stamps
    regular = np.abs(stamps - np.arange(len(stamps)) / fps).max() < 0.5 / fps
    return fps, None if regular else tuple(np.round(stamps, 4).tolist())


_EXAMINERS = {"video": _video, "picture": _picture, "sound": _sound}

__all__ = ["SOUND_SUFFIXES", "SUFFIXES", "Media", "examine", "kind_of_media"]
