import bz2
import gzip
import itertools
import json
import lzma
import os
import pickle
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlabel.data_pipes.text import TextData, TextStream, read_documents, read_text

LINES = [f"Sentence number {i} says something." for i in range(50)]


def read(source, **options) -> TextData:
    data = read_text(source, **options)
    assert isinstance(data, TextData)
    assert data.report.lines == data.report.kept + sum(data.report.dropped.values())
    assert data.report.kept == len(data)
    return data


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def packed(kind: str, content: bytes) -> bytes:
    if kind == "zst":
        return pa.compress(content, "zstd", asbytes=True)
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind](content)


def test_lines_come_in_order_with_white_space_made_single(tmp_path):
    path = write(tmp_path / "a.txt", "One  two\tthree. \nFour\u00a0five six.\n")
    assert read(path).texts == ["One two three.", "Four five six."]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_packed_text_reads_as_plain_text(tmp_path, kind):
    path = write(tmp_path / f"a.txt.{kind}", packed(kind, "\n".join(LINES).encode()))
    assert read(path).texts == LINES


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_a_cut_off_packed_file_alone_is_refused_by_name(tmp_path, kind):
    whole = packed(kind, os.urandom(40_000).hex().encode())
    path = write(tmp_path / f"a.txt.{kind}", whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"a\.txt\.{kind}"):
        read_text(path)


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n"])
def test_line_ends_of_every_system_and_a_byte_order_mark_leave_no_trace(tmp_path, ending):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf" + ending.join(LINES).encode())
    assert read(path).texts == LINES


def test_utf_16_with_its_mark_reads_as_text(tmp_path):
    assert read(write(tmp_path / "a.txt", "Grüße an alle.\n".encode("utf-16"))).texts == [
        "Grüße an alle."
    ]


def test_bad_lines_are_left_out_and_counted_with_their_place(tmp_path):
    content = b"Good line here.\n\nna\xefve line.\nNUL \x00 line.\nGood line here.\n" + b"x" * 300
    data = read(write(tmp_path / "a.txt", content), max_chars=200)
    assert data.texts == ["Good line here."]
    kinds = {"empty": 1, "undecodable": 1, "nul": 1, "repeated": 1, "too_long": 1}
    assert dict(data.report.dropped) == kinds
    assert ":3: na" in data.report.examples["undecodable"][0]
    assert "1 of 6 rows kept" in data.report.summary()
    assert "1 undecodable" in data.report.summary()


def test_another_encoding_can_be_named_and_the_error_says_so(tmp_path):
    path = write(tmp_path / "a.txt", "Déjà vu.\n".encode("latin-1"))
    with pytest.raises(ValueError, match="encoding='latin-1'"):
        read_text(path)
    assert read(path, encoding="latin-1").texts == ["Déjà vu."]
    with pytest.raises(ValueError, match="klingon"):
        read_text(path, encoding="klingon")


def test_repeats_can_be_kept_and_are_counted_all_the_same():
    data = read(["a b", "a b", "c d"], keep_repeats=True)
    assert (data.texts, data.report.repeats_kept) == (["a b", "a b", "c d"], 1)


def test_word_bounds_and_limit_hold():
    data = read(["one", "one two", "one two three"], min_words=2, max_words=2)
    assert data.texts == ["one two"]
    assert dict(data.report.dropped) == {"too_short": 1, "too_long": 1}
    assert read(LINES, limit=3).texts == LINES[:3]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("blank.txt", b"\n  \n\n"),
        ("picture.txt", bytes(range(256)) * 40),
        ("empty.txt.gz", gzip.compress(b"", mtime=0)),
        ("header.csv", b"text\n"),
        ("cut.parquet", b"PAR1abc"),
        ("broken.json", b'[{"text": "a"'),
        ("broken.jsonl", b"{nope\n"),
    ],
)
def test_a_file_without_usable_text_is_refused_by_name_alone_and_skipped_in_a_folder(
    tmp_path, name, content
):
    bad = write(tmp_path / name, content)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=name):
            read_text(bad, streaming=streaming)
    write(tmp_path / "good.txt", "\n".join(LINES))
    data = read(tmp_path)
    assert data.texts == LINES
    assert (
        name in data.report.summary()
        or sum(data.report.dropped.values())
        or name in str(data.report.files)
    )


