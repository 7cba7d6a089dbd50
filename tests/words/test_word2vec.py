"""Word vectors: the formula, its gradient, files, and that words of one context come together."""

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unlabel.cli import main
from unlabel.words import WordVectors, train_word2vec
from unlabel.words.corpus import Corpus
from unlabel.words.negative import descend, make_runs

no_gensim = importlib.util.find_spec("gensim") is None
WINDOW, LENGTH, K, WIDTH, WORDS = 2, 4, 3, 5, 7
TOPICS = [
    "the cat and the dog eat meat at home",
    "a dog and a cat drink milk at home",
    "the red car and the blue train drive on roads",
    "a blue car and a red train stop on roads",
] * 60


def some_runs(seed=0, count=3):
    g = torch.Generator().manual_seed(seed)
    tokens = count * LENGTH - 1  # the last place is padding
    ids = torch.randint(WORDS, (tokens,), generator=g)
    lines = torch.arange(tokens) // 5
    pad = (WINDOW, WINDOW + 1)
    runs = make_runs(
        F.pad(ids, pad),
        F.pad(lines, pad, value=-1),
        torch.randint(1, WINDOW + 1, (count * LENGTH,), generator=g),
        torch.randint(WORDS, (count, 6), generator=g),
        window=WINDOW,
        k=K,
        dtype=torch.float64,
    )
    tables = torch.randn(2, WORDS, WIDTH, generator=g, dtype=torch.float64)
    return runs, *tables.unbind(0)


def written_out(runs, inward, outward, skip_gram):
    """The summed loss of all pairs, pair by pair, and the number of pairs."""
    loss, count = torch.zeros((), dtype=torch.float64), 0
    for r in range(len(runs.around)):
        for t in range(LENGTH):
            near = [j for j in range(LENGTH + 2 * WINDOW) if runs.pairs[r, t, j]]
            centre = int(runs.centres[r, t])
            rows = [inward[runs.around[r, j]] for j in near]
            if not skip_gram:
                rows = [torch.stack(rows).mean(0)] if rows else []
            others = [int(n) for n in runs.negatives[r] if n != centre]
            for v in rows:
                count += 1
                loss = loss - F.logsigmoid(v @ outward[centre])
                for n in others:
                    loss = loss - K / len(others) * F.logsigmoid(-(v @ outward[n]))
    return loss, count


@pytest.mark.parametrize("skip_gram", [True, False])
def test_the_step_is_the_gradient_of_the_formula_written_out(skip_gram):
    runs, inward, outward = some_runs()
    for table in (inward, outward):
        table.requires_grad_()
    loss, count = written_out(runs, inward, outward, skip_gram)
    loss.backward()
    outs = torch.cat([runs.centres, runs.negatives], 1)
    with torch.no_grad():
        made = descend(
            inward[runs.around], outward[outs], runs, skip_gram=skip_gram, with_loss=True
        )
    for table, rows, change in ((inward, runs.around, made.inward), (outward, outs, made.outward)):
        summed = torch.zeros_like(table).index_add_(0, rows.flatten(), change.flatten(0, 1))
        assert table.grad is not None
        torch.testing.assert_close(summed, -table.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.loss, loss.detach() / count, rtol=1e-12, atol=1e-12)


def test_windows_end_where_a_line_ends_and_leave_the_centre_out():
    runs, *_ = some_runs()
    places = torch.arange(3 * LENGTH).view(3, LENGTH)
    for r, t, j in runs.pairs.nonzero().tolist():
        here, there = int(places[r, t]), int(places[r, 0]) + j - WINDOW
        assert here != there and here // 5 == there // 5 and abs(here - there) <= WINDOW


@pytest.mark.parametrize("skip_gram", [True, False])
def test_vectors_of_zeros_cost_k_plus_one_times_ln_2(skip_gram):
    runs, inward, outward = some_runs()
    outs = torch.cat([runs.centres, runs.negatives], 1)
    zeros = torch.zeros_like(outward)
    made = descend(inward[runs.around], zeros[outs], runs, skip_gram=skip_gram, with_loss=True)
    assert made.loss.item() == pytest.approx((K + 1) * math.log(2), abs=1e-12)


def test_the_whole_gradient_of_cbow_is_the_share_times_the_words():
    runs, inward, outward = some_runs()
    outs = torch.cat([runs.centres, runs.negatives], 1)
    given = (inward[runs.around], outward[outs], runs)
    share = descend(*given, skip_gram=False)
    whole = descend(*given, skip_gram=False, whole_gradient=True)
    torch.testing.assert_close(whole.outward, share.outward)
    lone = runs.pairs.sum(-1).amax()
    assert whole.inward.norm() > share.inward.norm() and lone > 1


