"""One class for each decoding library: open a file, count its frames, take some of them.

All three have `count`, `stamps` (seconds of each frame, `(count,)`), `take(places)` and `close`.
A reader is opened for one call and dropped: one that is kept decodes ahead of itself (decord, a
720p file: 815 MB).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64, UInt8

from unlabel.data_pipes.faults import DecodeError, library
from unlabel.data_pipes.pixels import Frames, Size, channels_last, fit, resized, rewound, stacked

_DELAY = 17  # packets: no codec holds frames back for longer
_NO_ZEROS = ("h264", "hevc", "mpeg4", "msmpeg4v2", "msmpeg4v3")
_AHEAD = 48  # frames: nearer than this is decoded through, farther is sought


class Reader(Protocol):
    """What `read_clip` asks of a decoding library."""

    @property
    def count(self) -> int:
        """Frames that there are."""
        ...

    @property
    def stamps(self) -> Float64[np.ndarray, "count"]:
        """Seconds of each frame after the first."""
        ...

    def take(self, places: Sequence[int]) -> Frames:
        """The frames at these places, ascending and different."""
        ...

    def close(self) -> None:
        """Give back memory and file."""
        ...


class DecordReader:
    """A file in decord, read from its beginning, which is where it counts right.

    Its seek is not used: after one, frames are off by a few where groups of pictures are open
    (h264, h265) or B-frames come without time stamps (mpeg4), and in avi not twice the same.

    Args:
        source: path, or a file-like object.
        size: see `fit`.
        shape: rows and columns of the file, where they are known.
    """

    def __init__(self, source: Any, size: Size = None, shape: tuple[int, int] | None = None):
        decord = _decord()
        if isinstance(size, int):
            size = fit(*(shape or picture_shape(source)), size)
        rows, columns = size or (-1, -1)
        # A share, because decord lets a whole number of lost frames pass and then shifts all
        # that follow (seen in avi); any share of a frame is refused.
        self._reader: Any = decord.VideoReader(
            rewound(source), num_threads=1, width=columns, height=rows, fault_tol=1e-9
        )
        self.count = len(self._reader)

    @property
    def stamps(self) -> Float64[np.ndarray, "count"]:
        """Seconds of each frame after the first."""
        begins = np.asarray(self._reader.get_frame_timestamp(range(self.count)), np.float64)[:, 0]
        return _stamps(begins, float(self._reader.get_avg_fps()))

    def take(self, places: Sequence[int]) -> Frames:
        """The frames at these places."""
        wanted, taken = np.asarray(places), []
        for start in range(0, int(wanted[-1]) + 1, _AHEAD):
            stop = min(start + _AHEAD, int(wanted[-1]) + 1)
            inside = wanted[(wanted >= start) & (wanted < stop)] - start
            taken.append(as_array(self._reader.get_batch(range(start, stop)))[inside])
        return np.concatenate(taken)

    def close(self) -> None:
        """Drop the reader, which frees what it decoded ahead."""
        self._reader = None


class AvReader:
    """A file in PyAV: today's FFmpeg, exact at every place, and damaged frames are known as such.

    A frame is refused where damage lies before it and no whole key frame between them was sought.

    Frames count in order of arrival. Far places are sought by their time stamp where every packet
    has one of its own, which avi does not.

    Args:
        source: path, file-like object, or a container that is open.
        size: see `fit`.
        shape: not needed.
    """

    def __init__(self, source: Any, size: Size = None, shape: tuple[int, int] | None = None):
        av = library("av", "video")
        self._own = not isinstance(source, av.container.InputContainer)
        self._container = (
            av.open(rewound(source), metadata_errors="ignore") if self._own else source
        )
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            self.close()
            raise ValueError("it holds no video stream")
        if self._container.format.name == "tty":  # which draws letters as pictures
            self.close()
            raise ValueError("it is text, not a video")
        if self._own:
            # Frame threads hang beside other libraries, and cost a small file more than they give.
            self._stream.thread_type = "NONE"
        self._size, self._pixels = size, Pixels()
        self._times: list[int | None] | None = None
        if not self._own:
            self._container.seek(0)

    @property
    def rate(self) -> float:
        """Frames a second, as the header says; 25 where it does not."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 25)

    @property
    def count(self) -> int:
        """Frames, counted by packets: what the header says is not to be trusted."""
        return len(self._packets())

    @property
    def stamps(self) -> Float64[np.ndarray, "count"]:
        """Seconds of each frame after the first."""
        times = self._packets()
        base = self._stream.time_base
        ticks = np.array([np.nan if t is None else t for t in times], np.float64)
        begins = np.sort(ticks) * float(base) if base else np.full(len(times), np.nan)
        return _stamps(begins, self.rate)

    def take(self, places: Sequence[int]) -> Frames:
        """The frames at these places; frames that are whole before damage are given.

        Raises:
            DecodeError: a place at or behind the damage, or behind the end.
        """
        wanted = list(places)
        far = np.diff([0, *wanted]).max(initial=0) > _AHEAD
        if far and (found := self._sought(wanted)) is not None:
            return found
        self._container.seek(0)
        taken, seen = [], -1
        try:
            for seen, (frame, broken) in enumerate(marked_frames(self._container, self._stream)):
                if broken:
                    # Frames may be lost here, too, so that none behind it is sure of its place.
                    raise DecodeError("video", f"frame {seen} is damaged", index=wanted[len(taken)])
                if seen == wanted[len(taken)]:
                    taken.append(self._pixels(frame, self._size))
                    if len(taken) == len(wanted):
                        return stacked(taken, "video")
        except (OSError, ValueError) as e:
            if isinstance(e, DecodeError):
                raise
            raise DecodeError("video", e, index=wanted[len(taken)], reader="av") from e
        cause = f"it ends after {seen + 1} frames"
        raise DecodeError("video", cause, index=wanted[len(taken)], reader="av")

    def close(self) -> None:
        """Close the file."""
        if self._own:
            self._container.close()

    def _sought(self, wanted: list[int]) -> Frames | None:
        """The frames by time stamp; None where stamps do not tell them apart."""
        if "avi" in self._container.format.name:
            return None  # its packets have stamps, but in the order of decoding
        times = [t for t in self._packets() if t is not None]
        if len(set(times)) < len(self._packets()) or wanted[-1] >= len(times):
            return None
        times.sort()
        taken: dict[int, np.ndarray] = {}
        place_of = {t: i for i, t in enumerate(times)}
        runs = np.split(np.array(wanted), np.flatnonzero(np.diff(wanted) > _AHEAD) + 1)
        for run in runs:
            first, last = int(run[0]), int(run[-1])
            self._container.seek(times[first], stream=self._stream)
            within, damaged = set(run.tolist()), False
            try:
                for frame, broken in marked_frames(self._container, self._stream):
                    place = place_of.get(frame.pts, -1)
                    # What builds on a damaged frame is damaged, whatever the decoder says.
                    damaged = broken or (damaged and not frame.key_frame)
                    if place in within and damaged:
                        raise DecodeError("video", "the frame is damaged", index=place)
                    if place in within:
                        taken[place] = self._pixels(frame, self._size)
                    if place >= last:
                        break
            except (OSError, ValueError) as e:
                if isinstance(e, DecodeError):
                    raise
                missing = next(i for i in run.tolist() if i not in taken)
                raise DecodeError("video", e, index=missing, reader="av") from e
        return stacked([taken[i] for i in wanted], "video") if len(taken) == len(wanted) else None

    def _packets(self) -> list[int | None]:
        if self._times is None:
            self._container.seek(0)
            packets = self._container.demux(self._stream)
            try:
                times = [p.pts for p in packets if p.size and not p.is_discard]
            except (OSError, ValueError):
                times = []
            self._container.seek(0)
            self._times = times
        return self._times


