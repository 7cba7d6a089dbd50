"""Colour as a target: bins of CIE Lab's ab plane, and colours copied by likeness. Pure functions.

A colour here is its a and b, without the lightness.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unlabel.objectives.moments import exact

# Views give a and b in units of this, so that they lie between -1 and 1.
REACH = 110.0
# Least and greatest b of the bins at a = -90, -80, ..., 100.
_LOW = (50, 20, 0, -20, -30, -40, -50, -50, -60, -70)
_LOW += (-80, -80, -90, -100, -100, -110, -110, -110, -110, -90)
_HIGH = (90, 90, 90, 90, 100, 100, 100, 100, 100, 100)
_HIGH += (90, 90, 90, 90, 80, 80, 80, 70, 70, 0)


def color_bins(device: torch.device | str | None = None) -> Float[Tensor, "bins 2"]:
    """The 313 points of the ab plane, 10 apart, that stand for the colours a screen can show.

    Those of the paper: the colours of sRGB lie nearest to 261 of them, and the others are among
    the five nearest of some colour.

    Reference: Zhang et al. 2016, arXiv 1603.08511, section 2.1.
    """
    rows = zip(range(-90, 101, 10), _LOW, _HIGH, strict=True)
    points = [(a, b) for a, low, high in rows for b in range(low, high + 1, 10)]
    return torch.tensor(points, dtype=torch.float32, device=device)


def soften(
    colors: Float[Tensor, "*batch 2"],
    bins: Float[Tensor, "bins 2"],
    *,
    neighbours: int = 5,
    sigma: float = 5.0,
) -> Float[Tensor, "*batch bins"]:
    """Each colour as shares of its nearest bins, by a Gaussian of their distance.

    Args:
        colors: a and b.
        bins: what to share among.
        neighbours: bins that get a share.
        sigma: of the Gaussian, in the units of a and b.

    Reference: Zhang et al. 2016, arXiv 1603.08511, section 2.1.
    """
    flat = exact(colors).reshape(-1, 2)
    apart = torch.cdist(flat, bins.to(flat.dtype), compute_mode="donot_use_mm_for_euclid_dist")
    near, which = apart.topk(neighbours, dim=1, largest=False)
    share = (-near.square() / (2 * sigma**2)).softmax(1)
    return torch.zeros_like(apart).scatter(1, which, share).reshape(*colors.shape[:-1], -1)


def rarity(prior: Float[Tensor, "bins"], *, even: float = 0.5) -> Float[Tensor, "bins"]:
    """How much each bin counts: `1 / ((1 - l) p + l / Q)`, times what makes the mean weight 1.

    Args:
        prior: p, the share of each bin in the data; the mean is taken by it.
        even: l, how much of an even prior is mixed in; 1 gives every bin weight 1.

    Reference: Zhang et al. 2016, arXiv 1603.08511, equation 4.
    """
    weight = 1 / ((1 - even) * prior + even / len(prior))
    return weight / (prior * weight).sum()


def annealed_mean(
    logits: Float[Tensor, "*batch bins"],
    bins: Float[Tensor, "bins 2"],
    *,
    temperature: float = 0.38,
) -> Float[Tensor, "*batch 2"]:
    """One colour of a distribution: its mean after sharpening, `softmax(logits / T)`.

    T = 1 is the mean, T towards 0 the likeliest bin.

    Args:
        logits: scores of the bins.
        bins: a and b of each.
        temperature: T.

    Reference: Zhang et al. 2016, arXiv 1603.08511, equation 5.
    """
    share = (exact(logits) / temperature).softmax(-1)
    return share @ bins.to(share.dtype)


def copied(
    query: Float[Tensor, "batch places width"],
    keys: Float[Tensor, "batch others width"],
    values: Float[Tensor, "batch others classes"],
    mask: Bool[Tensor, "batch others"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "batch places classes"]:
    """What each place copies from the others: `sum_i softmax_i(f_i . f_j / T) c_i`.

    One softmax over all others together. The result is a distribution already: its loss is minus
    its logarithm, without another softmax. Equal features give the mean of the values.

    Args:
        query: f_j, features of the places.
        keys: f_i, features of the others.
        values: c_i, their distributions over the classes.
        mask: True at others that exist.
        temperature: T.

    Reference: Vondrick et al. 2018, arXiv 1806.09594, equations 1 and 2.
    """
    with torch.autocast(query.device.type, enabled=False):
        scores = exact(query) @ exact(keys).mT / temperature
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, :], -torch.inf)
        return scores.softmax(2) @ values.to(scores.dtype)


__all__ = ["REACH", "annealed_mean", "color_bins", "copied", "rarity", "soften"]
