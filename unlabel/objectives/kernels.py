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

from unlabel.objectives.logsumexp import Exclude, log_sum_exp_of_negatives

Reduction = Literal["mean", "none"]


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    # Nothing to compare is a loss of 0, not NaN: a batch may mask no position.
    return values if reduction == "none" else values.sum() / max(values.numel(), 1)


def _same_shape(**tensors: Tensor) -> None:
    (first, x), *rest = tensors.items()
    for name, y in rest:
        if y.shape != x.shape:
            raise ValueError(
                f"{name} {tuple(y.shape)} and {first} {tuple(x.shape)} differ in shape: give one "
                f"value of {name} for each of {first}."
            )


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
        _same_shape(logits=logits, target=target)
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
        return _reduce(-(_exact(aim) * _exact(kept).log_softmax(-1)).sum(-1), reduction)
    _check_classes(aim, logits.shape[-1])
    return _reduce(F.cross_entropy(_exact(kept), aim.long(), reduction="none"), reduction)


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
    pos = F.logsigmoid(_exact(score_pos) - log_prior)
    neg = F.logsigmoid(prior_neg - _exact(score_neg))
    return _reduce(-pos - neg.sum(1), reduction)


def mutual_information(
    score_pos: Float[Tensor, "*pos"],
    score_neg: Float[Tensor, "*neg"],
    *,
    bound: Literal["jsd", "dv"] = "jsd",
) -> Float[Tensor, ""]:
    """Minus a lower bound of what two variables share, from a critic's scores; a zero critic is 0.

    `"jsd"`: `mean softplus(-pos) + mean softplus(neg) - 2 ln 2`. `"dv"` (Donsker-Varadhan):
    `ln mean exp(neg) - mean pos`, which estimates minus the information itself.

    Args:
        score_pos: of pairs that belong together.
        score_neg: of pairs that do not.
        bound: which of the two.

    Reference: Hjelm et al. 2019 (Deep InfoMax), arXiv 1808.06670, equations 2 and 4.
    """
    pos, neg = _exact(score_pos), _exact(score_neg).flatten()
    if bound == "jsd":
        return F.softplus(-pos).mean() + F.softplus(neg).mean() - 2 * math.log(2)
    return neg.logsumexp(0) - math.log(neg.numel()) - pos.mean()


