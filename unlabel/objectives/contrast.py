"""Contrast: a query should find its positive among many keys. One pure function, many losses."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unlabel.objectives.gather import world
from unlabel.objectives.logsumexp import Exclude, log_sum_exp_of_negatives
from unlabel.objectives.pairing import check_options, check_vectors, ids, is_swap, places
from unlabel.objectives.ring import everyone, log_sum_exp_across_ranks
from unlabel.objectives.unit import opaque, row_dot, unit, wide


@opaque  # products of matrices and checks of data: torch.compile has nothing to gain here
def contrast(
    query: Float[Tensor, "queries width"],
    keys: Float[Tensor, "keys width"] | None = None,
    positive: Int[Tensor, "queries"] | Float[Tensor, "queries width"] | None = None,
    *,
    temperature: float | Float[Tensor, ""] = 0.1,
    symmetric: bool = False,
    query_id: Int[Tensor, "queries"] | None = None,
    key_id: Int[Tensor, "keys"] | None = None,
    itself: Int[Tensor, "queries"] | None = None,
    normalize: bool = True,
    tau_plus: float = 0.0,
    beta: float = 0.0,
    flat: bool = False,
    decoupled: bool = False,
    across: bool = False,
    reduction: Literal["mean", "none"] = "mean",
) -> Float[Tensor, "..."]:
    """InfoNCE: `-ln exp(p_i) / (exp(p_i) + sum_j exp(s_ij))`, mean over queries i.

    `s_ij = cos(query_i, key_j) / temperature` over the negatives j of i, `p_i` the same for its
    positive. Computed as `softplus(logsumexp_j(s_ij) - p_i)`, which keeps its relative accuracy
    however small the loss. Exact loss and gradient, in float32 whatever autocast says (float64
    for float64), and in memory linear in queries + keys: the matrix of logits never exists. On a
    GPU, products of half-precision embeddings, and of float32 ones where `torch.backends` allows
    TF32, take eleven bits of each number (`fused.py`); sums, logits and positives stay float32.
    All keys equal gives `ln(1 + negatives)`. A query without negatives has loss 0. It has a first
    derivative, by `backward` or `torch.autograd.grad`; no second one, and none by `torch.func`.

    What the arguments make of it:

    - `contrast(q, k)`: in-batch negatives (SimCSE, CPC, CURL, PatchNCE); with `symmetric`, CLIP.
    - `nt_xent(z0, z1)`: SimCLR.
    - `contrast(q, queue, own_key)`: MoCo. `contrast(q, cat([k, hard]))`: hard negatives as keys.
    - one rank of many: any of these with `across`.

    Args:
        query: embeddings, any float type, gradients wanted or not.
        keys: embeddings to find the positive among; None makes the queries each other's keys, a
            query never its own (then `positive` is needed).
        positive: each query's positive, as its place among the keys, or as the vectors themselves
            when those are not among the keys; None is `arange`, the diagonal.
        temperature: T, a number or a learned tensor; with a learned logit scale s, `1 / s`.
        symmetric: the mean with the direction from keys to queries, from the same pass. Needs as
            many keys as queries, each the positive of one.
        query_id: with `key_id` (with `keys=None` alone), a key of the query's id that is not its
            positive is no negative: duplicates, or the same sample in a queue.
        key_id: see `query_id`.
        itself: each query's own place among the keys, never its negative.
        normalize: take cosines; otherwise inner products.
        tau_plus: share of false negatives to correct for; 0 is the plain loss.
        beta: weight of hard negatives, each weighted by `exp(beta s_ij)` over its mean.
        flat: FlatNCE, `exp(v - sg(v))` with `v = logsumexp_j(s_ij) - p_i`: the value is 1, the
            gradient InfoNCE's over `1 - p(positive)`.
        decoupled: leave the positive out of the denominator: `logsumexp_j(s_ij) - p_i`.
        across: the keys are this rank's, and those of all other ranks are negatives, too (with
            `symmetric`, all ranks' queries those of a key). Each rank brings equally many; places
            count among the keys given. Few are gathered; many go round a ring, and no rank ever
            holds them all (`ring.py`).
        reduction: `"mean"`, or `"none"` for one loss a query.

    Raises:
        ValueError: shapes, places or options do not fit together.

    Reference: van den Oord et al. 2018, arXiv 1807.03748, equation 4; CLIP: Radford et al. 2021,
    2103.00020, figure 3; Debiased: Chuang et al. 2020, 2007.00224, and its authors' code; hard
    negatives: Robinson et al. 2021, 2010.04592, and its authors' code; FlatNCE: Chen et al. 2021,
    2107.01152; decoupled: Yeh et al. 2022, 2110.06848.

    Example:
        >>> q = torch.ones(4, 8)
        >>> contrast(q, q)  # ln 4
        tensor(1.3863)
    """
    check_options(temperature, tau_plus, beta, normalize, flat and decoupled, reduction)
    check_vectors(query, keys, positive)
    match, columns = places(query, keys, positive, itself, symmetric)
    exclude = Exclude(columns, *ids(query, keys, query_id, key_id))
    apart = across and world()[1] > 1
    if keys is None and (apart or not (match.is_floating_point() or is_swap(match))):
        keys = query  # no triangle: i may be j's positive without j being i's
    with torch.autocast(query.device.type, enabled=False):
        scale = 1 / temperature
        rows, cols, own = _vectors(query, keys, match, scale, normalize)
        rounded = any(_may_round(x) for x in (query, keys) if x is not None)
        among = _Among(rows, cols, exclude, symmetric, rounded, apart)
        found, pos = _negatives(among, own, beta)
        losses = [
            _loss(log_neg, pos, log_n, tau_plus, scale, flat, decoupled) for log_neg, log_n in found
        ]
        each = torch.stack(losses).mean(0)
        return (each.mean() if reduction == "mean" else each).to(rows.dtype)


def nt_xent(
    z0: Float[Tensor, "pairs width"],
    z1: Float[Tensor, "pairs width"],
    *,
    temperature: float | Float[Tensor, ""] = 0.1,
    tau_plus: float = 0.0,
    beta: float = 0.0,
    flat: bool = False,
    decoupled: bool = False,
    reduction: Literal["mean", "none"] = "mean",
) -> Float[Tensor, "..."]:
    """NT-Xent: each of 2N views finds its partner among the 2N - 1 others; mean over the views.

    All embeddings equal gives `ln(2N - 1)`.

    Args:
        z0: first views.
        z1: second views of the same samples, in the same order.
        temperature: T.
        tau_plus: see `contrast`, as are the rest.
        beta: see `contrast`.
        flat: see `contrast`.
        decoupled: see `contrast`.
        reduction: `"mean"`, or `"none"` for one loss a view, those of `z0` first.

    Raises:
        ValueError: the two differ in shape, and whatever `contrast` refuses.

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, equation 1.
    """
    if z0.shape != z1.shape:
        raise ValueError(
            f"z0 {tuple(z0.shape)} and z1 {tuple(z1.shape)} differ in shape: give two views of "
            "the same samples."
        )
    with torch.autocast(z0.device.type, enabled=False):
        views = torch.cat([z0, z1])
    return contrast(
        views,
        positive=torch.arange(2 * len(z0), device=z0.device).roll(len(z0)),
        temperature=temperature,
        tau_plus=tau_plus,
        beta=beta,
        flat=flat,
        decoupled=decoupled,
        reduction=reduction,
    )


def _vectors(
    query: Tensor,
    keys: Tensor | None,
    positive: Tensor,
    scale: float | Tensor,
    normalize: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Vectors whose inner products are the logits (None: the rows again), positives likewise."""
    vectors = positive.is_floating_point()
    given = [query, *([keys] if keys is not None else []), *([positive] if vectors else [])]
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in given) else torch.float32
    # Rows that are their own columns share the scale between both.
    left, right = (scale, 1.0) if keys is not None else (scale**0.5, scale**0.5)
    take = unit if normalize else _times
    rows = take(query, left, dtype)
    cols = None if keys is None else take(keys, right, dtype)
    return rows, cols, take(positive, right, dtype) if vectors else positive


