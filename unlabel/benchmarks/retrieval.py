"""Retrieval: does query i find document i among all the documents?"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from unlabel.benchmarks.baselines import tfidf
from unlabel.benchmarks.intervals import (
    ROUNDING,
    Embed,
    Embeddings,
    embed_all,
    mean_resamples,
    unit_rows,
)
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench, refuse_unfit, seed_runs
from unlabel.data_pipes.docstrings import docstring_corpus, docstring_pairs
from unlabel.data_pipes.text import read_text
from unlabel.embedding import modality_of

CHUNK = 256  # queries scored at a time: 256 x 100,000 documents of float64 are 200 MB


def ranks_of_own(
    queries: Embeddings, documents: Embeddings, right: Any = None
) -> Int[np.ndarray, "queries"]:
    """Rank, from 1, of document i by cosine with query i; ties put the own document last.

    A constant encoder thus ranks every document last, and does not look like a perfect one.

    Args:
        queries: rows of length 1.
        documents: rows of length 1, as many where `right` does not say otherwise.
        right: which documents answer which query, as scipy's `(queries, documents)`: the first of
            a query's counts.
    """
    right = (
        sparse.identity(queries.shape[0], dtype="bool", format="csr") if right is None else right
    )
    ranks = np.empty(queries.shape[0], dtype=np.int64)
    for start in range(0, len(ranks), CHUNK):
        rows = slice(start, min(start + CHUNK, len(ranks)))
        cosine = queries[rows] @ documents.T
        cosine = cosine if isinstance(cosine, np.ndarray) else cosine.toarray()
        is_right = right[rows].toarray().astype(bool)
        best = np.where(is_right, cosine, -np.inf).max(axis=1)
        ranks[rows] = 1 + ((cosine >= best[:, None] - ROUNDING) & ~is_right).sum(axis=1)
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
    sides: Sequence[str] = (),
    classes_column: str | None = None,
    template: str | None = None,
    teacher: Sequence[str] = (),
    compare: Sequence[str] = (),
    controls: bool = True,
    limit: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Does a text find the one that belongs to it, or a clip its caption? Print and save the table.

    Of text without `data`, the check of the embedded corpus: the summary line of a held-out
    docstring is to find its own description. No label is needed, and no object of the check was
    trained on.

    Of pairs, each side is to find every other one, among pairs that the run has not seen and that
    are read as its own were; where they have classes and a side is text, also the classes by their
    names (zero-shot). A second table, `space`, has median ranks and the gap between sides.

    Args:
        path: a run's folder (before and after training, over its seeds), or any encoder.
        data: a table of pairs instead (as for `read_text`), with `columns` query and document; of
            pairs a list with the columns of the run's own; default the embedded test split.
        columns: names of the two columns in `data`, of text.
        sides: of pairs, those that take part, such as `[text, video]` where the list has no column
            for the others; default all.
        classes_column: of pairs, the column of their classes; default the run's own.
        template: of pairs, what is said of a class: `a clip of a {}`; default its name alone.
        teacher: of pairs with classes, encoders of one kind of data for the same table: by how
            many samples the nearest other one, by a side's own encoder, is of the same class.
        compare: further runs or encoders for the same table, such as one of `pairs.shuffled`.
        controls: add TF-IDF, counted on the training corpus of the check; of pairs, chance.
        limit: pairs at most.
        bootstrap: resamples of the queries for the intervals; 0 for none.
        seed: of the resamples, and of samples that are drawn from long recordings.
        batch_size: sentences or pairs a forward pass.
        output: JSON file; default `results/retrieval.json` in the run's folder. Of pairs there are
            pictures beside it.

    Raises:
        ValueError: an option of pairs for an encoder of text, or the reverse.

    Reference: Liang et al. 2022, arXiv 2203.02053, for the gap.
    """
    about_pairs = {"classes_column": classes_column, "template": template, "teacher": teacher,
                   "sides": sides}  # fmt: skip
    runs = seed_runs(Path(path))
    if modality_of(runs[0] / "model" if runs else Path(path)) == "pairs":
        if columns is not None:
            raise ValueError("The encoder is of pairs, whose columns its run says; leave columns.")
        from unlabel.benchmarks.pair_vectors import PairReader
        from unlabel.benchmarks.retrieval_pairs import bench_pairs

        teachers = {Path(t).name: Path(t) for t in teacher}
        reader = PairReader(
            runs[0] if runs else Path(path), data, classes_column, template or "{}", teachers,
            limit, batch_size, seed, sides,
        )  # fmt: skip
        shared: dict[str, Any] = {"compare": compare, "controls": controls, "output": output}
        return bench_pairs(path, reader=reader, bootstrap=bootstrap, seed=seed, **shared)
    if unused := [name for name, value in about_pairs.items() if value]:
        raise ValueError(f"The encoder is of text, which has no {', '.join(unused)}.")
    refuse_unfit(path, compare=compare)
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
