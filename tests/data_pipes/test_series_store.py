import pickle
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import Series, SeriesData
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.kinds.series import SeriesOptions
from unlabel.objectives import HierarchicalContrast
from unlabel.training.arguments import TrainingArguments


def ramp(steps: int, channels: int = 2, first: int = 0, **about) -> Series:
    """Channel c at step t holds first + t + c / 10."""
    values = first + np.arange(steps)[:, None] + np.arange(channels) / 10
    return Series(f"s{first}", values.astype(np.float32), **about)


@pytest.fixture
def data() -> SeriesData:
    return SeriesData([ramp(10), ramp(3, first=100), ramp(1, first=200), ramp(7, first=300)])


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("channels", ["independent", "together"])
def test_every_window_of_every_series_comes_once(data, tmp_path, in_folder, channels):
    path = tmp_path / "store" if in_folder else None
    store = SeriesStore(data, context=3, horizon=2, channels=channels, min_length=3, path=path)
    expected = []
    for series in data:
        steps = len(series)
        for start in range(max(steps - 4, 1 if steps >= 3 else 0)):
            window = series.values[start : start + 5]
            expected += np.split(window, 2, axis=1) if channels == "independent" else [window]
    assert len(store) == len(expected) == (6 + 1 + 3) * (2 if channels == "independent" else 1)
    for i, window in enumerate(expected):
        np.testing.assert_array_equal(store[i]["values"], window)
    assert store.too_short == ["s200"]
    assert "1 series shorter than a window kept, 1 series too short left out (s200)" in (
        store.summary()
    )


def test_the_stride_leaves_out_the_windows_between():
    store = SeriesStore([ramp(10, 1)], context=4, stride=3)
    assert [store[i]["values"][0, 0] for i in range(len(store))] == [0, 3, 6]
    assert store.place(2) == ("s0", 6, 0)


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("channels", ["independent", "together"])
def test_an_item_shares_memory_with_the_store_and_cannot_be_written(
    data, tmp_path, in_folder, channels
):
    path = tmp_path if in_folder else None
    store = SeriesStore(data, context=4, channels=channels, path=path)
    for i in range(len(store)):
        assert np.shares_memory(store[i]["values"], store._values.flat)
    with pytest.raises(ValueError, match="read-only"):
        store[0]["values"][0] = 1.0


def test_covariates_statics_and_labels_go_with_their_window():
    about = {"static": np.array([1, 2], np.float32), "label": 3}
    second = ramp(8, 2, first=50, covariates=np.arange(16, dtype=np.float32).reshape(8, 2), **about)
    first = ramp(5, 2, covariates=np.zeros((5, 2), np.float32), **about)
    store = SeriesStore([first, second], context=4, channels="together")
    sample = store[3]  # first has the windows 0 and 1
    assert sample["values"][:, 0].tolist() == [51, 52, 53, 54]
    assert sample["covariates"].tolist() == [[2, 3], [4, 5], [6, 7], [8, 9]]
    assert np.shares_memory(sample["covariates"], store._covariates)
    assert (sample["static"].tolist(), sample["label"]) == ([1, 2], 3)
    assert set(SeriesStore([ramp(5)], context=4)[0]) == {"values", "index", "ordinal"}


def test_an_ordinal_of_a_later_epoch_names_the_same_window(data):
    store = SeriesStore(data, context=3)
    sample = store[4 * len(store) + 5]
    assert (sample["index"], sample["ordinal"]) == (5, 4 * len(store) + 5)
    np.testing.assert_array_equal(sample["values"], store[5]["values"])
    with pytest.raises(IndexError, match="0 or more"):
        store[-1]
    assert store.lengths.tolist() == [3] * len(store)


def test_the_sensor_partner_is_each_other_channel_equally_often_and_never_the_same():
    store = SeriesStore([ramp(900, 4)], context=3, sensor=True)
    own = np.array([store[i]["values"][0, 0] for i in range(len(store))])
    other = np.array([store[i]["partners"]["sensor"]["values"][0, 0] for i in range(len(store))])
    np.testing.assert_array_equal(np.floor(own), np.floor(other))  # of the same time
    own, other = np.round(own % 1 * 10).astype(int), np.round(other % 1 * 10).astype(int)
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (own, other), 1)
    assert (np.diag(pairs) == 0).all()
    # 898 draws among 3: the standard deviation of a count is sqrt(898 * 2 / 9) = 14.
    assert abs(pairs[~np.eye(4, dtype=bool)] - 898 / 3).max() < 5 * 14
    again = store[len(store) + 7], store[7]
    epochs = {store[e * len(store)]["partners"]["sensor"]["values"][0, 0] for e in range(20)}
    assert len(epochs) == 3
    np.testing.assert_array_equal(again[0]["values"], again[1]["values"])


def test_a_part_holds_its_rows_only_and_copies_nothing(data):
    store = SeriesStore([ramp(20, 1)], context=3, horizon=1)
    parts = store.part(0, 12), store.part(9, 16), store.part(-4), store.part(0.0, 0.5)
    spans = [(p[0]["values"][0, 0], p[len(p) - 1]["values"][-1, 0], len(p)) for p in parts]
    assert spans == [(0, 11, 9), (9, 15, 4), (16, 19, 1), (0, 9, 7)]
    assert all(np.shares_memory(p[0]["values"], store._values.flat) for p in parts)
    assert len(store) == 17
    with pytest.raises(ValueError, match="longest of 1 series has 2"):
        store.part(0, 2)


