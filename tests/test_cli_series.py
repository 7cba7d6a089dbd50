import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from unlabel import Forecaster
from unlabel.cli import main
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.modalities.series import SeriesEncoder

TINY = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    encoder = SeriesEncoder.from_config(TINY, context=48)
    encoder.save_pretrained(tmp_path / "run" / "model")
    about = {"modality": "series", "data": "loads.csv", "objective": {"class": "MaskedValues"}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    return tmp_path / "run"


@pytest.fixture
def loads(tmp_path):
    hours = np.arange(300)
    day = np.sin(2 * np.pi * hours / 24) + 0.1 * np.random.default_rng(0).normal(size=300)
    stamps = pd.date_range("2024-01-01", periods=300, freq="h")
    table = pd.DataFrame({"date": stamps, "north": 5 + day, "south": 50 - 9 * day})
    table.to_csv(tmp_path / "loads.csv", index=False)
    return tmp_path / "loads.csv"


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_forecast_writes_table_picture_and_forecaster(run, loads, tmp_path, capsys):
    out = tmp_path / "out"
    main(
        ["forecast", str(run), str(loads), f"--output={out / 'f.csv'}", "--prediction_length=12",
         f"--plot={out / 'f.png'}", f"--save={out / 'model'}"]
    )  # fmt: skip
    out_err = capsys.readouterr()
    said = out_err.out + out_err.err
    assert "1 series of 300 steps and 2 channel(s), step h" in said
    assert "of that of repeating the last value" in said
    assert "12 steps of 2 channel(s) of 1 series forecast" in said
    table = pd.read_csv(out / "f.csv", parse_dates=["date"])
    assert list(table.columns[:3]) == ["date", "target_name", "predictions"] and len(table) == 24
    assert str(table["date"][0]) == "2024-01-13 12:00:00"
    assert (out / "f.png").read_bytes().startswith(b"\x89PNG")
    main(["forecast", str(out / "model"), str(loads), f"--output={out / 'g.parquet'}"])
    np.testing.assert_allclose(pd.read_parquet(out / "g.parquet")["0.9"], table["0.9"], rtol=1e-6)
    said = refused(capsys, "forecast", out / "model", loads, "--method=finetune", "--seed=0")
    assert "fitted already, so method, seed would change nothing" in said
    expected = Forecaster(run, prediction_length=12).fit(loads).predict_df(loads)
    np.testing.assert_allclose(table["predictions"], expected["predictions"], rtol=1e-6)


def test_forecast_of_one_target_by_a_new_encoder(loads, tmp_path):
    out = tmp_path / "f.csv"
    arguments = ["--prediction_length=6", "--target=south", "--quantile_levels=[0.2, 0.8]"]
    main(["forecast", "none", str(loads), f"--output={out}", *arguments])
    table = pd.read_csv(out)
    assert set(table["target_name"]) == {"south"} and list(table.columns[-2:]) == ["0.2", "0.8"]


def test_what_cannot_be_forecast_is_one_sentence(run, loads, tmp_path, capsys):
    said = refused(capsys, "forecast", run, loads, "--output", tmp_path / "f.xls")
    assert "written as .csv or .parquet" in said
    said = refused(capsys, "forecast", run, loads, "--prediction_length", 200)
    assert "a series needs 402" in said
    said = refused(capsys, "forecast", run, loads, "--target", "west", "--prediction_length", 6)
    assert "no column 'west'" in said
    said = refused(capsys, "forecast", tmp_path / "nowhere", loads, "--prediction_length", 6)
    assert "nowhere" in said and "Traceback" not in said


def test_rows_that_hold_nothing_and_outputs_that_are_none_are_refused(loads, tmp_path, capsys):
    out = f"--training.output_dir={tmp_path / 'x'}"
    for rows in ("[0.5, 1]", "[0.5, 0.1]", "[90, 20]", "[-20, -90]"):
        said = refused(capsys, "train", *SMALL, f"--data={loads}", out, f"--series.rows={rows}")
        assert "rows is [start, end], both rows or both shares below 1" in said
    short = ("forecast", "none", loads, "--prediction_length=6", "--output")
    assert f"{loads} is a file, so " in refused(capsys, *short, loads / "f.csv")
    (tmp_path / "f.csv").mkdir()
    assert "f.csv is a folder; name a file." in refused(capsys, *short, tmp_path / "f.csv")


def test_embed_of_a_series_run_writes_one_vector_a_channel_or_a_step(run, loads, tmp_path, capsys):
    file = tmp_path / "v.parquet"
    main(["embed", str(run), str(loads), f"--output={file}"])
    table = pq.read_table(file)
    assert table.column_names == ["item_id", "target_name", "embedding"]
    assert table.column("target_name").to_pylist() == ["north", "south"]
    values = pd.read_csv(loads)[["north", "south"]].to_numpy()
    expected = SeriesEncoder.from_pretrained(run / "model").encode(values)
    found = np.array(table.column("embedding").to_pylist())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    main(["embed", str(run), str(loads), "--per_step", f"--output={tmp_path / 'v.npy'}"])
    assert np.load(tmp_path / "v.npy").shape == (600, 16)
    assert "600 vectors of width 16" in capsys.readouterr().out
    assert "has no pooling" in refused(capsys, "embed", run, loads, "--pooling=cls")


def test_export_of_a_series_run_is_a_transformers_folder_whose_card_runs(run, capsys):
    main(["export", str(run)])
    folder = run / "transformers"
    card = (folder / "README.md").read_text()
    assert "PatchTSTModel" in card and "objective: MaskedValues" in card
    code = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(folder))
    names: dict = {}
    exec(code, names)
    encoder = SeriesEncoder.from_pretrained(run / "model")
    np.testing.assert_array_equal(names["embeddings"], encoder.encode(names["values"]))
    assert names["embeddings"].shape == (2, 16)
    said = refused(capsys, "export", run, "--folder", run / "st", "--to", "sentence-transformers")
    assert "is an encoder of series; export it to transformers" in said


