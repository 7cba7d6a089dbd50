"""Covariates of the future: read from a table of their own, and put beside each series."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import Series, SeriesData
from unlabel.data_pipes.series_future import step_of_series, times_of


def read_future(
    source: Any, data: SeriesData, names: Sequence[str], horizon: int, **columns: Any
) -> Float32[np.ndarray, "series horizon covariates"]:
    """The covariates of the steps after each series, in the series' order.

    Args:
        source: what `read_series` takes, with the covariates as columns.
        data: the series.
        names: of the covariates.
        horizon: steps.
        columns: `id_column`, `timestamp_column` and `freq`, as for `read_series`.

    Raises:
        ValueError: a series, step or value that is not there.
    """
    found = read_series(source, target=list(names), **columns)
    by_id = {s.id: s for s in found}
    if len(found) == len(data) == 1:  # a lone series needs no name
        by_id = {data[0].id: found[0]}
    if missing := [s.id for s in data if s.id not in by_id]:
        raise ValueError(
            f"The covariates of the future lack series {missing[0]!r} (and {len(missing) - 1} "
            f"more); they have {', '.join(list(by_id)[:5])}."
        )
    return np.stack([_steps(s, by_id[s.id], horizon) for s in data])


def _steps(series: Series, known: Series, horizon: int) -> Float32[np.ndarray, "horizon kinds"]:
    if series.start is None or known.start is None:
        places = np.where(np.arange(horizon) < len(known), np.arange(horizon), -1)
        wanted = pd.RangeIndex(horizon)
    else:
        wanted = times_of(series, len(series), horizon)
        known = replace(known, step=known.step or step_of_series(series))
        places = times_of(known, 0, len(known)).get_indexer(wanted)
    if (places < 0).any():
        at = wanted[int((places < 0).argmax())]
        raise ValueError(
            f"The covariates of the future of {series.id!r} lack the step {at}; give all "
            f"{horizon} steps after its last row."
        )
    values = known.values[places]
    if gaps := np.argwhere(np.isnan(values)).tolist():
        step, column = gaps[0]
        raise ValueError(
            f"Covariate {known.names[column]!r} of {series.id!r} has no value at {wanted[step]}; "
            "a covariate of the future must be known."
        )
    return values
