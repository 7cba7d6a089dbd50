"""Spread: a query should find its positive, and no other query's key should find the query."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unlabel.objectives.blocks import in_blocks
from unlabel.objectives.logsumexp import Exclude
from unlabel.objectives.pairing import check_options, check_vectors, ids, places
from unlabel.objectives.unit import opaque, row_dot, unit, wide


@opaque
def spread(
    query: Float[Tensor, "queries width"],
    keys: Float[Tensor, "keys width"],
    positive: Int[Tensor, "queries"],
    *,
    temperature: float = 0.1,
    query_id: Int[Tensor, "queries"] | None = None,
    key_id: Int[Tensor, "keys"] | None = None,
    itself: Int[Tensor, "queries"] | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Float[Tensor, "..."]:
    """`-ln P_i(positive) - sum_j ln(1 - P_i(j))` over the negatives j of i, mean over queries.

    `P_i` is the softmax over the positive and the negatives of i of `cos(query_i, key_j) / T`.
    All equal gives `ln M - (M - 1) ln(1 - 1/M)` with M candidates. Blocks of the logits are
    computed, and again for the gradient; the whole matrix never exists.

    Args:
        query: embeddings.
        keys: embeddings to find the positive among.
        positive: each query's positive, as its place among the keys.
        temperature: T.
        query_id: see `contrast`, as are the rest.
        key_id: see `contrast`.
        itself: see `contrast`.
        reduction: `"mean"`, or `"none"` for one loss a query.

    Raises:
        ValueError: shapes, places or options do not fit together.

    Reference: Ye et al. 2019, arXiv 1904.03436, equations 3 to 5; the authors' code takes no
    gradient with respect to the keys, this does.
    """
    check_options(temperature, 0.0, 0.0, True, False, reduction)
    check_vectors(query, keys, None)
    own, columns = places(query, keys, positive, itself, False)
    query_id, key_id = ids(query, keys, query_id, key_id)
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(query.dtype, torch.float32)
        rows, cols = unit(query, 1 / temperature, dtype), unit(keys, 1.0, dtype)

        def block(x: Tensor, pos: Tensor, at: Tensor) -> tuple[Tensor]:
            mine = tuple(c[at] for c in columns)
            exclude = Exclude(mine, None if query_id is None else query_id[at], key_id)
            out = x.new_zeros(len(x), len(cols))
            exclude.fill(out, slice(None), slice(0, len(cols)))
            logits = (x @ cols.T + out).to(wide(x))
            every = torch.cat([logits, pos[:, None]], 1)
            whole = every.logsumexp(1)
            # Only the likeliest may have nearly all: 1 - P of it is what is left, summed itself.
            likeliest = logits.argmax(1, keepdim=True)
            left = every.scatter(1, likeliest, -torch.inf).logsumexp(1) - whole
            logs = (logits - whole[:, None]).scatter(1, likeliest, -torch.inf)
            others = left + (-logs.expm1()).log().sum(1)
            return (whole - pos - others,)

        pos = row_dot(rows, cols, own)
        here = torch.arange(len(rows), device=rows.device)
        (each,) = in_blocks(block, rows, pos, here, each=len(cols))
        return (each.mean() if reduction == "mean" else each).to(dtype)


__all__ = ["spread"]
