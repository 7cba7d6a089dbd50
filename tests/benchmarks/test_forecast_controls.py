"""Controls of the forecasting benchmark: known answers, and the measured numbers on ETT."""

import numpy as np
import pytest

from unlabel.benchmarks.forecast_controls import (
    controls,
    daily_profile,
    repeat_last,
    train_mean,
)
from unlabel.benchmarks.forecast_ridge import ALPHAS, raw_features, ridge
from unlabel.benchmarks.forecasting import window_errors
from unlabel.benchmarks.forecasting_data import ForecastData, load_forecasting

LTSF = (96, 192, 336, 720)


def made(values, *, day=4):
    steps = len(values)
    ends = (steps * 6 // 10, steps * 8 // 10, steps)
    return ForecastData("made", values, ("a",) * values.shape[1], ends, day)


def mse(data, fit, *, lookback, horizons):
    errors, _ = window_errors(data, fit, lookback=lookback, horizons=horizons)
    return {h: float(e[:, 0].mean()) for h, e in errors.items()}


@pytest.fixture
def walk():
    return made(np.random.default_rng(0).normal(size=(400, 2)).cumsum(axis=0))


def test_repeat_last_repeats_the_last_value():
    history = np.arange(12.0).reshape(1, 2, 6)
    found = repeat_last(made(np.zeros((100, 2))), lookback=6, horizons=[3])(history)[3]
    np.testing.assert_array_equal(found, [[[5] * 3, [11] * 3]])


def test_yesterday_is_the_last_day_again_and_the_profile_a_mean_of_days():
    data, history = made(np.zeros((100, 1))), np.arange(10.0)[None, None]
    found = daily_profile(1)(data, lookback=10, horizons=[6])(history)[6]
    np.testing.assert_array_equal(found, [[[6, 7, 8, 9, 6, 7]]])
    found = daily_profile(7)(data, lookback=10, horizons=[3])(history)[3]
    np.testing.assert_array_equal(found, [[[4, 5, 6]]])  # two whole days: 2..5 and 6..9


def test_a_series_that_repeats_itself_daily_is_forecast_without_error_by_profile_and_ridge():
    values = np.tile(np.random.default_rng(0).normal(size=(4, 2)), (100, 1))
    for fit in (daily_profile(1), daily_profile(7), ridge(raw_features(), alphas=(1e-6,))):
        found = mse(made(values), fit, lookback=12, horizons=(5, 9))
        assert max(found.values()) < 1e-10


def test_no_day_no_daily_control():
    data = made(np.zeros((100, 1)), day=0)
    assert list(controls(data, 20)) == ["repeat last", "ridge on values"]
    hourly = made(np.zeros((100, 1)), day=24)
    assert "yesterday" not in controls(hourly, 20)
    assert list(controls(hourly, 40)) == ["repeat last", "yesterday", "ridge on values"]
    assert "3-day profile" in controls(hourly, 80) and "7-day profile" in controls(hourly, 336)
    with pytest.raises(ValueError, match="no steps a day"):
        daily_profile()(data, lookback=20, horizons=[3])


@pytest.mark.parametrize("norm", ["last", "standard"])
def test_horizons_fitted_together_are_those_fitted_alone(walk, norm):
    fit = ridge(raw_features(norm))
    together = fit(walk, lookback=20, horizons=(3, 11, 7))
    for h in (3, 7, 11):
        alone = fit(walk, lookback=20, horizons=(h,))
        assert together.heads[h][0].alpha == alone.heads[h][0].alpha
        np.testing.assert_allclose(together.heads[h][0].weight, alone.heads[h][0].weight, atol=1e-9)


def test_ridge_of_standardised_windows_minimises_the_error_in_the_units_of_the_data(walk):
    # Against scikit-learn on all windows at once, each weighed by its variance.
    from sklearn.linear_model import Ridge

    fit = ridge(raw_features("standard"), alphas=(2.0,))
    head = fit(walk, lookback=20, horizons=(5,)).heads[5][0]
    history, future = (
        np.concatenate([p.reshape(-1, p.shape[2]) for p in parts])
        for parts in zip(*walk.windows("train", 20).chunks(5), strict=True)
    )
    mean, std = history.mean(1, keepdims=True), history.std(1, keepdims=True)
    peer = Ridge(alpha=2.0).fit(
        (history - mean) / std, (future - mean) / std, sample_weight=std[:, 0] ** 2
    )
    np.testing.assert_allclose(head.weight, peer.coef_.T, atol=1e-8)
    np.testing.assert_allclose(head.bias, peer.intercept_, atol=1e-8)


def test_selection_by_forecasts_finds_the_alpha_that_selection_by_sums_finds(walk):
    for features in (raw_features("last"), raw_features("standard")):
        chosen = [
            ridge(features, alphas=ALPHAS["ltsf"], select=s)(walk, lookback=20, horizons=(3, 8))
            for s in ("mse", "rmse+mae")
        ]
        for h in (3, 8):
            alphas = [np.log10(f.heads[h][0].alpha) for f in chosen]
            assert abs(alphas[0] - alphas[1]) <= 1  # two criteria, one neighbourhood


def test_no_control_forecasts_white_noise_better_than_its_mean():
    rng = np.random.default_rng(0)
    data = made(rng.normal(size=(4000, 3)), day=24)
    fits = {**controls(data, 96), "standard": ridge(raw_features("standard"))}
    mean = mse(data, train_mean, lookback=96, horizons=(24,))[24]
    found = {n: mse(data, f, lookback=96, horizons=(24,))[24] for n, f in fits.items()}
    assert mean == pytest.approx(1.0, abs=0.05)
    assert all(error > mean - 1e-3 for error in found.values()), found
    # Known answers: two independent values differ by variance 2; a mean of n by 1 + 1/n.
    assert found["repeat last"] == pytest.approx(2.0, rel=0.05)
    assert found["4-day profile"] == pytest.approx(1.25, rel=0.05)


# -- the numbers measured on real data, by an implementation that this one shares nothing with ----

RIDGE = {
    "ETTh1": {24: 0.3176, 48: 0.3423, 96: 0.3696, 168: 0.3965, 192: 0.4030, 336: 0.4261,
              720: 0.4325},
    "ETTh2": {24: 0.1649, 48: 0.2151, 96: 0.2719, 168: 0.3224, 192: 0.3338, 336: 0.3582,
              720: 0.3925},
    "ETTm1": {24: 0.2111, 96: 0.3005, 192: 0.3357, 336: 0.3703, 720: 0.4262},
    "ETTm2": {96: 0.1646, 192: 0.2197, 336: 0.2733, 720: 0.3673},
}  # fmt: skip
RIDGE_OT = {
    "ETTh1": {24: 0.0260, 48: 0.0383, 96: 0.0528, 168: 0.0655, 336: 0.0802, 720: 0.0795},
    "ETTh2": {24: 0.0659, 48: 0.0938, 96: 0.1295, 168: 0.1618, 336: 0.1948, 720: 0.2240},
}
NAIVE = {
    ("ETTh1", "repeat last"): {24: 1.2220, 48: 1.2675, 96: 1.2944, 192: 1.3249, 336: 1.3299,
                               720: 1.3351},
    ("ETTh1", "yesterday"): {24: 0.4244, 48: 0.4650, 96: 0.5122, 192: 0.5808, 336: 0.6499,
                             720: 0.6554},
    ("ETTh1", "7-day profile"): {24: 0.3504, 96: 0.4000, 336: 0.4690, 720: 0.4510},
    ("ETTh2", "repeat last"): {24: 0.2712, 96: 0.4317, 192: 0.5337, 336: 0.5973, 720: 0.5945},
    ("ETTh2", "yesterday"): {24: 0.2659, 96: 0.3905, 192: 0.4819, 336: 0.5324, 720: 0.5255},
    ("ETTh2", "7-day profile"): {24: 0.2818, 96: 0.3497, 336: 0.4100, 720: 0.4196},
    ("ETTm1", "repeat last"): {24: 0.7198, 96: 1.2139, 720: 1.3223},
    ("ETTm1", "yesterday"): {24: 0.4221, 96: 0.4227, 720: 0.5739},
    ("ETTm2", "repeat last"): {24: 0.1492, 96: 0.2665, 720: 0.5216},
    ("ETTm2", "yesterday"): {24: 0.2623, 96: 0.2631, 720: 0.4708},
}  # fmt: skip


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", RIDGE)
def test_ridge_on_raw_windows_gives_the_measured_errors(data_folder, name):
    data = load_forecasting(name, data_folder / "series")
    found = mse(data, controls(data, 336)["ridge on values"], lookback=336, horizons=RIDGE[name])
    assert found == pytest.approx(RIDGE[name], abs=0.0002 if name < "ETTm" else 0.002)


@pytest.mark.data
@pytest.mark.parametrize("name", RIDGE_OT)
def test_ridge_on_the_target_alone_gives_the_measured_errors(data_folder, name):
    data = load_forecasting(name, data_folder / "series", univariate=True)
    fit = controls(data, 336)["ridge on values"]
    assert mse(data, fit, lookback=336, horizons=RIDGE_OT[name]) == pytest.approx(
        RIDGE_OT[name], abs=0.0005
    )


@pytest.mark.data
@pytest.mark.parametrize(("name", "control"), NAIVE)
def test_naive_forecasts_give_the_measured_errors(data_folder, name, control):
    expected = NAIVE[name, control]
    data = load_forecasting(name, data_folder / "series")
    found = mse(data, controls(data, 336)[control], lookback=336, horizons=expected)
    assert found == pytest.approx(expected, abs=0.0001)


@pytest.mark.data
def test_the_usual_windows_are_those_of_the_published_repeat_row_but_for_its_dropped_batch(
    data_folder,
):
    # Zeng et al. 2023, table 2, dropped the last incomplete batch of 32 windows of the test.
    published = {96: 1.295, 192: 1.325, 336: 1.323, 720: 1.339}
    data = load_forecasting("ETTh1", data_folder / "series")
    errors, _ = window_errors(data, repeat_last, lookback=336, horizons=LTSF)
    dropped = {h: float(e[: len(e) // 32 * 32, 0].mean()) for h, e in errors.items()}
    assert dropped == pytest.approx(published, abs=0.001)
    assert abs(errors[336][:, 0].mean() - published[336]) > 0.005
