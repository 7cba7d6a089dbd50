"""Several runs on the same data and budget, each in a folder of its own."""

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from unlabel.benchmarks.runs import seed_runs
from unlabel.files import write_json
from unlabel.kinds.visual import FramesOptions
from unlabel.objectives import Objective
from unlabel.pretrain import KINDS, Options, is_finished, train
from unlabel.recipe import plain
from unlabel.training.arguments import TrainingArguments

# What must be alike for all candidates.
BUDGET = ("max_steps", "num_train_epochs", "per_device_train_batch_size", "learning_rate")


class Stopped(ValueError):
    """A candidate was asked to stop before its end, so that it cannot be held against others."""


@dataclass(frozen=True)
class Setting:
    """What candidates have in common: everything but the objective.

    Attributes:
        modality: kind of data.
        data: as for `unlabel train`.
        options: of every kind of data, by its name.
        training: the budget; its `output_dir` holds the candidates' folders.
        seeds: encoders trained of each candidate.
    """

    modality: Any
    data: str | list[str] | None
    options: Mapping[str, Any]
    training: TrainingArguments
    seeds: int = 1

    @property
    def root(self) -> Path:
        """The folder of all candidates."""
        return Path(str(self.training.output_dir))

    @property
    def kind(self) -> Options:
        """The options of the kind of data."""
        return self.options[self.modality] or KINDS[self.modality]()

    def train(self, name: str, method: Objective) -> Path:
        """Train a candidate into its folder, or go on there; what is finished is kept.

        Raises:
            Stopped: it was asked to stop before its end.
            ValueError: it cannot be trained, or was with another encoder, budget or data.
        """
        own = copy.deepcopy(self.training)
        own.output_dir = str(self.root / name)
        runs = self._runs(self.root / name)
        self._refuse_other_seeds(self.root / name, runs)
        self._refuse_other_budget(runs)
        self._refuse_other_method(self.root / name, runs, method)
        if self.seeds > 1 or not is_finished(self.root / name):
            train(
                objective=method,
                data=self.data,
                modality=self.modality,
                training=own,
                seeds=self.seeds,
                resume=True,
                **self.options,
            )
        if not all(map(is_finished, runs)):
            raise Stopped(
                f"{self.root / name} was stopped before its end; the same command goes on there."
            )
        return self.root / name

    def seconds(self, name: str) -> float:
        """Of a candidate's training, mean over seeds."""
        runs = [json.loads((r / "run.json").read_text()) for r in seed_runs(self.root / name)]
        return float(np.mean([r.get("result", {}).get("train_seconds", 0.0) for r in runs]))

    def look(self, data: Any, method: Objective, folder: Path) -> tuple[Any, Any]:
        """What figures are taken on: the class of the encoders, and samples by place.

        Read once: the same encoder, whatever its weights, takes the same samples.

        Args:
            data: None for the data of the training.
            method: what the encoder was trained with.
            folder: of an encoder.

        Raises:
            ValueError: a stream.
        """
        source = data if data is not None else self.data
        source = self.kind.corpus if source is None else source
        args = copy.deepcopy(self.training)
        prepared = self.kind.prepare(source, copy.deepcopy(method), args, folder)
        if not hasattr(prepared.store, "__len__"):
            raise ValueError(
                "A stream has no samples by place to look at: give --held_out a smaller file."
            )
        return type(prepared.encoder), prepared.store

    def _runs(self, folder: Path) -> list[Path]:
        """The runs of a candidate, as `train` lays them out."""
        first = self.training.seed
        seeds = [folder / f"seed-{seed}" for seed in range(first, first + self.seeds)]
        return seeds if self.seeds > 1 else [folder]

    def _refuse_other_seeds(self, folder: Path, runs: list[Path]) -> None:
        """Figures are taken of every run in the folder, so there may be none beside these."""
        if other := [run for run in seed_runs(folder) if run not in runs]:
            raise ValueError(
                f"{other[0]} is none of the {self.seeds} seeds from {self.training.seed} on: take "
                "as many seeds as before, another --training.output_dir, or remove it."
            )

    def _refuse_other_method(self, folder: Path, runs: list[Path], method: Objective) -> None:
        """What was trained before under this name must have been this method, settings and all."""
        file = folder / "objective.json"
        try:
            now = json.loads(json.dumps(plain(method)))
        except ValueError:  # made of what no recipe can say
            return
        if file.is_file() and json.loads(file.read_text()) != now:
            raise ValueError(
                f"{folder} was trained with another {type(method).__name__} or other settings of "
                "it: take another name or --training.output_dir, or remove it."
            )
        if not any(map(is_finished, runs)):
            write_json(file, now)

    def _refuse_other_budget(self, runs: list[Path]) -> None:
        """What was trained before must have had this data, this encoder and this budget."""
        for run in filter(is_finished, runs):
            about = json.loads((run / "run.json").read_text())
            seed = about["training"]["seed"]
            now = {k: getattr(self.training, k) for k in BUDGET}
            now |= {} if self.seeds > 1 else {"seed": self.training.seed}
            other = [k for k, v in now.items() if about["training"].get(k) != v]
            other += ["data"] if self.data is not None and about["data"] != self.data else []
            kind = self.kind
            if isinstance(kind, FramesOptions):
                kind = kind.settled(seed, run / "untrained")
            options = json.loads(json.dumps(dataclasses.asdict(kind)))
            # What an earlier version did not write down cannot have changed.
            other += [k for k, v in options.items() if about["encoder"].get(k, v) != v]
            if other:
                raise ValueError(
                    f"{run} was trained with another {', '.join(other)}: take another "
                    "--training.output_dir, or remove it."
                )


def wide_console() -> Console:
    """A console for tables; a file is as wide as it must be."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


__all__ = ["BUDGET", "Setting", "Stopped", "wide_console"]
