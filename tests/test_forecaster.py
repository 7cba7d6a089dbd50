import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from unlabel import Forecaster
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_future import season_of, times_of
from unlabel.data_pipes.series_rows import SeriesRows, filled, windows_between
from unlabel.data_pipes.series_time import Step, step_of
from unlabel.forecasting.fit import Split, errors_ahead
from unlabel.forecasting.prepare import rows_of
from unlabel.forecasting.scores import naive_forecast, score_forecasts
from unlabel.forecasts import at_levels
from unlabel.modalities.series import SeriesEncoder

TINY = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
H = 12


def waves(count=3, steps=400, noise=0.2, seed=0):
    """Sums of a day and a week with noise, of different levels and sizes."""
    random = np.random.default_rng(seed)
    t = np.arange(steps)
    day = np.sin(2 * np.pi * (t / 24 + random.random((count, 1))))
    level, size = 10 * random.random((count, 1)), 1 + 4 * random.random((count, 1))
    return level + size * (day + noise * random.normal(size=(count, steps)))


def long_frame(values, ids="item_id", time="timestamp", target="target"):
    count, steps = values.shape
    hours = pd.date_range("2024-01-01", periods=steps, freq="h")
    return pd.DataFrame(
        {
            ids: np.repeat([f"s{i}" for i in range(count)], steps),
            time: np.tile(hours, count),
            target: values.ravel(),
        }
    )


def make(**settings):
    settings = {"prediction_length": H, "context": 48, "config": TINY, "seed": 1, **settings}
    return Forecaster(**settings)


@pytest.fixture(scope="module")
def frame():
    return long_frame(waves())


@pytest.fixture(scope="module")
def fitted(frame):
    return make().fit(frame)


# -- fit and predict ----------------------------------------------------------------------------


def test_forecast_of_a_sine_without_noise_is_the_sine():
    values = waves(noise=0.0)
    table = long_frame(values[:, :-H])
    found = make().fit(table).predict(table)
    apart = found.predictions - values[:, -H:]
    assert np.abs(apart).max() < 0.05 * values.std(axis=1).max()


def test_table_has_the_inputs_names_the_next_hours_and_one_column_a_level(fitted, frame):
    found = fitted.predict_df(frame)
    names = ["item_id", "timestamp", "target_name", "predictions", "0.1", "0.5", "0.9"]
    assert list(found.columns) == names and len(found) == 3 * H
    first = found[found["item_id"] == "s0"]
    last = frame["timestamp"].max()
    expected = pd.date_range(last, periods=H + 1, freq="h")[1:]
    assert (first["timestamp"].to_numpy() == expected.to_numpy()).all()
    assert (found["0.1"] <= found["0.5"]).all() and (found["0.5"] <= found["0.9"]).all()
    assert (found["predictions"] == found["0.5"]).all()


def test_nixtla_names_and_a_wide_table_give_the_same_forecasts(fitted, frame):
    expected = fitted.predict_df(frame)
    nixtla = frame.rename(columns={"item_id": "unique_id", "timestamp": "ds", "target": "y"})
    other = fitted.predict_df(nixtla)
    assert list(other.columns[:2]) == ["unique_id", "ds"]
    np.testing.assert_array_equal(other["predictions"], expected["predictions"])
    wide = frame.pivot(index="timestamp", columns="item_id", values="target").reset_index()
    found = fitted.predict_df(wide)
    assert list(found.columns[:2]) == ["timestamp", "target_name"]
    np.testing.assert_array_equal(found["predictions"], expected["predictions"])


def test_an_array_is_forecast_with_its_steps_as_time(fitted, frame):
    values = frame[frame["item_id"] == "s1"]["target"].to_numpy()
    found = fitted.predict_df(values)
    assert list(found["step"]) == list(range(400, 400 + H))
    expected = fitted.predict(frame).predictions[1]
    np.testing.assert_allclose(found["predictions"], expected, rtol=1e-5)


