"""Several runs on the same data and budget, each in a folder of its own."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from unlabel.benchmarks.runs import seed_runs
from unlabel.objectives import Objective
from unlabel.pretrain import KINDS, Options, is_finished, train
from unlabel.training.arguments import TrainingArguments

# What must be alike for all candidates.
BUDGET = ("max_steps", "num_train_epochs", "per_device_train_batch_size", "learning_rate")


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
            ValueError: it cannot be trained, or was with another budget or data.
        """
        own = copy.deepcopy(self.training)
        own.output_dir = str(self.root / name)
        self._refuse_other_budget(self.root / name)
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

    def _refuse_other_budget(self, folder: Path) -> None:
        """What was trained before must have had this data and this budget."""
        for run in filter(is_finished, seed_runs(folder)):
            about = json.loads((run / "run.json").read_text())
            now = {k: getattr(self.training, k) for k in BUDGET}
            other = [k for k, v in now.items() if about["training"].get(k) != v]
            other += ["data"] if self.data is not None and about["data"] != self.data else []
            if other:
                raise ValueError(
                    f"{run} was trained with another {', '.join(other)}: take another "
                    "--training.output_dir, or remove it."
                )


def wide_console() -> Console:
    """A console for tables; a file is as wide as it must be."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


__all__ = ["BUDGET", "Setting", "wide_console"]
