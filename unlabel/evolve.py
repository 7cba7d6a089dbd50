"""`unlabel evolve`: the weights of several losses, found without labels."""

import copy
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unlabel.benchmarks.runs import seed_runs
from unlabel.candidates import BUDGET, Setting
from unlabel.embedding import device_of
from unlabel.evolution import Weights, first_generation, next_generation, scaled
from unlabel.evolved import Candidate, Evolved, named, picture
from unlabel.files import write_json
from unlabel.fitness import MEASURES, Kind, fitness_of, worst
from unlabel.kinds.audio import AudioOptions
from unlabel.kinds.series import SeriesOptions
from unlabel.kinds.text import TextOptions
from unlabel.kinds.visual import FramesOptions, VideoOptions
from unlabel.objectives import Objective, Sum
from unlabel.recipe import plain, recipe_of, write_recipe
from unlabel.training.arguments import TrainingArguments

logger = logging.getLogger(__name__)


def evolve(
    *,
    objective: Objective,
    data: str | list[str] | None = None,
    modality: Literal["text", "series", "frames", "video", "audio"] = "text",
    text: TextOptions | None = None,
    series: SeriesOptions | None = None,
    frames: FramesOptions | None = None,
    video: VideoOptions | None = None,
    audio: AudioOptions | None = None,
    training: TrainingArguments | None = None,
    generations: int = 5,
    population: int = 8,
    steps: int | None = None,
    held_out: str | list[str] | None = None,
    samples: int = 512,
    clusters: int = 10,
    seeds: int = 1,
    workers: int = 1,
    fitness: Kind = "zipf",
) -> Evolved:
    """Search the weights of a sum of losses without labels, by evolution.

    Each candidate trains the encoder shortly, in a folder of its own in `training.output_dir`; a
    figure that needs no labels is its `fitness`. The first generation has equal weights, each loss
    alone and the recipe's own weights. A weight is a number from 0 to 1 in hundredths, the largest
    1; at 0 a loss is not run.
    What is trained already is kept, so that a search that was stopped goes on where it was, and one
    that is done goes on with more generations. The best weights are written as a recipe,
    `best.yaml`, with the recipe's own length of training; all are in `evolve.json`, drawn in
    `evolve.png`.

    Args:
        objective: a `Sum` of at least two losses, as in a recipe.
        data: as for `unlabel train`, as are the next ones.
        modality: kind of data.
        text: see `unlabel train`.
        series: see `unlabel train`.
        frames: see `unlabel train`.
        video: see `unlabel train`.
        audio: see `unlabel train`.
        training: of the best weights; of candidates but for its length.
        generations: how many.
        population: candidates of each; the first has at least one more than there are losses.
        steps: of a candidate's training; default the recipe's own length.
        held_out: data that the fitness is taken on; default the training data.
        samples: of the data that are clustered.
        clusters: k, of Zipf's law.
        seeds: encoders trained of each candidate, whose fitness is averaged.
        workers: candidates trained at a time, each in a process of its own.
        fitness: `zipf`, the paper's: -KL of the sizes of k-means clusters of the samples' vectors
            from Zipf's law (share ~ 1/rank), which clusters that mean nothing can have too. So
            there is `views`: how often (x100) a sample's second view is the nearest of all second
            views to its first, in the fixed views of `unlabel compare`; it favours losses that
            learn to overlook those views.

    Raises:
        ValueError: no sum of losses with fixed weights came, it cannot be trained, or the folder
            holds another search.

    Reference: Piergiovanni et al. 2020, arXiv 2002.12177; 2019, arXiv 1906.03248.
    """
    method = _searchable(objective)
    least = {"generations": 1, "population": 1, "clusters": 2, "seeds": 1, "workers": 1}
    counts = dict(zip(least, (generations, population, clusters, seeds, workers), strict=True))
    if low := [f"{k} is at least {least[k]}" for k, v in counts.items() if v < least[k]]:
        raise ValueError(f"{', '.join(low)}, but {counts} came.")
    options = {"text": text, "series": series, "frames": frames, "video": video, "audio": audio}
    args = training or TrainingArguments(output_dir=f"runs/evolve-{modality}")
    short = copy.deepcopy(args)
    short.max_steps = short.max_steps if steps is None else steps
    setting = Setting(modality, data, options, short, seeds)
    _refuse_other_search(setting, method, fitness)
    about = {"samples": samples, "clusters": clusters, "held_out": held_out, "seeds": seeds}
    about["fitness"] = fitness
    own = scaled([float(w) for w in method.weights.values()])  # type: ignore[arg-type]
    how: dict[str, Any] = {"seed": args.seed}
    asked = first_generation(len(method.parts), population, own=[own] if own else [], **how)
    found = Evolved(tuple(method.parts), (), fitness)
    with _runner(workers) as run:
        search = _Search(setting, method, about, run)
        for generation in range(generations):
            if generation:
                fit = {c.weights: c.fitness for c in found.candidates}
                asked = next_generation(fit, population, generation=generation, **how)
            logger.info("Generation %d of %d: %d", generation + 1, generations, len(asked))
            tried = (*found.candidates, *search(asked, generation))
            found = replace(found, candidates=tried)
            write_json(setting.root / "evolve.json", found.to_dict())
            picture(found, setting.root / "evolve.png")
            logger.info("Best so far: %s, fitness %.4f", found.weights, found.best.fitness)
    found.print()
    _write_best(found, setting, method, args)
    return found


def weighted(method: Sum, weights: Weights) -> Sum:
    """The same sum, not trained yet, with other weights."""
    parts = {n: copy.deepcopy(p) for n, p in method.parts.items()}
    return Sum(parts, dict(zip(parts, weights, strict=True)), method.balance)


