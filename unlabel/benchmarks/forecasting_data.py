"""The sets of the forecasting benchmark: their splits, their scaling and all of their windows."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from unlabel.data_pipes.synthetic_series import DAY, embedded_series

Protocol = Literal["ltsf", "representation"]
Part = Literal["train", "validation", "test"]
ENDINGS = (".csv.gz", ".csv")
CHUNK_VALUES = 2**22  # numbers of history copied at a time: 32 MB of float64
_HOURS, _QUARTERS = (8640, 11520, 14400), (34560, 46080, 57600)
_ILL = (24, 36, 48, 60)


@dataclass(frozen=True)
class ForecastSet:
    """What the published tables took from a set.

    Attributes:
        rows: steps of the published file; another count is named in the result's note.
        borders: where train, validation and test rows end; None for shares of the rows.
        lookback: longest history of the published tables, where it is shorter than usual.
        ltsf: horizons of the LTSF protocol.
        representation: horizons of the representation protocol.
        note: what a reader of its scores must know.
    """

    rows: int
    borders: tuple[int, int, int] | None = None
    lookback: int | None = None
    ltsf: tuple[int, ...] = (96, 192, 336, 720)
    representation: tuple[int, ...] = (24, 48, 168, 336, 720)
    note: str = ""


_MINUTES = ForecastSet(69680, _QUARTERS, representation=(24, 48, 96, 288, 672))
SETS = {
    "ETTh1": ForecastSet(17420, _HOURS),
    "ETTh2": ForecastSet(17420, _HOURS),
    "ETTm1": _MINUTES,
    "ETTm2": _MINUTES,
    "weather": ForecastSet(
        52696,
        note="weather holds 81 values of -9999, gaps of the station; they are scored as values, "
        "as in every published table.",
    ),
    "exchange_rate": ForecastSet(7588),
    "national_illness": ForecastSet(966, lookback=104, ltsf=_ILL, representation=_ILL),
}
OWN = ForecastSet(0)


@dataclass(frozen=True)
class ForecastWindows:
    """Every window of a stretch of rows, stride 1; nothing is copied before a chunk is read.

    A shorter horizon has the same windows and a few more at the end, so that one pass serves
    several horizons.

    Attributes:
        values: the rows, `(steps, channels)`.
        lookback: steps of history.
    """

    values: Float[np.ndarray, "steps channels"]
    lookback: int

    def count(self, horizon: int) -> int:
        """How many windows have a whole future; at least 1.

        Raises:
            ValueError: none has.
        """
        count = len(self.values) - self.lookback - horizon + 1
        if count < 1:
            raise ValueError(
                f"{len(self.values)} rows hold no window of lookback {self.lookback} and horizon "
                f"{horizon}; ask for less of either."
            )
        return count

    def chunks(
        self, horizon: int, start: int = 0, stop: int | None = None
    ) -> Iterator[
        tuple[
            Float[np.ndarray, "windows channels lookback"],
            Float[np.ndarray, "windows channels horizon"],
        ]
    ]:
        """History and future of windows `start` to `stop`, in order, some hundreds at a time."""
        stop = self.count(horizon) if stop is None else stop
        views = sliding_window_view(self.values, self.lookback + horizon, axis=0)
        step = max(1, CHUNK_VALUES // (self.values.shape[1] * (self.lookback + horizon)))
        for first in range(start, stop, step):
            chunk = np.ascontiguousarray(views[first : min(first + step, stop)])
            yield chunk[..., : self.lookback], chunk[..., self.lookback :]


@dataclass(frozen=True)
class ForecastData:
    """One multivariate series, standardised by its train rows.

    Attributes:
        name: of the set.
        values: `(steps, channels)`, mean 0 and std 1 over the train rows.
        names: of the channels.
        borders: where train, validation and test rows end.
        day: steps of a day; 0 where a day is one step or less.
        protocol: whose windows `windows` gives.
        about: what the published tables took from the set.
    """

    name: str
    values: Float[np.ndarray, "steps channels"]
    names: tuple[str, ...]
    borders: tuple[int, int, int]
    day: int = 0
    protocol: Protocol = "ltsf"
    about: ForecastSet = field(default=OWN, repr=False)

    @property
    def horizons(self) -> tuple[int, ...]:
        """Of the published tables of the protocol."""
        return getattr(self.about, self.protocol)

    def windows(self, part: Part, lookback: int) -> ForecastWindows:
        """All windows of a part; those after training may look back over its border.

        In the representation protocol the first forecast starts one step later than in LTSF: the
        features of a step of the part predict the steps after it.

        Raises:
            ValueError: the lookback reaches before the first row.
        """
        place = get_args(Part).index(part)
        if place == 0:
            return ForecastWindows(self.values[: self.borders[0]], lookback)
        first = self.borders[place - 1] - lookback + (self.protocol == "representation")
        if first < 0:
            raise ValueError(
                f"{self.name}: a lookback of {lookback} reaches before the first row from the "
                f"{part} rows, which start at {self.borders[place - 1]}; ask for less."
            )
        return ForecastWindows(self.values[first : self.borders[place]], lookback)


def standardised(
    values: Float[np.ndarray, "steps channels"], train: int
) -> Float[np.ndarray, "steps channels"]:
    """Values in units of the train rows' mean and std; a constant channel becomes zero there."""
    std = values[:train].std(axis=0)
    return (values - values[:train].mean(axis=0)) / np.where(std > 0, std, 1.0)


