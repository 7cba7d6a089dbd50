"""Sound from a folder of recordings to vectors, as on the command line."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from unlabel.cli import main
from unlabel.data_pipes.synthetic_audio import CLASSES, generate_audio
from unlabel.embedding import embed
from unlabel.kinds.audio import AudioOptions
from unlabel.modalities.audio import AudioEncoder
from unlabel.objectives import InstanceContrast
from unlabel.training.arguments import TrainingArguments

soundfile = pytest.importorskip("soundfile")
CONV = {"model_type": "wave_conv", "hidden_size": 8}


@pytest.fixture
def recordings(tmp_path):
    """A folder with a folder for each class, of 16 recordings in all and one bad file."""
    made = generate_audio(16, seconds=0.7, seed=1)
    for i in range(16):
        file = tmp_path / "sounds" / CLASSES[made.label[i]] / f"{i}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, made.waveform[i], made.rate)
    (tmp_path / "sounds" / CLASSES[0] / "bad.wav").write_bytes(b"RIFF")
    return tmp_path / "sounds"


def prepare(tmp_path, data="synthetic", **options):
    args = TrainingArguments(output_dir=str(tmp_path / "run"))
    return AudioOptions(config=CONV, **options).prepare(data, InstanceContrast(), args, None)


def test_defaults_are_small_and_samples_as_long_as_a_view(tmp_path):
    prepared = prepare(tmp_path, limit=16)
    encoder = prepared.encoder
    assert (encoder.rate, encoder.seconds, encoder.norm.kind) == (8_000, 1.0, "clip")
    assert prepared.samples == 16 and len(prepared.store[3]["waveform"]) == 8_000


def test_a_sample_may_be_longer_than_a_view(tmp_path):
    prepared = prepare(tmp_path, limit=8, sample=2.5)
    assert len(prepared.store[0]["waveform"]) == 20_000 and prepared.encoder.length == 50


def test_the_fixed_norm_is_measured_on_the_data(tmp_path):
    norm = prepare(tmp_path, limit=16, norm="fixed").encoder.norm
    assert abs(norm.mean) < 0.01 and 0.03 < norm.std < 0.5


def test_a_pretrained_folder_says_what_is_not_asked(tmp_path):
    first = prepare(tmp_path, limit=8, norm="fixed", pooling="max").encoder
    first.save_pretrained(tmp_path / "model")
    again = prepare(tmp_path, limit=8, pretrained=str(tmp_path / "model")).encoder
    assert again.settings == first.settings


def test_what_there_is_of_a_recording_that_is_cut_off_is_used_where_asked(tmp_path, recordings):
    file = next(recordings.rglob("0.wav"))
    file.write_bytes(file.read_bytes()[:4000])
    skipped, used = (prepare(tmp_path, recordings, damaged=d) for d in ("skip", "use"))
    assert (skipped.samples, used.samples) == (15, 16)
    assert "2 broken" in skipped.read and "1 damaged, used up to there" in used.read


@pytest.mark.slow
def test_recordings_are_decoded_to_be_looked_into_once_a_run(tmp_path, recordings, monkeypatch):
    prepare(tmp_path, str(recordings))
    monkeypatch.setattr("unlabel.data_pipes.scan.examine_all", lambda new, *_, **__: iter(new))
    assert prepare(tmp_path, str(recordings)).samples == 16


def test_a_folder_of_recordings_becomes_an_encoder_and_vectors(tmp_path, recordings, capsys):
    out = tmp_path / "run"
    config = ["--audio.config.model_type", "wave_conv", "--audio.config.hidden_size", "8"]
    words = ["--modality", "audio", "--objective", "simclr", "--data", str(recordings), *config]
    sizes = ["--audio.seconds", "0.5", "--training.max_steps", "3"]
    sizes += ["--training.per_device_train_batch_size", "8", "--training.use_cpu", "true"]
    main(["train", *words, *sizes, "--training.output_dir", str(out)])
    about = json.loads((out / "run.json").read_text())
    assert about["modality"] == "audio" and about["result"]["finished"]
    assert "bad.wav" in about["read"] and about["samples"] == 16
    assert AudioEncoder.from_pretrained(out / "model").seconds == 0.5
    embed(str(out), str(recordings), str(tmp_path / "v.parquet"), normalize=True)
    table = pq.read_table(tmp_path / "v.parquet").to_pandas()
    assert set(table["label"]) == set(CLASSES) and len(table) == 16
    np.testing.assert_allclose(np.linalg.norm(np.stack(table["embedding"]), axis=1), 1, rtol=1e-5)
    assert "16 vectors of width 8" in capsys.readouterr().out
    with pytest.raises(ValueError, match="encoder of audio, which has no column"):
        embed(str(out), str(recordings), column="text")
