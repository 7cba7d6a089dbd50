"""Closed-form ridge from sums, against scikit-learn on the rows themselves."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from unlabel.benchmarks.ridge import (
    BlockPath,
    Linear,
    Moments,
    RidgePath,
    fit_nested,
    fit_ridge,
    refit,
)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12)) + 3.0
    y = x @ rng.normal(size=(12, 5)) + rng.normal(size=(400, 5)) - 7.0
    return x, y, rng.uniform(0.01, 3.0, size=400)


def summed(x, y, scale=None, *, chunk=400):
    sums = Moments(x.shape[1], y.shape[1])
    for i in range(0, len(x), chunk):
        part = slice(i, i + chunk)
        sums.add(x[part], y[part], None if scale is None else scale[part])
    return sums


@pytest.mark.parametrize("alpha", [0.1, 10.0, 1000.0])
def test_ridge_is_scikit_learns(rows, alpha):
    x, y, _ = rows
    fit, peer = RidgePath(summed(x, y)).at(alpha), Ridge(alpha=alpha).fit(x, y)
    np.testing.assert_allclose(fit.weight, peer.coef_.T, atol=1e-8)
    np.testing.assert_allclose(fit.bias, peer.intercept_, atol=1e-8)
    np.testing.assert_allclose(fit(x), peer.predict(x), atol=1e-8)


@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_a_rows_scale_squared_is_scikit_learns_sample_weight(rows, alpha):
    x, y, scale = rows
    peer = Ridge(alpha=alpha).fit(x, y, sample_weight=scale**2)
    fit = RidgePath(summed(x, y, scale)).at(alpha)
    np.testing.assert_allclose(fit.weight, peer.coef_.T, atol=1e-8)
    np.testing.assert_allclose(fit.bias, peer.intercept_, atol=1e-8)


@pytest.mark.parametrize("chunk", [1, 7, 399])
def test_chunks_do_not_change_the_fit(rows, chunk):
    whole, parts = summed(*rows), summed(*rows, chunk=chunk)
    one, other = RidgePath(whole).at(1.0), RidgePath(parts).at(1.0)
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-10)


def test_squared_error_from_sums_is_that_of_the_rows(rows):
    x, y, scale = rows
    fit = Linear(np.random.default_rng(1).normal(size=(12, 5)), np.arange(5.0))
    expected = float((scale[:, None] ** 2 * (fit(x) - y) ** 2).sum())
    assert fit.squared_error(summed(x, y, scale)) == pytest.approx(expected, rel=1e-10)


def test_first_targets_alone_give_the_fit_of_those_targets(rows):
    x, y, _ = rows
    few, all_ = RidgePath(summed(x, y).first(2)).at(5.0), RidgePath(summed(x, y)).at(5.0)
    np.testing.assert_allclose(few.weight, all_.weight[:, :2], atol=1e-10)


def test_rows_that_know_the_first_targets_only_leave_the_others_alone(rows):
    x, y, _ = rows
    sums = summed(x, y)
    sums.add(x[:50], y[:50, :2])
    np.testing.assert_allclose(sums.xy[:, 2:], summed(x, y).xy[:, 2:])
    both = summed(np.concatenate([x, x[:50]]), np.concatenate([y, y[:50]]))
    np.testing.assert_allclose(sums.first(2).xy, both.xy[:, :2])
    np.testing.assert_allclose(sums.first(2).yy, both.yy[:2])


def test_a_feature_that_is_always_zero_gets_no_weight(rows):
    x, y, _ = rows
    x = np.concatenate([x, np.zeros((400, 1))], axis=1)
    np.testing.assert_allclose(RidgePath(summed(x, y)).at(0.1).weight[-1], 0.0, atol=1e-12)


def test_alpha_is_the_one_with_the_least_error_on_the_validation_rows(rows):
    x, y, _ = rows
    train, held = summed(x[:40], y[:40]), summed(x[40:], y[40:])
    alphas = (1e-3, 1.0, 1e3, 1e6)
    (chosen,) = fit_ridge([train], [held], alphas)
    peers = [Ridge(alpha=a).fit(x[:40], y[:40]).predict(x[40:]) for a in alphas]
    best = alphas[int(np.argmin([((p - y[40:]) ** 2).sum() for p in peers]))]
    assert chosen.alpha == best


def test_groups_share_the_alpha_that_is_best_for_their_sum(rows):
    x, y, _ = rows
    rng = np.random.default_rng(2)
    signal = summed(x[:40], y[:40]), summed(x[40:], y[40:])
    loud = 1e4 * rng.normal(size=(400, 5))  # nothing to learn, and most of the error
    noise = summed(x[:40], loud[:40]), summed(x[40:], loud[40:])
    alphas = (1e-3, 1e9)
    assert fit_ridge([signal[0]], [signal[1]], alphas)[0].alpha == 1e-3
    both = fit_ridge([signal[0], noise[0]], [signal[1], noise[1]], alphas)
    assert [head.alpha for head in both] == [1e9, 1e9]


def test_refuses_no_rows_values_that_are_not_finite_and_alpha_zero(rows):
    x, y, _ = rows
    with pytest.raises(ValueError, match="sum to 0"):
        RidgePath(Moments(3, 2))
    with pytest.raises(ValueError, match="finite"):
        RidgePath(summed(np.where(x > 5, np.nan, x), y))
    with pytest.raises(ValueError, match="alpha above 0"):
        RidgePath(summed(x, y)).at(0.0)


def two_blocks(noise=50, rows=300):
    """Ten features that matter and others that do not; sums of 80 rows, and of the others."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 10 + noise))
    y = x[:, :10] @ rng.normal(size=(10, 3)) + 2 + rng.normal(size=(rows, 3))
    parts = [(x[:80], y[:80]), (x[80:], y[80:])]
    return x, y, [summed(*part) for part in parts]


