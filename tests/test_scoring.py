"""`unlabel score`: what is unusual scores high, by every method that expects something."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from unlabel.cli import main
from unlabel.core import view
from unlabel.data_pipes.series import read_series
from unlabel.heads import load_scoring, save_heads
from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import Autoencoder, Flow
from unlabel.scoring import score_clips, score_series, score_sounds

PATCHES = {"patch_length": 6, "d_model": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
METHODS: dict[str, Any] = {
    "autoencoder": ["--objective", "autoencoder", "--objective.hidden", "32"],
    "vae": ["--objective", "vae", "--objective.width", "4", "--objective.deviation", "0.3"],
    "flow_prior": [
        "--objective",
        "flow_prior",
        "--objective.steps",
        "2",
        "--objective.beta",
        "0.1",
    ],
    "next_step": ["--objective", "next_step", "--series.causal", "true"],
    "flow": ["--objective", "flow"],
}


@pytest.fixture
def waves(tmp_path):
    """A wave with noise in two columns; `odd.csv` has a burst at steps 200 to 203 of `one`."""
    t, rng = np.arange(400), np.random.default_rng(0)
    of = lambda phase: np.sin(2 * np.pi * t / 12 + phase) + 0.05 * rng.normal(size=400)  # noqa: E731
    table = pd.DataFrame({"date": pd.date_range("2024", periods=400, freq="h")})
    table["one"], table["two"] = of(0), of(1)
    table.to_csv(tmp_path / "waves.csv", index=False)
    table.loc[200:203, "one"] += 3 * np.array([1, -1, 1, -1])
    table.to_csv(tmp_path / "odd.csv", index=False)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_burst_scores_highest_after_training(waves, name, capsys):
    out = waves / "out"
    config = {"model_type": "coupling_flow", "patch_size": 6, "hidden_size": 32}
    config = config if name == "flow" else PATCHES
    given = {"series.config": json.dumps(config), "series.context": "48"}
    given |= {"training.output_dir": str(out), "training.max_steps": "200"}
    given |= {"training.per_device_train_batch_size": "32", "training.learning_rate": "0.003"}
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    data = str(waves / "waves.csv")
    main(["train", "--modality", "series", "--data", data, *METHODS[name], *words])
    main(["score", str(out), str(waves / "odd.csv"), "--output", str(waves / "s.csv")])
    assert "800 steps scored, 0 of them without a value" in capsys.readouterr().out
    found = pd.read_csv(waves / "s.csv")
    assert list(found.columns) == ["item_id", "target_name", "date", "score"]
    one = found[found.target_name == "one"].reset_index(drop=True).score
    two = found[found.target_name == "two"].score
    assert 200 - 12 <= one.argmax() <= 203 + 12  # a flow scores whole windows
    assert one[200:204].mean() > two.quantile(0.99)
    main(
        [
            "score",
            str(out),
            str(waves / "odd.csv"),
            "--output",
            str(waves / "w.parquet"),
            "--per_window",
        ]
    )
    windows = pd.read_parquet(waves / "w.parquet")
    worst = windows.loc[windows.score.idxmax()]
    burst = pd.Timestamp("2024-01-01") + pd.Timedelta(hours=201)
    assert worst.target_name == "one" and worst.start <= burst <= worst.end
    assert ((windows.end - windows.start) == pd.Timedelta(hours=47)).all()


class _Zero(torch.nn.Module):
    def forward(self, vector):
        return torch.zeros(len(vector), 8, 6)


@pytest.mark.parametrize("context", [48, 51])  # whole tokens, and some steps over
def test_scores_are_the_mean_over_the_windows_that_hold_a_step(waves, context):
    encoder = SeriesEncoder.from_config(PATCHES, context=context, norm="none").eval()
    method = Autoencoder()
    method.decoder = _Zero()
    data = read_series(str(waves / "odd.csv"))
    # Of a decoder of zeros without a norm every window gives a step the same score.
    found = score_series(encoder, method, data, stride=7)
    table = pd.read_csv(waves / "odd.csv")
    expected = np.concatenate([table["one"] ** 2, table["two"] ** 2])
    np.testing.assert_allclose(found.score, expected, rtol=1e-4)


def test_what_was_not_measured_has_no_score_and_short_series_have_one(waves):
    table = pd.read_csv(waves / "waves.csv").iloc[:30]
    table.loc[4, "one"] = np.nan
    data = read_series(table)
    encoder: Any = SeriesEncoder.from_config(PATCHES, context=48).eval()
    method = Autoencoder()
    method.build(encoder)
    found = score_series(encoder, method, data)
    assert len(found) == 60 and list(np.flatnonzero(found.score.isna())) == [4]
    assert len(score_series(encoder, method, data, per_window=True)) == 2


def test_channels_together_have_one_score(waves):
    config = {"model_type": "coupling_flow", "patch_size": 6, "hidden_size": 8}
    encoder = SeriesEncoder.from_config(config, context=48, channels=2).eval()
    found = score_series(encoder, Flow(), read_series(str(waves / "waves.csv")))
    assert len(found) == 400 and "target_name" not in found
    with pytest.raises(ValueError, match="stride is the steps"):
        score_series(encoder, Flow(), read_series(str(waves / "waves.csv")), stride=0)


def test_an_invertible_encoder_scores_without_a_run(tmp_path):
    config = {"model_type": "coupling_flow", "patch_size": 6, "hidden_size": 8}
    encoder = SeriesEncoder.from_config(config, context=48)
    assert isinstance(load_scoring(tmp_path, encoder), Flow)


def test_what_cannot_score_is_refused_by_name(tmp_path, waves):
    encoder = SeriesEncoder.from_config(PATCHES, context=48)
    with pytest.raises(ValueError, match="is not the output folder of a run"):
        load_scoring(tmp_path, encoder)
    about: dict[str, Any] = {"objective": {"class": "MaskedValues", "settings": {}}}
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="MaskedValues expects no values, so it cannot score any"):
        load_scoring(tmp_path, encoder)
    about["objective"] = {"class": "Autoencoder", "settings": {"hidden": 8, "loss": "mse"}}
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="the run has not come to its end"):
        load_scoring(tmp_path, encoder)


def test_another_ending_is_refused(waves, capsys):
    with pytest.raises(SystemExit):
        main(["score", str(waves), str(waves / "odd.csv"), "--output", "scores.txt"])
    assert "scores are written as .csv or .parquet" in capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path):
    """Eight pictures of 8 x 8 pixels, of which each level is as likely as another."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    (tmp_path / "pictures").mkdir()
    for i, own in enumerate(pixels):
        Image.fromarray(own).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures", pixels.astype(np.float64)


