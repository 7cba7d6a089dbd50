"""Forecasts by a ridge on features of windows: raw values, or a frozen encoder's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
from einops import rearrange
from jaxtyping import Float

from unlabel.benchmarks.forecasting_data import ForecastData, ForecastWindows
from unlabel.benchmarks.ridge import Linear, Moments, RidgePath, fit_nested, fit_ridge

# Forecasts of windows, (windows, channels, horizon), by horizon; the truth is not its to see.
Forecaster = Callable[
    [Float[np.ndarray, "windows channels lookback"]], Mapping[int, Float[np.ndarray, "..."]]
]


class Fit(Protocol):
    """Makes a forecaster of several horizons from the train (and validation) rows of a set."""

    def __call__(self, data: ForecastData, *, lookback: int, horizons: Sequence[int]) -> Forecaster:
        """Fit; test rows are never touched."""
        ...


@dataclass(frozen=True)
class Featured:
    """ForecastWindows as the ridge sees them.

    Attributes:
        x: features, `(windows, channels, features)` where each channel has its own, or
            `(windows, features)` where the features of all are those of each.
        loc: what is taken off a channel's future before it is fitted, `(windows, channels)`.
        scale: what it is then divided by; the fit counts a window `scale**2` times, so that its
            loss stays in the units of the data.
        shared: one head serves all channels that have features of their own.
    """

    x: Float[np.ndarray, "windows *channels features"]
    loc: Float[np.ndarray, "windows channels"]
    scale: Float[np.ndarray, "windows channels"]
    shared: bool = True

    @property
    def groups(self) -> list[tuple[np.ndarray, slice]]:
        """Features of each head's rows, and the channels it predicts."""
        own = self.x.ndim == 3
        if own and self.shared:
            return [(rearrange(self.x, "n c d -> (n c) d"), slice(None))]
        channels = range(self.loc.shape[1])
        return [(self.x[:, c] if own else self.x, slice(c, c + 1)) for c in channels]


