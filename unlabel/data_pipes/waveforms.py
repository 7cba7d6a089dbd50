"""Whole waveforms of files at one rate, and the sound that goes with clips of videos."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from unlabel.data_pipes.audio import read_waveform, resampled_length
from unlabel.data_pipes.decoded import Decoded
from unlabel.data_pipes.report import NothingUsable, ReadReport
from unlabel.data_pipes.video_data import VideoData
from unlabel.data_pipes.video_list import Entry
from unlabel.data_pipes.video_windows import Sampling
from unlabel.data_pipes.videos import look_into

__all__ = ["ClipSound", "Waveforms"]

Waveform = Float32[np.ndarray, "samples"]


class Waveforms(Decoded):
    """The files of recordings at one rate: decoded and resampled when first met, and kept.

    Args:
        data: the recordings.
        rate: samples a second.
        limit: bytes kept on disk, see `FrameCache`.
        folder: to keep them in, likewise.
    """

    def __init__(self, data: VideoData, rate: int, *, limit: int, folder: str | Path | None = None):
        media = [item.media for item in data.files()[0]]
        counts = [resampled_length(m.frames, int(m.fps), rate) for m in media]
        about: dict[str, Any] = {"dtype": np.float32, "limit": limit, "folder": folder}
        super().__init__(data, rate, counts, shape=(), **about)
        self.rate = rate

    def whole(self, place: int) -> Waveform:
        """All samples of the file of a recording.

        Raises:
            DecodeError: it went bad.
        """
        file = self._file[place]
        if (held := self._kept(place)) is not None:
            return held
        item = self.data[place]  # of one that is damaged, what lies before that
        whole, _ = read_waveform(item.content(), rate=self.rate, seconds=item.media.seconds)
        if file in self.cache and len(whole) == self.cache.counts[file]:
            self.cache.put(file, whole)
        return whole

    def part(self, place: int, start: float, seconds: float) -> Waveform:
        """Some of the file of a recording; of one that has no room, nothing else is held.

        Raises:
            DecodeError: it went bad.
        """
        file = self._file[place]
        if file in self.cache:
            first = round(start * self.rate)
            return np.array(self.whole(place)[first : first + round(seconds * self.rate)])
        self._kept(place)
        if start * self.rate >= self.cache.counts[file]:
            return np.zeros(0, np.float32)
        content = self.data[place].content()
        return read_waveform(content, rate=self.rate, start=start, seconds=seconds)[0]


class ClipSound:
    """The sound tracks of videos, each examined and decoded once, and the parts of clips.

    Attributes:
        missing: place of a video -> why nothing can be heard of it.
        room: bytes that the tracks may take on disk.

    Args:
        data: the videos.
        rate: samples a second.
        limit: bytes kept on disk.
    """

    def __init__(self, data: VideoData, rate: int, *, limit: int):
        files, own = data.files()
        heard = [(i, item) for i, item in enumerate(files) if item.media.sound]
        entries = [Entry(item.name, item.source, row={"file": i}) for i, item in heard]
        report = ReadReport()
        about = {"what": "sound track", "kind": "sound", "manifest": data.manifest}
        try:
            tracks = look_into(entries, report, **about)
        except NothingUsable:
            tracks = VideoData([], report)
        place = {track.row["file"]: i for i, track in enumerate(tracks)}
        why = [report.broken.get(item.name, "it has no sound track") for item in files]
        self.missing = {i: why[file] for i, file in enumerate(own) if file not in place}
        self._videos, self._track = data, [place.get(file, -1) for file in own]
        self._tracks = Waveforms(tracks, rate, limit=limit)
        self.room = self._tracks.cache.room

    def of(self, place: int, times: Float32[np.ndarray, "picked"], sampling: Sampling) -> Waveform:
        """The sound of a clip, from its first frame until its last one is over, as far as it goes.

        Args:
            place: of its video.
            times: seconds of its frames.
            sampling: of the clip.

        Raises:
            DecodeError: the track went bad.
        """
        begin, fps = float(times[0]), self._videos[place].media.fps
        step = sampling.step(fps) / fps
        heard = self._tracks.part(self._track[place], begin, float(times[-1]) - begin + step)
        return heard[: round(sampling.frames * step * self._tracks.rate)]