def marked_frames(container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """Frames in order of arrival, and whether each is known to be damaged.

    The decoder marks what it patched up. It does not mark what it gives for packets filled with
    zeros, which is what holes in a file (a download that broke off) look like; codecs that write
    no such runs of zeros tell them.
    """
    watched = stream.codec_context.name in _NO_ZEROS
    hollow = -1  # packets since one of zeros; its frame comes out some packets later
    for packet in container.demux(stream):
        if watched and packet.size and bytes(64) in bytes(packet):
            hollow = 0
        for frame in packet.decode():
            if hollow > _DELAY and frame.key_frame:
                hollow = -1
            yield frame, bool(frame.is_corrupt) or hollow >= 0
        hollow += hollow >= 0


class TorchcodecReader:
    """A file in torchcodec, where it imports; exact in mp4 and mkv (in avi it is not).

    Args:
        source: path, bytes or a file-like object.
        size: see `fit`.
        shape: not needed.
    """

    def __init__(self, source: Any, size: Size = None, shape: tuple[int, int] | None = None):
        decoders = library("torchcodec.decoders", "video")
        source = str(source) if isinstance(source, Path) else rewound(source)
        self._decoder: Any = decoders.VideoDecoder(source, dimension_order="NHWC")
        self.count, self._size = len(self._decoder), size

    @property
    def stamps(self) -> Float64[np.ndarray, "count"]:
        """Seconds of each frame after the first."""
        return _stamps(np.full(self.count, np.nan), float(self._decoder.metadata.average_fps))

    def take(self, places: Sequence[int]) -> Frames:
        """The frames at these places."""
        return resized(self._decoder.get_frames_at(list(places)).data.numpy(), self._size)

    def close(self) -> None:
        """Drop the decoder."""
        self._decoder = None


READERS: dict[str, Callable[..., Reader]] = {
    "av": AvReader,
    "decord": DecordReader,
    "torchcodec": TorchcodecReader,
}


def as_array(batch: Any) -> Frames:
    """Frames of decord, whatever its bridge to other libraries is set to."""
    return batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)


