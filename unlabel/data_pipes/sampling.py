"""Which samples meet in a batch: shuffled, of like length, the same for any number of ranks."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Int
from torch.utils.data import IterableDataset, Sampler, get_worker_info

from unlabel.checks import check_above_0
from unlabel.data_pipes.order import ShardOrder, scattered

logger = logging.getLogger(__name__)

_Chosen = Callable[[np.ndarray], np.ndarray]
Lengths = Int[np.ndarray, "count *parts"] | Sequence[int]
# An epoch's order of more samples than this is computed when it is needed, and not held.
_HELD = 1 << 24


class LengthBatches(Sampler[list[int]]):
    """Batches of sentences of like length, so that little is padded; a torch `batch_sampler`.

    All samples in random order, epoch after epoch, are one endless sequence, and the batches are
    cut from it one after the other: every sample comes exactly once an epoch, every batch is
    full, and one may begin in an epoch and end in the next. (A sample may then come twice in it.)
    The place in the sequence is one integer, `position`: how many samples all ranks have seen
    together. The sequence depends on `(seed, block, window)` and the shards and nothing else, so
    that any number of ranks and workers can go on from there. To begin at a place costs nothing.

    Blocks of samples within an epoch are taken a `window` at a time, sorted by length within the
    window and shuffled. A block is what was a global batch when the run began: the batches are
    the same as long as `batch_size * world_size` is. Rank r takes every `world_size`-th sample
    of the global batch, so that ranks have equally long sentences.

    The batches hold ordinals, `epoch * count + index`, as `TokenStore` takes them.

    Attributes:
        position: place in the sequence where the batches of epoch 0 begin.
        block: samples sorted into a batch together; set both of them to go on with a run.
        epoch: which epoch the next iteration gives; set it (or call `set_epoch`). It has
            `count // (batch_size * world_size)` batches, and follows the epoch before it at once.
        skip: batches that are left empty at its beginning, for who throws them away.

    Args:
        lengths: of the samples, in tokens; of each of their texts where they have several.
        batch_size: samples a rank sees in a step.
        seed: of the run.
        window: blocks sorted together; 1 shuffles without regard to length.
        rank: of this process.
        world_size: number of processes.
        order: of an epoch, where it is not any order of all samples: that of shards.

    Raises:
        ValueError: for sizes below 1, or a rank outside the world.
    """

    def __init__(
        self,
        lengths: Lengths,
        batch_size: int,
        *,
        seed: int = 0,
        window: int = 50,
        rank: int = 0,
        world_size: int = 1,
        order: ShardOrder | None = None,
    ):
        check_sizes(rank, batch_size=batch_size, window=window, world_size=world_size)
        parts = np.asarray(lengths)
        self._parts = parts if parts.ndim > 1 else parts[:, None]  # each is padded by itself
        self.lengths = parts.sum(1) if parts.ndim > 1 else parts
        self.batch_size, self.seed, self.order = batch_size, seed, order
        # Samples of one length stay where the order of shards has them, for nothing is gained.
        self.window = window if order is None or any(self.lengths.strides) else 1
        self.rank, self.world_size = rank, world_size
        self.global_size = self.block = batch_size * world_size
        self.position = self.epoch = self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration (transformers and accelerate call this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.lengths) // self.global_size

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's batches of the current epoch."""
        skip = self.skip
        yield from ([] for _ in range(skip))
        for batch in self._global_batches(self.place(skip), len(self) - skip, self.window):
            yield batch[self.rank :: self.world_size].tolist()

    def place(self, batches: int) -> int:
        """The position after some batches of the current epoch."""
        return self.position + (self.epoch * len(self) + batches) * self.global_size

    def padding_share(self) -> dict[str, float]:
        """Share of a padded batch that is padding, in the first epoch of all, over all ranks.

        Returns:
            `by_length` with the windows as they are, `shuffled` as it would be without them.
        """
        return {"by_length": self._padding(self.window), "shuffled": self._padding(1)}

    def _global_batches(
        self, position: int, batches: int, window: int
    ) -> Iterator[Int[np.ndarray, "size"]]:
        """So many batches of the sequence from a place on."""
        number, inside = divmod(position, self.block)
        blocks, held = self._blocks(number, window), np.zeros(0, np.int64)
        for _ in range(batches):
            while len(held) < self.global_size:
                held = np.concatenate([held, next(blocks)[inside:]])
                inside = 0
            yield held[: self.global_size]
            held = held[self.global_size :]

    def _blocks(self, number: int, window: int) -> Iterator[Int[np.ndarray, "block"]]:
        """The sequence from a block on, without end; a block of two epochs stands alone."""
        total, size = len(self.lengths), self.block
        for epoch in count(number * size // total):
            start, end = epoch * total, (epoch + 1) * total
            first, last = -(-start // size), end // size
            random, chosen = self._chosen(epoch)
            begins = range(first, last, window)
            for begin in begins if random else begins[max(0, number - first) // window :]:
                stop = min(begin + window, last)
                own = random or np.random.default_rng([self.seed, epoch, 4, begin])
                if stop <= number:
                    own.permutation(stop - begin)  # what shuffling its blocks would have drawn
                    continue
                part = start + chosen(np.arange(begin * size, stop * size) - start)
                blocks = _sorted_batches(part, self.lengths[part - start], size, own)
                yield from islice(blocks, max(0, number - begin), None)
            if start <= last * size < end and number <= last:
                yield self._across(np.arange(last * size, (last + 1) * size))

    def _across(self, places: Int[np.ndarray, "block"]) -> Int[np.ndarray, "block"]:
        """The samples at places that lie in several epochs, those of each by length."""
        epochs, inside = np.divmod(places, len(self.lengths))
        found = []
        for epoch in np.unique(epochs).tolist():
            index = self._chosen(epoch)[1](inside[epochs == epoch])
            order = np.argsort(self.lengths[index], kind="stable")
            found.append(epoch * len(self.lengths) + index[order])
        return np.concatenate(found)

    def _chosen(self, epoch: int) -> tuple[np.random.Generator | None, _Chosen]:
        """The samples at places of an epoch's order, after the random numbers of its windows.

        There are none where nothing is held: then each window has its own.
        """
        count = len(self.lengths)
        if self.order is not None:
            return None, partial(self.order.at, epoch)
        if count > _HELD:
            return None, partial(scattered, count=count, key=[self.seed, epoch, 1])
        random = np.random.default_rng([self.seed, epoch])
        return random, random.permutation(count).__getitem__

    def _padding(self, window: int) -> float:
        if not any(self.lengths.strides):
            return 0.0  # one length, broadcast: there may be very many samples
        real = padded = 0
        for batch in self._global_batches(0, len(self), window):
            for rank in range(self.world_size):
                mine = self._parts[batch[rank :: self.world_size] % len(self.lengths)]
                real, padded = real + int(mine.sum()), padded + int(mine.max(0).sum()) * len(mine)
        return 1 - real / padded if padded else 0.0


class StreamBatches(IterableDataset):
    """Batches from a stream that is never held whole; give it to a DataLoader of `batch_size=None`.

    A window of records is read ahead, shuffled, sorted by number of characters, cut into batches,
    and the batches are shuffled; so records meet only within a window, and a file sorted by topic
    should be shuffled first. The place in the stream is one integer, the number of batches made.
    Every worker of every rank reads everything, but tokenises only the batches that are its own,
    so that any number of workers gives the same batches in the same order. That is why lengths
    are counted in characters, which leaves more padding than `LengthBatches` does.

    Yields lists of samples as `TokenStore` gives them; `ordinal` counts the records over all
    passes, `index` within the pass.

    Attributes:
        start: global batches to leave out at the beginning; set it to resume.
        marks: file where to note places at which the source can be entered (text, tables,
            Parquet and `datasets` can), so that resuming does not read it from the beginning; None
            notes none.

    Args:
        source: gives the same records (dicts of texts, or texts) on every iteration: `TextStream`.
        tokenize: list of texts -> list of token ids.
        batch_size: samples a rank sees in a step.
        seed: of the run.
        window: global batches read ahead together.
        rank: of this process.
        world_size: number of processes.
        passes: how often the source is read; None for ever. What fills no whole global batch at
            the end of the last pass is left out.
        partners: names that the columns after the first get.
        length_of: what a text is sorted by. Counting tokens leaves less padding, and costs every
            worker the tokenising of all texts.

    Raises:
        ValueError: as `LengthBatches`; a source that can be read only once.
    """

    def __init__(
        self,
        source: Iterable[Any],
        tokenize: Callable[[list[str]], Sequence[Sequence[int]]],
        batch_size: int,
        *,
        seed: int = 0,
        window: int = 50,
        rank: int = 0,
        world_size: int = 1,
        passes: int | None = 1,
        partners: Sequence[str] = ("positive", "negative"),
        length_of: Callable[[str], int] = len,
    ):
        check_sizes(rank, batch_size=batch_size, window=window, world_size=world_size)
        if isinstance(source, Iterator):
            raise ValueError("A stream is read anew to resume; give a TextStream or a data set.")
        self.source, self.tokenize, self.partners = source, tokenize, tuple(partners)
        self.seed, self.window, self.passes, self.length_of = seed, window, passes, length_of
        self.rank, self.world_size = rank, world_size
        self.global_size = batch_size * world_size
        self.start = 0
        self.marks: Path | None = None

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """This rank's batches from `start` on; in a DataLoader worker every n-th of them."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for number, batch in enumerate(self._global_batches(self.start)):
            if number % workers == worker:
                yield self._samples(batch[self.rank :: self.world_size])

    def _global_batches(self, start: int) -> Iterator[list[tuple[int, int, tuple[str, ...]]]]:
        size = self.window * self.global_size
        first, skip = divmod(start, self.window)
        records = self._records(first * size)
        for number in count(first):
            held = list(islice(records, size))
            whole = len(held) - len(held) % self.global_size
            if not whole:
                return
            random = np.random.default_rng([self.seed, number])
            order = random.permutation(len(held))[:whole]
            lengths = np.array([sum(map(self.length_of, held[i][2])) for i in order])
            batches = _sorted_batches(order, lengths, self.global_size, random)
            yield from ([held[i] for i in batch] for batch in islice(batches, skip, None))
            skip = 0

    def _records(self, start: int) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        ordinal = again = 0
        clock = time.monotonic()
        for _ in count() if self.passes is None else range(self.passes):
            began = ordinal
            place, records = self._enter(start - began)
            ordinal += place
            for index, record in enumerate(records, place):
                if ordinal >= start:
                    if ordinal == start > 0 and self._leads():
                        took = time.monotonic() - clock
                        logger.info("%d records of the stream read again: %.1f s.", again, took)
                    texts = tuple(record.values()) if isinstance(record, dict) else (record,)
                    yield ordinal, index, texts
                else:
                    again += 1
                ordinal += 1
            if ordinal == began:
                raise ValueError("The stream gave no record in a whole pass; is it read only once?")

    def _enter(self, start: int) -> tuple[int, Iterator[Any]]:
        """A pass over the source from a record on that is at `start` or before it."""
        if self.marks is None or not hasattr(self.source, "enter"):
            return 0, iter(self.source)
        source: Any = self.source
        return source.enter(max(0, start), self.marks, writes=self._leads())

    def _leads(self) -> bool:
        info = get_worker_info()
        return self.rank == 0 and (info is None or info.id == 0)

    def _samples(self, batch: Sequence[tuple[int, int, tuple[str, ...]]]) -> list[dict[str, Any]]:
        columns = list(zip(*(texts for _, _, texts in batch), strict=True))
        ids = self.tokenize(list(chain.from_iterable(columns)))
        by_column = [ids[i : i + len(batch)] for i in range(0, len(ids), len(batch))]
        samples = [
            {"input_ids": row, "index": index, "ordinal": ordinal}
            for (ordinal, index, _), row in zip(batch, by_column[0], strict=True)
        ]
        if len(by_column) > 1:
            for sample, *rows in zip(samples, *by_column[1:], strict=True):
                sample["partners"] = dict(zip(self.partners, rows, strict=False))
        return samples


def check_sizes(rank: int, *, world_size: int, **sizes: int) -> None:
    """Refuse sizes below 1 and a rank outside the world."""
    check_above_0(**sizes, world_size=world_size)
    if not 0 <= rank < world_size:
        raise ValueError(
            f"rank={rank} is not one of the {world_size} ranks, 0 to {world_size - 1}."
        )


def _sorted_batches(
    samples: Int[np.ndarray, "count"],
    lengths: Int[np.ndarray, "count"],
    size: int,
    random: np.random.Generator,
) -> Iterator[Int[np.ndarray, "size"]]:
    # A stable sort leaves samples of equal length in their random order.
    by_length = samples[np.argsort(lengths, kind="stable")]
    batches = rearrange(by_length, "(batch size) -> batch size", size=size)
    yield from batches[random.permutation(len(batches))]
