"""Windows of many series without a copy: flat values, and arithmetic in place of lists."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from einops import rearrange
from jaxtyping import Float32, Int64

from unlabel.data_pipes.series_data import Series, SeriesData

Channels = Literal["independent", "together"]
_ARRAYS = ("steps", "widths", "labels", "static")
_SETTINGS = ("context", "horizon", "stride", "min_length", "sensor", "balance", "span")


class SeriesStore:
    """Windows of context + horizon steps, in memory or in a memory-mapped folder.

    An item is asked for by its ordinal in the whole run, `epoch * len(store) + index`. Its
    `values` (steps, channels) are a read-only slice of the stored array. A series shorter than a
    window, but of `min_length` steps, is one sample of fewer steps. Items are ordered by series,
    then window, then channel.

    Attributes:
        too_short: ids of the series that give no sample.
        missing: share of the stored values that are missing.

    Args:
        data: what `read_series` gave, or a list of `Series`.
        context: steps of history the encoder sees.
        horizon: steps of the future after them.
        channels: `"independent"`, one channel a sample, or `"together"`.
        stride: steps between the starts of neighbouring windows of a series.
        min_length: steps that a shorter series must have; None for horizon + 2.
        sensor: add `partners["sensor"]`, another channel of the same series and time, chosen by
            the ordinal.
        balance: `"windows"`, each window once an epoch, or `"series"`, each series equally often:
            its windows are then drawn by the ordinal.
        path: folder to write to; the arrays are then memory-mapped and cost workers nothing.

    Raises:
        ValueError: no series, series that do not go together, sizes below 1, no window at all, or
            `sensor` without another channel.
    """

    def __init__(
        self,
        data: SeriesData | Iterable[Series],
        *,
        context: int,
        horizon: int = 0,
        channels: Channels = "independent",
        stride: int = 1,
        min_length: int | None = None,
        sensor: bool = False,
        balance: Literal["windows", "series"] = "windows",
        path: str | Path | None = None,
    ):
        series = list(data)
        _check(series, channels)
        self.channels, self.path = channels, None if path is None else Path(path)
        self.ids = [s.id for s in series]
        self.steps = np.array([len(s) for s in series], dtype=np.int64)
        self.widths = np.array([s.values.shape[1] for s in series], dtype=np.int64)
        self.labels = np.array([s.label for s in series], dtype=np.int64)
        given = [s.static for s in series if s.static is not None]
        self.static = np.stack(given) if given else np.zeros((len(series), 0), np.float32)
        self.known = 0 if series[0].covariates is None else series[0].covariates.shape[1]
        self.missing = SeriesData(series).missing
        order = "c t" if channels == "independent" else "t c"
        parts = (rearrange(s.values, f"t c -> ({order})") for s in series)
        self._values = _collect(parts, self.path, "values.float32")
        extra = (
            rearrange(s.covariates, "t k -> (t k)") for s in series if s.covariates is not None
        )
        self._covariates = _collect(extra, self.path, "covariates.float32")
        settings = dict(zip(_SETTINGS, (context, horizon, stride, min_length, sensor, balance, (0, None)), strict=True))  # fmt: skip  # noqa: E501
        self._enumerate(settings)
        if self.path is not None:
            self._save(self.path)

    @classmethod
    def open(cls, path: str | Path, **settings: Any) -> "SeriesStore":
        """A store that was written before, perhaps with another context, horizon, stride, ....

        Raises:
            ValueError: when the folder holds no whole store, or as the constructor.
        """
        store = cls.__new__(cls)
        store.__setstate__({"path": Path(path), "settings": settings})
        return store

    def part(self, start: float = 0, end: float | None = None) -> "SeriesStore":
        """The windows that lie within rows `start` to `end` of each series, on the same arrays.

        Args:
            start: first row; negative counts from the end; a float is a share of the series.
            end: the row after the last; None for the end.

        Raises:
            ValueError: when no window lies there.
        """
        store = type(self).__new__(type(self))
        store.__dict__.update(self.__dict__)
        store._enumerate({**self.settings, "span": (start, end)})
        return store

    @property
    def lengths(self) -> Int64[np.ndarray, "count"]:
        """Steps of a window, for each sample."""
        return np.broadcast_to(np.int64(self.context + self.horizon), len(self))

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._count

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The sample at place `ordinal` of the run.

        Raises:
            IndexError: for a negative ordinal.
        """
        if ordinal < 0:
            raise IndexError(f"An ordinal is a place in the run, 0 or more, but came {ordinal}.")
        ordinal = int(ordinal)
        index = ordinal % self._count
        series, window, channel = self._locate(index, ordinal)
        first = int(self._first[series]) + window * self.stride
        rows = slice(first, min(first + self.context + self.horizon, int(self._last[series])))
        sample: dict[str, Any] = {
            "values": self._window(series, rows, channel),
            "index": index,
            "ordinal": ordinal,
        }
        if self.known:
            begin = int(self._rows[series])
            sample["covariates"] = self._covariates[begin + rows.start : begin + rows.stop]
        if self.static.shape[1]:
            sample["static"] = self.static[series]
        if self._labelled:
            sample["label"] = int(self.labels[series])
        if self.sensor:
            others = int(self.widths[series]) - 1
            other = (channel + 1 + _hash(ordinal) % others) % (others + 1)
            sample["partners"] = {"sensor": {"values": self._window(series, rows, other)}}
        return sample

    def place(self, ordinal: int) -> tuple[str, int, int | None]:
        """Where a sample comes from: series id, first row, and channel (None for all together)."""
        series, window, channel = self._locate(ordinal % self._count, ordinal)
        row = int(self._first[series]) + window * self.stride
        return self.ids[series], row, channel if self.channels == "independent" else None

    def summary(self) -> str:
        """One line: series, steps, windows, and what was too short."""
        size = f"{self.context}" + (f" + {self.horizon}" if self.horizon else "")
        parts = [
            f"{len(self.ids):,} series of {int(self.steps.sum()):,} steps",
            f"{len(self):,} samples of {size} steps (stride {self.stride}, channels "
            f"{self.channels})",
            f"{self.missing:.2%} missing",
        ]
        if shorter := int(((self._windows == 1) & (self._left < 0)).sum()):
            parts.append(f"{shorter:,} series shorter than a window kept")
        if self.too_short:
            named = ", ".join(self.too_short[:3]) + ", ..." * (len(self.too_short) > 3)
            parts.append(f"{len(self.too_short):,} series too short left out ({named})")
        return ", ".join(parts)

    def _locate(self, index: int, ordinal: int) -> tuple[int, int, int]:
        if self.balance == "series":
            series = int(self._usable[index % len(self._usable)])
            inner = _hash(ordinal, 1) % int(self._samples[series])
        else:
            series = int(np.searchsorted(self._until, index, side="right"))
            inner = index - int(self._until[series] - self._samples[series])
        if self.channels == "together":
            return series, inner, 0
        window, channel = divmod(inner, int(self.widths[series]))
        return series, window, channel

    def _window(self, series: int, rows: slice, channel: int) -> Float32[np.ndarray, "steps width"]:
        begin, width = int(self._begin[series]), int(self.widths[series])
        if self.channels == "together":
            flat = self._values[begin + rows.start * width : begin + rows.stop * width]
            return flat.reshape(-1, width)
        begin += channel * int(self.steps[series])
        return self._values[begin + rows.start : begin + rows.stop, None]

    def _enumerate(self, settings: dict[str, Any]) -> None:
        """Count the windows of every series; nothing is listed."""
        self.settings = dict(settings)
        for name in _SETTINGS:
            setattr(self, name, settings[name])
        _check_settings(self.settings, self.channels, self.widths)
        if self.min_length is None:
            self.min_length = self.horizon + 2
        size = self.context + self.horizon
        start, end = self.span
        self._first = _rows_at(start, self.steps)
        self._last = self.steps if end is None else _rows_at(end, self.steps)
        lengths = np.maximum(self._last - self._first, 0)
        self._left = lengths - size
        self._windows = np.where(
            self._left >= 0, self._left // self.stride + 1, lengths >= self.min_length
        )
        self._samples = self._windows * (self.widths if self.channels == "independent" else 1)
        self._until = np.cumsum(self._samples)
        self._usable = np.flatnonzero(self._samples)
        self.too_short = [self.ids[i] for i in np.flatnonzero(self._samples == 0)]
        self._count = int(self._until[-1])
        if not self._count:
            raise ValueError(
                f"No window: context {self.context} + horizon {self.horizon} = {size} steps (and "
                f"at least {self.min_length}), but the longest of {len(self.ids)} series has "
                f"{lengths.max()}; take a smaller context."
            )
        sizes = self.steps * self.widths
        self._begin = np.cumsum(sizes) - sizes
        self._rows = np.cumsum(self.steps) - self.steps
        self._labelled = bool((self.labels >= 0).any())
        self._covariates = self._covariates.reshape(-1, max(self.known, 1))

    def _save(self, path: Path) -> None:
        for name in _ARRAYS:
            np.save(path / f"{name}.npy", getattr(self, name))
        about = {"channels": self.channels, "ids": self.ids, "known": self.known}
        about |= {"missing": self.missing, "settings": self.settings, "values": len(self._values)}
        (path / "store.json").write_text(json.dumps(about))  # last: its presence says 'whole'

    def __getstate__(self) -> dict[str, Any]:
        # A worker process that is not forked gets the folder's name, not the series.
        if self.path is None:
            return self.__dict__
        return {"path": self.path, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is None:
            _freeze(self._values), _freeze(self._covariates)
            return
        try:
            about = json.loads((self.path / "store.json").read_text())
            for name in _ARRAYS:
                setattr(self, name, np.load(self.path / f"{name}.npy"))
            self.channels, self.ids = about["channels"], about["ids"]
            self.known, self.missing = about["known"], about["missing"]
            self._values = _map(self.path / "values.float32")
            self._covariates = _map(self.path / "covariates.float32")
            if not int((self.steps * self.widths).sum()) == len(self._values) == about["values"]:
                raise ValueError(
                    f"{about['values']} values were written, {len(self._values)} are there"
                )
        except (OSError, ValueError, LookupError) as e:
            raise ValueError(
                f"{self.path} holds no whole series store ({e}); write it anew."
            ) from e
        self._enumerate({**about["settings"], **state["settings"]})


def _rows_at(place: float, steps: Int64[np.ndarray, "count"]) -> Int64[np.ndarray, "count"]:
    if isinstance(place, float):
        return (place * steps).astype(np.int64).clip(0, steps)
    return (steps + place if place < 0 else np.full_like(steps, place)).clip(0, steps)


def _hash(ordinal: int, use: int = 0) -> int:
    # The finaliser of splitmix64 (Steele et al. 2014) on plain integers.
    full = (1 << 64) - 1
    x = (ordinal * 2 + use + 1) * 0x9E3779B97F4A7C15 & full
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & full
    x = (x ^ x >> 27) * 0x94D049BB133111EB & full
    return x ^ x >> 31


def _freeze(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _map(path: Path) -> Float32[np.ndarray, "values"]:
    if not path.stat().st_size:
        return np.zeros(0, np.float32)  # an empty file cannot be mapped
    return np.memmap(path, np.float32, "r").view(np.ndarray)


def _collect(
    parts: Iterable[np.ndarray], path: Path | None, name: str
) -> Float32[np.ndarray, "values"]:
    if path is None:
        held = [np.asarray(part, dtype=np.float32) for part in parts]
        # A lone series is still copied: what the caller does to its array is not our affair.
        return _freeze(np.concatenate([np.zeros(0, np.float32), *held]))
    path.mkdir(parents=True, exist_ok=True)
    (path / "store.json").unlink(missing_ok=True)
    with (path / name).open("wb") as file:
        for part in parts:
            np.ascontiguousarray(part, dtype=np.float32).tofile(file)
    return _map(path / name)


def _check(series: list[Series], channels: str) -> None:
    if not series:
        raise ValueError("There is no series to store; read_series gave none.")
    if channels not in ("independent", "together"):
        raise ValueError(f"channels is 'independent' or 'together', but {channels!r} came.")
    first = series[0]
    for other in series[1:]:
        if channels == "together" and other.values.shape[1] != first.values.shape[1]:
            raise ValueError(
                f"Series {first.id!r} has {first.values.shape[1]} channels and {other.id!r} has "
                f"{other.values.shape[1]}; take channels='independent'."
            )
        for name in ("covariates", "static"):
            mine, its = getattr(first, name), getattr(other, name)
            if (mine is None) != (its is None) or (
                mine is not None and mine.shape[-1] != its.shape[-1]
            ):
                raise ValueError(
                    f"Series {first.id!r} and {other.id!r} have different {name}; give all series "
                    "the same ones, or none."
                )


def _check_settings(
    settings: dict[str, Any], channels: str, widths: Int64[np.ndarray, "count"]
) -> None:
    for name, least in (("context", 1), ("horizon", 0), ("stride", 1)):
        if settings[name] < least:
            raise ValueError(f"{name} is at least {least}, but {settings[name]} came.")
    if settings["balance"] not in ("windows", "series"):
        raise ValueError(f"balance is 'windows' or 'series', but {settings['balance']!r} came.")
    if settings["sensor"] and channels == "together":
        raise ValueError("sensor=True pairs single channels; take channels='independent'.")
    if settings["sensor"] and widths.min() < 2:
        raise ValueError(
            "sensor=True pairs a channel with another one of its series, but a series has only "
            "one; leave sensor out."
        )
