"""Batches of windows from a stream of series: shuffled within what is read ahead, resumable."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from torch.utils.data import IterableDataset, get_worker_info

from unlabel.data_pipes.marks import Mark, Tape
from unlabel.data_pipes.sampling import check_sizes
from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.data_pipes.series_stream import Place, SeriesStream
from unlabel.data_pipes.series_windows import Windows
from unlabel.data_pipes.sources import Files
from unlabel.files import identity

Ordinals = Int64[np.ndarray, "samples"]


class Origin(NamedTuple):
    """Where a part begins.

    Attributes:
        number: of the part, over all passes.
        ordinal: of its first window in the run.
        began: of the first window of its pass.
        passed: passes before.
        place: of its first series.
    """

    number: int = 0
    ordinal: int = 0
    began: int = 0
    passed: int = 0
    place: Place = Place()


@dataclass(frozen=True)
class Part:
    """Some series of the stream as a store, and where its windows stand in the run."""

    store: SeriesStore
    origin: Origin

    @property
    def number(self) -> int:
        """Of the part, over all passes."""
        return self.origin.number

    @property
    def ordinal(self) -> int:
        """Of its first window in the run."""
        return self.origin.ordinal

    def sample(self, ordinal: int) -> dict[str, Any]:
        """The window of that place in the run."""
        place = ordinal - self.ordinal
        # What a store draws (a partner, a balanced series) is drawn anew in every part.
        sample = self.store[self.number * len(self.store) + place]
        return {**sample, "index": ordinal - self.origin.began, "ordinal": ordinal}


class StreamWindows(IterableDataset):
    """Batches of windows of series that are never held together.

    Give it to a DataLoader of `batch_size=None`.

    Series are read ahead until they hold `ahead` values. Their windows are shuffled together with
    those that the part before left over, and cut into batches: so windows meet only those of series
    nearby in the stream, and a source sorted by kind should be shuffled first. Every window comes
    once a pass. The batches depend on `(seed, batch_size * world_size)` and nothing else; the
    place in the stream is one integer, the number of batches made. Every worker of every rank
    reads everything, and makes only the batches that are its own.

    Yields lists of samples as `SeriesStore` gives them; `ordinal` counts the windows over all
    passes, `index` within the pass.

    Attributes:
        start: global batches to leave out at the beginning; set it to resume.
        marks: file where to note the places of parts, so that resuming does not read files before
            them; None notes none.

    Args:
        source: gives the same series on every iteration, such as `stream_series`.
        batch_size: samples a rank sees in a step.
        ahead: values read ahead, of 4 bytes each; a series of more is read whole.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        passes: how often the source is read; None for ever. What fills no whole global batch at
            the end of the last pass is left out.
        rows: rows of each series that windows lie in, see `SeriesStore.part`.
        settings: `context`, `horizon`, `channels`, ... of the windows, see `SeriesStore`.

    Raises:
        ValueError: sizes below 1, a rank outside the world, a source that can be read only once;
            when iterated, no window in a whole pass.
    """

    def __init__(
        self,
        source: Iterable[Series],
        batch_size: int,
        *,
        ahead: int = 1 << 22,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        passes: int | None = 1,
        rows: tuple[float, float | None] = (0, None),
        **settings: Any,
    ):
        check_sizes(rank, batch_size=batch_size, ahead=ahead, world_size=world_size)
        if isinstance(source, Iterator):
            raise ValueError("A stream is read anew to resume; give a SeriesStream or a list.")
        self.source, self.ahead, self.seed, self.passes = source, ahead, seed, passes
        self.rank, self.world_size, self.rows, self.settings = rank, world_size, rows, settings
        self.global_size = batch_size * world_size
        self.start = 0
        self.marks: Path | None = None

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """This rank's batches from `start` on; in a DataLoader worker every n-th of them."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for number, (parts, batch) in enumerate(self._global_batches(self.start)):
            if number % workers == worker:
                yield [_part_of(parts, o).sample(o) for o in batch[self.rank :: self.world_size]]

    def first(self) -> SeriesStore:
        """The windows read ahead at the very beginning.

        Raises:
            ValueError: there is none in the whole stream.
        """
        return next(self._parts(Origin())).store

    def _global_batches(self, start: int) -> Iterator[tuple[list[Part], list[int]]]:
        parts: list[Part] = []
        left: Ordinals = np.zeros(0, np.int64)
        origin, first, done, tape = Origin(), 0, 0, self._tape(start)
        if tape is not None and (mark := tape.begin) is not None:
            (*numbers, place), kept = mark.cookie
            origin, left = Origin(*numbers, place=Place(*place)), np.array(kept, np.int64)
            first, done, start = mark.rows, mark.kept, start - mark.kept
        for part in self._parts(origin):
            parts = [*parts, part]
            if part.number < first:  # read for the windows that it left over
                continue
            if tape is not None:
                tape.keep(Mark(0, part.number, 0, 0, [parts[0].origin, left.tolist()]), done)
            own = part.ordinal + np.arange(len(part.store))
            order = np.random.default_rng([self.seed, part.number]).permutation(
                np.concatenate([left, own])
            )
            whole, skip = len(order) // self.global_size, start
            start, done = max(0, start - whole), done + whole
            for i in range(min(skip, whole), whole):
                yield parts, order[i * self.global_size : (i + 1) * self.global_size].tolist()
            left = order[whole * self.global_size :]
            parts = [p for p in parts if ((left >= p.ordinal) & (left < _end(p))).any()]

    def _tape(self, start: int) -> Tape | None:
        """The marks of this source, read and cut in this way; None where it is no files."""
        if self.marks is None or not isinstance(self.source, SeriesStream):
            return None
        if not isinstance(self.source.source, Files):
            return None
        files = [(str(p), *identity(p)) for p in self.source.source.paths]
        read = files, self.source.arguments, self.source.limit, self.ahead, self.rows, self.settings
        info = get_worker_info()
        leads = self.rank == 0 and (info is None or info.id == 0)
        return Tape((*read, self.seed, self.global_size), self.marks, start, writes=leads)

    def _parts(self, origin: Origin) -> Iterator[Part]:
        number, ordinal, began, first, place = origin
        for passed in count(first) if self.passes is None else range(first, self.passes):
            series = self._placed(place)
            while ahead := _values(series, self.ahead):
                place = ahead[0][0]
                if (store := self._store([one for _, one in ahead])) is None:
                    continue
                yield Part(store, Origin(number, ordinal, began, passed, place))
                number, ordinal = number + 1, ordinal + len(store)
            if ordinal == began:
                raise ValueError(
                    f"The stream gave no window of context {self.settings['context']} + horizon "
                    f"{self.settings.get('horizon', 0)} in a whole pass; take a smaller context."
                )
            began, place = ordinal, Place()

    def _placed(self, begin: Place) -> Iterator[tuple[Place, Series]]:
        if isinstance(self.source, SeriesStream):
            return self.source.placed(begin)
        return ((Place(), one) for one in self.source)

    def _store(self, series: list[Series]) -> SeriesStore | None:
        """The windows of some series, None where they are all too short."""
        wanted = {"horizon": 0, "stride": 1, "min_length": None, **self.settings}
        least = wanted["min_length"]
        counted = Windows.of(
            np.array([len(s) for s in series], dtype=np.int64),
            1,
            size=wanted["context"] + wanted["horizon"],
            stride=wanted["stride"],
            min_length=wanted["horizon"] + 2 if least is None else least,
            span=self.rows,
        )
        long = [s for s, samples in zip(series, counted.samples, strict=True) if samples]
        return SeriesStore(long, **self.settings).part(*self.rows) if long else None


def _values(series: Iterator[tuple[Place, Series]], ahead: int) -> list[tuple[Place, Series]]:
    """The next series, until they hold `ahead` values."""
    taken, held = [], 0
    while held < ahead and (one := next(series, None)) is not None:
        taken.append(one)
        held += one[1].values.size
    return taken


def _end(part: Part) -> int:
    return part.ordinal + len(part.store)


def _part_of(parts: list[Part], ordinal: int) -> Part:
    return next(p for p in reversed(parts) if p.ordinal <= ordinal)