def test_numbers_stay_numbers_as_ids(fitted, frame):
    numbered = frame.assign(item_id=frame["item_id"].str[1:].astype(int))
    for table in (numbered, numbered.set_index(["item_id", "timestamp"])):
        assert fitted.predict_df(table)["item_id"].unique().tolist() == [0, 1, 2]
        assert fitted.embed(table)["item_id"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("freq", ["h", "D"])
@pytest.mark.parametrize("form", ["column", "index"])
def test_dates_of_a_time_zone_go_on_in_it(fitted, frame, freq, form):
    table = frame[frame["item_id"] == frame["item_id"].iloc[0]][["target"]].reset_index(drop=True)
    # The last night before the forecast, or one within it, has an hour more.
    last = pd.Timestamp("2024-10-27", tz="Europe/Berlin")
    stamps = pd.date_range(end=last, periods=len(table) + 12, freq=freq, name="when")
    table = table.set_index(stamps[:-12])
    found = fitted.predict(table if form == "index" else table.reset_index())
    pd.testing.assert_index_equal(
        found.to_df()["when"].pipe(pd.Index)[:12], stamps[-12:], exact=False
    )
    assert found.history_times[0][-1] == stamps[-13]
    found.plot()
    vectors = fitted.embed(table if form == "index" else table.reset_index(), per_step=True)
    pd.testing.assert_index_equal(vectors["when"].pipe(pd.Index), stamps[:-12], exact=False)


@pytest.mark.parametrize("form", ["column", "index"])
def test_periods_stay_periods(fitted, frame, form):
    table = frame[frame["item_id"] == "s0"][["target"]]
    months = pd.period_range("1990-01", periods=len(table) + H, freq="M", name="month")
    table = table.set_index(months[:-H])
    found = fitted.predict(table if form == "index" else table.reset_index())
    pd.testing.assert_index_equal(found.to_df()["month"].pipe(pd.Index), months[-H:])
    found.plot()


def test_a_forecast_moves_and_grows_with_the_series(fitted, frame):
    before = fitted.predict(frame)
    after = fitted.predict(frame.assign(target=100 * frame["target"] - 7))
    np.testing.assert_allclose(after.predictions, 100 * before.predictions - 7, rtol=1e-3)
    np.testing.assert_allclose(after.quantiles, 100 * before.quantiles - 7, rtol=1e-3)


def test_a_shorter_forecast_is_the_beginning_of_the_whole_one(fitted, frame):
    whole, short = fitted.predict(frame), fitted.predict(frame, prediction_length=5)
    np.testing.assert_array_equal(short.predictions, whole.predictions[:, :5])
    assert len(short.times[0]) == 5


def test_a_longer_forecast_is_refused_unless_recursive(fitted, frame):
    with pytest.raises(ValueError, match=r"30 steps were asked for, but 12 were fitted"):
        fitted.predict(frame, prediction_length=30)
    found = fitted.predict(frame, prediction_length=30, recursive=True)
    whole = fitted.predict(frame)
    np.testing.assert_array_equal(found.predictions[:, :H], whole.predictions)
    following = pd.concat(
        [frame, whole.to_df().rename(columns={"predictions": "target"})[frame.columns]]
    )
    again = fitted.predict(following)
    np.testing.assert_allclose(found.predictions[:, H : 2 * H], again.predictions, rtol=1e-4)


def test_other_levels_lie_between_those_fitted(fitted, frame):
    found = fitted.predict(frame, quantile_levels=(0.3, 0.9))
    whole = fitted.predict(frame)
    np.testing.assert_allclose(found.quantiles[:, 0], whole.quantiles[:, :2].mean(axis=1))
    np.testing.assert_array_equal(found.quantiles[:, 1], whole.quantiles[:, 2])
    with pytest.raises(ValueError, match=r"levels from 0\.1 to 0\.9 were fitted"):
        fitted.predict(frame, quantile_levels=(0.01,))


def test_no_levels_give_the_point_alone(frame):
    model = make(quantile_levels=()).fit(frame)
    found = model.predict_df(frame)
    assert list(found.columns) == ["item_id", "timestamp", "target_name", "predictions"]
    assert list(model.score(frame).columns) == ["MSE", "MAE"]


def test_none_is_no_level_and_a_number_is_no_list(frame):
    found = make(quantile_levels=None).fit(frame).predict_df(frame)
    assert list(found.columns)[-1] == "predictions"
    with pytest.raises(ValueError, match="give levels between 0 and 1, in a list"):
        make(quantile_levels=0.9).fit(frame)


def test_ids_are_not_lost_under_a_column_of_the_forecasts(fitted, frame):
    table = frame.rename(columns={"item_id": "target_name"})
    with pytest.raises(ValueError, match="The column 'target_name' of the data has a name"):
        fitted.predict_df(table, id_column="target_name", target="target")


def test_gaps_in_the_history_are_no_obstacle(frame):
    random = np.random.default_rng(3)
    holes = frame.assign(target=frame["target"].mask(random.random(len(frame)) < 0.05))
    scores = make().fit(holes[holes["timestamp"] < "2024-01-17"]).score(holes)
    assert scores.loc["unlabel", "MAE"] < 0.5 * scores.loc["repeat last", "MAE"]


def test_a_series_shorter_than_the_context_is_padded(fitted, frame):
    short = frame[frame["timestamp"] >= frame["timestamp"].max() - pd.Timedelta(hours=20)]
    found = fitted.predict(short)
    assert np.isfinite(found.quantiles).all() and len(found) == 3


def test_too_few_values_are_skipped_counted_and_named(fitted, frame):
    bad = frame.assign(target=frame["target"].mask(frame["item_id"] == "s1"))
    bad = pd.concat([bad, long_frame(np.ones((1, 1)), target="target").assign(item_id="lone")])
    found = fitted.predict(bad)
    assert found.ids == ["s0", "s2"] and np.isfinite(found.predictions).all()
    assert found.skipped["s1/target"].startswith("0 observed values among its last 48 steps")
    assert found.skipped["lone/target"].startswith("1 observed value among")
    assert "2 skipped ('s1/target': 0 observed" in found.summary()
    with pytest.raises(ValueError, match="Nothing can be forecast: 's1/target'"):
        fitted.predict(bad[bad["item_id"] == "s1"])


def test_a_constant_channel_is_forecast_as_the_constant(fitted, frame):
    values = np.stack([np.full(200, 1e6), np.zeros(200)])
    found = fitted.predict(long_frame(values))
    np.testing.assert_array_equal(found.predictions, [[1e6] * H, [0.0] * H])
    np.testing.assert_array_equal(found.quantiles[0], 1e6)


def test_a_constant_series_does_not_disturb_the_fit_of_others():
    values = waves(count=2)
    with_constant = np.concatenate([values, np.full((1, 400), 5.0)])
    alone, beside = (make().fit(long_frame(v)) for v in (values, with_constant))
    table = long_frame(values)
    np.testing.assert_allclose(
        alone.predict(table).predictions, beside.predict(table).predictions, rtol=1e-4
    )


def test_unordered_and_repeated_rows_are_mended(fitted, frame):
    messy = pd.concat([frame, frame.iloc[:5]]).sample(frac=1, random_state=0)
    expected = fitted.predict_df(frame).sort_values(["item_id", "timestamp"])
    found = fitted.predict_df(messy).sort_values(["item_id", "timestamp"])
    np.testing.assert_array_equal(found["predictions"], expected["predictions"])


# -- calibration --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["constant", "growing"])
def test_the_band_from_0_1_to_0_9_holds_about_80_percent_of_later_values(size):
    values = waves(count=8, steps=700, noise=0.5, seed=2)
    if size == "growing":
        values = values * np.linspace(1, 3, 700)
    model = make().fit(long_frame(values[:, :500]))
    rows = SeriesRows(list(read_series(long_frame(values))))
    row = np.repeat(np.arange(8), 80)
    origin = np.tile(np.arange(500, 660, 2), 8)
    truth = rows.futures(row, origin, H)
    found = model.model_.forecast(rows, row, origin, None)
    within = (found[:, 0] <= truth) & (truth <= found[:, 2])
    assert 0.76 < within.mean() < 0.84
    assert 0.07 < (truth < found[:, 0]).mean() < 0.13


@pytest.mark.parametrize("levels", [(0.5, 0.9, 0.99), (0.01, 0.1, 0.5), (0.2, 0.5)])
def test_the_error_that_is_told_is_that_of_the_median_whatever_the_levels(frame, levels):
    model = make(quantile_levels=levels).fit(frame).model_
    rows = rows_of(model, read_series(frame))
    split = Split.of(rows, context=48, horizon=H, share=0.2, limit=50_000)
    _, error, _ = errors_ahead(model, rows, split.held, 64)
    off = [
        np.abs(seen.normalised(rows.futures(*(w[part] for w in split.held), H)) - read)
        for part, seen in model.look(rows, *split.held, None, 64)
        for read in [model.read(seen)[:, levels.index(0.5)]]
    ]
    assert error == pytest.approx(np.concatenate(off).mean(), rel=1e-5)


def test_no_held_out_future_shares_a_step_with_a_fitted_one():
    rows = SeriesRows([Series("a", np.zeros((100, 1))), Series("b", np.zeros((40, 2)))])
    split = Split.of(rows, context=20, horizon=6, share=0.2, limit=1000)
    for row in range(3):
        fitted = split.train[1][split.train[0] == row]
        held = split.held[1][split.held[0] == row]
        assert fitted.max() + 6 <= held.min() and held.max() + 6 == rows.length[row]
        assert fitted.min() == 20 if row == 0 else 2


def test_few_windows_are_evenly_spaced():
    row, origin = windows_between(np.array([2, 5]), np.array([6, 5]))
    assert row.tolist() == [0] * 4 and origin.tolist() == [2, 3, 4, 5]
    row, origin = windows_between(np.array([0, 0]), np.array([50, 50]), limit=10)
    assert row.tolist() == [0] * 5 + [1] * 5 and origin.tolist() == [0, 10, 20, 30, 40] * 2


# -- gradient -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "finetune"])
def test_a_random_head_learns_by_gradient_and_only_finetune_moves_the_encoder(frame, method):
    torch.manual_seed(0)
    encoder = SeriesEncoder.from_config(TINY, context=48)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    training = {"max_steps": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 64}
    model = make(encoder=encoder, method=method, start="random", training=training).fit(frame)
    after = model.model_.encoder.state_dict()
    moved = any(not torch.equal(before[k], after[k]) for k in before)
    assert moved is (method == "finetune")
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())  # a copy learns
    assert model.report_.error < 0.6 * model.report_.naive


