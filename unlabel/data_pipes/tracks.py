"""A patch that moves, followed through a clip: the pairs of Wang and Gupta."""

import itertools

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from unlabel.data_pipes.faults import library

Box = Int64[np.ndarray, "4"]  # top, left, bottom, right

_MOVES = 0.5  # pixels a frame: less is the camera's noise
_POINTS = 200


def track_patch(
    frames: UInt8[np.ndarray, "times rows columns 3"],
    size: tuple[int, int],
    *,
    least: float = 0.25,
    most: float = 0.75,
) -> tuple[Box, Box] | None:
    """Where a moving patch lies in the first and in the last frame of a clip.

    Corners are followed from frame to frame by pyramidal Lucas-Kanade, and dropped where the way
    back does not lead to where they came from. The patch is the box that holds most of the moving
    corners; it is shifted by the median way of its corners.

    Args:
        frames: RGB, larger than the patch.
        size: rows and columns of the patch.
        least: share of corners that must move.
        most: share above which the camera moves.

    Returns:
        The two boxes, inside the frames; None where the share of moving corners is outside `least`
        to `most` (a still scene, or a camera that moves), or too few can be followed.

    Raises:
        ValueError: frames no larger than the patch.

    Reference:
        Wang & Gupta 2015, "Unsupervised Learning of Visual Representations using Videos",
        section 4 (patch mining; there, corners of SURF and a KCF tracker).
    """
    rows, columns = frames.shape[1] - size[0], frames.shape[2] - size[1]
    if rows < 0 or columns < 0:
        raise ValueError(f"A patch of {size} does not fit into frames of {frames.shape[1:3]}.")
    begin, end = follow(frames)
    moved = np.hypot(*(end - begin).T) > _MOVES * (len(frames) - 1)
    if len(begin) < 8 or not least <= moved.mean() <= most:
        return None
    begin, end = begin[moved], end[moved]
    corner = _densest(begin, size, (rows, columns))
    inside = ((begin >= corner) & (begin < corner + np.array(size))).all(1)
    way = np.median((end - begin)[inside], axis=0)
    last = np.clip(np.round(corner + way).astype(np.int64), 0, (rows, columns))
    return np.append(corner, corner + size), np.append(last, last + size)


def follow(
    frames: UInt8[np.ndarray, "times rows columns 3"],
) -> tuple[Float32[np.ndarray, "points 2"], Float32[np.ndarray, "points 2"]]:
    """Corners of the first frame, and where they are in the last; rows first.

    Args:
        frames: RGB of one clip.
    """
    cv2 = library("cv2", "video")
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    points = cv2.goodFeaturesToTrack(gray[0], _POINTS, 0.01, 5)
    if points is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    began = now = points
    for before, after in itertools.pairwise(gray):
        then, found, _ = cv2.calcOpticalFlowPyrLK(before, after, now, None)
        back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, then, None)
        near = np.abs(back - now).reshape(-1, 2).max(1) < 1
        kept = (found.ravel() == 1) & (returned.ravel() == 1) & near
        began, now = began[kept], then[kept]
        if not len(now):
            break
    return began.reshape(-1, 2)[:, ::-1], now.reshape(-1, 2)[:, ::-1]


def _densest(
    points: Float32[np.ndarray, "points 2"], size: tuple[int, int], room: tuple[int, int]
) -> Int64[np.ndarray, "2"]:
    """Top left corner of the box that holds most points; boxes are centred on the points."""
    centred = np.round(points - np.array(size) / 2).astype(np.int64)
    corners = np.clip(centred, 0, room)
    inside = (points >= corners[:, None]) & (points < corners[:, None] + np.array(size))
    return corners[inside.all(2).sum(1).argmax()]


__all__ = ["follow", "track_patch"]
