"""What every benchmark hands back: scores with intervals, as a table, as JSON and as a picture."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from scipy import stats


@dataclass(frozen=True)
class Score:
    """One number of a benchmark.

    Attributes:
        score: the number, in its benchmark's unit; nan where it is not defined (`reason` says why).
        low: lower end of its 95 % interval, nan where none was asked for.
        high: upper end.
        pairs: how many pairs (STS), queries (retrieval) or windows (forecasting) it was measured
            on.
        subset_mean: plain mean over the set's subsets, None where it has none.
        subsets: score by subset.
        reason: why the score is nan.
        seeds: the score of every seed, where the score is their mean; its interval is then that
            of the mean over seeds.
        resamples: the bootstrap's scores, for the interval of a difference; not saved.
    """

    score: float
    low: float = math.nan
    high: float = math.nan
    pairs: int = 0
    subset_mean: float | None = None
    subsets: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    seeds: tuple[float, ...] = ()
    resamples: Float[np.ndarray, "resamples"] | None = field(
        default=None, repr=False, compare=False
    )

    @classmethod
    def of(cls, score: float, resamples: np.ndarray | None, **rest: Any) -> "Score":
        """A score with the 95 % percentile interval of its resamples."""
        low = high = math.nan
        if resamples is not None and len(resamples) and not np.isnan(resamples).all():
            low, high = (float(q) for q in np.nanpercentile(resamples, (2.5, 97.5)))
        return cls(score, low, high, resamples=resamples, **rest)

    @classmethod
    def over_seeds(cls, scores: Sequence["Score"]) -> "Score":
        """The mean of several seeds' scores and Student's 95 % interval of it.

        What is equal in all seeds (a baseline that is not trained) keeps its bootstrap interval.
        """
        first, values = scores[0], tuple(s.score for s in scores)
        if len(set(values)) == 1:
            return first
        if any(math.isnan(v) for v in values):
            return replace(
                first,
                score=math.nan,
                low=math.nan,
                high=math.nan,
                resamples=None,
                reason="undefined for at least one seed",
            )
        mean, low, high = student(values)
        means = [s.subset_mean for s in scores if s.subset_mean is not None]
        subsets = {k: float(np.mean([s.subsets[k] for s in scores])) for k in first.subsets}
        return cls(
            mean,
            low,
            high,
            first.pairs,
            float(np.mean(means)) if means else None,
            subsets,
            seeds=values,
        )

    def __sub__(self, other: "Score") -> "Score":
        """The difference; its interval is paired, over the same resamples or the same seeds."""
        if self.seeds or other.seeds:
            count = max(len(self.seeds), len(other.seeds))
            mine = self.seeds or (self.score,) * count
            theirs = other.seeds or (other.score,) * count
            if len(mine) != len(theirs):
                return Score(self.score - other.score, pairs=self.pairs)
            return Score.over_seeds(
                [Score(a - b, pairs=self.pairs) for a, b in zip(mine, theirs, strict=True)]
            )
        resamples = None
        if self.resamples is not None and other.resamples is not None:
            resamples = self.resamples - other.resamples
        return Score.of(self.score - other.score, resamples, pairs=self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which knows no nan: None instead."""
        kept = {k: v for k, v in self.__dict__.items() if k != "resamples"}
        kept["seeds"] = list(self.seeds)
        kept["subsets"] = {k: _number(v) for k, v in self.subsets.items()}
        return {k: _number(v) if isinstance(v, float) else v for k, v in kept.items()}

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 2) -> str:
        """`72.37`, and below it `[71.20, 73.41]`, the subsets' mean, or why there is no score."""
        if math.isnan(self.score):
            return "undefined" + (f"\n{self.reason}" if self.reason else "")
        lines = [f"{self.score:.{digits}f}"]
        if self.seeds:
            lines[0] += f" sd {np.std(self.seeds, ddof=1):.{digits}f}"
        if not math.isnan(self.low):
            lines.append(f"[{self.low:.{digits}f}, {self.high:.{digits}f}]")
        if self.subset_mean is not None:
            lines.append(f"subsets {self.subset_mean:.{digits}f}")
        return "\n".join(lines)


