"""Small videos of known content, and ways to damage them."""

import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests here import `pair_features`, `tars`


def numbered(count: int, rows: int = 48, columns: int = 64) -> np.ndarray:
    """Frames whose place can be read back: eight stripes, black or white, are its bits."""
    bits = (np.arange(count)[:, None] >> np.arange(8)) & 1
    stripes = np.repeat(np.where(bits, 220, 30), columns // 8, axis=1).astype(np.uint8)
    return np.ascontiguousarray(
        np.broadcast_to(stripes[:, None, :, None], (count, rows, columns, 3))
    )


def places_in(frames: np.ndarray) -> list[int]:
    """Places of frames of `numbered`, read from their stripes."""
    width = frames.shape[2] / 8
    middles = np.round((np.arange(8) + 0.5) * width - 0.5).astype(int)
    bits = frames[:, :, middles].mean((1, 3)) > 125
    return (bits @ (1 << np.arange(8))).tolist()


def write_video(
    path: Path, frames: np.ndarray, *, codec: str = "libx264", rate: int = 25,
    options: dict[str, str] | None = None, times: list[float] | None = None,
    sound: np.ndarray | None = None, pixels: str = "yuv420p",
) -> Path:  # fmt: skip
    """Encode frames, perhaps at given seconds, perhaps with a mono sound track of 16 kHz."""
    import av
    from av.video.frame import VideoFrame

    path.parent.mkdir(parents=True, exist_ok=True)
    # The index comes first in mp4, so that a file that is cut off still opens.
    first = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=first) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if times is not None:
            from fractions import Fraction

            stream.codec_context.time_base = Fraction(1, 1000)
        track = file.add_stream("aac", rate=16000, layout="mono") if sound is not None else None
        for place, shown in enumerate(frames):
            frame = VideoFrame.from_ndarray(shown, format="rgb24")
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), round(1000 * times[place])
            file.mux(stream.encode(frame))  # pyright: ignore[reportArgumentType]
        file.mux(stream.encode(None))
        if track is not None and sound is not None:
            piece = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), "fltp", "mono")
            piece.sample_rate = 16000
            file.mux(track.encode(piece))
            file.mux(track.encode(None))
    return path


def write_wave(path: Path, waveform: np.ndarray, rate: int = 8000) -> Path:
    """16-bit mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((waveform * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """`make_video(path, frames, codec=, rate=, options=, times=, sound=)`."""
    return write_video


@pytest.fixture(scope="session")
def folder_of_videos(tmp_path_factory) -> Path:
    """Two classes of two videos of 30, 40, 50 and 8 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for name, count in (("a/x", 30), ("a/y", 40), ("b/x", 50), ("b/short", 8)):
        write_video(folder / f"{name}.mp4", numbered(count))
    return folder
