"""Probes of frozen features: nearest neighbours, logistic regression and retrieval by class."""

import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlabel.benchmarks.intervals import ROUNDING, group_mean_resamples, mean_resamples, unit_rows
from unlabel.benchmarks.labelled import Labelled
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score

Probe = Literal["1-NN", "3-NN", "5-NN", "logistic"]
Labels = np.ndarray | Sequence[str]
STRENGTHS = tuple(10.0**k for k in range(-4, 5))  # C of the logistic regression
# Of features that are probed many times over: beyond, fits take long and classes part no better.
MODERATE = STRENGTHS[:6]
FOLDS = 5


def predict(
    probe: Probe,
    x: Float[np.ndarray, "train features"],
    label: Labels,
    test: Float[np.ndarray, "test features"],
    *,
    groups: Labels | None = None,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> np.ndarray:
    """Labels that a probe fitted to train rows gives to test rows.

    Args:
        probe: `K-NN` (Euclidean), or `logistic`: standardised features, C by cross-validation on
            the train rows, in folds that keep groups whole.
        x: features to fit on.
        label: of the train rows.
        test: features to label.
        groups: of the train rows, such as the person seen.
        seed: of the folds.
        strengths: values of C to choose from.

    Raises:
        ValueError: an unknown probe.
    """
    label = np.asarray(label)
    if neighbours := re.fullmatch(r"(\d+)-NN", probe):
        count = min(int(neighbours[1]), len(x))
        return KNeighborsClassifier(count).fit(x, label).predict(test)
    if probe != "logistic":
        raise ValueError(f"No probe {probe!r}: choose 1-NN (or another number) or logistic.")
    fit: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if folds := inner_folds(label, groups, seed):  # else C stays 1
        fit = GridSearchCV(fit, {"logisticregression__C": list(strengths)}, cv=folds)
    with warnings.catch_warnings():
        # Hardly regularised fits of separable classes never end; their decisions do not change.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit.fit(x, label).predict(test)


def inner_folds(
    label: Labels, groups: Labels | None = None, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Folds inside the train part, to choose by; None where it cannot be parted.

    Args:
        label: of the train rows.
        groups: kept whole.
        seed: of the folds.
    """
    label = np.asarray(label)
    least = int(np.unique(label, return_counts=True)[1].min())
    if groups is None:
        if least < 2:
            return None  # no fold could hold every class
        cut = StratifiedKFold(min(FOLDS, least), shuffle=True, random_state=seed)
        return list(cut.split(label, label))
    many = min(FOLDS, len(np.unique(groups)))
    if many < 2:
        return None
    cut = StratifiedGroupKFold(many, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        parts = list(cut.split(label, label, np.asarray(groups)))
    return [(a, b) for a, b in parts if len(b) and len(np.unique(label[a])) > 1] or None


def first_hits(
    x: Float[np.ndarray, "train features"],
    label: Labels,
    test: Float[np.ndarray, "test features"],
    truth: Labels,
) -> Int[np.ndarray, "test"]:
    """Rank, from 1, of the nearest train row of the right class by cosine; ties count against it.

    Retrieval's R@k is the share of test rows with a rank up to k (Xu et al. 2019, Clip Order
    Prediction, section 4.3). A class without a train row has a rank beyond all.
    """
    cosine = unit_rows(np.asarray(test, np.float64)) @ unit_rows(np.asarray(x, np.float64)).T
    right = np.asarray(truth)[:, None] == np.asarray(label)
    best = np.where(right, cosine, -np.inf).max(axis=1)
    wrong = (~right & (cosine >= best[:, None] - ROUNDING)).sum(axis=1)
    return np.where(right.any(axis=1), wrong + 1, len(x) + 1)


def probe_scores(
    data: Labelled,
    x: Float[np.ndarray, "files features"],
    *,
    probes: Sequence[Probe] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    bootstrap: int = 1000,
    seed: int = 0,
    row: str = "",
) -> dict[str, Score]:
    """Accuracy x100 of probes on the held-out part of every fold, and retrieval's R@k x100.

    Intervals are of whole groups drawn anew where groups are known, else of single files.

    Args:
        data: with its folds.
        x: features of every file; rows in no fold may be nan.
        probes: default `logistic` and the set's own number of nearest neighbours.
        ks: which R@k; none for no retrieval.
        bootstrap: resamples; 0 for no intervals.
        seed: of folds inside the train parts, and of resamples.
        row: beside the set's name in the table, such as `one frame`.

    Raises:
        ValueError: features that are not finite, or an unknown probe.
    """
    used = np.unique(np.concatenate([np.concatenate(fold) for fold in data.folds]))
    if not np.isfinite(x[used]).all():
        raise ValueError(f"{data.name}: features are not finite; look at the encoder's weights.")
    chosen = probes or (f"{data.neighbours}-NN", "logistic")
    found: dict[str, list[np.ndarray]] = {}
    for train, test in data.folds:
        label, truth = data.label[train], data.label[test]
        groups = None if data.group is None else data.group[train]
        for probe in chosen:
            how: Any = {"groups": groups, "seed": seed, "strengths": MODERATE}
            given = predict(cast(Probe, probe), x[train], label, x[test], **how)
            found.setdefault(probe, []).append(given == truth)
        ranks = first_hits(x[train], label, x[test], truth) if ks else np.empty(0)
        for k in ks:
            found.setdefault(f"R@{k}", []).append(ranks <= k)
    name = ", ".join(filter(None, (data.name, row)))
    return {
        f"{name} {probe}": accuracy(data, np.concatenate(right), bootstrap=bootstrap, seed=seed)
        for probe, right in found.items()
    }


def control_scores(
    data: Sequence[Labelled], features: Sequence[Mapping[str, np.ndarray]], **options: Any
) -> list[EncoderScores]:
    """Probes of what needs no encoder, by its name.

    Args:
        data: the sets.
        features: of each set, by control.
        options: as for `probe_scores`.
    """
    scores: dict[str, dict[str, Score]] = {}
    for one, found in zip(data, features, strict=True):
        for name, x in found.items():
            scores.setdefault(name, {}).update(probe_scores(one, x, **options))
    return [EncoderScores(name, own) for name, own in scores.items()]


def probe_result(
    benchmark: str, setting: str, note: str, scores: EncoderScores, data: Sequence[Labelled]
) -> BenchmarkResult:
    """A table of one column, which says how each set is split."""
    splits = "; ".join(f"{one.name} {one.split}" for one in data)
    notes = "\n".join(filter(None, [note, *(one.note for one in data)]))
    about = f"{setting}: {splits}"
    return BenchmarkResult(benchmark, about, (scores,), notes, unit="accuracy x100", digits=1)


def accuracy(
    data: Labelled, right: Bool[np.ndarray, "tested"], *, bootstrap: int, seed: int
) -> Score:
    """Share x100 of the tested files that are right, with the interval of its groups.

    Args:
        data: that was tested.
        right: True where the probe was right, in the order of `data.tested`.
        bootstrap: resamples; 0 for no interval.
        seed: of the resamples.
    """
    values = 100.0 * right
    # Seeded by the set, not the encoder: differences between encoders are paired.
    rng = np.random.default_rng([seed, zlib.crc32(data.name.encode())])
    if data.group is None:
        drawn = mean_resamples(values, resamples=bootstrap, rng=rng)
    else:
        _, groups = np.unique(data.group[data.tested], return_inverse=True)
        drawn = group_mean_resamples(values, groups, resamples=bootstrap, rng=rng)
    return Score.of(float(values.mean()), drawn, pairs=len(values))


__all__ = [
    "FOLDS",
    "STRENGTHS",
    "Probe",
    "accuracy",
    "control_scores",
    "first_hits",
    "inner_folds",
    "predict",
    "probe_result",
    "probe_scores",
]
