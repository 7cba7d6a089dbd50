"""Tiny runs of each kind of data, and what two runs must have in common to be the same one."""

import json
import random
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch

from unlabel.objectives import DINO, InstDisc, MoCo, Objective, SwAV
from unlabel.training import checkpoint

STEPS, SAVED, BATCH, SHARDS = 24, 4, 4, 4
_SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_SMALL |= {"intermediate_size": 32}
_HEADS = {"prototypes": 6, "width": 8, "hidden": 16, "frozen": 2, "crops": 1}
# Between them they have a queue, a bank, a teacher, a centre, a schedule and prototypes.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "text": {"class": MoCo, "queue": 24, "width": 8, "momentum": 0.9},
    "series": {"class": InstDisc, "loss": "nce", "noise": 20, "width": 8},
    "frames": {"class": DINO, "momentum": 0.9, "momentum_steps": STEPS, **_HEADS},
    "audio": {"class": SwAV, "queue": 16, **_HEADS},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "text": {"config": _SMALL, "vocabulary": 80, "max_length": 16},
    "series": {
        "config": {"d_model": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16},
        "context": 48,
        "stride": 12,
    },
    "frames": {"config": {**_SMALL, "patch_size": 8}, "size": 16},
    "audio": {"config": {"model_type": "wave_conv", "hidden_size": 8}, "seconds": 0.25},
}
MODALITIES = tuple(OBJECTIVES)


def objective(modality: str) -> Objective:
    """The method that this kind of data is trained by."""
    given = dict(OBJECTIVES[modality])
    return given.pop("class")(**given)


def write_data(modality: str, folder: Path) -> list[Path]:
    """The data of a run, in several files ("shards")."""
    folder.mkdir(parents=True)
    rng, draw = np.random.default_rng(0), random.Random(0)
    if modality == "text":
        words = "the cat sat on a mat while rain fell over old towns and rivers ran to sea".split()
        for n in range(SHARDS):
            texts = [" ".join(draw.choices(words, k=draw.randint(3, 14))) for _ in range(15)]
            pq.write_table(pa.table({"text": texts}), folder / f"{n}.parquet")
    elif modality == "series":
        for n in range(SHARDS):
            level = rng.normal(size=(300, 1)).cumsum(0)
            rows = "\n".join(f"{v:.4f}" for v in level[:, 0])
            (folder / f"{n}.csv").write_text(f"load\n{rows}\n")
    elif modality == "frames":
        from PIL import Image

        for n in range(12 * SHARDS):
            pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((8, 8, 1)))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n:02d}.png")
    else:
        for n in range(12 * SHARDS):
            tone = np.sin(np.arange(4000) * rng.uniform(0.05, 1)) + rng.normal(0, 0.1, 4000)
            with wave.open(str(folder / f"{n:02d}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes((8000 * tone).astype("<i2").tobytes())
    return sorted(folder.iterdir())


def outcome(run: Path) -> dict[str, Any]:
    """All that a finished run leaves on disk, but for its timings.

    Raises:
        ValueError: its last checkpoint is not there or not whole.
    """
    last = run / f"checkpoint-{STEPS}"
    if why := checkpoint.fault(last):
        raise ValueError(f"{last.name}: {why}")
    found: dict[str, Any] = {
        "state": safetensors.torch.load_file(last / "model.safetensors"),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True),
        "scheduler": torch.load(last / "scheduler.pt", weights_only=True),
        "counters": {p.name: _counters(p) for p in sorted(last.glob("counters-*.json"))},
        "model": safetensors.torch.load_file(run / "model" / "model.safetensors"),
        "untrained": safetensors.torch.load_file(run / "untrained" / "model.safetensors"),
        "log": lines(run),
    }
    about = json.loads((run / "run.json").read_text())
    kept = {k: v for k, v in about["result"].items() if "second" not in k and "waiting" not in k}
    found["record"] = {**about, "training": None, "result": kept}
    found["first_batch"] = json.loads((run / "first_batch.json").read_text())
    return found


def lines(run: Path) -> list[dict[str, Any]]:
    """The log's lines of training steps, but for the time that they waited."""
    text = (run / "log.jsonl").read_text() if (run / "log.jsonl").is_file() else ""
    whole = [json.loads(x) for x in text.splitlines() if x.endswith("}")]
    return [{k: v for k, v in x.items() if k != "monitor/waiting"} for x in whole if "loss" in x]


def last_step(run: Path) -> int:
    """The last step in a run's log, of which the end alone is read; 0 where none is."""
    log = run / "log.jsonl"
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            ends = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(ends):
        try:
            return int(json.loads(line)["step"])
        except ValueError:
            continue  # it is being written
    return 0


def _counters(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """The places where two nests of dicts, lists, tensors and numbers are not bitwise equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{at}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [d for k in one for d in differences(one[k], other[k], f"{at}/{k}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{at}: {len(one)} against {len(other)} entries"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{at}/{i}")]
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [f"{at}: tensors differ"]
    both_nan = isinstance(one, float) and isinstance(other, float) and one != one and other != other
    return [] if one == other or both_nan else [f"{at}: {one} against {other}"]


__all__ = ["MODALITIES", "SAVED", "STEPS", "differences", "last_step", "outcome", "write_data"]