def test_a_random_head_depends_on_the_seed_and_on_nothing_drawn_before(frame):
    training = {"max_steps": 2}
    found = []
    for drawn in range(2):
        torch.manual_seed(drawn)
        model = make(method="linear", start="random", training=training)
        found.append(model.fit(frame).predict(frame).predictions)
    np.testing.assert_array_equal(*found)


def test_a_fine_tuning_that_harms_ends_where_the_ridge_was(frame):
    torch.manual_seed(0)
    encoder = SeriesEncoder.from_config(TINY, context=48)
    training = {"max_steps": 5, "learning_rate": 10.0}
    tuned = make(encoder=encoder, method="finetune", training=training).fit(frame)
    ridge = make(encoder=encoder, refit=False).fit(frame)
    np.testing.assert_allclose(
        tuned.predict(frame).quantiles, ridge.predict(frame).quantiles, rtol=1e-4
    )


# -- values beside the tokens -------------------------------------------------------------------


def still(model):
    """An encoder whose tokens are all the same, so that only the values are left to read."""
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def tiny(**settings):
    torch.manual_seed(0)
    return SeriesEncoder.from_config({**TINY, "patch_length": 12}, context=48, **settings)


@pytest.mark.parametrize("norm", ["standard", "last"])
def test_with_an_encoder_that_says_nothing_the_values_are_a_ridge_on_the_window(frame, norm):
    encoder = still(tiny(norm=norm))
    found = make(encoder=encoder, features="values+tokens", quantile_levels=()).fit(frame)
    weight = found.model_.head.linear.weight
    assert weight.shape == (H, 48 + 4 * 16) and weight[:, :48].abs().max() > 0.05
    plain = make(encoder=encoder, quantile_levels=()).fit(frame)
    assert found.score(frame)["MSE"].iloc[0] < 0.3 * plain.score(frame)["MSE"].iloc[0]
    # Forecasts move and stretch with the series, as those of a ridge on the window do.
    scaled = frame.assign(target=100 * frame["target"] - 7)
    np.testing.assert_allclose(
        found.predict(scaled).predictions, 100 * found.predict(frame).predictions - 7, rtol=1e-3
    )


