"""Windows of many series without a copy: flat values, and arithmetic in place of lists."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from einops import rearrange
from jaxtyping import Int64

from unlabel.data_pipes.redraw import ByOrdinal
from unlabel.data_pipes.report import first_of
from unlabel.data_pipes.series_data import Series, SeriesData
from unlabel.data_pipes.series_values import (
    Collected,
    FlatValues,
    frozen,
    mapped,
    npy_files,
)
from unlabel.data_pipes.series_windows import DEFAULTS, Windows, check_settings, hash_of
from unlabel.files import fingerprint

Channels = Literal["independent", "together"]
_ARRAYS = ("steps", "widths", "labels", "static")
_VALUES, _COVARIATES = "values.float32", "covariates.float32"


class SeriesStore(ByOrdinal):
    """Windows of context + horizon steps, in memory or in a memory-mapped folder.

    An item is asked for by its ordinal in the whole run, `epoch * len(store) + index`. Its
    `values` (steps, channels) are a read-only slice of the stored array. A series shorter than a
    window, but of `min_length` steps, is one sample of fewer steps. Items are ordered by series,
    then window, then channel.

    Attributes:
        too_short: ids of the series that give no sample.
        time_gap: unit of the time gaps that are the last covariate; None where there are none.
        names: of the channels, where they are together and all series have the same.
        missing: share of the stored values that are missing; NaN where nobody looked.

    Args:
        data: what `read_series` gave, or `Series` one by one.
        context: steps of history the encoder sees.
        horizon: steps of the future after them.
        channels: `"independent"`, one channel a sample, or `"together"`.
        stride: steps between the starts of neighbouring windows of a series.
        min_length: steps that a shorter series must have; None for horizon + 2.
        sensor: add `partners["sensor"]`, another channel of the same series and time, chosen by
            the ordinal.
        balance: `"windows"`, each window once an epoch, or `"series"`, each series equally often:
            its windows are then drawn by the ordinal.
        path: folder to write to, series after series; the arrays are then memory-mapped, so that
            a stream of more than memory becomes a store, and workers cost nothing.

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
        if channels not in ("independent", "together"):
            raise ValueError(f"channels is 'independent' or 'together', but {channels!r} came.")
        self.channels, self.path = channels, None if path is None else Path(path)
        self.time_gap: float | None = getattr(data, "time_gap", None)
        self._collect(data)
        self._prepare(
            {
                "context": context,
                "horizon": horizon,
                "stride": stride,
                "min_length": min_length,
                "sensor": sensor,
                "balance": balance,
                "span": (0, None),
            }
        )
        if self.path is not None:
            self._save(self.path)

    @classmethod
    def open(cls, path: str | Path, **settings: Any) -> "SeriesStore":
        """A store that was written before, perhaps with another context, horizon, stride, ....

        Raises:
            ValueError: when the folder holds no whole store, or one of other `channels`, or as the
                constructor.
        """
        store = cls.__new__(cls)
        wanted = settings.pop("channels", None)
        store.__setstate__({"path": Path(path), "settings": settings})
        if wanted not in (None, store.channels):
            raise ValueError(
                f"{path} was written with channels={store.channels!r}, in which its values lie; "
                f"ask for those, or write it anew with channels={wanted!r}."
            )
        return store

    @classmethod
    def from_npy(
        cls,
        source: str | Path | Sequence[str | Path],
        *,
        context: int,
        channels: Channels = "independent",
        **settings: Any,
    ) -> "SeriesStore":
        """Windows of series in `.npy` files, which stay where they are and are never read whole.

        The values are taken as they are (NaN and infinities mean 'missing'), and not looked
        through.

        Args:
            source: paths, globs or folders of arrays of (steps,), (steps, channels) or (series,
                steps, channels).
            context: as for the class.
            channels: likewise.
            settings: `horizon`, `stride`, ..., likewise.

        Raises:
            FileNotFoundError: when nothing is there.
            ValueError: a file that cannot be read in place, or as the constructor.
        """
        store = cls.__new__(cls)
        store.channels, store.path, store.missing = channels, None, math.nan
        store._values = files = npy_files(source, together=channels == "together")
        store.ids, store.steps, store.widths = files.ids, files.steps, files.widths
        store.time_gap, store.names = None, ()
        store.labels = np.full(len(store.ids), -1)
        store.known, store.static = 0, np.zeros((len(store.ids), 0), np.float32)
        store._covariates = np.zeros(0, np.float32)
        store._prepare({**DEFAULTS, "context": context, **settings})
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
        store._prepare({**self.settings, "span": (start, end)})
        return store

    @property
    def lengths(self) -> Int64[np.ndarray, "count"]:
        """Steps of a window, for each sample."""
        return np.broadcast_to(np.int64(self.context + self.horizon), len(self))

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._windows.count

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The sample at place `ordinal` of the run.

        Raises:
            IndexError: for a negative ordinal.
        """
        if ordinal < 0:
            raise IndexError(f"An ordinal is a place in the run, 0 or more, but came {ordinal}.")
        ordinal = int(ordinal)
        index = ordinal % len(self)
        series, rows, channel = self._locate(ordinal)
        sample: dict[str, Any] = {
            "values": self._values.window(series, rows, channel),
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
            other = (channel + 1 + hash_of(ordinal) % others) % (others + 1)
            sample["partners"] = {"sensor": {"values": self._values.window(series, rows, other)}}
        return sample

    def place(self, ordinal: int) -> tuple[str, int, int | None]:
        """Where a sample comes from: series id, first row, and channel (None for all together)."""
        series, rows, channel = self._locate(ordinal)
        return self.ids[series], rows.start, channel if self.channels == "independent" else None

    @property
    def fingerprint(self) -> str | None:
        """Tells the values apart from others; None where they lie in files of their own."""
        flat = getattr(self._values, "flat", None)
        return None if flat is None else fingerprint(self.steps, self.widths, flat)

    def summary(self) -> str:
        """One line: series, steps, windows, and what was too short."""
        size = f"{self.context}" + (f" + {self.horizon}" if self.horizon else "")
        parts = [
            f"{len(self.ids):,} series of {int(self.steps.sum()):,} steps",
            f"{len(self):,} samples of {size} steps (stride {self.stride}, channels "
            f"{self.channels})",
            *([] if math.isnan(self.missing) else [f"{self.missing:.2%} missing"]),
        ]
        if shorter := self._windows.shorter:
            parts.append(f"{shorter:,} series shorter than a window kept")
        if self.too_short:
            named = first_of(self.too_short)
            parts.append(f"{len(self.too_short):,} series too short left out ({named})")
        return ", ".join(parts)

    def _locate(self, ordinal: int) -> tuple[int, slice, int]:
        if self.balance == "series":
            series = int(self._usable[ordinal % len(self) % len(self._usable)])
            inner = hash_of(ordinal, 1) % int(self._windows.samples[series])
        else:
            series, inner = self._windows.locate(ordinal % len(self))
        width = int(self.widths[series]) if self.channels == "independent" else 1
        window, channel = divmod(inner, width)
        first = int(self._windows.first[series]) + window * self.stride
        last = min(first + self.context + self.horizon, int(self._windows.last[series]))
        return series, slice(first, last), channel

    def _collect(self, data: Iterable[Series]) -> None:
        """Take the series one after the other, so that a stream is never held whole."""
        if self.path is not None:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "store.json").unlink(missing_ok=True)
        file = lambda name: None if self.path is None else self.path / name  # noqa: E731
        values, covariates = Collected(file(_VALUES)), Collected(file(_COVARIATES))
        # A single channel is a slice where its steps lie together.
        order = "(c t)" if self.channels == "independent" else "(t c)"
        about, static, first, missing, alike = [], [], None, 0, self.channels == "together"
        for one in data:
            first = one if first is None else first
            if alike and len(one.names) == len(first.names):
                one = one.in_order(first.names)
                alike = one.names == first.names
            _check(first, one, self.channels)
            about.append((one.id, *one.values.shape, one.label))
            missing += int(np.isnan(one.values).sum())
            values.add(rearrange(one.values, f"t c -> {order}"))
            static += [] if one.static is None else [one.static]
            if one.covariates is not None:
                covariates.add(one.covariates)
        if first is None:
            raise ValueError("There is no series to store; read_series gave none.")
        ids, *numbers = zip(*about, strict=True)
        self.ids = list(ids)
        self.steps, self.widths, self.labels = (np.array(n, dtype=np.int64) for n in numbers)
        self.static = np.stack(static) if static else np.zeros((len(ids), 0), np.float32)
        self.known = 0 if first.covariates is None else first.covariates.shape[1]
        self.names = first.told if alike else ()
        flat, self._covariates = values.done(), covariates.done()
        self._values = self._laid(flat)
        self.missing = missing / max(len(flat), 1)

    def _laid(self, flat: np.ndarray) -> FlatValues:
        return FlatValues(flat, self.steps, self.widths, together=self.channels == "together")

    def _prepare(self, settings: dict[str, Any]) -> None:
        check_settings(settings, self.channels, self.widths)
        self.settings = settings
        self.context, self.horizon = settings["context"], settings["horizon"]
        self.stride, self.sensor = settings["stride"], settings["sensor"]
        self.balance, least = settings["balance"], settings["min_length"]
        self.min_length = self.horizon + 2 if least is None else least
        size = self.context + self.horizon
        self._windows = Windows.of(
            self.steps,
            self.widths if self.channels == "independent" else 1,
            size=size,
            stride=self.stride,
            min_length=self.min_length,
            span=tuple(settings["span"]),
        )
        if not self._windows.count:
            raise ValueError(
                f"No window: context {self.context} + horizon {self.horizon} = {size} steps (and "
                f"at least {self.min_length}), but the longest of {len(self.ids)} series has "
                f"{self._windows.longest}; take a smaller context."
            )
        self._usable = np.flatnonzero(self._windows.samples)
        self.too_short = [self.ids[i] for i in np.flatnonzero(self._windows.samples == 0)]
        self._rows = np.cumsum(self.steps) - self.steps
        self._labelled = bool((self.labels >= 0).any())
        self._covariates = self._covariates.reshape(-1, max(self.known, 1))

    def _save(self, path: Path) -> None:
        for name in _ARRAYS:
            np.save(path / f"{name}.npy", getattr(self, name))
        about = {"channels": self.channels, "ids": self.ids, "known": self.known}
        about |= {"time_gap": self.time_gap, "names": self.names}
        about |= {"missing": self.missing, "settings": self.settings}
        about["values"] = int((self.steps * self.widths).sum())
        (path / "store.json").write_text(json.dumps(about))  # last: its presence says 'whole'

    def __getstate__(self) -> dict[str, Any]:
        # A worker process that is not forked gets the folder's name, not the series.
        if self.path is None:
            return self.__dict__
        return {"path": self.path, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is None:
            self._covariates = frozen(self._covariates)  # pickling forgets it
            return
        try:
            about = json.loads((self.path / "store.json").read_text())
            for name in _ARRAYS:
                setattr(self, name, np.load(self.path / f"{name}.npy"))
            self.channels, self.ids = about["channels"], about["ids"]
            self.known, self.missing = about["known"], about["missing"]
            self.time_gap, self.names = about.get("time_gap"), tuple(about.get("names", ()))
            flat, self._covariates = mapped(self.path / _VALUES), mapped(self.path / _COVARIATES)
            if not int((self.steps * self.widths).sum()) == len(flat) == about["values"]:
                raise ValueError(f"{about['values']} values were written, {len(flat)} are there")
            self._values = self._laid(flat)
        except (OSError, ValueError, LookupError) as e:
            raise ValueError(
                f"{self.path} holds no whole series store ({e}); write it anew."
            ) from e
        self._prepare({**about["settings"], **state["settings"]})


def _check(first: Series, other: Series, channels: str) -> None:
    """Refuse series that do not go together."""
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
