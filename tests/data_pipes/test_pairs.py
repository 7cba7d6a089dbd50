"""Samples of several sides, from lists, data sets, folders and shards."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tars import add_files, tarred

from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.held import Member, Row
from unlabel.data_pipes.pair_values import distinct
from unlabel.data_pipes.pairs import PairData, PairStore, SideData, read_pairs
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.shards import shards_of

CAPTIONS = ["a red circle", "a blue square", "a green star"]
BOTH: dict[str, Any] = {"columns": {"text": "caption", "series": "path"}}


@pytest.fixture
def files(tmp_path) -> Path:
    """Three series in files of their own, in a sub-folder of where the lists will lie."""
    (tmp_path / "own").mkdir()
    for i in range(3):
        np.save(tmp_path / "own" / f"{i}.npy", np.arange(20.0) + i)
    return tmp_path


def rows(**more: Any) -> list[dict[str, Any]]:
    """A row for each series."""
    return [{"path": f"own/{i}.npy", "caption": c, **more} for i, c in enumerate(CAPTIONS)]


def write(folder: Path, kind: str, table: list[dict[str, Any]], name: str = "list") -> Path:
    """A list of this kind of file."""
    path, frame = folder / f"{name}.{kind}", pd.DataFrame(table)
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif kind == "json":
        path.write_text(json.dumps(table))
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if kind == "tsv" else ",", index=False)
    return path


# -- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_list_of_any_kind_names_pairs_relative_to_itself(files, kind):
    data = read_pairs(write(files, kind, rows()), **BOTH)
    assert data.columns["text"] == CAPTIONS
    assert data.columns["series"] == [str(files / f"own/{i}.npy") for i in range(3)]


def test_several_lists_tables_and_data_sets_are_read_alike(files, monkeypatch):
    import datasets

    one = write(files, "csv", rows()[:1], "one")
    two = write(files, "jsonl", rows()[1:], "two")
    assert read_pairs([one, two], **BOTH).columns["text"] == CAPTIONS
    assert read_pairs(str(files / "*.*"), **BOTH).columns["text"] == CAPTIONS
    monkeypatch.chdir(files)  # what is no file has no folder: paths are those of the process
    for source in (pd.DataFrame(rows()), rows(), datasets.Dataset.from_list(rows())):
        data = read_pairs(source, **BOTH)
        assert data.columns["text"] == CAPTIONS and len(data.columns["series"]) == 3


def test_a_missing_half_drops_its_pair_alone_and_is_counted_and_named(files):
    table = [*rows(), {"path": "own/9.npy", "caption": "gone"}, {"path": "", "caption": "none"}]
    table += [{"path": "own/1.npy", "caption": "  "}, {"path": "own/1.npy", "caption": "a\0b"}]
    data = read_pairs(write(files, "jsonl", table), **BOTH)
    assert len(data) == 3 and data.report.lines == 7
    assert data.report.dropped == {
        "without_file_of_series": 1,
        "without_series": 1,
        "without_text": 1,
        "with_nul_text": 1,
    }
    assert "list.jsonl:4: gone | own/9.npy" in data.report.examples["without_file_of_series"][0]


def test_text_that_is_no_utf8_is_left_out_and_named(files):
    path = files / "list.csv"
    path.write_bytes(b"path,caption\nown/0.npy,caf\xe9\nown/1.npy,tea\n")
    data = read_pairs(path, **BOTH)
    assert data.columns["text"] == ["tea"] and data.report.dropped == {"with_undecodable_text": 1}


def test_a_field_may_hold_several_captions_and_the_numbers_of_a_series(files):
    table = [
        {"caption": ["one", " two "], "values": [1.0, None, 3.0]},
        {"caption": ["three"], "values": [[1, 2], [3, 4]]},
        {"caption": [], "values": [1, 2]},
        {"caption": ["odd"], "values": [[1, 2], [3]]},
    ]
    sides: dict[str, Any] = {"columns": {"text": "caption", "series": "values"}}
    for kind in ("jsonl", "json"):
        data = read_pairs(write(files, kind, table), **sides)
        assert data.columns["text"] == [("one", "two"), ("three",)]
        assert [v.shape for v in data.columns["series"]] == [(3,), (2, 2)]
        assert np.isnan(data.columns["series"][0][1])
        assert data.report.dropped == {"without_text": 1, "with_unreadable_series": 1}


def test_what_nobody_can_read_is_refused_in_one_sentence(files):
    with pytest.raises(ValueError, match=r"list.csv: no column 'title'; it has the columns"):
        read_pairs(write(files, "csv", rows()), {"text": "title", "series": "path"})
    with pytest.raises(ValueError, match=r"kind video, but its files end in .npy; .*kind: series"):
        read_pairs(write(files, "csv", rows()), {"text": "caption", "video": "path"})
    with pytest.raises(ValueError, match=r"No sample with text and series .* 3 without text"):
        read_pairs(write(files, "csv", [{**r, "caption": ""} for r in rows()]), **BOTH)
    with pytest.raises(FileNotFoundError):
        read_pairs(files / "nothing.csv", **BOTH)


def test_classes_are_numbered_by_name_and_may_be_missing(files):
    table = [{**r, "label": k} for r, k in zip(rows(), ["b", "", "a"], strict=True)]
    data = read_pairs(write(files, "csv", table), **BOTH, label_column="label")
    assert data.classes == ("a", "b") and data.labels.tolist() == [1, -1, 0]


def test_media_in_a_data_set_are_found_where_they_lie_and_equal_ones_once(tmp_path):
    import datasets
    from PIL import Image

    pictures = []
    for shade in (10, 10, 200):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (shade,) * 3).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"),
         "label": datasets.ClassLabel(names=["dark", "light"])}
    )  # fmt: skip
    table = {"image": [*pictures, None], "text": [*CAPTIONS, "no picture"], "label": [0, 0, 1, 1]}
    data = read_pairs(
        datasets.Dataset.from_dict(table, features=features),
        {"text": None, "frames": "image"},
        label_column="label",
    )
    assert data.columns["text"] == CAPTIONS and data.report.dropped == {"without_frames": 1}
    values, uses = distinct(data.columns["frames"])
    assert uses.tolist() == [0, 0, 1] and all(isinstance(v, Row) for v in values)
    assert values[1].load()["bytes"] == pictures[2]["bytes"]
    assert [data.classes[i] for i in data.labels] == ["dark", "dark", "light"]


# -- folders and shards ---------------------------------------------------------------------------


def npy(values: Any) -> bytes:
    """A `.npy` file."""
    file = io.BytesIO()
    np.save(file, np.asarray(values, np.float32))
    return file.getvalue()


STEMS = {"text": None, "series": None}


def test_files_of_one_stem_in_a_folder_are_a_sample(files):
    own = files / "own"
    for i, caption in enumerate(CAPTIONS):
        (own / f"{i}.txt").write_text(f"{caption}\n")
    (own / "3.txt").write_text("no series")
    (own / "notes.md").write_text("of another kind")
    (own / ".hidden.txt").write_text("hidden")
    (own / "4.v2.txt").write_text("a stem with a dot")
    np.save(own / "4.v2.npy", np.arange(5.0))
    data = read_pairs(own, STEMS)
    assert data.columns["text"] == [*CAPTIONS, "a stem with a dot"]
    assert data.columns["series"][3] == str(own / "4.v2.npy")
    assert data.report.dropped == {"without_series": 1}
    assert data.report.ignored == [f"{own}/notes.md"]


def test_a_column_says_how_files_of_a_side_end(files):
    for i, caption in enumerate(CAPTIONS):
        (files / f"{i}.long.txt").write_text(caption * 2)
        (files / f"{i}.short.txt").write_text(caption)
        np.save(files / f"{i}.npy", np.arange(5.0))
        (files / f"{i}.cls").write_text("ab"[i % 2])
    sides = {"text": "short.txt", "series": None}
    data = read_pairs(files, sides, label_column="cls")
    assert data.columns["text"] == CAPTIONS and data.labels.tolist() == [0, 1, 0]


def test_a_folder_without_a_file_of_some_side_is_refused_with_what_is_there(files):
    write(files, "csv", rows())
    with pytest.raises(ValueError, match=r"No file of the side 'text' .* end in .txt; there are"):
        read_pairs(files / "own", STEMS)
    with pytest.raises(ValueError, match=r"list.csv may be a list: give it as the data itself"):
        read_pairs(files, {"text": None, "audio": None})


def test_members_of_one_stem_in_shards_are_a_sample(tmp_path):
    for shard in range(2):
        content = {}
        for i, caption in enumerate(CAPTIONS):
            key = f"part/{i:04d}"
            content |= {f"{key}.txt": f"{caption} {shard}".encode(), f"{key}.npy": npy([i, shard])}
            content[f"{key}.mask.npy"] = npy([9.0])
        tarred(tmp_path / f"set-{shard:03d}.tar", content)
    wanted = [f"{c} {shard}" for shard in range(2) for c in CAPTIONS]
    sides = {"text": None, "series": "npy"}
    for source in (
        tmp_path, str(tmp_path / "*.tar"), str(tmp_path / "set-{000..001}.tar"),
        [tmp_path / "set-000.tar", tmp_path / "set-001.tar"],
    ):  # fmt: skip
        assert read_pairs(source, sides).columns["text"] == wanted
    data = read_pairs(tmp_path, {"text": "txt", "series": "mask.npy"})
    found = data.columns["series"][0]
    assert isinstance(found, Member) and found.name == "part/0000.mask.npy"
    assert found.load()["bytes"] == npy([9.0])


@pytest.mark.parametrize("damage", ["cut", "cut_between", "header"])
def test_of_a_damaged_shard_what_lies_before_the_damage_is_used(tmp_path, damage):
    content = {}
    for i, caption in enumerate(CAPTIONS):
        content |= {f"{i}.txt": caption.encode(), f"{i}.npy": npy(np.arange(200.0))}
    path = tarred(tmp_path / "a.tar", content)
    with tarfile.open(path) as tar:
        third = tar.getmember("2.txt")
    whole = path.read_bytes()
    if damage == "header":
        path.write_bytes(whole[: third.offset] + b"\xff" * 512 + whole[third.offset + 512 :])
    else:
        path.write_bytes(whole[: third.offset + (0 if damage == "cut_between" else 515)])
    data = read_pairs(path, STEMS)
    assert data.columns["text"] == CAPTIONS[:2]
    assert "after 4 files, which are used" in data.report.broken[str(path)]
    path.write_bytes(b"\xff" * 2048)
    with pytest.raises(ValueError, match="No file of the side 'text'"):
        read_pairs(path, STEMS)


def test_links_in_a_shard_are_nobodys_file_and_nothing_is_unpacked(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add_files(tar, {"../0.txt": b"outside", "../0.npy": npy([1, 2])})
        link = tarfile.TarInfo("1.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    data = read_pairs(path, STEMS)
    assert data.columns["text"] == ["outside"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_shard_that_changes_under_the_run_is_told_and_packed_ones_are_refused(tmp_path):
    path = tarred(tmp_path / "a.tar", {"0.txt": b"x", "0.npy": npy([1, 2])})
    found = read_pairs(path, STEMS).columns["series"][0]
    tarred(path, {"0.txt": b"x", "0.npy": npy([1, 2, 3] * 999)})
    with pytest.raises(DecodeError, match=r"a.tar:0.npy: the shard changed"):
        found.load()
    with pytest.raises(ValueError, match=r"a.tar.gz is packed"):
        read_pairs("a.tar.gz", STEMS)
    with pytest.raises(FileNotFoundError, match="there is no such shard"):
        shards_of(tmp_path / "b-{0..2}.tar")


# -- the store ------------------------------------------------------------------------------------


class Counting:
    """A store of so many samples that says what it was asked; `bad` ones draw another."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()):
        self.count, self.bad, self.asked = count, bad, []
        self.lengths = np.broadcast_to(np.int64(1), count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        self.asked.append(ordinal)
        index = ordinal % self.count
        while index in self.bad:
            index = (index + 1) % self.count
        return {"index": index, "ordinal": ordinal}


def table(count: int) -> PairData:
    """Rows without anything in them."""
    return PairData({"a": [""] * count}, ReadReport(), np.full(count, -1))


def test_rows_that_name_one_value_see_one_sample_each_with_a_draw_of_its_own():
    clips, texts = Counting(2), Counting(6)
    uses = np.array([0, 0, 0, 1, 1, 1])
    sides = {"video": SideData(clips, [0, 1], uses), "text": SideData(texts, range(6))}
    store = PairStore(sides, table(6))
    made = [store[i]["sides"] for i in range(12)]
    assert [m["video"]["index"] for m in made] == [0, 0, 0, 1, 1, 1] * 2
    assert [m["text"]["index"] for m in made] == [*range(6)] * 2
    assert len(set(clips.asked)) == 12  # no two draws of a clip are the same one


def test_of_several_samples_of_a_row_the_ordinal_draws_one():
    texts = Counting(7)
    owners = [0, 0, 0, 0, 0, 1, 1]
    sides = {"text": SideData(texts, owners), "other": SideData(Counting(2), [0, 1])}
    store = PairStore(sides, table(2))
    found = np.array([store[i]["sides"]["text"]["index"] for i in range(400)])
    assert set(found[::2]) == {0, 1, 2, 3, 4} and set(found[1::2]) == {5, 6}
    assert np.bincount(found[::2]).min() > 20
    assert [store[i]["sides"]["text"]["index"] for i in range(400)] == found.tolist()


def test_rows_with_a_value_in_common_are_alike_and_so_are_those_of_a_third():
    columns = {"text": ["a", ("b", "c"), "a", "d", "c"], "video": [*"vwxyv"]}
    data = PairData(columns, labels=np.full(5, -1))
    sides = {"text": SideData(Counting(4), [0, 1, 2, 4])}  # the fourth row is lost
    for given, groups in (
        (["text"], [0, 1, 0, 1]), (["video"], [0, 1, 2, 0]), (["text", "video"], [0, 0, 0, 0]),
    ):  # fmt: skip
        made = [
            store[i]["alike"] for store in [PairStore(sides, data, alike=given)] for i in range(4)
        ]
        assert [made.index(number) for number in made] == [groups.index(g) for g in groups]
    assert "alike" not in PairStore(sides, data)[0]
    with pytest.raises(ValueError, match=r"alike names audio, but sides with a column .* text"):
        PairStore(sides, data, alike=["audio"])


def test_rows_that_a_side_lost_are_left_out_of_all_and_named():
    lost = {"b.mp4": "the file is empty"}
    sides = {
        "video": SideData(Counting(2), [0, 2], lost=lost),
        "text": SideData(Counting(3), range(3)),
    }
    store = PairStore(sides, table(3))
    assert store.rows.tolist() == [0, 2] and len(store) == 2
    assert [store[1]["sides"][n]["index"] for n in sides] == [1, 2]
    assert "1 rows lost their video (b.mp4: the file is empty)" in store.summary()
    with pytest.raises(ValueError, match=r"No pair: of 3 rows there are 1 of a, 1 of b, but never"):
        PairStore({"a": SideData(Counting(1), [0]), "b": SideData(Counting(1), [1])}, table(3))


def test_where_a_file_goes_bad_another_whole_pair_is_drawn():
    sides = {
        "video": SideData(Counting(4, bad=(2,)), range(4)),
        "text": SideData(Counting(4), range(4)),
    }
    store = PairStore(sides, table(4))
    for ordinal in range(40):
        made = store[ordinal]
        assert made["sides"]["video"]["index"] == made["sides"]["text"]["index"] == made["index"]
        assert made["index"] == ordinal % 4 or ordinal % 4 == 2
