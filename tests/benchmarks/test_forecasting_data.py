"""Sets of the forecasting benchmark: splits, scaling and windows."""

import numpy as np
import pandas as pd
import pytest

from unlabel.benchmarks.forecasting_data import (
    SETS,
    ForecastData,
    ForecastWindows,
    Part,
    borders,
    load_forecasting,
    standardised,
)
from unlabel.data_pipes.synthetic_series import embedded_series


def write(folder, *, rows=400, freq="h", name="own", **columns):
    rng = np.random.default_rng(0)
    table = {"date": pd.date_range("2020-01-01", periods=rows, freq=freq)}
    table |= {c: rng.normal(5, 2, rows) for c in ("a", "OT", "b")} | columns
    pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)


def test_windows_are_every_stretch_of_rows_and_nothing_else():
    values = np.arange(40.0).reshape(20, 2)
    windows = ForecastWindows(values, lookback=4)
    history, future = (np.concatenate(p) for p in zip(*windows.chunks(3), strict=True))
    assert len(history) == windows.count(3) == 20 - 4 - 3 + 1
    for i in range(len(history)):
        np.testing.assert_array_equal(history[i].T, values[i : i + 4])
        np.testing.assert_array_equal(future[i].T, values[i + 4 : i + 7])


def test_chunks_of_a_part_are_the_same_windows(monkeypatch):
    windows = ForecastWindows(np.random.default_rng(0).normal(size=(50, 3)), lookback=5)
    whole = np.concatenate([h for h, _ in windows.chunks(2)])
    monkeypatch.setattr("unlabel.benchmarks.forecasting_data.CHUNK_VALUES", 3 * 7 * 4)
    parts = [h for h, _ in windows.chunks(2, 3, 30)]
    assert max(map(len, parts)) == 4
    np.testing.assert_array_equal(np.concatenate(parts), whole[3:30])


def test_later_parts_look_back_over_the_border_and_forecast_their_own_rows_only():
    values = np.arange(100.0)[:, None]
    data = ForecastData("x", values, ("a",), (60, 80, 100))
    spans: dict[Part, tuple[int, int]] = {
        "train": (10, 59),
        "validation": (60, 79),
        "test": (80, 99),
    }
    for part, (first, last) in spans.items():
        futures = np.concatenate([f for _, f in data.windows(part, 10).chunks(5)])
        assert futures.min() == first and futures.max() == last
    late = ForecastData("x", values, ("a",), (60, 80, 100), protocol="representation")
    futures = np.concatenate([f for _, f in late.windows("test", 10).chunks(5)])
    assert futures.min() == 81 and len(futures) == 20 - 5


def test_train_rows_alone_set_the_scale():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(3, 2, (50, 2)), rng.normal(9, 9, (50, 2))])
    scaled = standardised(values, 50)
    np.testing.assert_allclose(scaled[:50].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled[:50].std(0), 1, atol=1e-12)
    np.testing.assert_array_equal(standardised(np.full((10, 1), 4.0), 5), 0)


def test_borders_by_share_leave_no_row_out():
    assert borders(7588, "ltsf") == (5311, 7588 - 1517, 7588)
    assert borders(966, "representation") == (579, 772, 966)


@pytest.mark.parametrize(("freq", "day"), [("h", 24), ("15min", 96), ("D", 0), ("7D", 0)])
def test_a_day_has_as_many_steps_as_the_times_say(tmp_path, freq, day):
    write(tmp_path, freq=freq)
    data = load_forecasting("own", tmp_path)
    assert data.day == day and data.names == ("a", "OT", "b") and data.values.shape == (400, 3)
    np.testing.assert_allclose(data.values[:280].std(0), 1)


def test_univariate_is_the_target_alone(tmp_path):
    write(tmp_path)
    both, one = (load_forecasting("own", tmp_path, univariate=u) for u in (False, True))
    assert one.names == ("OT",)
    np.testing.assert_array_equal(one.values[:, 0], both.values[:, 1])


def test_refuses_what_it_cannot_read_with_the_place(tmp_path, monkeypatch):
    write(tmp_path, rows=5, b=[1, 2, "x", 4, 5])
    with pytest.raises(ValueError, match=r"own\.csv:4, column 'b': 'x' is no number"):
        load_forecasting("own", tmp_path)
    with pytest.raises(ValueError, match=r"No set 'other'.*own\.csv"):
        load_forecasting("other", tmp_path)
    with pytest.raises(ValueError, match="choose one of ltsf"):
        load_forecasting("own", tmp_path, protocol="none")  # pyright: ignore[reportArgumentType]
    with pytest.raises(FileNotFoundError, match="UNLABEL_DATA"):
        load_forecasting("own", tmp_path / "nowhere")
    monkeypatch.delenv("UNLABEL_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="UNLABEL_DATA"):
        load_forecasting("own")


def test_refuses_windows_that_do_not_fit():
    data = ForecastData("x", np.zeros((100, 1)), ("a",), (60, 80, 100))
    with pytest.raises(ValueError, match="60 rows hold no window of lookback 50 and horizon 20"):
        data.windows("train", 50).count(20)
    with pytest.raises(ValueError, match="before the first row"):
        data.windows("validation", 70)


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_sets_are_the_published_ones(data_folder, name):
    data = load_forecasting(name, data_folder / "series")
    assert len(data.values) == SETS[name].rows
    days = {"ETTh": 24, "ETTm": 96, "weat": 144, "exch": 0, "nati": 0}
    assert data.day == days[name[:4]]
    np.testing.assert_allclose(data.values[: data.borders[0]].mean(0), 0, atol=1e-8)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "protocol", "train", "counts"),
    [
        ("ETTh1", "ltsf", 8209, {96: 2785, 192: 2689, 336: 2545, 720: 2161}),
        ("ETTh1", "representation", 8209, {24: 2856, 720: 2160}),
        ("ETTm2", "ltsf", 34129, {96: 11425, 720: 10801}),
        ("exchange_rate", "ltsf", 4880, {96: 1422}),
        ("weather", "ltsf", 36456, {96: 10444}),
    ],
)
def test_every_window_counts(data_folder, name, protocol, train, counts):
    data = load_forecasting(name, data_folder / "series", protocol=protocol)
    assert data.windows("train", 336).count(96) == train
    assert {h: data.windows("test", 336).count(h) for h in counts} == counts


def test_the_embedded_set_says_the_least_error_and_the_signal_reaches_it():
    data = load_forecasting("synthetic")
    made = embedded_series(missing=0.0)
    assert data.values.shape == (14_400, 7) and data.day == 24
    train = made[0].values[:8640].astype(np.float64)
    signal = (made.signal[0] - train.mean(0)) / train.std(0)
    error = np.mean((data.values - signal)[11_520:] ** 2)
    said = float(data.about.note.split("MSE of ")[1].split(";")[0])
    assert error == pytest.approx(said, rel=0.03)
    gaps = embedded_series()[0].values
    there = ~np.isnan(gaps)
    np.testing.assert_array_equal(gaps[there], made[0].values[there])