def test_a_folder_goes_on_past_a_broken_file_and_names_it(tmp_path):
    write(tmp_path / "a.txt", "First file.")
    content = gzip.compress(os.urandom(40_000).hex().encode())
    write(tmp_path / "b.txt.gz", content[:5000])
    write(tmp_path / "c.md", "ignored")
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "d.jsonl", '{"text": "Last file."}\n')
    data = read(tmp_path)
    assert data.texts == ["First file.", "Last file."]
    assert [Path(f).name for f in data.report.broken] == ["b.txt.gz"]
    assert [Path(f).name for f in data.report.ignored] == ["c.md"]
    assert "b.txt.gz" in data.report.summary()


@pytest.mark.parametrize("glob", ["*", "**", "**/*"])
def test_folders_that_a_glob_meets_are_gone_into_once(tmp_path, glob):
    write(tmp_path / "a.txt", "First file.")
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "b.txt", "Last file.")
    data = read(str(tmp_path / glob), keep_repeats=True)
    assert sorted(data.texts) == ["First file.", "Last file."]
    assert not data.report.broken


def test_a_file_that_breaks_off_midway_gives_its_whole_lines_and_is_named(tmp_path):
    write(tmp_path / "a.txt", "First file.")
    lines = [os.urandom(40).hex() for _ in range(5000)]
    content = gzip.compress("\n".join(lines).encode())
    write(tmp_path / "b.txt.gz", content[: len(content) // 2])
    data = read(tmp_path)
    assert 100 < len(data) < 5000
    assert data.texts[1:] == lines[: len(data) - 1]
    assert f"given up after line {len(data) - 1}" in next(iter(data.report.broken.values()))


@pytest.mark.parametrize("source", ["nope.txt", "nope/*.txt", "."])
def test_a_path_without_files_is_refused_by_name(tmp_path, source):
    with pytest.raises(FileNotFoundError, match="found nothing there"):
        read_text(str(tmp_path / source))


def test_one_missing_path_among_several_is_refused(tmp_path):
    good = write(tmp_path / "a.txt", "Fine.")
    with pytest.raises(FileNotFoundError, match=r"b\.txt"):
        read_text([str(good), str(tmp_path / "b.txt")])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_an_unknown_column_is_refused_with_the_columns_there_are(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), path)
    elif name.endswith("jsonl"):
        write(path, '{"body": "x", "title": "y"}\n')
    else:
        write(path, "body,title\nx,y\n".replace(",", "\t" if name.endswith("tsv") else ","))
    with pytest.raises(ValueError, match="no column 'text'; it has the columns 'body', 'title'"):
        read_text(path, column="text")
    with pytest.raises(ValueError, match="which column"):
        read_text(path)
    assert read(path, column="title").texts == ["y"]


def test_csv_keeps_quoted_commas_and_line_ends_and_counts_ragged_rows(tmp_path):
    content = (
        'id,text\n1,"One, two\nthree."\n2,Four,five\n3,Six seven.\n4,"bad"quote\n5,Eight nine.\n'
    )
    data = read(write(tmp_path / "a.csv", content), column="text")
    assert data.texts == ["One, two three.", "Six seven.", "Eight nine."]
    assert dict(data.report.dropped) == {"ragged": 1, "bad_csv": 1}


def test_tsv_takes_quotes_as_they_are(tmp_path):
    data = read(write(tmp_path / "a.tsv", 'text\tn\n"Open quote\t1\nNext one\t2\n'), column="text")
    assert data.texts == ['"Open quote', "Next one"]


def test_a_numbered_column_means_a_table_without_header(tmp_path):
    path = write(tmp_path / "a.csv", "1;Eins zwei.\n2;Drei vier.\n")
    assert read(path, column=1).texts == ["Eins zwei.", "Drei vier."]
    with pytest.raises(ValueError, match="'0', '1'"):
        read_text(path, column=2)


def test_json_lines_counts_broken_lines_and_missing_text(tmp_path):
    rows = [
        '{"text": "Good one."}',
        '{"text": ',
        '{"other": 1}',
        '{"text": 5}',
        "",
        '{"text": "\\ud800"}',
    ]
    data = read(write(tmp_path / "a.jsonl", "\n".join(rows)))
    assert data.texts == ["Good one."]
    assert dict(data.report.dropped) == {"bad_json": 1, "missing": 2, "empty": 1, "undecodable": 1}
    assert "a.jsonl:2:" in data.report.examples["bad_json"][0]


def test_the_first_object_may_lack_the_column(tmp_path):
    objects = [{"title": "A title."}, {"title": "Another.", "text": LINES[0]}, {"text": LINES[1]}]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, objects)))
    write(tmp_path / "a.json", json.dumps(objects))
    for source in (tmp_path / "a.jsonl", tmp_path / "a.json", objects):
        data = read(source)
        assert data.texts == LINES[:2]
        assert dict(data.report.dropped) == {"missing": 1}


