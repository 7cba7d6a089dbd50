"""Pairs: the same sample as several kinds of data, read together and drawn together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int64

from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.held import Held, shard_sizes
from unlabel.data_pipes.labels import said_in
from unlabel.data_pipes.pair_sources import Wanted, find_pairs
from unlabel.data_pipes.pair_values import check_endings, in_common, part_of, side_value
from unlabel.data_pipes.redraw import ByOrdinal, sample_at
from unlabel.data_pipes.report import ReadReport


@dataclass
class PairData:
    """Rows, each the sides of one sample.

    Attributes:
        columns: side -> one value a row: a text or several (a tuple), a path, `Held`, `Part`,
            numbers, or what lies in memory.
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
    columns: Mapping[str, str | None],
    *,
    kinds: Mapping[str, str] | None = None,
    times: Mapping[str, tuple[str | None, str | None]] | None = None,
    label_column: str | None = None,
    limit: int | None = None,
) -> PairData:
    """Read samples of several sides: from lists, data sets, folders or shards.

    A sample that lacks one of its sides (an empty field, a file that is not there, a part that ends
    before it begins) is left out, counted and named.

    Args:
        source: one or several lists (JSON lines, JSON, CSV, TSV, Parquet) with a row a sample,
            their paths relative to the list (Parquet may hold the media themselves); a pandas
            table, a list of dicts, a `datasets` object or `"hf:name[:config[:split]]"`; a folder,
            in which files of one stem are a sample (`a/7.mp4`, `a/7.txt`); or WebDataset shards
            (`.tar`, not packed; a path, a glob, a range `{000..127}` or a folder of them), where
            a stem ends at its first dot.
        columns: side -> its column of a list, or how its files end; None takes the side's name,
            or the endings of its kind. A field of text may hold several, and a field of series
            the numbers themselves.
        kinds: side -> `text`, `series`, `frames`, `video` or `audio`; default the side's name.
        times: side of frames, video or audio -> columns of a list that say, in seconds, where the
            part of the file that counts begins and ends; an empty field is the file's own end.
        label_column: of classes, where there is one (of files: how they end, such as `cls`).
        limit: samples kept at most.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a column or a kind of file that is not there, or no sample with all of its
            sides.
    """
    report, said = ReadReport(), {s: (kinds or {}).get(s, s) for s in columns}
    cut = times or {}
    sides = [Wanted(n, said[n], column, *cut.get(n, ())) for n, column in columns.items()]
    kept: list[list[Any]] = []
    labels: list[str | None] = []
    for found in find_pairs(source, sides, label_column, report):
        report.lines += 1
        each = {s: side_value(said[s], v, found.base) for s, v in found.values.items()}
        each |= {s: part_of(each[s][0], *p) for s, p in found.parts.items() if not each[s][1]}
        wrong = [f"{problem}_{s}" for s, (_, problem) in each.items() if problem]
        if found.problem or wrong:
            fields = [*found.values.values(), *(v for p in found.parts.values() for v in p)]
            report.drop(found.problem or wrong[0], found.place, fields)
            continue
        report.kept += 1
        kept.append([each[s][0] for s in columns])
        labels.append(said_in(found.label))
        if report.kept == limit:
            break
    if not kept:
        raise ValueError(f"No sample with {' and '.join(columns)} in {source}: {told(report)}.")
    values = {side: [row[i] for row in kept] for i, side in enumerate(columns)}
    for side in columns:
        check_endings(side, said[side], values[side])
    classes = tuple(sorted({x for x in labels if x is not None}))
    place = {None: -1} | {name: i for i, name in enumerate(classes)}
    return PairData(values, report, np.array([place[x] for x in labels], np.int64), classes)


def told(report: ReadReport) -> str:
    """What reading left out and why, the first cases named."""
    named = [f"{k.replace('_', ' ')}: {'; '.join(v)}" for k, v in report.examples.items()]
    return ". ".join([report.summary(), *named])


