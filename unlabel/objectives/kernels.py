"""Loss kernels beside `contrast`: pure functions of tensors, in float32 and log space.

None holds state, gathers over ranks or logs. float64 stays float64, everything narrower becomes
float32 whatever autocast says. `reduction="none"` gives one value for each position kept.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unlabel.objectives.moments import (
    alignment,
    barlow_twins,
    cross_correlation,
    exact,
    same_shape,
    uniformity,
    vicreg,
)

Reduction = Literal["mean", "none"]


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}: give 'mean' or 'none'.")
    # Nothing to compare is a loss of 0, not NaN: a batch may mask no position.
    return values if reduction == "none" else values.sum() / max(values.numel(), 1)


def _keep(mask: Tensor | None, *tensors: Tensor, lead: int) -> list[Tensor]:
    # Flatten the leading dimensions and keep the positions where the mask is True.
    if mask is not None and (mask.dtype != torch.bool or mask.shape != tensors[0].shape[:lead]):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and type {mask.dtype}: give a bool mask of shape "
            f"{tuple(tensors[0].shape[:lead])}, True where the loss is taken."
        )
    flat = [t.reshape(-1, *t.shape[lead:]) for t in tensors]
    return flat if mask is None else [t[mask.reshape(-1)] for t in flat]


def classify(
    logits: Float[Tensor, "*batch classes"],
    target: Int[Tensor, "*batch"] | Float[Tensor, "*batch classes"],
    mask: Bool[Tensor, "*batch"] | None = None,
    *,
    ignore: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy `-sum_c t_c ln softmax(logits)_c`, mean over the positions kept.

    Equal logits give ln(classes). No position kept gives 0.

    Args:
        logits: unnormalised scores.
        target: class of each position, or its probabilities over the classes.
        mask: True where the loss is taken.
        ignore: a class number that stands for 'none' and is left out (-1 for unlabel's labels,
            -100 for transformers'); without it a negative class is an error.
        reduction: `"mean"`, or `"none"` for one value a position kept, flat.

    Raises:
        ValueError: shapes differ, or (checked on a CPU, where it costs no wait) a class does not
            exist.

    Reference: Shannon 1948; soft targets as in Zhang et al. 2016, arXiv 1603.08511, equation 2.
    """
    if target.is_floating_point():
        same_shape(logits=logits, target=target)
    elif target.shape != logits.shape[:-1]:
        raise ValueError(
            f"target {tuple(target.shape)} does not name one class for each of the positions of "
            f"logits {tuple(logits.shape)}."
        )
    lead = logits.dim() - 1
    if ignore is not None and not target.is_floating_point():
        wanted = target != ignore
        mask = wanted if mask is None else mask & wanted
    kept, aim = _keep(mask, logits, target, lead=lead)
    if aim.is_floating_point():
        return _reduce(-(exact(aim) * exact(kept).log_softmax(-1)).sum(-1), reduction)
    _check_classes(aim, logits.shape[-1])
    return _reduce(F.cross_entropy(exact(kept), aim.long(), reduction="none"), reduction)


def _check_classes(target: Tensor, classes: int) -> None:
    if target.device.type != "cpu" or not target.numel():
        return
    low, high = (int(x) for x in target.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"target reaches from {low} to {high}, but the classes are 0 to {classes - 1}: give "
            "ignore= if a negative class stands for 'none'."
        )


