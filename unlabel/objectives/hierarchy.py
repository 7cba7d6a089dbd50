"""Hierarchical contrast of two encodings of the same steps: over the batch, and over time."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unlabel.objectives.moments import exact, same_shape


def _in_groups(
    z1: Float[Tensor, "groups rows width"], z2: Float[Tensor, "groups rows width"]
) -> Float[Tensor, ""]:
    """Each row finds its partner among the `2 rows - 1` others of its group, by inner products."""
    rows = z1.shape[1]
    both = torch.cat([z1, z2], 1)
    logits = both @ both.mT
    itself = torch.eye(2 * rows, dtype=torch.bool, device=both.device)
    own = (z1 * z2).sum(-1).repeat(1, 2)
    return (logits.masked_fill(itself, -math.inf).logsumexp(2) - own).mean()


def hierarchical_contrast(
    z1: Float[Tensor, "batch steps width"], z2: Float[Tensor, "batch steps width"]
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
    instance, temporal = [], []
    with torch.autocast(z1.device.type, enabled=False):
        one, other = exact(z1), exact(z2)
        while True:
            by_step = (rearrange(z, "batch steps width -> steps batch width") for z in (one, other))
            instance.append(_in_groups(*by_step))
            if one.shape[1] == 1:
                break
            temporal.append(_in_groups(one, other))
            one, other = (
                rearrange(
                    F.max_pool1d(rearrange(z, "batch steps width -> batch width steps"), 2),
                    "batch width steps -> batch steps width",
                )
                for z in (one, other)
            )
        levels = len(instance)
        over_time = torch.stack(temporal).sum() / levels if temporal else 0.0 * instance[0]
        return {"instance": torch.stack(instance).mean(), "temporal": over_time}


def hierarchical_chance(batch: int, steps: int) -> dict[str, float]:
    """The two terms of encodings that are all equal."""
    halvings = [steps >> level for level in range(steps.bit_length())]
    over_time = sum(math.log(2 * left - 1) for left in halvings) / len(halvings)
    return {"instance": math.log(2 * batch - 1), "temporal": over_time}