def test_values_beside_tokens_are_no_worse_on_what_was_held_out_than_values_alone(frame):
    alone = make(encoder=still(tiny()), features="values+tokens").fit(frame)
    beside = make(encoder=tiny(), features="values+tokens").fit(frame)
    assert beside.report_.error <= 1.02 * alone.report_.error


@pytest.mark.parametrize("method", ["linear", "finetune"])
def test_training_from_a_head_on_values_starts_as_the_ridge(frame, method, tmp_path):
    options = {"encoder": tiny(), "features": "values+tokens"}
    ridge = make(**options, refit=False).fit(frame)
    training = {"max_steps": 1, "learning_rate": 1e-12}
    tuned = make(**options, method=method, training=training).fit(frame)
    np.testing.assert_allclose(
        tuned.predict(frame).predictions, ridge.predict(frame).predictions, rtol=1e-2
    )
    tuned.save_pretrained(tmp_path)
    again = Forecaster.from_pretrained(tmp_path)
    assert again.features == "values+tokens"
    np.testing.assert_array_equal(
        again.predict(frame).predictions, tuned.predict(frame).predictions
    )


def test_what_the_head_reads_is_one_of_two(frame):
    with pytest.raises(
        ValueError, match=r"features='values': choose one of tokens, values\+tokens"
    ):
        make(features="values").fit(frame)