def test_frequent_words_are_thinned_out_and_noise_is_frequency_to_a_power():
    corpus = Corpus.of(["a a a a a a a a b b"], min_count=2)
    assert corpus.names == ["a", "b"]
    assert corpus.kept(0.2) == pytest.approx([math.sqrt(0.25) + 0.25, 1.0])
    assert (corpus.kept(0) == 1).all()
    share = 8**0.75 / (8**0.75 + 2**0.75)
    assert corpus.noise() == pytest.approx([share, 1.0])


def test_rare_words_are_left_out_and_lines_keep_their_numbers():
    corpus = Corpus.of(["one Two two", "", "TWO, three three"], min_count=2)
    assert corpus.names == ["two", "three"]
    assert corpus.ids.tolist() == [0, 0, 0, 1, 1]
    assert corpus.lines.tolist() == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("skip_gram", [True, False])
def test_words_of_one_context_come_together_and_the_loss_falls(skip_gram):
    how: Any = {"skip_gram": skip_gram, "width": 16, "sample": 0, "epochs": 30, "lr": 0.05}
    made = train_word2vec(TOPICS, progress=False, **how)
    assert made.losses[-1] < made.losses[0] < 6.01 * math.log(2)
    near = dict(made.nearest("cat", len(made)))
    assert near["dog"] > near["train"] and near["dog"] > near["car"]
    again = train_word2vec(TOPICS, progress=False, **how)
    assert np.array_equal(again.vectors, made.vectors)


def test_bad_settings_are_refused():
    bad: Any
    for bad in ({"window": 0}, {"sample": 1.0}, {"negatives": 0}, {"lr": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            train_word2vec(TOPICS, progress=False, **bad)
    with pytest.raises(ValueError, match="lower min_count"):
        train_word2vec(["too short"], progress=False)
    with pytest.raises(ValueError, match="take an lr below"):
        train_word2vec(TOPICS, width=16, sample=0, lr=5.0, progress=False)
    with pytest.raises(ValueError, match="one string"):
        train_word2vec("a sentence", progress=False)


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture
def vectors():
    table = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    return WordVectors(["the", "straße", "cat", "naïve"], table)


@pytest.mark.parametrize("name", ["v.txt", "v.bin"])
def test_a_file_of_vectors_comes_back(tmp_path, vectors, name):
    back = WordVectors.load(vectors.save(tmp_path / name))
    assert back.names == vectors.names
    np.testing.assert_allclose(back.vectors, vectors.vectors, rtol=1e-6)


@pytest.mark.skipif(no_gensim, reason="gensim is not installed: pip install 'unlabel[peers]'")
@pytest.mark.parametrize("name", ["v.txt", "v.bin"])
def test_gensim_reads_the_file(tmp_path, vectors, name):
    from gensim.models import KeyedVectors  # pyright: ignore[reportMissingImports]

    path = str(vectors.save(tmp_path / name))
    back = KeyedVectors.load_word2vec_format(path, binary=name.endswith("bin"))
    assert list(back.key_to_index) == vectors.names
    np.testing.assert_allclose(back.vectors, vectors.vectors, rtol=1e-6)


def test_what_is_no_file_of_vectors_is_said(tmp_path, vectors):
    (tmp_path / "x.txt").write_text("hello world\n")
    with pytest.raises(ValueError, match="first line"):
        WordVectors.load(tmp_path / "x.txt")
    for name in ("v.txt", "v.bin"):
        path = vectors.save(tmp_path / name)
        path.write_bytes(path.read_bytes()[:-12])
        with pytest.raises(ValueError, match="without 3 numbers"):
            WordVectors.load(path)


def test_sentence_transformers_loads_the_mean_of_the_words(tmp_path, vectors):
    from sentence_transformers import SentenceTransformer

    folder = vectors.save_static(tmp_path / "static")
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    texts = ["The cat.", "naïve straße, the CAT"]
    np.testing.assert_allclose(model.encode(texts), vectors(texts), atol=1e-6)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    unknown = ["the cat barks"]
    np.testing.assert_allclose(unit(model.encode(unknown)), unit(vectors(unknown)), atol=1e-6)


def test_the_command_writes_vectors(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"{line} {i}" for i, line in enumerate(TOPICS)))
    out = tmp_path / "vectors.txt"
    main(["word2vec", str(tmp_path / "text.txt"), str(out), "--width=8", "--epochs=1"])
    assert WordVectors.load(out).vectors.shape[1] == 8