def test_a_part_of_a_folder_travels_as_the_folders_name_and_its_rows(tmp_path):
    store = SeriesStore([ramp(5000, 2)], context=8, path=tmp_path).part(100, 200)
    assert len(pickle.dumps(store)) < 600
    again = pickle.loads(pickle.dumps(store))
    assert len(again) == len(store) == 2 * 93
    np.testing.assert_array_equal(again[5]["values"], store[5]["values"])


def test_a_store_in_memory_stays_read_only_on_its_way_to_a_worker(data):
    again = pickle.loads(pickle.dumps(SeriesStore(data, context=3)))
    assert not again[0]["values"].flags.writeable


def test_the_windows_of_the_usual_split_are_as_many_as_the_tables_say():
    # LTSF: ETTh rows 8640 / 11520 / 14400; inputs may reach back over the border.
    store = SeriesStore([ramp(17420, 7)], context=336, horizon=96, channels="together")
    parts = store.part(0, 8640), store.part(8640 - 336, 11520), store.part(11520 - 336, 14400)
    assert [len(p) for p in parts] == [8640 - 336 - 96 + 1, 2785, 2785]


def test_a_written_store_opens_with_another_window(data, tmp_path):
    store = SeriesStore(data, context=3, path=tmp_path)
    assert SeriesStore.open(tmp_path).summary() == store.summary()
    wider = SeriesStore.open(tmp_path, context=5, horizon=2)
    assert wider[0]["values"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_damaged_store_is_refused_by_name(data, tmp_path):
    SeriesStore(data, context=3, path=tmp_path)
    values = tmp_path / "values.float32"
    values.write_bytes(values.read_bytes()[:-4])
    with pytest.raises(ValueError, match="no whole series store"):
        SeriesStore.open(tmp_path)
    with pytest.raises(ValueError, match="nowhere"):
        SeriesStore.open(tmp_path / "nowhere")


def test_balanced_series_come_equally_often_whatever_their_length():
    store = SeriesStore([ramp(1000, 1), ramp(5, 1, first=5000)], context=4, balance="series")
    starts = np.array([store[i]["values"][0, 0] for i in range(len(store))])
    assert (starts >= 5000).sum() == pytest.approx(len(store) / 2, abs=1)
    assert len(np.unique(starts[starts < 5000])) > 300  # of 500 draws among 997 windows


def collate(samples):
    return [(s["ordinal"], s["values"].copy(), s["partners"]["sensor"]["values"]) for s in samples]


@pytest.mark.parametrize("in_folder", [False, True])
def test_workers_give_the_same_samples_as_none(data, tmp_path, in_folder):
    store = SeriesStore(data, context=3, sensor=True, path=tmp_path if in_folder else None)

    def read(workers: int, **options):
        pairs: Any = store  # map-style, as a DataLoader takes it
        batches = [[3, 1], [len(store) + 4, 7], [20, 11]]
        loader = DataLoader(
            pairs, batch_sampler=batches, collate_fn=collate, num_workers=workers, **options
        )
        return [sample for batch in loader for sample in batch]

    for mine, its in zip(read(0), read(2, multiprocessing_context="fork"), strict=True):
        assert mine[0] == its[0]
        np.testing.assert_array_equal(mine[1], its[1])
        np.testing.assert_array_equal(mine[2], its[2])


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        ([], {}, "no series"),
        ([ramp(9)], {"context": 0}, "context is at least 1, but 0"),
        ([ramp(9)], {"horizon": -1}, "horizon is at least 0"),
        ([ramp(9)], {"stride": 0}, "stride is at least 1"),
        ([ramp(9)], {"channels": "mixed"}, "'independent' or 'together', but 'mixed'"),
        ([ramp(9)], {"balance": "x"}, "'windows' or 'series'"),
        ([ramp(9)], {"context": 90, "min_length": 10}, "90 .* longest of 1 series has 9"),
        ([ramp(9, 1)], {"sensor": True}, "only one"),
        ([ramp(9)], {"sensor": True, "channels": "together"}, "pairs single channels"),
        ([ramp(9, 1), ramp(9, 2)], {"channels": "together"}, "has 1 channels and 's0' has 2"),
        ([ramp(9), ramp(9, static=np.ones(1, np.float32))], {}, "different static"),
    ],
)
def test_a_store_that_cannot_be_made_is_refused(series, options, message):
    with pytest.raises(ValueError, match=message):
        SeriesStore(series, **{"context": 4, **options})


def test_series_of_different_channels_are_stored_one_by_one():
    store = SeriesStore([ramp(5, 1), ramp(4, 3, first=10)], context=4)
    np.testing.assert_allclose(
        [store[i]["values"][0, 0] for i in range(len(store))], [0, 1, 10, 10.1, 10.2], rtol=1e-6
    )


def test_a_run_takes_a_folder_that_a_store_wrote_by_text_or_path(tmp_path):
    SeriesStore(read_series(np.arange(40.0)), context=8, path=tmp_path / "store")
    args = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")
    config = {"model_type": "dilated_conv", "hidden_size": 8, "num_hidden_layers": 1}
    for data in (str(tmp_path / "store"), tmp_path / "store"):
        prepared = SeriesOptions(context=8, config=config).prepare(
            data, HierarchicalContrast(), args, None
        )
        assert prepared.samples == 33
