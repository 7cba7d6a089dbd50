"""Sounds: controls on tones, splits by speaker, and the whole table."""

import json
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from unlabel.benchmarks.sounds import (
    Part,
    bench_sounds,
    control_features,
    level_quarters,
    load_audio_encoder,
    load_sounds,
    log_mel,
    moments,
    quarters,
    read_once,
)
from unlabel.modalities.audio import AudioEncoder

RATE = 8000


def encoder(seed=0):
    torch.manual_seed(seed)
    config = {"model_type": "wave_conv"}
    return AudioEncoder.from_config(config, rate=RATE, seconds=0.25)


def voices(folder, takes=4):
    """Two words (a rising and a falling tone) of three speakers."""
    place = folder / "fsdd" / "recordings"
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    time = np.arange(RATE // 2) / RATE
    for word, way in (("0", 1), ("1", -1)):
        for i, speaker in enumerate("abc"):
            for take in range(takes + 5):
                pitch = 300 * 1.2**i * 2 ** (way * time + rng.normal(0, 0.05))
                sound = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
                sound += 0.01 * rng.normal(size=len(time))
                soundfile.write(place / f"{word}_{speaker}_{take}.wav", sound, RATE)
    return folder


def test_a_tone_is_loudest_in_its_own_band_and_quarters_follow_it():
    time = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (300, 2000))
    bands = [log_mel(x, RATE).mean(0).argmax() for x in (low, high)]
    assert bands[0] < bands[1] and log_mel(low, RATE).shape == (101, 40)
    changed = np.concatenate([low[:4000], high[:4000]])
    course = quarters(log_mel(changed, RATE)).reshape(4, 40).argmax(1)
    assert course.tolist() == [bands[0], bands[0], bands[1], bands[1]]
    np.testing.assert_allclose(
        moments(log_mel(changed, RATE)[::-1]), moments(log_mel(changed, RATE))
    )
    hiss = np.random.default_rng(0).normal(0, 0.2, RATE).astype(np.float32)
    for read, differs in ((quarters, True), (level_quarters, False)):
        gap = read(log_mel(0.5 * hiss, RATE)) - read(log_mel(hiss, RATE))
        assert (np.abs(gap).max() > 0.01) == differs
    assert log_mel(low[:100], RATE).shape[1] == 40  # shorter than a window


def test_digits_leave_one_speaker_out_and_the_official_split_tests_the_first_takes(tmp_path):
    voices(tmp_path)
    data = load_sounds("digits", tmp_path)
    assert data.split == "leave one group out" and len(data.folds) == 3
    for train, test in data.folds:
        assert not set(data.group[train]) & set(data.group[test])  # pyright: ignore[reportOptionalSubscript]
    known = load_sounds("digits, known speakers", tmp_path)
    takes = [int(known.sources[i].stem[-1]) for i in known.folds[0][1]]
    assert set(takes) == {0, 1, 2, 3, 4} and known.neighbours == 1


def test_generated_sounds_need_no_file_and_their_test_part_is_another_draw():
    data = load_sounds("synthetic")
    ((train, test),) = data.folds
    assert (len(train), len(test)) == (800, 400) and len(np.unique(data.label[test])) == 8
    first = [data.sources[rows[0]][0] for rows in (train, test)]
    assert data.sources[0][1] == 8000 and not np.array_equal(*first)


def test_a_table_reads_every_recording_once_a_rate(tmp_path):
    data = load_sounds("digits", voices(tmp_path))
    read = read_once()
    first = read(data, RATE)
    assert read(data, RATE) is first and len(first) == len(data)
    assert len(read(data, 2 * RATE)[0]) == 2 * len(first[0])


def test_a_run_is_probed_before_and_after_beside_its_controls(tmp_path):
    voices(tmp_path)
    for name, seed in (("untrained", 0), ("model", 1)):
        encoder(seed).save_pretrained(tmp_path / "run" / name)
    found = bench_sounds(
        tmp_path / "run", sets=("digits",), folder=tmp_path, probes=("5-NN",), bootstrap=20
    )
    names = [
        "untrained",
        "trained",
        "log-mel in quarters",
        "quarters, level out",
        "log-mel moments",
    ]
    assert [e.name for e in found.encoders] == names
    assert found.encoders[2].scores["digits 5-NN"].score > 70
    saved = json.loads((tmp_path / "run" / "results" / "sounds.json").read_text())
    assert list(saved["encoders"][0]["scores"]) == [
        "digits 5-NN", "digits R@1", "digits R@5", "digits R@10"
    ]  # fmt: skip


