"""Forecast your own series with a pretrained encoder: fit, predict, score, save."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import SeriesData
from unlabel.data_pipes.series_future import season_of, step_of_series, times_of
from unlabel.data_pipes.series_rows import SeriesRows
from unlabel.data_pipes.series_time import in_zone
from unlabel.embedding import device_of
from unlabel.files import write_json
from unlabel.forecasting.fit import ALPHAS, FitReport, Split, calibrate, fit_closed_form
from unlabel.forecasting.model import ForecastModel, forecast_blocks
from unlabel.forecasting.prepare import (
    future_of,
    load_encoder,
    new_encoder,
    prepared,
    rows_of,
    standardise,
)
from unlabel.forecasting.scores import score_last
from unlabel.forecasting.train import fit_by_gradient
from unlabel.forecasts import Forecasts
from unlabel.modalities.series import SeriesEncoder
from unlabel.series_embedding import embed_series

logger = logging.getLogger(__name__)

Method = Literal["ridge", "linear", "finetune"]
Reads = Literal["tokens", "values+tokens"]
_SETTINGS, _HEAD, _ENCODER = "config.json", "head.safetensors", "encoder"
_Names = str | Sequence[str] | None


class Forecaster(BaseEstimator):
    """Forecasts series: an encoder, and a linear head from its tokens to the steps ahead.

    Every method ends as the same encoder and head, and with quantiles calibrated on the held-out
    latest part of each series by split conformal prediction: the band from 0.1 to 0.9 holds about
    80 % of what came there.

    Args:
        encoder: a run's output folder, a saved encoder's folder, a `SeriesEncoder` (copied), or
            None for a new untrained one, fitted to the length of the series.
        prediction_length: steps to forecast.
        quantile_levels: to predict beside the median; none (or None) for the mean alone.
        method: `ridge`, closed form on the frozen encoder; `linear`, the same head by gradient on
            the quantile loss; `finetune`, head and encoder together.
        start: where the gradient starts from: the `ridge`'s head, as in LP-FT, or a `random` one.
        context: steps of history of a new encoder, at most.
        config: transformers configuration of a new encoder.
        validation: share of each series, its latest part, that is held out (at least
            `prediction_length` steps): it chooses alpha or the step to keep, and calibrates.
        refit: fit the ridge again on all rows when alpha and calibration are known.
        alphas: of the ridge, to choose from.
        tokens: newest tokens that the head reads; None for all where they are not too many.
        features: what the head reads: the encoder's `tokens`, or `values+tokens`, the window itself
            too: the forecast is then no worse, on what was held out, than a ridge on the values.
        max_windows: windows fitted, evenly spaced; a quarter as many are held out.
        training: transformers' training arguments over our defaults (`max_steps`,
            `learning_rate`, `per_device_train_batch_size`, ...).
        batch_size: windows a forward pass.
        seed: of a new encoder, of a random head and of training.
        device: as for torch; a GPU where there is one.

    Example:
        >>> forecaster = Forecaster("runs/series", prediction_length=24)  # doctest: +SKIP
        >>> forecaster.fit("loads.csv").predict_df("loads.csv")  # doctest: +SKIP

    Reference: Nie et al. 2023 (PatchTST), arXiv 2211.14730, section 3.1; LP-FT: Kumar et al. 2022,
    arXiv 2202.10054; conformal quantiles: see `forecasting.fit.errors_ahead`.
    """

    def __init__(
        self,
        encoder: str | Path | SeriesEncoder | None = None,
        *,
        prediction_length: int,
        quantile_levels: Sequence[float] | None = (0.1, 0.5, 0.9),
        method: Method = "ridge",
        start: Literal["ridge", "random"] = "ridge",
        context: int = 336,
        config: Mapping[str, Any] | None = None,
        validation: float = 0.2,
        refit: bool = True,
        alphas: Sequence[float] = ALPHAS,
        tokens: int | None = None,
        features: Reads = "tokens",
        max_windows: int = 50_000,
        training: Mapping[str, Any] | None = None,
        batch_size: int = 256,
        seed: int = 0,
        device: str | None = None,
    ):
        # As they came: scikit-learn's clone and repr read them back.
        self.encoder, self.prediction_length = encoder, prediction_length
        self.quantile_levels, self.method, self.start = quantile_levels, method, start
        self.context, self.config, self.validation = context, config, validation
        self.refit, self.alphas = refit, alphas
        self.tokens, self.features = tokens, features
        self.max_windows, self.training, self.batch_size = max_windows, training, batch_size
        self.seed, self.device = seed, device

    # -- fitting ------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        target: _Names = None,
        id_column: str | None = None,
        timestamp_column: str | None = None,
        covariates: _Names = None,
        static: _Names = None,
        freq: str | None = None,
    ) -> Self:
        """Fit the head (and with `finetune` the encoder) on every series.

        Args:
            data: what `read_series` takes: tables, long or wide, arrays, paths, lists of them.
            target: columns to forecast, see `read_series`; also the other columns.
            id_column: tells series apart.
            timestamp_column: time.
            covariates: known of the past and of the future, which `predict` then asks for; the
                head reads those of the future, and so does an encoder that was made with some.
            static: numbers of a whole series, for an encoder that was made with them.
            freq: the step, in pandas' names.

        Raises:
            ValueError: settings, data or encoder that do not go together; the message says why.
        """
        self._check()
        self.columns_ = {
            "target": _list(target), "id_column": id_column, "timestamp_column": timestamp_column,
            "covariates": _list(covariates), "static": _list(static), "freq": freq,
        }  # fmt: skip
        source = self._read(data)
        known = len(self.columns_["covariates"] or ())
        encoder = self._encoder(source, known)
        source = source.in_order(encoder.names)
        self.channels_ = (source[0].names or ()) if encoder.channels > 1 else ()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # of a head that starts at random
            model = ForecastModel(
                encoder, horizon=self.prediction_length, levels=_levels(self.quantile_levels),
                covariates=known, tokens=self.tokens, values=self.features == "values+tokens",
            )  # fmt: skip
        self.model_, source = model.to(self._device()), source.in_order(self.channels_)
        standardise(model, source, is_new=self.encoder is None)
        rows = rows_of(model, source)
        split = Split.of(
            rows, context=encoder.context, horizon=self.prediction_length,
            share=self.validation, limit=self.max_windows,
        )  # fmt: skip
        self._fit(rows, split)
        self.freqs_ = sorted({s.freq for s in source if s.freq})
        logger.info("%s; %s.", source.summary(), self.report_.summary())
        return self

    def _fit(self, rows: SeriesRows, split: Split) -> None:
        size = self.batch_size
        if self.method == "ridge" or self.start == "ridge":
            given: dict[str, Any] = {
                "alphas": self.alphas, "again": self.refit, "as_start": self.method != "ridge",
            }  # fmt: skip
            self.report_ = fit_closed_form(self.model_, rows, split, size=size, **given)
        if self.method != "ridge":
            fit_by_gradient(
                self.model_, rows, split, frozen=self.method == "linear",
                training=self.training or {}, device=self._device(), seed=self.seed,
            )  # fmt: skip
            self.report_ = calibrate(self.model_, rows, split, size=size)
        self.model_.eval()

    def _check(self) -> None:
        known = {
            "method": get_args(Method), "start": ("ridge", "random"), "features": get_args(Reads)
        }  # fmt: skip
        for name, choices in known.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}.")
        for name in ("prediction_length", "context", "max_windows", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} is a whole number of at least 1, but {value!r} came.")
        if not 0 < self.validation <= 0.5:
            raise ValueError(
                f"validation is a share above 0 and up to 0.5, but {self.validation} came."
            )
        _levels(self.quantile_levels)

    def _encoder(self, source: SeriesData, known: int) -> SeriesEncoder:
        if self.encoder is not None:
            return load_encoder(self.encoder)
        return new_encoder(
            max(map(len, source)), horizon=self.prediction_length, validation=self.validation,
            context=self.context, config=self.config or {}, seed=self.seed,
            covariates=known, static=len(self.columns_["static"] or ()),
        )  # fmt: skip

    # -- forecasting --------------------------------------------------------------------------

    def predict(
        self,
        data: Any,
        *,
        future_df: Any = None,
        prediction_length: int | None = None,
        quantile_levels: Sequence[float] | None = None,
        recursive: bool = False,
        **columns: Any,
    ) -> Forecasts:
        """Forecast the steps after the last row of each series, in its own units.

        Series of fewer than 2 observed values among the encoder's last steps are skipped, counted
        and named in the result. A constant history is forecast as the constant. Times of a zone
        go on in it where they are dates of a pandas object; as text they are read as UTC.

        Args:
            data: what `fit` takes.
            future_df: the covariates' values of those steps, where it was fitted with some.
            prediction_length: steps; fewer than were fitted are the first of them.
            quantile_levels: between those that were fitted (interpolated); default those.
            recursive: allow more steps than were fitted, by forecasting from the forecasts. The
                bands of later blocks are those of the first, so they are too narrow.
            columns: as for `fit`; default as then.

        Raises:
            ValueError: data that cannot be read, a horizon that is too long, a level outside.
        """
        horizon = self._horizon(prediction_length, recursive)
        source = self._read_again(data, columns)
        self._compare_steps(source)
        ahead = [times_of(s, len(s), horizon) for s in source]
        rows, known = rows_of(self.model_, source), None
        if self.model_.head.covariates:
            merged = {**self.columns_, **columns}
            about = {k: merged[k] for k in ("id_column", "timestamp_column", "freq")}
            names, about["horizon"] = self.columns_["covariates"], horizon
            known = future_of(self.model_, source, future_df, names=names, **about)[rows.series]
        elif future_df is not None:
            raise ValueError(
                "future_df came, but it was fitted without covariates, so nothing of it would be "
                "read; fit with covariates=[...], or leave it out."
            )
        blocks = forecast_blocks(self.model_, rows, known, horizon, size=self.batch_size)
        asked = self.quantile_levels if quantile_levels is None else quantile_levels
        levels = tuple(sorted(() if asked is None else asked))
        found = Forecasts.of(
            source, rows, rearrange(blocks, "n q h c -> (n c) q h"),
            own=self.model_.levels, levels=levels, times=ahead,
            context=self.model_.encoder.context, ids=_own_ids(data, source[0].id_name),
        )  # fmt: skip
        times = {
            n: [_own_times(t, data, found.time_name) for t in getattr(found, n)]
            for n in ("times", "history_times")
        }
        return dataclasses.replace(found, **times)

    def predict_df(self, df: Any, **options: Any) -> pd.DataFrame:
        """`predict(...)` as a table: the ids and times under their own names, and forecasts."""
        return self.predict(df, **options).to_df()

    def score(self, data: Any, *, season: int | None = None, **columns: Any) -> pd.DataFrame:
        """Errors on the last `prediction_length` steps of each series, beside naive forecasts.

        Those steps must not have been fitted: fit on the rows before them, score on all.

        Args:
            data: what `fit` takes.
            season: steps of a season; None takes that of the step (24 of hourly series, ...).
            columns: as for `fit`; default as then.

        Returns:
            MSE, MAE, WQL and the share within the outermost quantiles, a row a forecaster.

        Raises:
            ValueError: no series is longer than the forecast by 2 steps.
        """
        source = self._read_again(data, columns)
        seasons = np.array([season or season_of(step_of_series(s)) for s in source])
        rows = rows_of(self.model_, source)
        return score_last(self.model_, rows, seasons[rows.series], size=self.batch_size)

    def embed(self, data: Any, *, per_step: bool = False, **columns: Any) -> pd.DataFrame:
        """The encoder's vectors: one a series (and channel), or one a step; see `embed_series`."""
        source = prepared(self.model_, self._read_again(data, columns))
        how: dict[str, Any] = {"per_step": per_step, "size": self.batch_size}
        found = embed_series(self.model_.encoder, source, **how)
        if ids := _own_ids(data, name := source[0].id_name):
            found[name] = pd.Series([ids.get(i, i) for i in found[name]])
        if per_step:
            name = source[0].time_name or "step"
            found[name] = _own_times(pd.Index(found[name]), data, name)
        return found

    # -- saving -------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write encoder, head and settings; `from_pretrained` forecasts the same to the bit."""
        self._check_fitted()
        folder = Path(folder)
        self.model_.encoder.save_pretrained(folder / _ENCODER)
        state = self.model_.state_dict()
        own = {k: v.contiguous() for k, v in state.items() if not k.startswith("encoder.")}
        save_file(own, folder / _HEAD)
        about = {
            "unlabel": "Forecaster",
            "prediction_length": int(self.prediction_length),
            "quantile_levels": [] if (q := self.quantile_levels) is None else list(map(float, q)),
            "method": self.method,
            "batch_size": int(self.batch_size),
            "tokens": self.model_.head.length,
            "features": self.features,
            "covariates": self.model_.head.covariates,
            "fill": self.model_.fill,
            "columns": self.columns_,
            "channels": self.channels_,
            "freqs": self.freqs_,
            "fitted": dataclasses.asdict(self.report_),
        }
        write_json(folder / _SETTINGS, about)  # last: its presence says 'whole'

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | None = None) -> Self:
        """A fitted forecaster from its folder.

        Raises:
            FileNotFoundError: the folder holds no forecaster.
        """
        folder = Path(folder)
        if not is_forecaster(folder):
            raise FileNotFoundError(
                f"{folder} holds no forecaster (config.json, head.safetensors and encoder/); give "
                "the folder of Forecaster.save_pretrained."
            )
        about = json.loads((folder / _SETTINGS).read_text())
        encoder = SeriesEncoder.from_pretrained(folder / _ENCODER, local_files_only=True)
        names = ("prediction_length", "quantile_levels", "method", "batch_size", "tokens")
        reads = about.get("features", "tokens")  # a folder of before the head could read values
        made = cls(encoder, **{n: about[n] for n in names}, features=reads, device=device)
        made.model_ = ForecastModel(
            encoder, horizon=about["prediction_length"], levels=_levels(about["quantile_levels"]),
            covariates=about["covariates"], tokens=about["tokens"], fill=about["fill"],
            values=reads == "values+tokens",
        )  # fmt: skip
        made.model_.load_state_dict(load_file(folder / _HEAD), strict=False)
        made.model_.to(made._device()).eval()
        made.columns_, made.freqs_ = about["columns"], about["freqs"]
        made.channels_ = tuple(about.get("channels", ()))  # likewise
        made.report_ = FitReport(**about["fitted"])
        return made

    # -- parts --------------------------------------------------------------------------------

    def _device(self) -> str:
        return device_of(self.device)

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError("This forecaster has seen no data; call fit(data) first.")

    def _read(self, data: Any, **columns: Any) -> SeriesData:
        if isinstance(data, SeriesData):
            return data
        if unknown := sorted(set(columns) - set(self.columns_)):
            raise ValueError(
                f"{', '.join(unknown)}: no such option; there are {', '.join(self.columns_)}."
            )
        return read_series(data, **{**self.columns_, **columns})

    def _read_again(self, data: Any, columns: Mapping[str, Any]) -> SeriesData:
        """Data for a fitted forecaster, the channels that it takes together in their order."""
        self._check_fitted()
        return self._read(data, **columns).in_order(self.channels_)

    def _horizon(self, asked: int | None, recursive: bool) -> int:
        self._check_fitted()
        fitted = self.model_.horizon
        horizon = fitted if asked is None else asked
        if not isinstance(horizon, int | np.integer) or horizon < 1:
            raise ValueError(
                f"prediction_length is a whole number of at least 1, but {horizon!r} came."
            )
        if horizon > fitted and not recursive:
            raise ValueError(
                f"{horizon} steps were asked for, but {fitted} were fitted; fit with "
                f"prediction_length={horizon}, or allow recursive=True."
            )
        return int(horizon)

    def _compare_steps(self, source: SeriesData) -> None:
        other = sorted({s.freq for s in source if s.freq} - set(self.freqs_))
        if self.freqs_ and other:
            logger.warning(
                "Fitted on series of step %s, but these have %s: forecasts may be far off.",
                ", ".join(self.freqs_),
                ", ".join(other),
            )


