"""A stream is entered where it was left, and gives what it gives when read from the beginning."""

import gzip
import json
import random
from itertools import islice

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlabel.data_pipes import marks, sources, text
from unlabel.data_pipes.sampling import StreamBatches
from unlabel.data_pipes.text import read_text


@pytest.fixture(autouse=True)
def close_marks(monkeypatch):
    for module in (marks, sources, text):
        monkeypatch.setattr(module, "EVERY", 16)


def lines(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["rain", "fell", "städte", "\N{SNOWMAN}", "old", "sea", ""]
    return [" ".join(draw.choices(words, k=draw.randint(0, 4))) for _ in range(count)]


def _plain(folder):
    (folder / "a.txt").write_text("\n".join(lines(100)), encoding="utf-8-sig")


def _packed(folder):
    (folder / "a.txt.gz").write_bytes(gzip.compress("\n".join(lines(100)).encode()))


def _wide(folder):
    (folder / "a.txt").write_text("\n".join(lines(100)), encoding="utf-16")


def _json(folder):
    rows = [json.dumps({"id": i, "text": t, "more": 1}) for i, t in enumerate(lines(100))]
    rows[40] = "{broken"
    (folder / "a.jsonl").write_text("\n".join(rows))


def _several(folder):
    for i in range(4):
        (folder / f"{i}.txt").write_bytes("\r\n".join(lines(40, i)).encode() + b"\n\xff\n")
    (folder / "2.csv").write_text("text\n" + "\n".join(f'"{t}"' for t in lines(30, 9)))
    (folder / "1b.txt").write_text("")


def _quoted(folder):
    rows = [f'{i};"{t}\n{t}; ""said"""' for i, t in enumerate(lines(90))]
    rows[40] = '40;"no" end'
    (folder / "a.csv").write_text("\n".join(["id;text", *rows]))


def _tabs(folder):
    (folder / "a.tsv").write_text(
        "\n".join(f"{i}\t{t}" for i, t in enumerate(["text", *lines(99)]))
    )


def _parquet(folder):
    table = pa.table({"id": range(100), "text": lines(100)})
    pq.write_table(table, folder / "a.parquet", row_group_size=24)
    pq.write_table(table.slice(3, 50), folder / "b.parquet")


def _rows(shards: int = 3) -> datasets.IterableDataset:
    table = datasets.Dataset.from_dict({"id": range(100), "text": lines(100)})
    return table.to_iterable_dataset(num_shards=shards)


def _generated(shards):
    for shard in shards:
        yield from ({"id": shard, "text": text} for text in lines(25, shard))


DATASETS = {
    "in memory": lambda: datasets.Dataset.from_dict({"id": range(100), "text": lines(100)}),
    "in shards": _rows,
    "filtered": lambda: _rows().filter(lambda row: row["id"] % 5 > 0),
    "mapped": lambda: _rows().map(lambda row: {"text": row["text"] + "."}),
    "in another order": lambda: _rows(20).shuffle(seed=1, buffer_size=2),
    "mixed": lambda: datasets.interleave_datasets([_rows(), _rows(2)], [0.4, 0.6], seed=1),
    "generated": lambda: datasets.IterableDataset.from_generator(
        _generated, gen_kwargs={"shards": [0, 1, 2, 3]}
    ),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_is_entered_where_its_state_is_exact(tmp_path, name):
    made, kept = DATASETS[name](), tmp_path / "marks"
    stream = read_text(made, column="text", streaming=True)
    records = list(stream.enter(0, kept, writes=True)[1])
    assert records == list(stream)
    places = []
    for start in range(0, len(records), 7):
        place, rest = stream.enter(start, kept)
        assert place <= start and list(rest) == records[place:]
        places.append(place)
    exact = name != "in another order"  # a buffer is lost
    assert (max(places) > len(records) // 2) == exact
    assert list(stream) == records


def test_marks_of_a_data_set_that_gives_something_else_are_forgotten(tmp_path):
    kept = tmp_path / "marks"
    rows = [f"line {i}" for i in range(60)]
    for changed in (False, True):
        made = datasets.Dataset.from_dict({"text": [row + "!" * changed for row in rows]})
        stream = read_text(made.to_iterable_dataset(), streaming=True)
        place, rest = stream.enter(59, kept, writes=True)
        assert place == 0 and len(list(rest)) == 60
        assert stream.enter(59, kept)[0] == 48
    assert len(kept.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "make", [_plain, _packed, _wide, _json, _several, _quoted, _tabs, _parquet]
)
def test_batches_from_a_mark_are_those_of_the_whole_run(tmp_path, make):
    (data := tmp_path / "data").mkdir()
    make(data)
    column = {_quoted: "text", _parquet: "text", _tabs: 1}.get(make)
    stream = read_text(data, column=column, streaming=True)

    def batches(start=0):
        made = StreamBatches(stream, lambda texts: [[len(t)] for t in texts], 2, window=3, passes=3)
        made.start, made.marks = start, tmp_path / "run" / "marks"
        return made

    whole = list(batches())
    assert len((tmp_path / "run" / "marks").read_text().splitlines()) > 4
    assert list(batches()) == whole
    for start in range(1, len(whole), 3):
        assert list(batches(start)) == whole[start:], start
    records = list(stream)
    for start in range(len(records)):
        place, rest = stream.enter(start, tmp_path / "run" / "marks")
        assert place <= start and list(rest) == records[place:]
    assert place > len(records) // 2  # entered, not read again


def test_marks_of_another_state_of_the_source_or_cut_off_are_not_followed(tmp_path):
    path, kept = tmp_path / "a.txt", tmp_path / "marks"
    path.write_text("\n".join(f"line {i}" for i in range(100)))
    stream = read_text(path, streaming=True)
    list(stream.enter(0, kept, writes=True)[1])
    assert stream.enter(99, kept)[0] == 96
    with kept.open("a") as file:
        file.write('\n["abc", 1')
    assert stream.enter(99, kept)[0] == 96
    assert read_text(path, streaming=True, min_words=2).enter(99, kept)[0] == 0
    path.write_text("\n".join(f"other {i}" for i in range(100)))
    assert stream.enter(99, kept)[0] == 0


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_what_cannot_be_entered_is_read_again(tmp_path, name):
    path, kept = tmp_path / name, tmp_path / "marks"
    texts = lines(100)
    head = '"te\nxt",id\n'  # a header of two lines
    table = head + "\n".join(f"{t},{i}" for i, t in enumerate(texts))
    path.write_text(table if name == "a.csv" else json.dumps(texts))
    column = "te\nxt" if name == "a.csv" else None
    stream = read_text(path, column=column, streaming=True)
    records = list(stream.enter(0, kept, writes=True)[1])
    place, rest = stream.enter(60, kept)
    assert place == 0 and list(rest) == records and not kept.exists()


def test_rows_of_an_entered_table_are_told_by_their_lines_in_it(tmp_path):
    path, kept = tmp_path / "a.csv", tmp_path / "marks"
    rows = [f'"two\nlines {i}"' for i in range(20)]
    path.write_text("\n".join(["text", *rows, '"no" end']))
    stream = read_text(path, streaming=True)
    list(stream.enter(0, kept, writes=True)[1])
    place, rest = stream.enter(18, kept)
    assert place == 16 and len(list(rest)) == 4
    assert stream.report.examples["bad_csv"][0].startswith(f"{path}:42: ")


def test_a_resumed_pass_reports_what_came_before(tmp_path):
    path, kept = tmp_path / "a.txt", tmp_path / "marks"
    path.write_text("\n".join([*(f"line {i}" for i in range(40)), "", "end"]))
    stream = read_text(path, streaming=True)
    list(islice(stream.enter(0, kept, writes=True)[1], None))
    list(stream.enter(39, kept)[1])
    report = stream.report
    assert (report.lines, report.kept) == (42, 41) and sum(report.dropped.values()) == 1
