"""A series encoder and a forecasting head, trained together from the closed-form ridge on.

LP-FT: the head is fitted first, to the frozen encoder, and then all weights are trained from there
with a small learning rate; a random head would distort the features before it has learned to read
them (Kumar et al. 2022, arXiv 2202.10054, section 3). Here the first part has a closed form.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import transformers
from einops import rearrange
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from unlabel.benchmarks.finetune_start import (
    Heads,
    RidgeForecast,
    ridge_penalty,
    start_head,
    stitched,
)
from unlabel.benchmarks.forecast_encoder import own_steps, read_windows
from unlabel.benchmarks.forecast_ridge import Forecaster
from unlabel.benchmarks.forecasting_data import ForecastData, ForecastWindows
from unlabel.benchmarks.tuning import check_training, train_kept
from unlabel.data_pipes.series import Series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.objectives import Forecast
from unlabel.training.keep_best import KeepBest
from unlabel.training.pretraining import Pretraining

if TYPE_CHECKING:
    from unlabel.modalities.series import SeriesEncoder

Reads = Literal["tokens", "values+tokens"]
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
        features: what the head reads: `tokens`, or `values+tokens`, the window itself too.
        head_rate: learning rate of the head, in units of the encoder's.
    """

    steps: int = 500
    learning_rates: tuple[float, ...] = (1e-4, 3e-4)
    batch_size: int = 128
    head: Literal["ridge", "random"] = "ridge"
    checks: int = 20
    validation_windows: int = 512
    patience: int = 0
    dropout: float | None = 0.0
    features: Reads = "tokens"
    head_rate: float = 1.0

    def __post_init__(self):
        """Refuse what cannot be trained."""
        check_training(self)
        if self.head not in ("ridge", "random"):
            raise ValueError(f"head is {self.head!r}: choose 'ridge' or 'random'.")
        if self.features not in get_args(Reads):
            raise ValueError(
                f"features is {self.features!r}: choose one of {', '.join(get_args(Reads))}."
            )
        if not self.head_rate > 0:
            raise ValueError(f"head_rate is a number above 0, but {self.head_rate} came.")


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned network.

    Attributes:
        module: encoder and head, with the weights of the best look.
        about: how it came about: steps, learning rate, validation error at each look.
    """

    module: Pretraining
    about: dict[str, Any]


def network_forecaster(
    module: Pretraining, horizons: Sequence[int], *, batch_size: int = 512
) -> Forecaster:
    """Forecasts of a network: for each horizon the first steps of its head's."""
    encoder, objective = module.encoder, cast(Forecast, module.objective)
    head = objective.head
    in_units = objective.power > 0  # the bias of a head that reads values

    def forecast(history: np.ndarray) -> dict[int, np.ndarray]:
        was_training = head.training
        head.eval()  # the encoder is taken care of where windows are read
        read = lambda e, view, scale: objective.ahead(e, view, scale if in_units else None)  # noqa: E731
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
    horizons: Sequence[int],
    how: Tuning,
    start: Heads | None = None,
    extra: int = 0,
    seed: int = 0,
    device: str | None = None,
) -> Tuned:
    """Train an encoder and its head on all windows; the loss is the MSE that is measured.

    Args:
        load: makes the encoder, anew for each learning rate.
        windows: to train on.
        held: validation windows, to choose weights and learning rate by.
        horizons: steps to predict, at most the longest; validation is the mean error over all.
        how: see `Tuning`.
        start: ridges of all horizons that the head starts from, see `stitched`, and whose penalty
            goes on with them; None for random weights.
        extra: sequences of training on top of `how.steps`.
        seed: of the head's random weights, of dropout and of the order of windows.
        device: as for torch; a GPU where there is one.
    """
    tried, horizon = [], max(horizons)
    for rate in how.learning_rates:
        encoder = load()
        transformers.set_seed(seed)  # the heads start alike, however the encoder was made
        store = _store(windows, horizon, encoder.channels)
        # The ridge's is beside a sum over all values to predict; the loss is a mean over them.
        terms = len(store) * horizon * encoder.channels
        beside = how.features == "values+tokens"
        sizes = {"values": own_steps(encoder) * beside, "channels": encoder.channels}
        penalty = None if start is None else ridge_penalty(start, **sizes) / terms
        objective = RidgeForecast(horizon=horizon, weigh=True, values=beside, penalty=penalty)
        module = Pretraining(encoder, objective)
        if start is not None:
            start_head(objective.head, stitched(start))
        batch = min(how.batch_size, len(store))
        steps = how.steps + math.ceil(extra / batch)
        keep = KeepBest(
            module,
            _error(module, held, horizons),
            every=max(1, round(steps / how.checks)),
            patience=how.patience,
        )
        made = train_kept(
            module,
            store,
            keep,
            head_rate=how.head_rate,
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


def _error(module: Pretraining, held: Held, horizons: Sequence[int]) -> Callable[[], float]:
    forecast, (history, future) = network_forecaster(module, horizons), held

    def mean() -> float:
        found = forecast(history)
        return float(np.mean([np.square(found[h] - future[..., :h]).mean() for h in horizons]))

    return mean


__all__ = [
    "Reads",
    "Tuned",
    "Tuning",
    "held_out",
    "network_forecaster",
    "tune",
]
