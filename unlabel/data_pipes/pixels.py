"""Frames in memory: their sizes, their order of dimensions, and where bytes of them come from."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from unlabel.data_pipes.faults import DecodeError, library

Frames = UInt8[np.ndarray, "times rows columns 3"]
_ORIENTATION = 0x0112  # of Exif

Size = int | tuple[int, int] | None


def fit(rows: int, columns: int, size: Size) -> tuple[int, int]:
    """Rows and columns at which frames are decoded.

    Args:
        rows: of the file.
        columns: of the file.
        size: of the shorter side, the other one keeping the aspect; `(rows, columns)` for exactly
            these; None leaves the file's own.
    """
    if size is None:
        return rows, columns
    if not isinstance(size, int):
        return int(size[0]), int(size[1])
    short = min(rows, columns)  # rounded down, as image processors do
    return rows * size // short, columns * size // short


def framed(
    shape: tuple[int, int], size: tuple[int, int], how: str
) -> tuple[tuple[int, int], tuple[slice, slice]]:
    """Size that frames are scaled to, and the rows and columns that are then cut out of them.

    Args:
        shape: rows and columns of the file.
        size: rows and columns that are wanted.
        how: `"cover"` keeps the aspect and cuts at the centre, `"stretch"` does not.
    """
    if how == "stretch":
        return size, (slice(None), slice(None))
    side = 0 if size[0] * shape[1] >= size[1] * shape[0] else 1  # the one that just covers
    wide = shape[0] * size[side] // shape[side], shape[1] * size[side] // shape[side]
    top, left = (wide[0] - size[0]) // 2, (wide[1] - size[1]) // 2
    return wide, (slice(top, top + size[0]), slice(left, left + size[1]))


def resized(frames: Frames, size: Size) -> Frames:
    """Frames in memory at another size, averaged over the pixels that one replaces."""
    rows, columns = fit(*frames.shape[1:3], size)
    if frames.shape[1:3] == (rows, columns):
        return frames
    image, bilinear = library("PIL.Image", "video"), 2
    scaled = [image.fromarray(f).resize((columns, rows), bilinear) for f in frames]
    return np.stack([np.asarray(s) for s in scaled])


def _upright(picture: Any) -> Any:
    """A picture of PIL, turned as its file asks for (as a phone's does)."""
    try:
        turn = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged notes about a picture that is whole
        return picture
    return picture if turn == 1 else library("PIL.ImageOps", "video").exif_transpose(picture)


def rgb(picture: Any) -> UInt8[np.ndarray, "rows columns 3"]:
    """The pixels of a picture of PIL, upright; those of 16 bits or shares of 1 brought to 8 bits.

    Raises:
        ValueError: grey values that are neither.
    """
    picture = _upright(picture)
    if picture.mode[0] not in "IF":
        return np.asarray(picture.convert("RGB"))
    values = np.asarray(picture).astype(np.float64)
    most = 1 if picture.mode == "F" else 65_535
    if not (values.min() >= 0 and values.max() <= most):
        raise ValueError(
            f"grey values from {values.min():g} to {values.max():g}; of this kind they are 0 to "
            f"{most:,}"
        )
    grey = np.rint(values * (255 / most)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def channels_last(array: Any, path: str) -> Frames:
    """Frames in memory, `(times, rows, columns, 3)` or `(times, 3, rows, columns)`.

    Raises:
        DecodeError: another shape or type.
    """
    frames = np.asarray(array)
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.dtype != np.uint8 or frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise DecodeError(
            path,
            f"frames in memory are uint8 (times, rows, columns, 3) or (times, 3, rows, columns), "
            f"but {frames.dtype} {frames.shape} came",
        )
    return frames if frames.shape[3] == 3 else rearrange(frames, "t c h w -> t h w c")


def stacked(frames: Sequence[UInt8[np.ndarray, "rows columns 3"]], name: str) -> Frames:
    """Frames of one size together.

    Raises:
        DecodeError: they are not of one.
    """
    if len(shapes := {frame.shape[:2] for frame in frames}) > 1:
        raise DecodeError(name, f"its frames have different sizes: {sorted(shapes)}")
    return np.stack(frames)


def rewound(source: Any) -> Any:
    """A path as text, anything else at its beginning."""
    if isinstance(source, Path):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if hasattr(source, "seek"):
        source.seek(0)
    return source


__all__ = [
    "Frames",
    "Size",
    "channels_last",
    "fit",
    "framed",
    "resized",
    "rewound",
    "rgb",
    "stacked",
]
