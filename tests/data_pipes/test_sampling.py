import itertools

import numpy as np
import pytest
from torch.utils.data import DataLoader

from unlabel.data_pipes.sampling import LengthBatches, StreamBatches
from unlabel.data_pipes.text import read_text


def lengths_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(3, 40, count)


def whole_epoch(count: int, size: int, world: int, epoch: int = 0, **options) -> list[list[int]]:
    """The global batches, each as its ranks' samples joined and sorted."""
    ranks = []
    for rank in range(world):
        batches = LengthBatches(
            lengths_of(count), size // world, rank=rank, world_size=world, **options
        )
        batches.set_epoch(epoch)
        ranks.append(list(batches))
        assert len(ranks[-1]) == len(batches)
    return [sorted(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 100, 1003])
@pytest.mark.parametrize("window", [1, 3, 50])
def test_batches_are_full_and_every_sample_comes_once_in_each_epoch(count, window):
    epochs = 12  # of count // 8 batches each: what does not fill one runs on into the next
    batches = [b for e in range(epochs) for b in whole_epoch(count, 8, 2, e, window=window)]
    ordinals = list(itertools.chain(*batches))
    assert len(batches) == epochs * (count // 8) and all(len(b) == 8 for b in batches)
    whole = len(ordinals) // max(count, 1) * count
    assert len(ordinals) == len(set(ordinals)) and set(range(whole)) <= set(ordinals)
    late = [o for o in ordinals if o >= whole]
    assert len(late) < max(count, 1) and all(o < whole + count for o in late)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_global_batches_are_the_same_for_any_number_of_ranks(world):
    assert whole_epoch(1003, 16, world, 1, seed=5) == whole_epoch(1003, 16, 1, 1, seed=5)


def test_epochs_and_seeds_differ_and_the_same_ones_repeat():
    first = whole_epoch(200, 8, 1)
    assert first == whole_epoch(200, 8, 1)
    assert first != whole_epoch(200, 8, 1, seed=1)
    second = [[o - 200 for o in b] for b in whole_epoch(200, 8, 1, 1)]
    assert first != second


def test_sentences_of_a_batch_are_of_like_length_and_batches_come_in_no_order_of_length():
    lengths = lengths_of(6400)
    batches = list(LengthBatches(lengths, 64, window=50))
    spread = [np.ptp(lengths[b]) for b in batches]
    assert np.mean(spread) < 3
    means = np.array([lengths[b].mean() for b in batches])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


def test_ranks_have_equally_long_sentences():
    lengths = lengths_of(6400)
    ranks = [list(LengthBatches(lengths, 16, rank=r, world_size=4)) for r in range(4)]
    for parts in zip(*ranks, strict=True):
        longest = [lengths[p].max() for p in parts]
        assert max(longest) - min(longest) <= 2


def test_texts_of_a_sample_are_padded_apart_and_sorted_by_their_sum():
    first = lengths_of(6400)
    both = np.stack([first, first[::-1]], 1)
    batches = LengthBatches(both, 64)
    assert list(batches) == list(LengthBatches(both.sum(1), 64))
    padded = sum(both[b].max(0).sum() * len(b) for b in batches)
    assert batches.padding_share()["by_length"] == pytest.approx(1 - both.sum() / padded)


def test_padding_share_is_that_of_the_batches_and_small_by_length():
    lengths = lengths_of(6400)
    batches = LengthBatches(lengths, 64)
    padded = sum(lengths[b].max() * len(b) for b in batches)
    share = batches.padding_share()
    later = LengthBatches(batches.lengths, batches.batch_size)
    later.epoch, later.position = 3, 17
    assert later.padding_share() == share  # however far a run has come
    assert share["by_length"] == pytest.approx(1 - lengths.sum() / padded)
    assert share["by_length"] < 0.05 < 0.3 < share["shuffled"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"window": 0}, "window is at least 1"),
        ({"rank": 2, "world_size": 2}, "rank=2 is not one of the 2 ranks"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LengthBatches([3] * 10, **{"batch_size": 4, **options})
    with pytest.raises(ValueError, match=message):
        StreamBatches(["a"], tokenize, **{"batch_size": 4, **options})


def tokenize(texts: list[str]) -> list[list[int]]:
    return [[2, *map(len, t.split()), 3] for t in texts]


LINES = [f"{'word ' * (i % 11)}number {i}" for i in range(205)]


def stream(**options) -> StreamBatches:
    return StreamBatches(read_text(LINES, streaming=True), tokenize, 8, window=3, **options)  # pyright: ignore


def run(batches: StreamBatches, workers: int = 0) -> list[list[tuple[int, int]]]:
    loader = DataLoader(batches, batch_size=None, num_workers=workers, collate_fn=list)
    return [[(s["ordinal"], s["index"]) for s in batch] for batch in loader]


@pytest.mark.parametrize("passes", [1, 2])
def test_a_stream_gives_every_record_once_a_pass_but_for_the_tail(passes):
    seen = list(itertools.chain(*run(stream(passes=passes))))
    total = passes * len(LINES)
    assert len(seen) == len(set(seen)) == total - total % 8
    assert all(ordinal % len(LINES) == index for ordinal, index in seen)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_stream(workers):
    assert run(stream(passes=2), workers) == run(stream(passes=2))


def test_a_datasets_stream_gives_the_same_with_and_without_workers():
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": LINES}).to_iterable_dataset(num_shards=4)
    source = read_text(made.with_format("torch"), streaming=True)
    batches = StreamBatches(source, tokenize, 8, window=3)  # pyright: ignore
    assert run(batches, 2) == run(batches)
    assert len(run(batches)) == 25


@pytest.mark.parametrize("start", [0, 1, 3, 5, 24, 30, 60])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumed_at_a_batch_continues_as_if_never_stopped(start, workers):
    expected = run(stream(passes=2))[start:]
    resumed = stream(passes=2)
    resumed.start = start
    assert run(resumed, workers) == expected


def test_a_stream_makes_the_same_global_batches_for_any_number_of_ranks():
    alone = [sorted(b) for b in run(stream())]
    source = read_text(LINES, streaming=True)
    ranks = [
        run(StreamBatches(source, tokenize, 4, window=3, rank=r, world_size=2))  # pyright: ignore
        for r in range(2)
    ]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == alone


def test_batches_of_a_stream_are_of_like_length_by_the_measure_given():
    for length_of in (len, lambda t: len(t.split())):
        batches = list(StreamBatches(LINES, tokenize, 8, window=20, length_of=length_of))
        spread = [np.ptp([length_of(LINES[s["index"]]) for s in b]) for b in batches]
        assert np.mean(spread) < 0.3 * np.ptp([length_of(line) for line in LINES])


def test_an_endless_stream_goes_on_past_the_end_of_its_source():
    batches = list(itertools.islice(stream(passes=None), 100))
    assert max(s["ordinal"] for b in batches for s in b) > 3 * len(LINES)


def test_partners_of_a_stream_stay_with_their_record():
    pairs = [(f"left {i}", f"right side {i}") for i in range(16)]
    source = read_text(pairs, columns=("a", "b"), streaming=True)
    for sample in itertools.chain(*StreamBatches(source, lambda t: [[x] for x in t], 4)):  # pyright: ignore
        (left,), (right,) = sample["input_ids"], sample["partners"]["positive"]
        assert (left, right) == pairs[sample["index"]]


def test_a_stream_that_can_be_read_only_once_is_refused():
    with pytest.raises(ValueError, match="TextStream"):
        StreamBatches(iter(LINES), tokenize, 4)


def test_an_epoch_of_very_many_samples_is_in_order_and_holds_none_of_them(monkeypatch):
    count = 10**12
    batches = LengthBatches(np.broadcast_to(np.int64(9), count), 4, world_size=2)
    rows = [next(iter(batches)) for _ in range(2)]
    assert rows[0] == rows[1] and len(set(rows[0])) == 4
    assert np.mean(rows[0]) > 10**10  # not the first ones
    assert batches.padding_share() == {"by_length": 0.0, "shuffled": 0.0}
    monkeypatch.setattr("unlabel.data_pipes.sampling._HELD", 10)
    small = LengthBatches(np.arange(103), 1, seed=3)
    assert sorted(i for batch in small for i in batch) == list(range(103))
