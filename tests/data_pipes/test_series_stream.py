"""Series read while training: the same as at once, every window once, resumable anywhere."""

from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from torch.utils.data import DataLoader

from unlabel.data_pipes.series import Reading, read_series
from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.data_pipes.series_stream import stream_series
from unlabel.data_pipes.stream_windows import StreamWindows


def rows(count: int = 70):
    """Series i has 8 + i % 5 steps; step t holds 1000 i + t."""
    for i in range(count):
        times = pd.date_range("2024-01-01", periods=8 + i % 5, freq="h")
        yield {
            "item_id": f"s{i}",
            "start": "2024-01-01",
            "timestamp": list(times),
            "target": [1000.0 * i + t for t in range(8 + i % 5)],
        }


@pytest.fixture
def stream():
    return stream_series(datasets.IterableDataset.from_generator(rows))


def same(one: Series, other: Series) -> None:
    assert (one.id, one.freq, one.start, one.names) == (
        other.id,
        other.freq,
        other.start,
        other.names,
    )
    np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize("kind", ["stream", "dataset", "parquet", "csv"])
def test_a_stream_gives_the_series_that_reading_gives(kind, tmp_path):
    table = pd.DataFrame(list(rows()))
    source: Any = {
        "stream": lambda: datasets.IterableDataset.from_generator(rows),
        "dataset": lambda: datasets.Dataset.from_pandas(table),
        "parquet": lambda: table.to_parquet(tmp_path / "a.parquet") or tmp_path,
        "csv": lambda: (
            table.explode(["timestamp", "target"]).to_csv(tmp_path / "a.csv", index=False)
            or tmp_path
        ),
    }[kind]()
    expected = read_series(table if kind != "csv" else source)
    found = stream_series(source)
    for _ in range(2):  # each pass is the same
        again = list(found)
        assert len(again) == 70
        for one, other in zip(again, expected, strict=True):
            same(one, other)
    assert found.report.kept == expected.report.kept
    assert len(list(stream_series(source, limit=3))) == 3


def test_one_date_for_a_whole_series_is_no_time_of_its_steps():
    table = pd.DataFrame(list(rows(3))).drop(columns="timestamp")
    data = read_series(table)
    assert [len(s) for s in data] == [8, 9, 10] and data[0].freq is None
    assert "1 column not used (DataFrame: 'start'; give freq=" in data.summary()


def test_series_without_ids_are_counted_through_the_batches():
    made = datasets.Dataset.from_dict({"target": [[1.0, 2.0]] * 40})
    assert [s.id for s in stream_series(made)] == [str(i) for i in range(40)]


def windows(source, **about) -> StreamWindows:
    return StreamWindows(source, 4, **{"ahead": 60, "context": 5, **about})


def run(batches: StreamWindows, workers: int = 0) -> list[list[tuple]]:
    def flat(samples):
        return [(s["ordinal"], s["index"], *s["values"][:, 0].tolist()) for s in samples]

    loader = DataLoader(batches, batch_size=None, collate_fn=flat, num_workers=workers)
    return list(loader)


def test_every_window_comes_once_a_pass_and_in_another_order_in_the_next(stream):
    batches = run(windows(stream, passes=2))
    store = SeriesStore(stream, context=5)
    found = [row for batch in batches for row in batch]
    assert len(found) == 2 * len(store) // 4 * 4
    expected = {(i, *store[i]["values"][:, 0].tolist()) for i in range(len(store))}
    first = [row[1:] for row in found if row[0] < len(store)]
    second = [row[1:] for row in found if row[0] >= len(store)]
    assert set(first) == expected and len(first) == len(store)
    assert set(second) <= expected and len(second) > len(store) - 4
    assert first[: len(second)] != second
    for ordinal, index, *_ in found:
        assert index == ordinal % len(store)


