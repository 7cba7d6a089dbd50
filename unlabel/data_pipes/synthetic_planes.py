"""Clips of a camera that moves past two textured planes, with the depth of every pixel known."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

Values = Float64[np.ndarray, "..."]


class Planes(NamedTuple):
    """Clips and what is known of them.

    Attributes:
        frames: RGB, `(clips, times, rows, columns, 3)`.
        depth: along the axis of the camera, `(clips, times, rows, columns)`.
        camera: where it is, to the right, down and forward, `(clips, times, 3)`.
    """

    frames: UInt8[np.ndarray, "clips times rows columns 3"]
    depth: Float64[np.ndarray, "clips times rows columns"]
    camera: Float64[np.ndarray, "clips times 3"]


def draw_planes(
    count: int,
    *,
    frames: int = 3,
    size: int = 32,
    field: float = 60.0,
    speed: tuple[float, float] = (0.04, 0.1),
    seed: int = 0,
) -> Planes:
    """Draw a board that stands before a wall, seen by a pinhole camera that moves sideways.

    Both face the camera, and the board is lighter: that it is near, the motion alone tells. It is
    1 to 1.5 away and the wall 3 to 4. The camera moves to the left or right, and half as fast at
    most up or down and forward or back.

    Args:
        count: clips.
        frames: of a clip.
        size: rows and columns.
        field: of view, in degrees.
        speed: slowest and fastest, to the side, from frame to frame.
        seed: of all that is random.
    """
    random = np.random.default_rng(seed)
    near, far = random.uniform(1.0, 1.5, count), random.uniform(3.0, 4.0, count)
    side = random.uniform(*speed, count) * random.choice([-1, 1], count)
    move = np.stack([side, *(random.uniform(-0.5, 0.5, (2, count)) * side)], 1)
    times = np.arange(frames) - (frames - 1) / 2
    camera = times[None, :, None] * move[:, None]
    middle, half = random.uniform(-0.4, 0.4, (2, count)), random.uniform(0.15, 0.3, (2, count))
    reach = math.tan(math.radians(field / 2))
    wall = _seen(camera, far, size=size, reach=reach)
    board = _seen(camera, near, size=size, reach=reach)
    extent = (near * reach * 2)[:, None, None, None]
    is_board = np.ones(board[0].shape, bool)
    for at, centre, wide in zip(board, middle, half, strict=True):
        is_board &= np.abs(at / extent - centre[:, None, None, None]) < wide[:, None, None, None]
    light = 0.35 + 0.65 * _texture(board, near, random)
    shown = np.where(is_board[..., None], light, 0.65 * _texture(wall, far, random))
    away = np.where(is_board, near[:, None, None, None], far[:, None, None, None])
    depth = away - camera[:, :, 2, None, None]
    return Planes((shown * 255).round().astype(np.uint8), depth, camera)


def _seen(camera: Values, depth: Values, *, size: int, reach: float) -> tuple[Values, Values]:
    """Where each pixel's ray meets a plane, to the right and down; `(clips, times, y, x)` each."""
    ray = ((np.arange(size) + 0.5) / size * 2 - 1) * reach
    x, y, z = (camera[:, :, i, None, None] for i in range(3))
    long = depth[:, None, None, None] - z
    shape = np.zeros((size, size))
    return x + long * (ray[None, :] + shape), y + long * (ray[:, None] + shape)


def _texture(at: tuple[Values, Values], depth: Values, random: np.random.Generator) -> Values:
    """Colours from 0 to 1, of waves about as long as a fifth to half of the picture."""
    count = len(depth)
    waves, colors = random.uniform(1.5, 4.0, (count, 6)), random.uniform(0, 1, (count, 6, 3))
    turn, start = random.uniform(0, 2 * math.pi, (2, count, 6))
    shown = np.zeros((*at[0].shape, 3))
    scale = (2 * math.pi / depth)[:, None, None, None]
    for i in range(6):
        along = [f(turn[:, i])[:, None, None, None] for f in (np.cos, np.sin)]
        phase = scale * waves[:, i, None, None, None] * (at[0] * along[0] + at[1] * along[1])
        wave = np.cos(phase + start[:, i, None, None, None])
        shown += wave[..., None] * (colors[:, i] - 0.5)[:, None, None, None]
    # Most of a sum of six waves lies within 1.5.
    return (shown / 3 + 0.5 + (colors[:, 0] - 0.5)[:, None, None, None] * 0.4).clip(0, 1)


__all__ = ["Planes", "draw_planes"]
