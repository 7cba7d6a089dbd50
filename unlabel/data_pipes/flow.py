"""Optical flow between the frames of a clip, by OpenCV."""

import itertools

import numpy as np
from jaxtyping import Float16, Float32, UInt8

from unlabel.data_pipes.faults import library
from unlabel.data_pipes.video_readers import resized


def optical_flow(
    frames: UInt8[np.ndarray, "times rows columns 3"],
    size: int | tuple[int, int] | None = None,
    *,
    method: str = "dis",
) -> Float16[np.ndarray, "steps out_rows out_columns 2"]:
    """How far each pixel moves from one frame to the next, in pixels of the frames as they came.

    Args:
        frames: RGB of one clip.
        size: rows and columns at which flow is found, or one number for the shorter side; None
            for the frames' own.
        method: `"dis"` (dense inverse search, fast) or `"farneback"`.

    Returns:
        Motion to the right and downward, one field fewer than frames.

    Raises:
        ValueError: fewer than two frames, or an unknown method.

    Reference:
        Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search"; Farneback 2003.
    """
    if len(frames) < 2:
        raise ValueError(f"Flow lies between frames; 2 or more are wanted, but {len(frames)} came.")
    if method not in ("dis", "farneback"):
        raise ValueError(f"method is 'dis' or 'farneback', but {method!r} came.")
    cv2 = library("cv2", "video")
    small = resized(frames, size)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small]
    if method == "dis":
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        fields = [dis.calc(a, b, None) for a, b in itertools.pairwise(gray)]
    else:
        # OpenCV's own example values: pyramid of 3 levels, window of 15, polynomials over 5.
        last = (0.5, 3, 15, 3, 5, 1.2, 0)
        fields = [
            cv2.calcOpticalFlowFarneback(a, b, None, *last) for a, b in itertools.pairwise(gray)
        ]
    scale = np.array(frames.shape[2:0:-1]) / np.array(small.shape[2:0:-1])
    return (np.stack(fields) * scale).astype(np.float16)


def flow_magnitude(
    frames: UInt8[np.ndarray, "times rows columns 3"], size: int = 32
) -> Float32[np.ndarray, "times"]:
    """How far the pixels of each frame move to the next one, on average; the last frame has 0.

    Args:
        frames: RGB of a video.
        size: shorter side at which flow is found.
    """
    amount = np.zeros(len(frames), np.float32)
    if len(frames) > 1:
        flow = optical_flow(frames, size).astype(np.float32)
        amount[:-1] = np.hypot(flow[..., 0], flow[..., 1]).mean((1, 2))
    return amount


__all__ = ["flow_magnitude", "optical_flow"]