# -- covariates ---------------------------------------------------------------------------------


def promoted(steps=500, seed=0):
    """A series that jumps whenever a covariate does, and the covariate."""
    random = np.random.default_rng(seed)
    promotion = (random.random(steps) < 0.2).astype(float)
    promotion[-H::3] = 1
    values = waves(1, steps)[0] + 20 * promotion
    table = long_frame(values[None]).assign(promotion=100 * promotion)
    return table.iloc[:-H], table.iloc[-H:]


@pytest.mark.parametrize("pretrained", [False, True])
def test_known_covariates_of_the_future_reach_the_forecast(pretrained):
    past, future = promoted()
    encoder = SeriesEncoder.from_config(TINY, context=48) if pretrained else None
    model = make(encoder=encoder).fit(past, covariates="promotion")
    found = model.predict(past, future_df=future.drop(columns="target"))
    plain = make(encoder=encoder).fit(past).predict(past)
    apart = [np.abs(f.predictions[0] - future["target"]).mean() for f in (found, plain)]
    assert apart[0] < 0.5 * apart[1]


def test_missing_covariates_of_the_future_are_named():
    past, future = promoted()
    model = make().fit(past, covariates=["promotion"])
    with pytest.raises(ValueError, match="covariates promotion, so their next 12 values"):
        model.predict(past)
    with pytest.raises(ValueError, match="lack the step 2024-01-21 19:00:00"):
        model.predict(past, future_df=future.iloc[:-1])
    with pytest.raises(ValueError, match="'promotion' of 's0' has no value at 2024-01-21 08:00:00"):
        model.predict(past, future_df=future.assign(promotion=[np.nan, np.nan, *[1.0] * 10]))
    with pytest.raises(ValueError, match="lack series 's0'"):
        two = pd.concat([future.assign(item_id="x"), future.assign(item_id="y")])
        model.predict(past, future_df=two)
    short = model.predict(past, future_df=future.iloc[:3], prediction_length=3)
    assert short.predictions.shape == (1, 3)
    with pytest.raises(ValueError, match="it was fitted without covariates"):
        make().fit(past, target="target").predict(past, future_df=future)


def test_static_numbers_reach_a_new_encoder_and_are_refused_of_one_without(frame):
    table = frame.assign(size=frame["item_id"].str[1:].astype(float))
    model = make().fit(table, static="size")
    other = model.predict(table.assign(size=9.0))
    assert not np.allclose(other.predictions, model.predict(table).predictions)
    encoder = SeriesEncoder.from_config(TINY, context=48)
    with pytest.raises(ValueError, match="encoder was made without any"):
        make(encoder=encoder).fit(table, static="size")


def test_an_encoder_of_all_channels_together_forecasts_all_of_them(frame, tmp_path):
    wide = frame.pivot(index="timestamp", columns="item_id", values="target").reset_index()
    sizes = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 24}
    sizes["num_hidden_layers"] = 4
    torch.manual_seed(0)
    encoder = SeriesEncoder.from_config(sizes, context=48, channels=3)
    model = make(encoder=encoder).fit(wide)
    found = model.predict(wide)
    assert found.targets == ["s0", "s1", "s2"] and np.isfinite(found.quantiles).all()
    scores = model.score(wide)
    assert scores.loc["unlabel", "MAE"] < scores.loc["repeat last", "MAE"]
    with pytest.raises(ValueError, match="takes 3 channels together, but series"):
        model.predict(wide.drop(columns="s0"))
    model.save_pretrained(tmp_path)
    other = wide[["timestamp", "s2", "s0", "s1"]].assign(one=1.0)
    for again in (model, Forecaster.from_pretrained(tmp_path)):
        table = again.predict_df(other)  # by the names of the channels, not their places
        pd.testing.assert_frame_equal(table, found.to_df())


# -- results ------------------------------------------------------------------------------------


