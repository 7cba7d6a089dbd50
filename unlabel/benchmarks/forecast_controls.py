"""Forecasts to print beside a pretrained encoder: what no network, or no training, already gives.

Each is a `Fit`, as `evaluate_forecasting` takes it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from einops import reduce
from jaxtyping import Float

from unlabel.benchmarks.forecast_ridge import Fit, Forecaster, raw_features, ridge
from unlabel.benchmarks.forecasting_data import ForecastData

Steps = Callable[
    [Float[np.ndarray, "windows channels lookback"], int],
    Float[np.ndarray, "windows channels horizon"],
]


def _unfitted(forecast: Steps, horizons: Sequence[int]) -> Forecaster:
    return lambda history: {h: forecast(history, h) for h in horizons}


def repeat_last(data: ForecastData, *, lookback: int, horizons: Sequence[int]) -> Forecaster:
    """The last value, for ever."""
    return _unfitted(lambda history, h: np.repeat(history[..., -1:], h, axis=-1), horizons)


def train_mean(data: ForecastData, *, lookback: int, horizons: Sequence[int]) -> Forecaster:
    """The mean of the train rows: zero, as the values are standardised by it."""
    return _unfitted(lambda history, h: np.zeros((*history.shape[:2], h)), horizons)


def daily_profile(days: int = 7) -> Fit:
    """The mean of the last days, hour by hour, repeated; of 1 day: yesterday.

    Args:
        days: to take the mean of; fewer where the history is shorter.
    """

    def fit(data: ForecastData, *, lookback: int, horizons: Sequence[int]) -> Forecaster:
        whole = min(days, lookback // data.day if data.day else 0)
        if not whole:
            raise ValueError(
                f"{data.name} has {data.day or 'no'} steps a day and a lookback of {lookback}: no "
                "whole day to repeat; leave the control out, or look further back."
            )

        def forecast(history: np.ndarray, h: int) -> np.ndarray:
            recent = history[..., -whole * data.day :]
            profile = reduce(recent, "n c (w d) -> n c d", "mean", d=data.day)
            return np.tile(profile, -(-h // data.day))[..., :h]

        return _unfitted(forecast, horizons)

    return fit


def controls(data: ForecastData, lookback: int) -> dict[str, Fit]:
    """What is printed beside every encoder, by name: those that the set and lookback allow."""
    found: dict[str, Fit] = {"repeat last": repeat_last}
    days = min(7, lookback // data.day) if data.day else 0
    if days:
        found["yesterday"] = daily_profile(1)
    if days > 1:
        found[f"{days}-day profile"] = daily_profile(days)
    found["ridge on values"] = ridge(raw_features("last"))
    return found
