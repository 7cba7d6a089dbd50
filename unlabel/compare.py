"""`unlabel compare`: which objective suits this data, with and without labels."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from unlabel.benchmarks.label_free import FIGURES, label_free, usual_views
from unlabel.benchmarks.result import EncoderScores, Score
from unlabel.benchmarks.runs import seed_runs
from unlabel.candidates import Setting, Stopped, wide_console
from unlabel.embedding import device_of
from unlabel.files import write_json
from unlabel.kinds.audio import AudioOptions
from unlabel.kinds.series import SeriesOptions
from unlabel.kinds.text import TextOptions
from unlabel.kinds.visual import FramesOptions, VideoOptions
from unlabel.objectives import Objective
from unlabel.pretrain import named_objective
from unlabel.training.arguments import TrainingArguments
from unlabel.training.trainer import Diverged

logger = logging.getLogger(__name__)

BASE = "untrained"


@dataclass
class Compared:
    """Objectives side by side.

    Attributes:
        figures: without labels, by objective and `untrained`; see `label_free`.
        labels: scores with labels, likewise; empty where no labels were given.
        seconds: of training, by objective, mean over seeds.
        refused: objectives that could not be trained, and why.
        agreement: Spearman's rank correlation of each figure (its sign so that better is higher)
            with the mean score with labels, over all encoders of all seeds that have one.
    """

    figures: dict[str, EncoderScores] = field(default_factory=dict)
    labels: dict[str, EncoderScores] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def ranking(self) -> list[str]:
        """Objectives, best first: by the mean score with labels, else by the figures without.

        One whose score is undefined, as it collapsed, comes last.
        Without labels that is the mean of the places by effective rank and by views found.
        """
        names = [n for n in self.figures if n != BASE]
        if self.labels:
            means = {n: _mean(self.labels[n]) for n in names}
            return sorted(names, key=lambda n: (math.isnan(means[n]), -means[n]))
        return sorted(names, key=lambda n: self.places()[n])

    def places(self) -> dict[str, float]:
        """The mean place of each objective by effective rank and by views found, from 1."""
        names = [n for n in self.figures if n != BASE]
        found = dict.fromkeys(names, 0.0)
        for figure in ("effective rank", "views found"):
            values = {n: self.figures[n].scores[figure].score for n in names}
            for name in names:
                better = sum(v > values[name] for v in values.values())
                equal = sum(v == values[name] for v in values.values())
                found[name] += (better + (equal + 1) / 2) / 2
        return found

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the schema of `compare.json`."""
        return {
            "ranking": self.ranking(),
            "places": self.places(),
            "figures": {n: e.to_dict() for n, e in self.figures.items()},
            "labels": {n: e.to_dict() for n, e in self.labels.items()},
            "seconds": self.seconds,
            "refused": self.refused,
            "agreement": self.agreement,
        }

    def print(self) -> None:
        """The table, best first, and what the figures without labels are worth here."""
        console = wide_console()
        table = Table(title="Objectives compared, best first", title_justify="left")
        columns = ["objective", *FIGURES, "place"]
        sets = list(next(iter(self.labels.values())).scores) if self.labels else []
        for column in [*columns, *sets, "seconds"]:
            table.add_column(column, justify="left" if column == "objective" else "right")
        places = self.places()
        for name in [*self.ranking(), BASE]:
            own = [_cell(self.figures[name].scores[f]) for f in FIGURES]
            scores = [_cell(self.labels[name].scores[s]) for s in sets]
            place = f"{places[name]:.1f}" if name in places else ""
            took = f"{self.seconds[name]:.0f}" if name in self.seconds else ""
            table.add_row(name, *own, place, *scores, took)
        console.print(table)
        for name, why in self.refused.items():
            console.print(f"{name}: refused. {why}", markup=False)
        if self.agreement:
            said = ", ".join(f"{f} {r:+.2f}" for f, r in self.agreement.items())
            console.print(
                "How well the figures without labels agree with the labels here (Spearman over all "
                f"encoders; 1 is the same order): {said}.",
                markup=False,
            )
        else:
            console.print(
                "No labels were given: the order is that of effective rank and views found, which "
                "need not be that of any task. A small labelled set (--labels) tells more.",
                markup=False,
            )


