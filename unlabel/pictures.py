"""What the report shows of the embeddings themselves: nearest neighbours and a map.

Both need the models, so they are computed here once and saved; the report only draws them.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from unlabel.benchmarks.runs import seed_runs
from unlabel.data_pipes.docstrings import docstring_pairs
from unlabel.data_pipes.text import read_text
from unlabel.embedding import load_embedder, modality_of
from unlabel.files import write_json

logger = logging.getLogger(__name__)

SAMPLE = 1000  # sentences embedded: t-SNE of more takes minutes, and dots would hide each other
QUERIES = 8
NEAREST = 3
CLUSTERS = 10
# Coordinates closer than this are rounding: the embeddings are all equal.
ROUNDING = 1e-6


def save_pictures(run: Path, sentences: list[str], seed: int = 0, *, source: str = "") -> None:
    """Embed a sample of sentences before and after training, and save neighbours and a map.

    Writes `results/neighbours.json` (queries drawn by seed, each with its nearest sentences of
    the sample) and `results/map.json` (t-SNE of both embeddings, and the k-means cluster of each
    sentence in the trained space).

    Args:
        run: a run's output folder, holding `untrained/` and `model/`.
        sentences: at least 10 different ones; at most 1,000 are drawn from them.
        seed: of the sample, the queries, the map and the clusters.
        source: where the sentences come from, for the report.

    Raises:
        ValueError: no such models in the folder, too few sentences, or embeddings not finite.

    Reference: van der Maaten and Hinton 2008 (t-SNE), on the first 50 principal components.
    """
    run = Path(run)
    texts = _sample(sentences, seed)
    before, after = (_unit(run / name, texts) for name in ("untrained", "model"))
    queries = np.random.default_rng(seed).permutation(len(texts))[:QUERIES]
    sides = [_nearest(z, queries) for z in (before, after)]
    found = [
        {"query": texts[q], "before": _named(b, texts), "after": _named(a, texts)}
        for q, b, a in zip(queries, *sides, strict=True)
    ]
    about = {"seed": seed, "sentences": len(texts), "source": source}
    # Without it a cosine says little: untrained encoders put all sentences close together.
    chance = {"before": mean_cosine(before), "after": mean_cosine(after)}
    write_json(
        run / "results" / "neighbours.json", {**about, "mean_cosine": chance, "queries": found}
    )
    drawn = {
        "before": flat(before, seed).round(2).tolist(),
        "after": flat(after, seed).round(2).tolist(),
        "cluster": clusters(after, seed).tolist(),
        "text": texts,
    }
    write_json(run / "results" / "map.json", {**about, **drawn})


def pictures(
    run: str, data: str = "docstrings", *, column: str | None = None, seed: int = 0
) -> Path:
    """Save nearest neighbours and a map of a text run's embeddings, before and after training.

    Args:
        run: a run's output folder; of several seeds the first is pictured.
        data: sentences to embed: a file, folder, glob or `hf:name`, best some not trained on; or
            `docstrings`, the summaries held out of the embedded corpus.
        column: the column of a table that holds the text.
        seed: of the sample, the queries, the map and the clusters.
    """
    runs = seed_runs(Path(run))
    if not runs:
        raise ValueError(f"{run} holds no trained run (no model/ folder); train one first.")
    kind = modality_of(runs[0] / "model")
    if kind != "text":
        raise ValueError(f"{runs[0]} is a run on {kind}; pictures are of runs on text.")
    texts = docstring_pairs()[0] if data == "docstrings" else read_text(data, column=column).texts
    save_pictures(runs[0], texts, seed, source=data)
    logger.info("Saved neighbours and map in %s.", runs[0] / "results")
    return runs[0] / "results"


def _sample(sentences: Sequence[str], seed: int) -> list[str]:
    if isinstance(sentences, str):
        raise ValueError("A list of sentences is wanted, but one string came; wrap it in [ ].")
    texts = list(dict.fromkeys(s for s in sentences if s.strip()))
    if len(texts) < CLUSTERS:
        raise ValueError(
            f"Neighbours and map need at least {CLUSTERS} different sentences; {len(texts)} came."
        )
    kept = np.random.default_rng(seed).permutation(len(texts))[:SAMPLE]
    return [texts[i] for i in sorted(kept)]


def _unit(folder: Path, texts: list[str]) -> Float[np.ndarray, "sentences width"]:
    vectors = load_embedder(folder)(texts)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{folder}: the embedding of {texts[broken[0]][:60]!r} is not finite, as are "
            f"{len(broken) - 1} others; look at the encoder's weights."
        )
    return np.asarray(normalize(vectors))


def _nearest(
    z: Float[np.ndarray, "sentences width"], queries: Int[np.ndarray, "queries"]
) -> list[list[tuple[int, float]]]:
    cosine = z[queries] @ z.T
    cosine[np.arange(len(queries)), queries] = -np.inf  # a sentence is no neighbour of itself
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :NEAREST]
    return [
        [(int(i), float(row[i])) for i in best] for best, row in zip(order, cosine, strict=True)
    ]


def _named(found: list[tuple[int, float]], texts: list[str]) -> list[dict[str, Any]]:
    return [{"text": texts[i], "cosine": round(cosine, 4)} for i, cosine in found]


def mean_cosine(z: Float[np.ndarray, "sentences width"]) -> float:
    """Mean cosine of all pairs of different rows, for rows of length 1."""
    # The sum over all pairs is the squared length of the sum.
    n, total = len(z), z.astype(np.float64).sum(axis=0)
    return round(float(total @ total - n) / (n * (n - 1)), 4)


def flat(z: Float[np.ndarray, "sentences width"], seed: int) -> Float[np.ndarray, "sentences 2"]:
    """Two coordinates a sentence: 50 principal components, then t-SNE."""
    z = z.astype(np.float64) - z.mean(axis=0, dtype=np.float64)
    if np.abs(z).max() < ROUNDING:  # t-SNE would divide by the spread that is not there
        return np.zeros((len(z), 2))
    parts = PCA(min(50, *z.shape), random_state=seed).fit_transform(z)
    perplexity = min(30.0, (len(z) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(parts)


def clusters(z: Float[np.ndarray, "sentences width"], seed: int) -> Int[np.ndarray, "sentences"]:
    """The k-means cluster of each sentence, the largest first."""
    # Never more clusters than there are points apart from each other.
    k = min(CLUSTERS, len(np.unique(z.round(5), axis=0)))
    label = KMeans(k, n_init="auto", random_state=seed).fit_predict(z)
    rank = np.argsort(np.argsort(-np.bincount(label, minlength=k), kind="stable"))
    return rank[label]


__all__ = ["pictures", "save_pictures"]
