"""Functions of rows taken a block at a time, in the memory of one block, gradient included."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unlabel.objectives.unit import opaque

NUMBERS = 2**24  # that a block may need


@opaque
def in_blocks(function: Callable[..., Any], *rows: Tensor, each: int) -> tuple[Tensor, ...]:
    """What the function makes of all rows, from calls on blocks of them.

    Where there are several blocks, each is computed again for its gradient, so that only one
    block's inner numbers are held at any time.

    Args:
        function: takes a block of each of `rows`, and gives a tuple of tensors with one row a row.
            It may read other tensors, whose gradients add up, but draws nothing random.
        rows: tensors of as many rows.
        each: numbers that a row needs inside.
    """
    from torch.utils.checkpoint import checkpoint

    high = max(1, NUMBERS // max(each, 1))
    if len(rows[0]) <= high:
        return function(*rows)
    parts = [
        checkpoint(function, *block, use_reentrant=False, preserve_rng_state=False)
        for block in zip(*(x.split(high) for x in rows), strict=True)
    ]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


__all__ = ["in_blocks"]
