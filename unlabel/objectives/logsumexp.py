"""Log-sum-exp of the negatives of every query, in blocks: the logits are never held whole.

Equations. With logits `s_ij = rows_i . cols_j` and N_i the negatives of row i,
`out_i = ln sum_{j in N_i} exp(s_ij)`. The gradient of the sums needs one weight a logit,
`W_ij = exp(s_ij - c_i) g_i`: `d rows = W cols`, `d cols = W^T rows`. All but a first few blocks
are computed again for it. Where columns want a log-sum-exp too (CLIP), or rows and columns are one
set (NT-Xent), the same block serves both directions with `W_ij = exp(s_ij - c) (g_i + h_j)`; of the
symmetric matrix only the upper triangle is visited.

The blocks here are the library's products of matrices, on any device, in float32 or float64: the
reference. `fused.py` does the same on a GPU with kernels that never write a block of logits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unlabel.objectives.unit import add_slopes_of_dots, dots, opaque, row_dot, wide

# exp(LARGEST) times any number of columns stays far inside float32, and so does the gradient:
# the loss's slope with respect to a row's sum is never below exp(-LARGEST) / rows.
LARGEST = 40.0
# A row whose sum is at least this lost nothing that float32 could show: what underflowed is below
# exp(-87) a column, 1e-7 of it even with a million columns.
SMALLEST = 1e-25
# The first blocks are kept for the backward pass and not computed twice: up to so many logits (64
# MB in float32), or 4 times the numbers in the vectors where that is a good part of all logits.
KEPT = 2**24
# Logits above LARGEST are off by 4e-6 to 2e-5 in float32, and where a few of them make the loss
# that is its relative error. With at most this many multiplications a product, they are float64:
# 3 milliseconds more on a CPU.
FEW = 2**25


@dataclass(frozen=True)
class Exclude:
    """Which logits are no negatives.

    Attributes:
        columns: for each tensor, one column a row to leave out, each `(rows,)`.
        row_id: with `col_id`, logits of equal ids are left out, `(rows,)`.
        col_id: `(cols,)`.
    """

    columns: tuple[Int[Tensor, "rows"], ...] = ()
    row_id: Int[Tensor, "rows"] | None = None
    col_id: Int[Tensor, "cols"] | None = None

    def fill(self, block: Float[Tensor, "r c"], rows: slice, cols: slice) -> None:
        """Write -inf over the excluded logits of a block, in place."""
        for index in self.columns:
            local = index[rows] - cols.start
            # Rows without a hit write back what is there: no shape depends on the data, so the
            # device is never waited for.
            at = local.clamp(0, block.shape[1] - 1)[:, None]
            hit = (local >= 0) & (local < block.shape[1])
            kept = block.gather(1, at)
            block.scatter_(1, at, kept.masked_fill_(hit[:, None], -math.inf))
        if self.row_id is not None and self.col_id is not None:
            block.masked_fill_(self.row_id[rows, None] == self.col_id[cols], -math.inf)

    def transposed(self, n_cols: int) -> "Exclude":
        """The same exclusions seen from the columns; needs one-to-one `columns`."""
        flipped = tuple(
            torch.empty_like(i).scatter_(0, i, torch.arange(n_cols, device=i.device).to(i))
            for i in self.columns
        )
        return replace(self, columns=flipped, row_id=self.col_id, col_id=self.row_id)

    def count(self, n_rows: int, n_cols: int, device: torch.device) -> Int[Tensor, "rows"]:
        """Negatives that each row has left."""
        left = torch.full((n_rows,), n_cols, device=device)
        same = torch.zeros(n_rows, dtype=torch.int64, device=device)
        if self.row_id is not None and self.col_id is not None:
            ordered = self.col_id.sort().values
            upto = torch.searchsorted(ordered, self.row_id, right=True)
            same = upto - torch.searchsorted(ordered, self.row_id)
        for place, index in enumerate(self.columns):
            fresh = torch.ones_like(index, dtype=torch.bool)
            for earlier in self.columns[:place]:
                fresh &= index != earlier
            if self.row_id is not None and self.col_id is not None:
                fresh &= self.col_id[index] != self.row_id
            left -= fresh.to(left)
        return left - same


def tile_for(like: Tensor) -> tuple[int, int]:
    """Rows and columns of a block of logits, by where they are computed."""
    # On a CPU the blocks at which the three products are fastest, 3 MB, well inside the last cache;
    # on a GPU they must be large enough to fill the chip.
    return (1024, 768) if like.device.type == "cpu" else (4096, 8192)


def _kept(rows: Tensor, cols: Tensor, triangle: bool) -> int:
    several = 4 * (rows.numel() + (0 if triangle else cols.numel()))
    return max(KEPT, several if 8 * several >= len(rows) * len(cols) else 0)


@dataclass(frozen=True)
class _Plan:
    """What a pass over the logits needs besides the vectors."""

    exclude: Exclude
    shift: float | Tensor  # c: one number, or one a row
    triangle: bool  # rows and columns are one tensor: visit each pair once
    tile: tuple[int, int]
    norms: tuple[float, float]  # the largest of the rows and of the columns

    def tiles(self, n_rows: int, n_cols: int) -> Iterator[tuple[slice, slice, bool]]:
        """Blocks' rows and columns, and whether a block stands for its mirror image too."""
        high, wide = self.tile
        # Low blocks: of those on the diagonal half is computed for nothing.
        high = max(1, high // 4) if self.triangle else high
        for top in range(0, n_rows, high):
            bottom = min(top + high, n_rows)
            # A triangle's diagonal block is square and is its own mirror image.
            edges = [top, bottom] if self.triangle else [0]
            edges += [*range(edges[-1] + wide, n_cols, wide), n_cols]
            for left, right in pairwise(edges):
                if left < right:
                    yield slice(top, bottom), slice(left, right), self.triangle and left != top

    def exp(self, rows: Tensor, cols: Tensor, r: slice, c: slice, room: Tensor) -> Tensor:
        """`exp(s - c)` of a block, 0 where excluded, written into the room."""
        size = r.stop - r.start, c.stop - c.start
        block = room[: math.prod(size)].view(size)
        torch.mm(rows[r], cols[c].T, out=block)
        self.exclude.fill(block, r, c)
        if isinstance(self.shift, Tensor):
            block.sub_(self.shift[r, None])
        elif self.shift:
            block.sub_(self.shift)
        return block.exp_()


class _ExpSums(Function):
    """Sums over the negatives of `exp(s - c)`: by row, and by column when asked for.

    And the logit of each row's positive, whose gradient then needs no memory of its own.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, cols: Tensor, plan: _Plan, both: bool, positive: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        by_row = torch.zeros(len(rows), dtype=wide(rows), device=rows.device)
        by_col = torch.zeros(len(cols) if both else 0, dtype=wide(rows), device=rows.device)
        room, kept = rows.new_empty(math.prod(plan.tile)), []
        left = _kept(rows, cols, plan.triangle) if any(ctx.needs_input_grad) else 0
        for r, c, mirrored in plan.tiles(len(rows), len(cols)):
            size = (r.stop - r.start) * (c.stop - c.start)
            left -= size
            e = plan.exp(rows, cols, r, c, rows.new_empty(size) if left >= 0 else room)
            kept += [e] if left >= 0 else []
            by_row[r] += e.sum(1)
            if mirrored:
                by_row[c] += e.sum(0)
            if both:
                by_col[c] += e.sum(0)
        ctx.save_for_backward(rows, cols, positive, *kept)
        ctx.plan, ctx.both = plan, both
        return by_row, by_col, None if positive is None else dots(rows, cols, positive)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_row: Tensor, by_col: Tensor, of_positive: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None, None]:
        rows, cols, positive, *kept = ctx.saved_tensors
        plan, g, h = ctx.plan, by_row.to(rows.dtype), by_col.to(rows.dtype)
        d_rows = torch.zeros_like(rows)
        # A triangle has one gradient: both roles of a vector add into it.
        d_cols = d_rows if plan.triangle else torch.zeros_like(cols)
        # With rows' sums alone, g scales whole rows of W: scale the vectors, not the block.
        alone = not (plan.triangle or ctx.both)
        left = rows * g[:, None] if alone else rows
        room, other_room = (rows.new_empty(math.prod(plan.tile)) for _ in range(2))
        for place, (r, c, mirrored) in enumerate(plan.tiles(len(rows), len(cols))):
            e = kept[place] if place < len(kept) else plan.exp(rows, cols, r, c, room)
            weight = e if alone else other_room[: e.numel()].view_as(e)
            if mirrored or ctx.both:
                torch.add(g[r, None], (g if mirrored else h)[None, c], out=weight).mul_(e)
            elif not alone:
                torch.mul(e, g[r, None], out=weight)
            d_rows[r].addmm_(weight, cols[c])
            d_cols[c].addmm_(weight.T, left[r])
        if alone:
            d_rows.mul_(g[:, None])
        if positive is not None and of_positive is not None:
            add_slopes_of_dots(d_rows, d_cols, of_positive.to(rows.dtype), rows, cols, positive)
        return d_rows, None if plan.triangle else d_cols, None, None, None


@torch.no_grad()
def _row_max(rows: Tensor, cols: Tensor, plan: _Plan) -> Tensor:
    most = rows.new_full((len(rows),), -math.inf)
    for r, c, _ in plan.tiles(len(rows), len(cols)):
        block = rows[r] @ cols[c].T
        plan.exclude.fill(block, r, c)
        most[r] = torch.maximum(most[r], block.amax(1))
    return most


def _log(sums: Tensor, shift: float | Tensor) -> Tensor:
    none = sums == 0
    return (sums.masked_fill(none, 1.0).log() + shift).masked_fill(none, -math.inf)


def _largest_norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.detach(), dim=1).max())


def _kernels(like: Tensor) -> Any:
    """The module of a GPU's kernels, None where they have no use or no place."""
    if not like.is_cuda or like.dtype != torch.float32 or torch.version.hip:
        return None
    # Older ones cannot load a block of a matrix in one instruction, which the kernels live by.
    if torch.cuda.get_device_capability(like.device) < (9, 0) or not find_spec("triton"):
        return None
    from unlabel.objectives import fused
    from unlabel.objectives.tried import works

    return fused if works(fused.ExpSums, like.device) else None


@opaque
def log_sum_exp_of_negatives(
    rows: Float[Tensor, "rows width"],
    cols: Float[Tensor, "cols width"] | None,
    exclude: Exclude,
    *,
    both: bool = False,
    positive: Int[Tensor, "rows"] | None = None,
    tile: tuple[int, int] | None = None,
    rounded: bool = False,
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "cols"] | None, Float[Tensor, "rows"] | None]:
    """`ln sum_j exp(rows_i . cols_j)` over the negatives of each row, and of each column.

    Memory is linear in rows + cols. One number is subtracted from every logit when the vectors'
    norms or the sums themselves prove that nothing overflows or underflows; otherwise each row's
    own largest logit, at the price of a second pass. The result is float64 for float32 vectors.

    Args:
        rows: vectors whose inner products are the logits, float32 or float64.
        cols: the other vectors; None takes the rows against one another, in which case `exclude`
            must leave the same pairs out in both directions, each row with itself among them.
        exclude: logits that are no negatives; one-to-one when `both`.
        both: the sums over each column too, from the same pass.
        positive: a column for each row.
        tile: rows and columns of a block.
        rounded: eleven bits of each number are enough, as they are of bfloat16 input: on a GPU the
            kernels of `fused.py` then take float32 vectors.

    Returns:
        By row and, when `both`, by column, -inf where there is no negative; and, given
        `positive`, `rows_i . cols_positive(i)`.

    A vector with NaN or infinity makes every sum NaN, gradient included: never a finite number
    that hides it, and for the trainer to see and skip.
    """
    others = rows if cols is None else cols
    norms = _largest_norm(rows), _largest_norm(others)
    bound = 1.001 * math.prod(norms)  # Cauchy-Schwarz, with room for rounding
    if not math.isfinite(bound):
        poison = (rows.sum() + others.sum()).to(wide(rows)) * math.nan
        by_row, by_col = poison.expand(len(rows)), poison.expand(len(others))
        return by_row, by_col if both else None, None if positive is None else by_row
    kernels = _kernels(rows) if rounded else None
    if kernels is None and bound > LARGEST and len(rows) * others.numel() <= FEW:
        rows = rows.to(wide(rows))
        others = rows if cols is None else others.to(rows.dtype)
    shift = max(0.0, bound - LARGEST)
    blocks = tile or (kernels.TILE if kernels else tile_for(rows))
    plan = _Plan(exclude, shift, cols is None, blocks, norms)
    sums = kernels.ExpSums if kernels else _ExpSums
    by_row, by_col, pos = sums.apply(rows, others, plan, both, positive)
    certain = bound + shift <= -math.log(SMALLEST)
    flipped = exclude.transposed(len(others)) if both else exclude
    if not certain and not (
        _lossless(by_row, exclude, len(others))
        and (not both or _lossless(by_col, flipped, len(rows)))
    ):
        plan = replace(plan, triangle=False)
        back = replace(plan, exclude=flipped, norms=norms[::-1])
        return (
            _by_own_largest(rows, others, plan, kernels),
            _by_own_largest(others, rows, back, kernels) if both else None,
            None if positive is None else row_dot(rows, others, positive),
        )
    return _log(by_row, shift), _log(by_col, shift) if both else None, pos


def _lossless(sums: Tensor, exclude: Exclude, n_others: int) -> bool:
    none_left = exclude.count(len(sums), n_others, sums.device) == 0
    return bool(((sums.detach() >= SMALLEST) | none_left).all())


def _by_own_largest(rows: Tensor, cols: Tensor, plan: _Plan, kernels: Any) -> Tensor:
    most = (kernels.row_max if kernels else _row_max)(rows, cols, plan)
    shift = most.masked_fill_(most.isneginf(), 0.0)  # rows without a negative
    sums = kernels.ExpSums if kernels else _ExpSums
    return _log(sums.apply(rows, cols, replace(plan, shift=shift), False, None)[0], shift)
