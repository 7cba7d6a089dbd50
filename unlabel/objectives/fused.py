"""The sums of `logsumexp.py` on a GPU: products of matrices with exp in their epilogue, in Triton.

A block of logits is never written. Forward, one kernel multiplies, leaves out what is no negative,
takes exp and adds up by row and by column. Backward, one kernel does the same and writes the block
of weights `W_ij = exp(s_ij - c) (g_i + h_j)`, which the library multiplies with the vectors, twice.

The kernels multiply float16 numbers and add them up in float32; logits, exp and sums are float32,
and sums of blocks float64. The vectors are first divided by the largest norm among them, and W by
the largest value that it can take, so that neither can overflow. Of bfloat16 input nothing is lost
that way: float16 has three bits more, for as many products a second. It has the eleven bits of
tensor float 32, too, so float32 vectors come here where `torch.backends` allows that, and stay with
the library's products where it does not.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from triton.tools.tensor_descriptor import TensorDescriptor

from unlabel.objectives.unit import add_slopes_of_dots, dots, number, wide

# Rows and columns of a block of weights: 1 GB. As square as may be: the wider it is, the seldomer a
# gradient is read and written.
TILE = 16384, 32768
LOG2_E = math.log2(math.e)
TOP = 2.0**14  # the largest weight, a quarter of float16's largest number


class Shape(NamedTuple):
    """What one program of a kernel computes: rows, columns, and width at a time."""

    high: int
    wide: int
    deep: int
    warps: int
    stages: int

    def shared(self) -> int:
        """Bytes of shared memory that the vectors of all stages take, and a little beside them."""
        return 2 * (self.high + self.wide) * self.deep * self.stages + 1024


# The first that fits into a multiprocessor's shared memory is taken. No tuning at run time: sums
# in another order would not be the same bits, and a run could not be resumed exactly.
SHAPES = [Shape(128, 256, 64, warps=8, stages=4), Shape(128, 128, 64, warps=8, stages=3)]


def shape_for(like: Tensor) -> Shape:
    """The largest shape that this device has shared memory for."""
    room = torch.cuda.get_device_properties(like.device).shared_memory_per_block_optin
    return next((s for s in SHAPES if s.shared() <= room), SHAPES[-1])


@triton.jit
def _place(n_rows, n_cols, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """Which block this program computes: eight high, then on to the right, for the cache's sake."""
    high, wide = tl.cdiv(n_rows, HIGH), tl.cdiv(n_cols, WIDE)
    at = tl.program_id(0)
    first = at // (8 * wide) * 8
    size = min(high - first, 8)
    within = at % (8 * wide)
    return first + within % size, within // size


@triton.jit
def _logits(
    rows, cols, factor, n_rows, n_cols, width, m, n, first, second, row_id, col_id,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
    COLUMNS: tl.constexpr, IDS: tl.constexpr,
):  # fmt: skip
    """Rows, columns and logits over ln 2 of a block, -inf where there is no negative."""
    dot = tl.zeros((HIGH, WIDE), tl.float32)
    for k in range(0, width, DEEP):
        dot = tl.dot(rows.load([m * HIGH, k]), cols.load([n * WIDE, k]).T, dot)
    i, j = m * HIGH + tl.arange(0, HIGH), n * WIDE + tl.arange(0, WIDE)
    in_i, in_j = i < n_rows, j < n_cols
    kept = in_i[:, None] & in_j[None, :]
    if COLUMNS > 0:
        kept = kept & (tl.load(first + i, mask=in_i, other=-1)[:, None] != j[None, :])
    if COLUMNS > 1:
        kept = kept & (tl.load(second + i, mask=in_i, other=-1)[:, None] != j[None, :])
    if IDS:
        of_row = tl.load(row_id + i, mask=in_i, other=0)
        of_col = tl.load(col_id + j, mask=in_j, other=0)
        kept = kept & (of_row[:, None] != of_col[None, :])
    return i, j, tl.where(kept, dot * factor, -float("inf"))