def test_a_table_that_begins_with_an_empty_line_is_refused_by_name(tmp_path):
    write(tmp_path / "a.csv", "\n\ntext,n\na b,1\n")
    with pytest.raises(ValueError, match=r"a\.csv: line 1 is empty"):
        read_text(tmp_path / "a.csv", column="text")


def test_links_are_followed_once_and_one_that_leads_nowhere_is_named(tmp_path):
    inside = tmp_path / "with spaces ü"
    for folder in ("with spaces ü/sub", "with spaces ü/.hidden", "else/deep"):
        (tmp_path / folder).mkdir(parents=True)
    write(inside / "sub" / "a.txt", LINES[0])
    write(inside / ".hidden" / "b.txt", "not this")
    write(tmp_path / "else" / "deep" / "c.txt", LINES[1])
    for name, to in {
        "loop": inside, "up": tmp_path, "twice": inside / "sub", "out": tmp_path / "else",
        "to_deep": tmp_path / "else" / "deep", "self.txt": inside / "self.txt",
        "gone.txt": "nowhere",
    }.items():  # fmt: skip
        (inside / name).symlink_to(to)
    (tmp_path / "else" / "back").symlink_to(inside)
    data = read(inside)
    assert sorted(data.texts) == sorted(LINES[:2])
    assert not data.report.dropped
    assert {Path(name).name for name in data.report.broken} == {"self.txt", "gone.txt"}


def test_a_json_array_on_one_line_may_be_longer_than_any_line(tmp_path, monkeypatch):
    monkeypatch.setattr("unlabel.data_pipes.formats.MAX_LINE", 40)
    assert read(write(tmp_path / "a.json", json.dumps([{"text": t} for t in LINES]))).texts == LINES
    assert read(write(tmp_path / "b.json", json.dumps(LINES))).texts == LINES
    write(tmp_path / "c.json", json.dumps({"data": LINES, "by": "me"}, indent=1))
    with pytest.raises(ValueError, match=r"holds one object \(of 'data', 'by'\), but a list"):
        read(tmp_path / "c.json")


def test_a_mark_of_utf_8_is_no_text_when_the_encoding_is_named_either(tmp_path):
    write(tmp_path / "a.csv", b"\xef\xbb\xbftext,b\nA line.,1\n")
    for encoding in (None, "utf-8", "UTF8"):
        assert read(tmp_path / "a.csv", column="text", encoding=encoding).texts == ["A line."]


def test_a_json_array_of_objects_or_strings_reads(tmp_path):
    path = write(tmp_path / "a.json", json.dumps([{"text": t} for t in LINES], indent=1))
    assert read(path).texts == LINES
    assert read(write(tmp_path / "b.json", json.dumps(LINES))).texts == LINES


def test_pairs_and_triplets_keep_their_rows_together(tmp_path):
    table = {"q": ["a b", "c d", None], "p": ["e f", "g h", "i"], "n": ["j", "k", "l"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    data = read(tmp_path / "a.parquet", columns=("q", "p", "n"))
    assert data[1] == {"q": "c d", "p": "g h", "n": "k"}
    assert data.partners == {"p": ["e f", "g h"], "n": ["j", "k"]}
    assert data.report.dropped["missing"] == 1
    assert read([("a", "b"), ("a", "c")], columns=("x", "y")).partners == {"y": ["b", "c"]}


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_objects_read_like_files(streaming):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"id": list(range(50)), "text": LINES})
    assert read(made.to_iterable_dataset() if streaming else made).texts == LINES
    with pytest.raises(ValueError, match="'id', 'text'"):
        read_text(made, column="body")
    with pytest.raises(ValueError, match="train"):
        read_text(datasets.DatasetDict(train=made))