def test_the_recipe_needs_no_data_and_its_report_shows_windows(tmp_path):
    run = tmp_path / "run"
    recipe = Path(__file__).parents[1] / "recipes" / "series.yaml"
    small = ["--training.max_steps=2", "--training.per_device_train_batch_size=8"]
    main(["train", str(recipe), f"--training.output_dir={run}", *small])
    main(["report", str(run)])
    page = (run / "report.html").read_text()
    assert "synthetic" in page and "One channel a line" in page and "bench forecasting" in page


SMALL = [
    "--modality=series", "--objective=masked_values", "--series.context=48",
    f"--series.config={json.dumps(TINY)}", "--training.per_device_train_batch_size=8",
    "--training.save_steps=2", "--training.logging_steps=1",
]  # fmt: skip


def losses(run):
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.slow
def test_a_stream_is_trained_on_and_resumed_where_it_stopped(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 100)).cumsum(1)
    pd.DataFrame({"item_id": [f"s{i}" for i in range(30)], "target": list(values)}).to_parquet(
        tmp_path / "many.parquet"
    )
    steps = ["--training.max_steps=6"]
    stream = [f"--data={tmp_path / 'many.parquet'}", "--series.streaming=true", *SMALL]
    main(["train", *stream, *steps, f"--training.output_dir={tmp_path / 'one'}"])
    main(["train", *stream, *steps, f"--training.output_dir={tmp_path / 'two'}"])
    about = json.loads((tmp_path / "two" / "run.json").read_text())
    assert about["samples"] is None and about["read"].startswith("a stream that begins with 30")
    # As if it had been stopped after step 4.
    shutil.rmtree(tmp_path / "two" / "model")
    shutil.rmtree(tmp_path / "two" / "checkpoint-6")
    main(["train", *stream, *steps, f"--training.output_dir={tmp_path / 'two'}", "--resume"])
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    weights = [(tmp_path / r / "model" / "model.safetensors").read_bytes() for r in ("one", "two")]
    assert weights[0] == weights[1]


def test_files_are_trained_on_where_they_lie_as_if_they_were_read(tmp_path):
    values = np.random.default_rng(0).normal(size=(300, 2)).cumsum(0).astype(np.float32)
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "a.npy", values)
    SeriesStore(read_series(values), context=9, path=tmp_path / "store")
    kinds = {"read": [], "mapped": ["--series.mapped=true"], "store": []}
    for kind, options in kinds.items():
        data = tmp_path / ("store" if kind == "store" else "npy")
        out = f"--training.output_dir={tmp_path / kind}"
        main(["train", f"--data={data}", *SMALL, *options, out, "--training.max_steps=2"])
    assert len(losses(tmp_path / "read")) == 2
    assert losses(tmp_path / "read") == losses(tmp_path / "mapped") == losses(tmp_path / "store")


def test_what_lies_on_disk_refuses_what_would_change_it(loads, tmp_path, capsys):
    def said(*options):
        out = f"--training.output_dir={tmp_path / 'x'}"
        return refused(capsys, "train", *SMALL, out, *options)

    assert "loads.csv: only plain .npy" in said(f"--data={loads}", "--series.mapped=true")
    mapped = [f"--data={loads}", "--series.mapped=true", "--series.freq=h"]
    assert "so freq cannot be heeded" in said(*mapped)
    assert "give --training.max_steps" in said(f"--data={loads}", "--series.streaming=true")
    assert "give data that is not generated" in said("--series.streaming=true")
    SeriesStore(read_series(loads), context=9, path=tmp_path / "store", channels="together")
    assert "written with channels='together'" in said(f"--data={tmp_path / 'store'}")
