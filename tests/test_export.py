import ast
import copy
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel

from unlabel import model_card
from unlabel.benchmarks.retrieval import evaluate_retrieval
from unlabel.embedding import load_embedder
from unlabel.export import export
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.text import TextEncoder
from unlabel.modalities.visual import VisualEncoder

RUN = {
    "modality": "text",
    "data": "/home/someone/notes.txt",
    "encoder": {"pretrained": None},
    "objective": {
        "class": "Sum",
        "parts": {
            "one": {"class": "SimCSE", "settings": {"temperature": 0.05}, "views": ["plain"]},
            "two": {"class": "BarlowTwins", "settings": {}, "views": ["plain"]},
        },
        "weights": {"one": 1.0, "two": 0.1},
    },
    "papers": "Gao et al. 2021; Zbontar et al. 2021",
    "training": {"seed": 7, "learning_rate": 3e-5},
    "samples": 1234,
    "result": {"steps": 99},
}


@pytest.fixture
def make_run(tmp_path, make_encoder):
    def make(pooling="mean"):
        encoder = make_encoder(pooling=pooling)
        encoder.save_pretrained(tmp_path / "run" / "model")
        (tmp_path / "run" / "run.json").write_text(json.dumps(RUN))
        return tmp_path / "run", encoder

    return make