def test_saved_forecasters_forecast_the_same_to_the_bit(tmp_path, frame):
    past, future = promoted()
    levels, size = np.array([0.05, 0.95], np.float32), np.int64(64)
    model = make(quantile_levels=levels, batch_size=size).fit(past, covariates="promotion")
    model.save_pretrained(tmp_path / "f")
    again = Forecaster.from_pretrained(tmp_path / "f")
    expected = model.predict(past, future_df=future)
    found = again.predict(past, future_df=future)
    np.testing.assert_array_equal(found.quantiles, expected.quantiles)
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    assert again.report_ == model.report_
    kinds = {p.suffix for p in (tmp_path / "f").rglob("*") if p.is_file()}
    assert kinds == {".json", ".safetensors"}
    with pytest.raises(FileNotFoundError, match="holds no forecaster"):
        Forecaster.from_pretrained(tmp_path)


def test_a_saved_encoder_and_a_run_are_encoders_too(tmp_path, frame):
    torch.manual_seed(0)
    encoder = SeriesEncoder.from_config(TINY, context=48)
    encoder.save_pretrained(tmp_path / "run" / "model")
    expected = make(encoder=encoder).fit(frame).predict(frame).predictions
    for path in (tmp_path / "run", tmp_path / "run" / "model"):
        found = make(encoder=path).fit(frame).predict(frame).predictions
        np.testing.assert_array_equal(found, expected)


def test_score_stands_beside_naive_forecasts(frame):
    past = frame[frame["timestamp"] <= frame["timestamp"].max() - pd.Timedelta(hours=H)]
    scores = make().fit(past).score(frame)
    assert list(scores.index) == ["unlabel", "repeat last", "seasonal naive"]
    assert list(scores.columns) == ["MSE", "MAE", "WQL", "within 0.1-0.9"]
    assert scores[["MAE", "WQL"]].idxmin().tolist() == ["unlabel", "unlabel"]


def test_scores_are_those_of_the_formulas():
    truth = np.array([[1.0, 2.0, np.nan]])[..., None]
    point = np.array([[2.0, 2.0, 2.0]])[..., None]
    quantiles = np.stack([point - 1.5, point], axis=1)
    scores = score_forecasts(truth, point, quantiles, (0.2, 0.5))
    assert scores["MSE"] == 0.5 and scores["MAE"] == 0.5
    losses = np.array([0.2 * 0.5, 0.2 * 1.5, 0.5 * 1.0, 0.0])
    assert scores["WQL"] == pytest.approx(2 * losses.mean() / 1.5)
    assert scores["within 0.2-0.5"] == 1.0


def test_naive_forecasts_repeat_value_and_season():
    values = np.array([1.0, 2, 3, 4, np.nan, 6])[:, None].astype(np.float32)
    rows = SeriesRows([Series("a", values)])
    origin, row = np.array([6]), np.array([0])
    repeat, season = (
        naive_forecast(rows, row, origin, horizon=5, season=np.array([s])) for s in (1, 3)
    )
    assert repeat.ravel().tolist() == [6] * 5
    assert season.ravel().tolist() == [4, 4, 6, 4, 4]


def test_an_encoder_of_another_kind_of_data_is_refused_by_name(tmp_path, frame):
    (tmp_path / "unlabel.json").write_text('{"modality": "text"}')
    with pytest.raises(ValueError, match="is an encoder of text; series are forecast by one of"):
        Forecaster(tmp_path, prediction_length=8).fit(frame)


def test_embedding_leaves_the_encoder_in_the_mode_it_had(fitted, frame):
    encoder = fitted.model_.encoder
    encoder.train()
    fitted.embed(frame)
    assert all(part.training for part in encoder.modules())
    encoder.eval()


def test_vectors_come_by_series_or_by_step(fitted, frame):
    whole = fitted.embed(frame)
    assert list(whole.columns) == ["item_id", "target_name", "embedding"] and len(whole) == 3
    values = frame[frame["item_id"] == "s2"]["target"].to_numpy()
    expected = fitted.model_.encoder.encode(values[:, None])
    np.testing.assert_allclose(whole["embedding"][2], expected, atol=1e-5)
    steps = fitted.embed(frame, per_step=True)
    assert len(steps) == len(frame) and (steps["timestamp"].to_numpy() == frame["timestamp"]).all()
    np.testing.assert_allclose(
        np.stack(steps["embedding"][800:]),
        fitted.model_.encoder.encode(values[:, None], per_step=True),
        atol=1e-5,
    )


def test_plot_draws_history_forecast_and_band_at_their_dates(fitted, frame):
    from matplotlib.figure import Figure

    found = fitted.predict(frame)
    ax = found.plot("s1", ax=Figure().add_subplot(), history=30)
    history, line = ax.lines[:2]
    assert len(history.get_xdata()) == 30 and len(line.get_xdata()) == H
    np.testing.assert_array_equal(line.get_ydata(), found.predictions[1])
    assert len(ax.collections) == 1 and ax.get_ylabel() == "s1 target"
    with pytest.raises(ValueError, match="No forecast of 'nobody'; there are s0/target"):
        found.plot("nobody")


