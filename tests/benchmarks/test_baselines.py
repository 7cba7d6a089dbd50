import gzip
import importlib.util
from itertools import islice

import numpy as np
import pytest

from unlabel.benchmarks.baselines import bag_of_words, tfidf, whiten, whitened, word_vectors
from unlabel.benchmarks.intervals import unit_rows
from unlabel.benchmarks.sts import evaluate_sts

no_gensim = importlib.util.find_spec("gensim") is None


def cosine(embed, one, two):
    rows = unit_rows(embed([one, two]))
    return float((rows @ rows.T)[0, 1])


def test_bag_of_words_cosine_is_the_share_of_common_words():
    assert cosine(bag_of_words(), "a red cat", "A RED dog") == pytest.approx(2 / 3)


def test_tfidf_weighs_rare_words_more_and_unseen_words_most():
    embed = tfidf(["the cat", "the dog", "the cow", "the cat sat"])
    rare, common = cosine(embed, "the cow", "a cow"), cosine(embed, "the cow", "the ox")
    assert common == pytest.approx(0)  # ln((1 + 4) / (1 + 4)) = 0 for a word in every sentence
    assert rare > 0.4
    weights = embed(["cat cow unseen"]).data
    expected = np.log([5 / 3, 5 / 2, 5 / 1])  # in 2, 1 and 0 of 4 sentences
    np.testing.assert_allclose(sorted(weights), expected, rtol=1e-6)


def test_tfidf_without_sentences_is_refused():
    with pytest.raises(ValueError, match="needs sentences"):
        tfidf([])


def test_whitened_embeddings_have_covariance_one():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 5
    white = whiten(rows)(rows)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(6), atol=1e-9)


def test_whitening_keeps_the_strongest_directions():
    rows = np.random.default_rng(0).normal(size=(400, 4)) * [1, 100, 1, 10]
    kept = whiten(rows, width=2)(rows)
    assert kept.shape == (400, 2)
    assert abs(np.corrcoef(kept[:, 0], rows[:, 1])[0, 1]) > 0.999
    assert abs(np.corrcoef(kept[:, 1], rows[:, 3])[0, 1]) > 0.99


def test_whitening_drops_directions_that_only_rounding_fills():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 20))
    assert whiten(rows)(rows).shape == (50, 3)


def test_whitened_encoder_still_takes_sentences(random_embed):
    fit = [f"sentence {i}" for i in range(200)]
    assert whitened(random_embed, fit, width=4)(["a", "b"]).shape == (2, 4)


def test_what_cannot_be_whitened_is_refused():
    with pytest.raises(ValueError, match="two or more finite"):
        whiten(np.ones((1, 4)))
    with pytest.raises(ValueError, match="all embeddings are equal"):
        whiten(np.ones((5, 4)))


@pytest.mark.skipif(no_gensim, reason="gensim is not installed: pip install 'unlabel[peers]'")
def test_word_vectors_put_words_of_one_context_together():
    rng = np.random.default_rng(0)
    # 100 words a world: fewer would each be so frequent that sub-sampling drops nearly all.
    worlds = [[f"{world}{i}" for i in range(100)] for world in ("sky", "farm")]
    lines = [" ".join(rng.choice(worlds[i % 2], 20)) for i in range(2000)]
    embed = word_vectors(lines, width=16, epochs=10)
    assert cosine(embed, "sky0 sky1", "sky2 sky3") > 0.9
    assert cosine(embed, "sky0 sky1", "farm0 farm1") < 0.6
    assert not embed(["words it never saw"]).any()


@pytest.mark.skipif(not no_gensim, reason="gensim is installed, so there is nothing to hint at")
def test_missing_gensim_is_said_in_one_line():
    with pytest.raises(ImportError, match=r"pip install 'unlabel\[peers\]'"):
        word_vectors(["a b"])


@pytest.mark.data
@pytest.mark.slow
def test_tfidf_gets_its_measured_score_on_the_seven_sets(data_folder):
    path = data_folder / "text" / "wiki_en_train.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        embed = tfidf([line.strip() for line in islice(lines, 200_000)])
    average = evaluate_sts(embed, data_folder / "sts", bootstrap=0).encoders[0].average
    assert average is not None
    assert average.score == pytest.approx(64.57, abs=0.1)
