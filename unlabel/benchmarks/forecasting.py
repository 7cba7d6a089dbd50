"""Forecasting: what is the error of a ridge on a frozen encoder, and of no encoder at all?

Two protocols, on standardised values, every test window: LTSF (Zeng et al. 2023, section 5.1) and
that of the representation papers (Yue et al. 2022, TS2Vec, section 4.2).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from unlabel.benchmarks.forecast_controls import controls as controls_of
from unlabel.benchmarks.forecast_encoder import (
    EncoderForecast,
    Take,
    load_forecast_encoder,
)
from unlabel.benchmarks.forecast_ridge import Fit, nested_chunks
from unlabel.benchmarks.forecasting_data import (
    ForecastData,
    ForecastWindows,
    Protocol,
    load_forecasting,
)
from unlabel.benchmarks.intervals import block_mean_resamples
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench, refuse_unfit

PROTOCOLS = {
    "ltsf": "LTSF protocol",
    "representation": "representation protocol (TS2Vec's splits, windows and choice of alpha)",
}
EXAMPLES = 3  # test windows of each set whose forecasts are kept
BLOCKS = (
    "Intervals of one encoder: circular block bootstrap over test windows, blocks of one horizon "
    "as windows overlap; with few blocks (long horizons) they are too narrow rather than too wide."
)

Errors = Float[np.ndarray, "windows metrics"]


def window_errors(
    data: ForecastData, fit: Fit, *, lookback: int, horizons: Sequence[int]
) -> tuple[dict[int, Errors], dict[str, dict[str, Any]]]:
    """Mean squared and mean absolute error of every test window, and a few forecasts.

    Args:
        data: the set.
        fit: makes the forecaster from its train and validation rows.
        lookback: steps of history.
        horizons: steps of future.
    """
    windows = data.windows("test", lookback)
    forecaster = fit(data, lookback=lookback, horizons=horizons)
    found: dict[int, list[Errors]] = {h: [] for h in horizons}
    for history, futures in nested_chunks(windows, horizons):
        forecasts = forecaster(history)
        for h, future in futures.items():
            off = forecasts[h] - future
            found[h].append(np.stack([(off**2).mean((1, 2)), np.abs(off).mean((1, 2))], axis=1))
    return {h: np.concatenate(e) for h, e in found.items()}, _examples(
        data, windows, forecaster, min(horizons, key=lambda h: abs(h - 96))
    )


def _examples(
    data: ForecastData, windows: ForecastWindows, forecaster: Any, horizon: int
) -> dict[str, dict[str, Any]]:
    """Forecasts of the last channel (the usual target) in evenly spaced windows."""
    found = {}
    for place in np.linspace(0, windows.count(horizon) - 1, EXAMPLES + 2).astype(int)[1:-1]:
        history, future = next(windows.chunks(horizon, place, place + 1))
        forecast = forecaster(history)[horizon]
        found[f"{data.name} {horizon}, test window {place}"] = {
            "channel": data.names[-1],
            "history": np.round(history[0, -1], 4).tolist(),
            "truth": np.round(future[0, -1], 4).tolist(),
            "forecast": np.round(forecast[0, -1], 4).tolist(),
        }
    return found


def window_scores(
    data: ForecastData, errors: Mapping[int, Errors], *, bootstrap: int, seed: int
) -> dict[str, Score]:
    """MSE and MAE of each horizon, and their mean over those of the published tables."""
    scores = {}
    for h, windows in errors.items():
        for metric, values in zip(("MSE", "MAE"), windows.T, strict=True):
            # Seeded by the row, not the encoder: differences between encoders are paired.
            rng = np.random.default_rng([seed, zlib.crc32(f"{data.name} {h}".encode())])
            drawn = block_mean_resamples(values, block=h, resamples=bootstrap, rng=rng)
            scores[f"{data.name} {h} {metric}"] = Score.of(
                float(values.mean()), drawn, pairs=len(values)
            )
    if tuple(errors) == data.horizons:  # the average that the published tables give
        for metric in ("MSE", "MAE"):
            own = [scores[f"{data.name} {h} {metric}"] for h in errors]
            mean = float(np.mean([s.score for s in own]))
            scores[f"{data.name} mean {metric}"] = Score(mean, pairs=sum(s.pairs for s in own))
    return scores


def _note(sets: Sequence[ForecastData], lookbacks: Mapping[str, int], lookback: int) -> str:
    odd = [
        f"{d.name} has {len(d.values):,} rows here, the published set {d.about.rows:,}: its errors "
        "compare with no published one."
        for d in sets
        if d.about.rows not in (0, len(d.values))
    ]
    short = [f"{n}: lookback {at}." for n, at in lookbacks.items() if at != lookback]
    return "\n".join([BLOCKS, *short, *(d.about.note for d in sets if d.about.note), *odd])


def evaluate_forecasting(
    methods: Mapping[str, Fit] | None = None,
    folder: str | Path | None = None,
    *,
    sets: Sequence[str] = ("ETTh1",),
    horizons: Sequence[int] | None = None,
    protocol: Protocol = "ltsf",
    lookback: int = 336,
    univariate: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> BenchmarkResult:
    """MSE and MAE of forecasts on all test windows, with block bootstrap intervals.

    Args:
        methods: what to measure, by name; None for the controls.
        folder: holds `ETTh1.csv[.gz]` etc.; by default `$UNLABEL_DATA/series`.
        sets: names of `SETS`, or of your own wide tables in the folder.
        horizons: steps of future; default those of the published tables.
        protocol: `ltsf` or `representation`.
        lookback: steps of history, at most; a set of few rows may have less.
        univariate: only the target, `OT` or the last channel.
        bootstrap: resamples of the test windows; 0 for no intervals.
        seed: of the resamples.

    Raises:
        ValueError: an unknown set or protocol, a broken file, too few rows for the windows.
    """
    if not sets:
        raise ValueError("sets is empty: name at least one, such as ETTh1.")
    names = dict.fromkeys(sets)
    read = [load_forecasting(n, folder, protocol=protocol, univariate=univariate) for n in names]
    found: dict[str, dict[str, Score]] = {}
    lookbacks, examples = {}, {}
    for data in read:
        back = lookbacks[data.name] = min(lookback, data.about.lookback or lookback)
        own = controls_of(data, back) if methods is None else methods
        for name, fit in own.items():
            asked = tuple(dict.fromkeys(horizons or data.horizons))
            errors, shown = window_errors(data, fit, lookback=back, horizons=asked)
            found.setdefault(name, {}).update(
                window_scores(data, errors, bootstrap=bootstrap, seed=seed)
            )
            for key, one in shown.items():
                line = one.pop("forecast")
                examples.setdefault(key, {**one, "encoders": {}})["encoders"][name] = line
    channels = "univariate" if univariate else "multivariate"
    return BenchmarkResult(
        "forecasting",
        f"MSE and MAE on standardised values, {PROTOCOLS[protocol]}, lookback {lookback}, "
        f"{channels}, every test window",
        tuple(EncoderScores(name, scores) for name, scores in found.items()),
        _note(read, lookbacks, lookback),
        better="lower",
        digits=4,
        unit="error on standardised values",
        examples=examples,
    )


def bench_forecasting(
    path: str | Path,
    *,
    compare: Sequence[str] = (),
    controls: bool = True,
    folder: str | Path | None = None,
    sets: Sequence[str] = ("ETTh1", "ETTh2"),
    horizons: Sequence[int] | None = None,
    protocol: Protocol = "ltsf",
    lookback: int = 336,
    univariate: bool = False,
    features: Take | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 512,
    device: str | None = None,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Forecast with a frozen encoder and a closed-form ridge, beside what needs no encoder.

    Args:
        path: a run's output folder (both its untrained and its trained encoder are measured, as
            means over its seeds), or the folder of a saved series encoder.
        compare: further runs (after training) or encoders for the same table.
        controls: measure repeating the last value, yesterday and the mean profile of up to seven
            days, and a ridge on the raw window, too.
        folder: of the sets, see `evaluate_forecasting`; also `sets`, `horizons`, `protocol`,
            `lookback`, `univariate`, `bootstrap`, `seed`.
        sets: which sets.
        horizons: steps of future; default those of the published tables.
        protocol: `ltsf` or `representation`.
        lookback: steps of history, at most.
        univariate: only the target.
        features: of a window, that the ridge sees: all `tokens`, `pooled`, the `last` token, or
            `values+tokens`, which asks what the encoder adds to the window itself (each of the
            two has a penalty of its own, chosen on validation; without tokens it is the control);
            default see `encoder_features`.
        bootstrap: resamples for the intervals.
        seed: of the resamples.
        batch_size: sequences a forward pass.
        device: as for torch; a GPU where there is one.
        output: JSON file; default `results/forecasting.json` in a run's output folder, else none.
            The forecasts of a few test windows go to `forecasting_examples.json` beside it.
    """
    options: dict[str, Any] = {
        "folder": folder, "sets": sets, "horizons": horizons, "protocol": protocol,
        "lookback": lookback, "univariate": univariate, "bootstrap": bootstrap, "seed": seed,
    }  # fmt: skip

    def evaluate(loaded: EncoderForecast) -> BenchmarkResult:
        result = evaluate_forecasting({loaded.name: loaded.fit}, **options)
        notes = [result.note]
        if features is not None:
            notes.append(f"The ridge on an encoder sees its {features.replace('+', ' and ')}.")
        if loaded.context != lookback:
            seen = min(loaded.context, lookback)
            was_made = f"{loaded.name} was made for {loaded.context} steps"
            notes.append(f"{was_made} and sees the last {seen}.")
        return replace(result, note="\n".join(notes))

    load = partial(load_forecast_encoder, take=features, batch_size=batch_size, device=device)
    refuse_unfit(path, load, compare=compare)
    return bench(
        path,
        evaluate,
        compare=compare,
        controls=[evaluate_forecasting(**options)] if controls else (),
        output=output,
        load=load,
    )
