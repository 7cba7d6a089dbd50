"""Semantic textual similarity: do cosines rank sentence pairs as people do?

The protocol of Gao et al. 2021 (SimCSE, section 5 and appendix B): cosine, Spearman x100, no
regressor; `"all"` is one correlation over a year's subsets together.
"""

import math
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from unlabel.benchmarks.baselines import tfidf, word_vectors
from unlabel.benchmarks.intervals import (
    Embed,
    cosine_of_pairs,
    embed_all,
    spearman,
    spearman_resamples,
    unit_rows,
)
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench, refuse_unfit
from unlabel.benchmarks.sts_data import SETS, SEVEN, STSPairs, load_sts
from unlabel.data_pipes.text import read_text

Setting = Literal["all", "mean", "wmean"]
Control = Literal["TF-IDF", "skip-gram", "skip-gram idf", "whitened"]
CONTROLS: tuple[Control, ...] = ("TF-IDF", "whitened")
WHITEN = 10_000  # sentences that whitening is fitted on
_CONTROLS: dict[str, Callable[[list[str]], Embed]] = {
    "TF-IDF": tfidf,
    "skip-gram": lambda sentences: word_vectors(sentences, idf_weighted=False),
    "skip-gram idf": word_vectors,
}
SETTINGS = {
    "all": "'all' (one correlation over a set's subsets together)",
    "mean": "'mean' (plain mean over a set's subsets)",
    "wmean": "'wmean' (mean over a set's subsets, weighted by their pairs)",
}
# Cosines of a collapsed encoder differ by rounding only; their ranking would be noise.
ROUNDING = 1e-6
LEAK = (
    "STS-B dev holds 580 of STS15's pairs, 259 of STS12's, 193 of STS14's, 81 of STS13's and 22 of "
    "STS16's: a checkpoint chosen on it has seen them."
)
SICK = "sickr_test is the 4,927 pairs of SICK's test split; MTEB's SICK-R is sickr_all, 9,927."


def _undefined(cosine: Float[np.ndarray, "pairs"]) -> str | None:
    broken = int(np.isnan(cosine).sum())
    if broken:
        return f"{broken} of {len(cosine)} pairs have embeddings that are nan or infinite"
    if np.ptp(cosine) < ROUNDING:
        return f"all cosines are equal ({cosine[0]:.6f}): the encoder has collapsed"
    return None


def _score_set(
    name: str,
    data: STSPairs,
    cosine: Float[np.ndarray, "pairs"],
    *,
    setting: Setting,
    bootstrap: int,
    seed: int,
) -> Score:
    reason = _undefined(cosine)
    if reason:
        warnings.warn(f"{name}: no score, {reason}.", stacklevel=3)
        return Score(math.nan, pairs=len(cosine), reason=reason)
    names = np.asarray(data.subset)
    rows = {subset: np.flatnonzero(names == subset) for subset in dict.fromkeys(data.subset)}
    subsets = {s: 100 * spearman(cosine[r], data.score[r]) for s, r in rows.items()}
    averaged = len(rows) > 1 and (SETS[name].has_subsets if name in SETS else True)
    parts = list(rows.values()) if averaged and setting != "all" else [np.arange(len(cosine))]
    weight = np.array([len(r) if setting == "wmean" else 1.0 for r in parts])
    weight = 100 * weight / weight.sum()
    # Seeded by the set, not the encoder: every encoder meets the same resamples, so that
    # differences between encoders are paired.
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    score = float(weight @ [spearman(cosine[r], data.score[r]) for r in parts])
    drawn = [
        spearman_resamples(cosine[r], data.score[r], resamples=bootstrap, rng=rng) for r in parts
    ]
    return Score.of(
        score,
        weight @ np.stack(drawn),
        pairs=len(cosine),
        subset_mean=float(np.mean(list(subsets.values()))) if averaged else None,
        subsets=subsets if len(rows) > 1 else {},
        reason=None if math.isfinite(score) else "all human scores of a subset are equal",
    )


def _refuse_missing_subsets(data: dict[str, STSPairs], setting: Setting) -> None:
    for name, pairs in data.items():
        expected = name in SETS and SETS[name].has_subsets
        if setting != "all" and expected and len(set(pairs.subset)) == 1:
            raise ValueError(
                f"{name} came without its subsets (the Hub's copy has none), which setting="
                f"{setting!r} averages over; use setting='all', or files with a subset column."
            )


def _average(scores: dict[str, Score]) -> Score | None:
    """Plain mean of the seven, None unless all seven are there."""
    if not set(SEVEN) <= set(scores):
        return None
    seven = [scores[name] for name in SEVEN]
    drawn = [s.resamples for s in seven if s.resamples is not None]
    resamples = np.mean(drawn, axis=0) if len(drawn) == len(SEVEN) else None
    mean = float(np.mean([s.score for s in seven]))
    return Score.of(mean, resamples, pairs=sum(s.pairs for s in seven))


