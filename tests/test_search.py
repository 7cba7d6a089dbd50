"""Search and zero-shot classes with a tiny joint encoder of random weights, on files made here."""

import base64
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unlabel.cli import main
from unlabel.data_pipes.synthetic_video import write_video
from unlabel.heads import save_heads
from unlabel.objectives import CLIP, SigLIP, Sum
from unlabel.report import figures
from unlabel.search import Index, Space
from unlabel.search.cards import length_of, shown
from unlabel.search.nearest import exact
from unlabel.search.page import write_page
from unlabel.search.reading import side_for

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("av")

ALL = {"text": "text", "series": "series", "frames": "frames", "video": "video", "audio": "audio"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three clips, three recordings, three series, a picture and a text of two lines."""
    from PIL import Image

    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for i in range(3):
        frames = np.repeat(random.integers(0, 255, (1, 4, 4, 3), np.uint8), 12, axis=0)
        frames = frames.repeat(8, axis=1).repeat(8, axis=2)
        write_video(folder / f"c{i}.mp4", frames, 10.0)
        soundfile.write(folder / f"s{i}.wav", random.normal(size=6_000) * 0.2, 8_000)
        series = pd.DataFrame({"y": random.normal(size=60).cumsum()})
        series.to_csv(folder / f"t{i}.csv", index=False)
    Image.fromarray(random.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / "p.png")
    (folder / "words.txt").write_text("A dog runs over the field.\nRain fell all day.\n")
    (folder / "notes.md").write_text("of another kind\n")
    return folder


@pytest.fixture
def run(tmp_path, make_joint):
    """The output folder of a run of all kinds of data."""
    make_joint().save_pretrained(tmp_path / "run" / "model")
    return tmp_path / "run"


@pytest.fixture
def space(run):
    return Space.load(run, device="cpu")


def copied(files: Path, to: Path, pattern: str = "*") -> list[Path]:
    to.mkdir(exist_ok=True)
    for file in sorted(files.glob(pattern)):
        (to / file.name).write_bytes(file.read_bytes())
    return sorted(to.iterdir())


def built(space, folder, to, **options):
    index = Index.begin(to, space)
    return index, index.update(space, sorted(folder.iterdir()), **options)


def test_every_file_is_nearest_to_itself_whatever_its_side(space, files, tmp_path):
    index, done = built(space, files, tmp_path / "index")
    assert done.summary() == "11 new, 0 changed, 0 unchanged" and len(index) == 12
    assert set(index.items["side"]) == set(ALL)
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-6)
    for name in ("c1.mp4", "s2.wav", "t0.csv", "p.png"):
        first = space.search(index, like=files / name).iloc[0]
        assert first["path"] == str(files / name) and first["cosine"] == pytest.approx(1, abs=1e-5)


def test_words_find_equal_words_and_ranks_are_those_of_brute_force(space, files, tmp_path):
    index, _ = built(space, files, tmp_path / "index")
    hits = space.search(index, "Rain fell all day.", count=12)
    assert hits["text"][0] == "Rain fell all day." and hits["row"][0] == 1
    query = space.encoder.encode("text", ["Rain fell all day."])[0]
    cosines = index.vectors @ query
    order = np.argsort(-cosines, kind="stable")
    assert hits["path"].tolist() == index.items["path"].iloc[order].tolist()
    np.testing.assert_allclose(hits["cosine"], cosines[order], atol=1e-6)
    assert hits["rank"].tolist() == list(range(1, 13))
    assert set(space.search(index, "rain", among="audio")["side"]) == {"audio"}


def test_vectors_are_those_of_the_encoder(space, files):
    texts = ["A dog runs over the field.", "Rain fell all day."]
    np.testing.assert_array_equal(
        space.embed("text", texts), space.encoder.encode("text", texts, batch_size=32)
    )
    values = pd.read_csv(files / "t0.csv").to_numpy(np.float32)
    found = space.embed("series", [files / "t0.csv"])[0]
    np.testing.assert_allclose(found, space.encoder.encode("series", values[None])[0], atol=1e-5)


def test_an_interrupted_update_goes_on_where_it_stopped(space, files, tmp_path, monkeypatch):
    seen, whole = [], Space.embed_files

    def embed(self, side, paths, **options):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(list(paths))
        return whole(self, side, paths, **options)

    monkeypatch.setattr(Space, "embed_files", embed)
    with pytest.raises(KeyboardInterrupt):
        built(space, files, tmp_path / "index", chunk=1)
    monkeypatch.setattr(Space, "embed_files", whole)
    done = {p for part in seen for p in part}
    assert set(Index.open(tmp_path / "index").items["path"]) == done
    index, update = built(space, files, tmp_path / "index", chunk=1)
    assert (update.new, update.kept, len(index)) == (8, 3, 12)
    assert not list((tmp_path / "index").glob("part-*"))
    again, update = built(space, files, tmp_path / "index")
    assert (update.new, update.changed, update.kept) == (0, 0, 11)
    fresh, _ = built(space, files, tmp_path / "fresh")
    a, b = (i.items.assign(v=list(i.vectors)).sort_values(["path", "row"]) for i in (again, fresh))
    assert a["path"].tolist() == b["path"].tolist()
    np.testing.assert_allclose(np.stack(list(a["v"])), np.stack(list(b["v"])), atol=1e-5)


def test_changed_files_are_embedded_again_and_gone_ones_leave(space, files, tmp_path):
    copied(files, tmp_path / "data", "[cst]*")
    index, _ = built(space, tmp_path / "data", tmp_path / "index")
    before = index.vectors[index.items["path"].str.endswith("c0.mp4")]
    (tmp_path / "data" / "c0.mp4").write_bytes((files / "c1.mp4").read_bytes())
    os.utime(tmp_path / "data" / "c0.mp4", ns=(1, 1))
    (tmp_path / "data" / "s0.wav").unlink()
    index, done = built(space, tmp_path / "data", tmp_path / "index")
    assert done.summary() == "0 new, 1 changed, 7 unchanged, 1 gone" and len(index) == 8
    after = index.vectors[index.items["path"].str.endswith("c0.mp4")]
    assert len(after) == 1 and np.abs(after - before).max() > 1e-4
    assert not index.items["path"].str.endswith("s0.wav").any()


def test_files_of_another_folder_join_those_that_are_there(space, files, tmp_path):
    copied(files, tmp_path / "a", "c*")
    copied(files, tmp_path / "b", "s*")
    built(space, tmp_path / "a", tmp_path / "index")
    index, done = built(space, tmp_path / "b", tmp_path / "index")
    assert (done.new, done.gone, len(index)) == (3, 0, 6)


def test_broken_files_are_named_and_not_tried_again(space, files, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    copied(files, folder, "[cst]0*")
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "bad.wav").write_bytes(b"")
    (folder / "bad.csv").write_text("")
    for chunk in (1, 256):  # a chunk of broken files alone, and one of several
        index, done = built(space, folder, tmp_path / f"index{chunk}", chunk=chunk)
        assert len(index) == 3 and set(index.items["fault"]) == {""}
        assert {Path(p).name for p in done.broken} == {"bad.mp4", "bad.wav", "bad.csv"}
        assert all(done.broken.values()) and "3 of all broken" in done.summary()
    monkeypatch.setattr(Space, "embed_files", None)
    _, done = built(space, folder, tmp_path / "index256")
    assert (done.kept, len(done.broken)) == (6, 3)


def test_suffixes_tell_the_side_and_one_that_is_asked_for_takes_more(space):
    sides = {n: side_for(Path(n), ALL) for n in ("a.MP4", "a.png", "a.ogg", "a.csv.gz", "a.jsonl")}
    assert list(sides.values()) == ["video", "frames", "audio", "series", "text"]
    assert side_for(Path("a.mp4"), {"words": "text", "ear": "audio"}) == "ear"
    assert side_for(Path("a.csv"), {"words": "text", "eye": "video"}) is None
    assert side_for(Path("a.csv"), {"words": "text"}) == "words"
    assert side_for(Path("a.md"), ALL) is None
    with pytest.raises(ValueError, match=r"a\.md fits no side of .*text, series, frames, video"):
        space.example("a.md")


def test_tables_hold_texts_where_the_side_of_text_is_asked_for(space, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t.csv").write_text("n,caption\n1,a dog\n2,the rain\n")
    index, done = built(space, tmp_path / "data", tmp_path / "i", side="text", column="caption")
    assert index.items["text"].tolist() == ["a dog", "the rain"] and done.new == 1


def test_table_that_was_broken_or_read_by_another_column_is_read_by_the_one_that_is_named(
    space, tmp_path
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t.csv").write_text("title,caption\nA,a dog\nB,the rain\n")

    def texts(column):
        index, done = built(space, tmp_path / "data", tmp_path / "i", side="text", column=column)
        return index.items["text"].tolist(), done.kept

    assert texts(None) == ([], 0)  # which of the two is not said
    assert texts("caption") == (["a dog", "the rain"], 0)
    assert texts("title") == (["A", "B"], 0)
    assert texts("title") == texts(None) == (["A", "B"], 1)


def test_the_clips_of_a_run_lie_as_in_its_training(run, files):
    recipe = {"modality": "pairs", "encoder": {"sides": {"video": {"stride": 3, "column": "path"}}}}
    plain = Space.load(run, device="cpu").embed("video", [files / "c0.mp4"])
    (run / "run.json").write_text(json.dumps(recipe))
    for path in (run, run / "model"):
        space = Space.load(path, device="cpu")
        assert space.options["video"].stride == 3 and space.options["series"].stride == 1
    (run / "run.json").write_text(json.dumps({"data": "synthetic", "encoder": {"sides": {}}}))
    assert Space.load(run, device="cpu").options["video"].stride == 2  # that of the default
    assert np.isfinite(plain).all()


# -- exact and approximate ------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [1, 7, 64, 1 << 22])
def test_blocks_give_what_all_cosines_at_once_give(cells):
    random = np.random.default_rng(1)
    vectors = random.normal(size=(50, 6)).astype(np.float32)
    vectors[40:] = vectors[:10]  # equal ones: the earlier row first
    queries = random.normal(size=(3, 6)).astype(np.float32)
    rows, cosines = exact(queries, vectors, 8, cells=cells)
    whole = queries @ vectors.T
    order = np.argsort(-whole, axis=1, kind="stable")[:, :8]
    np.testing.assert_allclose(cosines, np.take_along_axis(whole, order, 1), atol=1e-5)
    if cells >= 50:
        np.testing.assert_array_equal(rows, order)


def test_the_graph_finds_what_exact_search_finds_in_a_small_set(space, files, tmp_path):
    pytest.importorskip("faiss")
    index, _ = built(space, files, tmp_path / "index")
    for among in (None, "series"):
        for _ in range(2):  # made, then read
            asked = {"count": 9, "among": among}
            plain, near = (
                space.search(index, "rain", approximate=a, **asked) for a in (False, True)
            )
            assert plain["path"].tolist() == near["path"].tolist()
            np.testing.assert_allclose(plain["cosine"], near["cosine"], atol=1e-6)
    assert len(list((tmp_path / "index").glob("graph-*.faiss"))) == 1


def test_a_graph_is_of_the_vectors_that_are_searched_after_an_interrupted_update_too(
    space, files, tmp_path, monkeypatch
):
    pytest.importorskip("faiss")
    copied(files, tmp_path / "data", "[cst]*")
    index, _ = built(space, tmp_path / "data", tmp_path / "index")
    space.search(index, "rain", approximate=True)
    (tmp_path / "data" / "c0.mp4").write_bytes((files / "c1.mp4").read_bytes())
    monkeypatch.setattr(Index, "_merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # the part of c0 is written, and not yet merged
        built(space, tmp_path / "data", tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    how = {"like": files / "c2.mp4", "count": len(opened)}
    plain, near = (space.search(opened, approximate=a, **how) for a in (False, True))
    assert plain["path"].tolist() == near["path"].tolist()
    np.testing.assert_allclose(plain["cosine"], near["cosine"], atol=1e-6)


def test_without_faiss_the_approximate_search_says_how_to_get_it(
    space, files, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "faiss", None)
    copied(files, tmp_path / "data", "t*")
    index, _ = built(space, tmp_path / "data", tmp_path / "index")
    with pytest.raises(ImportError, match=r"faiss-cpu is wanted .* 'unlabel\[search\]'"):
        space.search(index, "rain", approximate=True)


# -- zero-shot classes ----------------------------------------------------------------------------


def test_a_class_is_the_mean_of_its_sentences_scaled_to_length_one(space):
    classes, templates = ["dog", "rain"], ["a {}", "the {} of today"]
    found = space.class_vectors(classes, templates)
    for name, vector in zip(classes, found, strict=True):
        each = space.encoder.encode("text", [f"a {name}", f"the {name} of today"])
        mean = each.astype(np.float64).mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_sentences_get_their_own_class_and_the_softmax_of_scaled_cosines(space):
    classes = ["a young child", "rain fell", "the river"]
    vectors = space.embed("text", [f"see {name} now" for name in classes])
    plain = space.classify(vectors, classes, ["see {} now"])
    assert plain["label"].tolist() == classes and list(plain) == ["label", "cosine"]
    np.testing.assert_allclose(plain["cosine"], 1, atol=1e-6)
    space.scale = 7.5
    found = space.classify(vectors, classes, ["see {} now"])
    logits = 7.5 * (vectors @ vectors.T).astype(np.float64)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found["probability"], share.max(1), atol=1e-6)
    assert (space.classify(vectors, ["river"])["probability"] == 1).all()


def test_classes_that_are_as_near_are_told_and_none_is_nearest_to_nan(space, caplog):
    vectors = space.embed("text", ["a dog", "rain"])
    space.classify(vectors, ["dog", "rain"])
    assert "several classes" not in caplog.text
    space.classify(0 * vectors, ["dog", "rain"])
    assert "2 of 2 are as near to several classes" in caplog.text
    with pytest.raises(ValueError, match="not all finite"):
        space.classify(np.nan * vectors, ["dog", "rain"])


def test_the_scale_is_the_one_that_the_run_kept(run):
    assert Space.load(run, device="cpu").scale is None
    (run / "run.json").write_text("{}")
    for method in (CLIP(temperature=0.05), Sum({"a": CLIP(temperature=0.05), "b": SigLIP()})):
        save_heads(method, run)
        assert Space.load(run, device="cpu").scale == pytest.approx(20, rel=1e-5)
    save_heads(SigLIP(scale=5.0), run)
    assert Space.load(run / "model", device="cpu").scale == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize(
    ("classes", "templates", "said"),
    [
        ([], ["{}"], "one or more different names"),
        (["a", "a"], ["{}"], "one or more different names"),
        (["a"], ["a picture"], "in the place of the name"),
        (["a"], [], "in the place of the name"),
    ],
)
def test_classes_without_names_and_templates_without_a_place_are_refused(
    space, classes, templates, said
):
    with pytest.raises(ValueError, match=said):
        space.classify(np.zeros((1, 8), np.float32), classes, templates)


# -- the page -------------------------------------------------------------------------------------


def test_the_page_shows_every_hit_and_loads_nothing(space, files, tmp_path):
    copied(files, tmp_path / "data")
    (tmp_path / "data" / "words.txt").write_text("Rain <b>fell</b> all day.\n")
    index, _ = built(space, tmp_path / "data", tmp_path / "index")
    page = tmp_path / "found.html"
    asked = 'Rain & "<i>snow</i>"'
    hits = space.search(index, asked, count=20)
    write_page(page, space, hits, count=len(index), words=asked)
    text = page.read_text()
    assert len(hits) == 11 and text.count('<article class="hit">') == 11
    assert all(f">{Path(p).name}</b>" in text for p in hits["path"])
    assert all(f"{c:.3f}" in text for c in hits["cosine"])
    assert "The 11 nearest of 11, by cosine." in text
    assert "Rain &amp; &#34;&lt;i&gt;snow&lt;/i&gt;&#34;" in text and "<b>fell" not in text
    assert text.count("data:image/png;base64,") == 3 + 3 + 1 and text.count("<svg") == 3
    assert text.count("data:audio/wav;base64,") == text.count("<audio") == 3
    linked = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s]{5})""", text)
    assert all(link == "data:" or link[0] == "#" for link in linked)  # clips of drawings


