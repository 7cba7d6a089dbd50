"""The forecasting benchmark: errors, intervals, frozen encoders and runs of several seeds."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from unlabel.benchmarks.forecast_controls import repeat_last, train_mean
from unlabel.benchmarks.forecast_encoder import encoder_features, load_forecast_encoder, own_steps
from unlabel.benchmarks.forecast_plot import plot_forecast
from unlabel.benchmarks.forecast_ridge import raw_features, ridge
from unlabel.benchmarks.forecasting import bench_forecasting, evaluate_forecasting, window_errors
from unlabel.benchmarks.forecasting_data import ForecastData, load_forecasting
from unlabel.benchmarks.intervals import block_mean_resamples, mean_resamples
from unlabel.core import Batch, view
from unlabel.modalities.series import SeriesEncoder
from unlabel.report import figures
from unlabel.report.scores import score_table, verdict

LOOKBACK = 24


@pytest.fixture
def folder(tmp_path):
    """Two hourly sets: a noisy daily rhythm that drifts, and white noise."""
    rng = np.random.default_rng(0)
    time = pd.date_range("2020-01-01", periods=1200, freq="h")
    for name, weight in (("daily", 3.0), ("noise", 0.0)):
        rhythm = weight * np.sin(2 * np.pi * np.arange(1200) / 24)
        drift = weight * rng.normal(scale=0.05, size=(1200, 2)).cumsum(axis=0)
        values = rhythm[:, None] + drift + rng.normal(size=(1200, 2))
        table = pd.DataFrame(values, columns=["a", "OT"])
        table.insert(0, "date", time)
        table.to_csv(tmp_path / f"{name}.csv.gz", index=False)
    return tmp_path


def encoder(*, seed=0, context=LOOKBACK, **settings):
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "d_model": 16, "num_attention_heads": 2, "ffn_dim": 32}
    return SeriesEncoder.from_config({**sizes, "patch_length": 6}, context=context, **settings)


# -- errors and intervals ---------------------------------------------------------------------


def test_errors_are_those_of_every_window_by_hand(folder):
    data = load_forecasting("daily", folder)
    errors, _ = window_errors(data, repeat_last, lookback=LOOKBACK, horizons=(5, 12))
    first = data.borders[1]
    for h, found in errors.items():
        assert len(found) == 1200 - first - h + 1
        for i in (0, 7, len(found) - 1):
            now = first + i
            off = data.values[now : now + h] - data.values[now - 1]
            np.testing.assert_allclose(found[i], [(off**2).mean(), np.abs(off).mean()])


def test_controls_come_in_one_table_where_lower_is_better(folder, tmp_path):
    result = evaluate_forecasting(
        folder=folder, sets=("daily", "noise"), horizons=(6, 12), lookback=48, bootstrap=50
    )
    names = ["repeat last", "yesterday", "2-day profile", "ridge on values"]
    assert [e.name for e in result.encoders] == names
    assert list(result.encoders[0].scores) == [
        f"{s} {h} {m}" for s in ("daily", "noise") for h in (6, 12) for m in ("MSE", "MAE")
    ]
    scores = {e.name: e.scores["daily 12 MSE"] for e in result.encoders}
    assert scores["ridge on values"].score < scores["yesterday"].score
    assert all(s.low <= s.score <= s.high and s.pairs == 240 - 12 + 1 for s in scores.values())
    saved = json.loads(result.save(tmp_path / "forecasting.json").read_text())
    assert saved["better"] == "lower" and saved["digits"] == 4
    assert "Lower is better." in str(result.table().caption)
    assert score_table(saved).digits == 4 and score_table(saved).better == "lower"


def test_the_average_of_the_published_horizons_is_theirs(folder):
    data = pd.read_csv(folder / "noise.csv.gz")
    long = pd.concat([data] * 5, ignore_index=True)
    long["date"] = pd.date_range("2020-01-01", periods=len(long), freq="h")
    long.to_csv(folder / "long.csv", index=False)
    options = {"folder": folder, "sets": ("long",), "lookback": LOOKBACK, "bootstrap": 0}
    whole = evaluate_forecasting({"mean": train_mean}, **options).encoders[0].scores
    parts = [whole[f"long {h} MSE"].score for h in (96, 192, 336, 720)]
    assert whole["long mean MSE"].score == pytest.approx(np.mean(parts))
    some = evaluate_forecasting({"mean": train_mean}, horizons=(96, 192), **options)
    assert "long mean MSE" not in some.encoders[0].scores


def test_blocks_keep_the_dependence_that_single_draws_lose():
    rng = np.random.default_rng(0)
    noise, values = rng.normal(size=20_000), np.zeros(20_000)
    for i in range(1, len(values)):
        values[i] = 0.9 * values[i - 1] + noise[i]
    # The mean of an AR(1) of n values has variance sigma^2 / (1 - phi)^2 / n, but for its ends.
    known = 10 / np.sqrt(len(values))
    blocks = block_mean_resamples(values, block=200, resamples=2000, rng=rng)
    single = mean_resamples(values, resamples=200, rng=rng)
    assert np.std(blocks) == pytest.approx(known, rel=0.25)
    assert np.std(single) < 0.5 * known


def test_blocks_of_one_are_the_plain_bootstrap():
    rng = np.random.default_rng(0)
    values = rng.normal(size=500)
    one = block_mean_resamples(values, block=1, resamples=4000, rng=rng)
    assert np.std(one) == pytest.approx(np.std(values) / np.sqrt(500), rel=0.1)


# -- frozen encoders ------------------------------------------------------------------------------


def test_the_ridges_weights_in_a_linear_head_on_the_encoder_forecast_the_same(folder):
    data, model = load_forecasting("daily", folder), encoder().eval()
    fit = ridge(encoder_features(model, batch_size=7))
    forecaster = fit(data, lookback=LOOKBACK, horizons=(5, 9))
    history, _ = next(data.windows("test", LOOKBACK).chunks(9))
    linear = forecaster.heads[9][0]
    head = torch.nn.Linear(*linear.weight.shape).double()
    head.load_state_dict(
        {"weight": torch.tensor(linear.weight.T), "bias": torch.tensor(linear.bias)}
    )
    values = torch.from_numpy(history[:, 1, :, None]).float()
    seen, place = torch.ones_like(values, dtype=torch.bool), torch.arange(len(values))
    batch = Batch({"values": values, "observed": seen}, seen[:, :, 0], place, place)
    with torch.inference_mode():
        window = model.window(batch, view("plain"))
        tokens = model(model.finish(window)).tokens.flatten(1).double()
        assert window.loc is not None and window.scale is not None
        expected = head(tokens) * window.scale[:, :, 0] + window.loc[:, :, 0]
    np.testing.assert_allclose(forecaster(history)[9][:, 1], expected, atol=1e-5)


def test_forecasts_move_and_stretch_with_the_history(folder):
    data = load_forecasting("daily", folder)
    forecaster = ridge(encoder_features(encoder()))(data, lookback=LOOKBACK, horizons=(5,))
    history, _ = next(data.windows("test", LOOKBACK).chunks(5))
    moved = forecaster(3 * history + 7)[5]
    np.testing.assert_allclose(moved, 3 * forecaster(history)[5] + 7, atol=1e-3)


@pytest.mark.parametrize(("take", "width"), [("tokens", 4 * 16), ("pooled", 16), ("last", 16)])
def test_features_are_the_last_steps_of_each_channel(take, width):
    model, rng = encoder(), np.random.default_rng(0)
    history = rng.normal(size=(5, 3, LOOKBACK + 10))
    features = encoder_features(model, take=take)
    seen = features(history)
    assert seen.x.shape == (5, 3, width) and seen.loc.shape == seen.scale.shape == (5, 3)
    np.testing.assert_allclose(features(history[..., 10:]).x, seen.x)
    np.testing.assert_allclose(features(history[2:, 1:2]).x, seen.x[2:, 1:2], atol=1e-5)
    np.testing.assert_allclose(seen.scale, history[..., 10:].std(-1), rtol=1e-4)


def test_an_encoder_of_all_channels_together_has_a_head_for_each(folder):
    torch.manual_seed(0)
    sizes = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 8}
    model = SeriesEncoder.from_config(sizes, context=LOOKBACK, channels=2)
    fit = ridge(encoder_features(model, take="last"))
    data = load_forecasting("daily", folder)
    forecaster = fit(data, lookback=LOOKBACK, horizons=(5,))
    assert len(forecaster.heads[5]) == 2
    together, _ = window_errors(data, fit, lookback=LOOKBACK, horizons=(5,))
    naive, _ = window_errors(data, repeat_last, lookback=LOOKBACK, horizons=(5,))
    assert together[5][:, 0].mean() < naive[5][:, 0].mean()
    one = load_forecasting("daily", folder, univariate=True)
    with pytest.raises(ValueError, match="takes 2 channels together, the set has 1"):
        fit(one, lookback=LOOKBACK, horizons=(5,))


@pytest.mark.parametrize("channels", [1, 2])
def test_values_and_tokens_without_weight_on_tokens_are_the_ridge_on_values(folder, channels):
    data = load_forecasting("daily", folder)
    torch.manual_seed(0)
    sizes = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 8}
    together = SeriesEncoder.from_config(sizes, context=LOOKBACK, channels=2)
    model = encoder() if channels == 1 else together
    features, split = encoder_features(model, take="values+tokens"), own_steps(model)
    history, _ = next(data.windows("test", LOOKBACK).chunks(9))
    seen = features(history)
    assert seen.x.shape == (len(history), 2, LOOKBACK + model.length * model.width)
    assert len(seen.groups) == channels

    def silent(history):  # an encoder that says nothing: its tokens are 0
        found = features(history)
        return replace(found, x=np.where(np.arange(found.x.shape[-1]) < split, found.x, 0))

    asked = {"lookback": LOOKBACK, "horizons": (5, 9)}
    alone = ridge(raw_features())(data, **asked)(history)
    nothing = ridge(silent, split=split)(data, **asked)
    beside = ridge(features, split=split)(data, **asked)
    for h in (5, 9):
        np.testing.assert_allclose(nothing(history)[h], alone[h], atol=1e-9)
        assert len(beside.heads[h]) == channels


def test_the_tokens_of_values_and_tokens_are_in_the_units_of_the_data():
    model, rng = encoder(), np.random.default_rng(0)
    history = rng.normal(size=(5, 3, LOOKBACK))
    features = encoder_features(model, take="values+tokens")
    seen, moved = features(history), features(3 * history + 7)
    np.testing.assert_allclose(moved.x, 3 * seen.x, atol=1e-4)
    np.testing.assert_allclose(moved.loc, 3 * seen.loc + 7)
    assert (moved.scale == 1).all()


def test_too_many_features_are_refused_or_left_for_the_last_token():
    sizes = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 320}
    model = SeriesEncoder.from_config(sizes, context=336)
    with pytest.raises(ValueError, match=r"107,520 features.*choose features='last'"):
        encoder_features(model, take="tokens")
    assert encoder_features(model)(np.zeros((1, 1, 336))).x.shape == (1, 1, 320)
    with pytest.raises(ValueError, match="choose one of tokens, pooled, last"):
        encoder_features(model, take="all")  # pyright: ignore[reportArgumentType]


def test_a_ridge_on_an_encoder_forecasts_white_noise_no_better_than_its_mean(folder):
    data = load_forecasting("noise", folder)
    fit = ridge(encoder_features(encoder()))
    errors = [
        window_errors(data, f, lookback=LOOKBACK, horizons=(12,))[0][12][:, 0]
        for f in (fit, train_mean)
    ]
    rng = np.random.default_rng(0)
    gain = block_mean_resamples(errors[0] - errors[1], block=12, resamples=1000, rng=rng)
    assert np.percentile(gain, 97.5) > 0  # not clearly below the mean's error
    assert errors[0].mean() > 0.98 * errors[1].mean()


def test_a_future_shuffled_over_windows_cannot_be_forecast(folder):
    # The control for leaks: the same features, and futures that belong to other histories.
    data = load_forecasting("daily", folder)
    blocks = data.values[:1176].reshape(-1, 12, 2)
    order = np.random.default_rng(0).permutation(len(blocks))
    values = blocks[order].reshape(-1, 2)
    # Every block has one of two phases: with 24 steps a day the next block's is a coin's toss.
    mixed = ForecastData("mixed", values, ("a", "OT"), (700, 900, 1176), 24)
    true, _ = window_errors(data, ridge(encoder_features(encoder())), lookback=24, horizons=(12,))
    false, _ = window_errors(mixed, ridge(encoder_features(encoder())), lookback=24, horizons=(12,))
    assert true[12][:, 0].mean() < 0.6 * false[12][:, 0].mean()


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run of two seeds."""
    for seed in (0, 1):
        for name, first in (("untrained", 0), ("model", 10)):
            path = tmp_path / "run" / f"seed-{seed}" / name
            encoder(seed=first + seed).save_pretrained(path)
    return tmp_path / "run"


