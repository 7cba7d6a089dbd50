"""Kernels on the moments of a batch of embeddings: no positives against negatives."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unlabel.objectives.logsumexp import Exclude, log_sum_exp_of_negatives
from unlabel.objectives.unit import unit


def exact(x: Tensor) -> Tensor:
    """float64 as it is, anything narrower as float32."""
    return x if x.dtype == torch.float64 else x.float()


def same_shape(**tensors: Tensor) -> None:
    """Refuses tensors, named by the keywords, that are not shaped like the first."""
    (first, x), *rest = tensors.items()
    for name, y in rest:
        if y.shape != x.shape:
            raise ValueError(
                f"{name} {tuple(y.shape)} and {first} {tuple(x.shape)} differ in shape: give one "
                f"value of {name} for each of {first}."
            )


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
    same_shape(x=x, y=y)
    apart = F.normalize(exact(x), dim=1) - F.normalize(exact(y), dim=1)
    square = apart.square().sum(1)
    if alpha == 2:
        return square.mean()
    # The slope of a root at 0 has no value: views that coincide are left where they are.
    same = square == 0
    return (square.masked_fill(same, 1.0) ** (alpha / 2)).masked_fill(same, 0.0).mean()


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
        rows = unit(x, math.sqrt(2 * t), exact(x).dtype)
        itself = Exclude((torch.arange(n, device=x.device),))
        by_row, *_ = log_sum_exp_of_negatives(rows, None, itself)
        return (by_row.logsumexp(0) - math.log(n * (n - 1)) - 2 * t).to(rows.dtype)


@torch.no_grad()
def effective_rank(z: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """Exp of the entropy of the normalised singular values, about the mean.

    At most min(batch - 1, width). RankMe with the mean taken off first: networks that end in a
    ReLU give every sample a large common part, which would hide all that differs.

    Reference: Garrido et al. 2023, arXiv 2210.02885, definition 3.1 (without centring).
    """
    values = torch.linalg.svdvals(z.float() - z.float().mean(0))
    share = values / values.sum().clamp(min=1e-12)
    return torch.exp(-(share * share.clamp(min=1e-12).log()).sum())


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
        ValueError: shapes differ, or there are fewer than two rows.
    """
    same_shape(x=x, y=y)
    if len(x) < 2:
        raise ValueError(
            f"a correlation needs a spread, but x has {len(x)} row(s): give at least two."
        )
    with torch.autocast(x.device.type, enabled=False):
        a, b = (F.batch_norm(exact(v), None, None, training=True, eps=eps) for v in (x, y))
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
    same_shape(x=x, y=y)
    if len(x) < 2:
        raise ValueError(f"vicreg needs a variance, but x has {len(x)} row(s): give at least two.")
    with torch.autocast(x.device.type, enabled=False):
        views = exact(x), exact(y)
        short = [F.relu(gamma - (v.var(0) + eps).sqrt()).mean() for v in views]
        # Of one feature cov() gives a number alone.
        covariances = [torch.atleast_2d(v.T.cov()) for v in views]
        spill = [_off_diagonal(c).square().sum() / len(c) for c in covariances]
        return {
            "invariance": F.mse_loss(*views),
            "variance": (short[0] + short[1]) / 2,
            "covariance": spill[0] + spill[1],
        }
