"""Series that stay on disk: the right rows, and never the whole file."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_store import SeriesStore


def write(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    made = {"a": random.normal(size=(20, 3)), "b": random.normal(size=9)}
    return made | {"c": random.normal(size=(2, 12, 3)).astype(np.float32)}


def test_mapped_files_give_the_windows_of_a_store_in_memory(arrays, tmp_path):
    folder = write(tmp_path / "npy", **arrays)
    series = [Series("a", arrays["a"]), Series("b", arrays["b"][:, None])]
    series += [Series(f"c:{i}", x) for i, x in enumerate(arrays["c"])]
    about = {"context": 5, "horizon": 2, "stride": 2, "balance": "series"}
    held = SeriesStore(series, **about)
    store = SeriesStore.from_npy(folder, **about)
    assert store.ids == held.ids and len(store) == len(held)
    for i in range(2 * len(store)):
        found = store[i]["values"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, held[i]["values"])
        assert store.place(i) == held.place(i)
    together = SeriesStore.from_npy(folder / "c.npy", context=5, channels="together")
    np.testing.assert_array_equal(together[9]["values"], arrays["c"][1, 1:6])
    assert "missing" not in store.summary()


def test_a_window_of_float32_is_a_slice_of_the_file(arrays, tmp_path):
    folder = write(tmp_path, c=arrays["c"])
    store = SeriesStore.from_npy(folder, context=5, sensor=True)
    base = store[3]["values"]
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert base.base is not None  # the mapped file
    assert not store[3]["values"].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        store[3]["values"][0] = 1


def test_columns_in_fortran_order_come_out_right(arrays, tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(arrays["a"]))
    store = SeriesStore.from_npy([tmp_path / "f.npy"], context=4, channels="together")
    np.testing.assert_array_equal(store[7]["values"], arrays["a"][7:11].astype(np.float32))


def test_more_files_than_a_process_may_open_are_read(tmp_path):
    folder = write(tmp_path, **{f"s{i:04}": np.full(4, i, np.float32) for i in range(1500)})
    store = SeriesStore.from_npy(folder, context=4)
    assert [store[i]["values"][0, 0] for i in range(1500)] == list(range(1500))
    assert len(pickle.loads(pickle.dumps(store))) == 1500


CHILD = """
import resource, sys
import numpy as np
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_store import SeriesStore

held = int(next(x for x in open("/proc/self/status") if x.startswith("VmData")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (held + (64 << 20),) * 2)
store = {make}
print(len(store), sum(float(store[i * 65_537]["values"][-1, 0]) for i in range(900)))
"""


def run(make: str) -> subprocess.CompletedProcess:
    code = CHILD.format(make=make)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit holds on Linux")
def test_a_file_of_more_than_memory_is_never_loaded(tmp_path):
    steps = 60 << 20  # 240 MB, sparse on disk, against 64 MB that the process may take
    np.lib.format.open_memmap(tmp_path / "long.npy", "w+", np.float32, (steps,))
    made = run(f"SeriesStore.from_npy({str(tmp_path)!r}, context=336)")
    assert made.stdout.split() == [str(steps - 335), "0.0"], made.stderr
    made = run(f"SeriesStore(read_series({str(tmp_path)!r}), context=336)")
    assert made.returncode and "MemoryError" in made.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit holds on Linux")
def test_a_stream_of_more_than_memory_becomes_a_store_on_disk(tmp_path):
    series = "(Series(str(i), np.full((1 << 20, 1), 0, np.float32)) for i in range(60))"
    made = run(f"SeriesStore({series}, context=336, path={str(tmp_path / 'store')!r})")
    assert made.stdout.split()[0] == str(60 * ((1 << 20) - 335)), made.stderr
    assert len(SeriesStore.open(tmp_path / "store", context=1000)) == 60 * ((1 << 20) - 999)


def test_what_cannot_be_mapped_is_refused_by_name(tmp_path):
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"t\.csv: only plain \.npy files"):
        SeriesStore.from_npy(tmp_path / "t.csv", context=4)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"words\.npy: an array of <U1 and shape \(2,\)"):
        SeriesStore.from_npy(tmp_path, context=4)
    (tmp_path / "words.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"words\.npy: it cannot be mapped"):
        SeriesStore.from_npy(tmp_path, context=4)
    folder = write(tmp_path / "two", a=np.zeros((9, 2)), b=np.zeros((9, 3)))
    with pytest.raises(ValueError, match="'a' has 2 channels and 'b' has 3"):
        SeriesStore.from_npy(folder, context=4, channels="together")
    with pytest.raises(ValueError, match="A store has no strid; it has horizon, stride"):
        SeriesStore.from_npy(folder, context=4, strid=2)


def test_a_mapped_file_that_changed_before_it_is_opened_is_refused_by_name(tmp_path):
    store = SeriesStore.from_npy(write(tmp_path, a=np.arange(9.0)), context=4)
    write(tmp_path, a=np.arange(7.0))
    with pytest.raises(ValueError, match=r"a\.npy changed since it was looked into"):
        store[0]