Features = Callable[[Float[np.ndarray, "windows channels lookback"]], Featured]
Select = Literal["mse", "rmse+mae"]
# Up to where a ridge is nearly a constant, which is what exchange rates ask for; those of the
# representation protocol are TS2Vec's.
ALPHAS = {
    "ltsf": tuple(10.0**k for k in range(-1, 10)),
    "representation": (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
}
LEAST = 1e-5  # smallest scale, as RevIN's epsilon: a constant window has none


def raw_features(norm: Literal["last", "standard"] = "last") -> Features:
    """The window's own values, one head for all channels.

    Args:
        norm: `last` takes the last value off (NLinear; Zeng et al. 2023, section 4), `standard`
            the mean, and divides by the std (RevIN; Kim et al. 2022, without its affine).
    """

    def features(history: Float[np.ndarray, "windows channels lookback"]) -> Featured:
        if norm == "last":
            loc = history[..., -1]
            return Featured(history - loc[..., None], loc, np.ones_like(loc))
        loc, scale = history.mean(axis=-1), np.maximum(history.std(axis=-1), LEAST)
        return Featured((history - loc[..., None]) / scale[..., None], loc, scale)

    return features


def window_moments(
    windows: ForecastWindows, features: Features, horizons: Sequence[int]
) -> dict[int, list[Moments]]:
    """Sums over all windows of each horizon, in one pass.

    The longest horizon has the fewest windows; each shorter one has the same and some more at the
    end, and predicts the first of the longer one's steps.
    """
    groups: list[Moments] = []
    found: dict[int, list[Moments]] = {}
    start, longest = 0, max(horizons)
    for horizon in sorted(set(horizons), reverse=True):
        stop = windows.count(horizon)
        for history, future in windows.chunks(horizon, start, stop):
            seen = features(history)
            y = (future - seen.loc[..., None]) / seen.scale[..., None]
            if not groups:
                groups = [Moments(x.shape[1], longest) for x, _ in seen.groups]
            for sums, (x, channels) in zip(groups, seen.groups, strict=True):
                rows = rearrange(y[:, channels], "n c h -> (n c) h")
                sums.add(x, rows, rearrange(seen.scale[:, channels], "n c -> (n c)"))
        found[horizon] = [sums.first(horizon) for sums in groups]
        start = stop
    return found


@dataclass(frozen=True)
class RidgeForecaster:
    """Features of a window, a linear head for each horizon, and the way back to its units.

    Attributes:
        features: of windows.
        heads: by horizon; one for all channels, or one for each.
    """

    features: Features
    heads: Mapping[int, Sequence[Linear]]

    def __call__(
        self, history: Float[np.ndarray, "windows channels lookback"]
    ) -> dict[int, Float[np.ndarray, "windows channels horizon"]]:
        """Forecasts of every window, by horizon."""
        seen = self.features(history)
        return {horizon: forecast(seen, heads) for horizon, heads in self.heads.items()}


def forecast(
    seen: Featured, heads: Sequence[Linear]
) -> Float[np.ndarray, "windows channels horizon"]:
    """The heads' predictions in the units of the data."""
    count = len(seen.loc)
    parts = [
        rearrange(head(x), "(n c) h -> n c h", n=count)
        for head, (x, _) in zip(heads, seen.groups, strict=True)
    ]
    return np.concatenate(parts, axis=1) * seen.scale[..., None] + seen.loc[..., None]


def ridge(
    features: Features,
    *,
    alphas: Sequence[float] | None = None,
    select: Select | None = None,
    split: int = 0,
) -> Fit:
    """A ridge for each horizon, fitted on the train windows, alpha chosen on validation windows.

    Args:
        features: of windows.
        alphas: to choose from; default those of the set's protocol.
        select: by `mse`, or by `rmse+mae` as in the representation protocol; default likewise.
        split: the first so many features are the window's own values, beside which the others are
            asked what they add (by `mse` alone), see `fit_nested`; 0 where there are no such.
    """

    def fit(data: ForecastData, *, lookback: int, horizons: Sequence[int]) -> RidgeForecaster:
        grid = alphas or ALPHAS[data.protocol]
        by = select or ("mse" if data.protocol == "ltsf" else "rmse+mae")
        train = window_moments(data.windows("train", lookback), features, horizons)
        held = data.windows("validation", lookback)
        if by == "mse" or split:
            checks = window_moments(held, features, horizons)
            best = partial(fit_nested, split=split) if split else fit_ridge
            heads = {h: best(train[h], checks[h], grid) for h in horizons}
        else:
            paths = {h: [RidgePath(rows) for rows in train[h]] for h in horizons}
            heads = _by_forecasts(held, features, paths, grid)
        return RidgeForecaster(features, heads)

    return fit


def nested_chunks(
    windows: ForecastWindows, horizons: Sequence[int]
) -> Iterator[tuple[np.ndarray, dict[int, np.ndarray]]]:
    """History of every window once, with the futures of those horizons that it has whole."""
    start = 0
    for horizon in sorted(set(horizons), reverse=True):
        stop = windows.count(horizon)
        for history, future in windows.chunks(horizon, start, stop):
            yield history, {h: future[..., :h] for h in horizons if h <= horizon}
        start = stop


def _by_forecasts(
    held: ForecastWindows,
    features: Features,
    paths: Mapping[int, Sequence[RidgePath]],
    alphas: Sequence[float],
) -> dict[int, list[Linear]]:
    fits = {h: [[p.at(a) for p in own] for a in alphas] for h, own in paths.items()}
    errors = {h: np.zeros((2, len(alphas))) for h in fits}
    sizes = dict.fromkeys(fits, 0)
    for history, futures in nested_chunks(held, list(fits)):
        seen = features(history)
        for h, future in futures.items():
            sizes[h] += future.size
            for i, heads in enumerate(fits[h]):
                off = forecast(seen, heads) - future
                errors[h][:, i] += np.sum(off**2), np.sum(np.abs(off))
    score = {h: np.sqrt(e[0] / sizes[h]) + e[1] / sizes[h] for h, e in errors.items()}
    return {h: fits[h][int(np.argmin(score[h]))] for h in fits}
