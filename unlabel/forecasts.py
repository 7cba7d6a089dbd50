"""Forecasts of many series, as arrays, as a table and as a picture."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from unlabel.benchmarks.forecast_plot import plot_forecast
from unlabel.data_pipes.series_data import SeriesData
from unlabel.data_pipes.series_future import times_of
from unlabel.data_pipes.series_rows import SeriesRows

logger = logging.getLogger(__name__)


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

    @classmethod
    def of(
        cls,
        source: SeriesData,
        rows: SeriesRows,
        values: Float[np.ndarray, "rows own horizon"],
        *,
        own: Sequence[float],
        levels: Sequence[float],
        times: Sequence[pd.Index],
        context: int,
        ids: Mapping[str, Any],
    ) -> "Forecasts":
        """Forecasts of every channel of series, those that are NaN skipped.

        Args:
            source: the series.
            rows: as which they were forecast.
            values: NaN where the history had too few values, a row for each channel.
            own: levels of the values; none for one value a step.
            levels: to give.
            times: time stamps of each series' forecast.
            context: steps of history that were seen.
            ids: as the caller knows them.

        Raises:
            ValueError: a forecast is not finite, or there is none.
        """
        channels = len(values) // len(rows)
        series = np.repeat(rows.series, channels)
        channel = np.repeat(rows.channel, channels) + np.tile(np.arange(channels), len(rows))
        pairs = [(source[int(s)], int(c)) for s, c in zip(series, channel, strict=True)]
        names = [(s.id, s.names[c] if s.names else str(c)) for s, c in pairs]
        good = np.asarray(np.isfinite(values).all(axis=(1, 2)))
        skipped = _skipped(names, [s.values[:, c] for s, c in pairs], good, context)
        keep, kept = np.flatnonzero(good).tolist(), values[good]
        return cls(
            predictions=kept[:, list(own).index(0.5) if own else 0],
            quantiles=at_levels(kept, own, levels),
            levels=tuple(levels),
            ids=[ids.get(names[i][0], names[i][0]) for i in keep],
            targets=[names[i][1] for i in keep],
            times=[times[series[i]] for i in keep],
            history=[pairs[i][0].values[:, pairs[i][1]] for i in keep],
            history_times=[times_of(pairs[i][0], 0, len(pairs[i][0])) for i in keep],
            skipped=skipped,
            id_name=source[0].id_name or ("item_id" if len(source) > 1 else ""),
            time_name=source[0].time_name or "step",
        )

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
        """A row for each row and step: id, time, `target_name`, `predictions`, each level.

        Raises:
            ValueError: ids or times have a name that the table gives to something else.
        """
        own = {"target_name", "predictions", *(f"{level:g}" for level in self.levels)}
        if taken := own & {self.id_name, self.time_name}:
            raise ValueError(
                f"The column {taken.pop()!r} of the data has a name that forecasts give to one "
                "of theirs; rename it."
            )
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
        times = times.append(self.times[row])
        times = times.to_timestamp() if isinstance(times, pd.PeriodIndex) else times
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
            times=times.to_numpy(),
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


def _skipped(
    names: Sequence[tuple[str, str]],
    values: Sequence[Float[np.ndarray, "steps"]],
    good: Bool[np.ndarray, "rows"],
    context: int,
) -> dict[str, str]:
    """Rows without a forecast, and why."""
    found = {}
    for i in np.flatnonzero(~good).tolist():
        count = int(np.isfinite(values[i][-context:]).sum())
        if count >= 2:
            raise ValueError(
                f"The forecast of {'/'.join(names[i])!r} is not finite; look at the values of this "
                "series and at the encoder's weights."
            )
        found["/".join(names[i])] = (
            f"{count} observed value{'s' * (count != 1)} among its last {context} steps; a "
            "forecast needs 2"
        )
    shown = "; ".join(f"{k!r}: {v}" for k, v in list(found.items())[:3])
    if len(found) == len(names):
        raise ValueError(f"Nothing can be forecast: {shown}.")
    if found:
        logger.warning("%d of %d skipped: %s.", len(found), len(names), shown)
    return found
