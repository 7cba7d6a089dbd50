"""Waveforms of any recording or sound track: one door, one error."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from unlabel.data_pipes.faults import DecodeError, library
from unlabel.data_pipes.video_readers import rewound

__all__ = ["measure_waveform", "read_waveform", "resampled", "resampled_length"]

Waveform = Float32[np.ndarray, "samples"]
_BLOCK = 1 << 16  # samples that are decoded at a time


def read_waveform(
    source: Any,
    *,
    rate: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
) -> tuple[Waveform, int]:
    """One channel of sound; several are averaged.

    Args:
        source: a path, bytes or file-like object of any format that soundfile or FFmpeg knows
            (the sound track of a video too), a `datasets.Audio` value, or `(array, rate)` with an
            array `(samples,)`, `(samples, channels)` or `(channels, samples)` of floats from -1
            to 1 or of integers; there are fewer channels than samples.
        rate: samples a second to resample to; None keeps the recording's own.
        start: seconds to leave out at the beginning.
        seconds: how much to read; None for all. A recording that ends before gives less.

    Returns:
        The waveform, -1 to 1, `(samples,)`, and its rate.

    Raises:
        DecodeError: the source cannot be read, has no sound, or has values that are no number.
        ValueError: a rate, start or length out of range.
    """
    _check(rate, start, seconds)
    pieces = list(_pieces(source, start, seconds))
    own = pieces[0][1]
    waveform = np.concatenate([piece for piece, _ in pieces])
    if rate is None or rate == own:
        return waveform, own
    return resampled(waveform, own, rate), rate


def measure_waveform(source: Any, alive: Callable[[], None] = lambda: None) -> tuple[int, int, str]:
    """Samples of a recording, its rate, and what is wrong behind them, "" where nothing is.

    They are found by decoding all of it, a piece at a time.

    Args:
        source: as for `read_waveform`.
        alive: called at every piece.

    Raises:
        DecodeError: as for `read_waveform`, where no sample comes before the fault.
    """
    samples = rate = 0
    try:
        for piece, rate in _pieces(source, 0.0, None):  # noqa: B007
            samples += len(piece)
            alive()
    except DecodeError as e:
        if not samples:
            raise
        return samples, rate, e.cause
    return samples, rate, ""


def _pieces(source: Any, start: float, seconds: float | None) -> Iterator[tuple[Waveform, int]]:
    """One channel of sound as it is decoded, each piece with the rate; at least one."""
    name, content = _content(source)
    seen = 0
    try:
        for channels, own in _channels(content, start, seconds):
            piece = channels.mean(1, dtype=np.float32) if channels.ndim == 2 else channels
            if not np.isfinite(piece).all():
                bad = seen + int(np.flatnonzero(~np.isfinite(piece))[0])
                raise DecodeError(name, f"sample {bad} is no finite number")
            seen += len(piece)
            if len(piece):
                yield piece, own
    except DecodeError as e:
        raise DecodeError(name, e.cause, reader=e.reader) from e
    except (ImportError, MemoryError):
        raise
    except Exception as e:  # FFmpeg's and libsndfile's errors derive from many
        raise DecodeError(name, e, reader="av") from e
    if not seen:
        when = f" at {start:g} s" if start else ""
        raise DecodeError(name, f"it holds no sound{when}")


def resampled(waveform: Waveform, own: int, rate: int) -> Waveform:
    """A waveform at another rate, by a polyphase filter that keeps out what would fold back.

    Args:
        waveform: as read.
        own: its samples a second.
        rate: wanted samples a second.
    """
    from scipy.signal import resample_poly

    common = math.gcd(own, rate)
    out = resample_poly(waveform, rate // common, own // common)
    return np.asarray(out, dtype=np.float32)


def resampled_length(samples: int, own: int, rate: int) -> int:
    """Samples of a resampled waveform."""
    return -(-samples * rate // own)


def _check(rate: int | None, start: float, seconds: float | None) -> None:
    if rate is not None and rate < 1:
        raise ValueError(f"rate is in samples a second and at least 1, but {rate} came.")
    if start < 0 or (seconds is not None and seconds <= 0):
        raise ValueError(
            f"start is 0 s or more and seconds above 0, but start={start}, seconds={seconds} came."
        )


def _content(source: Any) -> tuple[str, Any]:
    """A name for messages, and a path, a file, or an array with its rate."""
    if isinstance(source, Mapping):
        if source.get("array") is not None:
            return "an array", (source["array"], int(source["sampling_rate"]))
        content, path = source.get("bytes"), source.get("path")
        if content is None and path is None:
            raise DecodeError("a dict", f"'path' or 'bytes' is wanted, but it has {sorted(source)}")
        return _content(path) if content is None else (str(path or "bytes"), rewound(content))
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.is_file():
            raise DecodeError(path, "there is no such file")
        if not path.stat().st_size:
            raise DecodeError(path, "the file is empty")
        return str(path), path
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes", rewound(source)
    if isinstance(source, tuple) and len(source) == 2:
        return "an array", source
    if hasattr(source, "get_all_samples"):  # torchcodec's decoder, which datasets hands out
        samples = source.get_all_samples()
        return "an open decoder", (samples.data.numpy().T, int(samples.sample_rate))
    if hasattr(source, "read"):
        return str(getattr(source, "name", type(source).__name__)), source
    raise DecodeError(
        type(source).__name__,
        "sound is read from a path, bytes, a file, a datasets.Audio value or (array, rate)",
    )


def _channels(
    content: Any, start: float, seconds: float | None
) -> Iterator[tuple[Float32[np.ndarray, "samples *channels"], int]]:
    if isinstance(content, tuple):
        array, own = _scaled(np.asarray(content[0])), int(content[1])
        if own < 1:
            raise DecodeError("an array", f"its rate is 1 sample a second or more, but {own} came")
        first = round(start * own)
        yield array[first : None if seconds is None else first + round(seconds * own)], own
        return
    soundfile = library("soundfile", "audio")
    read, own = 0, 1
    source = rewound(content)
    if isinstance(source, str) and os.name != "nt":
        source = os.fsencode(source)  # a name may be of other bytes than UTF-8
    try:
        with soundfile.SoundFile(source) as file:
            own = file.samplerate
            file.seek(min(round(start * own), file.frames))
            count = file.frames if seconds is None else round(seconds * own)
            # Not its blocks(): where a file ends early, those are filled with what memory held.
            while read < count:
                block = file.read(min(_BLOCK, count - read), dtype="float32", always_2d=True)
                if not len(block):
                    break
                yield block, own
                read += len(block)
    except soundfile.LibsndfileError:  # FFmpeg knows more formats, and mends more damage
        done = read / own
        left = None if seconds is None else seconds - done
        yield from _by_av(content, start + done, left)


def _scaled(array: np.ndarray) -> Float32[np.ndarray, "samples *channels"]:
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise DecodeError(
            "an array",
            f"sound is (samples,) or (samples, channels) of numbers, but {array.dtype} "
            f"{array.shape} came",
        )
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    about = np.iinfo(array.dtype)
    middle = (about.max + about.min + 1) / 2  # 0 of signed integers, 128 of unsigned bytes
    return ((array - middle) / (about.max - middle + 1)).astype(np.float32)


def _by_av(
    content: Any, start: float, seconds: float | None
) -> Iterator[tuple[Float32[np.ndarray, "samples channels"], int]]:
    av = library("av", "audio")
    with av.open(rewound(content), metadata_errors="ignore") as file:
        stream = file.streams.best("audio")
        if stream is None:
            raise DecodeError("sound", "it holds no sound track", reader="av")
        stream.thread_type = "NONE"
        own = int(stream.rate)
        first = round(start * own)
        last = None if seconds is None else first + round(seconds * own)
        planes = av.AudioResampler(format="fltp")
        seen = 0
        for frame in file.decode(stream):
            for part in planes.resample(frame):
                piece = part.to_ndarray().T
                end = None if last is None else max(last - seen, 0)
                yield piece[max(first - seen, 0) : end], own
                seen += len(piece)
            if last is not None and seen >= last:
                break
