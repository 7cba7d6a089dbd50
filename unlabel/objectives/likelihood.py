"""Kernels of likelihood: what a value costs under a density, in nats and in bits."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unlabel.core import Encoder, ViewSpec
from unlabel.objectives.gather import global_mean, mean_over_ranks
from unlabel.objectives.moments import exact, same_shape

# A density has no bound where values repeat exactly: no deviation is taken for less than this.
LEAST_DEVIATION = 1e-3


def gaussian_nll(
    mean: Float[Tensor, "*batch"],
    target: Float[Tensor, "*batch"],
    log_variance: Float[Tensor, "..."],
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "kept"]:
    """`-ln N(x; m, e^v) = 1/2 (ln 2 pi + v + (x - m)^2 / e^v)` of each value kept, in nats.

    The true mean and variance 1 give `1/2 ln 2 pi = 0.919`. A deviation under 0.001 counts as that.

    Args:
        mean: m.
        target: x.
        log_variance: v, one for each value, or a shape that broadcasts to them.
        mask: True where the value counts.

    Raises:
        ValueError: mean and target differ in shape.

    Reference: Nix & Weigend 1994, equation 1.
    """
    same_shape(mean=mean, target=target)
    m, x = exact(mean), exact(target)
    v = bounded(exact(log_variance)).expand_as(m)
    if mask is not None:
        m, x, v = m[mask], x[mask], v[mask]
    return (math.log(2 * math.pi) + v + (x - m).square() * (-v).exp()).flatten() / 2


def bounded(log_variance: Tensor) -> Tensor:
    """Log variances, none of a deviation under the least."""
    return log_variance.clamp(min=2 * math.log(LEAST_DEVIATION))


@torch.no_grad()
def gaussian_chance(
    target: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch"], variance: float | None = None
) -> Float[Tensor, ""]:
    """Nats a value under one Gaussian around their mean, of their own variance or of another."""
    values = exact(target[mask])
    spread = mean_over_ranks((values - mean_over_ranks(values)).square())
    if variance is None:
        variance_: Tensor = spread.clamp(min=LEAST_DEVIATION**2)
        return ((2 * math.pi * variance_).log() + spread / variance_) / 2
    return (math.log(2 * math.pi * variance) + spread / variance) / 2


def per_value(nats: Float[Tensor, "batch"], counts: Float[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Nats of samples over their number of values, both summed over all ranks.

    Times `bits` it is what is called bits per dimension.
    """
    return global_mean(nats) / mean_over_ranks(counts.to(nats)).clamp(min=1e-9)


def bits(nats: Tensor, levels: float = 0.0) -> Tensor:
    """Nats as bits; `levels` more, see `level_bits`."""
    return nats / math.log(2) + levels


def level_bits(encoder: Encoder, spec: ViewSpec) -> float:
    """Bits a value from a density in a view's units to one of the data's own levels.

    Where the view spreads 8-bit pixels, x' = (y - mean) / std and v = 256 y in [0, 256), so that
    `-log2 p(v) = -log2 p(x') + log2(256 std)`: what papers call bits per dimension, 8 for a uniform
    v. It bounds the bits of the levels themselves from above. 0 for every other view.

    Reference: Theis et al. 2015, arXiv 1511.01844, section 3.1.
    """
    spread = any(link.name == "dequantize" for link in spec.parts())
    return getattr(encoder, "level_bits", 0.0) if spread else 0.0


__all__ = [
    "LEAST_DEVIATION",
    "bits",
    "bounded",
    "gaussian_chance",
    "gaussian_nll",
    "level_bits",
    "per_value",
]
