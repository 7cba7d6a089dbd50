"""Probes of frozen features on the archives' cases."""

import json

import numpy as np
import pytest
import torch

from unlabel.benchmarks.classification import (
    bench_classification,
    encoder_vectors,
    evaluate_classification,
    load_cases,
    raw_values,
    resized,
)
from unlabel.modalities.series import SeriesEncoder


def write(folder, name="two", *, cases=20, seed=0, noise=0.3):
    """Cases of unequal length and two channels: a fast or a slow wave."""
    for side in ("TRAIN", "TEST"):
        rng = np.random.default_rng([seed, len(side)])
        lines = ["@problemName two", "@classLabel true slow fast", "@data"]
        for i in range(cases):
            time = np.linspace(0, 1, int(rng.integers(40, 60)))
            waves = [np.sin(2 * np.pi * (2 + 4 * (i % 2)) * (time + rng.uniform())) for _ in "ab"]
            rows = [w + noise * rng.normal(size=len(time)) for w in waves]
            text = ":".join(",".join(f"{v:.4f}" for v in row) for row in rows)
            lines.append(f"{text}:{('slow', 'fast')[i % 2]}")
        (folder / f"{name}_{side}.ts").write_text("\n".join(lines) + "\n")
    return folder


def encoder(seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "d_model": 16, "num_attention_heads": 2, "ffn_dim": 32}
    # A fixed position table: a random one drowns the classes before it is trained.
    start = {"positional_encoding_type": "sincos", "init_std": 0.02, "patch_length": 6}
    return SeriesEncoder.from_config({**sizes, **start}, context=48, **settings)


def test_resizing_keeps_ends_and_lines_and_bridges_gaps():
    line = np.stack([np.arange(5.0), 10 - np.arange(5.0)], axis=1)
    np.testing.assert_array_equal(resized(line, 5), line)
    np.testing.assert_allclose(resized(line, 9)[:, 0], np.arange(9) / 2)
    gap = line.copy()
    gap[2, 0], gap[:, 1] = np.nan, np.nan
    np.testing.assert_allclose(resized(gap, 5), [[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]])


def test_cases_come_with_the_names_of_their_classes(tmp_path):
    train, test = load_cases("two", write(tmp_path))
    assert len(train.values) == len(test.values) == 20
    assert train.label[:3] == ["slow", "fast", "slow"] and train.values[0].shape[1] == 2
    with pytest.raises(ValueError, match=r"No other_TRAIN\.ts\[\.gz\] in .*, which has two"):
        load_cases("other", tmp_path)


def test_each_channel_of_a_case_has_its_vector_whatever_stands_beside_it(tmp_path):
    cases = load_cases("two", write(tmp_path))[0].values
    embed = encoder_vectors(encoder(), batch_size=3)
    both = embed(cases)
    assert both.shape == (20, 2 * 16)
    np.testing.assert_allclose(embed([c[:, 1:] for c in cases[4:6]]), both[4:6, 16:], atol=1e-5)
    flat = raw_values(48)(cases)
    np.testing.assert_array_equal(flat[3, 48:], resized(cases[3], 48)[:, 1])


def test_probes_find_what_is_there_and_nothing_in_shuffled_labels(tmp_path):
    write(tmp_path, cases=60, noise=0.1)
    embed = encoder_vectors(encoder())
    found = evaluate_classification(embed, tmp_path, sets=("two",), bootstrap=200)
    scores = {k: s.score for k, s in found.encoders[0].scores.items()}
    assert scores["two logistic"] > 90 and scores["two 1-NN"] > 70
    lines = (tmp_path / "two_TRAIN.ts").read_text().splitlines()
    order = np.random.default_rng(0).permutation(60)
    labels = [line.rsplit(":", 1)[1] for line in lines[3:]]
    mixed = [f"{c.rsplit(':', 1)[0]}:{labels[i]}" for c, i in zip(lines[3:], order, strict=True)]
    (tmp_path / "two_TRAIN.ts").write_text("\n".join([*lines[:3], *mixed]) + "\n")
    chance = evaluate_classification(embed, tmp_path, sets=("two",), bootstrap=200)
    assert all(25 < s.score < 75 for s in chance.encoders[0].scores.values())


def test_a_run_is_probed_before_and_after_beside_the_values(tmp_path):
    write(tmp_path)
    for seed in (0, 1):
        for name, first in (("untrained", 0), ("model", 10)):
            encoder(first + seed).save_pretrained(tmp_path / "run" / f"seed-{seed}" / name)
    run = tmp_path / "run"
    result = bench_classification(run, folder=tmp_path, sets=("two",), bootstrap=20)
    assert [e.name for e in result.encoders] == ["untrained", "trained", "values"]
    saved = json.loads((run / "results" / "classification.json").read_text())
    assert list(saved["encoders"][0]["scores"]) == ["two 1-NN", "two logistic"]
    assert saved["better"] == "higher"


def test_refuses_unknown_probes_and_features_that_are_not_finite(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="No probe 'svm': choose from 1-NN, logistic"):
        evaluate_classification(folder=tmp_path, sets=("two",), probes=("svm",))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="not finite"):
        evaluate_classification(lambda c: np.full((len(c), 2), np.nan), tmp_path, sets=("two",))


@pytest.mark.data
def test_nearest_neighbours_of_raw_values_have_the_archives_own_accuracy(data_folder):
    # 1 minus the archive's error of 1-NN with Euclidean distance (Dau et al. 2019, its table).
    published = {
        "GunPoint": 91.33,
        "ItalyPowerDemand": 95.53,
        "ArrowHead": 80.00,
        "ECG200": 88.00,
        "Plane": 96.19,
        "SyntheticControl": 88.00,
        "OSULeaf": 52.07,
        "ACSF1": 54.00,
    }
    folder = data_folder / "series" / "classification"
    found = evaluate_classification(folder=folder, sets=tuple(published), probes=("1-NN",))
    scores = {k.removesuffix(" 1-NN"): s.score for k, s in found.encoders[0].scores.items()}
    assert scores == pytest.approx(published, abs=0.01)