def test_the_page_shows_the_example_and_says_what_is_gone(space, files, tmp_path):
    copied(files, tmp_path / "data", "c*")
    index, _ = built(space, tmp_path / "data", tmp_path / "index")
    hits = space.search(index, like=files / "c1.mp4")
    (tmp_path / "data" / "c2.mp4").unlink()
    query, _ = space.example(files / "c1.mp4")
    write_page(tmp_path / "found.html", space, hits, count=3, like=query)
    text = (tmp_path / "found.html").read_text()
    assert text.count("<article") == 4 and text.count("data:image/png") == 3
    assert "It cannot be shown:" in text and "there is no such file" in text


def test_a_long_recording_is_heard_in_part_and_gaps_in_series_are_drawn(space, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(9 * 22_050), 22_050)
    item = {"path": str(tmp_path / "long.wav"), "frames": 9 * 22_050, "rate": 22_050.0, "row": 0}
    piece = shown(item, "audio", space.options["audio"])
    sound = base64.b64decode(re.findall(r"wav;base64,([^\"]+)", piece)[0])
    heard, rate = soundfile.read(io.BytesIO(sound))
    assert (len(heard), rate) == (128_000, 16_000) and "the first 8 s" in piece
    assert length_of(item, "audio") == "9.0 s"
    values = np.full((900, 6), np.nan)
    values[::2, 0] = 1.0
    assert figures.channels(values, label="a").count("<path") >= 4


