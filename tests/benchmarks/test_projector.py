"""What is left of a picture's changes behind the projector."""

import numpy as np
import pytest
import torch
from torch import nn

from unlabel.benchmarks.projector import CHANGES, main, spread, told_apart
from unlabel.modalities.visual import VisualEncoder


def encoder():
    torch.manual_seed(0)
    config = {"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1]}
    return VisualEncoder.from_config(config, frames=1, size=16).eval()


def pictures(count=40):
    drawn = np.random.default_rng(0).integers(0, 255, (count, 1, 16, 16, 3))
    drawn[:, :, :8] //= 4  # dark above: a turn can be seen
    return list(drawn.astype(np.uint8))


def test_changes_are_seen_before_a_head_that_drops_all_and_not_behind_it():
    zero = nn.Linear(16, 4)
    nn.init.zeros_(zero.weight)
    found = told_apart(encoder(), zero, pictures())
    for name, (before, behind) in found.items():
        assert behind == pytest.approx(100 / len(CHANGES[name]), abs=12), name
        assert before > behind + 15, name


def test_a_head_that_keeps_all_loses_nothing():
    for before, behind in told_apart(encoder(), nn.Identity(), pictures()).values():
        assert before == behind


def test_tolerance_is_the_mean_cosine_of_pairs_of_one_class():
    own, shown, label = encoder(), pictures(12), np.arange(12) % 3
    found = spread(own, nn.Identity(), shown, label)
    vectors = torch.from_numpy(own.encode(shown))
    unit = torch.nn.functional.normalize(vectors, dim=1)
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j and label[i] == label[j]]
    mean = float(np.mean([float(unit[i] @ unit[j]) for i, j in pairs]))
    assert found["tolerance"] == pytest.approx((mean, mean), abs=1e-5)
    assert found["uniformity"][0] == found["uniformity"][1] < 0


@pytest.mark.slow
def test_a_run_is_measured_from_its_checkpoint(tmp_path, capsys):
    from unlabel.cli import main as unlabel
    from unlabel.data_pipes.synthetic_video import embedded_videos

    run, data = tmp_path / "run", str(embedded_videos()[0].path.parent)
    sizes = "{model_type: resnet, hidden_sizes: [8, 16], depths: [1, 1]}"
    words = ["--modality", "frames", "--data", data, "--objective", "simclr", "--frames.limit", "8"]
    words += ["--frames.config", sizes, "--frames.size", "32", "--training.max_steps", "2"]
    words += ["--training.per_device_train_batch_size", "8", "--training.report_to", "none"]
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--data", data])
    assert "no run's folder" in capsys.readouterr().err
    unlabel(["train", *words, "--training.save_steps", "2", "--training.output_dir", str(run)])
    main([str(run), "--data", data, "--pictures", "20", "--labels", "embedded"])
    said = capsys.readouterr().out
    assert "uniformity" in said and "tolerance" in said
    assert all(name.split()[0] in said for name in CHANGES)
