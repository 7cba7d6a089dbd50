"""`unlabel sample` and the report's samples: of every kind of data, and never at a run's cost."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unlabel.cli import main
from unlabel.heads import load_drawing, load_scoring
from unlabel.modalities.series import SeriesEncoder
from unlabel.objectives import VAE, Autoencoder, NextStep
from unlabel.sampling import draw_samples

CONV = {"model_type": "dilated_conv", "hidden_size": 8, "num_hidden_layers": 1, "output_size": 8}
VIT = {"patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
FLOW = {"model_type": "coupling_flow", "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 2}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains two steps on waves or small pictures; `unlabel train` with further options."""
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    t, rng = np.arange(400), np.random.default_rng(0)
    table = pd.DataFrame({"one": np.sin(t / 3), "two": rng.normal(size=400)})
    table.to_csv(tmp_path / "series.csv", index=False)
    (tmp_path / "frames").mkdir()
    for i in range(8):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{i}.png")
    sources = {"series": tmp_path / "series.csv", "frames": tmp_path / "frames"}

    def train_one(kind, *words, config):
        out = str(tmp_path / "out")
        size = ["--series.context", "16"] if kind == "series" else ["--frames.size", "16"]
        given = {f"{kind}.config": json.dumps(config), "training.output_dir": out}
        given |= {"training.max_steps": "2", "training.per_device_train_batch_size": "4"}
        more = [word for key, value in given.items() for word in (f"--{key}", value)]
        main(["train", "--modality", kind, "--data", str(sources[kind]), *words, *size, *more])
        return tmp_path / "out"

    return train_one


def test_series_are_drawn_as_a_table_numbers_and_lines_and_shown_in_the_report(
    train, tmp_path, capsys
):
    out = train("series", "--objective", "next_step", config=CONV)
    for ending in ("csv", "npy", "png", "parquet"):
        file = tmp_path / f"s.{ending}"
        main(["sample", str(out), "--output", str(file), "--count", "5", "--seed", "3"])
        assert "5 samples drawn" in capsys.readouterr().out and file.stat().st_size
    found = np.load(tmp_path / "s.npy")
    assert found.shape == (5, 16, 1)
    table = pd.read_csv(tmp_path / "s.csv")
    assert list(table.columns) == ["item_id", "step", "value"]
    again = pd.read_parquet(tmp_path / "s.parquet")
    pd.testing.assert_frame_equal(table, again, rtol=1e-5, check_dtype=False)
    np.testing.assert_allclose(table["value"], found.ravel(), rtol=1e-5)
    assert table["item_id"].tolist() == np.repeat(np.arange(5), 16).tolist()
    encoder, values = draw_samples(out, 5, seed=3, device="cpu")
    np.testing.assert_array_equal(encoder.restored(values), found)
    drawn = json.loads((out / "first_batch.json").read_text())["drawn"]
    assert drawn["index"] == list(range(6))
    main(["report", str(out)])
    page = (out / "report.html").read_text()
    assert "What the trained\nmodel draws" in page or "What the trained model draws" in page
    assert f"unlabel sample {out}" in page


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (["vae", "--objective.width", "4"], VIT),
        (["bigan", "--objective.hidden", "10", "--objective.heads", "2"], VIT),
        (["flow"], FLOW),
    ],
)
def test_pictures_are_drawn_as_pixels_and_as_tiles(train, tmp_path, method, config):
    out = train("frames", "--objective", *method, config=config)
    for ending in ("npy", "png"):
        main(["sample", str(out), "--output", str(tmp_path / f"s.{ending}"), "--count", "4"])
    pixels = np.load(tmp_path / "s.npy")
    assert pixels.shape == (4, 16, 16, 3) and pixels.dtype == np.uint8
    tiles = np.asarray(Image.open(tmp_path / "s.png"))
    assert tiles.shape == (34, 34, 3)
    np.testing.assert_array_equal(tiles[18:, :16], pixels[2])
    drawn = json.loads((out / "first_batch.json").read_text())["drawn"]
    assert len(drawn["views"][0]["clips"]) == 6


