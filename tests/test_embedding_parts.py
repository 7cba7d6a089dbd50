"""Vectors made in parts: by many processes, whole after any kill, nothing twice, nothing lost."""

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from scipy.io import wavfile
from tqdm import tqdm

from unlabel.embedding import Embedder, embed
from unlabel.embedding_parts import Parts
from unlabel.text_embedding import embed_file

LINES = [f"{'word ' * (i % 7)}number {i}" if i % 11 else "" for i in range(100)]
LINES[40:60] = [""] * 20  # two parts without any text


class Noting:
    """Embeds a sentence by its lengths, and writes down which it was asked for."""

    def __init__(self, note: Path, pause: float = 0.0):
        self.note, self.pause = note, pause

    def __call__(self, sentences: list[str], size: int) -> np.ndarray:
        with self.note.open("a") as file:
            file.write("".join(f"{s}\n" for s in sentences))
        time.sleep(self.pause)
        return np.array([[len(s.split()), len(s), 1] for s in sentences], dtype=float)


def model(note: Path, pause: float = 0.0) -> Embedder:
    return Embedder("lengths", Noting(note, pause))


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


@pytest.fixture
def whole(tmp_path, source) -> Any:
    embed_file(model(tmp_path / "n"), source, tmp_path / "whole.parquet", progress=False)
    return pq.read_table(tmp_path / "whole.parquet")


def parts(folder: Path, number: int = 0, of: int = 1) -> Parts:
    return Parts(folder, number, of, size=10)


@pytest.mark.parametrize("of", [1, 3, 7, 20])
def test_parts_of_many_processes_are_together_what_one_writes(tmp_path, source, whole, of):
    rows, note = 0, tmp_path / "asked"
    for number in random.Random(of).sample(range(of), of):
        done = embed_file(model(note), source, parts(tmp_path / "out", number, of), progress=False)
        rows += done.rows
        # Who has no part, and knows that the others came to the end, reads nothing.
        assert done.report.lines in (100, 0) and done.report.kept == done.rows
    assert rows == len(whole) == len(note.read_text().splitlines())
    assert "10 of 10 parts are there" in done.summary()
    assert "vectors of width 3 in" in parts(tmp_path / "out").join(tmp_path / "all.parquet")
    assert pq.read_table(tmp_path / "all.parquet").equals(whole)
    assert ds.dataset(tmp_path / "out").to_table().sort_by("index").equals(whole)
    parts(tmp_path / "out").join(tmp_path / "all.npy")
    vectors = whole["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 3)
    np.testing.assert_array_equal(np.load(tmp_path / "all.npy"), vectors)


def test_of_parquet_only_the_row_groups_of_its_own_parts_are_read(tmp_path, whole, monkeypatch):
    for name, lines in (("a", LINES[:44]), ("b", LINES[44:])):
        table = pa.table({"text": lines})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=5)
    read: list[int] = []
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda f, **how: (read.append(1), real(f, **how))[1],
    )
    source = str(tmp_path / "[ab].parquet")
    for number in (2, 0, 1):
        done = embed_file(model(tmp_path / "n"), source, parts(tmp_path / "out", number, 3))
        assert done.report.lines == 100
    # 21 groups in all; one more for each look whether there is text, one for each that lies
    # in two parts: fewer by far than the 63 of three passes.
    assert len(read) < 40
    parts(tmp_path / "out").join(tmp_path / "all.parquet")
    assert pq.read_table(tmp_path / "all.parquet").equals(whole)


def test_what_is_done_is_not_even_read_again(tmp_path, source, monkeypatch):
    out, note = tmp_path / "out", tmp_path / "asked"
    embed_file(model(note), source, parts(out), progress=False)
    asked = note.read_text()
    monkeypatch.setattr("unlabel.data_pipes.text.TextStream.chosen", None)
    again = embed_file(model(note), source, parts(out), progress=False)
    assert again.rows == 0 and "10 of 10 parts are there" in again.summary()
    assert note.read_text() == asked


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_moment_and_begun_anew_nothing_is_made_twice_or_lost(
    tmp_path, source, whole, monkeypatch
):
    # Forked processes share tqdm's own lock: who is killed while he has it keeps it for ever.
    monkeypatch.setattr(tqdm, "_lock", threading.RLock(), raising=False)
    out, draw, kills = tmp_path / "out", random.Random(3), 0
    made: set[str] = set()
    for attempt in range(60):
        note, of = tmp_path / f"asked-{attempt}", draw.choice([1, 2, 3])  # other processes, too
        children = []
        for number in range(of):
            if (child := os.fork()) == 0:
                embed_file(model(note, 0.03), source, parts(out, number, of), progress=False)
                os._exit(0)
            children.append(child)
        time.sleep(draw.uniform(0.01, 0.05))
        for child in children:
            os.kill(child, signal.SIGKILL)
        ends = [os.waitpid(child, 0)[1] for child in children]
        kills += sum(map(os.WIFSIGNALED, ends))
        asked = set(note.read_text().splitlines()) if note.exists() else set()
        assert not asked & made  # of no part that was there before
        made = {t for p in out.glob("part-*.parquet") for t in pq.read_table(p)["text"].to_pylist()}
        if not any(map(os.WIFSIGNALED, ends)):
            break
    assert kills >= 5
    embed_file(model(tmp_path / "last"), source, parts(out), progress=False)
    parts(out).join(tmp_path / "all.parquet")
    assert pq.read_table(tmp_path / "all.parquet").equals(whole)
    assert not list(out.glob(".part-*")), "what killed processes left is cleared away"


def test_a_process_that_was_started_twice_takes_nothing_from_itself(tmp_path):
    out = tmp_path / "out"
    with parts(out).writing(0) as one:
        one.write_bytes(b"whole")
        with parts(out).writing(0) as two:
            assert one.exists() and one != two
            two.write_bytes(b"whole")
    assert [p.read_bytes() for p in out.iterdir()] == [b"whole"]


