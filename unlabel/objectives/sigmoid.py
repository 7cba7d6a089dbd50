"""Sigmoid contrast: every pair of query and key is a yes or a no of its own.

Equations. With logits `s_ij = t cos(query_i, key_j) + b`, the positive of row i at p(i) and its
negatives N_i, `loss_i = softplus(-s_ip(i)) + sum_{j in N_i} softplus(s_ij)`. The gradient of the
sum has one weight a logit, `W_ij = sigmoid(s_ij) g_i`: `d rows = W cols`, `d cols = W^T rows`,
`d b = sum W`; that of t comes from the rows, which it scales. Blocks of logits are computed again
for it and never held.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unlabel.objectives.logsumexp import Exclude, tile_for
from unlabel.objectives.pairing import check_vectors, ids, places
from unlabel.objectives.unit import number, opaque, row_dot, unit, wide

# Above it softplus(s) is s: exp(-40) is nothing beside 40, in float64 too.
LINEAR = 40.0


@opaque  # products of matrices and checks of data: torch.compile has nothing to gain here
def sigmoid_contrast(
    query: Float[Tensor, "queries width"],
    keys: Float[Tensor, "keys width"],
    positive: Int[Tensor, "queries"] | None = None,
    *,
    scale: float | Float[Tensor, ""],
    bias: float | Float[Tensor, ""],
    query_id: Int[Tensor, "queries"] | None = None,
    key_id: Int[Tensor, "keys"] | None = None,
    reduction: Literal["mean", "none"] = "mean",
    tile: tuple[int, int] | None = None,
) -> Float[Tensor, "..."]:
    """`-sum_j ln sigmoid(z_ij (t cos(query_i, key_j) + b))`, mean over queries i.

    z is +1 for the positive and -1 for the negatives j. Exact loss and gradient, of t and b too, in
    float32 whatever autocast says (float64 for float64), and in memory linear in queries + keys:
    the matrix of logits never exists. With b = 0 and all vectors orthogonal, N keys give N ln 2;
    all vectors equal give `softplus(-t - b) + (N - 1) softplus(t + b)`.

    Args:
        query: embeddings, any float type, gradients wanted or not.
        keys: embeddings to find the positive among.
        positive: each query's positive, as its place among the keys; None is `arange`.
        scale: t, a number above 0 or a learned tensor.
        bias: b, likewise of either sign.
        query_id: with `key_id`, a key of the query's id that is not its positive is no negative.
        key_id: see `query_id`.
        reduction: `"mean"`, or `"none"` for one loss a query.
        tile: rows and columns of a block of logits.

    Raises:
        ValueError: shapes, places or options do not fit together.

    Reference: Zhai et al. 2023 (SigLIP), arXiv 2303.15343, algorithm 1.

    Example:
        >>> x = torch.eye(4)
        >>> sigmoid_contrast(x[:2], x[2:], scale=1.0, bias=0.0)  # 2 ln 2
        tensor(1.3863)
    """
    check_vectors(query, keys, None)
    _check(scale, bias, reduction)
    own, _ = places(query, keys, positive, None, False)
    exclude = Exclude((own,), *ids(query, keys, query_id, key_id))
    double = torch.float64 in (query.dtype, keys.dtype)
    dtype = torch.float64 if double else torch.float32
    with torch.autocast(query.device.type, enabled=False):
        rows, cols = unit(query, scale, dtype), unit(keys, 1.0, dtype)
        offset = number(bias, rows)
        negatives = _Softplus.apply(rows, cols, offset, exclude, tile or tile_for(rows))
        each = negatives - F.logsigmoid(row_dot(rows, cols, own) + offset)
        return (each.mean() if reduction == "mean" else each).to(dtype)


def _check(scale: float | Tensor, bias: float | Tensor, reduction: str) -> None:
    for name, x in (("scale", scale), ("bias", bias)):
        if isinstance(x, Tensor) and x.numel() != 1:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}: give a number or a tensor of one."
            )
    value = float(scale.detach() if isinstance(scale, Tensor) else scale)
    if not 0 < value < math.inf:
        raise ValueError(f"scale is {value}: give a positive number, or learn its logarithm.")
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}: give 'mean' or 'none'.")


def _blocks(
    rows: Tensor, cols: Tensor, bias: Tensor, exclude: Exclude, tile: tuple[int, int]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and logits of each block, -inf where excluded; to be used up at once."""
    room = rows.new_empty(math.prod(tile))
    for top in range(0, len(rows), tile[0]):
        r = slice(top, min(top + tile[0], len(rows)))
        for left in range(0, len(cols), tile[1]):
            c = slice(left, min(left + tile[1], len(cols)))
            size = r.stop - r.start, c.stop - c.start
            block = room[: math.prod(size)].view(size)
            torch.mm(rows[r], cols[c].T, out=block)
            exclude.fill(block.add_(bias), r, c)
            yield r, c, block


class _Softplus(Function):
    """Sums over each row's negatives of `softplus(rows . cols + bias)`."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        cols: Tensor,
        bias: Tensor,
        exclude: Exclude,
        tile: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(rows, cols, bias)
        ctx.blocks = exclude, tile
        out = torch.zeros(len(rows), dtype=wide(rows), device=rows.device)
        for r, _, s in _blocks(rows, cols, bias, exclude, tile):
            out[r] += F.softplus(s, 1.0, LINEAR).sum(1)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, cols, bias = ctx.saved_tensors
        d_rows, d_cols, by_row = torch.zeros_like(rows), torch.zeros_like(cols), torch.zeros_like(g)
        # g scales whole rows of W: scale the vectors, not the blocks.
        by = g.to(rows.dtype)[:, None]
        left = rows * by
        for r, c, s in _blocks(rows, cols, bias, *ctx.blocks):
            weight = s.sigmoid_()
            by_row[r] += weight.sum(1)
            d_rows[r].addmm_(weight, cols[c])
            d_cols[c].addmm_(weight.T, left[r])
        return d_rows.mul_(by), d_cols, (by_row * g).sum(), None, None


__all__ = ["sigmoid_contrast"]