def test_levels_are_interpolated():
    values = np.array([[[1.0], [2.0], [4.0]]])
    found = at_levels(values, (0.1, 0.5, 0.9), (0.1, 0.2, 0.7, 0.9))
    np.testing.assert_allclose(found.ravel(), [1.0, 1.25, 3.0, 4.0])


# -- calendar and rows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "freq, start",
    [
        ("h", "2024-01-31 22:00"),
        ("15min", "2024-01-31"),
        ("D", "2024-02-27"),
        ("W-SUN", "2024-02-25"),
        ("MS", "2024-11-01"),
        ("ME", "2024-01-31"),
        ("QS-OCT", "2023-10-01"),
        ("YE-DEC", "2023-12-31"),
        ("B", "2024-02-29"),
    ],
)
def test_time_stamps_go_on_as_pandas_would(freq, start):
    expected = pd.date_range(start, periods=9, freq=freq)
    table = pd.DataFrame({"ds": expected[:5], "y": np.arange(5.0)})
    (series,) = read_series(table)
    assert (times_of(series, 5, 4).to_numpy() == expected[5:].to_numpy()).all()
    assert (times_of(series, 0, 5).to_numpy() == expected[:5].to_numpy()).all()


def test_months_that_begin_on_the_fifteenth_and_years_that_count_go_on():
    fifteenth = pd.to_datetime(["2024-01-15", "2024-02-15", "2024-03-15"])
    (series,) = read_series(pd.DataFrame({"ds": fifteenth, "y": [1.0, 2, 3]}))
    assert str(times_of(series, 3, 1)[0]) == "2024-04-15 00:00:00"
    (series,) = read_series(pd.DataFrame({"time": [1990, 1995, 2000], "v": [1.0, 2, 3]}))
    assert times_of(series, 3, 2).tolist() == [2005, 2010]


@pytest.mark.parametrize("start", ["2023-02-28", "2023-04-30"])
def test_months_that_begin_on_a_last_day_by_chance_go_on_at_that_day(start):
    stamps = [pd.Timestamp(start) + pd.DateOffset(months=i) for i in range(12)]
    (series,) = read_series(pd.DataFrame({"ds": stamps[:8], "y": np.arange(8.0)}))
    assert series.freq is None and series.step is not None
    assert times_of(series, 0, 12).tolist() == stamps


def test_seasons_are_those_of_the_step():
    seasons = {"h": 24, "30min": 48, "D": 7, "W": 52, "MS": 12, "QS": 4, "YS": 1, "B": 5}
    assert {f: season_of(step_of(f)) for f in seasons} == seasons
    assert season_of(None) == 1 and season_of(Step("months", 5)) == 1


def test_gaps_are_filled_along_a_line_and_level_at_the_ends():
    gap = np.nan
    rows = np.array([[gap, 1.0, gap, gap, 4.0, gap], [gap] * 6], dtype=np.float32)[..., None]
    found = filled(rows)[..., 0]
    np.testing.assert_allclose(found[0], [1, 1, 2, 3, 4, 4])
    assert np.isnan(found[1]).all()


def test_gaps_are_bridged_in_histories_and_never_in_futures():
    gap = np.nan
    values = np.array([gap, 2.0, gap, 4.0, gap, gap, 8.0], dtype=np.float32)[:, None]
    lone = np.array([gap, gap, 3.0, gap, gap], dtype=np.float32)[:, None]
    rows = SeriesRows([Series("a", values), Series("b", lone)], fill=True)
    batch = rows.batch(np.array([0, 1]), np.array([5, 5]), 6, 2)
    seen = torch.where(batch.inputs["observed"], batch.inputs["values"], torch.nan)[..., 0]
    expected = [[gap, 2, 2, 3, 4, 4, gap, 8], [gap, gap, gap, 3, gap, gap, gap, gap]]
    np.testing.assert_array_equal(seen.numpy(), expected)  # bridged by the past alone
    assert batch.mask.tolist()[0] == [False] + [True] * 7


def test_only_an_encoder_that_never_learned_of_gaps_has_them_bridged(fitted, frame):
    assert fitted.model_.fill
    encoder = SeriesEncoder.from_config(TINY, context=48)
    assert encoder.missing is not None
    torch.nn.init.ones_(encoder.missing.weight)
    assert not make(encoder=encoder).fit(frame).model_.fill


