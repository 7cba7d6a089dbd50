"""The order of an epoch: a permutation that stays local, and a place in it that is one integer."""

import itertools
import time
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from unlabel.data_pipes.order import ShardOrder, scattered
from unlabel.data_pipes.sampling import LengthBatches


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 1000, 4097])
def test_scattered_places_are_a_permutation(count):
    whole = scattered(np.arange(count), count, [0, 1])
    np.testing.assert_array_equal(np.sort(whole), np.arange(count))
    np.testing.assert_array_equal(scattered(np.arange(count)[3:7], count, [0, 1]), whole[3:7])
    if count > 100:
        assert (whole != scattered(np.arange(count), count, [0, 2])).mean() > 0.9


def test_scattered_neighbours_are_as_far_apart_as_by_chance():
    whole = scattered(np.arange(30_000), 30_000, [5, 0])
    apart = np.abs(np.diff(whole)) / 30_000
    # |x - y| of two uniform numbers has mean 1/3 and variance 1/18.
    assert apart.mean() == pytest.approx(1 / 3, abs=5 * (1 / 18 / 30_000) ** 0.5)
    assert abs(np.corrcoef(whole, np.arange(30_000))[0, 1]) < 5 / 30_000**0.5


SIZES = {"one": [7], "even": [5] * 6, "uneven": [1, 40, 0, 3, 17, 2], "single": [1] * 31}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_an_order_of_shards_is_a_permutation_that_any_place_can_be_asked_of(sizes, window):
    count, order = sum(sizes), ShardOrder(sizes, window=window, seed=4)
    whole = order.at(0, np.arange(count))
    np.testing.assert_array_equal(np.sort(whole), np.arange(count))
    some = np.random.default_rng(0).integers(0, count, 20)
    np.testing.assert_array_equal(order.at(0, some), whole[some])
    if count > 20:
        assert (whole != order.at(1, np.arange(count))).any()
        assert (whole != ShardOrder(sizes, window=window, seed=5).at(0, np.arange(count))).any()


def test_samples_meet_those_of_the_shards_of_a_window_and_no_others():
    order = ShardOrder([50] * 40, window=4, seed=0)
    shards = (order.at(3, np.arange(2000)) // 50).reshape(10, 200)
    assert all(len(set(s)) == 4 for s in shards.tolist())
    assert len({s for row in shards.tolist() for s in row}) == 40
    # Within a window they are mixed: half of the neighbours by far are of different shards.
    assert (np.diff(shards, axis=1) != 0).mean() == pytest.approx(0.75, abs=0.05)


def test_an_order_of_very_many_samples_holds_none_of_them():
    order = ShardOrder(np.full(1000, 10**9), window=8, seed=0)
    found = order.at(0, np.arange(10**11, 10**11 + 1000))
    assert len(np.unique(found)) == 1000 and len(np.unique(found // 10**9)) == 8


def test_windows_without_a_shard_and_sizes_below_0_are_refused():
    for sizes, window in (([1], 0), ([-1], 1)):
        with pytest.raises(ValueError, match="1 shard or more"):
            ShardOrder(sizes, window=window, seed=0)


# -- one integer is the place ---------------------------------------------------------------------


def seen(batches: list[LengthBatches], count: int) -> list[int]:
    """What the ranks get together in their next batches, epoch after epoch."""
    got: list[int] = []
    for epoch in itertools.count():
        for b in batches:
            b.set_epoch(epoch)
        for parts in itertools.islice(zip(*batches, strict=True), count):
            assert len({len(p) for p in parts}) == 1
            got += itertools.chain(*parts)
            count -= 1
        if not count:
            return got
    return got


def ranks(lengths: np.ndarray, size: int, world: int, at: int = 0, block: int = 0, **how: Any):
    made = [LengthBatches(lengths, size, rank=r, world_size=world, **how) for r in range(world)]
    for b in made:
        b.position, b.block = at, block or size * world
    return made


def drawn(number: int) -> dict[str, Any]:
    """A random run: its data, and how it goes on after a stop."""
    draw = np.random.default_rng(number)
    sizes = draw.integers(0, 30, draw.integers(1, 12))
    sizes[0] += 40
    before, after = ([int(draw.integers(1, 6)), int(draw.integers(1, 5))] for _ in range(2))
    order = ShardOrder(sizes, window=int(draw.integers(1, 6)), seed=number)
    return {
        "lengths": draw.integers(1, 20, sizes.sum()),
        "before": before,
        "after": after,
        "stop": int(draw.integers(0, 40)),
        "how": {"seed": number, "window": int(draw.integers(1, 6))}
        | ({"order": order} if number % 3 else {}),
    }


@pytest.mark.parametrize("number", range(40))
def test_resumed_on_other_ranks_every_sample_of_each_epoch_comes_exactly_once(number):
    run = drawn(number)
    lengths, (size, world), how = run["lengths"], run["before"], run["how"]
    first = seen(ranks(lengths, size, world, **how), run["stop"])
    at, count = run["stop"] * size * world, len(lengths)
    assert len(first) == at
    other, others = run["after"]
    more = -(-max(3 * count - at, 1) // (other * others))
    second = seen(ranks(lengths, other, others, at, size * world, **how), more)
    whole = (at + len(second)) // count * count
    got = sorted(first + second)
    assert len(got) == len(set(got)) and set(range(whole)) <= set(got)
    assert got[-1] < whole + count
    # Where the global batch stays, the batches are those of the run that never stopped.
    if size * world % others == 0:
        same = size * world // others
        steps = more * other * others // (size * world)
        again = seen(ranks(lengths, same, others, at, **how), steps)
        straight = seen(ranks(lengths, size, world, **how), run["stop"] + steps)
        for begin in range(0, len(again), size * world):
            batch = slice(begin, begin + size * world)
            assert sorted(again[batch]) == sorted(straight[at:][batch])


@pytest.mark.parametrize("skip", [0, 1, 6, 7, 12])
def test_batches_to_be_thrown_away_are_left_empty_and_cost_nothing(skip, monkeypatch):
    lengths = np.arange(100) % 7
    batches = LengthBatches(lengths, 8, window=3)
    expected = list(batches)[skip:]
    batches.skip = skip
    made: list[int] = []
    real = LengthBatches._global_batches
    monkeypatch.setattr(
        LengthBatches, "_global_batches", lambda *a: (made.append(1) or b for b in real(*a))
    )
    again = list(batches)
    assert again[:skip] == [[]] * skip and again[skip:] == expected and len(made) == 12 - skip


def test_going_on_in_the_middle_of_very_many_samples_takes_no_time():
    order = ShardOrder(np.full(10**5, 10**4), window=4, seed=0)
    batches = LengthBatches(np.broadcast_to(np.int64(1), 10**9), 1000, order=order)
    batches.position = 17 * 10**9 + 5 * 10**8 + 123
    started = time.process_time()
    found = next(iter(batches))
    assert time.process_time() - started < 1  # walking there takes several
    assert len(set(found)) == 1000 and {o // 10**9 for o in found} == {17}


def test_any_number_of_workers_gives_the_same_batches():
    order = ShardOrder([9] * 7, window=2, seed=0)

    def run(workers: int) -> list[list[int]]:
        batches = LengthBatches(np.arange(63), 4, order=order)
        batches.position = 10
        loader = DataLoader(
            range(1000),  # pyright: ignore[reportArgumentType]
            batch_sampler=batches, num_workers=workers, collate_fn=list,
        )  # fmt: skip
        return list(loader)

    assert run(0) == run(2) and len(run(0)) == 15