@triton.jit
def _sums(
    by_row, by_col, rows, cols, shift, factor, n_rows, n_cols, width, first, second, row_id, col_id,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
    COLUMNS: tl.constexpr, IDS: tl.constexpr, BOTH: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """A block's sums of exp by row and, with BOTH, by column; with MOST its rows' largest logit."""
    m, n = _place(n_rows, n_cols, HIGH, WIDE)  # type: ignore[misc]
    i, j, s = _logits(  # type: ignore[misc]
        rows, cols, factor, n_rows, n_cols, width, m, n, first, second, row_id, col_id,
        HIGH, WIDE, DEEP, COLUMNS, IDS,
    )  # fmt: skip
    here = by_row + n * n_rows + i
    if MOST:
        tl.store(here, tl.max(s, 1), mask=i < n_rows)
    else:
        c = tl.load(shift + i, mask=i < n_rows, other=0.0)
        e = tl.exp2(s - c[:, None])
        tl.store(here, tl.sum(e, 1), mask=i < n_rows)
        if BOTH:
            tl.store(by_col + m * n_cols + j, tl.sum(e, 0), mask=j < n_cols)


@triton.jit
def _weights(
    out, g, h, rows, cols, shift, factor, n_rows, n_cols, width, first, second, row_id, col_id,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
    COLUMNS: tl.constexpr, IDS: tl.constexpr, BOTH: tl.constexpr,
):  # fmt: skip
    """A block of `exp(s_ij - c_i) (g_i + h_j)`, without BOTH `exp(s_ij - c_i) g_i`."""
    m, n = _place(n_rows, n_cols, HIGH, WIDE)  # type: ignore[misc]
    i, j, s = _logits(  # type: ignore[misc]
        rows, cols, factor, n_rows, n_cols, width, m, n, first, second, row_id, col_id,
        HIGH, WIDE, DEEP, COLUMNS, IDS,
    )  # fmt: skip
    c = tl.load(shift + i, mask=i < n_rows, other=0.0)
    by = tl.load(g + i, mask=i < n_rows, other=0.0)[:, None]
    if BOTH:
        by = by + tl.load(h + j, mask=j < n_cols, other=0.0)[None, :]
    out.store([m * HIGH, n * WIDE], (tl.exp2(s - c[:, None]) * by).to(tl.float16))


def _eights(n: int) -> int:
    return -(-n // 8) * 8  # addresses of rows are multiples of 16 bytes


def _half(x: Tensor, norm: float) -> Tensor:
    """`x / norm` in float16, with zeros up to a width that the kernels can read."""
    found = x.new_zeros(len(x), _eights(x.shape[1]), dtype=torch.float16)
    torch.mul(x, 1 / norm if norm else 0.0, out=found[:, : x.shape[1]])
    return found


class _Blocks:
    """Launches the kernels over blocks of logits of one pair of sets of vectors."""

    def __init__(self, rows: Tensor, cols: Tensor, plan: Any):
        self.rows, self.cols, self.exclude = rows, cols, plan.exclude
        self.factor = math.prod(plan.norms) * LOG2_E
        shift = number(plan.shift, rows) * LOG2_E
        self.shift = shift.float().expand(len(rows)).contiguous()
        self.shape = shape_for(rows)

    def _launch(self, kernel: Any, out: tuple[Any, ...], r: slice, c: slice, **flags: bool) -> None:
        shape, exclude = self.shape, self.exclude
        rows, cols = self.rows[r], self.cols[c]
        columns = [(x[r] - c.start).to(torch.int32) for x in exclude.columns]
        none = self.shift  # stands for what the kernel will not read
        ids = none, none
        if exclude.row_id is not None and exclude.col_id is not None:
            # The kernels read one id after the other, whatever table they are a column of.
            ids = exclude.row_id[r].contiguous(), exclude.col_id[c].contiguous()
        blocks = -(-len(rows) // shape.high) * -(-len(cols) // shape.wide)
        with torch.cuda.device_of(rows):
            kernel[(blocks,)](
                *out,
                TensorDescriptor.from_tensor(rows, [shape.high, shape.deep]),
                TensorDescriptor.from_tensor(cols, [shape.wide, shape.deep]),
                self.shift[r], self.factor, len(rows), len(cols), rows.shape[1],
                *[*columns, none, none][:2],
                *ids,
                HIGH=shape.high, WIDE=shape.wide, DEEP=shape.deep, COLUMNS=len(columns),
                IDS=ids[0] is not none, num_warps=shape.warps, num_stages=shape.stages, **flags,
            )  # fmt: skip

    def sums(self, r: slice, c: slice, both: bool) -> tuple[Tensor, Tensor]:
        """By row and, when `both`, by column."""
        high, across = r.stop - r.start, c.stop - c.start
        by_row = self.shift.new_empty(-(-across // self.shape.wide), high)
        by_col = self.shift.new_empty(-(-high // self.shape.high), across if both else 0)
        self._launch(_sums, (by_row, by_col), r, c, BOTH=both, MOST=False)
        exact = wide(by_row)
        return by_row.sum(0, dtype=exact), by_col.sum(0, dtype=exact)

    def most(self, r: slice, c: slice) -> Tensor:
        """The largest logit of each row, -inf where there is none."""
        by_row = self.shift.new_empty(-(-(c.stop - c.start) // self.shape.wide), r.stop - r.start)
        self._launch(_sums, (by_row, by_row), r, c, BOTH=False, MOST=True)
        return by_row.amax(0) / LOG2_E

    def weights(self, r: slice, c: slice, g: Tensor, h: Tensor | None, room: Tensor) -> Tensor:
        """W, written into the room; `g` and `h` are of these rows and columns."""
        high, across = r.stop - r.start, c.stop - c.start
        out = room[: high * _eights(across)].view(high, -1)[:, :across]
        out_blocks = TensorDescriptor.from_tensor(out, [self.shape.high, self.shape.wide])
        both = h is not None
        self._launch(_weights, (out_blocks, g, h if both else g), r, c, BOTH=both)
        return out


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.is_cuda:
        with torch.autocast("cuda", enabled=False):  # which may be on where backward is called
            total += torch.mm(a, b, out_dtype=total.dtype)
    else:  # only a GPU multiplies float16 into float32
        total.addmm_(a.to(total.dtype), b.to(total.dtype))


class ExpSums(Function):
    """`logsumexp._ExpSums` with these kernels."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, cols: Tensor, plan: Any, both: bool, positive: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """By row, by column when `both`, and the positives' logits."""
        by_row = torch.zeros(len(rows), dtype=wide(rows), device=rows.device)
        by_col = torch.zeros(len(cols) if both else 0, dtype=wide(rows), device=rows.device)
        u = _half(rows, plan.norms[0])
        v = u if plan.triangle else _half(cols, plan.norms[1])
        blocks = _Blocks(u, v, plan)
        for r, c, mirrored in plan.tiles(len(rows), len(cols)):
            across, down = blocks.sums(r, c, both or mirrored)
            by_row[r] += across
            if both or mirrored:
                (by_row if mirrored else by_col)[c] += down
        # Half as large as the vectors, which are free from here on.
        ctx.save_for_backward(u, v, positive, by_row, by_col)
        ctx.plan, ctx.both, ctx.width = plan, both, rows.shape[1]
        return by_row, by_col, None if positive is None else dots(rows, cols, positive)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g: Tensor, h: Tensor, of_positive: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None, None]:
        """Of the rows and of the columns."""
        u, v, positive, by_row, by_col = ctx.saved_tensors
        plan, both = ctx.plan, ctx.both
        # exp(s - c) g is at most the sum's slope times the sum.
        most = sum(((a * b).abs().max() for a, b in ((g, by_row), (h, by_col)) if len(a)))
        scale = TOP / torch.as_tensor(2 * most).clamp(min=1e-300)
        g, h = (g * scale).float(), (h * scale).float()
        du = torch.zeros_like(u, dtype=torch.float32)
        dv = du if plan.triangle else torch.zeros_like(v, dtype=torch.float32)
        high, across = (min(a, b) for a, b in zip(plan.tile, (len(u), len(v)), strict=True))
        room, blocks = u.new_empty(high * _eights(across)), _Blocks(u, v, plan)
        for r, c, mirrored in plan.tiles(len(u), len(v)):
            of_col = g[c] if mirrored else h[c] if both else None
            w = blocks.weights(r, c, g[r], of_col, room)
            _add_product(du[r], w, v[c])
            _add_product(dv[c], w.T, u[r])
        for x in (du,) if plan.triangle else (du, dv):
            x.div_(scale)
        if positive is not None and of_positive is not None:
            add_slopes_of_dots(du, dv, of_positive.float(), u, v, positive)
        du.mul_(plan.norms[1])
        if not plan.triangle:
            dv.mul_(plan.norms[0])
        return du[:, : ctx.width], None if plan.triangle else dv[:, : ctx.width], None, None, None


@torch.no_grad()
def row_max(rows: Tensor, cols: Tensor, plan: Any) -> Tensor:
    """`logsumexp._row_max` with these kernels."""
    blocks = _Blocks(_half(rows, plan.norms[0]), _half(cols, plan.norms[1]), plan)
    most = rows.new_full((len(rows),), -math.inf)
    for r, c, _ in plan.tiles(len(rows), len(cols)):
        most[r] = torch.maximum(most[r], blocks.most(r, c))
    return most