# -- refusals -------------------------------------------------------------------------------------


def test_what_cannot_be_asked_is_refused_in_one_sentence(space, files, tmp_path):
    copied(files, tmp_path / "data", "t*")
    index, _ = built(space, tmp_path / "data", tmp_path / "index")
    for asked, said in (
        ({}, "one of words and like"),
        ({"words": "a", "like": "b.wav"}, "one of words and like"),
        ({"like": "b.wav"}, "b.wav is no file"),
        ({"words": ""}, "words to look for are empty"),
        ({"words": "  "}, "words to look for are empty"),
        ({"words": "a", "count": 0}, "1 or more"),
        ({"words": "a", "among": "video"}, "holds no video to find, but series"),
    ):
        with pytest.raises(ValueError, match=said):
            space.search(index, **asked)
    with pytest.raises(ValueError, match="No side 'smell'"):
        space.embed("smell", ["a"])


def test_words_need_a_side_of_text(make_joint, files, tmp_path):
    make_joint("video", "audio").save_pretrained(tmp_path / "model")
    space = Space.load(tmp_path / "model", device="cpu")
    index = Index.begin(tmp_path / "index", space)
    with pytest.raises(
        ValueError, match=r"Words need a side of text, but .* has video, audio; ask"
    ):
        space.search(index, "rain")