def borders(rows: int, protocol: Protocol) -> tuple[int, int, int]:
    """Train, validation and test ends: 70/10/20 % (LTSF) or 60/20/20 % (representation)."""
    if protocol == "ltsf":
        return int(0.7 * rows), rows - int(0.2 * rows), rows
    return int(0.6 * rows), int(0.8 * rows), rows


def series_folder(folder: str | Path | None) -> Path:
    """The folder asked for, else `$UNLABEL_DATA/series`.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    shared = os.environ.get("UNLABEL_DATA")
    place = Path(folder) if folder is not None else Path(shared or "") / "series"
    if (folder is None and not shared) or not place.is_dir():
        raise FileNotFoundError(
            f"{place} is no folder; pass folder= with ETTh1.csv[.gz] etc., or set UNLABEL_DATA to "
            "a folder that has them under series/."
        )
    return place


def load_forecasting(
    name: str,
    folder: str | Path | None = None,
    *,
    protocol: Protocol = "ltsf",
    univariate: bool = False,
) -> ForecastData:
    """One set: a name of `SETS`, your own wide table `name.csv[.gz]`, or the embedded series.

    Args:
        name: of the set; the first column of its file is the time, the others are channels.
            `synthetic` is the corpus that needs no file, split as ETTh is.
        folder: where the files are, see `series_folder`.
        protocol: `ltsf` (Zeng et al. 2023, section 5.1) or `representation` (Yue et al. 2022,
            section 4.2); it decides splits of the sets that have no borders by row, and windows.
        univariate: only `OT`, or the last channel where there is none of that name.

    Raises:
        ValueError: no such set, an unknown protocol, or a cell that is no number.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol={protocol!r}: choose one of {', '.join(get_args(Protocol))}.")
    if name == "synthetic":
        return _synthetic(protocol, univariate)
    place = series_folder(folder)
    path = next((p for e in ENDINGS if (p := place / f"{name}{e}").is_file()), None)
    if path is None:
        there = sorted(p.name for p in place.glob("*.csv*"))
        raise ValueError(
            f"No set {name!r}: expected one of {', '.join(SETS)}, or a file {name}.csv[.gz] in "
            f"{place}, which has {', '.join(there) or 'none'}."
        )
    about = SETS.get(name, OWN)
    table = pd.read_csv(path, encoding_errors="replace")
    time, table = pd.to_datetime(table.iloc[:, 0]), table.iloc[:, 1:]
    if univariate:
        table = table[["OT" if "OT" in table else table.columns[-1]]]
    ends = about.borders or borders(len(table), protocol)
    values = standardised(_numbers(table, path), ends[0])
    names = tuple(map(str, table.columns))
    return ForecastData(name, values, names, ends, _day(time), protocol, about)


def _synthetic(protocol: Protocol, univariate: bool) -> ForecastData:
    made = embedded_series(missing=0.0)
    (series,) = made
    kept = slice(-1, None) if univariate else slice(None)
    values = series.values[:, kept].astype(np.float64)
    least = (made.noise_std[0, kept] / values[: _HOURS[0]].std(axis=0)) ** 2
    note = f"synthetic: its noise alone is an MSE of {least.mean():.4f}; no forecast has less."
    about = ForecastSet(len(values), _HOURS, note=note)
    day = round(DAY)
    scaled = standardised(values, _HOURS[0])
    return ForecastData("synthetic", scaled, series.names[kept], _HOURS, day, protocol, about)


def _numbers(table: pd.DataFrame, path: Path) -> Float[np.ndarray, "steps channels"]:
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, column = broken[0]
        raise ValueError(
            f"{path}:{row + 2}, column {table.columns[column]!r}: {table.iat[row, column]!r} is no "
            "number, and the benchmark's controls need every one; fill the gaps first."
        )
    return values


def _day(time: pd.Series) -> int:
    step = time.diff().median().total_seconds()
    steps = 86400 / step if step > 0 else 0
    return round(steps) if steps >= 2 and abs(steps - round(steps)) < 1e-6 else 0
