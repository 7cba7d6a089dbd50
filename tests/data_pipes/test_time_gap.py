"""Irregular times as a covariate: the gaps as they are, from the file to the encoder."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from unlabel import Forecaster
from unlabel.cli import main
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.data_pipes.series_stream import stream_series
from unlabel.modalities.series import SeriesEncoder
from unlabel.series_embedding import embed_series

SECONDS = np.array([0, 10, 70, 80, 680, 690])


def vectors(encoder: SeriesEncoder, source, unit: float = 10.0) -> np.ndarray:
    made = embed_series(encoder, read_series(source, time_gap=unit))
    return np.array(made["embedding"].tolist())


def gaps_of(source, **about) -> np.ndarray:
    known: Any = read_series(source, **about)[0].covariates
    return known[:, -1]


@pytest.fixture
def table():
    """Two series of the same seconds, in disorder; the value is the step's number."""
    start = pd.Timestamp("2024-03-01")
    parts = [
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": start + pd.to_timedelta(SECONDS + shift, unit="s"),
                "target": np.arange(6.0),
            }
        )
        for name, shift in (("a", 0), ("b", 5))
    ]
    return pd.concat(parts).sample(frac=1, random_state=0)


def test_rows_stay_steps_and_the_covariate_is_the_log_of_the_gap(table):
    data = read_series(table, time_gap=True)
    for one in data:
        np.testing.assert_array_equal(one.values[:, 0], np.arange(6))  # in order, no gap put in
        expected = np.log(np.array([10, 60, 10, 600, 10]) / 10)
        known: Any = one.covariates
        np.testing.assert_allclose(known[1:, 0], expected, rtol=1e-6)
        assert known[0, 0] == 0 and one.freq is None
    assert data.time_gap == 10 and "time gaps in units of 10" in data.summary()
    finer, coarser = gaps_of(table, time_gap=10), gaps_of(table, time_gap=60)
    np.testing.assert_allclose(coarser[1:], finer[1:] - np.log(6), atol=1e-6)


def test_a_grid_with_gaps_stays_the_default(table):
    data = read_series(table)
    assert data.time_gap is None and data[0].covariates is None
    assert len(data[0]) == 70 and np.isnan(data[0].values).sum() == 64


def test_the_gap_reaches_back_to_the_last_row_that_holds_a_value(table):
    one = table[table["item_id"] == "a"].sort_values("timestamp").reset_index(drop=True)
    one["other"] = [1.0, np.nan, np.nan, np.nan, 1.0, 1.0]
    one.loc[[1, 2], "target"] = np.nan
    gaps = gaps_of(one.drop(columns="item_id"), target=["target", "other"], time_gap=1)
    np.testing.assert_allclose(np.exp(gaps[1:]), [10, 70, 80, 600, 10], rtol=1e-5)


def test_a_counting_column_is_measured_in_its_own_numbers_whole_or_not():
    whole = pd.DataFrame({"time": [0, 1, 4, 9], "y": [1.0, 2, 3, 4]})
    parts = whole.assign(time=whole["time"] + 0.5)
    for table in (whole, parts):
        gaps = gaps_of(table, timestamp_column="time", target="y", time_gap=1)
        np.testing.assert_allclose(np.exp(gaps[1:]), [1, 3, 5], rtol=1e-6)


def test_given_covariates_stay_before_the_gap(table):
    table["price"] = 7.0
    known: Any = read_series(table, covariates="price", time_gap=True)[0].covariates
    assert known.shape == (6, 2) and (known[:, 0] == 7).all()


def test_a_store_and_a_stream_know_the_unit(table, tmp_path):
    data = read_series(table, time_gap=True)
    made = SeriesStore(data, context=4, path=tmp_path / "store")
    assert made.time_gap == SeriesStore.open(tmp_path / "store").time_gap == 10
    table.to_csv(tmp_path / "t.csv", index=False)
    for mine, its in zip(stream_series(tmp_path / "t.csv", time_gap=10), data, strict=True):
        np.testing.assert_array_equal(np.array(mine.covariates), np.array(its.covariates))


def test_the_encoder_sees_the_gap_and_keeps_its_unit(table, tmp_path):
    torch.manual_seed(0)
    config = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 8}
    encoder = SeriesEncoder.from_config(config, context=6, covariates=1, time_gap=10.0)
    encoder.save_pretrained(tmp_path / "model")
    encoder = SeriesEncoder.from_pretrained(tmp_path / "model")
    assert encoder.time_gap == 10
    mine = vectors(encoder, table)
    table["timestamp"] = table["timestamp"].where(
        table["target"] < 3, table["timestamp"] + pd.Timedelta("1h")
    )
    later = vectors(encoder, table)
    assert np.abs(mine - later).max() > 1e-4  # the values are the same
    with pytest.raises(ValueError, match=r"no time gaps, but .* time_gap=10.0; read them so"):
        embed_series(encoder, read_series(table))
    with pytest.raises(ValueError, match="which an array does not have"):
        encoder.encode(np.zeros((6, 1)))
    with pytest.raises(ValueError, match="a forecast has no times to stand at"):
        Forecaster(tmp_path / "model", prediction_length=1).fit(table)


def test_from_a_csv_to_vectors_by_the_command_line(tmp_path, capsys):
    random = np.random.default_rng(0)
    seconds = np.round(random.exponential(600, size=400).cumsum())
    stamps = pd.Timestamp("2024-01-01") + pd.to_timedelta(seconds, unit="s")
    frame = pd.DataFrame({"date": stamps, "load": np.sin(seconds / 5000)})
    frame.to_csv(tmp_path / "loads.csv", index=False)
    tiny = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
    run = tmp_path / "run"
    main(
        ["train", "--modality=series", f"--data={tmp_path / 'loads.csv'}",
         "--objective=masked_values", "--series.time_gap=true", "--series.context=48",
         f"--series.config={json.dumps(tiny)}", "--training.max_steps=2",
         "--training.per_device_train_batch_size=8", f"--training.output_dir={run}"]
    )  # fmt: skip
    unit = float(np.median(np.diff(seconds)))
    assert json.loads((run / "model" / "unlabel.json").read_text())["time_gap"] == unit
    main(["embed", str(run), str(tmp_path / "loads.csv"), f"--output={tmp_path / 'v.npy'}"])
    assert "time gaps in units of" in capsys.readouterr().out
    encoder = SeriesEncoder.from_pretrained(run / "model")
    expected = vectors(encoder, tmp_path / "loads.csv", unit)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)


def test_what_has_no_gaps_is_refused_in_a_sentence(table, tmp_path):
    with pytest.raises(ValueError, match="freq puts rows on a grid, and time_gap leaves them"):
        read_series(table, freq="h", time_gap=True)
    with pytest.raises(ValueError, match="a unit of time above 0, but is -1"):
        read_series(table, time_gap=-1)
    for source in (np.zeros((9, 1)), table.drop(columns="timestamp")):
        with pytest.raises(ValueError, match="no time column, which time_gap measures"):
            read_series(source, time_gap=True)
    with pytest.raises(ValueError, match="median gap of a stream is not known"):
        stream_series(tmp_path, time_gap=True)
    with pytest.raises(ValueError, match="A time gap is one of the covariates"):
        SeriesEncoder.from_config({}, context=24, time_gap=1.0)
