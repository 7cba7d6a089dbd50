"""Sizes of clusters against Zipf's law."""

import math

import pytest
import torch
from scipy.stats import entropy

from unlabel.benchmarks.zipf import cluster_sizes, worst_fitness, zipf_fitness


def harmonic(k):
    return sum(1 / i for i in range(1, k + 1))


@pytest.mark.parametrize("k", [1, 2, 7, 50])
def test_sizes_like_one_by_rank_are_the_best(k):
    sizes = [1 / rank for rank in range(1, k + 1)]
    assert zipf_fitness(sizes) == pytest.approx(0, abs=1e-12)
    assert zipf_fitness([1000 * s for s in reversed(sizes)]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7, 50])
def test_clusters_alike_give_the_closed_form(k):
    wanted = math.log(k) - math.log(harmonic(k)) - math.lgamma(k + 1) / k
    assert zipf_fitness([3] * k) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("k", [2, 7, 50])
def test_all_in_one_cluster_is_the_worst(k):
    assert worst_fitness(k) == pytest.approx(-math.log(harmonic(k)))
    for seed in range(20):
        sizes = torch.rand(k, generator=torch.Generator().manual_seed(seed)).tolist()
        assert worst_fitness(k) < zipf_fitness(sizes) <= 0


def test_fitness_is_scipys_divergence():
    sizes = [90, 31, 0, 12, 44]
    prior = [1 / i / harmonic(5) for i in range(1, 6)]
    wanted = -entropy(sorted(sizes, reverse=True), prior)
    assert zipf_fitness(sizes) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("sizes", [[], [0, 0], [3, -1]])
def test_what_is_no_size_is_refused(sizes):
    with pytest.raises(ValueError, match="Sizes of clusters"):
        zipf_fitness(sizes)


def test_clusters_apart_are_counted_and_what_is_all_one_is_one():
    rows = torch.cat([torch.full((n, 2), 10.0 * n) for n in (12, 6, 4, 3)])
    assert cluster_sizes(rows, 4, starts=2) == [[12, 6, 4, 3]] * 2
    assert zipf_fitness([12, 6, 4, 3]) == pytest.approx(0, abs=1e-12)
    assert cluster_sizes(torch.zeros(9, 3), 3, starts=1) == [[9, 0, 0]]
    with pytest.raises(ValueError, match="3 samples cannot be 4 clusters"):
        cluster_sizes(torch.zeros(3, 3), 4)