def test_extended_rows_have_the_new_steps_after_the_old():
    known = np.arange(3.0, dtype=np.float32)[:, None]
    series = [
        Series("a", np.arange(6.0, dtype=np.float32).reshape(3, 2), covariates=known),
        Series("b", np.full((2, 1), 9, np.float32), covariates=known[:2]),
    ]
    more = np.arange(10.0, 16).reshape(3, 2, 1)
    rows = SeriesRows(series).extended(more, more + 100)
    found = [
        rows.values[b : b + n, 0].tolist() for b, n in zip(rows.begin, rows.length, strict=True)
    ]
    assert found == [[0, 2, 4, 10, 11], [1, 3, 5, 12, 13], [9, 9, 14, 15]]
    ahead = rows.known(np.array([1]), np.array([2]), 3)
    assert ahead is not None and ahead.ravel().tolist() == [2, 112, 113]


# -- sentences ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"method": "magic"}, "method='magic': choose one of ridge, linear, finetune"),
        ({"prediction_length": 0}, "prediction_length is a whole number of at least 1, but 0"),
        ({"prediction_length": 2.5}, "whole number of at least 1, but 2.5"),
        ({"validation": 0.9}, "share above 0 and up to 0.5, but 0.9"),
        ({"quantile_levels": (0.1, 1.0)}, "give levels between 0 and 1"),
        ({"prediction_length": 300}, "a series needs 602 .* but the longest has 400"),
        ({"encoder": "no/such/run"}, "no/such/run"),
    ],
)
def test_settings_that_cannot_be_are_refused(frame, settings, said):
    with pytest.raises((ValueError, OSError), match=said):
        make(**settings).fit(frame)


def test_data_that_cannot_be_is_refused(fitted, frame):
    with pytest.raises(ValueError, match="no column 'load'; it has the columns 'item_id'"):
        make().fit(frame, target="load")
    with pytest.raises(ValueError, match="'many' is no number"):
        make().fit(frame.astype({"target": object}).replace({frame["target"][3]: "many"}))
    with pytest.raises(ValueError, match="naem: no such option; there are target"):
        fitted.predict(frame, naem="x")
    with pytest.raises(NotFittedError, match="call fit"):
        make().predict(frame)
    stamps = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-09", "2024-03-01", "2024-03-04"])
    with pytest.raises(ValueError, match="no regular step"):
        fitted.predict(pd.DataFrame({"ds": stamps, "y": np.arange(5.0)}))
    with pytest.raises(ValueError, match="longest series has 5"):
        fitted.score(np.arange(5.0))


def test_little_history_is_said(frame, caplog):
    table = frame.groupby("item_id").head(2 * H + 8)
    make().fit(table)
    assert "series of 32 leaves a history of 2 to learn from" in caplog.text
    caplog.clear()
    make().fit(frame.groupby("item_id").head(4 * H))
    assert "to learn from" not in caplog.text


def test_another_step_than_was_fitted_is_said(fitted, caplog):
    days = pd.date_range("2024-01-01", periods=60, freq="D")
    fitted.predict(pd.DataFrame({"ds": days, "y": waves(1, 60)[0]}))
    assert "Fitted on series of step h, but these have D" in caplog.text


def test_a_clone_has_the_settings_and_no_fit(fitted, frame):
    copy = clone(fitted)
    assert copy.get_params()["prediction_length"] == H and not hasattr(copy, "model_")
    expected = fitted.predict(frame).predictions
    np.testing.assert_array_equal(copy.fit(frame).predict(frame).predictions, expected)


def test_importing_unlabel_waits_for_nothing():
    code = "import sys, unlabel; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- real data ----------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("horizon", [12, 24])
def test_air_passengers_are_forecast_better_than_by_repeating(data_folder, horizon):
    table = pd.read_csv(data_folder / "series" / "small" / "AirPassengers.csv.gz")
    model = Forecaster(prediction_length=horizon).fit(table.iloc[:-horizon])
    scores = model.score(table)
    assert scores.loc["unlabel", "MAE"] < 0.6 * scores.loc["repeat last", "MAE"]
    assert scores.loc["unlabel", "MAE"] < scores.loc["seasonal naive", "MAE"]
    found = model.predict_df(table.iloc[:-horizon])
    assert list(found.columns[:2]) == ["Month", "target_name"]
    assert found["Month"].iloc[-1] == pd.Timestamp("1960-12-01")