def test_windows_of_several_series_meet_in_a_batch(stream):
    batches = run(windows(stream, ahead=300))
    series = [len({int(row[2]) // 1000 for row in batch}) for batch in batches]
    assert np.mean(series) > 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 7, 60, 110])
def test_a_stream_resumed_at_a_batch_continues_as_if_never_stopped(stream, start, workers):
    expected = run(windows(stream, passes=2))
    resumed = windows(stream, passes=2)
    resumed.start = start
    assert len(expected) > 110
    assert run(resumed, workers) == expected[start:]


@pytest.mark.parametrize(("kind", "files", "workers"), [("csv", 14, 2), ("parquet", 2, 0)])
def test_a_stream_of_files_is_entered_at_marks_and_goes_on_as_if_never_stopped(
    kind, files, workers, tmp_path, monkeypatch
):
    for part in range(files):
        table = pd.DataFrame(list(rows())[70 * part // files : 70 * (part + 1) // files])
        if kind == "parquet":
            table.to_parquet(tmp_path / f"{part:02}.parquet")
        else:
            table = table.explode(["timestamp", "target"])
            table.to_csv(tmp_path / f"{part:02}.csv", index=False)
    stream, parts, read = stream_series(tmp_path, limit=68), [], Reading.read

    def counted(self, name, part, **how):
        parts.append(name)
        return read(self, name, part, **how)

    monkeypatch.setattr(Reading, "read", counted)

    def resumed(start, **about):
        made = windows(stream, passes=2, **about)
        made.start, made.marks = start, tmp_path / "marks.jsonl"
        return made

    plain = run(windows(stream, passes=2))
    whole = len(parts)
    assert run(resumed(0), workers) == plain and len(plain) > 110
    for start in (1, 60, len(plain) - 1):
        parts.clear()
        assert run(resumed(start)) == plain[start:]
        assert len(parts) <= whole * (1 - start / len(plain)) + 3
    # Marks are of one seed: what is left over from part to part hangs on it.
    assert run(resumed(60, seed=1)) == run(windows(stream, passes=2, seed=1))[60:]


def test_two_ranks_share_the_batches_of_one(stream):
    whole = run(StreamWindows(stream, 8, ahead=60, context=5))
    parts = [run(windows(stream, rank=r, world_size=2)) for r in (0, 1)]
    for batch, one, other in zip(whole, *parts, strict=True):
        assert batch[::2] == one and batch[1::2] == other


def test_another_seed_gives_other_batches(stream):
    assert run(windows(stream)) == run(windows(stream)) != run(windows(stream, seed=1))


def test_settings_of_the_windows_are_those_of_a_store():
    series = [
        Series(f"s{i}", (100 * i + np.arange(20) + np.array([[0.0], [0.5]])).T.astype(np.float32))
        for i in range(9)
    ]
    made = windows(series, sensor=True, horizon=2, stride=3, rows=(0.0, 0.5), balance="series")
    found = [s for batch in made for s in batch]
    assert len(found) == 9 * 2 * 2 // 4 * 4  # windows at rows 0 and 3 of 10, 2 channels
    for sample in found:
        other = sample["partners"]["sensor"]["values"]
        assert set(np.abs(other - sample["values"]).ravel()) == {0.5}
        assert sample["values"].shape == (7, 1) and sample["values"][0, 0] % 100 < 4


def test_balanced_series_draw_other_windows_in_the_next_pass():
    series = [Series(f"s{i}", np.arange(300, dtype=np.float32)[:, None]) for i in range(2)]
    found = [row for batch in run(windows(series, balance="series", passes=2)) for row in batch]
    passes = [{row[2] for row in found if row[0] // 592 == i} for i in (0, 1)]
    assert len(found) == 2 * 592  # of 2 series of 296 windows, about 63 % of which are drawn
    assert all(150 < len(drawn) < 290 for drawn in passes) and passes[0] != passes[1]


def test_series_too_short_are_left_out_and_a_stream_of_nothing_else_is_refused(stream):
    assert len(run(windows(stream, context=12, min_length=12))) == 14 // 4
    with pytest.raises(ValueError, match=r"no window of context 90 \+ horizon 0 in a whole pass"):
        run(windows(stream, context=90, min_length=90))


def test_what_cannot_be_streamed_is_refused_in_a_sentence(tmp_path):
    long = datasets.Dataset.from_dict({"item_id": ["a", "a"], "target": [1.0, 2.0]})
    with pytest.raises(ValueError, match="a row holds one step of a series"):
        stream_series(long)
    with pytest.raises(ValueError, match="a DataFrame came; what is in memory already"):
        stream_series(pd.DataFrame({"a": [1.0]}))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        stream_series(tmp_path / "nowhere")
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.parquet: it cannot be read"):
        stream_series(tmp_path)
    with pytest.raises(ValueError, match="limit must be 1 or more"):
        stream_series(long, limit=0)
    with pytest.raises(ValueError, match="read anew to resume"):
        StreamWindows(iter([]), 4, context=3)
    with pytest.raises(ValueError, match="ahead is at least 1, but 0"):
        StreamWindows([], 4, ahead=0, context=3)