@dataclass(frozen=True)
class SideData:
    """What one side of the samples is read from.

    Attributes:
        store: of its samples, map-style by ordinal, as every kind of data has one.
        owners: of each sample of the store: the value that it belongs to (several clips belong to
            a video, several captions to a row).
        uses: of each row of the data: its value (several rows may name one video); None where
            each has one of its own, in order.
        lost: names of values that gave no sample, and why.
    """

    store: Any
    owners: Sequence[int] | Int64[np.ndarray, "samples"]
    uses: Int64[np.ndarray, "rows"] | None = None
    lost: Mapping[str, str] = field(default_factory=dict)


class _Places:
    """Which samples of a side's store each row has to choose from."""

    def __init__(self, data: SideData, rows: int):
        owners = np.asarray(data.owners, np.int64)
        uses = np.arange(rows) if data.uses is None else data.uses
        self.order = np.argsort(owners, kind="stable")
        owners = owners[self.order]
        self.first = np.searchsorted(owners, uses)
        self.count = np.searchsorted(owners, uses, side="right") - self.first
        # The rows that name one value take turns, so that each has draws of its own.
        self.turn = np.zeros(rows, np.int64)
        by_value = np.argsort(uses, kind="stable")
        begins = np.searchsorted(uses[by_value], uses[by_value])
        self.turn[by_value] = np.arange(rows) - begins
        self.turns = int(self.turn.max(initial=0)) + 1

    def sample(self, row: int, epoch: int, count: int, chance: float) -> int:
        """Ordinal of the sample in its store of `count` that a row takes."""
        place = self.order[self.first[row] + int(chance * self.count[row])]
        return (epoch * self.turns + int(self.turn[row])) * count + int(place)