class _Search:
    """Trains candidates and takes their fitness; what is known already is read.

    Args:
        setting: of every candidate.
        method: the sum.
        about: what a fitness depends on beside the encoder.
        run: trains candidates, see `_runner`.
    """

    def __init__(self, setting: Setting, method: Sum, about: dict[str, Any], run: Any):
        self.setting, self.method, self.about, self.run = setting, method, about, run
        self._looked: tuple[Any, Any] | None = None

    def __call__(self, asked: Sequence[Weights], generation: int) -> list[Candidate]:
        """The candidates, in the order asked for."""
        jobs = [(self.setting, named(w), weighted(self.method, w)) for w in asked]
        if not generation:  # what cannot run at all is refused by the first, once
            list(self.run(jobs[:1]))
        found = {i: self._measured(asked[i], generation, failed) for i, failed in self.run(jobs)}
        return [found[i] for i in range(len(asked))]

    def _measured(self, weights: Weights, generation: int, failed: str) -> Candidate:
        folder = self.setting.root / named(weights)
        if failed:
            least = worst(self.about["fitness"], self.about["clusters"])
            return Candidate(weights, generation, least, failed=failed)
        kept = folder / "fitness.json"
        known: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
        if known.pop("about", None) != self.about:
            each = [self._fitness(run / "model") for run in seed_runs(folder)]
            known = {**each[0], "fitness": float(np.mean([e["fitness"] for e in each]))}
            write_json(kept, {**known, "about": self.about})
        return Candidate(weights, generation, **known, seconds=self.setting.seconds(named(weights)))

    def _fitness(self, folder: Path) -> dict[str, Any]:
        self._looked = self._looked or self.setting.look(
            self.about["held_out"], self.method, folder
        )
        adapter, store = self._looked
        how = {k: self.about[k] for k in ("clusters", "samples")}
        how |= {"seed": self.setting.training.seed, "device": device_of(None)}
        return fitness_of(self.about["fitness"], adapter.from_pretrained(folder), store, **how)


@contextmanager
def _runner(workers: int) -> Iterator[Callable[..., Iterator[tuple[int, str]]]]:
    """What trains jobs and yields, as each ends, its place and why it failed ("" if it did not)."""
    if workers == 1:
        yield lambda jobs: ((i, _train(*job)) for i, job in enumerate(jobs))
        return
    threads = max(1, torch.get_num_threads() // workers)
    # A forked process could not use a GPU, and would hang on this one's threads.
    how: dict[str, Any] = {"mp_context": get_context("spawn"), "initializer": _begin}
    pool = ProcessPoolExecutor(workers, **how, initargs=(threads,))

    def run(jobs: Sequence[Any]) -> Iterator[tuple[int, str]]:
        places = {pool.submit(_train, *job): i for i, job in enumerate(jobs)}
        return ((places[done], done.result()) for done in as_completed(places))

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    """In a process of candidates."""
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(threads)


def _train(setting: Setting, name: str, method: Sum) -> str:
    """Train a candidate; why it has no encoder, if so."""
    try:
        setting.train(name, method)
    except RuntimeError as error:  # it diverged
        logger.warning("%s has no encoder: %s", name, error)
        return str(error)
    return ""


def _searchable(objective: Objective) -> Sum:
    if type(objective) is not Sum or len(objective.parts) < 2:
        raise ValueError(
            "Weights are searched of a sum of at least two losses: a recipe with the objective "
            f"unlabel.objectives.Sum, but {type(objective).__name__} came."
        )
    if not objective.schedule.is_fixed:
        raise ValueError("Weights that change with the steps are not searched; give numbers.")
    return objective


def _refuse_other_search(setting: Setting, method: Sum, fitness: Kind) -> None:
    """A folder holds candidates of one search."""
    budget = {k: plain(getattr(setting.training, k)) for k in (*BUDGET, "seed")}
    now = {
        "modality": setting.modality,
        "data": plain(setting.data),
        "encoder": plain(setting.kind),
        "losses": [[name, plain(part)] for name, part in method.parts.items()],
        "balance": method.balance,
        "fitness": fitness,
        **budget,
    }
    file = setting.root / "search.json"
    before = json.loads(file.read_text()) if file.is_file() else now
    if other := [k for k, v in now.items() if before.get(k) != v]:
        raise ValueError(
            f"{setting.root} holds a search of another {', '.join(other)}: take another "
            "--training.output_dir, or remove it."
        )
    write_json(file, now)


def _write_best(found: Evolved, setting: Setting, method: Sum, args: TrainingArguments) -> None:
    """The best weights as a recipe, of the length of training that was asked for."""
    own = copy.deepcopy(args)
    own.output_dir = str(setting.root / "best")
    parts = {n: p for n, p in method.parts.items() if found.weights[n] > 0}
    weights = {n: found.weights[n] for n in parts}
    path = setting.root / "best.yaml"
    recipe = recipe_of(
        Sum(parts, weights, method.balance),
        modality=setting.modality,
        data=setting.data,
        options=setting.kind,
        training=own,
    )
    measure = MEASURES[found.measure]
    head = [
        f"unlabel train {path}",
        f"Fitness {found.best.fitness:.4f}, the best of {len(found.candidates)}.",
        f"Found without labels, by {measure.title}: {measure.said}.",
        *filter(None, [found.undecided]),
    ]
    write_recipe(path, recipe, head=head)
    logger.info("The best weights are a recipe: unlabel train %s", path)


__all__ = ["Evolved", "evolve", "weighted"]
