"""Forecasts of many series, as arrays, as a table and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from unlabel.benchmarks.forecast_plot import plot_forecast


@dataclass(frozen=True)
class Forecasts:
    """What was forecast, in the units of the data; a row is a channel of a series.

    Attributes:
        predictions: the median where quantiles are predicted, else the mean, `(rows, horizon)`.
        quantiles: `(rows, levels, horizon)`.
        levels: of the quantiles, ascending.
        ids: series of each row.
        targets: channel of each row.
        times: time stamps of each row's forecast.
        history: what came before, likewise; NaN where missing.
        history_times: its time stamps.
        skipped: rows that could not be forecast, `id/target`, and why.
        id_name: column of the ids in the table; "" leaves it out.
        time_name: column of the time stamps.
    """

    predictions: Float[np.ndarray, "rows horizon"]
    quantiles: Float[np.ndarray, "rows levels horizon"]
    levels: tuple[float, ...]
    ids: list[Any]
    targets: list[str]
    times: list[pd.Index]
    history: list[Float[np.ndarray, "steps"]] = field(repr=False)
    history_times: list[pd.Index] = field(repr=False)
    skipped: Mapping[str, str] = field(default_factory=dict)
    id_name: str = ""
    time_name: str = "step"

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.predictions)

    def summary(self) -> str:
        """One line: how many, how far, and what was skipped."""
        series = len(dict.fromkeys(self.ids))
        said = (
            f"{self.predictions.shape[1]} steps of {len(self):,} channel(s) of {series:,} series "
            "forecast"
        )
        if not self.skipped:
            return said
        named = "; ".join(f"{k!r}: {why}" for k, why in list(self.skipped.items())[:3])
        return f"{said}; {len(self.skipped):,} skipped ({named})"

    def to_df(self) -> pd.DataFrame:
        """A row for each row and step: id, time, `target_name`, `predictions`, each level."""
        horizon = self.predictions.shape[1]
        places = np.repeat(np.arange(len(self)), horizon)
        columns: dict[str, Any] = {}
        if self.id_name:
            columns[self.id_name] = pd.Series(self.ids).take(places).to_numpy()
        columns[self.time_name] = self.times[0].append(self.times[1:])
        columns["target_name"] = np.array(self.targets, dtype=object)[places]
        columns["predictions"] = self.predictions.ravel()
        for i, level in enumerate(self.levels):
            columns[f"{level:g}"] = self.quantiles[:, i].ravel()
        return pd.DataFrame(columns)

    def plot(
        self,
        series: Any = None,
        target: str | None = None,
        *,
        history: int | None = None,
        ax: Any = None,
    ) -> Any:
        """Draw one row: its newest history, the forecast, and bands between opposite levels.

        Args:
            series: id; None for the first.
            target: channel; None for the first of that series.
            history: steps of it to draw; None for three horizons.
            ax: matplotlib axes; a new figure by default.

        Returns:
            The axes.

        Raises:
            ValueError: no such row.
        """
        row = self._find(series, target)
        steps = 3 * self.predictions.shape[1] if history is None else history
        past = self.history[row][-steps:] if steps else self.history[row][:0]
        times = self.history_times[row][len(self.history[row]) - len(past) :]
        pairs = {round(1 - q, 6) for q in self.levels}
        bands = {
            q: self.quantiles[row, i]
            for i, q in enumerate(self.levels)
            if q != 0.5 and round(q, 6) in pairs
        }
        ax = plot_forecast(
            past.tolist(),
            None,
            {"forecast": self.predictions[row]},
            bands,
            ax=ax,
            colors={"forecast": "C0"},
            times=times.append(self.times[row]).to_numpy(),
        )
        shown = [str(self.ids[row])] if self.id_name else []
        ax.set_ylabel(" ".join(dict.fromkeys([*shown, self.targets[row]])))
        if isinstance(times, pd.DatetimeIndex):
            ax.figure.autofmt_xdate()
        return ax

    def _find(self, series: Any, target: str | None) -> int:
        pairs = zip(self.ids, self.targets, strict=True)
        for row, (own, channel) in enumerate(pairs):
            if series in (None, own) and target in (None, channel):
                return row
        has = ", ".join(f"{i}/{t}" for i, t in list(zip(self.ids, self.targets, strict=True))[:5])
        wanted = "/".join(str(x) for x in (series, target) if x is not None)
        raise ValueError(f"No forecast of {wanted!r}; there are {has}, ... ({len(self):,} in all).")


def at_levels(
    values: Float[np.ndarray, "rows own horizon"], own: Sequence[float], asked: Sequence[float]
) -> Float[np.ndarray, "rows asked horizon"]:
    """Quantiles at other levels, on the line between their neighbours.

    Args:
        values: by the levels `own`.
        own: ascending.
        asked: ascending.

    Raises:
        ValueError: a level below or above all of `own`.
    """
    if not asked:
        return values[:, :0]
    if not (own and own[0] <= asked[0] and asked[-1] <= own[-1]):
        has = f"levels from {own[0]:g} to {own[-1]:g}" if own else "no quantiles"
        raise ValueError(
            f"quantile_levels {list(asked)} came, but {has} were fitted; fit with those levels."
        )
    above = np.searchsorted(own, asked)
    below = np.maximum(above - 1, 0)
    gap = np.take(own, above) - np.take(own, below)
    share = np.where(gap > 0, (asked - np.take(own, below)) / np.where(gap > 0, gap, 1), 1.0)
    share = share[:, None]
    return (1 - share) * values[:, below] + share * values[:, above]
