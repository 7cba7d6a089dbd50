"""What is asked of several kinds of data in one space: ranks and their chance, gap, neighbours."""

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.stats import hypergeom

from unlabel.benchmarks.intervals import CHUNK as DRAWN
from unlabel.benchmarks.intervals import unit_rows
from unlabel.benchmarks.retrieval import CHUNK
from unlabel.objectives import moments

KS = (1, 5, 10)


def ordered(sides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which side asks, and which one is searched."""
    return permutations(sides, 2)


def named(asks: str, searched: str) -> str:
    """How tables call it."""
    return f"{asks} to {searched}"


def answers(
    asked: Int[np.ndarray, "samples"], searched: Int[np.ndarray, "samples"]
) -> tuple[Any, Int[np.ndarray, "documents"]]:
    """Which documents answer which query, where samples are equal to each other.

    Equal documents (the same caption of two clips) are one, and equal queries have the documents
    of each of them.

    Args:
        asked: of each sample, a number that equal queries have in common.
        searched: likewise of documents.

    Returns:
        `right` as `ranks_of_own` takes it, a row a sample; and a sample that has each document.
    """
    _, query = np.unique(asked, return_inverse=True)
    _, rows, document = np.unique(searched, return_index=True, return_inverse=True)
    right = sparse.csr_matrix((np.ones(len(query), bool), (query, document)))
    return right[query], rows


def chance_of_ranks(right: Any) -> Float[np.ndarray, "documents"]:
    """The share of queries that a random order answers within the first 1, 2, ... documents.

    Of n documents with one right answer each that is k / n; with m right ones it is the
    hypergeometric `1 - C(n - m, k) / C(n, k)`.

    Args:
        right: what `answers` gave.
    """
    count = right.shape[1]
    many, often = np.unique(np.asarray(right.sum(axis=1)), return_counts=True)
    k = np.arange(1, count + 1)
    within = [n * (1 - hypergeom.pmf(0, count, m, k)) for m, n in zip(many, often, strict=True)]
    return np.sum(within, axis=0) / right.shape[0]


def mean_reciprocal(within: Float[np.ndarray, "ranks"]) -> float:
    """Mean reciprocal rank of what `chance_of_ranks` gave."""
    return float((np.diff(within, prepend=0.0) / np.arange(1, len(within) + 1)).sum())


def median_of(within: Float[np.ndarray, "ranks"]) -> float:
    """Median rank of what `chance_of_ranks` gave."""
    low, high = (int(np.argmax(within > 0.5 + shift)) + 1 for shift in (-1e-9, 1e-9))
    return (low + high) / 2


def median_resamples(
    ranks: Int[np.ndarray, "queries"], *, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resamples"]:
    """Median of each bootstrap resample of the ranks."""
    sizes = [min(DRAWN, resamples - start) for start in range(0, resamples, DRAWN)]
    drawn = [
        np.median(ranks[rng.integers(len(ranks), size=(n, len(ranks)))], axis=1) for n in sizes
    ]
    return np.concatenate(drawn) if drawn else np.empty(0)


def gap(one: Float[np.ndarray, "samples width"], two: Float[np.ndarray, "samples width"]) -> float:
    """Distance between the means of two sides' unit vectors: 0 of equal sets, 2 of opposite points.

    Reference: Liang et al. 2022, arXiv 2203.02053, section 2.
    """
    return float(np.linalg.norm(unit_rows(one).mean(axis=0) - unit_rows(two).mean(axis=0)))


def alignment(
    one: Float[np.ndarray, "samples width"], two: Float[np.ndarray, "samples width"]
) -> float:
    """See `moments.alignment`."""
    return float(moments.alignment(torch.from_numpy(one), torch.from_numpy(two)))


def uniformity(one: Float[np.ndarray, "samples width"]) -> float:
    """See `moments.uniformity`."""
    return float(moments.uniformity(torch.from_numpy(one)))


def neighbours_right(
    vectors: Float[np.ndarray, "samples width"], labels: Int[np.ndarray, "samples"]
) -> Float[np.ndarray, "samples"]:
    """1 where the nearest other sample by cosine is of the same class, else 0."""
    unit = unit_rows(vectors)
    found = np.empty(len(unit), np.int64)
    for start in range(0, len(unit), CHUNK):
        cosine = unit[start : start + CHUNK] @ unit.T
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -np.inf
        found[start : start + CHUNK] = cosine.argmax(axis=1)
    return (labels[found] == labels).astype(float)


__all__ = ["KS", "alignment", "answers", "chance_of_ranks", "gap", "mean_reciprocal", "median_of",
           "median_resamples", "named", "neighbours_right", "ordered", "uniformity"]  # fmt: skip
