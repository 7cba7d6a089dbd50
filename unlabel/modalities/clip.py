"""The clip that view functions of frames and video pass along; a single frame is a clip of one."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class Cell(NamedTuple):
    """What one token stands for.

    Attributes:
        frames: of time.
        rows: pixels.
        columns: pixels.
    """

    frames: int
    rows: int
    columns: int


@dataclass
class Clip:
    """Frames of a batch on their way through a chain of views.

    Attributes:
        frames: RGB from 0 to 1, `(batch, times, channels, rows, columns)`; uint8 as stored until
            frames and size are settled.
        mask: True at frames that exist, `(batch, times)`; shorter samples are padded at the end.
        is_hidden: True at cells (what a token stands for) that the encoder is not shown,
            `(batch, times, rows, columns)` of the grid; None for none.
        is_asked: True at cells that are hidden and to be predicted, likewise.
        keeps: tokens that a view without hidden tokens has; None leaves them in.
        keep_positions: False at cells zeroed after the embedding, likewise.
        keep_features: False for embedding columns zeroed, `(batch, width)`.
        clean: frames that are asked for as they were, whatever later links showed of them, and
            their mask.
        target: one that is no pixel: a class, colours; `(batch, places, ...)`.
        is_target: True where that one counts; None for everywhere.
        picked: places of the sample's frames that a link picked, `(batch, picked)`.
        count: frames of the sample itself, `(batch, 1)`, once some were picked.
        corners: where the top left, top right and bottom left corner of the picture lie in the one
            as stored, rows and columns from 0 to 1, `(batch, 3, 2)`.
        is_sized: a link chose rows and columns; else they are still the data's own.
        ordinal: of the pieces that the rows are, which later links draw by; None for samples.
    """

    frames: Shaped[Tensor, "batch times channels rows columns"]
    mask: Bool[Tensor, "batch times"]
    is_hidden: Bool[Tensor, "batch cells_t cells_y cells_x"] | None = None
    is_asked: Bool[Tensor, "batch cells_t cells_y cells_x"] | None = None
    keeps: int | None = None
    keep_positions: Bool[Tensor, "batch cells_t cells_y cells_x"] | None = None
    keep_features: Bool[Tensor, "batch width"] | None = None
    clean: tuple[Tensor, Tensor] | None = None
    target: Tensor | None = None
    is_target: Tensor | None = None
    picked: Int[Tensor, "batch picked"] | None = None
    count: Int[Tensor, "batch 1"] | None = None
    corners: Float[Tensor, "batch 3 2"] | None = None
    is_sized: bool = False
    ordinal: Int[Tensor, "batch"] | None = None

    def moved(self, top: Any, bottom: Any, left: Any, right: Any) -> "Clip":
        """With the corners of a part of the picture, in shares of it, numbers or `(batch, 1)`."""
        if self.corners is None:
            return self
        origin, along, down = self.corners.unbind(1)
        at = lambda y, x: origin + x * (along - origin) + y * (down - origin)  # noqa: E731
        return replace(
            self, corners=torch.stack([at(top, left), at(top, right), at(bottom, left)], 1)
        )


__all__ = ["Cell", "Clip"]