def is_forecaster(folder: Path) -> bool:
    """True for a folder of `Forecaster.save_pretrained`."""
    file = folder / _SETTINGS
    return (folder / _HEAD).is_file() and file.is_file() and (folder / _ENCODER).is_dir()


def _list(names: _Names) -> list[str] | None:
    return [names] if isinstance(names, str) else None if names is None else list(names)


def _levels(asked: Sequence[float] | None) -> tuple[float, ...]:
    """The head's levels: those asked for, ascending, and the median."""
    if asked is None:
        return ()
    if np.ndim(asked) != 1 or not all(0 < q < 1 for q in asked):
        raise ValueError(f"quantile_levels is {asked}: give levels between 0 and 1, in a list.")
    return tuple(sorted({*map(float, asked), 0.5})) if len(asked) else ()


def _own(data: Any, column: str) -> pd.Series | None:
    """A column, or level of the index, as it stands in the caller's table."""
    if isinstance(data, pd.DataFrame) and column in data:
        return pd.Series(data[column])
    if isinstance(data, pd.DataFrame | pd.Series) and column in data.index.names:
        return data.index.get_level_values(column).to_series()
    return None


def _own_ids(data: Any, column: str) -> dict[str, Any]:
    """Ids as they stand in the caller's table (numbers stay numbers), by their text."""
    found = _own(data, column)
    return {} if found is None else {str(value): value for value in found.unique()}


def _own_times(times: pd.Index, data: Any, column: str) -> pd.Index:
    """Times as those in the caller's table: dates of a zone, or periods."""
    found = _own(data, column)
    if found is None and isinstance(
        getattr(data, "index", None), pd.DatetimeIndex | pd.PeriodIndex
    ):
        found = data.index.to_series()
    if found is None or not isinstance(times, pd.DatetimeIndex):
        return times
    if isinstance(found.dtype, pd.PeriodDtype):
        return times.to_period(found.dtype.freq)
    return in_zone(times, found)


__all__ = ["Forecaster", "is_forecaster"]
