"""Hierarchical contrast of two encodings of the same steps: over the batch, and over time."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from unlabel.objectives.moments import exact, same_shape


def _in_groups(
    z1: Float[Tensor, "groups rows width"],
    z2: Float[Tensor, "groups rows width"],
    mask: Bool[Tensor, "groups rows"],
) -> Float[Tensor, ""]:
    """Each row finds its partner among the `2 rows - 1` others of its group, by inner products."""
    rows = z1.shape[1]
    both, exists = torch.cat([z1, z2], 1), mask.repeat(1, 2)
    itself = torch.eye(2 * rows, dtype=torch.bool, device=both.device)
    logits = (both @ both.mT).masked_fill(itself, -math.inf)
    # Where no row exists all stay, and none counts: a gradient of nothing would be NaN.
    among = exists | ~exists.any(1, keepdim=True)
    logits.masked_fill_(~among[:, None], -math.inf)
    own = (z1 * z2).sum(-1).repeat(1, 2)
    each = (logits.logsumexp(2) - own).masked_fill(~exists, 0.0)
    return each.sum() / exists.sum().clamp(min=1)


def _halved(
    z: Float[Tensor, "batch steps width"], mask: Bool[Tensor, "batch steps"]
) -> Float[Tensor, "batch half width"]:
    """The greater of each two steps, of those that exist; 0 where neither does."""
    rows = z.masked_fill(~mask[:, :, None], -math.inf).mT
    return F.max_pool1d(rows, 2).mT.masked_fill(~_either(mask)[:, :, None], 0.0)


def _either(mask: Bool[Tensor, "batch steps"]) -> Bool[Tensor, "batch half"]:
    return mask[:, : mask.shape[1] // 2 * 2].unflatten(1, (-1, 2)).any(2)


def hierarchical_contrast(
    z1: Float[Tensor, "batch steps width"],
    z2: Float[Tensor, "batch steps width"],
    mask: Bool[Tensor, "batch steps"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """TS2Vec's two terms, to be weighted alpha and 1 - alpha; means over the levels.

    `instance`: the same step of the other encoding, among both encodings of that step of all
    samples. `temporal`: the same, among all steps of the sample's two encodings. Levels halve the
    steps by maximum until one is left, which has nothing to contrast in time and counts 0 there.
    Logits are inner products. All equal gives `ln(2 batch - 1)`, and the mean over levels of
    `ln(2 steps - 1)`.

    Args:
        z1: encodings of the steps in one view.
        z2: of the same steps in another.
        mask: True at steps that exist; others are in no pair. None for all.

    Raises:
        ValueError: shapes differ, or there is no step.

    Reference: Yue et al. 2022 (TS2Vec), arXiv 2106.10466, equations 1 to 3 and algorithm 1; the
    authors' code for the last level.
    """
    same_shape(z1=z1, z2=z2)
    if z1.dim() != 3 or not z1.numel():
        raise ValueError(
            f"z1 {tuple(z1.shape)} holds no steps to contrast: give (batch, steps, width), at "
            "least one of each."
        )
    real = z1.new_ones(z1.shape[:2], dtype=torch.bool) if mask is None else mask
    instance, temporal = [], []
    with torch.autocast(z1.device.type, enabled=False):
        one, other = exact(z1), exact(z2)
        while True:
            by_step = (rearrange(z, "batch steps width -> steps batch width") for z in (one, other))
            instance.append(_in_groups(*by_step, real.mT))
            if one.shape[1] == 1:
                break
            temporal.append(_in_groups(one, other, real))
            one, other, real = _halved(one, real), _halved(other, real), _either(real)
        levels = len(instance)
        over_time = torch.stack(temporal).sum() / levels if temporal else 0.0 * instance[0]
        return {"instance": torch.stack(instance).mean(), "temporal": over_time}


def hierarchical_chance(batch: int, steps: int) -> dict[str, float]:
    """The two terms of encodings that are all equal."""
    halvings = [steps >> level for level in range(steps.bit_length())]
    over_time = sum(math.log(2 * left - 1) for left in halvings) / len(halvings)
    return {"instance": math.log(2 * batch - 1), "temporal": over_time}
