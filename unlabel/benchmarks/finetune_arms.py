"""The arms of the fine-tuning benchmark: how the forecasters of one row of its table are fitted."""

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabel.benchmarks.finetune_network import Tuning, held_out, network_forecaster, tune
from unlabel.benchmarks.finetune_run import PretrainedRun
from unlabel.benchmarks.forecast_encoder import WIDEST, encoder_features, own_steps
from unlabel.benchmarks.forecast_ridge import (
    ALPHAS,
    Features,
    Forecaster,
    RidgeForecaster,
    raw_features,
    window_moments,
)
from unlabel.benchmarks.forecasting import window_errors
from unlabel.benchmarks.forecasting_data import ForecastData, ForecastWindows
from unlabel.benchmarks.ridge import fit_nested, fit_ridge
from unlabel.embedding import device_of

if TYPE_CHECKING:
    from unlabel.modalities.series import SeriesEncoder

TRAINED, UNTRAINED, RAW = "trained", "untrained", "ridge on values"
FROZEN = {f"{name}, frozen": name for name in (UNTRAINED, TRAINED)}
FOLDERS = {TRAINED: "model", UNTRAINED: "untrained"}


def latest_windows(
    data: ForecastData, share: float, *, lookback: int, horizon: int
) -> ForecastWindows:
    """The latest share of the train windows, those before the validation rows.

    A share of windows, not of rows: few rows hold no window of a long history and horizon at all.
    `n` windows lie in `n + lookback + horizon - 1` rows.

    Raises:
        ValueError: no share from above 0 to 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"A share of the train windows is above 0 and at most 1, not {share}.")
    whole = data.windows("train", lookback)
    count = whole.count(horizon)
    return ForecastWindows(whole.values[count - max(1, round(share * count)) :], lookback)


@dataclass(frozen=True)
class Place:
    """One row of the table (of several horizons where one head serves them).

    Attributes:
        data: the set.
        horizons: of one fit, or of one network.
        share: of the train windows.
        lookback: steps of history.
    """

    data: ForecastData
    horizons: tuple[int, ...]
    share: float
    lookback: int

    @property
    def name(self) -> str:
        """For a file."""
        return f"{self.data.name}-{'-'.join(map(str, self.horizons))}-share-{self.share:g}"

    @property
    def row(self) -> str:
        """For people."""
        return f"{self.data.name} {self.share * 100:g}%"

    @property
    def parts(self) -> "list[Place]":
        """The same for one horizon at a time."""
        return [replace(self, horizons=(h,)) for h in self.horizons]

    @property
    def windows(self) -> ForecastWindows:
        """To fit."""
        longest = max(self.horizons)
        return latest_windows(self.data, self.share, lookback=self.lookback, horizon=longest)

    def ridge(self, features: Features, *, split: int = 0) -> RidgeForecaster:
        """The ridge on the share, alpha by validation, for each horizon; `split` as in `ridge`."""
        train = window_moments(self.windows, features, self.horizons)
        held = self.data.windows("validation", self.lookback)
        checks = window_moments(held, features, self.horizons)
        grid = ALPHAS[self.data.protocol]
        fit = partial(fit_nested, split=split) if split else fit_ridge
        heads = {h: fit(train[h], checks[h], grid) for h in self.horizons}
        return RidgeForecaster(features, heads)

    def errors(self, forecaster: Forecaster) -> dict[int, np.ndarray]:
        """Of every test window; the first and only time that they are read."""
        fitted = lambda data, **_: forecaster  # noqa: E731
        asked = {"lookback": self.lookback, "horizons": self.horizons}
        return window_errors(self.data, fitted, **asked)[0]


Fitted = tuple[Forecaster, dict[str, Any]]


class Arms:
    """What fits each arm's forecaster, and tells how it came about; no test window is read.

    Args:
        place: the row of the table.
        run: whose encoders are fitted.
        how: the networks are trained.
        device: as for torch; a GPU where there is one.
    """

    def __init__(self, place: Place, run: PretrainedRun, how: Tuning, device: str | None = None):
        self.place, self.run, self.how, self.device = place, run, how, device
        self._frozen = cache(self._fit_frozen)  # the network's start is the frozen arm's ridge

    def fit(self, arm: str) -> Fitted:
        """One arm by its name in the table."""
        if arm in FOLDERS:
            return self._tuned(arm, self.run.sequences if arm == UNTRAINED else 0)
        found = self._frozen(FROZEN[arm]) if arm in FROZEN else self.place.ridge(raw_features())
        about: dict[str, Any] = {
            "alpha": {str(h): heads[0].alpha for h, heads in found.heads.items()}
        }
        if arm in FROZEN and self.how.features == "values+tokens":
            rest = {str(h): heads[0].rest for h, heads in found.heads.items()}
            about["alpha_of_tokens"] = {h: a if np.isfinite(a) else None for h, a in rest.items()}
        return found, about

    def _load(self, name: str) -> "SeriesEncoder":
        from unlabel.modalities.series import SeriesEncoder

        folder = self.run.path / FOLDERS[name]
        return SeriesEncoder.from_pretrained(folder, dropout=self.how.dropout)

    def _fit_frozen(self, name: str) -> RidgeForecaster:
        encoder = self._load(name).to(device_of(self.device))
        take = None if self.how.features == "tokens" else self.how.features
        split = 0 if take is None else own_steps(encoder)
        return self.place.ridge(encoder_features(encoder, take=take), split=split)

    def _start(self, name: str) -> RidgeForecaster | None:
        if self.how.head == "random":
            return None
        encoder = self._load(name)
        if (wide := encoder.length * encoder.width) > WIDEST:
            raise ValueError(
                f"A head on {encoder.length} tokens of width {encoder.width} has {wide:,} "
                f"features, and a ridge takes up to {WIDEST:,}; give head='random'."
            )
        return self._frozen(name)

    def _tuned(self, name: str, extra: int) -> Fitted:
        place, ridge, longest = self.place, self._start(name), max(self.place.horizons)
        most = self.how.validation_windows
        found = tune(
            lambda: self._load(name),
            place.windows,
            held_out(place.data, place.lookback, longest, most),
            horizons=place.horizons,
            how=self.how,
            start=None if ridge is None else ridge.heads,
            extra=extra,
            seed=self.run.seed,
            device=self.device,
        )
        return network_forecaster(found.module, place.horizons), found.about


__all__ = ["FOLDERS", "FROZEN", "RAW", "TRAINED", "UNTRAINED", "Arms", "Place", "latest_windows"]