def student(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a few independent values and the ends of Student's 95 % interval of it."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def _width(console: Console, table: Table) -> int:
    """Columns of text that a table takes when nothing in it is folded."""
    table = copy.copy(table)
    table.title = table.caption = None
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


@dataclass(frozen=True)
class EncoderScores:
    """The scores of one encoder, by set, and their average where the benchmark defines one."""

    name: str
    scores: dict[str, Score]
    average: Score | None = None

    def __sub__(self, other: "EncoderScores") -> "EncoderScores":
        """Differences, set by set."""
        average = self.average - other.average if self.average and other.average else None
        shared = {k: v - other.scores[k] for k, v in self.scores.items() if k in other.scores}
        return EncoderScores(f"{self.name} - {other.name}", shared, average)

    @classmethod
    def over_seeds(cls, name: str, seeds: Sequence["EncoderScores"]) -> "EncoderScores":
        """One encoder trained from several seeds, as the mean over them."""
        first = seeds[0]
        scores = {k: Score.over_seeds([s.scores[k] for s in seeds]) for k in first.scores}
        averages = [s.average for s in seeds if s.average is not None]
        average = Score.over_seeds(averages) if len(averages) == len(seeds) else None
        return cls(name, scores, average)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        scores = {k: v.to_dict() for k, v in self.scores.items()}
        average = self.average.to_dict() if self.average else None
        return {"name": self.name, "scores": scores, "average": average}


@dataclass(frozen=True)
class BenchmarkResult:
    """Encoders side by side on one benchmark.

    Attributes:
        benchmark: its name, such as `"sts"`.
        setting: the protocol in words; printed in every table, as it moves the scores.
        encoders: in the order measured; the first one is what the others are compared with.
        note: what a reader must know to quote the scores.
        better: whether a higher or a lower score is the better one.
        digits: of a score, after the point.
        unit: what a score is, on the axis of a picture.
        examples: what was scored and what each encoder made of it, by name of the example: plain
            data with the encoders' part under `encoders`. Saved in a file of its own.
        steps: of the optimizer that the measured run had made, of each seed; empty where it is no
            run. They tell scores from those of the same run after more training.
    """

    benchmark: str
    setting: str
    encoders: tuple[EncoderScores, ...]
    note: str = ""
    better: Literal["higher", "lower"] = "higher"
    digits: int = 2
    unit: str = "score x100"
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    steps: tuple[int, ...] = ()

    def __add__(self, other: "BenchmarkResult") -> "BenchmarkResult":
        """Both results' encoders in one table; they must come from the same protocol."""
        if (self.benchmark, self.setting) != (other.benchmark, other.setting):
            raise ValueError(
                f"Cannot put {self.benchmark!r} ({self.setting}) beside {other.benchmark!r} "
                f"({other.setting}): measure both with the same setting."
            )
        notes = dict.fromkeys(n for r in (self, other) for n in r.note.split("\n") if n)
        encoders = self.encoders + other.encoders
        examples = (
            {
                name: {**one, "encoders": {**one["encoders"], **other.examples[name]["encoders"]}}
                for name, one in self.examples.items()
                if name in other.examples
            }
            if self.examples and other.examples
            else self.examples or other.examples
        )
        return replace(self, encoders=encoders, note="\n".join(notes), examples=examples)

    @property
    def differences(self) -> tuple[EncoderScores, ...]:
        """Every later encoder minus the first, with paired intervals."""
        return tuple(e - self.encoders[0] for e in self.encoders[1:])

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, the schema of `results/*.json`."""
        return {
            "benchmark": self.benchmark,
            "setting": self.setting,
            "encoders": [e.to_dict() for e in self.encoders],
            "differences": [e.to_dict() for e in self.differences],
            "note": self.note,
            "better": self.better,
            "digits": self.digits,
            "steps": list(self.steps),
        }

    def save(self, path: str | Path) -> Path:
        """Write `to_dict()` as JSON, making the folder where it is missing.

        Examples go to `<name>_examples.json` beside it.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        if self.examples:
            text = json.dumps(self.examples, ensure_ascii=False, allow_nan=False)
            path.with_name(f"{path.stem}_examples.json").write_text(text + "\n", encoding="utf-8")
        return path

    def table(self) -> Table:
        """A rich table: sets as rows, encoders (and what they gained on the first) as columns."""
        columns = self._columns()
        table = self._part(columns)
        table.title = f"{self.benchmark.upper()}: {self.setting}"
        table.caption = "\n".join(filter(None, (self._legend(), self.note)))
        return table

    def print(self, console: Console | None = None) -> None:
        """Print the table; what a terminal has no room for goes into further tables below it.

        Args:
            console: rich's; default the standard output. A file gets one table of any width.
        """
        console = console or Console()
        whole = self.table()
        if not console.is_terminal:
            Console(file=console.file, width=_width(console, whole)).print(whole)
            return
        parts: list[list[EncoderScores]] = [[]]
        for column in self._columns():
            wider = [*parts[-1], column]
            if parts[-1] and _width(console, self._part(wider)) > console.width:
                parts.append([column])
            else:
                parts[-1] = wider
        if len(parts) == 1:
            console.print(whole)
            return
        console.print(whole.title, style="table.title", markup=False)
        for part in parts:
            console.print(self._part(part))
        console.print(whole.caption, style="table.caption", markup=False)

    def _columns(self) -> tuple["EncoderScores", ...]:
        return self.encoders + self._shown_differences()

    def _part(self, columns: Sequence["EncoderScores"]) -> Table:
        """The table of some columns."""
        table = Table(caption_justify="left", title_justify="left")
        table.add_column("set", no_wrap=True)
        table.add_column("n", justify="right", no_wrap=True)
        for encoder in columns:
            table.add_column(encoder.name, overflow="fold")
        for name, first in self.encoders[0].scores.items():
            cells = [e.scores[name].text(self.digits) if name in e.scores else "" for e in columns]
            table.add_row(name, f"{first.pairs:,}", *cells)
        if any(e.average for e in self.encoders):
            averages = [e.average.text(self.digits) if e.average else "" for e in columns]
            table.add_section()
            table.add_row("average", "", *averages, style="bold")
        return table

    def _shown_differences(self) -> tuple[EncoderScores, ...]:
        # What baselines have over an untrained encoder says little, and takes many columns.
        gains = self.differences
        return tuple(e for e in gains if e.name == "trained - untrained") or gains

    def _legend(self) -> str:
        scores = [score for e in self.encoders for score in e.scores.values()]
        lines = ["Lower is better."] if self.better == "lower" else []
        if any(not math.isnan(s.low) for s in scores):
            lines.append("In brackets: 95 % bootstrap interval; of a difference, paired.")
        if any(s.seeds for s in scores):
            lines.append("With sd: mean over seeds, and Student's 95 % interval of that mean.")
        if any(s.subset_mean is not None for s in scores):
            lines.append("subsets: plain mean of the scores of a set's subsets.")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Scores with their intervals as points; returns the matplotlib axes."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(8, 4), layout="constrained")
        for shift, encoder in enumerate(self.encoders):
            scores = dict(encoder.scores) | (
                {"average": encoder.average} if encoder.average else {}
            )
            y = np.array([s.score for s in scores.values()])
            ends = np.array([(s.low, s.high) for s in scores.values()]).T
            bars = np.nan_to_num(np.abs(ends - y))
            x = np.arange(len(y)) + 0.12 * (shift - (len(self.encoders) - 1) / 2)
            ax.errorbar(x, y, yerr=bars, fmt="o", capsize=3, label=encoder.name)
            ax.set_xticks(np.arange(len(y)), list(scores), rotation=30, ha="right")
        ax.set(title=f"{self.benchmark.upper()}: {self.setting}", ylabel=self.unit)
        ax.legend()
        return ax
