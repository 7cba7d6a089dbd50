"""How far forecasts were off, beside repeating the last value and the last season."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

from unlabel.data_pipes.series_rows import Counts, SeriesRows
from unlabel.forecasting.model import ForecastModel


def score_last(
    model: ForecastModel, rows: SeriesRows, season: Counts, *, size: int = 256
) -> pd.DataFrame:
    """Scores of the last horizon of each row, forecast from the steps before it.

    Args:
        model: what forecasts.
        rows: the data.
        season: steps of a season, of each row; 1 for none.
        size: windows a forward pass.

    Raises:
        ValueError: no row is longer than the horizon by 2 steps, or nothing was observed there.
    """
    horizon, levels = model.horizon, model.levels
    row = np.flatnonzero(rows.length >= horizon + 2)
    if not len(row):
        raise ValueError(
            f"The last {horizon} steps are scored from those before, but the longest series has "
            f"{rows.length.max()}; give longer series."
        )
    origin = rows.length[row] - horizon
    own = model.forecast(rows, row, origin, None, size=size)
    seasons = {"repeat last": np.ones_like(row)}
    if (season[row] > 1).any():
        seasons["seasonal naive"] = season[row]
    points = {
        name: naive_forecast(rows, row, origin, horizon=horizon, season=steps)
        for name, steps in seasons.items()
    }
    # Every forecaster is scored on the same steps.
    known = np.isfinite([own[:, 0], *points.values()]).all(axis=0)
    truth = np.where(known, rows.futures(row, origin, horizon), np.nan)
    if not np.isfinite(truth).any():
        raise ValueError(
            f"None of the last {horizon} steps is both observed and forecast; give series with "
            "fewer gaps."
        )
    table = {"unlabel": score_forecasts(truth, model.middle(own), own, levels)}
    for name, point in points.items():
        same = np.repeat(point[:, None], max(len(levels), 1), axis=1)
        table[name] = score_forecasts(truth, point, same, levels)
    return pd.DataFrame(table).T


def score_forecasts(
    truth: Float[np.ndarray, "windows horizon channels"],
    point: Float[np.ndarray, "windows horizon channels"],
    quantiles: Float[np.ndarray, "windows levels horizon channels"],
    levels: Sequence[float],
) -> dict[str, float]:
    """MSE and MAE in the units of the data, weighted quantile loss, and share within the band.

    WQL is twice the quantile loss, mean over levels, divided by the mean size of the truth; with
    many levels it tends to the continuous ranked probability score on that scale.

    Args:
        truth: NaN where it was not observed.
        point: one forecast of each.
        quantiles: by level.
        levels: of them; none gives no WQL.

    Reference: Park et al. 2022, arXiv 2111.06581, section 4; `sklearn.metrics.mean_pinball_loss`.
    """
    known = np.isfinite(truth) & np.isfinite(point)
    y, p = truth[known], point[known]
    scores = {"MSE": mean_squared_error(y, p), "MAE": mean_absolute_error(y, p)}
    if not levels:
        return scores
    parts = [quantiles[:, i][known] for i in range(len(levels))]
    losses = [mean_pinball_loss(y, q, alpha=a) for a, q in zip(levels, parts, strict=True)]
    scores["WQL"] = float(2 * np.mean(losses) / max(np.abs(y).mean(), np.finfo(float).tiny))
    if len(levels) > 1:
        within = (parts[0] <= y) & (y <= parts[-1])
        scores[f"within {levels[0]:g}-{levels[-1]:g}"] = float(within.mean())
    return scores


def naive_forecast(
    rows: SeriesRows, row: Counts, origin: Counts, *, horizon: int, season: Counts
) -> Float[np.ndarray, "windows horizon channels"]:
    """The last season again and again; a season of 1 repeats the last value.

    Gaps take the value before them. A history shorter than its season repeats the last value.

    Args:
        rows: where the windows lie.
        row: of each window.
        origin: where its future begins.
        horizon: steps.
        season: steps of a season, of each window.
    """
    seasons = np.where(season <= origin, season, 1)
    ahead = np.arange(horizon)
    steps = origin[:, None] - seasons[:, None] + ahead % seasons[:, None]
    return _filled_forward(rows)[rows.begin[row][:, None] + steps]


def _filled_forward(rows: SeriesRows) -> Float[np.ndarray, "steps channels"]:
    ids = np.repeat(np.arange(len(rows)), rows.length)
    return pd.DataFrame(rows.values).groupby(ids).ffill().to_numpy(dtype=np.float64)
