"""What a forecaster is made of: its encoder, and series as encoder and head take them."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from unlabel.data_pipes.series_data import SeriesData
from unlabel.data_pipes.series_rows import SeriesRows
from unlabel.embedding import modality_of, run_model_folder
from unlabel.forecasting.fit import check_length, held_steps
from unlabel.forecasting.known import read_future
from unlabel.forecasting.model import ForecastModel
from unlabel.modalities.series import SeriesEncoder

# Under a shorter context an untrained encoder forecast better with a smooth table of positions than
# with a random one; under a longer one worse.
_SHORT = 168
# Under this one its forecasts of walks, seasons, trends and noise were worse than the last value.
_LITTLE = 6

logger = logging.getLogger(__name__)


def load_encoder(encoder: str | Path | SeriesEncoder) -> SeriesEncoder:
    """The encoder of a run or folder, or a copy of one that is there.

    Raises:
        ValueError: it is of another kind of data.
    """
    if isinstance(encoder, SeriesEncoder):
        return copy.deepcopy(encoder)
    path = Path(encoder)
    folder = run_model_folder(path) or path
    if (kind := modality_of(folder, unsaid="series")) != "series":
        raise ValueError(f"{path} is an encoder of {kind}; series are forecast by one of series.")
    return SeriesEncoder.from_pretrained(folder)


def new_encoder(
    longest: int,
    *,
    horizon: int,
    validation: float,
    context: int,
    config: Mapping[str, Any],
    seed: int,
    **kinds: int,
) -> SeriesEncoder:
    """An untrained encoder of single channels whose context fits series of this length.

    The context is half of the steps that are left to fit at most; patches are shorter where it
    is short.

    Args:
        longest: steps of the longest series.
        horizon: steps to forecast.
        validation: share that is held out.
        context: at most.
        config: transformers configuration.
        seed: of the weights.
        kinds: how many `covariates` and `static` numbers it takes.

    Raises:
        ValueError: too short a series, or an unknown key of the configuration.
    """
    check_length(longest, horizon)
    held = int(held_steps(np.array([longest]), horizon, validation)[0])
    fits = max(1, (longest - held - horizon + 2) // 2)
    config, context = dict(config), min(context, fits)
    if config.get("model_type", "patchtst") == "patchtst":
        patch = config.setdefault("patch_length", 12 if context >= 96 else min(4, context // 2))
        if context < _SHORT:
            config.setdefault("positional_encoding_type", "sincos")
        context = max(context - context % patch, patch)
    if context < _LITTLE:
        logger.warning(
            "To forecast %d steps of series of %d leaves a history of %d to learn from: expect no "
            "more than of repeating the last value. Give longer series, or a smaller "
            "prediction_length.",
            horizon, longest, context,
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SeriesEncoder.from_config(config, context=context, **kinds)


def standardise(model: ForecastModel, source: SeriesData, *, is_new: bool) -> None:
    """Note mean and std of covariates; a pretrained encoder gets its own as it was trained on."""
    covariates, static = model.encoder.kinds
    for name, own, kinds in (("known", "covariates", covariates), ("static", "static", static)):
        parts = [p for s in source if (p := getattr(s, own)) is not None]
        if not parts or (kinds and not is_new):
            continue
        values = np.concatenate([np.atleast_2d(p) for p in parts]).astype(np.float64)
        std = np.nanstd(values, axis=0)
        if name == "static" and not kinds:
            raise ValueError(
                "static columns came, but the encoder was made without any; pretrain one with "
                "static: [...], or leave static= out."
            )
        getattr(model, f"{name}_loc").copy_(torch.from_numpy(np.nanmean(values, axis=0)))
        getattr(model, f"{name}_scale").copy_(torch.from_numpy(np.where(std > 0, std, 1.0)))


def rows_of(model: ForecastModel, source: SeriesData) -> SeriesRows:
    """Series as rows, covariates standardised.

    Raises:
        ValueError: another number of channels or covariates than encoder and head take.
    """
    channels = model.encoder.channels
    for s in source:
        if channels > 1 and s.values.shape[1] != channels:
            raise ValueError(
                f"The encoder takes {channels} channels together, but series {s.id!r} has "
                f"{s.values.shape[1]}; name as many with target=."
            )
    series = prepared(model, source).series
    return SeriesRows(series, together=channels > 1, fill=model.fill)


def prepared(model: ForecastModel, source: SeriesData) -> SeriesData:
    """The series with their covariates standardised as when the forecaster was fitted."""
    if model.encoder.time_gap is not None:
        raise ValueError(
            "The encoder knows the time gaps of irregular series, and a forecast has no times to "
            "stand at; use an encoder that was trained without time_gap, on a regular step."
        )
    covariates, static = model.encoder.kinds
    kinds = {"covariates": model.head.covariates or covariates, "static": static}
    for s in source:
        for name, wanted in kinds.items():
            has = 0 if (x := getattr(s, name)) is None else x.shape[-1]
            if has != wanted:
                raise ValueError(
                    f"The forecaster takes {wanted} {name}, but series {s.id!r} has {has}; name "
                    f"the columns with {name}=."
                )
    series = [
        replace(
            s,
            covariates=_scaled(model, "known", s.covariates),
            static=_scaled(model, "static", s.static),
        )
        for s in source
    ]
    return SeriesData(series, source.report, source.classes)


def future_of(
    model: ForecastModel,
    source: SeriesData,
    future: Any,
    *,
    names: Sequence[str],
    horizon: int,
    **columns: Any,
) -> Float32[np.ndarray, "series horizon covariates"]:
    """Covariates of the future, standardised, up to a whole number of the head's horizons.

    Args:
        model: whose head reads them.
        source: the series.
        future: what `read_series` takes.
        names: of the covariates.
        horizon: steps to forecast.
        columns: as for `read_future`.

    Raises:
        ValueError: none came, or some are not there.
    """
    if future is None:
        raise ValueError(
            f"It was fitted with the covariates {', '.join(names)}, so their next {horizon} "
            "values must be known: give them as future_df."
        )
    found = _scaled(model, "known", read_future(future, source, names, horizon, **columns))
    assert found is not None  # since one came
    # The head reads a whole horizon; what a prefix of it lacks is held.
    return np.pad(found, ((0, 0), (0, -horizon % model.horizon), (0, 0)), mode="edge")


def _scaled(
    model: ForecastModel, name: str, values: Float[np.ndarray, "..."] | None
) -> Float32[np.ndarray, "..."] | None:
    if values is None:
        return None
    loc, scale = (getattr(model, f"{name}_{part}").cpu().numpy() for part in ("loc", "scale"))
    return ((values - loc) / scale).astype(np.float32)
