"""What fine-tuning must know of a pretraining run, and the cells that were measured already."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.benchmarks.forecasting_data import ForecastData
from unlabel.benchmarks.runs import seed_runs
from unlabel.files import write_json


@dataclass(frozen=True)
class PretrainedRun:
    """One finished run of `unlabel train` on series.

    Attributes:
        path: its folder, with `model/` and `untrained/`.
        about: its `run.json`.
    """

    path: Path
    about: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Of the run, and of all that is trained from it."""
        return self.about["training"]["seed"]

    @property
    def sequences(self) -> int:
        """Sequences that pretraining encoded; each view of a sample is one, whatever its length.

        Views that several parts of a sum share count for each part: who is given this budget
        instead never gets less.
        """
        training = self.about["training"]
        batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
        batch *= self.about.get("processes", 1)
        return self.about["result"]["steps"] * batch * _views(self.about["objective"])

    @property
    def pretrained_on(self) -> str:
        """Names of its data, without their folders."""
        return ", ".join(Path(d).name for d in _named(self.about)) or "generated series"

    def saw_beyond_train(self, data: ForecastData) -> str:
        """A sentence where the run's rows of this set reach beyond its train rows, else nothing."""
        if data.name not in {Path(d).name.split(".")[0] for d in _named(self.about)}:
            return ""
        rows = self.about["encoder"].get("rows") or [0]
        total = len(data.values)
        end = rows[1] if len(rows) > 1 else total
        end = int(end * total if abs(end) < 1 else end) + (total if end < 0 else 0)
        if end <= data.borders[0]:
            return ""
        return (
            f"Pretraining read the first {min(end, total):,} rows of {data.name}, of which "
            f"{data.borders[0]:,} are train rows: pretrain with --series.rows "
            f"'[0, {data.borders[0]}]' to compare."
        )


def _named(about: Mapping[str, Any]) -> Sequence[str]:
    data = about.get("data") or []
    return [data] if isinstance(data, str) else data


def _views(objective: Mapping[str, Any]) -> int:
    if "parts" in objective:
        return sum(_views(part) for part in objective["parts"].values())
    return len(objective["views"])


def pretrained_runs(path: Path, *, scratch: bool) -> list[PretrainedRun]:
    """The run in a folder, or those of its seeds.

    Args:
        path: a run's output folder.
        scratch: whether their untrained encoders will be trained with the same budget.

    Raises:
        ValueError: no run of series, a run that has not finished, or none to compare with.
    """
    runs = []
    for folder in seed_runs(path):
        file = folder / "run.json"
        about = json.loads(file.read_text()) if file.is_file() else {}
        if about.get("modality") != "series":
            raise ValueError(f"{folder} holds no run on series; give the folder of one.")
        if scratch and not about.get("result", {}).get("finished"):
            raise ValueError(
                f"{folder} has not finished, so its budget is not known; continue it with "
                "--resume, or leave the comparison out with scratch=False."
            )
        if scratch and about["encoder"].get("pretrained"):
            raise ValueError(
                f"{folder} began from {about['encoder']['pretrained']}, not from random weights, "
                "so there is no untrained network of the same budget; give scratch=False."
            )
        if not (folder / "untrained" / "config.json").is_file():
            raise ValueError(f"{folder} has no encoder in untrained/ to compare with.")
        runs.append(PretrainedRun(folder, about))
    if not runs:
        raise ValueError(f"{path} holds no run; give the output folder of `unlabel train`.")
    return runs


def weights_digest(folder: Path) -> str:
    """A number for the weights in an encoder's folder."""
    parts = (p.read_bytes() for p in sorted(folder.glob("*.safetensors")))
    return f"{zlib.crc32(b''.join(parts)):08x}"


class Cells:
    """Measured cells on disk, a file each, so that nothing is measured twice.

    Args:
        folder: those of one setting go to a folder of their own in it.
        setting: how cells are measured.
    """

    def __init__(self, folder: Path, setting: Mapping[str, Any]):
        text = json.dumps(setting, sort_keys=True)
        self.folder = folder / f"{zlib.crc32(text.encode()):08x}"
        write_json(self.folder / "setting.json", setting)

    def get(self, name: str, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
        """A cell, if it was measured on the same data and weights."""
        file = self.folder / f"{name}.json"
        if not file.is_file():
            return None
        cell = json.loads(file.read_text())
        return cell if cell["made_of"] == dict(made_of) else None

    def put(
        self,
        name: str,
        made_of: Mapping[str, Any],
        about: Mapping[str, Any],
        errors: Mapping[int, np.ndarray],
    ) -> dict[str, Any]:
        """Write a cell: errors of every test window, by horizon, and how they came about."""
        kept = {str(h): e.astype(np.float32) for h, e in errors.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self.folder / f"{name}.npz", **kept)  # first: the other says 'whole'
        means = {
            h: dict(zip(("MSE", "MAE"), map(float, e.mean(0)), strict=True))
            for h, e in kept.items()
        }
        cell = {"made_of": dict(made_of), "test": means, **about}
        write_json(self.folder / f"{name}.json", cell)
        return cell

    def errors(self, name: str) -> dict[int, np.ndarray]:
        """Squared and absolute error of every test window of a cell, by horizon."""
        with np.load(self.folder / f"{name}.npz") as kept:
            return {int(h): kept[h].astype(np.float64) for h in kept.files}


__all__ = ["Cells", "PretrainedRun", "pretrained_runs", "weights_digest"]
