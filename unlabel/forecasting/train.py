"""A forecasting head by gradient, alone or with its encoder, in our own trainer."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from unlabel.core import Batch, Encoding, View
from unlabel.data_pipes.series_rows import SeriesRows
from unlabel.forecasting.fit import Split, Windows, thinned
from unlabel.forecasting.model import ForecastModel
from unlabel.objectives.forecast import Forecast, own_values
from unlabel.training.arguments import TrainingArguments
from unlabel.training.keep_best import KeepBest
from unlabel.training.pretraining import Pretraining
from unlabel.training.trainer import Trainer

RATE = 1e-4  # small: the ridge's head is near its optimum
_CHECKED = 2048  # held-out windows, evenly spaced, that choose the step to keep
_LOOKS = 20  # at them, evenly spread over the steps


class HeadForecast(Forecast):
    """`Forecast` with a head that is there already, and covariates of the future.

    Args:
        model: whose head is trained; its levels are the quantiles of the loss.
    """

    def __init__(self, model: ForecastModel):
        values = model.head.values > 0
        super().__init__(horizon=model.horizon, quantiles=model.levels, values=values)
        self.head = model.head

    def build(self, encoder: Any) -> None:
        """Nothing: the head is there."""

    def predict(self, encoding: Encoding, seen: View, batch: Batch) -> Tensor:
        """From the newest tokens, and what is known of the future."""
        newest = slice(-self.head.length, None)
        known = batch.inputs["covariates"][:, -self.horizon :] if self.head.covariates else None
        tokens, mask = encoding.tokens[:, newest], encoding.mask[:, newest]
        if not self.values:
            return self.head(tokens, mask, known)
        values, last = own_values(seen)
        return self.head(tokens, mask, known, values) + (last[:, None] if self.quantiles else last)


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


def held_out_loss(
    module: Pretraining, store: WindowStore, device: torch.device, size: int = 256
) -> float:
    """The loss over all windows of a store, without dropout."""
    module.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(store), size):
            places = range(start, min(start + size, len(store)))
            total += float(module(store.batch(places).to(device)).loss) * len(places)
    module.train()
    return total / len(store)


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
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(**{"output_dir": folder, **given})
        loss = lambda: held_out_loss(module, checks, args.device)  # noqa: E731
        kept = KeepBest(module, loss, every=max(1, given["max_steps"] // _LOOKS))
        store = WindowStore(rows, split.train, *sizes)
        Trainer(module, args, store, store.batch, callbacks=[kept]).train()
    module.load_state_dict(kept.weights)
    return kept


__all__ = ["RATE", "HeadForecast", "WindowStore", "fit_by_gradient", "held_out_loss"]
