"""Fine-tuning: it starts as the ridge, loss is score, budgets are equal, test comes last."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from unlabel.benchmarks import finetune_arms, tuning
from unlabel.benchmarks.finetune import bench_finetune
from unlabel.benchmarks.finetune_arms import Arms, Place, latest_windows
from unlabel.benchmarks.finetune_network import (
    Tuning,
    held_out,
    network_forecaster,
    tune,
)
from unlabel.benchmarks.finetune_run import PretrainedRun, pretrained_runs
from unlabel.benchmarks.finetune_start import (
    RidgeForecast,
    ridge_penalty,
    start_head,
    stitched,
)
from unlabel.benchmarks.forecast_encoder import encoder_features
from unlabel.benchmarks.forecast_ridge import RidgeForecaster, window_moments
from unlabel.benchmarks.forecasting_data import ForecastData, load_forecasting
from unlabel.benchmarks.ridge import BlockPath, Linear
from unlabel.core import view
from unlabel.data_pipes.series import Series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.modalities.series import SeriesEncoder
from unlabel.objectives import Forecast
from unlabel.training.keep_best import KeepBest
from unlabel.training.pretraining import Pretraining

LOOKBACK = 24
QUICK: dict[str, Any] = {
    "steps": 6,
    "batch_size": 16,
    "checks": 3,
    "validation_windows": 20,
    "bootstrap": 0,
}


@pytest.fixture
def folder(tmp_path):
    """A set of two channels, 600 hours: a daily rhythm that drifts, and a tenth as large, noise."""
    rng = np.random.default_rng(0)
    rhythm = 3 * np.sin(2 * np.pi * np.arange(600) / 24) + rng.normal(size=600).cumsum() / 5
    values = np.stack([rhythm + rng.normal(size=600), rng.normal(size=600) / 10], axis=1)
    table = pd.DataFrame(values, columns=["a", "OT"])
    table.insert(0, "date", pd.date_range("2020-01-01", periods=600, freq="h"))
    table.to_csv(tmp_path / "daily.csv", index=False)
    return tmp_path


@pytest.fixture
def data(folder):
    return load_forecasting("daily", folder)


def encoder(*, seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "d_model": 16, "num_attention_heads": 2, "ffn_dim": 32}
    sizes["patch_length"] = 6
    if settings.get("channels", 1) > 1:  # which a PatchTST cannot take together
        sizes = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 8}
    return SeriesEncoder.from_config(sizes, context=LOOKBACK, **settings)


@pytest.fixture
def run(tmp_path):
    """Two seeds of 5 steps of 32 samples, two views each: 320 sequences."""
    for seed in (0, 1):
        path = tmp_path / "run" / f"seed-{seed}"
        encoder(seed=seed).save_pretrained(path / "untrained")
        encoder(seed=seed + 10).save_pretrained(path / "model")
        training = {"seed": seed, "per_device_train_batch_size": 16}
        about = {
            "modality": "series",
            "data": "there/other.csv.gz",
            "encoder": {"context": LOOKBACK, "pretrained": None, "rows": None},
            "objective": {"class": "InstanceContrast", "views": ["jitter", "jitter"]},
            "training": {**training, "gradient_accumulation_steps": 2},
            "result": {"finished": True, "steps": 5},
        }
        (path / "run.json").write_text(json.dumps(about))
    return tmp_path / "run"


def cells(run):
    return {p.stem: json.loads(p.read_text()) for p in run.glob("finetune/*/daily-*.json")}


# -- the start and the loss -------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
def test_a_head_started_from_the_ridge_forecasts_what_the_ridge_does(data, channels):
    model = encoder(channels=channels)
    ridge = Place(data, (12,), 0.5, LOOKBACK).ridge(encoder_features(model))
    module = Pretraining(model, forecast := Forecast(horizon=12, weigh=True))
    start_head(forecast.head, ridge.heads[12])
    history, _ = held_out(data, LOOKBACK, 12, 30)
    wanted = ridge(history)[12]
    found = network_forecaster(module, [12, 5])(history)
    assert wanted.shape == (30, 2, 12) and np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(found[12], wanted, atol=1e-5)
    np.testing.assert_array_equal(found[5], found[12][..., :5])


def beside(data, model, *, share=0.5, alphas=None):
    """The ridge on values and tokens, with weight on both."""
    place = Place(data, (12,), share, LOOKBACK)
    features = encoder_features(model, take="values+tokens")
    train = window_moments(place.windows, features, [12])[12]
    heads = [BlockPath(rows, split=LOOKBACK, alpha=3.0).at(30.0) for rows in train]
    return RidgeForecaster(features, {12: heads})


@pytest.mark.parametrize("norm", ["standard", "last"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_head_on_values_too_forecasts_what_the_ridge_on_them_does(data, channels, norm):
    model = encoder(channels=channels, norm=norm)
    ridge = beside(data, model)
    objective = Forecast(horizon=12, weigh=True, values=True)
    module = Pretraining(model, objective)
    start_head(objective.head, ridge.heads[12])
    history, _ = held_out(data, LOOKBACK, 12, 30)
    wanted = ridge(history)[12]
    assert all(abs(head.bias).max() > 1e-3 for head in ridge.heads[12])
    assert all(abs(head.weight[LOOKBACK:]).max() > 1e-3 for head in ridge.heads[12])
    np.testing.assert_allclose(network_forecaster(module, [12])(history)[12], wanted, atol=1e-5)


@pytest.mark.parametrize("features", ["tokens", "values+tokens"])
def test_the_ridges_penalty_makes_the_start_a_minimum_of_the_head(data, features):
    model, own = encoder().double().eval(), features != "tokens"
    place = Place(data, (12,), 0.3, LOOKBACK)
    found = beside(data, encoder(), share=0.3) if own else place.ridge(encoder_features(encoder()))
    (ridge,) = found.heads[12]
    windows = place.windows
    store = SeriesStore(
        [Series("a", windows.values.astype(np.float32))], context=LOOKBACK, horizon=12
    )
    batch = model.collator()([store[i] for i in range(len(store))])
    batch.inputs["values"] = batch.inputs["values"].double()
    whole = ridge_penalty(found.heads, values=LOOKBACK * own, channels=1)
    sizes = []
    for penalty in (whole / (len(store) * 12), None):
        objective = RidgeForecast(horizon=12, weigh=True, values=own, penalty=penalty)
        module = Pretraining(model, objective).double().eval()
        start_head(objective.head, [ridge])
        module(batch).loss.backward()
        sizes.append(objective.head.linear.weight.grad.norm().item())
    assert sizes[0] < 1e-4 * sizes[1]
    assert whole.shape == (12, LOOKBACK * own + 4 * 16)


def test_features_that_got_no_weight_have_the_stiffest_penalty_in_training():
    ridge = Linear(np.zeros((5, 2)), np.zeros(2), 3.0, split=2)
    assert ridge.rest == np.inf
    found = ridge_penalty({2: [ridge]}, values=2, channels=2)
    np.testing.assert_array_equal(found, np.tile([3, 3, 3, 3, 1e9, 1e9, 1e9], (2 * 2, 1)))
    parted = ridge_penalty({2: [replace(ridge, rest=7.0)]}, values=2, channels=2)
    np.testing.assert_array_equal(parted[0], [3, 3, 3, 3, 7, 7, 7])


def test_every_step_starts_from_the_ridge_of_the_shortest_horizon_that_has_it():
    short, long = (Linear(np.full((3, h), float(h)), np.full(h, 10.0 * h), alpha=h) for h in (2, 5))
    (found,) = stitched({5: [long], 2: [short]})
    np.testing.assert_array_equal(found.weight, np.tile([2, 2, 5, 5, 5], (3, 1)))
    np.testing.assert_array_equal(found.bias, [20, 20, 50, 50, 50])
    penalty = ridge_penalty({5: [long], 2: [short]}, values=0, channels=1)
    np.testing.assert_array_equal(penalty, np.tile([[2], [2], [5], [5], [5]], 3))


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_the_head_has_a_learning_rate_of_its_own(data, rate):
    module = Pretraining(encoder(), RidgeForecast(horizon=12))
    store = SeriesStore(
        [Series("a", data.values[:100].astype(np.float32))], context=LOOKBACK, horizon=12
    )
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    keep = KeepBest(module, lambda: -len(keep.looks), every=1)  # every look is the best so far
    options = {"learning_rate": 1e-3, "max_steps": 4, "per_device_train_batch_size": 16}
    tuning.train_kept(module, store, keep, head_rate=rate, use_cpu=True, **options)
    # Adam's steps are as large as the learning rate, whatever the gradient.
    far = {n: (p - before[n]).abs().max().item() for n, p in module.named_parameters()}
    head = far["objective.head.linear.weight"]
    assert head / max(d for n, d in far.items() if n.startswith("encoder.")) == pytest.approx(
        rate, rel=0.1
    )


@pytest.mark.parametrize("norm", ["standard", "last", "none"])
@pytest.mark.parametrize(("loss", "power"), [("mse", 2), ("l1", 1)])
def test_the_weighed_loss_is_the_error_in_the_units_of_the_data(data, norm, loss, power):
    model = encoder(norm=norm).eval()
    objective = Forecast(horizon=12, loss=loss, weigh=True)
    module = Pretraining(model, objective).eval()
    store = SeriesStore([Series("a", data.values.astype(np.float32))], context=LOOKBACK, horizon=12)
    batch = model.collator()([store[i] for i in range(40)])
    history, future = (
        batch.inputs["values"][:, s, 0].double().numpy()[:, None]
        for s in (slice(LOOKBACK), slice(LOOKBACK, None))
    )
    off = network_forecaster(module, [12])(history)[12] - future
    wanted = (np.abs(off) ** power).mean()
    assert module(batch).loss.item() == pytest.approx(wanted, rel=1e-4)


def test_weighing_windows_of_scale_1_changes_nothing():
    model = encoder(norm="none")  # its scale is 1
    values = torch.randn(8, LOOKBACK + 6, 1)
    store = SeriesStore(
        [Series(str(i), v.numpy()) for i, v in enumerate(values)], context=LOOKBACK, horizon=6
    )
    batch = model.collator()([store[i] for i in range(8)])
    losses = []
    for weigh in (False, True):
        torch.manual_seed(0)
        losses.append(Pretraining(model, Forecast(horizon=6, weigh=weigh)).eval()(batch).loss)
    assert torch.equal(*losses)


def test_a_view_has_weights_only_where_they_are_asked_for():
    model = encoder()
    store = SeriesStore(
        [Series("a", np.random.randn(60, 1).astype(np.float32))], context=LOOKBACK, horizon=6
    )
    batch = model.collator()([store[i] for i in range(4)])
    spec = view("future", horizon=6, weigh=2)
    window = model.window(batch, spec)
    seen = model.finish(window)
    torch.testing.assert_close(seen.weight, window.scale.square())
    assert model.view(batch, view("future", horizon=6)).weight is None


# -- training -----------------------------------------------------------------------------------


def test_training_never_ends_worse_on_validation_than_the_ridge_it_started_from(data):
    place, held = Place(data, (12,), 0.3, LOOKBACK), held_out(data, LOOKBACK, 12, 40)
    ridge = place.ridge(encoder_features(encoder()))
    error = lambda f: np.square(f(held[0])[12] - held[1]).mean()  # noqa: E731
    for rate in (1e-3, 10.0):  # the second one destroys the weights
        how = Tuning(steps=10, learning_rates=(rate,), batch_size=16, checks=5)
        found = tune(encoder, place.windows, held, horizons=[12], how=how, start=ridge.heads)
        assert found.about["at_start"] == pytest.approx(error(ridge), rel=1e-4)
        assert [at for at, _ in found.about["looks"][f"{rate:g}"]] == [0, 2, 4, 6, 8, 10]
        best = min(e for _, e in found.about["looks"][f"{rate:g}"])
        assert found.about["validation"] == best <= found.about["at_start"]
        # The weights are those of that look.
        assert error(network_forecaster(found.module, [12])) == pytest.approx(best, rel=1e-6)
    assert found.about["best_step"] == 0


def test_training_learns_what_a_random_head_does_not_know(data):
    place, held = Place(data, (12,), 1.0, LOOKBACK), held_out(data, LOOKBACK, 12, 40)
    how = Tuning(steps=60, learning_rates=(1e-5, 3e-3), batch_size=32, head="random", checks=4)
    found = tune(encoder, place.windows, held, horizons=[12], how=how)
    assert found.about["learning_rate"] == 3e-3
    assert found.about["validation"] < 0.9 * found.about["at_start"]


def test_the_same_seed_trains_the_same_network(data):
    place, held = Place(data, (12,), 0.3, LOOKBACK), held_out(data, LOOKBACK, 12, 10)
    how = Tuning(steps=4, batch_size=16, checks=2, head="random")
    looks = [
        tune(encoder, place.windows, held, horizons=[12], how=how, seed=s).about["looks"]
        for s in (3, 3, 4)
    ]
    assert looks[0] == looks[1] != looks[2]


def test_patience_ends_the_training_after_looks_without_a_better_one(data):
    place, held = Place(data, (12,), 0.3, LOOKBACK), held_out(data, LOOKBACK, 12, 10)
    ridge = place.ridge(encoder_features(encoder()))
    how = Tuning(steps=20, learning_rates=(10.0,), batch_size=16, checks=10, patience=3)
    about = tune(encoder, place.windows, held, horizons=[12], how=how, start=ridge.heads).about
    assert (about["made"], about["steps"], about["best_step"]) == (6, 20, 0)


# -- windows ------------------------------------------------------------------------------------


def test_a_share_is_the_latest_windows_before_the_validation_rows(data):
    border = data.borders[0]
    whole = border - LOOKBACK - 12 + 1
    for share in (1.0, 0.5, 0.001):
        windows = latest_windows(data, share, lookback=LOOKBACK, horizon=12)
        count = max(1, round(share * whole))
        assert windows.count(12) == count
        np.testing.assert_array_equal(
            windows.values, data.values[border - count - LOOKBACK - 11 : border]
        )
    with pytest.raises(ValueError, match="share of the train windows"):
        latest_windows(data, 5, lookback=LOOKBACK, horizon=12)


def test_validation_windows_are_evenly_spaced_from_the_first_to_the_last(data):
    history, future = held_out(data, LOOKBACK, 12, 5)
    start, end = data.borders[:2]
    assert history.shape == (5, 2, LOOKBACK) and future.shape == (5, 2, 12)
    np.testing.assert_array_equal(future[0], data.values[start : start + 12].T)
    np.testing.assert_array_equal(future[-1], data.values[end - 12 : end].T)
    assert len(held_out(data, LOOKBACK, 12, 0)[0]) == end - start - 12 + 1


# -- the benchmark ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_table_has_every_arm_and_the_untrained_one_gets_the_budget_of_both(folder, run):
    result = bench_finetune(
        run, folder=folder, sets=["daily"], horizons=[6, 12], shares=[1.0, 0.2], **QUICK
    )
    names = [e.name for e in result.encoders]
    assert names == [
        "untrained", "trained", "untrained, frozen", "trained, frozen", "ridge on values"
    ]  # fmt: skip
    assert result.differences[0].name == "trained - untrained"
    rows = [f"daily {s} {h} {m}" for s in ("100%", "20%") for h in (6, 12) for m in ("MSE", "MAE")]
    assert list(result.encoders[0].scores) == rows
    assert len(result.encoders[1].scores["daily 20% 12 MSE"].seeds) == 2
    assert "pretrained on other.csv.gz" in result.setting
    made = cells(run)
    assert len(made) == 2 * 2 * (4 * 2 + 1)
    # 5 steps of 2 x 16 samples with 2 views each are 320 sequences: 20 steps of 16.
    assert made["daily-12-share-0.2-trained-seed-0"]["steps"] == 6
    assert made["daily-12-share-0.2-untrained-seed-0"]["steps"] == 6 + 20
    assert made["daily-12-share-0.2-untrained-seed-0"]["batch_size"] == 16
    saved = json.loads((run / "results" / "finetune.json").read_text())
    assert saved["better"] == "lower" and len(saved["encoders"]) == 5


@pytest.mark.slow
def test_a_second_call_measures_only_what_is_missing(folder, run, monkeypatch):
    options = {"folder": folder, "sets": ["daily"], "shares": [0.5], **QUICK}
    first = bench_finetune(run, horizons=[6], **options)
    asked = []

    def spy(arms, arm):
        asked.append((arms.place.horizons, arm))
        return fit(arms, arm)

    fit = Arms.fit
    monkeypatch.setattr(Arms, "fit", spy)
    again = bench_finetune(run, horizons=[6], **options)
    assert not asked and again.to_dict() == first.to_dict()
    (one,) = run.glob("finetune/*/daily-6-share-0.5-trained-seed-1.json")
    one.unlink()
    bench_finetune(run, horizons=[6], **options)
    assert asked == [((6,), "trained")]
    asked.clear()
    encoder(seed=5).save_pretrained(run / "seed-0" / "model")  # other weights: what hangs on them
    bench_finetune(run, horizons=[6], **options)
    assert asked == [((6,), "trained, frozen"), ((6,), "trained")]
    asked.clear()
    bench_finetune(run, horizons=[6], **{**options, "steps": 7})
    assert len(asked) == 9  # another setting is measured beside


def test_what_is_measured_stays_when_a_later_cell_fails(folder, run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune_arms, "tune", stop)
    with pytest.raises(KeyboardInterrupt):
        bench_finetune(run, folder=folder, sets=["daily"], horizons=[6], shares=[1.0], **QUICK)
    made = {name.split("share-1-")[1] for name in cells(run)}
    assert made == {"ridge-on-values", "untrained-frozen-seed-0", "trained-frozen-seed-0"}


@pytest.mark.slow
def test_no_test_window_is_read_before_a_cell_is_fitted(folder, run, monkeypatch):
    events = []
    windows, fit = ForecastData.windows, Arms.fit

    def spy(self, part, lookback):
        events.append(part)
        return windows(self, part, lookback)

    def blind_fit(arms, arm):
        events.append("fitting")
        # Whatever fitting reads, and however: the rows after validation are not there.
        values = arms.place.data.values.copy()
        values[arms.place.data.borders[1] :] = np.nan
        place = replace(arms.place, data=replace(arms.place.data, values=values))
        found = fit(Arms(place, arms.run, arms.how), arm)
        events.append("fitted")
        return found

    monkeypatch.setattr(ForecastData, "windows", spy)
    monkeypatch.setattr(Arms, "fit", blind_fit)
    result = bench_finetune(run, folder=folder, sets=["daily"], horizons=[6], shares=[0.5], **QUICK)
    assert all(np.isfinite(s.score) for e in result.encoders for s in e.scores.values())
    assert events.count("test") == events.count("fitted") == 9
    while events:
        start, end = events.index("fitting"), events.index("fitted")
        assert "test" not in events[:end] and "validation" in events[start:end]
        assert events[end + 1] == "test"
        events = events[end + 2 :]


def test_one_network_for_all_horizons_forecasts_the_first_steps_of_the_longest(
    folder, run, monkeypatch
):
    options = {"folder": folder, "sets": ["daily"], "shares": [0.5], **QUICK}
    tuned, train = [], finetune_arms.tune
    spy = lambda *a, **k: tuned.append(train(*a, **k)) or tuned[-1]  # noqa: E731
    monkeypatch.setattr(finetune_arms, "tune", spy)
    both = bench_finetune(run, horizons=[6, 12], joint=True, scratch=False, **options)
    assert len(tuned) == 2 and all(t.module.objective.horizon == 12 for t in tuned)
    assert [e.name for e in both.encoders][:2] == ["trained", "untrained, frozen"]
    assert "one network for all horizons" in both.setting
    data = load_forecasting("daily", folder)
    histories, future = next(data.windows("test", LOOKBACK).chunks(6))
    mean = np.mean(
        [
            np.square(network_forecaster(t.module, [6])(histories)[6] - future).mean()
         for t in tuned]
    )  # fmt: skip
    scores = both.encoders[0].scores
    assert scores["daily 50% 6 MSE"].pairs == scores["daily 50% 12 MSE"].pairs + 6
    assert scores["daily 50% 6 MSE"].score == pytest.approx(mean, rel=1e-4)


def test_a_run_that_read_rows_after_the_train_rows_of_its_own_set_is_named(data):
    def said(name="daily", rows=None, **more):
        about = {"data": f"there/{name}.csv.gz", "encoder": {"rows": rows}, **more}
        return PretrainedRun(Path("run"), about).saw_beyond_train(data)

    assert "first 600 rows of daily, of which 420 are train rows" in said()
    assert "first 500 rows" in said(rows=[0.0, 500.0])
    assert "first 480 rows" in said(rows=[0.0, -120.0])
    for rows in ([0.0, 420.0], [0.0, 0.7], [0.0, -180.0]):
        assert not said(rows=rows)
    assert not said("other")


def change(run, **about):
    for path in run.glob("seed-*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **about}))


def test_refusals_say_what_to_do(folder, run, tmp_path):
    ask = {"folder": folder, "sets": ["daily"], "horizons": [6], "shares": [0.5], **QUICK}
    with pytest.raises(ValueError, match="holds no run"):
        bench_finetune(tmp_path / "nothing", **ask)
    for name, wrong in {
        "steps": 0,
        "learning_rates": [],
        "head": "linear",
        "features": "values",
        "head_rate": 0.0,
    }.items():
        with pytest.raises(ValueError, match=name):
            bench_finetune(run, **{**ask, name: wrong})
    change(run, result={"finished": False, "steps": 2})
    with pytest.raises(ValueError, match="has not finished"):
        bench_finetune(run, **ask)
    assert len(pretrained_runs(run, scratch=False)) == 2
    warm = {"context": LOOKBACK, "pretrained": "runs/before"}
    change(run, result={"finished": True, "steps": 5}, encoder=warm)
    with pytest.raises(ValueError, match="not from random weights"):
        bench_finetune(run, **ask)
    change(run, modality="text")
    with pytest.raises(ValueError, match="no run on series"):
        bench_finetune(run, **ask)


def test_views_of_a_sum_count_for_every_part():
    about = {
        "training": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
        "processes": 2,
        "result": {"steps": 3},
        "objective": {"parts": {"a": {"views": ["x", "x"]}, "b": {"views": ["y"]}}},
    }
    assert PretrainedRun(Path("run"), about).sequences == 3 * 8 * 2 * 2 * 3
