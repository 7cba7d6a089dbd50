"""Frames and sound of synthetic scenes, all clips at once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from unlabel.data_pipes.synthetic_scenes import (
    COLORS,
    SHAPES,
    TEXTURES,
    Scenes,
    angles,
    places,
    radii,
)

CHUNK = 16  # clips drawn at a time: 16 x 32 frames of 64x64 are 8 MB an array
_WAVES = 12  # cosines that clouds are made of
Plane = Float32[np.ndarray, "..."]


def _half_disc(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.sqrt(x * x + y * y) - 1, -y)


def _triangle(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x) * np.float32(3**0.5 / 2) + y / 2, -y) - np.float32(0.5)


def _box(x: Plane, y: Plane, wide: float, high: float) -> Plane:
    return np.maximum(np.abs(x) - np.float32(wide), np.abs(y) - np.float32(high))


# Signed distance to the edge, below 0 inside, of a shape of radius 1 about the origin.
EDGES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "square": lambda x, y: _box(x, y, 0.75, 0.75),
    "triangle": _triangle,
    "cross": lambda x, y: np.minimum(_box(x, y, 1.0, 0.3), _box(x, y, 0.3, 1.0)),
    "bar": lambda x, y: _box(x, y, 1.0, 0.35),
    "half disc": _half_disc,
}


def render_frames(
    scenes: Scenes, *, size: int, frames: int, fps: float
) -> UInt8[np.ndarray, "clips frames size size 3"]:
    """Draw every frame of every clip, edges smoothed over one pixel.

    Args:
        scenes: what to draw.
        size: rows and columns.
        frames: of a clip.
        fps: frames a second.
    """
    starts = range(0, len(scenes), CHUNK)
    parts = [scenes.rows(slice(i, i + CHUNK)) for i in starts]
    return np.concatenate([_frames(part, size, frames, fps) for part in parts])


def _frames(scenes: Scenes, size: int, frames: int, fps: float) -> np.ndarray:
    phases = scenes.phases(np.arange(frames) / fps)
    place, angle, radius = (f(scenes, phases) for f in (places, angles, radii))
    shown = np.repeat(background(scenes.seed, scenes.texture, size)[:, None], frames, axis=1)
    colors = np.array(list(COLORS.values()), np.float32)[scenes.color]
    for i in range(2):
        share = cover(scenes.shape[:, i], place[:, :, i], angle[..., i], radius[..., i], size)
        shown += share[..., None] * (colors[:, None, None, None, i] - shown)
    return np.rint(shown).astype(np.uint8)


def cover(
    shape: np.ndarray, place: np.ndarray, angle: np.ndarray, radius: np.ndarray, size: int
) -> Float32[np.ndarray, "clips frames rows columns"]:
    """Share of each pixel that lies in the shape.

    Args:
        shape: place in `SHAPES`, `(clips,)`.
        place: `(x, y)` in widths of the frame, `(clips, frames, 2)`.
        angle: in radians, clockwise, `(clips, frames)`.
        radius: in widths of the frame, `(clips, frames)`.
        size: rows and columns.
    """
    at = (np.arange(size) + 0.5) / size
    # Edges of the frame meet: the nearest of a shape's images is the one that is seen.
    x, y = ((((at - place[..., k, None]) + 0.5) % 1 - 0.5).astype(np.float32) for k in (0, 1))
    x, y = x[..., None, :], y[..., None]
    radius = radius[..., None, None].astype(np.float32)
    cos, sin = (f(angle)[..., None, None].astype(np.float32) / radius for f in (np.cos, np.sin))
    share = np.empty((*place.shape[:2], size, size), np.float32)
    for kind, name in enumerate(SHAPES):
        own = shape == kind
        if own.any():
            across, down = (
                x[own] * cos[own] + y[own] * sin[own],
                y[own] * cos[own] - x[own] * sin[own],
            )
            share[own] = 0.5 - EDGES[name](across, down) * (radius[own] * size)
    return np.clip(share, 0, 1, out=share)


def background(
    seed: Int64[np.ndarray, "clips"], texture: Int64[np.ndarray, "clips"], size: int
) -> Float32[np.ndarray, "clips rows columns 3"]:
    """What is behind the shapes.

    Args:
        seed: of what is drawn for each clip.
        texture: place in `TEXTURES`.
        size: rows and columns.
    """
    drawn = random_numbers(seed, 3 * _WAVES + 10)
    # Muted beside the shapes, and of one hue: files keep colour at half the resolution.
    first = 90 + 90 * drawn[:, :3]
    second = first * (0.55 + 0.25 * drawn[:, 3:4])
    at = (np.arange(size) + 0.5) / size
    x, y = at[None, None, :], at[None, :, None]
    turn, often = np.pi * drawn[:, 6], 3 + 4 * drawn[:, 7]
    wave = 2 * np.pi * drawn[:, 10:].reshape(len(seed), 3, _WAVES)
    side = lambda v: v[:, None, None]  # noqa: E731
    u = side(np.cos(turn)) * x + side(np.sin(turn)) * y
    v = side(np.cos(turn)) * y - side(np.sin(turn)) * x
    stripes = lambda w: np.sin(2 * np.pi * (side(often) * w + side(drawn[:, 8])))  # noqa: E731
    height = np.empty((len(seed), size, size))
    for kind, name in enumerate(TEXTURES):
        own = texture == kind
        if name == "clouds":
            height[own] = _clouds(x, y, wave[own])
        elif name == "stripes":
            height[own] = stripes(u)[own]
        elif name == "checks":
            height[own] = np.sign(stripes(u) * stripes(v))[own]
        else:
            height[own] = stripes(u + 0.06 * np.sin(2 * np.pi * (3 * v + side(drawn[:, 9]))))[own]
    blend = (0.5 + 0.5 * height)[..., None]
    return (first[:, None, None] * blend + second[:, None, None] * (1 - blend)).astype(np.float32)


def _clouds(x: np.ndarray, y: np.ndarray, wave: Float[np.ndarray, "clips 3 waves"]) -> np.ndarray:
    often = 2 * np.pi * (0.5 + 5 * np.linspace(0, 1, _WAVES))
    angle, phase = wave[:, 0], wave[:, 1]
    turned = np.einsum(
        "nk,nyx->nyxk",
        np.cos(angle) * often,
        np.broadcast_to(x, (len(wave), y.shape[1], x.shape[2])),
    )
    turned += np.einsum("nk,nyx->nyxk", np.sin(angle) * often, np.broadcast_to(y, turned.shape[:3]))
    return np.clip(np.cos(turned + phase[:, None, None]).sum(-1) / (0.5 * _WAVES) ** 0.5, -1, 1)


def random_numbers(
    seed: Int64[np.ndarray, "clips"], count: int, *, stream: int = 1
) -> Float[np.ndarray, "clips count"]:
    """Numbers from 0 to 1, which each clip's seed and the stream determine."""
    return np.stack([np.random.default_rng([s, stream]).random(count) for s in seed.tolist()])


