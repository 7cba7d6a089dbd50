"""Retrieval from one kind of data to another in a shared space, with what it is to be read by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from unlabel.benchmarks import cross_modal as measures
from unlabel.benchmarks.cross_modal import KS, named, ordered
from unlabel.benchmarks.intervals import mean_resamples, nearest
from unlabel.benchmarks.pair_pictures import draw_heat, draw_space, plane
from unlabel.benchmarks.pair_vectors import PairReader, PairVectors
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.retrieval import ranks_of_own
from unlabel.benchmarks.runs import bench, refuse_unfit, seed_runs
from unlabel.benchmarks.saved import saved_encoder
from unlabel.embedding import run_model_folder

NOTE = (
    "R@k: the right sample is among the first k; average: of the R@1. Ties count against the "
    "encoder. Equal texts are one, and all samples of the same text are right."
)
ZERO_SHOT = "zero-shot: the class whose name, as the text {!r}, is nearest, of {} classes."
TEACHER = "neighbours: the nearest other sample, by the side's own encoder, is of the same class."
SPACE = (
    "gap: distance between the means of two sides' unit vectors. alignment: mean squared distance "
    "of a pair. uniformity: of one side, 0 where all vectors are equal. A gap that is smaller is "
    "no better retrieval by itself."
)


class Measured:
    """An encoder's vectors as the two tables of the benchmark.

    Args:
        name: of the encoder.
        vectors: of the held-out pairs.
        template: see `PairReader`.
        bootstrap: resamples of the pairs for the intervals; 0 for none.
        seed: of the resamples.
    """

    def __init__(
        self,
        name: str,
        vectors: PairVectors,
        *,
        template: str = "{}",
        bootstrap: int = 1000,
        seed: int = 0,
    ):
        self.name, self.vectors, self.template = name, vectors, template
        self.bootstrap, self.seed = bootstrap, seed
        self.broken = any(not np.isfinite(x).all() for x in vectors.shared.values())

    def retrieval(self) -> BenchmarkResult:
        """R@k and mean reciprocal rank of each ordered pair of sides, x100; zero-shot accuracy."""
        scores: dict[str, Score] = {}
        for pair, ranks in self._ranks().items():
            shares = {f"R@{k}": ranks <= k for k in KS} | {"MRR": 1 / ranks}
            scores |= {f"{pair} {what}": self._share(x) for what, x in shares.items()}
        first = [s for key, s in scores.items() if key.endswith("R@1")]
        average = None
        if not self.broken:
            drawn = [s.resamples for s in first if s.resamples is not None]
            average = Score.of(float(np.mean([s.score for s in first])), np.mean(drawn, axis=0))
        scores |= self._zero_shot() | self._neighbours()
        return self._result("retrieval", EncoderScores(self.name, scores, average))

    def space(self) -> BenchmarkResult:
        """Median ranks, and how the sides lie in the space."""
        shared, count = self.vectors.shared, len(self.vectors)
        scores = {
            f"{pair} median rank": Score.of(
                float(np.median(ranks)),
                measures.median_resamples(ranks, resamples=self.bootstrap, rng=self._rng()),
                pairs=count,
            )
            for pair, ranks in self._ranks().items()
        }
        sides = list(shared)
        both = [(a, b) for i, a in enumerate(sides) for b in sides[i + 1 :]]
        for what, measure in (("gap", measures.gap), ("alignment", measures.alignment)):
            scores |= {
                f"{a} and {b} {what}": self._plain(measure, shared[a], shared[b]) for a, b in both
            }
        scores |= {f"{s} uniformity": self._plain(measures.uniformity, shared[s]) for s in sides}
        found = self._result("space", EncoderScores(self.name, scores))
        drawn = {} if self.broken else {"plane": {"encoders": {self.name: plane(shared)}}}
        return replace(found, examples=drawn)

    def chance(self, kind: Literal["retrieval", "space"]) -> BenchmarkResult:
        """What a random order and a guess reach."""
        scores: dict[str, Score] = {}
        count = len(self.vectors)
        for a, b in ordered(list(self.vectors.shared)):
            within = measures.chance_of_ranks(self._answers(a, b)[0])
            if kind == "space":
                scores[f"{named(a, b)} median rank"] = Score(
                    measures.median_of(within), pairs=count
                )
                continue
            levels = {f"R@{k}": within[min(k, len(within)) - 1] for k in KS}
            levels["MRR"] = measures.mean_reciprocal(within)
            scores |= {
                f"{named(a, b)} {what}": Score(100 * float(level), pairs=count)
                for what, level in levels.items()
            }
        average = None
        if kind == "retrieval":
            first = [s.score for key, s in scores.items() if key.endswith("R@1")]
            average = Score(float(np.mean(first)))
            guess = Score(100 / max(len(self.vectors.classes), 1), pairs=count)
            scores |= dict.fromkeys(self._zero_shot(), guess)
        return self._result(kind, EncoderScores("chance", scores, average))

    def taught(self) -> list[BenchmarkResult]:
        """The teachers, each with the neighbours of its own side alone."""
        found = []
        for name, (side, own) in self.vectors.teachers.items():
            scores = {f"{side} neighbours": self._right(own)}
            found.append(self._result("retrieval", EncoderScores(name, scores)))
        return found

    def _ranks(self) -> dict[str, Int[np.ndarray, "pairs"]]:
        shared, found = self.vectors.shared, {}
        for a, b in ordered(list(shared)):
            right, rows = self._answers(a, b)
            last = np.full(len(shared[a]), len(rows))
            ranks = last if self.broken else ranks_of_own(shared[a], shared[b][rows], right)
            found[named(a, b)] = ranks
        return found

    def _answers(self, asks: str, searched: str) -> tuple[Any, Int[np.ndarray, "documents"]]:
        return measures.answers(self.vectors.alike[asks], self.vectors.alike[searched])

    def _zero_shot(self) -> dict[str, Score]:
        """Accuracy of each side that is no text, by the names of the classes.

        Of classes that are as near a guess is taken: a collapsed encoder has what chance has.
        """
        told, known = self.vectors.told, self.vectors.labels >= 0
        if told is None or not known.any():
            return {}
        labels = self.vectors.labels[known]

        def right(found: np.ndarray) -> np.ndarray:
            near = nearest(found[known] @ told.T)
            return near[np.arange(len(labels)), labels] / np.maximum(near.sum(axis=1), 1)

        return {
            f"{side} zero-shot": self._share(right(found))
            for side, found in self.vectors.shared.items()
            if side not in self.vectors.texts
        }

    def _neighbours(self) -> dict[str, Score]:
        sides = dict.fromkeys(side for side, _ in self.vectors.teachers.values())
        return {f"{side} neighbours": self._right(self.vectors.own[side]) for side in sides}

    def _right(self, own: np.ndarray) -> Score:
        known = self.vectors.labels >= 0
        if not known.any():
            raise ValueError("A teacher is compared by classes; name their column.")
        return self._share(measures.neighbours_right(own[known], self.vectors.labels[known]))

    def _rng(self) -> np.random.Generator:
        # The same resamples for every encoder, so that differences between encoders are paired.
        return np.random.default_rng(self.seed)

    def _share(self, values: np.ndarray) -> Score:
        if self.broken:
            return self._undefined(len(values))
        drawn = mean_resamples(values.astype(float), resamples=self.bootstrap, rng=self._rng())
        return Score.of(100 * float(values.mean()), 100 * drawn, pairs=len(values))

    def _plain(self, measure: Any, *sides: np.ndarray) -> Score:
        if self.broken:
            return self._undefined(len(self.vectors))
        return Score(measure(*sides), pairs=len(self.vectors))

    def _undefined(self, count: int) -> Score:
        return Score(math.nan, pairs=count, reason="the encoder gave vectors that are not finite")

    def _result(self, kind: str, scores: EncoderScores) -> BenchmarkResult:
        count = f"{len(self.vectors):,}"
        if kind == "space":
            setting = f"where the sides of {count} held-out pairs lie, by cosine"
            return BenchmarkResult(kind, setting, (scores,), SPACE, better="lower", unit="")
        notes = [NOTE]
        if self.vectors.told is not None:
            notes.append(ZERO_SHOT.format(self.template, len(self.vectors.classes)))
        notes += [TEACHER] if self.vectors.teachers else []
        setting = f"one side finds the other of its pair among {count} by cosine, x100"
        return BenchmarkResult(kind, setting, (scores,), "\n".join(notes))


def bench_pairs(
    path: str | Path,
    *,
    reader: PairReader,
    compare: Sequence[str] = (),
    controls: bool = True,
    output: str | Path | None = None,
    **settings: Any,
) -> BenchmarkResult:
    """Measure an encoder of pairs, or a run of one; see `bench_retrieval`.

    Beside the table of retrieval there is a second one, `space`, and a picture of each.

    Args:
        path: a run's folder, or that of an encoder of pairs.
        reader: of the held-out pairs.
        compare: further runs or encoders for the same tables.
        controls: add what chance reaches, and the teachers.
        output: JSON file; default `results/retrieval.json` in the run's folder. The second table
            goes to `<name>_space.json`, or `results/space.json`, pictures likewise as PNG.
        settings: `bootstrap` and `seed`.

    Returns:
        The table of retrieval.
    """
    settings["template"] = reader.template
    kept: dict[Path, PairVectors] = {}

    def load(folder: Path, name: str) -> Measured:
        folder = run_model_folder(Path(folder)) or Path(folder)
        if folder not in kept:
            kept[folder] = reader(folder)
        return Measured(name, kept[folder], **settings)

    refuse_unfit(path, lambda folder, name: saved_encoder(folder, "pairs"), compare=compare)
    runs = seed_runs(Path(path))
    lead = load(runs[0] if runs else Path(path), "trained")
    files = _files(Path(path), output, is_run=bool(runs))
    made: dict[str, BenchmarkResult] = {}
    for kind in ("retrieval", "space"):
        beside = [lead.chance(kind)] if controls else []
        beside += lead.taught() if kind == "retrieval" else []
        made[kind] = bench(
            path,
            lambda m, kind=kind: getattr(m, kind)(),
            compare=compare,
            controls=beside,
            output=files.get(kind),
            load=load,
        )
    if files:
        draw_heat(made["retrieval"], files["retrieval"].with_suffix(".png"))
        draw_space(made["space"], files["space"].with_suffix(".png"))
    return made["retrieval"]


def _files(path: Path, output: str | Path | None, *, is_run: bool) -> Mapping[str, Path]:
    """Where both tables go, if anywhere."""
    if output is not None:
        own = Path(output)
        return {"retrieval": own, "space": own.with_name(f"{own.stem}_space{own.suffix}")}
    if not is_run:
        return {}
    return {kind: path / "results" / f"{kind}.json" for kind in ("retrieval", "space")}


__all__ = ["Measured", "bench_pairs"]
