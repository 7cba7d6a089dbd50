"""What the recipe of pairs shows in its comments, on files, through the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from unlabel.cli import main

LINES = (Path(__file__).parents[2] / "recipes" / "pairs.yaml").read_text().splitlines()
TINY: dict[str, dict[str, Any]] = {
    "text": {"vocabulary": 60, "config": {"hidden_size": 16, "num_hidden_layers": 1,
                                          "num_attention_heads": 1, "intermediate_size": 16}},
    "frames": {"size": 16, "config": {"model_type": "vit", "hidden_size": 16, "patch_size": 8,
                                      "num_hidden_layers": 1, "num_attention_heads": 1,
                                      "intermediate_size": 16}},
    "video": {"size": 16, "frames": 4, "config": {"model_type": "r2plus1d"}},
    "audio": {"config": {"num_mel_bins": 16, "patch_size": 16, "hidden_size": 16,
                         "num_hidden_layers": 1, "num_attention_heads": 1}},
}  # fmt: skip


def shown() -> list[dict[str, Any]]:
    """Each `objective` and `pairs` that follow each other in the comments."""
    said = [line[1:] for line in LINES if line.startswith(("#   objective:", "#   pairs:"))]
    return [yaml.safe_load("\n".join(two)) for two in zip(said[::2], said[1::2], strict=True)]


@pytest.fixture(scope="module")
def listed(tmp_path_factory, make_video) -> Path:
    folder, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for i in range(4):
        frames = random.integers(0, 255, (20, 32, 32, 3)).astype(np.uint8)
        make_video(folder / f"{i}.mp4", frames, sound=np.sin(np.arange(12800) / (5 + i)))
        Image.fromarray(frames[0]).save(folder / f"{i}.jpg")
    rows = [(f"caption {i % 3}", *[f"{i}.mp4"] * 3, f"{i}.jpg", 0.2, 0.7) for i in range(4)]
    columns = ["caption", "path", "left", "right", "jpg", "from", "to"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


@pytest.mark.parametrize("said", shown(), ids=lambda said: "_".join(said["pairs"]["sides"]))
def test_what_the_recipe_shows_trains(said, listed, tmp_path):
    sides = said["pairs"]["sides"]
    for name, own in sides.items():
        sides[name] = {**TINY[own.get("kind", name)], **own}
    said |= {"modality": "pairs", "data": str(listed)}
    said["training"] = {"output_dir": str(tmp_path / "run"), "max_steps": 2, "logging_steps": 1,
                        "per_device_train_batch_size": 4, "report_to": [], "save_steps": 2,
                        "dataloader_num_workers": 0}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(said, sort_keys=False))
    main(["train", str(tmp_path / "recipe.yaml")])
    about = json.loads((tmp_path / "run" / "model" / "unlabel.json").read_text())
    assert list(about["sides"]) == list(sides)
