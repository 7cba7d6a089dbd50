"""Pairs: the same sample as several kinds of data, named row by row in a list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.redraw import sample_at
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.sources import resolve, rows_of


@dataclass
class PairData:
    """Rows of a list, each the sides of one sample.

    Attributes:
        columns: side -> one value a row: a text, or a path.
        report: what was read, and what was left out and why.
        labels: place of each row's class in `classes`, -1 for none.
        classes: names of the classes, sorted.
    """

    columns: dict[str, list[Any]]
    report: ReadReport = field(default_factory=ReadReport)
    labels: Int64[np.ndarray, "count"] = field(default_factory=lambda: np.zeros(0, np.int64))
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def shuffled(self, seed: int) -> "PairData":
        """Each side but the first in an order of its own: pairs no more, to compare with.

        Raises:
            ValueError: there is one side alone, whose own sound or words go with it.
        """
        if len(self.columns) < 2:
            raise ValueError(
                f"Only {', '.join(self.columns)} has a column, and what comes of it goes with it, "
                "so there is nothing to shuffle; give two sides columns of their own."
            )
        random, (first, *rest) = np.random.default_rng(seed), self.columns
        orders = {name: random.permutation(len(self)) for name in rest}
        mixed = {name: [self.columns[name][i] for i in order] for name, order in orders.items()}
        return replace(self, columns={first: self.columns[first], **mixed})


def read_pairs(
    source: Any,
    columns: Mapping[str, str],
    *,
    files: Sequence[str] = (),
    label_column: str | None = None,
    limit: int | None = None,
) -> PairData:
    """Read a list of pairs: JSON lines, CSV, TSV or Parquet, or a `datasets` object.

    A row that lacks one of its sides (an empty field, or a file that is not there) is left out,
    counted and named.

    Args:
        source: what `read_text` takes.
        columns: side -> its column of the list.
        files: sides whose values are paths, relative to the list.
        label_column: of classes, where there is one.
        limit: rows kept at most.

    Raises:
        FileNotFoundError: no list is there.
        ValueError: a column that is not there, or no row with all of its sides.
    """
    report, names = ReadReport(), list(columns)
    wanted = (*columns.values(), *([label_column] if label_column else []))
    kept: list[list[Any]] = []
    for name, row in rows_of(resolve(source), report, tuple(dict.fromkeys(wanted)), None):
        report.lines += 1
        place = f"{name}:{row.line}"
        found = dict(zip(dict.fromkeys(wanted), row.values, strict=False))
        values = [found.get(c) for c in wanted]
        base = Path(name).parent
        values[: len(names)] = [
            _there(v, base) if side in files else _said(v)
            for side, v in zip(names, values, strict=False)
        ]
        if row.problem:
            report.drop(row.problem, place, row.values)
        elif lacking := [s for s, v in zip(names, values, strict=False) if v is None]:
            report.drop(f"without_{lacking[0]}", place, row.values)
        else:
            report.kept += 1
            kept.append(values)
            if report.kept == limit:
                break
    if not kept:
        told = "; ".join(f"{k}: {v[0]}" for k, v in report.examples.items())
        raise ValueError(
            f"No row with {' and '.join(names)} in {source}: {report.summary()}. {told}"
        )
    sides = {side: [row[i] for row in kept] for i, side in enumerate(names)}
    said = [_label(row[-1]) for row in kept] if label_column else [None] * len(kept)
    classes = tuple(sorted({x for x in said if x is not None}))
    labels = np.array([-1 if x is None else classes.index(x) for x in said], np.int64)
    return PairData(sides, report, labels, classes)


def _said(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _there(value: Any, base: Path) -> str | None:
    """A path relative to its list; None where it names no file."""
    if _said(value) is None:
        return None
    path = Path(value).expanduser()
    path = path if path.is_absolute() else base / path
    return str(path) if path.is_file() else None


def _label(value: Any) -> str | None:
    return None if value is None or not str(value).strip() else str(value).strip()


class PairStore:
    """Samples of several sides, asked for by their ordinal in the whole run.

    An item is `{"sides": {name: sample}, "index", "ordinal"}`, with `label` where the data has
    classes. Where the file of a side goes bad during the run, another pair is drawn.

    Args:
        stores: of each side: a map-style store by ordinal, as every kind of data has one.
        rows: of each side: the row of the list that each sample of its store belongs to. Rows
            that a side lacks are left out of all.
        data: the list.
        heard: side -> the side whose clips' own sound it is (`VideoStore` with `sound`).
        seed: of the run.

    Raises:
        ValueError: no row that all sides have.
    """

    def __init__(
        self,
        stores: Mapping[str, Any],
        rows: Mapping[str, Sequence[int]],
        data: PairData,
        *,
        heard: Mapping[str, str] | None = None,
        seed: int = 0,
    ):
        self.stores, self.data, self.seed = dict(stores), data, seed
        self.heard = dict(heard or {})
        common = sorted(set.intersection(*(set(map(int, r)) for r in rows.values())))
        self.lost_rows = {n: len(data) - len(set(map(int, r))) for n, r in rows.items()}
        if not common:
            counts = ", ".join(f"{len(r)} of {n}" for n, r in rows.items())
            raise ValueError(
                f"No pair: of {len(data)} rows there are {counts}, but never together."
            )
        self.rows = np.array(common, np.int64)
        self.places = {n: _places(r, self.rows) for n, r in rows.items()}
        self.labels = data.labels[self.rows]
        self.classes = data.classes
        own = [s.lengths[self.places[n]] for n, s in self.stores.items() if hasattr(s, "ids")]
        self.lengths = own[0] if own else np.ones(len(self), np.int64)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.rows)

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The sample at place `ordinal` of the run, see `sample_at`."""
        made = partial(self._made, int(ordinal) // len(self))
        return sample_at(ordinal, count=len(self), seed=self.seed, make=made)

    def _made(self, epoch: int, index: int, random: np.random.Generator) -> dict[str, Any]:
        sides = {}
        for name, store in self.stores.items():
            place = int(self.places[name][index])
            found = store[epoch * len(store) + place]
            if found["index"] != place:  # its file went bad, and it drew another one
                raise DecodeError(
                    f"{name} of row {self.rows[index]}", "it went bad", reader="store"
                )
            sides[name] = found
        for name, of in self.heard.items():
            beside = dict(sides[of]["partners"])
            sides[name] = {**sides[of], **beside.pop("sound"), "partners": {}}
            sides[of] = {**sides[of], "partners": beside}
        return {"sides": sides, **({"label": int(self.labels[index])} if self.classes else {})}

    def summary(self) -> str:
        """One line: pairs, their sides, and what was left out and why."""
        parts = [f"{len(self):,} samples of {', '.join([*self.stores, *self.heard])}"]
        parts += [f"{n:,} rows lost their {s}" for s, n in self.lost_rows.items() if n]
        parts += [f"{n:,} rows {k.replace('_', ' ')}" for k, n in self.data.report.dropped.items()]
        return ", ".join(parts)


def _places(rows: Sequence[int], wanted: Int64[np.ndarray, "kept"]) -> Int64[np.ndarray, "kept"]:
    """Where each wanted row lies among a side's samples, the first one."""
    own = np.asarray(rows, np.int64)
    order = np.argsort(own, kind="stable")
    return order[np.searchsorted(own[order], wanted)]


__all__ = ["PairData", "PairStore", "read_pairs"]
