import numpy as np
import pytest

from unlabel.benchmarks.retrieval import evaluate_retrieval

QUERIES = [f"q{i}" for i in range(600)]
DOCUMENTS = [f"d{i}" for i in range(600)]


def table_embed(queries, documents):
    table = dict(zip(QUERIES + DOCUMENTS, np.concatenate([queries, documents]), strict=True))
    return lambda sentences: np.stack([table[s] for s in sentences])


def scores(embed, **options):
    found = evaluate_retrieval(embed, QUERIES, DOCUMENTS, **options).encoders[0].scores
    return {name: score.score for name, score in found.items()}


def test_encoder_that_pairs_them_scores_100():
    vectors = np.random.default_rng(0).normal(size=(600, 24))
    found = scores(table_embed(vectors, 3 * vectors))
    assert found == pytest.approx({"recall@1": 100, "recall@10": 100, "mrr": 100})


def test_constant_encoder_ranks_every_document_last():
    found = scores(lambda s: np.ones((len(s), 8), dtype=np.float32))
    assert found == pytest.approx({"recall@1": 0, "recall@10": 0, "mrr": 100 / 600})


def test_known_ranks_give_the_known_scores():
    # Document i stands at angle i; query i points at document i + 1, so its own comes second,
    # but for the last query, which points at its own.
    angle = np.arange(600) * 0.005
    aimed = np.append(angle[1:] - 0.001, angle[-1])
    documents, queries = (np.stack([np.cos(a), np.sin(a)], 1) for a in (angle, aimed))
    found = scores(table_embed(queries, documents), ks=(1, 2))
    assert found["recall@1"] == pytest.approx(100 / 600)
    assert found["recall@2"] == pytest.approx(100)
    assert found["mrr"] == pytest.approx(100 * (599 / 2 + 1) / 600)


def test_random_encoder_scores_as_chance_and_its_interval_holds_chance():
    rng = np.random.default_rng(3)
    embed = table_embed(rng.normal(size=(600, 32)), rng.normal(size=(600, 32)))
    found = evaluate_retrieval(embed, QUERIES, DOCUMENTS).encoders[0].scores["recall@10"]
    assert found.low < 100 * 10 / 600 < found.high


def test_order_of_the_pairs_does_not_matter():
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(600, 8))
    embed = table_embed(queries, queries + rng.normal(size=(600, 8)))
    order = rng.permutation(600)
    shuffled = evaluate_retrieval(
        embed, [QUERIES[i] for i in order], [DOCUMENTS[i] for i in order], bootstrap=0
    )
    again = {k: s.score for k, s in shuffled.encoders[0].scores.items()}
    assert again == pytest.approx(scores(embed, bootstrap=0))


def test_nan_embeddings_have_no_score_and_a_reason():
    with pytest.warns(UserWarning, match="nan or infinite"):
        result = evaluate_retrieval(lambda s: np.full((len(s), 2), np.nan), QUERIES, DOCUMENTS)
    assert "nan" in (result.encoders[0].scores["mrr"].reason or "")


def test_repeated_documents_are_named_in_the_note():
    embed = lambda s: np.eye(3)[[int(x[-1]) for x in s]]  # noqa: E731
    result = evaluate_retrieval(embed, ["q0", "q1", "q2"], ["d0", "d1", "d1"], bootstrap=0)
    assert result.note.startswith("1 documents repeat")
    assert result.encoders[0].scores["recall@1"].score == pytest.approx(100 / 3)


def test_unequal_sides_and_bad_k_are_refused():
    with pytest.raises(ValueError, match="600 queries and 599 documents"):
        evaluate_retrieval(lambda s: np.ones((len(s), 2)), QUERIES, DOCUMENTS[1:])
    with pytest.raises(ValueError, match="k of 1 or more"):
        evaluate_retrieval(lambda s: np.ones((len(s), 2)), QUERIES, DOCUMENTS, ks=(0,))