def test_a_run_is_measured_before_and_after_over_its_seeds_beside_the_controls(run, folder):
    result = bench_forecasting(
        run, folder=folder, sets=("daily",), horizons=(12,), lookback=LOOKBACK, bootstrap=20
    )
    names = [e.name for e in result.encoders]
    assert names == ["untrained", "trained", "repeat last", "yesterday", "ridge on values"]
    trained = result.encoders[1].scores["daily 12 MSE"]
    alone = [
        evaluate_forecasting(
            {"x": load_forecast_encoder(run / f"seed-{s}").fit},
            folder,
            sets=("daily",),
            horizons=(12,),
            lookback=LOOKBACK,
        )
        for s in (0, 1)
    ]
    scores = [r.encoders[0].scores["daily 12 MSE"].score for r in alone]
    assert trained.seeds == pytest.approx(scores) and trained.low < trained.score < trained.high
    saved = json.loads((run / "results" / "forecasting.json").read_text())
    assert saved["encoders"][1]["scores"]["daily 12 MSE"]["seeds"] == pytest.approx(
        scores, abs=1e-5
    )
    assert (run / "seed-1" / "results" / "forecasting.json").is_file()
    examples = json.loads((run / "results" / "forecasting_examples.json").read_text())
    assert len(examples) == 3
    for one in examples.values():
        assert list(one["encoders"]) == names
        assert (
            len(one["history"]) == LOOKBACK and len(one["truth"]) == 12 and one["channel"] == "OT"
        )