def compare(
    *,
    objectives: list[str] | dict[str, Objective],
    data: str | list[str] | None = None,
    modality: Literal["text", "series", "frames", "video", "audio"] = "text",
    objective: Objective | str | None = None,
    text: TextOptions | None = None,
    series: SeriesOptions | None = None,
    frames: FramesOptions | None = None,
    video: VideoOptions | None = None,
    audio: AudioOptions | None = None,
    training: TrainingArguments | None = None,
    seeds: int = 3,
    held_out: str | list[str] | None = None,
    views: str | None = None,
    samples: int = 512,
    labels: list[str] | None = None,
) -> Compared:
    """Train the same encoder on the same data under several objectives, and rank them.

    Every objective gets a run folder of its own in `training.output_dir`; what is trained already
    is kept, so that an interrupted comparison goes on where it stopped.

    Args:
        objectives: methods by their names in `unlabel list`, or name -> `Objective`.
        data: as for `unlabel train`, as are the next ones.
        modality: kind of data.
        objective: of a recipe; compared as `recipe`.
        text: see `unlabel train`.
        series: see `unlabel train`.
        frames: see `unlabel train`.
        video: see `unlabel train`.
        audio: see `unlabel train`.
        training: the budget, alike for all.
        seeds: encoders trained of each objective.
        held_out: data that the figures without labels are taken on; default the training data,
            in other views.
        views: that these figures are taken with, joined by `+`; default the usual ones of the kind
            of data (of text a token cutoff, as dropout is off then).
        samples: of the data that these figures look at.
        labels: labelled sets that the benchmark of this kind of data takes (`bench sts`,
            `classification`, `actions` or `sounds`, there `--sets`); a few labels are enough.

    Raises:
        Stopped: the training was asked to stop; the same command goes on there.
        ValueError: what came cannot be trained on, or no objective could.
    """
    options = {"text": text, "series": series, "frames": frames, "video": video, "audio": audio}
    args = training or TrainingArguments(output_dir=f"runs/compare-{modality}")
    setting = Setting(modality, data, options, args, seeds)
    methods = _methods(objectives, objective)
    found = Compared()
    for place, (name, method) in enumerate(methods.items(), start=1):
        logger.info("Comparing %s (%d of %d)", name, place, len(methods))
        try:
            setting.train(name, method)
        except Stopped:
            raise  # what is half trained is not ranked beside the others
        except (ValueError, Diverged) as error:
            logger.warning("%s is left out: %s", name, error)
            found.refused[name] = str(error)
            continue
        found.seconds[name] = setting.seconds(name)
    root = setting.root
    runs = {n: seed_runs(root / n) for n in methods if n not in found.refused}
    if not runs:
        raise ValueError(f"No objective could be trained: {found.refused}.")
    looked, count = _look(setting, held_out, methods[next(iter(runs))], runs, views, samples)
    found.figures = {n: _over([_plain(f, count) for f in each]) for n, each in looked.items()}
    if labels:
        found.labels = _labelled(modality, root, list(runs), labels)
        found.agreement = _agreement(looked, found.labels)
    found.print()
    write_json(root / "compare.json", found.to_dict())
    picture(found, root / "compare.png")
    return found


def _methods(
    objectives: list[str] | dict[str, Objective], recipe: Objective | str | None
) -> dict[str, Objective]:
    if isinstance(objectives, Mapping):
        methods = dict(objectives)
    else:
        methods = {name.strip().lower(): named_objective(name.strip()) for name in objectives}
    if recipe is not None:
        methods["recipe"] = named_objective(recipe) if isinstance(recipe, str) else recipe
    if BASE in methods or any("/" in n or n in ("", ".", "..") for n in methods):
        raise ValueError(f"{sorted(methods)} are the names of folders; take plain other ones.")
    return methods


