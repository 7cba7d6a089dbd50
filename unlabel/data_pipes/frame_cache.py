"""Decoded frames (or waveforms) on disk, one file mapped by all workers: decoded once in a run."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from unlabel.files import lock

LONGEST = 1 << 28  # bytes of one video: a longer one is not decoded as a whole
_EMPTY, _WHOLE, _LOST = 0, 1, 2


class FrameCache:
    """Room for the frames of each video at one size, and what became of each.

    Of recordings, the samples are what frames are of videos.

    The videos get their places in order until `limit` is full; the rest, and those of more than
    256 MB, have none. All processes share one file, and the page cache of the system holds what
    is in use. Two workers that decode one video at once write the same bytes.

    Attributes:
        room: bytes of the places that were given.

    Args:
        counts: frames of each video.
        shape: of a frame, such as `(rows, columns, 3)`; `()` of a sample of sound.
        dtype: of its numbers.
        limit: bytes; at most half of what is free on the disk is taken.
        folder: where to keep it for later runs; None makes one that goes with the process.
        key: what must be equal for the content of a folder to be used again.
    """

    def __init__(
        self,
        counts: Sequence[int],
        shape: tuple[int, ...],
        *,
        dtype: Any = np.uint8,
        limit: int,
        folder: str | Path | None = None,
        key: Any = None,
    ):
        self.counts = np.asarray(counts, np.int64)
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._frame = int(np.prod(shape)) * self.dtype.itemsize
        if folder is None:
            folder = temporary_folder(self, "unlabel-frames-")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        limit = min(limit, shutil.disk_usage(self.folder).free // 2)
        self._lay_out(limit)
        self._begin(json.dumps([key, self.counts.tolist(), self.shape, self.dtype.str]))
        self._open()

    def __contains__(self, place: int) -> bool:
        """Whether this video has room here."""
        return self._begins[place] >= 0

    def get(self, place: int) -> np.ndarray | None:
        """All frames of a video, read-only; None where they are not there yet."""
        if self._state[place] != _WHOLE or place not in self:
            return None
        begin = int(self._begins[place])
        flat = self._frames[begin : begin + int(self.counts[place]) * self._frame]
        return flat.view(self.dtype).reshape(-1, *self.shape)

    def put(self, place: int, frames: np.ndarray) -> None:
        """Keep all frames of a video; a disk that is full keeps none of them."""
        try:
            # Written, not mapped: a full disk is an error here, and the end of the process there.
            with (self.folder / "frames.uint8").open("r+b") as file:
                file.seek(int(self._begins[place]))
                file.write(np.ascontiguousarray(frames, self.dtype).data)
        except OSError:
            return
        self._state[place] = _WHOLE

    def lose(self, place: int) -> None:
        """Remember, for all workers, that a video cannot be read."""
        self._state[place] = _LOST

    def is_lost(self, place: int) -> bool:
        """Whether a video could not be read."""
        return self._state[place] == _LOST

    @property
    def lost(self) -> Int64[np.ndarray, "lost"]:
        """Places of the videos that could not be read."""
        return np.flatnonzero(np.asarray(self._state) == _LOST)

    @property
    def held(self) -> int:
        """Bytes of frames that are here."""
        whole = np.asarray(self._state) == _WHOLE
        return int(self.counts[whole].sum()) * self._frame

    def _lay_out(self, limit: int) -> None:
        sizes = self.counts * self._frame
        self._begins = np.full(len(sizes), -1, np.int64)
        self.room = 0
        for place in np.flatnonzero(sizes <= LONGEST):
            if self.room + sizes[place] <= limit:
                self._begins[place] = self.room
                self.room += int(sizes[place])

    def _begin(self, key: str) -> None:
        files = [self.folder / name for name in ("frames.uint8", "state.uint8", "key.json")]
        frames, state, said = files
        known = said.exists() and said.read_text(encoding="utf-8") == key
        if not (known and frames.exists() and frames.stat().st_size == max(self.room, 1)):
            said.unlink(missing_ok=True)
            with frames.open("wb") as file:
                file.truncate(max(self.room, 1))  # an empty file cannot be mapped
            state.write_bytes(bytes(len(self.counts)))
            said.write_text(key, encoding="utf-8")

    def _open(self) -> None:
        self._frames = np.memmap(self.folder / "frames.uint8", np.uint8, "r").view(np.ndarray)
        self._state = np.memmap(self.folder / "state.uint8", np.uint8, "r+")

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the files itself.
        return {k: v for k, v in self.__dict__.items() if k not in ("_frames", "_state")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def temporary_folder(owner: object, prefix: str) -> Path:
    """A folder that goes with its owner, and with the process that made it at the latest.

    A process that was killed leaves its folder; it goes when the next one of its name is made.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _sweep(left)
    new = Path(tempfile.mkdtemp(prefix=f"new-{prefix}"))
    handle = _lock(new)
    folder = new.rename(new.with_name(new.name.removeprefix("new-")))  # locked when it is found
    weakref.finalize(owner, _remove, folder, os.getpid(), handle)
    return folder


@contextmanager
def passing_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder for the time of a `with` block, or of the process, see above."""
    owner = _Owner()
    try:
        yield temporary_folder(owner, prefix)
    finally:
        del owner


class _Owner:
    """Something that a folder can go with."""


def _lock(folder: Path) -> int | None:
    """Says that a folder is in use, as long as this process or a worker of it lives.

    Returns:
        the open lock; None where somebody holds it, or the system has no such locks.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # another user's, gone by now, or on Windows
        return None
    if lock(handle):
        return handle
    os.close(handle)
    return None


def _sweep(folder: Path) -> None:
    """Remove a folder that nobody uses any more."""
    handle = _lock(folder)
    if handle is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove(folder: Path, process: int, handle: int | None) -> None:
    if os.getpid() == process:  # a forked worker leaves it to the process that made it
        shutil.rmtree(folder, ignore_errors=True)
    if handle is not None:
        os.close(handle)


__all__ = ["LONGEST", "FrameCache", "passing_folder", "temporary_folder"]