def test_another_lookback_than_the_encoders_context_is_said(run, folder):
    for lookback, said in ((48, "sees the last 24."), (18, "sees the last 18.")):
        result = bench_forecasting(
            run / "seed-0", folder=folder, sets=("daily",), horizons=(6,), lookback=lookback,
            controls=False, bootstrap=0,
        )  # fmt: skip
        assert f"trained was made for 24 steps and {said}" in result.note


def test_refuses_a_folder_without_a_series_encoder(run, folder, make_encoder):
    make_encoder().save_pretrained(run / "text")
    with pytest.raises(ValueError, match="encoder of text"):
        load_forecast_encoder(run / "text")
    with pytest.raises(FileNotFoundError):
        load_forecast_encoder(run / "nowhere")


# -- words and pictures -----------------------------------------------------------------------


def test_verdict_has_the_digits_of_the_benchmark():
    cell = lambda s, low=None, high=None: {  # noqa: E731
        "score": s, "low": low, "high": high, "reason": None
    }  # fmt: skip
    said = verdict(cell(0.4242), cell(0.3696), cell(-0.0546, -0.06, -0.05), 3)
    assert said == "fell from 0.424 before training to 0.370 after."


def test_forecasts_are_drawn_with_their_fan():
    line = np.linspace(0, 1, 12)
    fan = {0.1: line - 1, 0.5: line, 0.9: line + 1}
    ax = plot_forecast(np.zeros(30), line, {"mine": line + 0.1}, fan)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["history", "80 % interval", "median", "mine", "truth"]
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == -1 and band[:, 1].max() == 2
    with pytest.raises(ValueError, match=r"0\.1 has no opposite 0\.9"):
        plot_forecast(np.zeros(30), line, {}, {0.1: line}, ax=ax)
    ax.figure.clear()


def test_the_reports_figure_follows_the_pages_colours():
    line = [0.0, 1.0, 0.5]
    svg = figures.forecast([0.0] * 9, line, {"untrained": line, "trained": line}, label="two lines")
    assert 'aria-label="two lines"' in svg
    assert "var(--before)" in svg and "var(--after)" in svg and "#05" not in svg