def test_a_flow_gives_each_picture_the_bits_of_its_8_bit_pixels(pictures, tmp_path, capsys):
    folder, pixels = pictures
    config = {"model_type": "coupling_flow", "patch_size": 4, "hidden_size": 8}
    encoder = VisualEncoder.from_config(config, frames=1, size=8, std=(0.3, 0.2, 0.25))
    encoder.save_pretrained(tmp_path / "flow")
    out = tmp_path / "s.csv"
    main(["score", str(tmp_path / "flow"), str(folder), "--output", str(out)])
    said = capsys.readouterr().out
    found = pd.read_csv(out)
    assert list(found.columns) == ["name", "score", "bits"]
    # An identity: bits of the normal density of k + u, its mean over the noise u in closed form.
    mean, std = (256 * x.double().numpy() for x in (encoder.mean, encoder.std))
    square = ((pixels + 0.5 - mean) ** 2 + 1 / 12) / std**2
    nats = (np.log(2 * np.pi * std**2) + square) / 2
    np.testing.assert_allclose(found["bits"], nats.mean((1, 2, 3)) / np.log(2), atol=2e-3)
    assert found["bits"].to_numpy().mean() > 8
    assert f"mean: {found['bits'].mean():.4f} bits per dimension of 8-bit pixels" in said
    assert "8 pictures scored, 0 of them without a value" in said


