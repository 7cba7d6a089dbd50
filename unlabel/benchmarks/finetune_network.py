"""A series encoder and a forecasting head, trained together from the closed-form ridge on.

LP-FT: the head is fitted first, to the frozen encoder, and then all weights are trained from there
with a small learning rate; a random head would distort the features before it has learned to read
them (Kumar et al. 2022, arXiv 2202.10054, section 3). Here the first part has a closed form.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import transformers
from einops import rearrange
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from unlabel.benchmarks.forecast_encoder import read_windows
from unlabel.benchmarks.forecast_ridge import Forecaster
from unlabel.benchmarks.forecasting_data import ForecastData, ForecastWindows
from unlabel.benchmarks.ridge import Linear
from unlabel.benchmarks.tuning import train_kept
from unlabel.core import Batch, Encoding, View
from unlabel.data_pipes.series import Series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.objectives import Forecast, ForecastHead, Term
from unlabel.training.keep_best import KeepBest
from unlabel.training.pretraining import Pretraining

if TYPE_CHECKING:
    from unlabel.modalities.series import SeriesEncoder

# Histories (windows, channels, lookback) and what followed them (windows, channels, horizon).
Held = tuple[
    Float[np.ndarray, "windows channels lookback"], Float[np.ndarray, "windows channels _"]
]


@dataclass(frozen=True)
class Tuning:
    """How all weights are trained.

    Attributes:
        steps: of the optimizer.
        learning_rates: each is tried from the same start; validation chooses.
        batch_size: sequences a step.
        head: `ridge`, the closed-form head on the frozen encoder, or `random` weights.
        checks: looks at the validation windows, evenly spread over the steps; the weights of the
            best one are kept. They are as many for any number of steps, so that nobody gains by
            choosing among more.
        validation_windows: looked at each time, evenly spaced; 0 for all.
        patience: looks without a better one that end the training; 0 for never.
        dropout: of the network while it is trained; None leaves the encoder's own.
    """

    steps: int = 500
    learning_rates: tuple[float, ...] = (1e-4, 3e-4)
    batch_size: int = 128
    head: Literal["ridge", "random"] = "ridge"
    checks: int = 20
    validation_windows: int = 512
    patience: int = 0
    dropout: float | None = 0.0

    def __post_init__(self):
        """Refuse what cannot be trained."""
        for name in ("steps", "batch_size", "checks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, but {getattr(self, name)} came.")
        if not self.learning_rates or not all(rate > 0 for rate in self.learning_rates):
            raise ValueError(
                f"learning_rates is {list(self.learning_rates)}: give at least one, above 0."
            )
        if self.head not in ("ridge", "random"):
            raise ValueError(f"head is {self.head!r}: choose 'ridge' or 'random'.")


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned network.

    Attributes:
        module: encoder and head, with the weights of the best look.
        about: how it came about: steps, learning rate, validation error at each look.
    """

    module: Pretraining
    about: dict[str, Any]


class RidgeForecast(Forecast):
    """Forecast with the penalty of the ridge that its head starts from.

    The head's start is the minimum of loss and penalty while the encoder stays as it is, so that
    training has something to gain from the encoder alone. Without it, the first steps undo what
    the ridge's alpha was chosen for.

    Args:
        penalty: of the sum of the head's squared weights.
        options: as for `Forecast`.
    """

    def __init__(self, *, penalty: float = 0.0, **options: Any):
        super().__init__(**options)
        self.penalty = penalty

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Two terms, `forecast` and `ridge`."""
        ridge = self.penalty * self.head.linear.weight.square().sum()
        return {**super().forward(encodings, views, batch), "ridge": Term(ridge)}


def start_head(head: ForecastHead, ridges: Sequence[Linear]) -> None:
    """Give a head the weights of closed-form regressions on its features.

    Args:
        head: of one value a step.
        ridges: one for each channel of the head, to all of its horizon.
    """
    weight = np.stack([r.weight for r in ridges], axis=-1)
    bias = np.stack([r.bias for r in ridges], axis=-1)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(rearrange(weight, "f h c -> (h c) f")))
        head.linear.bias.copy_(torch.from_numpy(rearrange(bias, "h c -> (h c)")))


def network_forecaster(
    module: Pretraining, horizons: Sequence[int], *, batch_size: int = 512
) -> Forecaster:
    """Forecasts of a network: for each horizon the first steps of its head's."""
    encoder, head = module.encoder, module.objective.head

    def forecast(history: np.ndarray) -> dict[int, np.ndarray]:
        was_training = head.training
        head.eval()  # the encoder is taken care of where windows are read
        read = lambda encoding: head(encoding.tokens, encoding.mask)  # noqa: E731
        out, loc, scale = read_windows(encoder, history, read, batch_size=batch_size)
        head.train(was_training)
        steps = rearrange(out, "(n a) h c -> n (a c) h", n=len(history))
        steps = steps * scale[..., None] + loc[..., None]
        return {h: steps[..., :h] for h in horizons}

    return forecast


