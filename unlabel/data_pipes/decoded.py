"""Files of a run that are decoded once and kept: their frames, and what became of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.frame_cache import FrameCache
from unlabel.data_pipes.pixels import framed
from unlabel.data_pipes.video import read_clip
from unlabel.data_pipes.video_data import VideoData, VideoItem

__all__ = ["Decoded", "DecodedFrames"]

Frames = UInt8[np.ndarray, "times rows columns 3"]


class Decoded:
    """The files in which items lie; parts of one file share it.

    Attributes:
        cache: what is kept of each file.

    Args:
        data: the items.
        key: beside the files, what must be equal for a folder to be used again.
        counts: frames or samples of each file.
        more: of `FrameCache`.
    """

    def __init__(self, data: VideoData, key: Any, counts: Sequence[int], **more: Any):
        self.data = data
        self._files, self._file = data.files()
        known = [item.identity for item in self._files] + [key]
        self.cache = FrameCache(counts, key=known, **more)

    @property
    def lost(self) -> list[str]:
        """Names of the items whose file went bad, in whatever worker."""
        bad = set(self.cache.lost.tolist())
        return [i.name for i, file in zip(self.data, self._file, strict=True) if file in bad]

    def lose(self, place: int) -> bool:
        """Remember, for all workers, that an item's file went bad; whether that is news."""
        known = self.cache.is_lost(self._file[place])
        self.cache.lose(self._file[place])
        return not known

    def check_found(self, place: int) -> None:
        """Refuse an item whose file went bad.

        Raises:
            DecodeError: it did.
        """
        if self.cache.is_lost(self._file[place]):
            raise DecodeError(self.data[place].name, "it went bad before", reader="store")

    def _kept(self, place: int) -> np.ndarray | None:
        """What is kept of an item's file; where that is nothing, the file can be read."""
        self.check_found(place)
        if (held := self.cache.get(self._file[place])) is None:
            self.data[place].check_unchanged()
        return held


class DecodedFrames(Decoded):
    """The frames of videos at one size.

    A video is decoded as a whole when it is first met, unless reading kept it (see `Keep`); of one
    that has no room, the frames that are asked for are decoded each time.

    Args:
        data: the videos.
        size: rows and columns of the frames.
        fit: see `framed`.
        limit: bytes kept on disk, see `FrameCache`.
        folder: to keep them in, likewise.
    """

    def __init__(
        self,
        data: VideoData,
        size: tuple[int, int],
        fit: str,
        *,
        limit: int,
        folder: str | Path | None = None,
    ):
        counts = [item.media.frames for item in data.files()[0]]
        super().__init__(data, fit, counts, shape=(*size, 3), limit=limit, folder=folder)
        self.size, self.fit = size, fit
        self._adopt()

    def take(self, place: int, places: Int64[np.ndarray, "picked"]) -> Frames:
        """Frames of a video, counted within its part.

        Raises:
            DecodeError: its file went bad, which is remembered.
        """
        item, file = self.data[place], self._file[place]
        wanted = places + item.first
        try:
            if (held := self._kept(place)) is not None:
                return held[wanted]
            if file not in self.cache:
                return self._decode(item, wanted)
            whole = self._decode(item, range(item.media.frames))
        except DecodeError:
            self.lose(place)
            raise
        self.cache.put(file, whole)
        return whole[wanted]

    def _decode(self, item: VideoItem, places: Sequence[int] | np.ndarray) -> Frames:
        shape = (item.media.rows, item.media.columns)
        wide, (rows, columns) = framed(shape, self.size, self.fit)
        return read_clip(item.content(), list(places), size=wide)[:, rows, columns]

    def _adopt(self) -> None:
        """Take the frames that reading kept at this size."""
        kept = self.data.kept
        if kept is None or (kept.keep.size, kept.keep.fit) != (self.size, self.fit):
            return
        for file, item in enumerate(self._files):
            wanted = file in self.cache and self.cache.get(file) is None and item.unchanged
            if wanted and (frames := kept.frames(item.media)) is not None:
                self.cache.put(file, frames)
            kept.drop(item.media)
