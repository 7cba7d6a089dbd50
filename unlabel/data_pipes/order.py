"""In which order samples come: random permutations of which nothing is held."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int64

Places = Int[np.ndarray, "places"]


class ShardOrder:
    """An order of an epoch that reads few shards at a time.

    The shards are shuffled and taken `window` at a time, and the samples of such a window are
    shuffled among themselves. Each epoch has an order of its own, in which every sample comes
    once. Any place of it can be asked for at once: held is a number or two for each shard, and
    nothing for a sample.

    Args:
        sizes: samples in each shard; those of a shard follow one another in the data.
        window: shards whose samples are shuffled together.
        seed: of the run.

    Raises:
        ValueError: sizes below 0, or a window below 1.
    """

    def __init__(
        self, sizes: Sequence[int] | Int64[np.ndarray, "shards"], *, window: int, seed: int
    ):
        self.sizes, self.window, self.seed = np.asarray(sizes, np.int64), window, seed
        if window < 1 or (self.sizes < 0).any():
            raise ValueError(f"A window is 1 shard or more, of 0 samples or more: {window} came.")
        self.first = np.cumsum(self.sizes) - self.sizes
        self._epoch, self._layout = 0, self._laid_out(0)

    def at(self, epoch: int, places: Places) -> Places:
        """Which samples come at some places of an epoch."""
        if epoch != self._epoch:
            self._epoch, self._layout = epoch, self._laid_out(epoch)
        shards, ends, until = self._layout
        windows = np.searchsorted(until, places, side="right")
        found = np.empty(len(places), np.int64)
        for window in np.unique(windows).tolist():
            inside = windows == window
            begin = int(until[window - 1]) if window else 0
            key = [self.seed, epoch, 3, window]
            own = begin + scattered(places[inside] - begin, int(until[window]) - begin, key)
            place = np.searchsorted(ends, own, side="right")
            shard = shards[place]
            found[inside] = self.first[shard] + own - (ends[place] - self.sizes[shard])
        return found

    def _laid_out(self, epoch: int) -> tuple[Places, Places, Places]:
        """The shards of an epoch in their order, where each ends, and where their windows end."""
        count = len(self.sizes)
        shards = scattered(np.arange(count), count, [self.seed, epoch, 2])
        ends = np.cumsum(self.sizes[shards])
        # The windows end with every `window`-th shard, and with the last one.
        last = np.minimum(np.arange(self.window, count + self.window, self.window), count) - 1
        return shards, ends, ends[last]


def scattered(places: Places, count: int, key: Sequence[int]) -> Places:
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


__all__ = ["ShardOrder", "scattered"]
