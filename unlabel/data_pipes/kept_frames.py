"""Frames that a scan keeps while it decodes, so that a store need not decode the files again."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from unlabel.data_pipes.frame_cache import LONGEST, temporary_folder
from unlabel.data_pipes.pixels import Frames, framed

if TYPE_CHECKING:
    from unlabel.data_pipes.media import Media


@dataclass(frozen=True)
class Keep:
    """Which frames: those that a `VideoStore` of this size and fit would decode.

    Args:
        size: rows and columns.
        fit: `"cover"` or `"stretch"`, as for `VideoStore`.
        limit: bytes over all files; at most half of what is free on the disk is taken.

    Raises:
        ValueError: no pixels, or another fit.
    """

    size: tuple[int, int]
    fit: str = "cover"
    limit: int = 1 << 31

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size is at least 1, but {min(self.size)} came.")
        if self.fit not in ("cover", "stretch"):
            raise ValueError(f"fit is 'cover' or 'stretch', but {self.fit!r} came.")

    @classmethod
    def of(cls, size: int | Sequence[int], *, tracked: bool = False, **rest: Any) -> "Keep":
        """What a store keeps that is told these; `rest` as the class takes it."""
        rows, columns = (size, size) if isinstance(size, int) else size
        scale = 2 if tracked else 1
        return cls((scale * int(rows), scale * int(columns)), **rest)

    @property
    def frame(self) -> int:
        """Bytes of a frame."""
        return self.size[0] * self.size[1] * 3


class KeptFrames:
    """A temporary folder with the frames of each file in a file of its own, until they are taken.

    Args:
        keep: which frames.
        damaged: keep those of damaged files, too, up to the damage.
    """

    def __init__(self, keep: Keep, *, damaged: bool = False):
        self.keep, self._damaged = keep, damaged
        self.folder = temporary_folder(self, "unlabel-kept-")
        self._left = min(keep.limit, shutil.disk_usage(self.folder).free // 2)

    def order(self, path: str | Path) -> list[Any] | None:
        """Arguments of the `Spool` of a file that is about to be examined; None without room."""
        room = min(self._left, LONGEST) // self.keep.frame
        return [str(self._file(path)), self.keep.size, self.keep.fit, room] if room else None

    def settle(self, media: "Media") -> None:
        """Count what was kept of a file, or remove it: what is not all of it, or has no room."""
        with contextlib.suppress(FileNotFoundError):
            size = self._file(media.path).stat().st_size
            wanted = media.frames * self.keep.frame if self._damaged or not media.fault else 0
            if 0 < size == wanted <= self._left:
                self._left -= size
            else:
                self.drop(media)

    def frames(self, media: "Media") -> Frames | None:
        """All frames of a file; None where they were not kept, or are dropped."""
        try:
            flat = np.memmap(self._file(media.path), np.uint8, "r")
        except OSError:
            return None
        return flat.reshape(media.frames, *self.keep.size, 3)

    def drop(self, media: "Media") -> None:
        """Remove the frames of a file."""
        self._file(media.path).unlink(missing_ok=True)

    def _file(self, path: str | Path) -> Path:
        return self.folder / hashlib.sha256(os.fsencode(path)).hexdigest()[:32]


class Spool:
    """Frames of one file, written as they are decoded; what cannot be kept is no fault of the file.

    Args:
        file: to write to; none is left where there are more frames than room.
        size: rows and columns of the frames kept.
        fit: see `framed`.
        room: frames kept at most; 0 keeps none, at no cost.
    """

    def __init__(
        self, file: str = "", size: Sequence[int] = (1, 1), fit: str = "cover", room: int = 0
    ):
        self._path, self._size, self._fit = Path(file), (size[0], size[1]), fit
        self._room = self._left = room
        self._file: IO[bytes] | None = None

    def expect(self, count: int) -> None:
        """Do not begin with a file of more frames than room, where its header tells them."""
        if count > self._room:
            self._room = 0

    def add(self, shape: tuple[int, int], scaled: Callable[[tuple[int, int]], np.ndarray]) -> None:
        """Keep one frame more.

        Args:
            shape: its rows and columns in the file.
            scaled: gives it at any size.
        """
        if not self._room:
            return
        try:
            if not self._left:
                raise OSError("There are more frames than room.")
            self._file = self._file or self._path.open("wb")
            wide, part = framed(shape, self._size, self._fit)
            self._file.write(np.ascontiguousarray(scaled(wide)[part]).data)
            self._left -= 1
        except Exception:  # a full disk, or a library's: the store decodes the file and tells it
            self.close()
            self._room = 0
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is left to write."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a full disk; the file then lacks frames
                self._file.close()


__all__ = ["Keep", "KeptFrames", "Spool"]