def _look(
    setting: Setting,
    data: Any,
    method: Objective,
    runs: Mapping[str, Sequence[Path]],
    views: str | None,
    samples: int,
) -> tuple[dict[str, list[dict[str, float]]], int]:
    """Figures of every encoder, by objective, the untrained ones first; and of how many samples."""
    folders = {n: [r / "model" for r in each] for n, each in runs.items()}
    folders = {BASE: [r / "untrained" for r in next(iter(runs.values()))], **folders}
    adapter, store = setting.look(data, method, folders[BASE][0])
    seed = setting.training.seed
    how: dict[str, Any] = {"samples": samples, "seed": seed, "device": device_of(None)}
    pair = usual_views(adapter, views)
    found = {
        name: [label_free(adapter.from_pretrained(f), store, pair, **how) for f in each]
        for name, each in folders.items()
    }
    return found, min(samples, len(store))


def _plain(figures: Mapping[str, float], count: int) -> EncoderScores:
    return EncoderScores("", {k: Score(v, pairs=count) for k, v in figures.items()})


def _over(scores: Sequence[EncoderScores]) -> EncoderScores:
    return EncoderScores.over_seeds("", scores) if len(scores) > 1 else scores[0]


def _labelled(
    modality: str, root: Path, names: Sequence[str], labels: Sequence[str]
) -> dict[str, EncoderScores]:
    """The scores with labels, by objective and `untrained`."""
    first, *others = (str(root / n) for n in names)
    how: dict[str, Any] = {"compare": others, "sets": labels, "bootstrap": 0}
    if modality == "text":
        from unlabel.benchmarks.sts import bench_sts as bench
    elif modality == "series":
        from unlabel.benchmarks.classification import bench_classification as bench
    elif modality == "audio":
        from unlabel.benchmarks.sounds import bench_sounds as bench
    else:
        from unlabel.benchmarks.actions import bench_actions as bench
    if modality != "text":
        how["controls"] = False
    result = bench(first, output=root / "labels.json", **how)
    untrained, trained, *rest = result.encoders
    both = dict(zip([BASE, *names], [untrained, trained, *rest], strict=True))
    probed = [s for s in untrained.scores if "logistic" in s and "one frame" not in s]
    kept = probed or list(untrained.scores)
    return {n: EncoderScores(n, {k: e.scores[k] for k in kept}) for n, e in both.items()}


def _cell(score: Score) -> str:
    """A mean and half of its interval, on one line."""
    half = (score.high - score.low) / 2
    return f"{score.score:.2f}" if math.isnan(half) else f"{score.score:.2f} ± {half:.2f}"


def _mean(scores: EncoderScores) -> float:
    return float(np.mean([s.score for s in scores.scores.values()]))


def _agreement(
    looked: Mapping[str, Sequence[Mapping[str, float]]], labels: Mapping[str, EncoderScores]
) -> dict[str, float]:
    """Rank correlation of each figure with the mean score, over every seed of every objective."""
    names = list(labels)
    seeds = [
        np.mean([s.seeds or (s.score,) * len(looked[n]) for s in labels[n].scores.values()], 0)
        for n in names
    ]
    every = np.concatenate(seeds)
    scored = ~np.isnan(every)
    truth, found = every[scored], {}
    for figure, more in FIGURES.items():
        values = np.array([f[figure] for n in names for f in looked[n]]) * (1 if more else -1)
        values = values[scored]
        is_known = len(set(values)) > 1 and len(set(truth)) > 1
        found[figure] = float(spearmanr(values, truth).statistic) if is_known else 0.0
    return found


def picture(found: Compared, path: str | Path) -> Path:
    """Draw the objectives, best first: bars of what ranks them, with a dot for each seed."""
    from matplotlib.figure import Figure

    names = [*found.ranking(), BASE]
    panels: list[tuple[str, Mapping[str, EncoderScores]]] = [
        (f, found.figures) for f in ("effective rank", "views found")
    ]
    if found.labels:
        panels[:0] = [(s, found.labels) for s in next(iter(found.labels.values())).scores]
    figure = Figure(figsize=(3.2 * len(panels) + 1.4, 0.32 * len(names) + 1.1), dpi=120)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, source) in zip(axes, panels, strict=True):
        scores = [source[n].scores[title] for n in names]
        colors = ["0.75" if n == BASE else "tab:blue" for n in names]
        axis.barh(names, [s.score for s in scores], color=colors, alpha=0.7)
        for row, score in enumerate(scores):
            own = score.seeds or (score.score,)
            axis.plot(own, [row] * len(own), "k.", markersize=4)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path)
    return Path(path)


__all__ = ["Compared", "compare", "picture"]
