"""A forecasting head by gradient, alone or with its encoder, in our own trainer."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import TrainerCallback

from unlabel.core import Batch, Encoding, View
from unlabel.data_pipes.series_rows import SeriesRows
from unlabel.forecasting.fit import Split, Windows, thinned
from unlabel.forecasting.model import ForecastModel
from unlabel.objectives.forecast import Forecast
from unlabel.training.arguments import TrainingArguments
from unlabel.training.pretraining import Pretraining, Step
from unlabel.training.trainer import Trainer

RATE = 1e-4  # small: the ridge's head is near its optimum
_CHECKED = 2048  # held-out windows, evenly spaced, that choose the step to keep


class HeadForecast(Forecast):
    """`Forecast` with a head that is there already, and covariates of the future.

    Args:
        model: whose head is trained; its levels are the quantiles of the loss.
    """

    def __init__(self, model: ForecastModel):
        super().__init__(horizon=model.horizon, quantiles=model.levels)
        self.head = model.head

    def build(self, encoder: Any) -> None:
        """Nothing: the head is there."""

    def predict(self, encoding: Encoding, batch: Batch) -> Tensor:
        """From the newest tokens, and what is known of the future."""
        newest = slice(-self.head.length, None)
        known = batch.inputs["covariates"][:, -self.horizon :] if self.head.covariates else None
        return self.head(encoding.tokens[:, newest], encoding.mask[:, newest], known)


class Frozen(Pretraining):
    """`Pretraining` of the objective's head alone: the encoder has no dropout and no gradient."""

    def train(self, mode: bool = True) -> "Frozen":
        """The encoder never trains."""
        super().train(mode)
        self.encoder.eval()
        return self

    def encode_by(self, who: str, views: Sequence[View]) -> dict[int, Encoding]:
        """Encodings without a graph."""
        with torch.no_grad():
            return super().encode_by(who, views)


@dataclass(frozen=True)
class WindowStore:
    """Windows of rows as the trainer asks for them: an item is its ordinal, a batch is cut whole.

    Attributes:
        rows: the data.
        windows: row and origin of each.
        context: steps of history.
        horizon: steps after them.
    """

    rows: SeriesRows
    windows: Windows
    context: int
    horizon: int

    @property
    def lengths(self) -> Int64[np.ndarray, "count"]:
        """Steps of a window, for each."""
        return np.broadcast_to(np.int64(self.context + self.horizon), len(self))

    def __len__(self) -> int:
        """Windows in an epoch."""
        return len(self.windows[0])

    def __getitem__(self, ordinal: int) -> int:
        """Itself: `batch` cuts all windows of a batch at once."""
        return int(ordinal)

    def batch(self, ordinals: Sequence[int]) -> Batch:
        """The windows at these places of the run."""
        index = np.asarray(ordinals) % len(self)
        row, origin = (w[index] for w in self.windows)
        batch = self.rows.batch(row, origin, self.context, self.horizon)
        batch.index, batch.ordinal = torch.from_numpy(index), torch.tensor(list(ordinals))
        return batch


class KeepBest(TrainerCallback):
    """Looks at held-out windows twenty times in a run, and ends it with the best weights.

    Attributes:
        best: the least held-out loss.
        step: that had it; 0 for the weights as they were.
    """

    def __init__(self, module: Pretraining, store: WindowStore, size: int):
        self.module, self.store, self.size = module, store, size
        self.best, self.step = np.inf, 0
        self._kept: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The weights as they are have a chance too."""
        self._check(args.device, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Every twentieth part of the run."""
        if state.global_step % max(1, state.max_steps // 20) == 0:
            self._check(args.device, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Back to the best weights."""
        self.module.load_state_dict(self._kept)

    @torch.no_grad()
    def _check(self, device: torch.device, step: int) -> None:
        self.module.eval()
        total = count = 0.0
        for start in range(0, len(self.store), self.size):
            places = range(start, min(start + self.size, len(self.store)))
            found: Step = self.module(self.store.batch(places).to(device))
            total, count = total + float(found.loss) * len(places), count + len(places)
        self.module.train()
        if total / count < self.best:
            self.best, self.step = total / count, step
            self._kept = {k: v.clone() for k, v in self.module.state_dict().items()}


def fit_by_gradient(
    model: ForecastModel,
    rows: SeriesRows,
    split: Split,
    *,
    frozen: bool,
    training: Mapping[str, Any],
    device: str,
    seed: int,
) -> KeepBest:
    """Train the head, and the encoder unless frozen; the step best on held-out windows is kept.

    Args:
        model: what is trained.
        rows: the data.
        split: windows to train on, and to check on.
        frozen: leave the encoder as it is.
        training: transformers' training arguments over the defaults.
        device: to train on.
        seed: of the run.
    """
    size = min(int(training.get("per_device_train_batch_size", 64)), len(split.train[0]))
    given: dict[str, Any] = {
        "learning_rate": RATE,
        "max_steps": 500,
        "warmup_steps": 20,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "monitor_rows": 0,
        "seed": seed,
        "use_cpu": device == "cpu",
        **training,
        "per_device_train_batch_size": size,
    }
    sizes = (model.encoder.context, model.horizon)
    checks = WindowStore(rows, thinned(split.held, _CHECKED), *sizes)
    module = (Frozen if frozen else Pretraining)(model.encoder, HeadForecast(model))
    kept = KeepBest(module, checks, 256)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(**{"output_dir": folder, **given})
        store = WindowStore(rows, split.train, *sizes)
        Trainer(module, args, store, store.batch, callbacks=[kept]).train()
    return kept


__all__ = ["RATE", "HeadForecast", "KeepBest", "WindowStore", "fit_by_gradient"]
