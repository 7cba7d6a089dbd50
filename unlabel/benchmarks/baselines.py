"""Controls to print beside a pretrained encoder: what no network, or no training, already gives.

Each is an `embed` for `evaluate_sts` and `evaluate_retrieval`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from unlabel.benchmarks.intervals import Embed
from unlabel.words.corpus import WORD, split
from unlabel.words.vectors import WordVectors


def _counter() -> Any:
    # Hashing needs no vocabulary, so that words unseen in training still count, as rarest of all;
    # in 4 million buckets the words of a corpus hardly meet.
    settings: dict[str, Any] = {"norm": None, "alternate_sign": False, "token_pattern": WORD}
    return HashingVectorizer(n_features=2**22, **settings)


def bag_of_words() -> Embed:
    """Word counts, lower case: the cosine is the share of words two sentences have in common."""
    return _counter().transform


def tfidf(sentences: Iterable[str]) -> Embed:
    """Word counts weighted by `ln((1 + n) / (1 + df))`; needs no training beyond counting.

    Args:
        sentences: where document frequencies are counted; never those of a test set.
    """
    counter, sentences = _counter(), list(sentences)
    if not sentences:
        raise ValueError("tfidf needs sentences to count document frequencies in; none came.")
    counts = counter.transform(sentences)
    # scikit-learn's smooth idf is the formula above plus 1.
    weight = sparse.diags(TfidfTransformer().fit(counts).idf_ - 1, format="csr")
    return lambda texts: sparse.csr_matrix(counter.transform(texts) @ weight)


def word_vectors(
    sentences: Iterable[str],
    *,
    skip_gram: bool = True,
    idf_weighted: bool = True,
    width: int = 200,
    epochs: int = 5,
    seed: int = 1,
    workers: int = 1,
) -> Embed:
    """Averaged word2vec vectors of gensim (Mikolov et al. 2013), trained on the sentences.

    Window 5, words seen 5 times or more, sub-sampling 1e-4; skip-gram with 5 negatives and rate
    0.025, CBOW with 10 and 0.05. One worker makes a run repeatable.

    Args:
        sentences: to train on; never those of a test set.
        skip_gram: False for CBOW.
        idf_weighted: weight words by idf rather than equally.
        width: of the vectors.
        epochs: passes over the sentences.
        seed: of the start vectors and of sampling.
        workers: threads.

    Raises:
        ImportError: gensim is not installed.
        ValueError: no word is frequent enough.
    """
    try:
        from gensim.models import Word2Vec  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError("word_vectors needs gensim: pip install 'unlabel[peers]'.") from None
    lines = [split(sentence) for sentence in sentences]
    model: Any = Word2Vec(
        vector_size=width,
        window=5,
        min_count=5,
        sample=1e-4,
        sg=int(skip_gram),
        negative=5 if skip_gram else 10,
        alpha=0.025 if skip_gram else 0.05,
        seed=seed,
        workers=workers,
    )
    model.build_vocab(lines)
    words = model.wv.key_to_index
    if not words:
        raise ValueError(f"No word occurs 5 times in {len(lines)} sentences; give more text.")
    model.train(lines, total_examples=len(lines), epochs=epochs)
    frequency = np.zeros(len(words))
    for line in lines:
        frequency[list({words[w] for w in line if w in words})] += 1
    weight = np.log((1 + len(lines)) / (1 + frequency)) if idf_weighted else np.ones(len(words))
    return WordVectors(list(words), model.wv.vectors * weight[:, None].astype(np.float32))


def whiten(
    embeddings: Float[np.ndarray, "sentences width"], *, width: int | None = None
) -> Callable[[Float[np.ndarray, "rows width"]], Float[np.ndarray, "rows kept"]]:
    """A transform after which the fitted embeddings have mean 0 and covariance 1.

    `(x - mean) U diag(1 / sqrt(s))`, with U and s of the covariance's singular value
    decomposition (Su et al. 2021, Whitening Sentence Representations, algorithm 1).

    Args:
        embeddings: to fit on; never those of a test set.
        width: keep the first directions only (the paper's k); directions without variance are
            left out in any case.

    Raises:
        ValueError: fewer than two rows, embeddings that are not finite or all equal.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if len(rows) < 2 or not np.isfinite(rows).all():
        raise ValueError(f"whiten needs two or more finite embeddings; shape {rows.shape} came.")
    mean = rows.mean(axis=0)
    directions, variance, _ = np.linalg.svd(np.cov(rows, rowvar=False).reshape(len(mean), -1))
    # Directions that only rounding fills would be blown up to the size of the others.
    kept = (variance > variance[0] * 1e-10)[: width or None]
    if variance[0] <= 0:
        raise ValueError("whiten: all embeddings are equal, there is nothing to whiten.")
    kernel = (directions / np.sqrt(np.maximum(variance, 1e-300)))[:, : len(kept)][:, kept]
    return lambda x: (np.asarray(x, dtype=np.float64) - mean) @ kernel


def whitened(embed: Embed, sentences: list[str], *, width: int | None = None) -> Embed:
    """`embed` followed by the whitening fitted on the sentences, see `whiten`."""
    transform = whiten(np.asarray(embed(sentences)), width=width)
    return lambda texts: transform(np.asarray(embed(texts)))