def test_pictures_score_by_their_distance_and_take_no_options_of_series(pictures, capsys):
    encoder: Any = VisualEncoder.from_config({"patch_size": 4, "hidden_size": 16}, frames=1, size=8)
    method = Autoencoder()
    method.build(encoder)
    found = score_clips(encoder.eval(), method.eval(), str(pictures[0]), size=3)
    assert list(found.columns) == ["name", "score"]
    batch = encoder.collator()([{"frames": x[None]} for x in pictures[1].astype(np.uint8)])
    seen = encoder.view(batch, view("whole"))
    with torch.no_grad():
        apart = (method.rebuilt(encoder(seen)) - seen.target).square().mean((1, 2))
    np.testing.assert_allclose(found["score"], apart.numpy(), rtol=1e-4)
    encoder.save_pretrained(pictures[0].parent / "model")
    about = {"objective": {"class": "Autoencoder", "settings": {}}}
    (pictures[0].parent / "run.json").write_text(json.dumps(about))
    save_heads(method, pictures[0].parent)
    with pytest.raises(SystemExit):
        main(["score", str(pictures[0].parent), str(pictures[0]), "--stride", "3"])
    assert "is an encoder of frames, which has no stride" in capsys.readouterr().err


SOUNDS = {"num_mel_bins": 16, "patch_size": 8, "num_hidden_layers": 1, "hidden_size": 16}


def hum(seconds, seed=0):
    t, rng = np.arange(int(8000 * seconds)) / 8000, np.random.default_rng(seed)
    return (0.3 * np.sin(2 * np.pi * 440 * t) + 0.01 * rng.normal(size=len(t))).astype(np.float32)


@pytest.mark.slow
def test_a_burst_in_a_recording_scores_highest(tmp_path, capsys):
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "usual").mkdir()
    for i in range(8):
        soundfile.write(tmp_path / f"usual/{i}.wav", hum(1.3, i), 8000)
    odd = hum(1.3, 9)
    odd[8400:8800] += 0.5 * np.random.default_rng(1).normal(size=400)
    soundfile.write(tmp_path / "odd.wav", odd, 8000)
    given = {"audio.config": json.dumps(SOUNDS), "audio.rate": "8000", "audio.seconds": "0.5"}
    given |= {"training.max_steps": "60", "training.learning_rate": "0.003"}
    given |= {"objective": "autoencoder", "training.output_dir": str(tmp_path / "out")}
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    main(["train", "--modality", "audio", "--data", str(tmp_path / "usual"), *words])
    file = tmp_path / "scores.csv"
    main(["score", str(tmp_path / "out"), str(tmp_path / "odd.wav"), "--output", str(file)])
    assert "pieces of recordings scored, 0 of them without" in capsys.readouterr().out
    found = pd.read_csv(file)
    assert list(found.columns) == ["name", "start", "end", "score"]
    scores = found["score"].to_numpy()
    is_odd = (found["end"].to_numpy() > 1.05) & (found["start"].to_numpy() < 1.1)
    assert 1 <= is_odd.sum() <= 4 and is_odd[scores.argmax()]
    assert scores.max() > 2 * np.median(scores[~is_odd])


def test_pieces_of_recordings_cover_them_and_score_what_the_method_lost(tmp_path):
    encoder: Any = AudioEncoder.from_config(dict(SOUNDS), rate=8000, seconds=0.5, dropout=0.0)
    method = Autoencoder()
    method.build(encoder)
    waves = [hum(1.3), hum(0.2)]
    found = score_sounds(encoder.eval(), method.eval(), [(w, 8000) for w in waves], size=2)
    each: Any = [own for _, own in found.groupby("name", sort=False)]
    for own, wave in zip(each, waves, strict=True):
        start, end = own["start"].to_numpy(), own["end"].to_numpy()
        token = 0.08  # seconds: 8 frames of 10 ms
        assert start[0] == 0 and end.max() > len(wave) / 8000 - token
        assert (np.diff(start) > 0).all() and (start[1:] < end[:-1] + token).all()
        assert np.isfinite(own["score"]).all()
    size = encoder.layout.samples
    sound = [{"waveform": waves[0][size : 2 * size], "index": 0, "ordinal": 0}]
    seen = encoder.view(encoder.collator()(sound), view("whole"))
    with torch.no_grad():
        apart = (method.rebuilt(encoder(seen)) - seen.target).square()
    want = apart.view(encoder.grid[0], -1).mean(1).numpy()
    second = found["score"].to_numpy()[len(want) : 2 * len(want)]
    np.testing.assert_allclose(second, want, rtol=1e-4)