def test_vectors_of_another_model_of_older_files_are_refused(tmp_path, source):
    models = [tmp_path / "a", tmp_path / "b"]
    for folder in models:
        folder.mkdir()
        (folder / "pytorch_model.bin").write_text(folder.name)
    for folder in models[:1] * 2:
        Parts(tmp_path / "out").begin("text", folder, source)
    with pytest.raises(ValueError, match="holds vectors of another model"):
        Parts(tmp_path / "out").begin("text", models[1], source)


def test_a_folder_of_something_else_is_refused(tmp_path, source):
    out = tmp_path / "out"
    embed_file(model(tmp_path / "n"), source, parts(out), progress=False)
    for other, into, normalize in (
        ("rows", Parts(out, size=11), False),
        ("options", parts(out), True),
    ):
        with pytest.raises(ValueError, match=f"holds vectors of another {other}"):
            embed_file(model(tmp_path / "n"), source, into, normalize=normalize, progress=False)
    source.write_text("other text")
    with pytest.raises(ValueError, match="holds vectors of another source"):
        embed_file(model(tmp_path / "n"), source, parts(out), progress=False)


def test_parts_that_are_missing_are_told_before_joining(tmp_path, source):
    out = tmp_path / "out"
    embed_file(model(tmp_path / "n"), source, parts(out, 0, 2), progress=False)
    with pytest.raises(ValueError, match="lacks 5 part"):
        parts(out).join(tmp_path / "all.parquet")
    (out / "_end.json").unlink()
    with pytest.raises(ValueError, match="lacks the last part"):
        parts(out).join(tmp_path / "all.parquet")


def test_part_is_told_by_hand_or_by_torchrun(monkeypatch):
    assert Parts.told("v.parquet", None, None) is None
    told = Parts.told("v", "2/3", 5)
    assert told is not None and (told.number, told.of, told.size) == (2, 3, 5)
    for wrong in ("3/3", "1", "a/b", "-1/2"):
        with pytest.raises(ValueError, match=r"part is i/n, such as 0/4"):
            Parts.told("v", wrong, None)
    with pytest.raises(ValueError, match="1 row of the source or more"):
        Parts.told("v", None, 0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    told = Parts.told("v", None, None)
    assert told is not None and (told.number, told.of) == (1, 4)
    with pytest.raises(ValueError, match=r"v.parquet is one file; give a name without ending"):
        Parts.told("v.parquet", None, None)


def test_command_embeds_texts_in_parts_and_joins_them(tmp_path, make_encoder, sentences, capsys):
    make_encoder().save_pretrained(tmp_path / "model")
    text, out = tmp_path / "in.txt", str(tmp_path / "out")
    text.write_text("\n".join(sentences))
    embed(str(tmp_path / "model"), str(text), str(tmp_path / "one.npy"))
    embed(str(tmp_path / "model"), str(text), out, part="1/2", part_rows=2)
    with pytest.raises(ValueError, match=r"one\.npy is one file; join is for a folder"):
        embed(str(tmp_path / "model"), str(text), str(tmp_path / "one.npy"), join="x.npy")
    embed(str(tmp_path / "model"), str(text), out, part_rows=2, join=str(tmp_path / "all.npy"))
    assert f"{len(sentences)} vectors of width 32 in" in capsys.readouterr().out
    found = np.load(tmp_path / "all.npy")
    np.testing.assert_allclose(found, np.load(tmp_path / "one.npy"), atol=1e-5)
    make_encoder(seed=7).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds vectors of another model"):
        embed(str(tmp_path / "model"), str(text), out, part_rows=2)


def test_series_and_files_are_embedded_in_parts_too(tmp_path, make_joint):
    make_joint("series", "audio").save_pretrained(tmp_path / "run" / "model")
    about = {"modality": "pairs", "encoder": {"sides": {"series": {"target": ["y"]}, "audio": {}}}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    draw = np.random.default_rng(0)
    ids = np.repeat([f"s{i}" for i in range(5)], 60)
    table = pd.DataFrame({"item_id": ids, "y": draw.normal(size=300)})
    table.to_csv(tmp_path / "y.csv", index=False)
    (tmp_path / "wav").mkdir()
    for i in range(5):
        sound = (draw.normal(size=4000) * 3000).astype(np.int16)
        wavfile.write(tmp_path / "wav" / f"{i}.wav", 8_000, sound)
    (tmp_path / "wav" / "1.wav").write_bytes(b"broken")
    (tmp_path / "wav" / "2.wav").write_bytes(b"broken")
    (tmp_path / "wav" / "3.wav").write_bytes(b"broken")
    for name in ("y.csv", "wav"):
        side, source = ("series", "audio")[name == "wav"], str(tmp_path / name)
        out = str(tmp_path / f"{side}-out")
        embed(str(tmp_path / "run"), source, str(tmp_path / f"{side}.parquet"), side=side)
        for number in (1, 0):
            embed(str(tmp_path / "run"), source, out, side=side, part=f"{number}/2", part_rows=2)
        joined = str(tmp_path / f"{side}-all.parquet")
        embed(str(tmp_path / "run"), source, out, side=side, part_rows=2, join=joined)
        one, all_of = pd.read_parquet(tmp_path / f"{side}.parquet"), pd.read_parquet(joined)
        assert len(one) == (5 if side == "series" else 2)
        assert one.iloc[:, 0].tolist() == all_of.iloc[:, 0].tolist()
        np.testing.assert_allclose(
            np.stack(one["embedding"].tolist()), np.stack(all_of["embedding"].tolist()), atol=1e-5
        )