def _note(data: dict[str, STSPairs]) -> str:
    counts = {name: len(pairs.first) for name, pairs in data.items() if name in SETS}
    odd = [
        f"{name} has {n:,} pairs here, the published set {SETS[name].pairs:,}: its score compares "
        "with no published one."
        for name, n in counts.items()
        if n != SETS[name].pairs
    ]
    return "\n".join([LEAK, *([SICK] if {"sickr_test", "sickr_all"} & set(data) else []), *odd])


def evaluate_sts(
    embed: Embed,
    folder: str | Path | None = None,
    *,
    sets: Sequence[str] = SEVEN,
    setting: Setting = "all",
    bootstrap: int = 1000,
    seed: int = 0,
    name: str | None = None,
) -> BenchmarkResult:
    """Spearman x100 between cosines and human scores, with bootstrap intervals over the pairs.

    Every sentence is encoded once, however many pairs and sets it is in. The average is over the
    seven sets of the published tables, and given only when all seven were asked for.

    Args:
        embed: sentences to one row each, dense or scipy-sparse.
        folder: holds `sts12.tsv[.gz]` etc. (columns subset, score, sentence1, sentence2); by
            default `$UNLABEL_DATA/sts`, else the Hub.
        sets: names of `SETS`, or of your own TSV files in the folder.
        setting: how a set with subsets is scored; other sets are one correlation in any setting.
        bootstrap: resamples of the pairs; 0 for no intervals.
        seed: of the resamples.
        name: of the encoder in the table; `embed.name` where it has one.

    Raises:
        ValueError: an unknown set or setting, a broken file (`file:line`), a wrong shape.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting={setting!r}: choose one of {', '.join(SETTINGS)}.")
    data = {key: load_sts(key, folder) for key in dict.fromkeys(sets)}
    _refuse_missing_subsets(data, setting)
    if not data:
        raise ValueError(f"sets is empty: name at least one of {', '.join(SETS)}.")
    row: dict[str, int] = {}
    for pairs in data.values():
        for sentence in (*pairs.first, *pairs.second):
            row.setdefault(sentence, len(row))
    unit = unit_rows(embed_all(embed, list(row)))
    scores = {}
    for key, pairs in data.items():
        left, right = (unit[[row[s] for s in side]] for side in (pairs.first, pairs.second))
        cosine = cosine_of_pairs(left, right)
        scores[key] = _score_set(
            key, pairs, cosine, setting=setting, bootstrap=bootstrap, seed=seed
        )
    encoder = EncoderScores(name or getattr(embed, "name", "encoder"), scores, _average(scores))
    words = f"Spearman x100 of cosine, setting {SETTINGS[setting]}"
    return BenchmarkResult("sts", words, (encoder,), _note(data))


def bench_sts(
    path: str | Path,
    *,
    compare: Sequence[str] = (),
    controls_from: str | None = None,
    controls: Sequence[Control] = CONTROLS,
    folder: str | Path | None = None,
    sets: Sequence[str] = SEVEN,
    setting: Setting = "all",
    bootstrap: int = 1000,
    seed: int = 0,
    pooling: str | None = None,
    max_length: int | None = None,
    batch_size: int = 64,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Score an encoder, or a run before and after training, print the table and save it.

    Args:
        path: a run's output folder (both its untrained and its trained model are scored, as means
            over its seeds), or anything `load_embedder` takes.
        compare: further runs or encoders for the same table.
        controls_from: unlabelled sentences (as for `read_text`) that the controls learn from:
            add them to the table.
        controls: which ones: TF-IDF, skip-gram vectors averaged and idf-weighted (gensim), and
            the encoder itself, whitened.
        folder: of the STS files, see `evaluate_sts`; also `sets`, `setting`, `bootstrap`, `seed`.
        sets: which sets.
        setting: how sets with subsets are scored.
        bootstrap: resamples for the intervals.
        seed: of the resamples.
        pooling: for transformers folders, see `load_embedder`.
        max_length: in tokens; default what each encoder was saved with.
        batch_size: sentences a forward pass.
        output: JSON file; default `results/sts.json` in a run's output folder, else none.
    """
    loading: dict[str, Any] = {
        "pooling": pooling, "max_length": max_length, "batch_size": batch_size
    }  # fmt: skip
    refuse_unfit(path, compare=compare, **loading)
    options: dict[str, Any] = {
        "folder": folder, "sets": sets, "setting": setting, "bootstrap": bootstrap, "seed": seed
    }  # fmt: skip
    sentences = [] if controls_from is None else read_text(controls_from).texts
    beside = [
        evaluate_sts(make(sentences), name=name, **options)
        for name, make in _CONTROLS.items()
        if sentences and name in controls
    ]
    return bench(
        path,
        lambda embed: evaluate_sts(embed, **options),
        compare=compare,
        controls=beside,
        whiten_on=sentences[:WHITEN] if "whitened" in controls else [],
        output=output,
        **loading,
    )
