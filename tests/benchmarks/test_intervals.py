from typing import Any

import numpy as np
import pytest
from scipy import sparse, stats

from unlabel.benchmarks.intervals import (
    block_mean_resamples,
    cosine_of_pairs,
    embed_all,
    group_mean_resamples,
    mean_resamples,
    resample_counts,
    spearman,
    spearman_resamples,
    unit_rows,
)
from unlabel.benchmarks.result import Score


def test_resampled_spearman_equals_scipy_on_the_drawn_rows_with_ties():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 12, 60).astype(float)
    y = x + rng.integers(-6, 6, 60)
    ours = spearman_resamples(x, y, resamples=120, rng=np.random.default_rng(7))
    expected = []
    for counts in resample_counts(60, 120, np.random.default_rng(7)):
        for row in counts:
            drawn = np.repeat(np.arange(60), row)
            expected.append(stats.spearmanr(x[drawn], y[drawn]).statistic)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_every_resample_draws_as_many_pairs_as_there_are():
    counts = np.concatenate(list(resample_counts(37, 123, np.random.default_rng(0))))
    assert counts.shape == (123, 37)
    assert (counts.sum(axis=1) == 37).all()


def test_spearman_interval_covers_the_truth_about_as_often_as_it_says():
    # Population Spearman of a bivariate normal: 6 / pi * arcsin(rho / 2).
    rng, rho = np.random.default_rng(1), 0.7
    truth, covered = 6 / np.pi * np.arcsin(rho / 2), 0
    for _ in range(200):
        x = rng.normal(size=150)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=150)
        low, high = np.percentile(spearman_resamples(x, y, resamples=200, rng=rng), (2.5, 97.5))
        covered += low <= truth <= high
    assert 176 <= covered <= 199  # 95 % of 200, give or take


def test_resample_without_spread_is_nan_and_not_a_number():
    x, y = np.array([1.0, 1.0, 2.0]), np.array([3.0, 3.0, 4.0])
    drawn = spearman_resamples(x, y, resamples=300, rng=np.random.default_rng(0))
    assert np.isnan(drawn).any()
    assert np.nanmin(drawn) == pytest.approx(1)


def test_mean_resamples_have_the_standard_error_of_the_mean():
    values = np.random.default_rng(0).normal(size=400)
    drawn = mean_resamples(values, resamples=4000, rng=np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.005)
    assert drawn.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_spearman_is_nan_where_one_side_is_constant():
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))


def test_sparse_and_dense_rows_have_the_same_cosines():
    dense = np.random.default_rng(0).poisson(0.3, size=(40, 30)).astype(float)
    rows = [unit_rows(m) for m in (dense, sparse.csr_matrix(dense))]
    first, second = (cosine_of_pairs(r[:20], r[20:]) for r in rows)
    np.testing.assert_allclose(first, second, atol=1e-12)


def test_rows_of_zeros_stay_zero_and_broken_rows_become_nan():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [np.inf, 1.0]]))
    np.testing.assert_allclose(rows[:2], [[0.6, 0.8], [0, 0]])
    assert np.isnan(rows[2]).all()


def test_encoder_that_returns_a_wrong_shape_is_refused_with_the_shape():
    with pytest.raises(ValueError, match=r"shape \(2,\) for 2 sentences"):
        embed_all(lambda s: np.zeros(2), ["a", "b"])


def test_what_tells_no_spread_has_no_interval():
    """One value, one group or one block, drawn a thousand times, is a thousand times the same."""
    random = np.random.default_rng(0)
    values = random.random(20)
    how: dict[str, Any] = {"resamples": 50, "rng": random}
    alone = (
        mean_resamples(values[:1], **how),
        group_mean_resamples(values, np.zeros(20, int), **how),
        block_mean_resamples(values, block=20, **how),
    )
    for drawn in alone:
        score = Score.of(1.0, drawn)
        assert not len(drawn) and np.isnan(score.low) and np.isnan(score.high)
    assert len(group_mean_resamples(values, np.arange(20) // 10, **how)) == 50
    assert len(block_mean_resamples(values, block=19, **how)) == 50
