"""Sounds made by formula, whose classes are known: what changes in time tells them apart."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

CLASSES = (
    "steady",
    "rising",
    "falling",
    "vibrato",
    "tremolo",
    "regular",
    "irregular",
    "hiss",
)
_HARMONICS = 4


@dataclass(frozen=True)
class SyntheticAudio:
    """Sounds with what they were made from; a map-style store by ordinal.

    Attributes:
        waveform: from -1 to 1, `(clips, samples)`.
        label: place in `CLASSES`, `(clips,)`.
        pitch: of each clip in Hz; of a hiss, the middle of its band.
        tempo: of each clip in Hz: of its vibrato, tremolo or beats.
        rate: samples a second.
    """

    waveform: Float32[np.ndarray, "clips samples"]
    label: Int64[np.ndarray, "clips"]
    pitch: np.ndarray
    tempo: np.ndarray
    rate: int

    classes = CLASSES

    @property
    def lengths(self) -> Int64[np.ndarray, "clips"]:
        """Samples of each clip."""
        return np.broadcast_to(np.int64(self.waveform.shape[1]), len(self))

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.label)

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The clip at a place of the run, `epoch * len + index`."""
        index = int(ordinal) % len(self)
        return {
            "waveform": self.waveform[index],
            "label": int(self.label[index]),
            "index": index,
            "ordinal": int(ordinal),
        }

    def summary(self) -> str:
        """What there is, in one line."""
        seconds = self.waveform.shape[1] / self.rate
        return f"{len(self):,} generated clips of {seconds:g} s at {self.rate:,} Hz"


def generate_audio(
    count: int, *, rate: int = 8_000, seconds: float = 1.0, noise: float = 0.1, seed: int = 0
) -> SyntheticAudio:
    r"""Clips of eight classes that differ in what happens over time, each as often.

    A voice of four harmonics with pitch f(t), loudness e(t) and random weights w_h:

        x(t) = e(t) sum_h w_h sin(h theta(t)),   theta(t) = phase + 2 pi sum_{u <= t} f(u) / rate

    - `steady`: f(t) = p, e(t) = 1
    - `rising`, `falling`: f(t) = p 2^(+-g (t/T - 1/2)), g between 0.5 and 1.5 octaves
    - `vibrato`: f(t) = p 2^(sin(2 pi r t) / 6)
    - `tremolo`: e(t) = (1 + sin(2 pi r t)) / 2
    - `regular`: beats every 1/r seconds, each dying away with exp(-30 t)
    - `irregular`: as many beats at times drawn evenly
    - `hiss`: noise of an octave's band around p, in place of the voice

    with the pitch p log-uniform from 200 to 600 Hz and r from 4 to 8 Hz. Rising and falling sounds
    have the same spectrum on average over time, as have regular and irregular beats. White noise
    is added, and the result is scaled to a peak between 0.1 and 1.

    Args:
        count: number of clips.
        rate: samples a second, at least 8,000.
        seconds: of each clip.
        noise: level of the white noise over that of the sound.
        seed: of everything drawn.

    Raises:
        ValueError: a rate too low for the voices, or no clip.
    """
    if rate < 8_000 or count < 1 or seconds <= 0:
        raise ValueError(
            f"At least one clip, of some length, at 8,000 Hz or more is generated, but {count} of "
            f"{seconds} s at {rate} Hz came."
        )
    draw = np.random.default_rng(seed)
    label = draw.permutation(np.arange(count) % len(CLASSES))
    pitch, tempo = 200 * 3 ** draw.random(count), draw.uniform(4, 8, count)
    t = np.arange(round(rate * seconds)) / rate
    octaves = _bends(draw, label, tempo, t, seconds)
    theta = 2 * np.pi * np.cumsum(pitch[:, None] * 2**octaves, axis=1) / rate
    theta = (theta + draw.uniform(0, 2 * np.pi, (count, 1))).astype(np.float32)
    weights = draw.random((count, _HARMONICS), dtype=np.float32) / np.arange(
        1, _HARMONICS + 1, dtype=np.float32
    )
    voice = np.zeros_like(theta)
    for h in range(_HARMONICS):
        voice += weights[:, h, None] * np.sin((h + 1) * theta)
    is_hiss = label == CLASSES.index("hiss")
    voice[is_hiss] = _hiss(draw, pitch[is_hiss], len(t), rate)
    sound = _loudness(draw, label, tempo, t, seconds) * voice
    level = np.sqrt(np.square(sound).mean(1, keepdims=True))
    sound += noise * level * draw.standard_normal(sound.shape, dtype=np.float32)
    sound *= 10 ** draw.uniform(-1, 0, (count, 1)) / np.abs(sound).max(1, keepdims=True)
    return SyntheticAudio(sound.astype(np.float32), label, pitch, tempo, rate)


def _bends(
    draw: np.random.Generator, label: np.ndarray, tempo: np.ndarray, t: np.ndarray, seconds: float
) -> np.ndarray:
    """How far the pitch of each clip is from its own, in octaves."""
    glide = draw.uniform(0.5, 1.5, len(label))
    way = (label == CLASSES.index("rising")) * 1.0 - (label == CLASSES.index("falling"))
    bend = (glide * way)[:, None] * (t / seconds - 0.5)
    phase = draw.uniform(0, 2 * np.pi, (len(label), 1))
    wave = np.sin(2 * np.pi * tempo[:, None] * t + phase) / 6
    return bend + np.where((label == CLASSES.index("vibrato"))[:, None], wave, 0)


def _loudness(
    draw: np.random.Generator, label: np.ndarray, tempo: np.ndarray, t: np.ndarray, seconds: float
) -> np.ndarray:
    """How loud each clip is over time."""
    phase = draw.random((len(label), 1))
    tremolo = (1 + np.sin(2 * np.pi * (tempo[:, None] * t + phase))) / 2
    loud = np.where((label == CLASSES.index("tremolo"))[:, None], tremolo, 1.0)
    beats = int(np.ceil(tempo.max() * seconds)) + 1
    place = np.arange(beats)
    # A beat before the clip is still heard in it; one after it is left out.
    even = (place - phase) / tempo[:, None]
    scattered = draw.uniform(0, seconds, (len(label), beats))
    scattered[place >= np.round(tempo * seconds)[:, None]] = np.inf
    for name, starts in (("regular", even), ("irregular", scattered)):
        rows = label == CLASSES.index(name)
        loud[rows] = sum(_dying(t - starts[rows, i, None]) for i in place)
    return loud


def _dying(since: np.ndarray) -> np.ndarray:
    """How loud a beat still is, some seconds after it began."""
    return np.where(since >= 0, np.exp(-30 * np.maximum(since, 0).astype(np.float32)), 0)


def _hiss(draw: np.random.Generator, pitch: np.ndarray, samples: int, rate: int) -> np.ndarray:
    """Noise of the octave around each pitch."""
    hertz = np.fft.rfftfreq(samples, 1 / rate)
    spectrum = np.fft.rfft(draw.normal(size=(len(pitch), samples)), axis=1)
    far = np.abs(np.log2(np.maximum(hertz, 1e-9)[None, :] / pitch[:, None]))
    return np.fft.irfft(np.where(far <= 0.5, spectrum, 0), n=samples, axis=1)


__all__ = ["CLASSES", "SyntheticAudio", "generate_audio"]
