"""What a camera, a microphone and sensors notice of one object that moves."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from unlabel.data_pipes.synthetic_objects import COLORS, MOTIONS, SHAPES, Objects, states
from unlabel.data_pipes.synthetic_render import (
    EDGES,
    background,
    cover,
    knocks,
    random_numbers,
    white_noise,
)

COLUMNS = ("x", "y", "size", "angle", "red", "green", "blue", "reflected", "outline")
SENSOR_RATE = 40  # readings a second
SWEEP = 0.4  # seconds in which the lamp goes through all wavelengths
TURN = 0.8  # seconds in which the range finder looks all around
_LOWEST, _STEP = 120.0, 0.3  # Hz of the first colour's voice, and octaves to the next one's
_CENTRES, _WIDTH = (610.0, 540.0, 455.0), 28.0  # nm of what is red, green and blue
_VOICE, _AIR, _READ = 4, 5, 6  # streams of random numbers: nothing drawn is shared by two senses
_HARMONICS = 30
# Where the voice of a shape resounds, in Hz: two peaks each, as of a vowel.
_VOWELS = {
    "square": (800, 1200),
    "triangle": (350, 2500),
    "cross": (600, 3300),
    "bar": (550, 1800),
    "half disc": (300, 650),
}


def object_frames(
    objects: Objects, times: Float[np.ndarray, "times"], *, size: int
) -> UInt8[np.ndarray, "count times size size 3"]:
    """Pictures of the object before a muted ground, in a light that slowly changes.

    Args:
        objects: what is seen.
        times: seconds, a frame each.
        size: rows and columns.
    """
    at = states(objects, times)
    ground = background(objects.seed, objects.texture, size)
    ground = 0.4 * ground + 0.6 * ground.mean(-1, keepdims=True)
    color = np.array(list(COLORS.values()), np.float32)[objects.color][:, None, None, None]
    place = np.stack([at.x, at.y], axis=-1)
    share = cover(objects.shape, place, 2 * np.pi * at.angle, at.radius, size)[..., None]
    light = objects.brightness(times)[..., None, None, None].astype(np.float32)
    shown = light * (ground[:, None] + share * (color - ground[:, None]))
    return np.rint(np.clip(shown, 0, 255)).astype(np.uint8)


def object_readings(
    objects: Objects, times: Float[np.ndarray, "times"]
) -> Float[np.ndarray, "count times columns"]:
    r"""What sensors read of the object, noise included; in the order of `COLUMNS`.

    - `x`, `y`: of the middle, in widths of the frame; `size`: the radius, likewise
    - `angle`: in degrees, from an upright object, clockwise; it runs on after a whole turn
    - `red`, `green`, `blue`: of the colour, under the light of the moment
    - `reflected`: light of one wavelength, which runs from 420 to 660 nm and begins anew every
      `SWEEP` seconds
    - `outline`: distance from the middle to the edge, in widths of the frame, in a direction that
      goes round clockwise every `TURN` seconds, from the right

    The last two say the colour and the shape by how they change, whatever the level and scale of
    a channel.

    Args:
        objects: what is measured.
        times: seconds of the readings.
    """
    at, light = states(objects, times), objects.brightness(times)
    rgb = np.array(list(COLORS.values()))[objects.color] / 255
    wavelength = 420 + 240 * (times / SWEEP % 1)
    lobes = np.exp(-(((wavelength - np.array(_CENTRES)[:, None]) / _WIDTH) ** 2) / 2)
    edges = np.stack([_outline(name) for name in SHAPES])
    degrees = np.rint(360 * (times / TURN - at.angle)).astype(int) % 360
    outline = edges[objects.shape[:, None], degrees] * at.radius
    noise = white_noise(objects.seed, len(times) * len(COLUMNS), stream=_READ)
    noise = noise.reshape(len(objects), len(COLUMNS), len(times))
    exact = [
        at.x, at.y, at.radius, 360 * at.angle, *(rgb.T[..., None] * light), (rgb @ lobes) * light,
        outline,
    ]  # fmt: skip
    spread = np.array([0.008, 0.008, 0.004, 1.5, 0.01, 0.01, 0.01, 0.03, 0.006])
    return np.stack(exact, axis=-1) + spread * noise.transpose(0, 2, 1)


def _outline(shape: str) -> Float[np.ndarray, "degrees"]:
    """How far the edge is from the middle in each direction, of a shape of radius 1."""
    away, turn = np.linspace(0, 1.2, 241), np.deg2rad(np.arange(360))[:, None]
    x, y = (f(turn) * away for f in (np.cos, np.sin))
    inside = EDGES[shape](x.astype(np.float32), y.astype(np.float32)) <= 0
    return (inside * away).max(1)


class _Heard(NamedTuple):
    """What a motion does to the sound, `(count, times)` each.

    Attributes:
        bend: of the pitch, in octaves.
        loud: of the voice.
        rush: of soft air.
        rattle: of bright noise.
        taps: a waveform of its own.
    """

    bend: np.ndarray
    loud: np.ndarray
    rush: np.ndarray
    rattle: np.ndarray
    taps: np.ndarray


def object_sound(
    objects: Objects, times: Float[np.ndarray, "times"], *, rate: int
) -> Float32[np.ndarray, "count samples"]:
    """A voice whose register is the colour and whose timbre is the shape; the motion moves it.

    Air rushes twice in a slide to and fro; the pitch rises and sinks with the object; what goes
    in a circle is louder when it is near, and bends its pitch on the way; a spin ticks six times a
    turn; what pulses swells; a bounce knocks where it lands; a swing whispers, and creaks where it
    turns back; what shakes rattles. Loudness, pitch, peaks, tilt and noise vary.

    Args:
        objects: what is heard.
        times: seconds of the samples.
        rate: samples a second.
    """
    drawn = random_numbers(objects.seed, 8, stream=_VOICE)[..., None]
    heard = _heard(objects, times)
    register = _STEP * objects.color[:, None] + 0.12 * (drawn[:, 0] - 0.5)
    pitch = _LOWEST * 2 ** (register + heard.bend)
    theta = 2 * np.pi * ((np.cumsum(pitch, axis=1) / rate + drawn[:, 1]) % 1)
    voice = _voice(theta.astype(np.float32), _weights(objects, _LOWEST * 2**register, drawn[:, 2:]))
    noise = white_noise(objects.seed, len(times), stream=_AIR)
    soft = sum(np.roll(noise, k, axis=1) for k in range(4)) / 2
    bright = (noise - np.roll(noise, 1, axis=1)) / 2**0.5
    sound = heard.loud * voice + heard.taps + heard.rush * soft + heard.rattle * bright
    sound += (0.02 + 0.06 * drawn[:, 6]) * noise
    level = 0.2 + 0.7 * drawn[:, 7]
    return (level * sound / np.abs(sound).max(1, keepdims=True)).astype(np.float32)


def _weights(
    objects: Objects, pitch: Float[np.ndarray, "count 1"], drawn: Float[np.ndarray, "count some 1"]
) -> Float[np.ndarray, "count harmonics"]:
    """Of the harmonics of each voice: strong near its two peaks, which lie 5 % off at most."""
    hertz = pitch * np.arange(1, _HARMONICS + 1)
    peaks = np.array([_VOWELS[s] for s in SHAPES])[objects.shape] * (0.95 + 0.1 * drawn[:, :2, 0])
    near = np.exp(-(((hertz[..., None] - peaks[:, None]) / 200) ** 2) / 2)
    tilt = (0.8 + 0.4 * drawn[:, 2]) / np.sqrt(hertz / 500)  # the second peak is somewhat weaker
    weights = np.where(hertz < 3500, 0.04 + near.sum(-1), 0) * tilt
    return weights / np.sqrt((weights**2).sum(1, keepdims=True))


def _voice(
    theta: Float32[np.ndarray, "count times"], weights: Float[np.ndarray, "count harmonics"]
) -> Float32[np.ndarray, "count times"]:
    """Sum of weights times sin(h theta), each sine from the two before it."""
    twice, before, now = 2 * np.cos(theta), np.zeros_like(theta), np.sin(theta)
    total = np.zeros_like(theta)
    for weight in weights.T.astype(np.float32):
        total += weight[:, None] * now
        before, now = now, twice * now - before
    return total


def _heard(objects: Objects, times: np.ndarray) -> _Heard:
    phase, rate = objects.phase(times), objects.rate[:, None]
    turn = 2 * np.pi * phase
    own = {name: (objects.motion == k)[:, None] for k, name in enumerate(MOTIONS)}
    near = np.sin(turn * objects.way[:, None])  # y points down, to whoever listens
    speed = np.cos(turn) ** 2
    rattled = np.exp(-((2 * phase) % 1) / 0.3)
    landed = knocks(phase, rate, pitch=95, lasts=0.06)
    ticked = knocks(6 * phase, 6 * rate, pitch=2700, lasts=0.008)
    creaked = knocks(2 * phase - 0.5, 2 * rate, pitch=1400, lasts=0.03)
    return _Heard(
        bend=-0.15 * own["rise"] * np.sin(turn) - 0.05 * own["circle"] * np.cos(turn)
        + 0.04 * own["shake"] * np.sin(turn),
        loud=1 - own["circle"] * 0.35 * (1 - near) - own["pulse"] * 0.45 * (1 - np.sin(turn)),
        rush=1.4 * own["slide"] * speed + 0.25 * own["circle"] + 0.3 * own["swing"] * speed,
        rattle=0.9 * own["shake"] * rattled,
        taps=2.5 * (own["bounce"] * landed + own["spin"] * ticked + 0.7 * own["swing"] * creaked),
    )  # fmt: skip


__all__ = ["COLUMNS", "SENSOR_RATE", "object_frames", "object_readings", "object_sound"]
