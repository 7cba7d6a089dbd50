"""Retrieval: does query i find document i among all the documents?"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unlabel.benchmarks.baselines import tfidf
from unlabel.benchmarks.intervals import Embed, Embeddings, embed_all, mean_resamples, unit_rows
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench
from unlabel.data_pipes.docstrings import docstring_corpus, docstring_pairs
from unlabel.data_pipes.text import read_text

# Cosines closer than this are a tie: float32 encoders round equal sentences apart by less.
ROUNDING = 1e-6
CHUNK = 256  # queries scored at a time: 256 x 100,000 documents of float64 are 200 MB


def ranks_of_own(queries: Embeddings, documents: Embeddings) -> Int[np.ndarray, "queries"]:
    """Rank, from 1, of document i by cosine with query i; ties put the own document last.

    A constant encoder thus ranks every document last, and does not look like a perfect one.

    Args:
        queries: rows of length 1.
        documents: as many rows of length 1.
    """
    ranks = np.empty(queries.shape[0], dtype=np.int64)
    for start in range(0, len(ranks), CHUNK):
        rows = slice(start, min(start + CHUNK, len(ranks)))
        cosine = queries[rows] @ documents.T
        cosine = cosine if isinstance(cosine, np.ndarray) else cosine.toarray()
        own = cosine[np.arange(len(cosine)), np.arange(rows.start, rows.stop)]
        ranks[rows] = (cosine >= own[:, None] - ROUNDING).sum(axis=1)
    return ranks


def _score(values: Float[np.ndarray, "queries"], bootstrap: int, rng: np.random.Generator) -> Score:
    drawn = mean_resamples(values, resamples=bootstrap, rng=rng)
    return Score.of(100 * float(values.mean()), 100 * drawn, pairs=len(values))


def evaluate_retrieval(
    embed: Embed,
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    ks: Sequence[int] = (1, 10),
    bootstrap: int = 1000,
    seed: int = 0,
    name: str | None = None,
) -> BenchmarkResult:
    """Recall@k and mean reciprocal rank of query i finding document i, x100.

    Documents are ranked by cosine; ties count against the encoder. Documents with the same text
    tie with each other, so remove repeats first; the note says how many there are.

    Args:
        embed: sentences to one row each, dense or scipy-sparse.
        queries: one for each document.
        documents: the one that answers query i is the i-th.
        ks: which recalls.
        bootstrap: resamples of the queries for the intervals; 0 for none.
        seed: of the resamples.
        name: of the encoder in the table; `embed.name` where it has one.

    Raises:
        ValueError: unequal or too small numbers of queries and documents, or a k under 1.
    """
    if len(queries) != len(documents) or len(queries) < 2:
        raise ValueError(
            f"{len(queries)} queries and {len(documents)} documents came; query i is to find "
            "document i, so give as many of one as of the other, and at least two."
        )
    if any(k < 1 for k in ks):
        raise ValueError(f"ks={tuple(ks)}: recall@k needs k of 1 or more.")
    sides = [unit_rows(embed_all(embed, list(side))) for side in (queries, documents)]
    labels = [*(f"recall@{k}" for k in ks), "mrr"]
    broken = [s for s in sides if isinstance(s, np.ndarray) and np.isnan(s).any()]
    if broken:
        reason = "the encoder gave embeddings that are nan or infinite"
        warnings.warn(f"No retrieval scores: {reason}.", stacklevel=2)
        scores = {label: Score(math.nan, pairs=len(queries), reason=reason) for label in labels}
    else:
        ranks = ranks_of_own(*sides)
        values = [*((ranks <= k).astype(float) for k in ks), 1 / ranks]
        # The same resamples for every encoder, so that differences between encoders are paired.
        scores = {
            label: _score(value, bootstrap, np.random.default_rng(seed))
            for label, value in zip(labels, values, strict=True)
        }
    repeats = len(documents) - len(set(documents))
    note = f"{repeats} documents repeat another one's text and tie with it." if repeats else ""
    setting = f"query i finds document i among {len(documents):,} by cosine, x100"
    encoder = EncoderScores(name or getattr(embed, "name", "encoder"), scores)
    return BenchmarkResult("retrieval", setting, (encoder,), note)


def bench_retrieval(
    path: str | Path,
    *,
    data: str | None = None,
    columns: tuple[str, str] | None = None,
    compare: Sequence[str] = (),
    controls: bool = True,
    limit: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Does a text find the one that belongs to it? Print the table and save it.

    Without `data`, the check of the embedded corpus: the summary line of a held-out docstring is
    to find its own description. No label is needed, and no object of the check was trained on.

    Args:
        path: a run's folder (before and after training, over its seeds), or any encoder.
        data: a table of pairs instead (as for `read_text`), with `columns` query and document.
        columns: names of the two columns in `data`.
        compare: further runs or encoders for the same table.
        controls: add TF-IDF, counted on the training corpus of the check.
        limit: pairs at most.
        bootstrap: resamples of the queries for the intervals; 0 for none.
        seed: of the resamples.
        batch_size: sentences a forward pass.
        output: JSON file; default `results/retrieval.json` in the run's folder.
    """
    if data is None:
        queries, documents = docstring_pairs(limit=limit)
    else:
        pairs = read_text(data, columns=columns or ("query", "document"), limit=limit)
        queries, documents = list(pairs.columns.values())
    options: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed}
    beside = []
    if controls and data is None:
        embed = tfidf(docstring_corpus().texts)
        beside = [evaluate_retrieval(embed, queries, documents, name="TF-IDF", **options)]
    return bench(
        path,
        lambda embed: evaluate_retrieval(embed, queries, documents, **options),
        compare=compare,
        controls=beside,
        output=output,
        batch_size=batch_size,
    )