class PairStore(ByOrdinal):
    """Samples of several sides, asked for by their ordinal in the whole run.

    An item is `{"sides": {name: sample}, "index", "ordinal"}`, with `label` where the data has
    classes and `alike` where sides of it are told. Where a row has several samples of a side
    (captions, clips), the ordinal draws one. Where the file of a side goes bad during the run,
    another pair is drawn.

    Args:
        sides: what each side is read from. Rows that a side lacks are left out of all.
        data: the rows.
        heard: side -> the side whose clips' own sound it is (`VideoStore` with `sound`).
        shared: side -> the side whose samples it sees as well.
        alike: sides; samples that have a value of one of them in common (a caption, a file), or
            each with a third, have a number `alike` in common too.
        together: sides whose samples of a row begin at the same moment, drawn for all of them.
        seed: of the run.

    Raises:
        ValueError: no row that all sides have, or a side that the rows do not name or whose
            samples have no moment.
    """

    def __init__(
        self,
        sides: Mapping[str, SideData],
        data: PairData,
        *,
        heard: Mapping[str, str] | None = None,
        shared: Mapping[str, str] | None = None,
        alike: Sequence[str] = (),
        together: Sequence[str] = (),
        seed: int = 0,
    ):
        self.sides, self.data, self.seed = dict(sides), data, seed
        self.heard, self.shared = dict(heard or {}), dict(shared or {})
        self.places = {n: _Places(s, len(data)) for n, s in sides.items()}
        has = {n: p.count > 0 for n, p in self.places.items()}
        self.lost_rows = {n: int((~there).sum()) for n, there in has.items()}
        self.rows = np.flatnonzero(np.logical_and.reduce(list(has.values())))
        if not len(self.rows):
            counts = ", ".join(f"{int(there.sum())} of {n}" for n, there in has.items())
            raise ValueError(
                f"No pair: of {len(data)} rows there are {counts}, but never together."
                + "".join(f" {n}: {_named(s.lost)}." for n, s in sides.items() if s.lost)
            )
        if unknown := sorted(set(alike) - set(data.columns)):
            raise ValueError(
                f"alike names {', '.join(unknown)}, but sides with a column of their own are "
                f"{', '.join(data.columns)}."
            )
        self.alike = in_common([data.columns[side] for side in alike])[self.rows] if alike else None
        self._check_together(together)
        self.labels, self.classes = data.labels[self.rows], data.classes
        self.lengths = self._lengths()

    @property
    def stores(self) -> dict[str, Any]:
        """The store of each side that has one of its own."""
        return {name: side.store for name, side in self.sides.items()}

    def _check_together(self, names: Sequence[str]) -> None:
        follows = {**self.heard, **self.shared}
        self.together = {follows.get(name, name) for name in names}
        timed = [n for n, store in self.stores.items() if hasattr(store, "at")]
        if unknown := sorted(self.together - set(timed)):
            raise ValueError(
                f"together names {', '.join(unknown)}, but sides of frames, video or audio are "
                f"{', '.join(timed) or 'not there'}."
            )

    @property
    def fingerprint(self) -> str:
        """Tells the samples of sides that are held apart from others."""
        stores = {name: getattr(store, "fingerprint", None) for name, store in self.stores.items()}
        return "-".join(f"{name}:{told}" for name, told in stores.items() if told)

    @property
    def shards(self) -> Int64[np.ndarray, "shards"] | None:
        """Samples in each shard, where the first side that is held lies in some."""
        held = (c for c in self.data.columns.values() if isinstance(c[self.rows[0]], Held))
        column = next(held, None)
        return None if column is None else shard_sizes(column[row] for row in self.rows)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.rows)

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The sample at place `ordinal` of the run, see `sample_at`."""
        made = partial(self._made, int(ordinal) // len(self))
        return sample_at(ordinal, count=len(self), seed=self.seed, make=made)

    def _made(self, epoch: int, index: int, random: np.random.Generator) -> dict[str, Any]:
        sides, row, wanted = {}, int(self.rows[index]), {}
        for name, store in self.stores.items():
            chance = float(random.random())
            wanted[name] = self.places[name].sample(row, epoch, len(store), chance)
        rooms = [self.stores[n].room(wanted[n] % len(self.stores[n])) for n in self.together]
        moment = float(random.random()) * min(rooms) if rooms else 0.0
        for name, store in self.stores.items():
            take = partial(store.at, moment=moment) if name in self.together else store.__getitem__
            sides[name] = take(wanted[name])
            if sides[name]["index"] != wanted[name] % len(store):  # its file went bad: another one
                raise DecodeError(f"{name} of row {row}", "it went bad", reader="store")
        for name, of in self.heard.items():
            sides[name] = {**sides[of], **sides[of]["partners"]["sound"], "partners": {}}
        for of in set(self.heard.values()):
            beside = {k: v for k, v in sides[of]["partners"].items() if k != "sound"}
            sides[of] = {**sides[of], "partners": beside}
        sides |= {name: sides[of] for name, of in self.shared.items()}
        about = {"label": self.labels if self.classes else None, "alike": self.alike}
        return {"sides": sides} | {k: int(v[index]) for k, v in about.items() if v is not None}

    def _lengths(self) -> Int64[np.ndarray, "count"]:
        """Of the one side whose samples differ in length, for batches of like ones."""
        for name, side in self.sides.items():
            places, own = self.places[name], np.asarray(side.store.lengths)
            if len(own) and (own != own[0]).any():
                return own[places.order[places.first[self.rows]]]
        return np.broadcast_to(np.int64(1), len(self))

    def summary(self) -> str:
        """One line: samples, their sides, and what was left out and why."""
        parts = [f"{len(self):,} samples of {', '.join([*self.sides, *self.heard, *self.shared])}"]
        for name, count in self.lost_rows.items():
            named = f" ({_named(self.sides[name].lost)})" if self.sides[name].lost else ""
            parts += [f"{count:,} rows lost their {name}{named}"] * bool(count)
        for kind, count in self.data.report.dropped.items():
            shown = "; ".join(self.data.report.examples.get(kind, []))
            parts.append(f"{count:,} rows {kind.replace('_', ' ')} ({shown})")
        parts += [f"{name}: {why}" for name, why in list(self.data.report.broken.items())[:3]]
        return ", ".join(parts)


def _named(lost: Mapping[str, str]) -> str:
    more = f", and {len(lost) - 3:,} more" if len(lost) > 3 else ""
    return "; ".join(f"{name}: {why}" for name, why in list(lost.items())[:3]) + more


__all__ = ["PairData", "PairStore", "SideData", "read_pairs", "told"]
