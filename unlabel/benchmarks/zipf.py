"""Whether clusters of vectors are as large as kinds of things are in the world: Zipf's law."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from unlabel.objectives.clusters import k_means


def zipf_fitness(sizes: ArrayLike) -> float:
    """-KL of the shares of clusters, the largest first, from Zipf's law (share ~ 1/rank).

    `-sum_i p_i ln(p_i / q_i)`, `q_i = 1 / (i H_k)` with `H_k = 1 + 1/2 + ... + 1/k`. Sizes ~ 1/rank
    give 0, the best; k alike `ln k - ln H_k - ln(k!)/k`; all in one cluster `-ln H_k`, the worst.

    Args:
        sizes: of each cluster, 0 for an empty one.

    Raises:
        ValueError: no cluster, or one of a negative size, or all empty.

    Reference: Piergiovanni et al. 2020, arXiv 2002.12177, section 3.2, with hard clusters.
    """
    found = np.sort(np.asarray(sizes, dtype=np.float64))[::-1]
    if not len(found) or found[-1] < 0 or found[0] == 0:
        raise ValueError(f"Sizes of clusters are numbers of at least 0, not all 0; {sizes} came.")
    shares = found / found.sum()
    ranks = np.arange(1, len(found) + 1)
    prior = 1 / ranks / (1 / ranks).sum()
    held = shares > 0
    return -float((shares[held] * np.log(shares[held] / prior[held])).sum())


def worst_fitness(clusters: int) -> float:
    """Of vectors that are all one: `-ln H_k`."""
    return zipf_fitness([1, *[0] * (clusters - 1)])


def cluster_sizes(
    rows: Float[Tensor, "rows width"], clusters: int, *, starts: int = 5, seed: int = 0
) -> list[list[int]]:
    """Sizes of k-means clusters, the largest first, from several starts.

    Raises:
        ValueError: fewer rows than clusters.
    """
    if len(rows) < clusters:
        raise ValueError(f"{len(rows)} samples cannot be {clusters} clusters; take fewer.")
    found = (k_means(rows, clusters, seed=seed + start)[1] for start in range(starts))
    return [sorted(x.bincount(minlength=clusters).tolist(), reverse=True) for x in found]


__all__ = ["cluster_sizes", "worst_fitness", "zipf_fitness"]
