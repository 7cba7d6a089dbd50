"""How far forecasts were off, beside repeating the last value and the last season."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

from unlabel.data_pipes.series_rows import Counts, SeriesRows


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
