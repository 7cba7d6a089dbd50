"""What run folders hold, read and checked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """What one run folder holds.

    Attributes:
        path: of the folder.
        about: `run.json`.
        log: log lines of training steps, in their order.
        first_batch: `first_batch.json`, or None.
        results: `results/*.json` by file name without its ending.
        profile: `profile.json`, or None.
        width: of the embeddings, None where no saved model tells.
    """

    path: Path
    about: dict[str, Any]
    log: list[dict[str, Any]]
    first_batch: dict[str, Any] | None
    results: dict[str, dict[str, Any]]
    profile: dict[str, Any] | None
    width: int | None

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a logged figure, where it was logged."""
        lines = [line for line in self.log if line.get(key) is not None]
        return [line["step"] for line in lines], [float(line[key]) for line in lines]


def read_runs(folder: Path) -> list[Run]:
    """The run in a folder, or its seeds in their order.

    Raises:
        ValueError: there is none, or a file is broken.
    """
    if (folder / "run.json").is_file():
        return [_read(folder)]
    found = [p.parent for p in folder.glob("seed-*/run.json")]
    if not found:
        raise ValueError(
            f"{folder} holds no run.json and no seed-0/run.json. Give the folder that "
            "`unlabel train` wrote (training.output_dir)."
        )
    return [_read(p) for p in sorted(found, key=lambda p: (len(p.name), p.name))]


def _read(folder: Path) -> Run:
    log = folder / "log.jsonl"
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    first_batch, profile = folder / "first_batch.json", folder / "profile.json"
    configs = [folder / name / "config.json" for name in ("model", "untrained")]
    widths = [_json(c).get("hidden_size") for c in configs if c.is_file()]
    return Run(
        path=folder,
        about=_json(folder / "run.json"),
        log=[line for line in _lines(log, text) if "loss" in line],
        first_batch=_json(first_batch) if first_batch.is_file() else None,
        results=read_results(folder),
        profile=_json(profile) if profile.is_file() else None,
        width=next(iter(widths), None),
    )


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """`results/*.json` of a folder, by file name without its ending."""
    return {p.stem: _json(p) for p in sorted((folder / "results").glob("*.json"))}


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); make it again or remove it.") from None


def _lines(path: Path, text: str) -> list[dict[str, Any]]:
    lines = text.splitlines()
    if text and not text.endswith("\n"):
        lines.pop()  # the run is writing this line, or was killed in it
    out = []
    for number, line in enumerate(lines, 1):
        try:
            out.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}:{number} is no JSON: {line[:60]!r}.") from None
    return out


__all__ = ["Run", "read_results", "read_runs"]