def picture_shape(source: Any) -> tuple[int, int]:
    """Rows and columns of a video file's first frame, after the turn that it asks for.

    Raises:
        ValueError: no video stream.
    """
    with library("av", "video").open(rewound(source), metadata_errors="ignore") as file:
        stream = file.streams.best("video")
        if stream is None:
            raise ValueError("it holds no video stream")
        frame = next(file.decode(stream), None)
        return frame_shape(frame) if frame else (stream.height, stream.width)


def frame_turns(frame: Any) -> int:
    """Quarter turns to the left that a PyAV frame asks to be shown with, as phones write them."""
    return round(frame.rotation / 90) % 4


def frame_shape(frame: Any) -> tuple[int, int]:
    """Rows and columns of a PyAV frame after its turn."""
    shape = frame.height, frame.width
    return shape[::-1] if frame_turns(frame) % 2 else shape


class Pixels:
    """RGB of the PyAV frames of one file; what scaling the first one sets up serves them all."""

    def __init__(self):
        self._scaler: Any = library("av.video.reformatter", "video").VideoReformatter()

    def __call__(self, frame: Any, size: Size) -> UInt8[np.ndarray, "rows columns 3"]:
        """A frame at this size, see `fit`, after its turn."""
        turns = frame_turns(frame)
        rows, columns = fit(*frame_shape(frame), size)[:: -1 if turns % 2 else 1]
        # One thread: starting one for every core takes longer than a frame does.
        how = {"interpolation": "BILINEAR", "threads": 1}
        pixels = self._scaler.reformat(frame, columns, rows, "rgb24", **how).to_ndarray()
        return np.rot90(pixels, turns)


@cache
def _decord() -> Any:
    decord = library("decord", "video")
    decord.logging.set_level(decord.logging.QUIET)  # what it has to say comes as an error, too
    return decord


def _stamps(begins: np.ndarray, rate: float) -> Float64[np.ndarray, "count"]:
    # avi has no time stamps: decord gives absurd ones, PyAV none.
    if len(begins) and np.isfinite(begins).all() and (np.diff(begins) > 0).all():
        return begins - begins[0]
    return np.arange(len(begins)) / max(rate, 1e-6)


__all__ = [
    "READERS",
    "Frames",
    "Pixels",
    "Reader",
    "Size",
    "as_array",
    "channels_last",
    "fit",
    "frame_shape",
    "marked_frames",
    "resized",
    "rewound",
]