def held_out(data: ForecastData, lookback: int, horizon: int, most: int) -> Held:
    """Evenly spaced validation windows, `most` of them or all (0)."""
    windows = data.windows("validation", lookback)
    count = windows.count(horizon)
    places = np.linspace(0, count - 1, min(most or count, count)).round().astype(int)
    seen = sliding_window_view(windows.values, lookback + horizon, axis=0)[places]
    return seen[..., :lookback], seen[..., lookback:]


def tune(
    load: Callable[[], "SeriesEncoder"],
    windows: ForecastWindows,
    held: Held,
    *,
    horizon: int,
    how: Tuning,
    start: Sequence[Linear] | None = None,
    extra: int = 0,
    seed: int = 0,
    device: str | None = None,
) -> Tuned:
    """Train an encoder and its head on all windows; the loss is the MSE that is measured.

    Args:
        load: makes the encoder, anew for each learning rate.
        windows: to train on.
        held: validation windows, to choose weights and learning rate by.
        horizon: steps to predict.
        how: see `Tuning`.
        start: the head's first weights, see `start_head`, and the penalty that goes on with them;
            None for random ones.
        extra: sequences of training on top of `how.steps`.
        seed: of the head's random weights, of dropout and of the order of windows.
        device: as for torch; a GPU where there is one.
    """
    tried = []
    for rate in how.learning_rates:
        encoder = load()
        transformers.set_seed(seed)  # the heads start alike, however the encoder was made
        store = _store(windows, horizon, encoder.channels)
        # The ridge's is beside a sum over all values to predict; the loss is a mean over them.
        penalty = start[0].alpha / (len(store) * horizon * encoder.channels) if start else 0.0
        objective = RidgeForecast(horizon=horizon, weigh=True, penalty=penalty)
        module = Pretraining(encoder, objective)
        if start is not None:
            start_head(objective.head, start)
        batch = min(how.batch_size, len(store))
        steps = how.steps + math.ceil(extra / batch)
        keep = KeepBest(
            module,
            _error(module, held, horizon),
            every=max(1, round(steps / how.checks)),
            patience=how.patience,
        )
        made = train_kept(
            module,
            store,
            keep,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=rate,
            seed=seed,
            use_cpu=device == "cpu",
        )
        about = {"steps": steps, "made": made, "batch_size": batch, "learning_rate": rate}
        tried.append(Tuned(module, {**about, **keep.about}))
    best = min(tried, key=lambda tuned: tuned.about["validation"])
    every = {f"{t.about['learning_rate']:g}": t.about["looks"] for t in tried}
    return Tuned(best.module, {**best.about, "looks": every})


def _store(windows: ForecastWindows, horizon: int, channels: int) -> SeriesStore:
    series = Series("train", windows.values.astype(np.float32))
    kind = "independent" if channels == 1 else "together"
    return SeriesStore([series], context=windows.lookback, horizon=horizon, channels=kind)


def _error(module: Pretraining, held: Held, horizon: int) -> Callable[[], float]:
    forecast, (history, future) = network_forecaster(module, [horizon]), held
    return lambda: float(np.square(forecast(history)[horizon] - future).mean())


__all__ = [
    "RidgeForecast",
    "Tuned",
    "Tuning",
    "held_out",
    "network_forecaster",
    "start_head",
    "tune",
]
