"""Samples that lie in tar shards and in Parquet: read by their index, and shuffled by windows."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image
from tars import tarred

from unlabel.data_pipes import cells
from unlabel.data_pipes.audio_store import AudioStore, read_audio
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.frame_store import FrameStore
from unlabel.data_pipes.held import Member, shard_sizes
from unlabel.data_pipes.pairs import PairStore, SideData, read_pairs
from unlabel.data_pipes.videos import read_frames


def picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(file, "PNG")
    return file.getvalue()


GREYS = [10, 60, 110, 160, 210]


@pytest.fixture
def in_tars(tmp_path) -> Path:
    for shard, greys in enumerate((GREYS[:2], GREYS[2:])):
        content = {f"{g}.png": picture(g) for g in greys} | {
            f"{g}.cls": b"dark\n" if g < 100 else b"light" for g in greys
        }
        tarred(tmp_path / f"p-{shard:03d}.tar", {**content, "notes.md": b"no picture"})
    return tmp_path


def in_parquet(path: Path, greys: list[int], *, plain: bool = False, **more: Any) -> Path:
    """Row groups of two pictures, as bytes or as `datasets` writes them."""
    held = [picture(g) for g in greys]
    values = (
        held
        if plain
        else [{"bytes": h, "path": f"{g}.png"} for h, g in zip(held, greys, strict=True)]
    )
    table = pa.table({"image": values, **more})
    pq.write_table(table, path, row_group_size=2)
    return path


def greys_of(store: FrameStore) -> list[int]:
    return [int(store[i]["frames"].mean()) for i in range(len(store))]


def test_pictures_in_tars_have_the_classes_beside_them_and_know_their_shards(in_tars):
    for source in (in_tars, str(in_tars / "*.tar"), str(in_tars / "p-{000..001}.tar")):
        data = read_frames(source, jobs=1)
        store = FrameStore(data, size=8, cache_bytes=0)
        assert greys_of(store) == GREYS and store.shards.tolist() == [2, 3]
        assert [data.classes[i] for i in data.labels] == ["dark"] * 2 + ["light"] * 3
        assert [Path(n).name for n in data.report.ignored] == [
            "p-000.tar:notes.md",
            "p-001.tar:notes.md",
        ]


@pytest.mark.parametrize("packed", ["tar", "parquet"])
def test_a_folder_of_kept_frames_serves_shards_in_later_runs_while_they_are_the_same(
    in_tars, tmp_path, packed
):
    source = in_tars / "p-000.tar"
    if packed == "parquet":
        source = in_parquet(tmp_path / "p.parquet", GREYS[:2])

    def held() -> int:
        store = FrameStore(read_frames(source, jobs=1), size=8, cache=tmp_path / "cache")
        before = store._frames.cache.held
        assert greys_of(store) == GREYS[:2]
        return before

    assert [held(), held()] == [0, 2 * 8 * 8 * 3]
    os.utime(source, (1, 1))
    assert held() == 0


def test_recordings_in_a_tar(tmp_path):
    content = {}
    for i in range(3):
        file = io.BytesIO()
        soundfile.write(file, np.sin(np.arange(800) / (5 + i)), 8000, format="WAV")
        content[f"{i}.wav"] = file.getvalue()
    store = AudioStore(
        read_audio(tarred(tmp_path / "a.tar", content), jobs=1), rate=8000, seconds=0.05
    )
    assert store[2]["waveform"].shape == (400,) and store.shards.tolist() == [3]


def test_a_second_file_of_a_stem_is_left_out_of_a_tar_and_told(tmp_path):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8000, format="WAV")
    names = ("take.1.wav", "take.2.wav", "other.wav")
    data = read_audio(tarred(tmp_path / "a.tar", dict.fromkeys(names, file.getvalue())), jobs=1)
    assert [Path(item.name).name for item in data] == ["a.tar:take.1.wav", "a.tar:other.wav"]
    assert "1 left out: a sample of that stem" in data.summary()
    assert "a.tar:take.2.wav" in data.summary()


@pytest.mark.parametrize("plain", [True, False])
def test_pictures_in_parquet_are_read_by_the_row_group(tmp_path, plain, monkeypatch):
    labels = ["dark", "dark", "light", "light", "light"]
    path = in_parquet(tmp_path / "p.parquet", GREYS, plain=plain, label=labels)
    data = read_frames(path, jobs=1)
    store = FrameStore(data, size=8, cache_bytes=0)
    assert [data.classes[i] for i in data.labels] == labels
    assert store.shards.tolist() == [2, 2, 1]
    cells._kept.clear()
    groups: list[int] = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda f, g, **k: (groups.append(g), real(f, g, **k))[1]
    )
    assert greys_of(store) == GREYS and groups == [0, 1, 2]  # each once, and not for each row
    monkeypatch.setattr(cells, "_ROOM", 1)
    cells._kept.clear()
    assert int(store[4]["frames"].mean()) == 210 and int(store[0]["frames"].mean()) == 10
    assert groups[3:] == [2, 0] and len(cells._kept) == 1


def test_several_parquet_files_are_one_source_and_a_path_column_is_still_a_list(tmp_path):
    in_parquet(tmp_path / "a.parquet", GREYS[:3])
    in_parquet(tmp_path / "b.parquet", GREYS[3:])
    store = FrameStore(read_frames(str(tmp_path / "*.parquet"), jobs=1), size=8, cache_bytes=0)
    assert greys_of(store) == GREYS and store.shards.tolist() == [2, 1, 2]
    (tmp_path / "own.png").write_bytes(picture(77))
    pd.DataFrame({"path": ["own.png"]}).to_parquet(tmp_path / "list.parquet")
    listed = FrameStore(read_frames(tmp_path / "list.parquet", jobs=1), size=8, cache_bytes=0)
    assert greys_of(listed) == [77] and listed.shards is None


def test_a_parquet_that_changes_under_the_run_or_has_an_empty_field_is_told(tmp_path):
    path = in_parquet(tmp_path / "p.parquet", GREYS)
    first = next(cells.cells_of(path, "image"))
    assert first.load() == {"bytes": picture(10), "path": "10.png"}
    os.utime(path, (1, 1))
    with pytest.raises(DecodeError, match="row 0 of group 0: the file changed"):
        first.load()
    pq.write_table(pa.table({"image": [b"", None]}), path)
    for cell in cells.cells_of(path, "image"):
        with pytest.raises(DecodeError, match="the field is empty"):
            cell.load()


def test_pairs_in_parquet_hold_no_picture_in_memory(tmp_path):
    texts = [f"of grey {g}" for g in GREYS]
    path = in_parquet(tmp_path / "p.parquet", GREYS, caption=[*texts[:4], None])
    data = read_pairs(path, {"text": "caption", "frames": "image"})
    assert data.columns["text"] == texts[:4] and data.report.dropped == {"without_text": 1}
    assert [c.load()["bytes"] for c in data.columns["frames"]] == [picture(g) for g in GREYS[:4]]
    alone = read_pairs(path, {"frames": "image"})
    assert len(alone) == 5 and alone.columns["frames"][:4] == data.columns["frames"]
    sides = {n: SideData(_Lengths(4), np.arange(4)) for n in data.columns}
    assert PairStore(sides, data).shards.tolist() == [2, 2]


class _Lengths:
    """A store of which only the lengths are asked."""

    def __init__(self, count: int):
        self.lengths = np.ones(count)

    def __len__(self) -> int:
        return len(self.lengths)


def test_what_lies_in_no_shard_has_no_sizes():
    member = Member("a.tar", "x", 0, 1, (0, 0))
    assert shard_sizes([member, member]).tolist() == [2]  # pyright: ignore
    assert shard_sizes([member, "a path"]) is None and shard_sizes(["a path"]) is None