def test_a_data_frame_is_read_by_its_rows_and_not_by_the_names_of_its_columns():
    frame = pd.DataFrame({"n": [1, 2, 3], "text": ["one two", None, "three"]}, index=[7, 7, 8])
    data = read(frame, column="text")
    assert data.texts == ["one two", "three"] and data.report.dropped["missing"] == 1
    with pytest.raises(ValueError, match=r"no column 'sentence'.*'n', 'text'"):
        read_text(frame, column="sentence")


def test_a_name_for_datasets_loads_or_is_refused_by_name(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder / "train.csv", "text\n" + "\n".join(LINES))
    assert read(f"hf:{folder}", column="text").texts == LINES
    with pytest.raises(ValueError, match="hf:name:config:split"):
        read_text(f"hf:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "No usable text"),
        ([1, None], {}, "2 missing"),
        (3, {}, "from a int"),
        (iter(["a"]), {}, "only once"),
        (["a b"], {"column": "x", "columns": ("x", "y")}, "not both"),
        (["a b"], {"columns": "xy"}, "two or more"),
        (["a b"], {"limit": 0}, "limit must be 1 or more"),
        (["a b"], {"min_words": 3}, "too short"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(source, options, message):
    with pytest.raises(ValueError, match=message):
        read_text(source, **options)


def test_a_stream_gives_the_same_records_and_report_as_reading_at_once(tmp_path):
    write(tmp_path / "a.txt", "\n".join([*LINES, "", LINES[0]]))
    data, stream = read(tmp_path), read_text(tmp_path, streaming=True)
    assert isinstance(stream, TextStream)
    assert list(stream) == list(data)
    assert stream.report == data.report
    assert list(pickle.loads(pickle.dumps(stream))) == list(data)


@pytest.mark.parametrize("start", [0, 1, 17, 49, 60])
def test_a_stream_restarts_at_any_record(start):
    stream = read_text(LINES, streaming=True)
    assert isinstance(stream, TextStream)
    assert [r["text"] for r in stream.records(start)] == LINES[start:]


def test_a_stream_holds_no_file_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "big.txt"
    with path.open("w") as file:
        for i in range(60_000):
            file.write(f"{i} " + "word " * 60 + "\n")
    stream = read_text(path, streaming=True, keep_repeats=True, limit=60_000)
    assert isinstance(stream, TextStream)
    tracemalloc.start()
    for _ in itertools.islice(stream, 5_000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000 * 300 * 2 < path.stat().st_size


@pytest.mark.data
def test_the_shared_sentences_read_without_a_loss(data_folder):
    data = read(data_folder / "text" / "wiki_en_train.txt.gz", limit=2000)
    assert len(data) == data.report.lines == 2000
    pairs = read(data_folder / "sts" / "sts12.tsv.gz", columns=("sentence1", "sentence2"))
    assert pairs.report.lines == 3108
    assert set(pairs.report.dropped) <= {"repeated"}


@pytest.mark.data
def test_an_empty_line_between_articles_is_counted_as_empty(data_folder):
    data = read(data_folder / "text" / "wiki_en_docs_valid.txt.gz")
    assert len(data) == 6326
    assert dict(data.report.dropped) == {"empty": 299}


def test_documents_give_each_sentence_its_next_one_and_one_of_another_document(tmp_path):
    (tmp_path / "a.txt").write_text("a one\na two\na three\n\n\nb one\nb two\n\nlone\n")
    (tmp_path / "b.txt").write_text("c one\nc two\n")
    data = read_documents(str(tmp_path), seed=1)
    assert data.columns["text"] == ["a one", "a two", "b one", "c one"]
    assert data.columns["next"] == ["a two", "a three", "b two", "c two"]
    for text, other in zip(data.texts, data.columns["other"], strict=True):
        assert text[0] != other[0]
    assert data.columns == read_documents(str(tmp_path), seed=1).columns
    with pytest.raises(ValueError, match="empty line between documents"):
        read_documents(["one", "two", "three"])