def white_noise(
    seed: Int64[np.ndarray, "clips"], count: int, *, stream: int = 2
) -> Float[np.ndarray, "clips count"]:
    """Standard normal numbers, likewise."""
    generators = (np.random.default_rng([s, stream]) for s in seed.tolist())
    return np.stack([g.standard_normal(count) for g in generators])


def render_sound(
    scenes: Scenes, *, rate: int, seconds: float
) -> Float32[np.ndarray, "clips samples"]:
    """The sound of every clip: a tone, rushing air and knocks.

    The tone's pitch rises and falls by two octaves with the size, its loudness throbs with the
    turning; air rushes while shapes move; a dull knock is a landing, a bright one a collision.

    Args:
        scenes: what is heard.
        rate: samples a second.
        seconds: of each clip.
    """
    times = np.arange(round(seconds * rate)) / rate
    parts = (scenes.rows(slice(i, i + CHUNK)) for i in range(0, len(scenes), CHUNK))
    return np.concatenate([_sound(part, times, rate) for part in parts])


def _sound(scenes: Scenes, times: np.ndarray, rate: int) -> np.ndarray:
    phase = lambda k: scenes.start[:, k, None] + scenes.rate[:, k, None] * times  # noqa: E731
    pitch = (180 + 60 * random_numbers(scenes.seed, 1)) * 2 ** (2 * (phase(3) % 1))
    throb = 0.6 + 0.4 * np.cos(2 * np.pi * 6 * phase(2))
    tone = 0.2 * throb * np.sin(2 * np.pi * np.cumsum(pitch, axis=1) / rate)
    noise = white_noise(scenes.seed, len(times))
    speed = np.abs(scenes.rate[:, :2]).sum(1, keepdims=True)
    air = 0.15 * speed * (noise[:, :] + np.roll(noise, 1, axis=1))
    landing = knocks(phase(5), scenes.rate[:, 5, None], pitch=110, lasts=0.05)
    crash = knocks(phase(4), scenes.rate[:, 4, None], pitch=1900, lasts=0.02)
    return np.clip(tone + air + 0.7 * (landing + crash), -1, 1).astype(np.float32)


def knocks(phase: np.ndarray, rate: np.ndarray, *, pitch: float, lasts: float) -> np.ndarray:
    """A decaying tone from each time on that the phase becomes whole; none where it stands.

    Args:
        phase: in cycles, over time.
        rate: cycles a second; 0 where it stands.
        pitch: of the tone in Hz.
        lasts: seconds until it is down to a third.
    """
    since = (phase % 1) / np.where(rate > 0, rate, 1)
    return np.where(rate > 0, np.exp(-since / lasts) * np.sin(2 * np.pi * pitch * since), 0)


__all__ = ["CHUNK", "EDGES", "background", "cover", "knocks", "random_numbers", "render_frames",
           "render_sound", "white_noise"]  # fmt: skip