def load(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last"])
def test_sentence_transformers_gives_the_same_embeddings(tmp_path, make_run, sentences, pooling):
    run, encoder = make_run(pooling)
    long = [" ".join(sentences)]  # longer than max_length
    folder = export(run, tmp_path / "st")
    found = load(folder).encode(sentences + long)
    np.testing.assert_allclose(found, encoder.encode(sentences + long), atol=1e-5)
    np.testing.assert_allclose(load_embedder(folder)(sentences + long), found, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last"])
def test_what_sentence_transformers_saves_again_is_read_as_it_was(
    tmp_path, make_run, sentences, pooling
):
    run, encoder = make_run(pooling)
    load(export(run, tmp_path / "st")).save(str(tmp_path / "again"))
    again = TextEncoder.from_pretrained(tmp_path / "again")
    assert (again.pooling, again.max_length) == (pooling, encoder.max_length)
    long = [" ".join(sentences)]
    found, expected = again.encode(sentences + long), encoder.encode(sentences + long)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_old_sentence_transformers_folder_is_read_as_the_new_ones_are(
    tmp_path, make_run, sentences
):
    run, encoder = make_run("cls")
    folder = export(run, tmp_path / "st")
    (below := folder / "0_Transformer").mkdir()
    for file in [p for p in folder.iterdir() if p.is_file() and p.name != "modules.json"]:
        file.rename(below / file.name)
    (below / "unlabel.json").unlink()
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    found = TextEncoder.from_pretrained(folder)
    assert (found.pooling, found.max_length) == ("cls", encoder.max_length)
    long = [" ".join(sentences)]
    np.testing.assert_allclose(found.encode(long), load(folder).encode(long), atol=1e-6)
    again = export(folder, tmp_path / "again")
    np.testing.assert_allclose(load(again).encode(long), load(folder).encode(long), atol=1e-6)


def test_normalized_export_ends_in_vectors_of_length_one(tmp_path, make_run, sentences):
    run, encoder = make_run()
    found = load(export(run, tmp_path / "st", normalize=True)).encode(sentences)
    np.testing.assert_allclose(found, encoder.encode(sentences, normalize=True), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last"])
def test_code_in_the_transformers_card_gives_the_same_embeddings(
    tmp_path, make_run, monkeypatch, pooling
):
    run, encoder = make_run(pooling)
    folder = export(run, tmp_path / "hf", to="transformers")
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code.replace("path/to/this/folder", str(folder)), names)
    expected = encoder.encode(["A man plays the guitar.", "Someone makes music."])
    np.testing.assert_allclose(names["embeddings"].numpy(), expected, atol=1e-5)


def test_code_in_every_card_uses_all_that_it_imports():
    cards = [v for v in vars(model_card).values() if isinstance(v, str) and "```python" in v]
    assert len(cards) >= 5
    for card in cards:
        nodes = list(ast.walk(ast.parse(card.split("```")[1].removeprefix("python"))))
        taken = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
        brought = {a.asname or a.name for n in taken for a in n.names}
        assert brought == brought & {n.id for n in nodes if isinstance(n, ast.Name)}, card


@pytest.mark.parametrize("kind", ["patchtst", "dilated_conv", "coupling_flow"])
def test_card_says_what_automodel_wants_before(tmp_path, kind):
    encoder = SeriesEncoder.from_config({"model_type": kind}, context=48)
    encoder.save_pretrained(tmp_path / "model")
    folder = export(tmp_path / "model", tmp_path / "hf")
    card = " ".join((folder / "README.md").read_text().split())
    assert ("once `unlabel.modalities` is imported" in card) == (kind != "patchtst")
    wanted = "unlabel.modalities" if kind != "patchtst" else "unlabel"
    code = f"import {wanted}, transformers as t; t.AutoModel.from_pretrained({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_code_in_the_card_of_an_encoder_with_covariates_runs(tmp_path, monkeypatch):
    encoder = SeriesEncoder.from_config({}, context=48, covariates=2, static=1, time_gap=60.0)
    encoder.save_pretrained(tmp_path / "model")
    folder = export(tmp_path / "model", tmp_path / "hf")
    card = (folder / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    minutes = pd.date_range("2024", periods=60, freq="min")
    table = pd.DataFrame(
        {"date": minutes, "y": np.arange(60.0), "covariates_0": 1.0, "static_0": 2}
    )
    table.to_csv("series.csv", index=False)
    names: dict = {}
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace("path/to/this/folder", str(folder)), names)
    assert len(names["embeddings"]) == 1 and "Forecaster" not in card


def test_card_tells_objectives_papers_and_scores_and_no_private_folder(tmp_path, make_run):
    run, _ = make_run()
    words = [f"w{i}" for i in range(8)]
    perfect = lambda s: np.eye(8)[[int(x[1:]) for x in s]]  # noqa: E731
    evaluate_retrieval(perfect, words, words).save(run / "results" / "retrieval.json")
    card = (export(run, tmp_path / "st") / "README.md").read_text()
    assert "SimCSE (weight 1): temperature 0.05; views: plain" in card
    assert "BarlowTwins (weight 0.1)" in card
    assert "- Zbontar et al. 2021" in card
    assert "| recall@1 | 8 | 100.00 [100.00, 100.00] |" in card
    assert "data: notes.txt" in card
    assert "/home/someone" not in card
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")


def test_model_folder_without_a_run_exports_too(tmp_path, make_encoder, sentences):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path / "model")
    found = load(export(tmp_path / "model", tmp_path / "st")).encode(sentences)
    np.testing.assert_allclose(found, encoder.encode(sentences), atol=1e-5)


def test_tokenizer_without_padding_is_exported_with_some(tmp_path, tokenizer, sentences):
    without = copy.deepcopy(tokenizer)
    without.pad_token, without.eos_token = None, "[SEP]"
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    encoder = TextEncoder.from_config({"model_type": "gpt2", **sizes}, without).eval()
    encoder.save_pretrained(tmp_path / "model")
    found = load(export(tmp_path / "model", tmp_path / "st")).encode(sentences)
    np.testing.assert_allclose(found, encoder.encode(sentences), atol=1e-5)


def test_run_is_exported_into_its_own_folder_by_default(make_run, sentences):
    run, encoder = make_run()
    folder = export(run)
    assert folder == run / "sentence-transformers"
    np.testing.assert_allclose(load(folder).encode(sentences), encoder.encode(sentences), atol=1e-5)
    with pytest.raises(ValueError, match="say where to export to"):
        export(run / "model")


def test_only_the_given_folder_is_written(tmp_path, make_run):
    run, _ = make_run()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    folder = export(run, tmp_path / "st")
    after = {
        p: p.stat().st_mtime_ns
        for p in tmp_path.rglob("*")
        if p != folder and folder not in p.parents
    }
    assert after == before


def test_folder_that_is_not_empty_is_refused_unless_it_is_an_export(tmp_path, make_run):
    run, _ = make_run("first_last")
    folder = export(run, tmp_path / "st")
    with pytest.raises(ValueError, match="not empty"):
        export(run, folder)
    export(run, folder, to="transformers", overwrite=True)
    assert not (folder / "modules.json").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no earlier export"):
        export(run, other, overwrite=True)
    assert (other / "chapter.txt").read_text() == "years of work"


def test_model_is_never_overwritten_by_its_own_export(tmp_path, make_run):
    run, _ = make_run()
    for folder in (run, run / "model", tmp_path):
        with pytest.raises(ValueError, match="holds the model"):
            export(run, folder, overwrite=True)
    assert (run / "model" / "model.safetensors").is_file()


def test_what_cannot_be_exported_is_refused(tmp_path, make_run):
    run, _ = make_run()
    with pytest.raises(ValueError, match="choose sentence-transformers or transformers"):
        export(run, tmp_path / "x", to="onnx")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no place for normalizing"):
        export(run, tmp_path / "x", to="transformers", normalize=True)
    with pytest.raises(ValueError, match=r"has no model/config\.json"):
        export(tmp_path / "nowhere", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.fixture
def joint_run(tmp_path, make_joint):
    encoder = make_joint()
    encoder.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "run.json").write_text(json.dumps({**RUN, "modality": "pairs"}))
    return tmp_path / "run", encoder


@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last"])
def test_text_side_of_pairs_is_in_the_shared_space(joint_run, make_encoder, sentences, pooling):
    run, encoder = joint_run
    encoder.towers["text"].pooling = pooling
    encoder.save_pretrained(run / "model")
    folder = export(run, to="sentence-transformers")
    assert folder == run / "sentence-transformers"
    found, expected = load(folder).encode(sentences), encoder.encode("text", sentences)
    assert found.shape == (len(sentences), encoder.width)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(load_embedder(folder)(sentences), expected, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert "shares with series, frames, video and audio" in card
    assert "projection into 8 numbers" in card


def test_one_side_of_pairs_is_exported_by_itself(joint_run, joint_data):
    run, encoder = joint_run
    folder = export(run, side="video", to="transformers")
    assert folder == run / "transformers-video"
    found = VisualEncoder.from_pretrained(folder).encode(joint_data["video"])
    np.testing.assert_allclose(
        found, encoder.towers["video"].encode(joint_data["video"]), atol=1e-6
    )
    assert AutoModel.from_pretrained(folder).config.model_type == "videomae"
    card = (folder / "README.md").read_text()
    assert "together with encoders of text, series, frames and audio, as the video side" in card
    assert "SimCSE" in card


def test_all_of_pairs_is_exported_for_automodel_and_its_card_runs(joint_run, joint_data):
    run, encoder = joint_run
    folder = export(run)
    model, inputs = AutoModel.from_pretrained(folder), torch.from_numpy(joint_data["audio"])
    with torch.no_grad():
        found = model.get_features("audio", input_values=inputs).numpy()
    np.testing.assert_allclose(found, encoder.encode("audio", joint_data["audio"]), atol=1e-5)
    card = (folder / "README.md").read_text()
    assert "# One space for text, series, frames, video and audio" in card
    code = card.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code.replace("path/to/this/folder", str(folder)), names)
    assert {side: len(x) for side, x in names["found"].items()} == dict.fromkeys(encoder.sides, 2)
    np.testing.assert_allclose(
        names["found"]["text"], encoder.encode("text", ["a red square", "a blue circle"]), atol=1e-6
    )


def test_side_that_cannot_be_exported_is_refused(joint_run, make_joint, tmp_path, make_encoder):
    run, _ = joint_run
    with pytest.raises(ValueError, match="No side 'smell'; there are text, series"):
        export(run, side="smell")
    with pytest.raises(ValueError, match="audio is an encoder of audio; export it to transformers"):
        export(run, side="audio", to="sentence-transformers")
    make_joint("audio", "video").save_pretrained(tmp_path / "mute")
    with pytest.raises(ValueError, match="there are 0 among audio, video; give transformers"):
        export(tmp_path / "mute", tmp_path / "x", to="sentence-transformers")
    make_encoder().save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="which has no sides"):
        export(tmp_path / "text", tmp_path / "x", side="text")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last"])
@pytest.mark.skipif(
    not os.environ.get("UNLABEL_OLD_SENTENCE_TRANSFORMERS"),
    reason="UNLABEL_OLD_SENTENCE_TRANSFORMERS names no folder with an older release",
)
def test_older_release_gives_the_same_embeddings(tmp_path, make_run, sentences, pooling):
    run, encoder = make_run(pooling)
    folder = export(run, tmp_path / "st", normalize=True)
    code = (
        "import sys, json, numpy, unlabel, sentence_transformers as s;"
        "m = s.SentenceTransformer(sys.argv[1], device='cpu');"
        "numpy.save(sys.argv[2], m.encode(json.loads(sys.argv[3])))"
    )
    paths = {"PYTHONPATH": os.environ["UNLABEL_OLD_SENTENCE_TRANSFORMERS"]}
    arguments = [str(folder), str(tmp_path / "o.npy"), json.dumps(sentences)]
    subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ | paths, check=True)
    expected = encoder.encode(sentences, normalize=True)
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), expected, atol=1e-5)