def test_two_lists_of_equal_names_are_two_sets(tmp_path):
    place = voices(tmp_path) / "fsdd" / "recordings"
    lists = [tmp_path / part / "labels.csv" for part in ("one", "two")]
    for i, path in enumerate(lists):  # the second one asks who speaks
        path.parent.mkdir()
        rows = [f"{f},{f.stem.split('_')[i]}" for f in sorted(place.glob("*.wav"))]
        path.write_text("\n".join(["path,label", *rows]))
    encoder().save_pretrained(tmp_path / "model")
    how: Any = {"probes": ("5-NN",), "bootstrap": 0, "controls": False}
    both = bench_sounds(tmp_path / "model", sets=[str(p) for p in lists], **how).encoders[0].scores
    for path in lists:
        alone = bench_sounds(tmp_path / "model", sets=[str(path)], **how).encoders[0].scores
        assert both[f"{path} 5-NN"].score == alone["labels 5-NN"].score


def test_probes_read_the_features_that_are_asked_for(tmp_path):
    voices(tmp_path)
    encoder().save_pretrained(tmp_path / "run" / "model")
    how: dict[str, Any] = {
        "sets": ("digits",),
        "folder": tmp_path,
        "bootstrap": 0,
        "controls": False,
    }
    asked: list[list[Part]] = [["pooled"], ["quarters", "std"]]
    tables = [
        bench_sounds(tmp_path / "run", probes=("5-NN",), features=features, **how)
        for features in asked
    ]
    notes = ["read quarters, std" in t.note for t in tables]
    scores = [t.encoders[-1].scores["digits 5-NN"].score for t in tables]
    assert notes == [False, True] and scores[0] != scores[1]


def test_a_broken_recording_in_a_class_folder_is_left_out_and_named(tmp_path):
    for place in sorted((voices(tmp_path) / "fsdd" / "recordings").glob("*.wav")):
        own = tmp_path / "mine" / place.name[0]
        own.mkdir(parents=True, exist_ok=True)
        place.rename(own / place.name)
    (tmp_path / "mine" / "0" / "torn.wav").write_bytes(b"no sound" * 100)
    encoder().save_pretrained(tmp_path / "run" / "model")
    found = bench_sounds(
        tmp_path / "run", sets=(str(tmp_path / "mine"),), probes=("5-NN",), bootstrap=0
    )
    assert found.encoders[0].scores["mine 5-NN"].pairs == 54
    assert "1 of 55 files are broken and left out" in found.note and "torn.wav" in found.note
    (tmp_path / "list.csv").write_text("path,label\nmine/0/torn.wav,a\n")
    with pytest.raises(ValueError, match=r"No usable recording among 1: .*torn\.wav"):
        load_sounds(str(tmp_path / "list.csv"))


def test_refuses_encoders_of_something_else(tmp_path):
    encoder().save_pretrained(tmp_path / "e")
    assert load_audio_encoder(tmp_path / "e").rate == RATE
    (tmp_path / "e" / "unlabel.json").write_text('{"modality": "video"}')
    with pytest.raises(ValueError, match="an encoder of video"):
        load_audio_encoder(tmp_path / "e")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_audio_encoder(tmp_path / "none")


@pytest.mark.data
@pytest.mark.slow
def test_floors_of_digits_are_as_measured(data_folder):
    from unlabel.benchmarks.probes import probe_scores
    from unlabel.data_pipes.audio import read_waveform

    data = load_sounds("digits, known speakers", data_folder / "audio")
    x = control_features([read_waveform(s) for s in data.sources])["log-mel in quarters"]
    found = probe_scores(data, x, probes=("1-NN",), ks=(), bootstrap=0)
    assert found["digits, known speakers 1-NN"].score == pytest.approx(95.7, abs=0.05)