def test_an_index_of_other_weights_is_refused(space, make_joint, files, tmp_path):
    copied(files, tmp_path / "data", "t*")
    index, _ = built(space, tmp_path / "data", tmp_path / "index")
    other = make_joint("text", "series", width=8)
    other.save_pretrained(tmp_path / "other")
    for use in (Space.search, lambda s, i, _: Index.begin(i.folder, s)):
        with pytest.raises(ValueError, match="was made by other weights"):
            use(Space.load(tmp_path / "other", device="cpu"), index, "rain")
    with pytest.raises(ValueError, match="holds other files"):
        Index.begin(tmp_path / "data", space)
    with pytest.raises(ValueError, match="is no index; make one"):
        Index.open(tmp_path / "data")


# -- on the command line --------------------------------------------------------------------------


def test_index_search_and_classify_on_the_command_line(run, files, tmp_path, capsys):
    index, labels = str(tmp_path / "index"), str(tmp_path / "labels.csv")
    main(["index", str(run), str(files), "--output", index])
    said = capsys.readouterr().out
    assert "11 new, 0 changed, 0 unchanged; 12 vectors of width 8" in said
    main(["search", str(run), "Rain fell all day.", "--count", "3", "--index", index])
    said = capsys.readouterr().out
    assert "1.000" in said and "words.txt: Rain fell all day." in said
    video = ["--like", str(files / "c0.mp4"), "--among", "video"]
    page = tmp_path / "found.html"
    main(["search", str(run), *video, "--data", f"{files}/c*.mp4", "--page", str(page)])
    said = capsys.readouterr().out
    assert "The 3 nearest of 3, by cosine." in page.read_text()
    assert "3 new" in said and "c0.mp4" in said
    main(["search", str(run / "model"), *video, "--index", str(run / "index")])
    assert "new" not in capsys.readouterr().out
    classes = ["--classes", "[rain on roofs, a dog]", "--template", "see {} now"]
    for source in (index, str(files)):
        main(["classify", str(run), source, "--output", labels, *classes])
        table = pd.read_csv(labels)
        assert len(table) == 12 and list(table) == ["path", "row", "label", "cosine"]
        assert set(table["label"]) <= {"rain on roofs", "a dog"}
    templates = ["--template", '["see {} now", "a {}"]']
    main(["classify", str(run), f"{files}/c*.mp4", "--output", labels, *classes[:2], *templates])
    assert list(pd.read_csv(labels)) == ["path", "label", "cosine"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["index", "{other}", "{files}"], "holds no encoder of several kinds of data"),
        (["index", "{run}", "{empty}", "--output", "{index}"], "found nothing there"),
        (
            ["index", "{run}", "{files}", "--output", "{index}", "--side", "smell"],
            "No side 'smell'",
        ),
        (["search", "{run}", "rain"], "is no index"),
        (["search", "{run}", ""], "words to look for are empty"),
        (["search", "{run}", "--like", "none.wav", "--data", "{files}"], "none.wav is no file"),
        (
            ["classify", "{run}", "{files}", "--output", "a.txt", "--classes", "[a]"],
            "written as .csv or",
        ),
    ],
)
def test_user_errors_end_in_one_sentence(
    run, files, tmp_path, make_encoder, capsys, arguments, said
):
    make_encoder().save_pretrained(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    names = {"run": run, "files": files, "index": tmp_path / "index"}
    names |= {"other": tmp_path / "other", "empty": tmp_path / "empty"}
    with pytest.raises(SystemExit) as end:
        main([a.format(**names) for a in arguments])
    assert end.value.code == 2 and said in capsys.readouterr().err