@pytest.mark.parametrize(("alpha", "rest"), [(0.5, 20.0), (30.0, 0.1), (2.0, 2.0)])
def test_two_penalties_are_scikit_learns_on_features_scaled_by_hand(alpha, rest):
    x, y, (train, _) = two_blocks()
    fit = BlockPath(train, split=10, alpha=alpha).at(rest)
    by = np.where(np.arange(60) < 10, 1.0, np.sqrt(alpha / rest))
    theirs = Ridge(alpha=alpha).fit(x[:80] * by, y[:80])
    np.testing.assert_allclose(fit(x), theirs.predict(x * by), rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(fit.penalty, np.where(np.arange(60) < 10, alpha, rest))


def test_features_that_add_nothing_leave_the_ridge_on_the_first_ones_exactly():
    x, y, (train, held) = two_blocks()
    alphas = (0.1, 1.0, 10.0)
    (fit,) = fit_nested([train], [held], alphas, split=10)
    (alone,) = fit_ridge([summed(x[:80, :10], y[:80])], [summed(x[80:, :10], y[80:])], alphas)
    np.testing.assert_allclose(fit.weight[:10], alone.weight)
    np.testing.assert_allclose(fit.bias, alone.bias)
    assert not fit.weight[10:].any() and fit.rest == np.inf and fit.alpha == alone.alpha


def test_features_that_add_something_get_weight_beside_the_first_ones():
    x, y, _ = two_blocks()
    y = y + 2 * x[:, 20:23]
    train, held = summed(x[:150], y[:150]), summed(x[150:], y[150:])
    alphas = (0.1, 1.0, 10.0)
    (fit,) = fit_nested([train], [held], alphas, split=10)
    (alone,) = fit_ridge([train.block(10)], [held.block(10)], alphas)
    assert fit.rest in alphas and fit.alpha == alone.alpha
    assert fit.squared_error(held) < 0.5 * alone.squared_error(held.block(10))


def test_groups_without_further_features_share_one_ridge():
    rng = np.random.default_rng(1)
    own, other = rng.normal(size=(2, 60, 4)), rng.normal(size=(60, 40))  # 40 of noise
    y = own @ rng.normal(size=(4, 2)) + rng.normal(size=(2, 60, 2)) / 2
    sides = [np.concatenate([x, other], axis=1) for x in own]
    train = [summed(x[:30], v[:30]) for x, v in zip(sides, y, strict=True)]
    held = [summed(x[30:], v[30:]) for x, v in zip(sides, y, strict=True)]
    one, two = fit_nested(train, held, (0.1, 1.0), split=4)
    both = np.concatenate(own[:, :30]), np.concatenate(y[:, :30])
    checks = np.concatenate(own[:, 30:]), np.concatenate(y[:, 30:])
    (alone,) = fit_ridge([summed(*both)], [summed(*checks)], (0.1, 1.0))
    for fit in (one, two):
        np.testing.assert_allclose(fit.weight[:4], alone.weight)
        assert not fit.weight[4:].any()


def test_a_refit_has_the_penalties_that_were_chosen():
    x, y, _ = two_blocks()
    whole = summed(x, y)
    for rest in (5.0, np.inf):
        like = Linear(np.zeros((60, 3)), np.zeros(3), 2.0, split=10, rest=rest)
        found = refit(whole, like)
        by = np.where(np.arange(60) < 10, 1.0, np.sqrt(2.0 / rest))
        theirs = Ridge(alpha=2.0).fit(x * by, y)
        np.testing.assert_allclose(found(x), theirs.predict(x * by), rtol=1e-6, atol=1e-8)
        assert (found.alpha, found.rest, found.split) == (2.0, rest, 10)
    plain = refit(whole, Linear(np.zeros((60, 3)), np.zeros(3), 2.0))
    np.testing.assert_allclose(plain(x), Ridge(alpha=2.0).fit(x, y).predict(x), atol=1e-8)
