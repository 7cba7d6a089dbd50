"""Which samples meet in a batch: shuffled, of like length, the same for any number of ranks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, islice
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Int
from torch.utils.data import IterableDataset, Sampler, get_worker_info

Lengths = Int[np.ndarray, "count"] | Sequence[int]
# An epoch's order of more samples than this is computed when it is needed, and not held.
_HELD = 1 << 24


class LengthBatches(Sampler[list[int]]):
    """Batches of sentences of like length, so that little is padded; a torch `batch_sampler`.

    An epoch is one permutation of all samples, cut into windows of many batches. Inside a window
    the samples are sorted by length and cut into batches, and the batches are shuffled. The
    global batches depend on `(seed, epoch)` and on `batch_size * world_size` and nothing else:
    one process and eight make the same steps. Rank r takes every `world_size`-th sample of the
    sorted global batch, so that ranks have equally long sentences. To resume, skip batches: they
    cost nothing to make. Every sample comes once an epoch, but for the `count % global batch`
    last ones of the permutation, which `drop_last` leaves out (other ones in every epoch).

    The batches hold ordinals, `epoch * count + index`, as `TokenStore` takes them.

    Attributes:
        epoch: which epoch the next iteration gives; set it (or call `set_epoch`).

    Args:
        lengths: of the samples, in tokens.
        batch_size: samples a rank sees in a step.
        seed: of the run.
        window: global batches sorted together; 1 shuffles without regard to length.
        rank: of this process.
        world_size: number of processes.
        drop_last: leave out the samples that fill no whole global batch.

    Raises:
        ValueError: for sizes below 1, a rank outside the world, or a last batch too small to
            give every rank a sample.
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
        drop_last: bool = True,
    ):
        check_sizes(rank, batch_size=batch_size, window=window, world_size=world_size)
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.window = batch_size, seed, window
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        self.epoch = 0
        self.global_size = batch_size * world_size
        tail = len(self.lengths) % self.global_size
        if not drop_last and 0 < tail < world_size:
            raise ValueError(
                f"The last batch of an epoch has {tail} samples for {world_size} ranks, so some "
                "would wait for ever; set drop_last=True."
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration (transformers and accelerate call this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, tail = divmod(len(self.lengths), self.global_size)
        return whole + (not self.drop_last and tail > 0)

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's batches of the current epoch."""
        start = self.epoch * len(self.lengths)
        for batch in self._global_batches(self.window):
            yield (start + batch[self.rank :: self.world_size]).tolist()

    def padding_share(self) -> dict[str, float]:
        """Share of a padded batch that is padding, in the current epoch, over all ranks.

        Returns:
            `by_length` with the windows as they are, `shuffled` as it would be without them.
        """
        return {"by_length": self._padding(self.window), "shuffled": self._padding(1)}

    def _global_batches(self, window: int) -> Iterator[Int[np.ndarray, "size"]]:
        count = len(self.lengths)
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(count) if count <= _HELD else None
        whole = count - count % self.global_size
        for start in range(0, whole, window * self.global_size):
            stop = min(start + window * self.global_size, whole)
            part = self._scattered(start, stop) if order is None else order[start:stop]
            yield from _sorted_batches(part, self.lengths[part], self.global_size, random)
        if whole < count and not self.drop_last:
            tail = self._scattered(whole, count) if order is None else order[whole:]
            yield tail[np.argsort(self.lengths[tail], kind="stable")]

    def _scattered(self, start: int, stop: int) -> Int[np.ndarray, "places"]:
        places = np.arange(start, stop)
        return scattered(places, len(self.lengths), [self.seed, self.epoch, 1])

    def _padding(self, window: int) -> float:
        if not any(self.lengths.strides):
            return 0.0  # one length, broadcast: there may be very many samples
        real = padded = 0
        for batch in self._global_batches(window):
            for rank in range(self.world_size):
                mine = self.lengths[batch[rank :: self.world_size]]
                real, padded = real + int(mine.sum()), padded + int(mine.max()) * len(mine)
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
        records = islice(self._records(), first * size, None)
        for number in count(first):
            held = list(islice(records, size))
            whole = len(held) - len(held) % self.global_size
            if not whole:
                return
            random = np.random.default_rng([self.seed, number])
            order = random.permutation(len(held))[:whole]
            lengths = np.array([max(map(self.length_of, held[i][2])) for i in order])
            batches = _sorted_batches(order, lengths, self.global_size, random)
            yield from ([held[i] for i in batch] for batch in islice(batches, skip, None))
            skip = 0

    def _records(self) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        ordinal = 0
        for _ in count() if self.passes is None else range(self.passes):
            began = ordinal
            for index, record in enumerate(self.source):
                texts = tuple(record.values()) if isinstance(record, dict) else (record,)
                yield ordinal, index, texts
                ordinal += 1
            if ordinal == began:
                raise ValueError("The stream gave no record in a whole pass; is it read only once?")

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


def scattered(
    places: Int[np.ndarray, "places"], count: int, key: Sequence[int]
) -> Int[np.ndarray, "places"]:
    """What a random permutation of `count` numbers has at these places; nothing else is held.

    A Feistel network permutes the numbers below a power of 4; what it sends to `count` or beyond
    goes through it again, until it comes back below.

    Args:
        places: from 0 to `count - 1`.
        count: of the numbers, at least 1.
        key: chooses the permutation.

    Reference: Black & Rogaway 2002 (Ciphers with Arbitrary Finite Domains), section 3.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    rounds = np.random.default_rng(key).integers(0, 1 << 63, size=6, dtype=np.uint64)
    out = places.astype(np.uint64)
    outside = np.ones(len(out), dtype=bool)
    while outside.any():
        left, right = out[outside] >> half, out[outside] & low
        for number in rounds:
            left, right = right, left ^ (_mixed(right + number) & low)
        out[outside] = left << half | right
        outside = out >= count
    return out.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    # The finaliser of splitmix64 (Steele et al. 2014).
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ x >> np.uint64(shift)) * np.uint64(factor)
    return x ^ x >> np.uint64(31)


def check_sizes(rank: int, *, world_size: int, **sizes: int) -> None:
    """Refuse sizes below 1 and a rank outside the world."""
    for name, value in {**sizes, "world_size": world_size}.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, but {value} came.")
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
