"""What goes with a clip: another clip, a patch that moves in it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from unlabel.data_pipes.tracks import track_patch
from unlabel.data_pipes.video_data import VideoItem
from unlabel.data_pipes.video_windows import Sampling

_TRACKS = 4  # clips of a video searched for a patch that moves
Frames = UInt8[np.ndarray, "times rows columns 3"]


def another_clip(
    item: VideoItem,
    begin: int,
    pair: tuple[float, float],
    sampling: Sampling,
    random: np.random.Generator,
) -> Int64[np.ndarray, "picked"]:
    """A clip that begins so many seconds away, on a side where there is room for it.

    Args:
        item: the video of both.
        begin: frame where the first clip begins.
        pair: least and most seconds between the two beginnings.
        sampling: of both clips.
        random: draws the distance and the side.
    """
    least, most = pair
    far = (least + (most - least) * float(random.random())) * item.fps
    room = max(int(len(item) - sampling.span(item.fps)), 0)
    sides = [side for side in (begin - far, begin + far) if 0 <= side <= room]
    # A video too short for that distance gives the farthest clip that it has.
    start = sides[int(random.integers(len(sides)))] if sides else room * (2 * begin < room)
    return item.clip(sampling, float(int(start)))


def tracked(
    frames: Frames,
    size: tuple[int, int],
    another: Callable[[], Frames],
    random: np.random.Generator,
) -> list[Any]:
    """A patch in the first frame of a clip, and what became of it in the last, a frame each.

    Args:
        frames: of the clip, twice as large as the patch.
        size: of the patch.
        another: gives another clip, where nothing (or everything) moves in this one.
        random: draws the patch of a video in which there is no moving one; it stays in its place.
    """
    for _ in range(_TRACKS):
        if (boxes := track_patch(frames, size)) is not None:
            break
        frames = another()
    else:
        top, left = (int(random.integers(side + 1)) for side in size)
        boxes = (np.array([top, left, top + size[0], left + size[1]]),) * 2
    return [
        frame[top:bottom, left:right][None]
        for frame, (top, left, bottom, right) in zip(frames[[0, -1]], boxes, strict=True)
    ]


__all__ = ["another_clip", "tracked"]