def _may_round(x: Tensor) -> bool:
    """Whether products of matrices may take eleven bits of these numbers, those of bfloat16 all."""
    products = torch.backends.cuda.matmul
    allowed = getattr(products, "fp32_precision", None)  # since torch 2.9
    tf32 = products.allow_tf32 if allowed is None else allowed == "tf32"
    return x.itemsize == 2 or (x.dtype == torch.float32 and bool(tf32))


def _times(x: Tensor, scale: float | Tensor, dtype: torch.dtype) -> Tensor:
    return (x.to(dtype) * scale).to(dtype)


@dataclass(frozen=True)
class _Among:
    """What the negatives are found among."""

    rows: Tensor
    cols: Tensor | None  # None: the rows again
    exclude: Exclude
    both: bool
    rounded: bool
    across: bool  # the columns of all ranks

    def log_sums(self, power: float, at: Tensor | None = None) -> tuple[list[Tensor], Any]:
        """Of the negatives' logits times the power, for each direction; and positives' at `at`."""
        share = power if self.cols is not None else power**0.5
        rows = self.rows if power == 1 else self.rows * share
        how: dict[str, Any] = {"both": self.both, "rounded": self.rounded}
        if self.across:
            assert self.cols is not None
            return log_sum_exp_across_ranks(rows, self.cols, self.exclude, **how), None
        *found, pos = log_sum_exp_of_negatives(rows, self.cols, self.exclude, positive=at, **how)
        return [x for x in found if x is not None], pos

    def log_count(self) -> list[Tensor]:
        """Of each query's negatives, and of each key's."""
        n_rows, n_cols = len(self.rows), len(self.rows if self.cols is None else self.cols)
        sides = [(self.exclude, n_rows, n_cols)]
        if self.both:
            sides.append((self.exclude.transposed(n_cols), n_cols, n_rows))
        if self.across:
            sides = [(everyone(e, m), n, m * world()[1]) for e, n, m in sides]
        count = [e.count(n, m, self.rows.device) for e, n, m in sides]
        return [n.to(wide(self.rows)).log() for n in count]


