"""Cosines, Spearman's correlation and bootstrap intervals, for dense and sparse embeddings."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse, stats
from sklearn.preprocessing import normalize

# One row a sentence: a numpy array, or scipy's csr_matrix where the width is a vocabulary.
# (Any, because scipy's sparse matrices carry too few types for a checker to follow.)
Embeddings = Any
Embed = Callable[[list[str]], Embeddings]

CHUNK = 50  # resamples held at a time: 50 x 10,000 pairs of float64 are 4 MB


def embed_all(embed: Embed, sentences: list[str]) -> Embeddings:
    """`embed(sentences)`, checked to be one finite-or-nan row a sentence, in float64 if dense."""
    found = embed(sentences)
    if not sparse.issparse(found):
        found = np.asarray(found, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] != len(sentences):
        raise ValueError(
            f"The encoder gave an array of shape {tuple(found.shape)} for {len(sentences)} "
            "sentences; `embed(sentences)` must return one row a sentence, (sentences, width)."
        )
    return sparse.csr_matrix(found) if sparse.issparse(found) else found


# Cosines closer than this are a tie: float32 encoders round equal inputs apart by less.
ROUNDING = 1e-6


def nearest(cosines: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """Which columns are nearest to their row; several where they tie."""
    return cosines >= cosines.max(axis=1, keepdims=True) - ROUNDING


def unit_rows(embeddings: Embeddings) -> Embeddings:
    """Rows of length 1; a row of zeros stays zero, a row that is not finite becomes nan."""
    if sparse.issparse(embeddings):
        return normalize(embeddings)
    broken = ~np.isfinite(embeddings).all(axis=1)
    rows = normalize(np.where(broken[:, None], 0.0, embeddings))
    rows[broken] = np.nan
    return rows


def cosine_of_pairs(first: Embeddings, second: Embeddings) -> Float[np.ndarray, "pairs"]:
    """Dot product of row i with row i, for rows of length 1."""
    if sparse.issparse(first):
        return np.asarray(first.multiply(second).sum(axis=1), dtype=np.float64).ravel()
    return np.einsum("pd,pd->p", first, second)


def spearman(x: Float[np.ndarray, "pairs"], y: Float[np.ndarray, "pairs"]) -> float:
    """Spearman's rank correlation; nan where one side is constant or has under two values."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def resample_counts(
    pairs: int, resamples: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, "chunk pairs"]]:
    """How often each pair is drawn in each resample, in chunks of resamples."""
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        draws = rng.integers(pairs, size=(rows, pairs)) + np.arange(rows)[:, None] * pairs
        yield np.bincount(draws.ravel(), minlength=rows * pairs).reshape(rows, pairs)


def _midranks(
    x: Float[np.ndarray, "pairs"], counts: Int[np.ndarray, "resamples pairs"]
) -> Float[np.ndarray, "resamples pairs"]:
    """Rank of every pair in every resample, ties at their middle.

    A resample is the sorted data with counts, so ranks are running sums: nothing is sorted again.
    """
    _, group = np.unique(x, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    size = np.add.reduceat(counts[:, order], starts, axis=1)
    return (np.cumsum(size, axis=1) - (size - 1) / 2)[:, group]


def spearman_resamples(
    x: Float[np.ndarray, "pairs"],
    y: Float[np.ndarray, "pairs"],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "resamples"]:
    """Spearman's correlation of each bootstrap resample of the pairs, exact with ties."""
    found = []
    for counts in resample_counts(len(x), resamples, rng):
        middle = (len(x) + 1) / 2
        dx, dy = _midranks(x, counts) - middle, _midranks(y, counts) - middle
        weighted = counts * dx
        norm = np.sqrt((weighted * dx).sum(axis=1) * (counts * dy**2).sum(axis=1))
        covariance = (weighted * dy).sum(axis=1)
        found.append(np.divide(covariance, norm, out=np.full_like(norm, np.nan), where=norm > 0))
    return np.concatenate(found) if found else np.empty(0)


def mean_resamples(
    values: Float[np.ndarray, "samples"], *, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resamples"]:
    """Mean of each bootstrap resample of the values; none of a lone value: it has no spread."""
    chunks = resample_counts(len(values), resamples if len(values) > 1 else 0, rng)
    means = [counts @ values / len(values) for counts in chunks]
    return np.concatenate(means) if means else np.empty(0)


def group_mean_resamples(
    values: Float[np.ndarray, "samples"],
    groups: Int[np.ndarray, "samples"],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "resamples"]:
    """Mean of each bootstrap resample of whole groups, such as all clips of one person.

    Samples of a group depend on each other; drawn singly, they would pass for more than they are.
    There is none of a lone group, which tells no spread between groups.

    Args:
        values: of each sample.
        groups: number of each sample's group, from 0.
        resamples: how many.
        rng: draws the groups.
    """
    sizes = np.bincount(groups)
    sums = np.bincount(groups, weights=values)
    chunks = resample_counts(len(sizes), resamples if len(sizes) > 1 else 0, rng)
    means = [counts @ sums / (counts @ sizes) for counts in chunks]
    return np.concatenate(means) if means else np.empty(0)


def block_mean_resamples(
    values: Float[np.ndarray, "samples"], *, block: int, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resamples"]:
    """Mean of each circular block bootstrap resample of values that depend on their neighbours.

    Each resample is as many blocks, of neighbours in a circle, as cover the values; drawing
    single values would take overlapping windows for independent ones. There is none where one
    block covers all values.

    Args:
        values: in order of time.
        block: neighbours drawn together, at least as far as the dependence reaches.
        resamples: how many.
        rng: draws the blocks' starts.

    Reference:
        Politis & Romano 1992, A circular block-resampling procedure for stationary data.
    """
    count = len(values)
    if block >= count:
        return np.empty(0)
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[:block]]))])
    starts = rng.integers(count, size=(resamples, -(-count // block)))
    return (sums[starts + block] - sums[starts]).mean(axis=1) / block
