"""Clips of videos by their place in the run: decoded once, kept, and the same for any workers."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from unlabel.data_pipes.decoded import DecodedFrames
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.flow import flow_magnitude, optical_flow
from unlabel.data_pipes.held import shard_sizes
from unlabel.data_pipes.kept_frames import Keep
from unlabel.data_pipes.redraw import ByOrdinal, sample_at
from unlabel.data_pipes.report import first_of
from unlabel.data_pipes.video_data import VideoData, VideoItem
from unlabel.data_pipes.video_partners import another_clip, tracked
from unlabel.data_pipes.video_windows import Sampling, even_start, motion_start, spread_out
from unlabel.data_pipes.videos import read_videos
from unlabel.data_pipes.waveforms import ClipSound

logger = logging.getLogger(__name__)

__all__ = ["VideoStore"]


class VideoStore(ByOrdinal):
    """Clips of videos, all of one size, asked for by their ordinal in the whole run.

    An item is `{"frames": uint8 (times, rows, columns, 3), "times": seconds (times,), "index",
    "ordinal"}`, with `label` where the data has classes, and `partners` as asked for below. Where
    a clip lies is drawn from `(seed, ordinal)` and nothing else. Items are ordered by video, then
    by clip of the video; `ordinal // len(store)` is the epoch.

    Frames are scaled so that they cover `size` and cut at the centre. They are decoded once (see
    `DecodedFrames`), as is their sound (see `ClipSound`). A file that goes bad, changes or
    disappears during the run is told in the log and in `lost`, and another clip is drawn in its
    place.

    Attributes:
        too_short: names of the videos left out by `short="skip"`.
        unheard: name -> why, of the videos left out because `sound` is wanted.

    Args:
        data: what `read_videos` gave, or what it takes.
        size: rows and columns of the frames, or one number for both.
        frames: of a clip.
        stride: see `Sampling`.
        fps: see `Sampling`.
        duration: see `Sampling`.
        spread: see `Sampling`.
        start: see `Sampling`.
        short: see `Sampling`.
        clips: samples of each video in an epoch.
        hop: seconds from clip to clip, in place of `clips`: a longer video has more of them, and
            each lies at its place (`start` does not count).
        fit: `"cover"` as said, or `"stretch"` to the size, without regard to the aspect.
        view: add `partners["view"]`, the same times seen by another camera; videos without a
            partner are left out.
        pair: add `partners["clip"]`, another clip of the same video that begins this many seconds
            `(least, most)` before or after.
        flow: add `partners["flow"]`, the optical flow between the frames, at this size.
        tracked: a sample is a moving patch, and `partners["tracked"]` the same patch at the end
            of the clip; clips are tracked at twice the size.
        sound: add `partners["sound"]`, the `waveform` of the clip at this rate; videos without a
            sound track that can be decoded are left out.
        seed: of the run.
        cache_bytes: of decoded frames and sound on disk; 0 keeps none.
        cache: folder to keep frames in for later runs; None takes a temporary one.

    Raises:
        ValueError: sizes out of range, options that do not go together, or no clip at all.
    """

    def __init__(
        self,
        data: VideoData | Any,
        *,
        size: int | tuple[int, int] = 128,
        frames: int = 16,
        stride: int | None = None,
        fps: float | None = None,
        duration: float | None = None,
        spread: Literal["dense", "uniform"] = "dense",
        start: Literal["random", "even", "motion"] = "random",
        short: Literal["pad", "loop", "skip"] = "pad",
        clips: int = 1,
        hop: float | None = None,
        fit: Literal["cover", "stretch"] = "cover",
        view: bool = False,
        pair: tuple[float, float] | None = None,
        flow: int | tuple[int, int] | None = None,
        tracked: bool = False,
        sound: int | None = None,
        seed: int = 0,
        cache_bytes: int = 1 << 31,
        cache: str | Path | None = None,
    ):
        keep = Keep.of(size, tracked=tracked, fit=fit, limit=cache_bytes)
        self.sampling = Sampling(frames, stride, fps, duration, spread, start, short)
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.hop, self.fit, self.seed, self.clips = hop, fit, seed, clips
        self.view, self.pair, self.flow, self.tracked = view, pair, flow, tracked
        _check(self, cache_bytes)
        self.data = data if isinstance(data, VideoData) else read_videos(data, keep=keep)
        self._sound = None if sound is None else ClipSound(self.data, sound, limit=cache_bytes)
        self._choose()
        left = cache_bytes - (self._sound.room if self._sound else 0)
        self._frames = DecodedFrames(self.data, keep.size, fit, limit=left, folder=cache)
        self._motion: dict[int, Float32[np.ndarray, "count"]] = {}
        self._labelled = bool((self.data.labels >= 0).any())

    @property
    def lengths(self) -> Int64[np.ndarray, "count"]:
        """Frames of a clip, for each sample."""
        return np.broadcast_to(np.int64(self.sampling.frames), len(self))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the labels count."""
        return self.data.classes

    @property
    def labels(self) -> Int64[np.ndarray, "count"]:
        """Class of each sample, -1 for none."""
        return np.repeat(self.data.labels[self._usable], self._samples)

    @property
    def sources(self) -> list[VideoItem]:
        """The video of each sample."""
        return [self.data[p] for p in np.repeat(self._usable, self._samples).tolist()]

    @property
    def shards(self) -> Int64[np.ndarray, "shards"] | None:
        """Samples in each shard, where the data lies in some."""
        return shard_sizes(item.source for item in self.sources)

    @property
    def lost(self) -> list[str]:
        """Names of the videos that went bad during the run, in whatever worker."""
        return self._frames.lost

    def __len__(self) -> int:
        """Samples in an epoch."""
        return int(self._until[-1])

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The sample at place `ordinal` of the run, see `sample_at`."""
        return sample_at(ordinal, count=len(self), seed=self.seed, make=self._made)

    def at(self, ordinal: int, moment: float) -> dict[str, Any]:
        """The sample whose clip begins so many seconds into its video, or its part."""
        make = partial(self._made, moment=moment)
        return sample_at(ordinal, count=len(self), seed=self.seed, make=make)

    def room(self, index: int) -> float:
        """Seconds by which the video of a sample is longer than a clip."""
        item = self.data[self._locate(index)[0]]
        if self.sampling.spread == "uniform":
            return 0.0
        return max(len(item) - self.sampling.span(item.fps), 0.0) / item.fps

    def _made(
        self, index: int, random: np.random.Generator, moment: float | None = None
    ) -> dict[str, Any]:
        place, clip = self._locate(index)
        self._frames.check_found(place)
        try:
            sample = self._sample(place, clip, random, moment)
        except DecodeError as e:
            logger.warning("%s Another clip is drawn in its place.", e)
            raise
        return sample | ({"label": self.data[place].label} if self._labelled else {})

    def place(self, index: int) -> tuple[str, int]:
        """Where a sample comes from: name of the video, and which of its clips."""
        place, clip = self._locate(index % len(self))
        return self.data[place].name, clip

    def summary(self) -> str:
        """One line: samples, their size, and what is short or left out."""
        rows, columns = self.size
        count = self.sampling.frames
        size = f"{count} frame{'s' * (count > 1)} of {columns}x{rows}"
        parts = [self.data.summary(), f"{len(self):,} samples of {size}"]
        if self._shorter:
            rule = {"pad": "padded", "loop": "looped"}[self.sampling.short]
            parts.append(f"{self._shorter:,} videos shorter than a clip {rule}")
        if self.too_short:
            parts.append(f"{len(self.too_short):,} too short left out ({first_of(self.too_short)})")
        if self.unheard:
            parts.append(f"{len(self.unheard):,} without sound left out ({first_of(self.unheard)})")
        if lost := self.lost:
            parts.append(f"{len(lost):,} went bad during the run ({first_of(lost)})")
        return ", ".join(parts)

    # -- which clip -------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Which videos give samples, and how many."""
        items = self.data.items
        fits = np.array([self.sampling.fits(len(i), i.fps) for i in items])
        skip = self.sampling.short == "skip"
        self.too_short = [i.name for i, fit in zip(items, fits, strict=True) if skip and not fit]
        paired = np.array([bool(i.partners) or not self.view for i in items])
        missing = self._sound.missing if self._sound else {}
        self.unheard = {items[place].name: why for place, why in missing.items()}
        heard = np.array([place not in missing for place in range(len(items))])
        usable = (fits | (not skip)) & paired & heard
        self._usable = np.flatnonzero(usable)
        self._shorter = int((~fits & usable).sum())
        if not len(self._usable):
            raise ValueError(_no_clip(self, bool(paired.any()), bool(heard.any())))
        self._samples = np.array([self._count(items[i]) for i in self._usable], np.int64)
        self._until = np.cumsum(self._samples)

    def _count(self, item: VideoItem) -> int:
        if self.hop is None:
            return self.clips
        room = len(item) - self.sampling.span(item.fps)
        return 1 + int(max(room, 0) / max(self.hop * item.fps, 1) + 1e-6)

    def _locate(self, index: int) -> tuple[int, int]:
        """Place of the video in the data, and which of its clips."""
        video = int(np.searchsorted(self._until, index, side="right"))
        inner = index - int(self._until[video] - self._samples[video])
        return int(self._usable[video]), inner

    def _clip_places(
        self, place: int, clip: int, random: np.random.Generator, moment: float | None = None
    ) -> Int64[np.ndarray, "picked"]:
        item, sampling = self.data[place], self.sampling
        if sampling.spread == "uniform":
            chances = None if sampling.start == "even" else random.random(sampling.frames)
            return spread_out(sampling.frames, len(item), chances)
        start = self._start(place, clip, random) if moment is None else item.frames_at(moment)
        return item.clip(sampling, start)

    def _start(self, place: int, clip: int, random: np.random.Generator) -> float:
        item = self.data[place]
        span = self.sampling.span(item.fps)
        room = len(item) - span
        if self.hop is not None:
            return item.even(clip * max(self.hop * item.fps, 1))
        if self.sampling.start == "even":
            return item.even(even_start(clip, self.clips, room))
        chance = float(random.random())
        if self.sampling.start == "motion":
            return motion_start(self.motion(place), int(np.ceil(span - 1e-6)), chance)
        return float(int(chance * (int(max(room, 0)) + 1)))

    def motion(self, place: int) -> Float32[np.ndarray, "count"]:
        """Mean length of the optical flow from each frame of a video to the next one, in pixels."""
        if place not in self._motion:
            frames = self._frames.take(place, np.arange(len(self.data[place])))
            self._motion[place] = flow_magnitude(frames)
        return self._motion[place]

    # -- its frames -------------------------------------------------------------------------------

    def _sample(
        self, place: int, clip: int, random: np.random.Generator, moment: float | None
    ) -> dict[str, Any]:
        item = self.data[place]
        places = self._clip_places(place, clip, random, moment)
        frames = self._frames.take(place, places)
        times = item.media.times[item.first + places].astype(np.float32)
        partners: dict[str, dict[str, np.ndarray]] = {}
        if self.view:
            seen = item.partners[int(random.integers(len(item.partners)))]
            theirs = self.data[seen].frames_at(times - float(item.media.times[item.first]))
            partners["view"] = {"frames": self._frames.take(seen, theirs)}
        if self.pair is not None:
            other = another_clip(item, int(places[0]), self.pair, self.sampling, random)
            partners["clip"] = {"frames": self._frames.take(place, other)}
        if self._sound is not None:
            partners["sound"] = {"waveform": self._hear(self._sound, place, times)}
        if self.flow is not None:
            partners["flow"] = {"flow": optical_flow(frames, self.flow)}
        if self.tracked:
            again = partial(self._clip_places, place, clip, random)
            draw = lambda: self._frames.take(place, again())  # noqa: E731
            frames, last = tracked(frames, self.size, draw, random)
            partners["tracked"] = {"frames": last}
            times = times[:1]
        return {"frames": frames, "times": times, **({"partners": partners} if partners else {})}

    def _hear(self, sound: ClipSound, place: int, times: Any) -> Float32[np.ndarray, "samples"]:
        try:
            heard = sound.of(place, times, self.sampling)
        except DecodeError:
            self._frames.lose(place)
            raise
        if len(heard):
            return heard
        raise DecodeError(self.data[place].name, f"its sound is over at {times[0]:g} s")


