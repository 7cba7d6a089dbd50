"""What a file shows on a page that loads nothing: frames, a spectrogram to hear, lines, or text."""

import base64
import io
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8
from markupsafe import Markup

from unlabel.benchmarks.clip_pictures import strip
from unlabel.data_pipes.audio import read_waveform, resampled
from unlabel.data_pipes.formats import kind_of
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.video import IMAGE_SUFFIXES, read_clip
from unlabel.modalities.pictures import png
from unlabel.report import figures

_SIDE = 240  # pixels of the shorter side of a picture
_FRAMES, _ROWS = 4, 96  # of a strip: frames, and pixels of their height
_RATE, _SECONDS = 16_000, 8.0  # of the sound that a page holds
_WINDOW, _HOP, _RANGE = 512, 128, 70.0  # of the spectrogram: samples, samples, decibels shown
_WIDE, _HIGH = 480, 120  # pixels of the spectrogram
_LETTERS = 600  # of a text


def shown(item: Mapping[str, Any], kind: str, options: Any) -> Markup:
    """A piece of a page that shows what a vector is of, or says why it cannot.

    Args:
        item: as a row of `Index.items`.
        kind: of data.
        options: how its side was read in training.
    """
    try:
        return _SHOWN[kind](item, options)
    except (ValueError, OSError) as error:
        return Markup('<p class="note">It cannot be shown: {}</p>').format(error)


def length_of(item: Mapping[str, Any], kind: str) -> str:
    """How long it is, in words; "" where that says nothing."""
    if kind == "series":
        return f"{item['frames']:,} steps"
    is_still = kind == "text" or item["frames"] < 2 or not item["rate"]
    return "" if is_still else f"{item['frames'] / item['rate']:.1f} s"


def _frames(item: Mapping[str, Any], options: Any) -> Markup:
    path, name = item["path"], Path(item["path"]).name
    if kind_of(Path(path), IMAGE_SUFFIXES):
        return _image(read_clip(path, size=_SIDE)[0], name)
    count = item["frames"]
    places = np.linspace(0, count - 1, min(_FRAMES, count)).round().astype(int)
    frames = read_clip(path, places.tolist(), size=_ROWS)
    return _image(strip(frames, shown=_FRAMES, rows=_ROWS), f"frames of {name}")


def _sound(item: Mapping[str, Any], options: Any) -> Markup:
    waveform, rate = read_waveform(item["path"], seconds=_SECONDS)
    if rate > _RATE:
        waveform, rate = resampled(waveform, rate, _RATE), _RATE
    picture = _image(_spectrogram(waveform), f"spectrogram of {Path(item['path']).name}")
    player = '<audio controls preload="metadata" src="data:audio/wav;base64,{}"></audio>'
    cut = item["frames"] / item["rate"] > _SECONDS
    note = f'<span class="note">the first {_SECONDS:g} s</span>' if cut else ""
    return picture + Markup(player).format(_wav(waveform, rate)) + Markup(note)


def _series(item: Mapping[str, Any], options: Any) -> Markup:
    values = read_series(item["path"], **{**options.reading(), "limit": None})[item["row"]].values
    return figures.channels(values, label=f"values of {Path(item['path']).name}")


def _text(item: Mapping[str, Any], options: Any) -> Markup:
    text = item["text"]
    text = text if len(text) <= _LETTERS else text[:_LETTERS] + "…"
    return Markup('<blockquote dir="auto">{}</blockquote>').format(text)


def _image(pixels: UInt8[np.ndarray, "rows columns 3"], label: str) -> Markup:
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(label, png(pixels))


def _spectrogram(waveform: Float32[np.ndarray, "samples"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Time to the right, pitch upwards, in decibels below the loudest."""
    from PIL import Image

    padded = np.pad(waveform, (0, max(0, _WINDOW - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW))) ** 2
    decibels = 10 * np.log10(np.maximum(power / max(float(power.max()), 1e-12), 1e-12))
    level = np.clip(1 + decibels.T[::-1] / _RANGE, 0, 1)
    colors = matplotlib.colormaps["magma"](level, bytes=True)[..., :3]
    return np.asarray(Image.fromarray(np.ascontiguousarray(colors)).resize((_WIDE, _HIGH)))


def _wav(waveform: Float32[np.ndarray, "samples"], rate: int) -> str:
    """A recording of 16 bits in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.clip(waveform, -1, 1) * 32_767).round().astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode("ascii")


_SHOWN = {"frames": _frames, "video": _frames, "audio": _sound, "series": _series, "text": _text}

__all__ = ["length_of", "shown"]