def _negatives(
    among: _Among, own: Tensor, beta: float
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """For each direction, the log-sum-exp of each query's negatives and the log of their number.

    And the positives' logits.
    """
    vectors, pos, log_n = own.is_floating_point(), None, among.log_count()
    if beta:
        # Each weighted by exp(beta s) over the mean of that: the difference of two sums' logs.
        (hard, _), (weight, _) = among.log_sums(1 + beta), among.log_sums(beta)
        some = [w.masked_fill(w.isneginf(), 0.0) for w in weight]
        log_neg = [h - w + n for h, w, n in zip(hard, some, log_n, strict=True)]
    else:
        log_neg, pos = among.log_sums(1.0, None if vectors else own)
    if pos is None:
        others = own if vectors else among.rows if among.cols is None else among.cols
        here = torch.arange(len(own), device=own.device)
        pos = row_dot(among.rows, others, here if vectors else own)
    # The keys' direction in the order of the queries that they belong to.
    order = [slice(None), *among.exclude.columns[:1]]
    return [(x[at], n[at]) for x, n, at in zip(log_neg, log_n, order, strict=False)], pos


def _loss(
    log_neg: Tensor,
    pos: Tensor,
    log_n: Tensor,
    tau_plus: float,
    scale: float | Tensor,
    flat: bool,
    decoupled: bool,
) -> Tensor:
    alone = log_n.isneginf()
    if tau_plus:
        log_neg = _debiased(log_neg, pos, log_n, tau_plus, scale)
    v = log_neg - pos
    if not flat and not decoupled:
        return -F.logsigmoid(-v)  # softplus; torch's own goes linear above a threshold
    v = v.masked_fill(alone, 0.0)
    return (v - v.detach()).exp() if flat else v


def _debiased(
    log_neg: Tensor, pos: Tensor, log_n: Tensor, tau_plus: float, scale: float | Tensor
) -> Tensor:
    """`ln max((sum neg - tau_plus n exp(pos)) / (1 - tau_plus), n exp(-1/T))`, n negatives."""
    alone = log_n.isneginf()
    log_neg, log_n = log_neg.masked_fill(alone, 0.0), log_n.masked_fill(alone, 0.0)
    share = (math.log(tau_plus) + log_n + pos - log_neg).exp()
    floor = log_n - scale
    # Where nothing is left the logarithm has no gradient to spoil: both sides of where are finite.
    left = torch.log1p(-share.masked_fill(share >= 1, 0.0)) - math.log1p(-tau_plus)
    corrected = torch.where(share < 1, torch.maximum(log_neg + left, floor), floor)
    return corrected.masked_fill(alone, -math.inf)
