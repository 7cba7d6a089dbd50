"""The one door to frames: `read_clip` takes any source, and raises one error."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from unlabel.data_pipes.faults import DecodeError, library
from unlabel.data_pipes.pixels import rgb, stacked
from unlabel.data_pipes.video_readers import (
    READERS,
    Frames,
    Reader,
    Size,
    as_array,
    channels_last,
    resized,
    rewound,
)

VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".wmv",
    ".flv", ".3gp", ".ogv", ".gif",
)  # fmt: skip
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
_BEGINNINGS = {
    b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif",
    b"P6": ".ppm",
}  # fmt: skip

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "DecodeError", "read_clip", "read_clips"]


def read_clip(
    source: Any,
    indices: Sequence[int] | None = None,
    *,
    times: Sequence[float] | None = None,
    size: Size = None,
    backend: str | None = None,
    shape: tuple[int, int] | None = None,
) -> Frames:
    """Frames of one video or picture; only those asked for are decoded, each once.

    A damaged file gives every frame that is whole, and refuses one that is not: copies put in for
    lost frames, and frames that the decoder marks as damaged, are faults. What a header says about
    the number of frames is never used.

    Args:
        source: a path (video, picture, or a folder of pictures as frames in order of name), bytes,
            a file-like object, a `datasets.Video` value, an open decoder (decord, PyAV,
            torchcodec), or uint8 frames `(times, rows, columns, 3)` or `(times, 3, rows,
            columns)`. Of TIFF, PNG and WebP with several pictures the first one is taken.
        indices: places of the frames, in any order, repeats allowed; negative ones count from the
            end. None, without `times`, takes all.
        times: seconds after the first frame, in place of `indices`; the frame shown then.
        size: of the shorter side, `(rows, columns)` for exactly these, None for the file's own.
        backend: `av`, `decord` or `torchcodec`; None takes PyAV, and decord where that is not
            installed: only PyAV tells damaged frames, and decord has no AV1.
        shape: rows and columns of the file where they are known, which saves looking.

    Returns:
        RGB, `(times, rows, columns, 3)`.

    Raises:
        DecodeError: the source cannot be read, or not at these places.
    """
    picks = None if indices is None and times is None else [(indices, times)]
    return _read(source, picks, size, backend, shape)[0]


def read_clips(
    source: Any,
    clips: Sequence[Sequence[int]],
    *,
    size: Size = None,
    backend: str | None = None,
    shape: tuple[int, int] | None = None,
) -> list[Frames]:
    """Several clips of one video in one pass: a frame that two clips share is decoded once.

    Args:
        source: as for `read_clip`.
        clips: the places of each clip's frames.
        size: as for `read_clip`.
        backend: as for `read_clip`.
        shape: as for `read_clip`.

    Raises:
        DecodeError: as `read_clip`.
    """
    return _read(source, [(clip, None) for clip in clips], size, backend, shape)


_Picks = Sequence[tuple[Sequence[int] | None, Sequence[float] | None]] | None


def _read(
    source: Any, picks: _Picks, size: Size, backend: str | None, shape: tuple[int, int] | None
) -> list[Frames]:
    if backend is not None and backend not in READERS:
        raise ValueError(f"There is no backend {backend!r}; choose {', '.join(READERS)} or None.")
    name, content = _content(source)
    if isinstance(content, _Still):
        return _picked(content, picks, size, name, "")
    if reader := _open_decoder(content, name):
        return _guarded(lambda: reader, picks, size, name, "open decoder")
    reader_name = backend or _installed()
    kind = READERS[reader_name]
    return _guarded(lambda: kind(content, size, shape), picks, None, name, reader_name)


@cache
def _installed() -> str:
    return "av" if find_spec("av") or not find_spec("decord") else "decord"


def _guarded(
    opener: Callable[[], Reader], picks: _Picks, size: Size, name: str, reader_name: str
) -> list[Frames]:
    """Open, take and close, with every fault as the one error."""
    reader = None
    try:
        reader = opener()
        return _picked(reader, picks, size, name, reader_name)
    except DecodeError as e:
        raise DecodeError(name, e.cause, index=e.index, reader=reader_name) from e
    except (ImportError, MemoryError):
        raise
    except Exception as e:  # decord's errors derive from Exception itself, others from OSError
        raise DecodeError(name, e, reader=reader_name) from e
    finally:
        if reader is not None:
            reader.close()


def _picked(reader: Any, picks: _Picks, size: Size, name: str, reader_name: str) -> list[Frames]:
    count = reader.count
    if not count:
        raise DecodeError(name, "it holds no frame", reader=reader_name)
    if picks is None:
        return [resized(reader.take(range(count)), size)]
    places = [_places(indices, times, reader, count, name) for indices, times in picks]
    every, back = np.unique(np.concatenate([np.zeros(0, np.int64), *places]), return_inverse=True)
    if not len(every):
        raise DecodeError(name, "no frame was asked for")
    frames = resized(reader.take(every.tolist()), size)
    if len(places) == 1 and np.array_equal(back, np.arange(len(every))):
        return [frames]
    return [frames[b] for b in np.split(back, np.cumsum([len(p) for p in places])[:-1])]


def _places(
    indices: Sequence[int] | None,
    times: Sequence[float] | None,
    reader: Any,
    count: int,
    name: str,
) -> Int64[np.ndarray, "picked"]:
    if times is not None:
        if indices is not None:
            raise ValueError("Give indices or times of the frames, not both.")
        return places_at(reader.stamps, times)
    places = np.asarray(range(count) if indices is None else indices).reshape(-1)
    if len(places) and places.dtype.kind not in "iu":
        raise ValueError(f"indices are whole numbers, but {places.dtype} came; times are seconds.")
    places = places.astype(np.int64)
    places = np.where(places < 0, places + count, places)
    if len(wrong := np.flatnonzero((places < 0) | (places >= count))):
        cause = f"it has {count} frames, so places go from 0 to {count - 1}"
        raise DecodeError(name, cause, index=int(np.asarray(indices).reshape(-1)[wrong[0]]))
    return places


def places_at(
    stamps: Float[np.ndarray, "count"], times: Sequence[float]
) -> Int64[np.ndarray, "picked"]:
    """The frames shown at these seconds: of each time, the last frame that began by then.

    Args:
        stamps: seconds at which each frame begins, ascending from 0.
        times: seconds; before the first frame is the first, behind the last the last.
    """
    # Half a millisecond forgives the rounding of time stamps, which are often milliseconds.
    places = np.searchsorted(stamps, np.asarray(times, np.float64) + 5e-4, side="right") - 1
    return np.clip(places, 0, len(stamps) - 1).astype(np.int64)


class _Still:
    """Frames that need no video decoder: in memory, or a picture file each."""

    def __init__(self, count: int, take: Callable[[Sequence[int]], Frames], rate: float = 25.0):
        self.count, self.take = count, take
        self.stamps = np.arange(count) / rate


def _content(source: Any) -> tuple[str, Any]:
    """A name for messages, and a path, bytes, file, open decoder or `_Still`."""
    if isinstance(source, Mapping):
        return _of_mapping(source)
    if isinstance(source, (str, Path)):
        return _of_path(Path(source).expanduser())
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _of_content(f"{len(source)} bytes", bytes(source), bytes(source[:12]))
    if hasattr(source, "read") and hasattr(source, "seek"):
        name = str(getattr(source, "name", type(source).__name__))
        return _of_content(name, source, rewound(source).read(12))
    if _package(source) in ("decord", "torchcodec", "av"):
        return f"an open {type(source).__name__}", source
    if _package(source) == "PIL":
        return "a picture", _stills([source], "a picture")
    if hasattr(source, "__array__"):
        frames = channels_last(source, "frames in memory")
        return "frames in memory", _Still(len(frames), lambda places: frames[list(places)])
    raise DecodeError(
        type(source).__name__,
        "frames are read from a path, bytes, a file, a decoder, a datasets.Video value or a uint8 "
        "array",
    )


def _of_mapping(source: Mapping[str, Any]) -> tuple[str, Any]:
    path, content = source.get("path"), source.get("bytes")
    if content is None and not path:
        raise DecodeError("a dict", f"'path' or 'bytes' is wanted, but it has {sorted(source)}")
    if content is None:
        return _content(path)
    name = str(path or f"{len(content)} bytes")
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return name, _stills([content], name)
    return _of_content(name, content, bytes(content[:12]))


def _of_content(name: str, content: Any, head: bytes) -> tuple[str, Any]:
    """A picture is read as its file would be, not by what decodes video."""
    return name, _stills([content], name) if suffix_of(head) else content


def suffix_of(head: bytes) -> str:
    """The ending of the pictures whose first 12 bytes are these, "" for none."""
    if head[8:12] == b"WEBP":
        return ".webp"
    return next((s for start, s in _BEGINNINGS.items() if head.startswith(start)), "")


def _of_path(path: Path) -> tuple[str, Any]:
    if path.is_dir():
        files = pictures_in(path)
        if not files:
            raise DecodeError(path, f"the folder holds no frames ({', '.join(IMAGE_SUFFIXES)})")
        return str(path), _stills(files, str(path))
    if not path.exists():
        raise DecodeError(path, "there is no such file")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return str(path), _stills([path], str(path))
    return str(path), path


def pictures_in(folder: Path) -> list[Path]:
    """The pictures right in a folder, in order, but for hidden ones."""
    named = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(p for p in named if p.name[0] != ".")


def _stills(files: Sequence[Any], name: str) -> _Still:
    def take(places: Sequence[int]) -> Frames:
        return stacked([_picture(files[i], name, i) for i in places], name)

    return _Still(len(files), take)


def _picture(file: Any, name: str, place: int) -> np.ndarray:
    image = library("PIL.Image", "video")
    try:
        if _package(file) == "PIL":
            return rgb(file)
        with image.open(rewound(file)) as picture:
            return rgb(picture)
    except Exception as e:  # PIL's faults: OSError, SyntaxError, ValueError, its own bomb error
        raise DecodeError(file if isinstance(file, Path) else name, e, reader="PIL") from e


def _open_decoder(content: Any, name: str) -> Reader | None:
    package = _package(content)
    if package == "av":
        return READERS["av"](content)
    if package not in ("decord", "torchcodec"):
        return None
    return _Opened(content)


class _Opened:
    """A decord or torchcodec decoder that someone else opened, and keeps."""

    def __init__(self, decoder: Any):
        self._decoder, self.count = decoder, len(decoder)

    @property
    def stamps(self) -> np.ndarray:
        decoder = self._decoder
        given = hasattr(decoder, "get_avg_fps")
        rate = decoder.get_avg_fps() if given else decoder.metadata.average_fps
        return np.arange(self.count) / rate

    def take(self, places: Sequence[int]) -> Frames:
        if hasattr(self._decoder, "get_batch"):
            return as_array(self._decoder.get_batch(list(places)))
        return channels_last(self._decoder.get_frames_at(list(places)).data, "an open decoder")

    def close(self) -> None:
        """It is not ours."""


def _package(value: Any) -> str:
    return type(value).__module__.split(".")[0]