def test_parts_of_a_sum_find_their_own_heads(train):
    both = {n: {"class_path": f"unlabel.objectives.{n}"} for n in ("Autoencoder", "VAE")}
    objective = {"class_path": "unlabel.objectives.Sum", "init_args": {"objectives": both}}
    words = [f"--objective={json.dumps(objective)}"]
    out = train("series", *words, config={"patch_length": 4, "d_model": 8})
    encoder: Any = SeriesEncoder.from_pretrained(out / "model")
    assert isinstance(load_scoring(out, encoder), Autoencoder)
    method = load_drawing(out, encoder)
    assert isinstance(method, VAE) and method.drawn(encoder, 3).shape == (3, 4, 4)


def test_what_cannot_be_drawn_costs_no_run(train, monkeypatch, capsys):
    def fails(*_: Any, **__: Any):
        raise RuntimeError("no room for samples")

    monkeypatch.setattr(NextStep, "drawn", fails)
    out = train("series", "--objective", "next_step", config=CONV)
    assert json.loads((out / "run.json").read_text())["result"]["finished"]
    assert "drawn" not in json.loads((out / "first_batch.json").read_text())
    assert "No samples in the report: no room for samples" in capsys.readouterr().err


def test_runs_that_draw_nothing_are_refused_in_one_sentence(train, tmp_path, capsys):
    def refused(*words):
        with pytest.raises(SystemExit):
            main(["sample", *map(str, words)])
        return capsys.readouterr().err

    assert "holds no trained run (no model/ folder)" in refused(tmp_path / "nowhere")
    out = train("series", "--objective", "next_step", "--objective.loss", "mse", config=CONV)
    assert "NextStep has learned a distance here, and no density" in refused(out)
    assert "written as .npy, .png, .csv or .parquet" in refused(out, "--output", "samples.txt")
    assert "count is 1 or more and temperature 0 or more" in refused(out, "--count", "0")
    about = json.loads((out / "run.json").read_text())
    about["objective"] = {"class": "MaskedValues", "settings": {}}
    (out / "run.json").write_text(json.dumps(about))
    said = refused(out)
    assert "MaskedValues learns no samples, so it cannot draw any; train " in said
    can = said.split("; train ")[1].strip().rstrip(".").split(", ")
    expected = "vae flow flow_prior adversarial_autoencoder bigan next_step next_token".split()
    assert sorted(can) == sorted(expected)


def test_samples_of_pictures_make_no_table(train, capsys):
    out = train("frames", "--objective", "vae", config=VIT)
    with pytest.raises(SystemExit):
        main(["sample", str(out), "--output", "samples.csv"])
    assert "samples of frames make no table; choose .npy or .png" in capsys.readouterr().err


def test_text_is_drawn_as_sentences_and_shown_in_the_report(tmp_path, sentences, capsys):
    notes, out = tmp_path / "notes.txt", tmp_path / "out"
    notes.write_text("\n".join(sentences) + "\n")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = ["--text.config", json.dumps(sizes), "--text.vocabulary", "120"]
    words += ["--training.max_steps", "2", "--training.output_dir", str(out)]
    main(["train", "--data", str(notes), "--objective", "next_token", *words])
    capsys.readouterr()
    main(["sample", str(out), "--count", "3", "--seed", "5"])
    printed = capsys.readouterr().out
    main(["sample", str(out), "--count", "3", "--seed", "5", "--output", str(tmp_path / "s.txt")])
    assert (tmp_path / "s.txt").read_text() == printed and len(printed.splitlines()) == 3
    assert "[SEP]" not in printed and "3 sentences drawn" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sample", str(out), "--output", "samples.npy"])
    assert "samples.npy: sentences are written as .txt" in capsys.readouterr().err
    main(["report", str(out)])
    page = (out / "report.html").read_text()
    drawn = page.split("What the trained model draws")[1]
    assert '<ol class="tokens">' in drawn.split("</section>")[0]
