"""Neighbours and map: what is computed with the models and saved for the report."""

import json
from pathlib import Path

import numpy as np
import pytest

from unlabel.embedding import load_embedder
from unlabel.pictures import clusters, flat, mean_cosine, pictures, save_pictures


@pytest.fixture
def run(tmp_path: Path, make_encoder) -> Path:
    make_encoder(seed=0).save_pretrained(tmp_path / "untrained")
    make_encoder(seed=1).save_pretrained(tmp_path / "model")
    return tmp_path


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def saved(run: Path, name: str) -> dict:
    return json.loads((run / "results" / f"{name}.json").read_text())


def test_neighbours_are_those_of_all_cosines_and_never_the_sentence_itself(run, sentences):
    save_pictures(run, sentences)
    z = unit(load_embedder(run / "model")(sentences))
    row = {s: i for i, s in enumerate(sentences)}
    for q in saved(run, "neighbours")["queries"]:
        cosine = {s: float(z[row[q["query"]]] @ z[row[s]]) for s in sentences if s != q["query"]}
        best = sorted(cosine, key=lambda s: -cosine[s])[:3]
        assert [n["text"] for n in q["after"]] == best
        assert [n["cosine"] for n in q["after"]] == pytest.approx(
            [cosine[s] for s in best], abs=1e-4
        )


def test_before_is_the_untrained_encoder_and_after_the_trained_one(run, sentences):
    save_pictures(run, sentences)
    found = saved(run, "neighbours")
    for side, folder in (("before", "untrained"), ("after", "model")):
        z = unit(load_embedder(run / folder)(sentences))
        apart = [z[i] @ z[j] for i in range(16) for j in range(16) if i != j]
        assert found["mean_cosine"][side] == pytest.approx(np.mean(apart), abs=1e-4)
    assert found["mean_cosine"]["before"] != found["mean_cosine"]["after"]


def test_same_seed_gives_same_pictures_and_another_seed_other_queries(run, sentences):
    save_pictures(run, sentences)
    first = {name: saved(run, name) for name in ("neighbours", "map")}
    save_pictures(run, sentences)
    assert {name: saved(run, name) for name in first} == first
    save_pictures(run, sentences, seed=1)
    queries = [q["query"] for q in saved(run, "neighbours")["queries"]]
    assert queries != [q["query"] for q in first["neighbours"]["queries"]]
    assert len(set(queries)) == 8


def test_map_has_two_points_a_cluster_and_a_text_for_every_different_sentence(run, sentences):
    save_pictures(run, [*sentences, *sentences[:5], "  "])
    found = saved(run, "map")
    assert found["text"] == sentences
    assert np.shape(found["before"]) == np.shape(found["after"]) == (16, 2)
    assert np.isfinite([found["before"], found["after"]]).all()
    assert len(found["cluster"]) == 16 and set(found["cluster"]) <= set(range(10))


def test_at_most_a_thousand_sentences_are_drawn(run, sentences, monkeypatch):
    monkeypatch.setattr("unlabel.pictures.SAMPLE", 12)
    save_pictures(run, sentences)
    found = saved(run, "map")["text"]
    assert len(found) == 12 and set(found) < set(sentences)


def test_collapsed_encoder_is_one_point_in_one_cluster():
    z = np.tile(unit(np.arange(1.0, 9.0)[None]), (20, 1)).astype(np.float32)
    assert not flat(z, 0).any()
    assert not clusters(z, 0).any()
    assert mean_cosine(z) == pytest.approx(1, abs=1e-4)


def test_map_keeps_far_groups_apart():
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(8)[:2], 20, axis=0)
    z = unit(centres + 0.05 * random.normal(size=centres.shape))
    points = flat(z, 0)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    is_same = np.repeat([0, 1], 20)[:, None] == np.repeat([0, 1], 20)[None]
    assert apart[is_same].max() < apart[~is_same].min()


def test_largest_cluster_is_number_zero():
    z = np.repeat(np.eye(3), [2, 9, 4], axis=0)
    assert clusters(z, 0).tolist() == [2] * 2 + [0] * 9 + [1] * 4


def test_too_few_sentences_are_refused(run):
    with pytest.raises(ValueError, match="at least 10 different sentences; 2 came"):
        save_pictures(run, ["a", "b"] * 30)


def test_one_string_is_refused(run):
    with pytest.raises(ValueError, match="one string came"):
        save_pictures(run, "a sentence that is no list")  # pyright: ignore[reportArgumentType]


def test_embeddings_that_are_not_finite_are_refused_by_sentence(run, sentences, make_encoder):
    broken = make_encoder()
    broken.model.embeddings.LayerNorm.weight.data.fill_(float("nan"))
    broken.save_pretrained(run / "model")
    with pytest.raises(ValueError, match="model: the embedding of 'A man with a hard hat"):
        save_pictures(run, sentences)
    assert not (run / "results").exists()


def test_folder_without_models_is_refused(tmp_path, sentences):
    with pytest.raises(ValueError, match="untrained does not exist"):
        save_pictures(tmp_path, sentences)


def test_pictures_reads_the_sentences_from_a_file(run, sentences):
    file = run / "sentences.txt"
    file.write_text("\n".join(sentences))
    folder = pictures(str(run), str(file))
    assert saved(run, "map")["text"] == sentences
    assert sorted(p.name for p in folder.iterdir()) == ["map.json", "neighbours.json"]