def nce(
    score_pos: Float[Tensor, "batch"],
    score_neg: Float[Tensor, "batch negatives"],
    *,
    log_prior: float | Float[Tensor, "batch"] = 0.0,
    log_prior_neg: float | Float[Tensor, "batch negatives"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Noise-contrastive estimation: `-ln h(pos) - sum_k ln(1 - h(neg_k))`, mean over the batch.

    `h(s) = sigmoid(s - log_prior)`, where `log_prior = ln(K Pn(x))` for K noise samples drawn
    from Pn. Equal probabilities 1/n under model and noise give `ln(1+K) + K ln((1+K)/K)`. With a
    prior of 0 it is skip-gram's negative sampling: zero scores give `(K+1) ln 2`.

    Args:
        score_pos: ln of the (unnormalised) model probability of the data.
        score_neg: the same for K noise samples.
        log_prior: `ln(K Pn)` of the data, 0 for negative sampling.
        log_prior_neg: `ln(K Pn)` of the noise samples; None takes `log_prior`, a number.
        reduction: `"mean"`, or `"none"` for one value a row.

    Raises:
        ValueError: shapes do not fit together.

    Reference: Gutmann & Hyvarinen 2010; Wu et al. 2018 (InstDisc), arXiv 1805.01978, section 3.2;
    Mikolov et al. 2013, arXiv 1310.4546, equation 4.
    """
    if score_pos.dim() != 1 or score_neg.dim() != 2 or len(score_pos) != len(score_neg):
        raise ValueError(
            f"score_pos {tuple(score_pos.shape)} and score_neg {tuple(score_neg.shape)}: give one "
            "positive score a row, (batch,), and K negative ones, (batch, K)."
        )
    if log_prior_neg is None and isinstance(log_prior, Tensor):
        log_prior_neg = rearrange(log_prior, "... -> ... 1")
    prior_neg = log_prior if log_prior_neg is None else log_prior_neg
    pos = F.logsigmoid(exact(score_pos) - log_prior)
    neg = F.logsigmoid(prior_neg - exact(score_neg))
    return _reduce(-pos - neg.sum(1), reduction)


def regress(
    pred: Float[Tensor, "*batch width"],
    target: Float[Tensor, "*batch width"],
    mask: Bool[Tensor, "*batch"] | None = None,
    *,
    metric: Literal["mse", "l1", "huber", "cosine"] = "mse",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Distance of prediction and target, mean over the positions kept.

    `"mse"` and `"l1"` are means over the width, and so is `"huber"`, `d^2 / 2` up to a distance of
    1 and `d - 1/2` beyond. `"cosine"` is BYOL's `||p/|p| - t/|t|||^2 = 2 - 2 cos`; SimSiam's
    `-cos` is half of it minus 1. No position kept gives 0.

    Args:
        pred: prediction.
        target: what it should be; detach it where no gradient may reach it.
        mask: True where the loss is taken.
        metric: distance.
        reduction: `"mean"`, or `"none"` for one value a position kept, flat.

    Raises:
        ValueError: shapes differ, or the metric is unknown.

    Reference: He et al. 2021 (MAE), arXiv 2111.06377; Xie et al. 2021 (SimMIM), 2111.09886;
    Grill et al. 2020 (BYOL), 2006.07733, equation 2; Chen & He 2020 (SimSiam), 2011.10566;
    Huber 1964.
    """
    same_shape(pred=pred, target=target)
    p, t = (exact(x) for x in _keep(mask, pred, target, lead=pred.dim() - 1))
    if metric == "cosine":
        # As a difference, not 2 - 2 cos: exact where the two nearly agree.
        apart = F.normalize(p, dim=-1) - F.normalize(t, dim=-1)
        return _reduce(apart.square().sum(-1), reduction)
    return _reduce(cost_of(p - t, metric).mean(-1), reduction)


def cost_of(apart: Float[Tensor, "..."], metric: str) -> Float[Tensor, "..."]:
    """What each difference costs by a metric of `regress` that looks at numbers one by one.

    Raises:
        ValueError: the metric is unknown.
    """
    if metric == "mse":
        return apart.square()
    if metric == "l1":
        return apart.abs()
    if metric == "huber":
        return F.huber_loss(apart, torch.zeros_like(apart), reduction="none")
    raise ValueError(f"metric is {metric!r}: give 'mse', 'l1', 'huber' or 'cosine'.")


def pinball(
    pred: Float[Tensor, "*batch quantiles"],
    target: Float[Tensor, "*batch"],
    quantiles: Sequence[float],
    mask: Bool[Tensor, "*batch"] | None = None,
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Quantile loss `mean_q max(q d, (q - 1) d)` with `d = target - pred_q`, mean over positions.

    Least where each `pred_q` is the q-quantile of the target. Quantile 0.5 is half of the absolute
    error. Some libraries double it. No position kept gives 0.

    Args:
        pred: prediction of each quantile.
        target: the value that came.
        quantiles: levels between 0 and 1, in the order of the prediction's last dimension.
        mask: True where the loss is taken.
        reduction: `"mean"`, or `"none"` for one value a position kept, flat.

    Raises:
        ValueError: shapes differ, or a level is not between 0 and 1.

    Reference: Koenker & Bassett 1978, Econometrica 46, equation 3.1.
    """
    if not quantiles or not all(0 < q < 1 for q in quantiles):
        raise ValueError(f"quantiles are {list(quantiles)}: give levels between 0 and 1.")
    if pred.shape != (*target.shape, len(quantiles)):
        raise ValueError(
            f"pred {tuple(pred.shape)} does not hold one value for each of {len(quantiles)} "
            f"quantiles at each of the positions of target {tuple(target.shape)}."
        )
    p, t = (exact(x) for x in _keep(mask, pred, target, lead=target.dim()))
    short = rearrange(t, "kept -> kept 1") - p
    level = torch.as_tensor(tuple(quantiles), dtype=short.dtype, device=short.device)
    return _reduce(torch.maximum(level * short, (level - 1) * short).mean(-1), reduction)


def rank(
    d_pos: Float[Tensor, "*triplets"],
    d_neg: Float[Tensor, "*triplets"],
    *,
    margin: float | None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Triplet loss `max(0, d_pos - d_neg + margin)`, mean over triplets.

    Without a margin it is soft, `ln(1 + exp(d_pos - d_neg))`. Coincident points give the margin,
    or ln 2.

    Args:
        d_pos: distance from anchor to positive.
        d_neg: distance from anchor to negative.
        margin: how much farther the negative should be; None is the soft margin.
        reduction: `"mean"`, or `"none"` for one value a triplet.

    Raises:
        ValueError: shapes differ.

    Reference: Wang & Gupta 2015, arXiv 1505.00687; soft margin: Hermans et al. 2017,
    1703.07737, section 2.
    """
    same_shape(d_pos=d_pos, d_neg=d_neg)
    gap = exact(d_pos) - exact(d_neg)
    return _reduce(F.softplus(gap) if margin is None else F.relu(gap + margin), reduction)


def gaussian_kl(
    mean: Float[Tensor, "*batch width"],
    log_variance: Float[Tensor, "*batch width"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """`KL(N(mean, var) || N(0, I)) = 1/2 sum_d (mean^2 + var - 1 - ln var)`, mean over the batch.

    N(1, I) against N(0, I) gives width / 2.

    Args:
        mean: of the posterior.
        log_variance: ln var of the posterior.
        reduction: `"mean"`, or `"none"` for one value a position.

    Raises:
        ValueError: shapes differ.

    Reference: Kingma & Welling 2013, arXiv 1312.6114, appendix B.
    """
    same_shape(mean=mean, log_variance=log_variance)
    m, v = exact(mean), exact(log_variance)
    # expm1 keeps var - 1 exact where the posterior nearly is the prior.
    return _reduce((m.square() + v.expm1() - v).sum(-1) / 2, reduction)


def kl(
    logits: Float[Tensor, "*batch classes"],
    target: Float[Tensor, "*batch classes"],
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Distillation: `T^2 KL(softmax(target/T) || softmax(logits/T))`, mean over the batch.

    Args:
        logits: of the student.
        target: logits of the teacher; detach them where no gradient may reach them.
        temperature: T; its square keeps the gradient's size.
        reduction: `"mean"`, or `"none"` for one value a position.

    Raises:
        ValueError: shapes differ, or the temperature is not positive.

    Reference: Hinton et al. 2015, arXiv 1503.02531, section 2; Lee et al. 2020 (SLA+SD),
    1910.05872.
    """
    same_shape(logits=logits, target=target)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: give a positive number.")
    q, p = ((exact(x) / temperature).log_softmax(-1) for x in (logits, target))
    return _reduce(temperature**2 * (p.exp() * (p - q)).sum(-1), reduction)


def jensen_shannon(
    logits: Sequence[Float[Tensor, "*batch classes"]], *, reduction: Reduction = "mean"
) -> Float[Tensor, "..."]:
    """`mean_k KL(p_k || m)`, m the mean of the distributions `p_k = softmax(logits_k)`.

    0 when all agree, at most ln(number of distributions). Mean over the batch.

    Args:
        logits: of two or more views of the same batch.
        reduction: `"mean"`, or `"none"` for one value a position.

    Raises:
        ValueError: fewer than two, or shapes differ.

    Reference: Shen et al. 2020 (Cutoff), arXiv 2009.13818.
    """
    if len(logits) < 2:
        raise ValueError(f"jensen_shannon compares distributions, but got {len(logits)} of them.")
    same_shape(**{f"logits[{k}]": x for k, x in enumerate(logits)})
    log_p = torch.stack([exact(x).log_softmax(-1) for x in logits])
    log_m = log_p.logsumexp(0) - math.log(len(logits))
    return _reduce((log_p.exp() * (log_p - log_m)).sum(-1).mean(0), reduction)


__all__ = [
    "alignment",
    "barlow_twins",
    "classify",
    "cost_of",
    "cross_correlation",
    "gaussian_kl",
    "jensen_shannon",
    "kl",
    "nce",
    "pinball",
    "rank",
    "regress",
    "uniformity",
    "vicreg",
]
