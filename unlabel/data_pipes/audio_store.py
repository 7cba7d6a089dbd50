"""Crops of recordings by their place in the run, at one rate: decoded once, kept in one file."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from unlabel.checks import check_above_0
from unlabel.data_pipes.audio import resampled_length
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.held import shard_sizes
from unlabel.data_pipes.media import SOUND_SUFFIXES
from unlabel.data_pipes.redraw import ByOrdinal, sample_at
from unlabel.data_pipes.report import ReadReport, first_of
from unlabel.data_pipes.video import VIDEO_SUFFIXES
from unlabel.data_pipes.video_data import VideoData, VideoItem
from unlabel.data_pipes.video_list import Columns, by_pattern, list_media
from unlabel.data_pipes.video_windows import even_start
from unlabel.data_pipes.videos import look_into
from unlabel.data_pipes.waveforms import Waveforms

logger = logging.getLogger(__name__)

__all__ = ["AudioStore", "read_audio"]

Waveform = Float32[np.ndarray, "samples"]


def read_audio(
    source: Any,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    start_column: str | None = None,
    end_column: str | None = None,
    pattern: str | None = None,
    damaged: Literal["skip", "use"] = "skip",
    manifest: str | Path | None = None,
    limit: int | None = None,
    jobs: int | None = None,
    patience: float = 30.0,
) -> VideoData:
    """Find the recordings of nearly any source; arguments and faults as `read_videos`.

    Args:
        source: as for `read_videos`, with files of sound; the sound tracks of videos where a
            folder has no other. In memory, a recording is `(array, rate)`; one or a list of them.
        path_column: of a list.
        label_column: of a list.
        start_column: of a list.
        end_column: of a list.
        pattern: as for `read_videos`: `"(?P<label>[0-9])_(?P<speaker>[a-z]+)"`.
        damaged: as for `read_videos`; what is cut off is damaged.
        manifest: as for `scan`.
        limit: recordings taken at most.
        jobs: as for `scan`.
        patience: as for `scan`.

    Returns:
        Recordings in place of videos: `frames` of their media are samples, `fps` is their rate.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no recording can be used.
    """
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], (int, float)):
        source = [source]
    report = ReadReport()
    columns = Columns(path_column, label_column, start_column, end_column)
    try:
        entries = list_media(source, SOUND_SUFFIXES, columns, report)[:limit]
    except FileNotFoundError as e:
        try:
            entries = list_media(source, VIDEO_SUFFIXES, columns, report)[:limit]
        except FileNotFoundError:
            raise e from None
    by_pattern(entries, pattern)
    about = {"manifest": manifest, "jobs": jobs, "patience": patience}
    return look_into(entries, report, damaged=damaged, what="recording", kind="sound", **about)


class AudioStore(ByOrdinal):
    """Crops of recordings, asked for by their ordinal in the whole run.

    An item is `{"waveform": float32 (samples,), "index", "ordinal"}`, with `label` where the data
    has classes. Where a crop lies is drawn from `(seed, ordinal)` and nothing else. A recording
    is decoded and resampled as a whole when it is first met, and kept. One that goes bad during
    the run is told in the log and in `lost`, and another is drawn in its place.

    Attributes:
        too_short: names of the recordings left out by `short="skip"`.

    Args:
        data: what `read_audio` gave, or what it takes.
        rate: samples a second, of all recordings.
        seconds: of a crop; None takes whole recordings.
        start: `"random"`, or `"even"` (the clips of a recording evenly over it).
        short: what becomes of a recording shorter than a crop: `"pad"` gives what there is, and
            the batch marks the missing; `"loop"` starts again; `"skip"` leaves it out.
        clips: samples of each recording in an epoch.
        seed: of the run.
        cache_bytes: of decoded waveforms on disk; 0 keeps none.
        cache: folder to keep them in for later runs; None takes a temporary one.

    Raises:
        ValueError: sizes out of range, or no recording as long as a crop.
    """

    def __init__(
        self,
        data: VideoData | Any,
        *,
        rate: int = 16000,
        seconds: float | None = 1.0,
        start: Literal["random", "even"] = "random",
        short: Literal["pad", "loop", "skip"] = "pad",
        clips: int = 1,
        seed: int = 0,
        cache_bytes: int = 1 << 31,
        cache: str | Path | None = None,
    ):
        self.data = data if isinstance(data, VideoData) else read_audio(data)
        self.rate, self.seconds, self.start, self.short = rate, seconds, start, short
        self.clips, self.seed = clips, seed
        _check(self)
        media = [item.media for item in self.data]
        counts = [resampled_length(m.frames, int(m.fps), rate) for m in media]
        self.samples = max(counts) if seconds is None else round(rate * seconds)
        self._choose()
        self._whole = Waveforms(self.data, rate, limit=cache_bytes, folder=cache)
        self._labelled = bool((self.data.labels >= 0).any())

    @property
    def lengths(self) -> Int64[np.ndarray, "count"]:
        """Samples of a crop, for each item."""
        return np.broadcast_to(np.int64(self.samples), len(self))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the labels count."""
        return self.data.classes

    @property
    def labels(self) -> Int64[np.ndarray, "count"]:
        """Class of each item, -1 for none."""
        return np.repeat(self.data.labels[self._usable], self.clips)

    @property
    def sources(self) -> list[VideoItem]:
        """The recording of each sample."""
        return [self.data[p] for p in np.repeat(self._usable, self.clips).tolist()]

    @property
    def shards(self) -> Int64[np.ndarray, "shards"] | None:
        """Samples in each shard, where the data lies in some."""
        return shard_sizes(item.source for item in self.sources)

    @property
    def lost(self) -> list[str]:
        """Names of the recordings that went bad during the run, in whatever worker."""
        return self._whole.lost

    def __len__(self) -> int:
        """Items in an epoch."""
        return len(self._usable) * self.clips

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The item at place `ordinal` of the run, see `sample_at`."""
        return sample_at(ordinal, count=len(self), seed=self.seed, make=self._made)

    def at(self, ordinal: int, moment: float) -> dict[str, Any]:
        """The item whose crop begins so many seconds into its recording, or its part."""
        make = partial(self._made, moment=moment)
        return sample_at(ordinal, count=len(self), seed=self.seed, make=make)

    def room(self, index: int) -> float:
        """Seconds by which the recording of an item is longer than a crop."""
        item = self.data[int(self._usable[index // self.clips])]
        long = len(item) / item.media.fps
        return 0.0 if self.seconds is None else max(long - self.seconds, 0.0)

    def _made(
        self, index: int, random: np.random.Generator, moment: float | None = None
    ) -> dict[str, Any]:
        recording, clip = divmod(index, self.clips)
        place = int(self._usable[recording])
        try:
            waveform = self._crop(self._take(place), clip, random, moment)
        except DecodeError as e:
            if self._whole.lose(place):
                logger.warning("%s Another recording is drawn in its place.", e)
            raise
        label = {"label": self.data[place].label} if self._labelled else {}
        return {"waveform": waveform, **label}

    def summary(self) -> str:
        """One line: items, their length, and what is short or left out."""
        long = "whole recordings" if self.seconds is None else f"{self.seconds:g} s"
        parts = [self.data.summary(), f"{len(self):,} samples of {long} at {self.rate:,} Hz"]
        if self._shorter and self.short != "skip" and self.seconds is not None:
            rule = {"pad": "padded", "loop": "looped"}[self.short]
            parts.append(f"{self._shorter:,} recordings shorter than that {rule}")
        if self.too_short:
            named = first_of(self.too_short)
            parts.append(f"{len(self.too_short):,} too short left out ({named})")
        if lost := self.lost:
            parts.append(f"{len(lost):,} went bad during the run ({first_of(lost)})")
        return ", ".join(parts)

    def _choose(self) -> None:
        least = 0.0 if self.seconds is None else self.seconds
        long = np.array([len(i) / i.media.fps >= least - 1e-9 for i in self.data])
        self._shorter = int((~long).sum())
        skip = self.short == "skip"
        self.too_short = [i.name for i, ok in zip(self.data, long, strict=True) if skip and not ok]
        self._usable = np.flatnonzero(long | (not skip))
        if not len(self._usable):
            longest = max(len(i) / i.media.fps for i in self.data)
            raise ValueError(
                f"No crop: the longest of {len(self.data)} recordings has {longest:.2f} s, and "
                f"seconds={self.seconds:g}; take fewer, or short='pad'."
            )

    def _crop(
        self, whole: Waveform, clip: int, random: np.random.Generator, moment: float | None
    ) -> Waveform:
        if self.seconds is None:
            return np.array(whole)
        room = len(whole) - self.samples
        if room < 0 and self.short == "loop":
            return np.resize(whole, self.samples)
        if moment is not None:
            begin = min(round(moment * self.rate), max(room, 0))
        elif self.start == "even":
            begin = int(even_start(clip, self.clips, room))
        else:
            begin = int(random.integers(max(room, 0) + 1))
        return np.array(whole[begin : begin + self.samples])

    def _take(self, place: int) -> Waveform:
        """All samples of the part of a recording that counts."""
        item, whole = self.data[place], self._whole.whole(place)
        share = self.rate / item.media.fps
        return whole[round(item.first * share) : round(item.last * share)]


def _check(store: AudioStore) -> None:
    check_above_0(rate=store.rate, clips=store.clips)
    if store.seconds is not None and store.seconds * store.rate < 1:
        raise ValueError(f"seconds is above 0, but {store.seconds} came.")
    for name, words in (("start", ("random", "even")), ("short", ("pad", "loop", "skip"))):
        if getattr(store, name) not in words:
            raise ValueError(f"{name} is one of {words}, but {getattr(store, name)!r} came.")