def regress(
    pred: Float[Tensor, "*batch width"],
    target: Float[Tensor, "*batch width"],
    mask: Bool[Tensor, "*batch"] | None = None,
    *,
    metric: Literal["mse", "l1", "cosine"] = "mse",
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Distance of prediction and target, mean over the positions kept.

    `"mse"` and `"l1"` are means over the width. `"cosine"` is BYOL's `||p/|p| - t/|t|||^2 = 2 -
    2 cos`; SimSiam's `-cos` is half of it minus 1. No position kept gives 0.

    Args:
        pred: prediction.
        target: what it should be; detach it where no gradient may reach it.
        mask: True where the loss is taken.
        metric: distance.
        reduction: `"mean"`, or `"none"` for one value a position kept, flat.

    Raises:
        ValueError: shapes differ, or the metric is unknown.

    Reference: He et al. 2021 (MAE), arXiv 2111.06377; Xie et al. 2021 (SimMIM), 2111.09886;
    Grill et al. 2020 (BYOL), 2006.07733, equation 2; Chen & He 2020 (SimSiam), 2011.10566.
    """
    _same_shape(pred=pred, target=target)
    p, t = (_exact(x) for x in _keep(mask, pred, target, lead=pred.dim() - 1))
    if metric == "mse":
        return _reduce((p - t).square().mean(-1), reduction)
    if metric == "l1":
        return _reduce((p - t).abs().mean(-1), reduction)
    if metric == "cosine":
        # As a difference, not 2 - 2 cos: exact where the two nearly agree.
        apart = F.normalize(p, dim=-1) - F.normalize(t, dim=-1)
        return _reduce(apart.square().sum(-1), reduction)
    raise ValueError(f"metric is {metric!r}: give 'mse', 'l1' or 'cosine'.")


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
    _same_shape(d_pos=d_pos, d_neg=d_neg)
    gap = _exact(d_pos) - _exact(d_neg)
    return _reduce(F.softplus(gap) if margin is None else F.relu(gap + margin), reduction)


def alignment(
    x: Float[Tensor, "batch width"], y: Float[Tensor, "batch width"], *, alpha: float = 2.0
) -> Float[Tensor, ""]:
    """`mean_i ||x_i - y_i||^alpha` of unit vectors (normalised here); 0 when views agree.

    Args:
        x: embeddings of one view.
        y: embeddings of another view of the same samples.
        alpha: exponent.

    Raises:
        ValueError: shapes differ.

    Reference: Wang & Isola 2020, arXiv 2005.10242, section 4.
    """
    _same_shape(x=x, y=y)
    apart = F.normalize(_exact(x), dim=1) - F.normalize(_exact(y), dim=1)
    # |d|^2 needs no root, whose slope at 0 has no value.
    return (apart.square().sum(1) if alpha == 2 else apart.norm(dim=1) ** alpha).mean()


def uniformity(x: Float[Tensor, "batch width"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """`ln mean_{i<j} exp(-t ||x_i - x_j||^2)` of unit vectors (normalised here), linear memory.

    All equal gives 0, an orthonormal set -2t, an antipodal pair -4t. The paper's default t is 2.

    Args:
        x: embeddings.
        t: sharpness.

    Raises:
        ValueError: fewer than two embeddings.

    Reference: Wang & Isola 2020, arXiv 2005.10242, section 4.
    """
    n = len(x)
    if n < 2:
        raise ValueError(f"uniformity compares pairs, but x has {n} row(s): give at least two.")
    with torch.autocast(x.device.type, enabled=False):
        # -t |a - b|^2 = 2t a.b - 2t for unit vectors: a log-sum-exp over each row's other rows.
        rows = F.normalize(_exact(x), dim=1) * math.sqrt(2 * t)
        itself = Exclude((torch.arange(n, device=x.device),))
        by_row, _ = log_sum_exp_of_negatives(rows, None, itself)
        return (by_row.logsumexp(0) - math.log(n * (n - 1)) - 2 * t).to(rows.dtype)


def _off_diagonal(c: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    return c - torch.diag(torch.diagonal(c))


def cross_correlation(
    x: Float[Tensor, "batch width"], y: Float[Tensor, "batch width"], *, eps: float = 1e-5
) -> Float[Tensor, "width width"]:
    """Correlation over the batch of every feature of x with every feature of y, biased std.

    Args:
        x: embeddings of one view.
        y: embeddings of another view of the same samples.
        eps: added to the variances, as the authors' batch normalisation does.

    Raises:
        ValueError: shapes differ.
    """
    _same_shape(x=x, y=y)
    with torch.autocast(x.device.type, enabled=False):
        a, b = (F.batch_norm(_exact(v), None, None, training=True, eps=eps) for v in (x, y))
        return a.T @ b / len(x)


def barlow_twins(
    x: Float[Tensor, "batch width"], y: Float[Tensor, "batch width"], *, weight: float = 0.005
) -> Float[Tensor, ""]:
    """`sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2`, C the cross-correlation; a sum, no mean.

    Args:
        x: embeddings of one view.
        y: embeddings of another view of the same samples.
        weight: lambda, of the off-diagonal terms.

    Raises:
        ValueError: shapes differ.

    Reference: Zbontar et al. 2021, arXiv 2103.03230, equation 1; the authors' code for the std.
    """
    c = cross_correlation(x, y)
    off = _off_diagonal(c).square().sum()
    return (1 - torch.diagonal(c)).square().sum() + weight * off


def vicreg(
    x: Float[Tensor, "batch width"],
    y: Float[Tensor, "batch width"],
    *,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> dict[str, Float[Tensor, ""]]:
    """VICReg's three terms, to be weighted 25, 25 and 1.

    `invariance = mean (x - y)^2`; `variance = 1/2 sum_{v in x, y} mean_d max(0, gamma -
    sqrt(Var(v_d) + eps))`; `covariance = sum_v sum_{i != j} Cov(v)_ij^2 / width`, both with
    n - 1. The 1/2 is in the authors' code and missing in some copies.

    Args:
        x: embeddings of one view.
        y: embeddings of another view of the same samples.
        gamma: std that each feature should reach.
        eps: added to the variance.

    Raises:
        ValueError: shapes differ, or there are fewer than two rows.

    Reference: Bardes et al. 2021, arXiv 2105.04906, equations 1 to 6; the authors' code.
    """
    _same_shape(x=x, y=y)
    if len(x) < 2:
        raise ValueError(f"vicreg needs a variance, but x has {len(x)} row(s): give at least two.")
    with torch.autocast(x.device.type, enabled=False):
        views = _exact(x), _exact(y)
        short = [F.relu(gamma - (v.var(0) + eps).sqrt()).mean() for v in views]
        spill = [_off_diagonal(v.T.cov()).square().sum() / v.shape[1] for v in views]
        return {
            "invariance": F.mse_loss(*views),
            "variance": (short[0] + short[1]) / 2,
            "covariance": spill[0] + spill[1],
        }


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
    _same_shape(mean=mean, log_variance=log_variance)
    m, v = _exact(mean), _exact(log_variance)
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
    _same_shape(logits=logits, target=target)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: give a positive number.")
    q, p = ((_exact(x) / temperature).log_softmax(-1) for x in (logits, target))
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
    _same_shape(**{f"logits[{k}]": x for k, x in enumerate(logits)})
    log_p = torch.stack([_exact(x).log_softmax(-1) for x in logits])
    log_m = log_p.logsumexp(0) - math.log(len(logits))
    return _reduce((log_p.exp() * (log_p - log_m)).sum(-1).mean(0), reduction)