def _no_clip(store: VideoStore, paired: bool, heard: bool) -> str:
    items = store.data.items
    if not paired:
        return (
            "view=True wants videos of one take by several cameras (a list with a column view), "
            "but there are none."
        )
    if not heard:
        why = "; ".join(f"{name}: {why}" for name, why in list(store.unheard.items())[:3])
        return f"sound wants videos with a sound track, but of {len(items)} none has one ({why})."
    return (
        f"No clip: {store.sampling} spans more frames than the longest of {len(items)} videos, "
        f"{max(len(i) for i in items)}; take fewer, or short='pad'."
    )


def _check(store: VideoStore, cache_bytes: int) -> None:
    for name, value, least in (("clips", store.clips, 1), ("cache_bytes", cache_bytes, 0)):
        if value < least:
            raise ValueError(f"{name} is at least {least}, but {value} came.")
    if store.hop is not None and store.hop <= 0:
        raise ValueError(f"hop is in seconds and above 0, but {store.hop} came.")
    if store.pair is not None and not 0 <= store.pair[0] <= store.pair[1]:
        raise ValueError(f"pair is (least, most) seconds, but {store.pair} came.")
    if (store.flow is not None or store.tracked) and store.sampling.frames < 2:
        raise ValueError("flow and tracked patches lie between frames; take 2 or more a clip.")
