"""The record of a run: what was trained, its log, and its first batch."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from unlabel.core import View
from unlabel.files import replacing, write_json
from unlabel.objectives import Objective
from unlabel.objectives.heads import Temperature
from unlabel.training.pretraining import Pretraining

logger = logging.getLogger(__name__)


def describe(objective: Objective) -> dict[str, Any]:
    """An objective's class and settings, for the record of the run."""
    parts = getattr(objective, "parts", None)
    if parts is not None:
        return {
            "class": type(objective).__name__,
            "parts": {n: describe(p) for n, p in parts.items()},
            "weights": objective.weights,
            "balance": objective.balance,
        }
    kept = (int, float, str, bool)
    settings = {
        k: v
        for k, v in vars(objective).items()
        if isinstance(v, kept) and v != "" and k not in ("training", "samples") and k[0] != "_"
    }
    for name, module in objective.named_children():
        if isinstance(module, Temperature):
            settings |= {name: module.value, f"learn_{name}": module.log_scale is not None}
    views = [
        " ".join([v.name, *(f"{k}={x}" for k, x in v.args), *([v.partner] if v.partner else [])])
        for v in objective.views
    ]
    return {"class": type(objective).__name__, "settings": settings, "views": views}


class LogFile(TrainerCallback):
    """Keeps the whole log in `log.jsonl`, and in memory and in checkpoints only its end.

    transformers keeps every line to the end of the run, and writes all of them into every
    checkpoint: a long run would grow, and its checkpoints with it.

    Attributes:
        kept: lines in memory.
    """

    kept = 100

    def __init__(self, run: Path):
        self.path = run / "log.jsonl"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the lines that a resumed run will repeat; add those that the file has lost."""
        if not state.is_world_process_zero:
            return
        last = 0
        with self._writing(), replacing(self.path) as new, new.open("w", encoding="utf-8") as file:
            for line in self._lines():
                if line["step"] <= state.global_step and "train_runtime" not in line:
                    file.write(json.dumps(line) + "\n")
                    last = line["step"]
            for line in state.log_history:
                if line["step"] > last:
                    file.write(json.dumps(line) + "\n")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
        """Append one line."""
        del state.log_history[: -self.kept]
        if state.is_world_process_zero:
            with self._writing(), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**logs, "step": state.global_step}) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # a write that fails does not say where
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The whole lines of the file, one by one; one that was torn is left out."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                with suppress(ValueError, TypeError, KeyError):
                    line = json.loads(text)
                    if isinstance(line["step"], int):
                        yield line


class FirstBatch(TrainerCallback):
    """Saves what the encoder sees of the first samples, and when asked what the heads predict.

    Args:
        run: the run's folder.
        module: what is trained.
        store: where samples come from by their ordinal; a stream has no samples to come back to.
        collate: makes a batch of them.
        rows: samples shown.
    """

    def __init__(self, run: Path, module: Pretraining, store: Any, collate: Any, *, rows: int = 6):
        self.path, self.module, self.rows = run / "first_batch.json", module, rows
        self.store, self.collate = store, collate

    def on_train_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kw: Any
    ) -> None:
        """Take the loader's first batch apart, once."""
        if not state.is_world_process_zero or self.path.exists():
            return
        device = next(self.module.parameters()).device  # a whole copy of shards is on the CPU
        # A stream's own: workers that stay would keep to where they began, wherever a run goes on.
        stream = isinstance(self.store, IterableDataset)
        batch = self.collate(next(iter(self.store))) if stream else next(iter(train_dataloader))
        batch = batch.to(device)
        views = self.module.view(batch)
        about = {"index": batch.index[: self.rows].tolist(), "views": self._shown(views)}
        write_json(self.path, about)

    def fill(self, device: torch.device) -> None:
        """Add what the trained heads make of the same samples, where that can be looked at.

        Called by who has saved the model: a picture that fails must not cost it.
        """
        method = self.module.objective
        # A stream has no length, and no samples to come back to.
        if not (hasattr(self.store, "__len__") and self.path.exists()):
            return
        about = json.loads(self.path.read_text())
        samples = [self.store[index] for index in about["index"]]  # of epoch 0, as they were
        was_training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                views = self.module.view(self.collate(samples).to(device))
                filled = method.filled(self.module.encode(views), views)
        finally:
            self.module.train(was_training)
        if any(filled):
            said = {"filled": self._shown(filled), "pictured": method.pictured}
            write_json(self.path, {**about, **said})

    def draw(self, seed: int = 0) -> None:
        """Add samples that the trained model draws, where it draws any.

        Called last: what cannot be drawn or shown is a line in the log, and costs nothing else.
        """
        encoder, was_training = self.module.encoder, self.module.training
        self.module.eval()
        try:
            values = self.module.objective.drawn(encoder, self.rows, seed=seed)
            if values is None or not self.path.exists():
                return
            shown = encoder.show(encoder.of_values(values), self.rows)
        except Exception as error:  # whatever it is, the model is saved and its run is over
            logger.warning("No samples in the report: %s", error)
            return
        finally:
            self.module.train(was_training)
        view = {"view": f"seed {seed}", "args": {}, "encoder": "online", **shown}
        about = json.loads(self.path.read_text())
        drawn = {"index": list(range(self.rows)), "views": [view]}
        write_json(self.path, {**about, "drawn": drawn})

    def _shown(self, views: Sequence[View | None]) -> list[dict[str, Any]]:
        show = lambda view: self.module.encoder.show(view, min(self.rows, len(view.mask)))  # noqa: E731
        return [
            {"view": spec.name, "args": dict(spec.args), "encoder": spec.encoder, **show(view)}
            for spec, view in zip(self.module.objective.views, views, strict=True)
            if view is not None
        ]
