"""Scores of one or several seeds as tables and as one sentence, from `results/*.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

# A score as `results/*.json` holds it: score, low, high (None where undefined), reason.
Cell = Mapping[str, Any]
GAIN = "trained − untrained"
BLANK: Cell = {"score": None, "low": None, "high": None, "reason": None}


@dataclass(frozen=True)
class Row:
    """One set of a benchmark.

    Attributes:
        name: of the set, or `average`.
        pairs: how many it was measured on.
        cells: one for each column of the table.
    """

    name: str
    pairs: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ScoreTable:
    """A benchmark over one or several seeds.

    Attributes:
        benchmark: its name.
        setting: the protocol in words.
        note: what a reader must know to quote the scores.
        columns: encoders, then gains on the first of them.
        rows: sets, and the average where there is one, as the last.
        seeds: name of each run and its headline row.
    """

    benchmark: str
    setting: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[tuple[str, Row], ...]

    @property
    def headline(self) -> Row:
        """The average, or the first set where the benchmark has no average."""
        return _headline(self.rows)

    @property
    def has_gain(self) -> bool:
        """Whether the first columns are one run before and after training."""
        return "gain" in self.columns

    @property
    def change(self) -> tuple[Cell, Cell, Cell]:
        """Of the headline: before, after, gain."""
        return self.side(self.headline)

    def side(self, row: Row) -> tuple[Cell, Cell, Cell]:
        """Before, after and gain of a row."""
        return row.cells[0], row.cells[1], row.cells[self.columns.index("gain")]


def score_table(results: Mapping[str, Mapping[str, Any]]) -> ScoreTable:
    """The results of one benchmark, of one seed or of several, as one table.

    One seed keeps its scores and their bootstrap intervals. Of several seeds the table has the
    mean and Student's 95 % interval of the mean over seeds.

    Args:
        results: name of the run -> what `BenchmarkResult.to_dict` gave.

    Raises:
        ValueError: the runs were measured by different protocols.
    """
    first = next(iter(results.values()))
    for name, result in results.items():
        if result["setting"] != first["setting"]:
            raise ValueError(
                f"{name} was measured with {result['setting']!r}, another seed with "
                f"{first['setting']!r}: no mean of the two means anything. Measure both the same "
                "way."
            )
    tables = {name: dict(_columns(result)) for name, result in results.items()}
    shared = [c for c in next(iter(tables.values())) if all(c in t for t in tables.values())]
    rows = {name: _rows(first, [[t[c]] for c in shared]) for name, t in tables.items()}
    return ScoreTable(
        benchmark=first["benchmark"],
        setting=first["setting"],
        note=first.get("note", ""),
        columns=tuple(shared),
        rows=_rows(first, [[t[c] for t in tables.values()] for c in shared]),
        seeds=tuple((name, _headline(own)) for name, own in rows.items()),
    )


def over_seeds(cells: Sequence[Cell]) -> Cell:
    """One seed's cell as it is; of several the mean and Student's 95 % interval of the mean.

    What is equal in all seeds (a baseline that is not trained) keeps its bootstrap interval.
    """
    values = [c["score"] for c in cells]
    if len(set(values)) == 1:
        return {**BLANK, **cells[0]}
    if any(v is None for v in values):
        return {**BLANK, "reason": "undefined for at least one seed"}
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"score": mean, "low": mean - half, "high": mean + half, "reason": None}


def verdict(before: Cell, after: Cell, gain: Cell) -> str:
    """What the interval of a gain allows to say, as the end of a sentence."""
    if gain["score"] is None:
        return f"is undefined: {gain['reason'] or after['reason'] or before['reason']}."
    ends = f"from {before['score']:.1f} before training to {after['score']:.1f} after"
    if gain["low"] is None:
        return f"went {ends}; no interval was asked for."
    if gain["low"] <= 0 <= gain["high"]:
        return f"did not clearly change: it went {ends}, and the interval of the gain contains 0."
    return f"{'rose' if gain['low'] > 0 else 'fell'} {ends}."


def _columns(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Untrained, trained and gain first, where they are; then baselines and their lead on it."""
    encoders = {e["name"]: e for e in result["encoders"]}
    gains = {e["name"].replace(" - ", " − "): e for e in result["differences"]}
    own = [name for name in ("untrained", "trained") if name in encoders]
    yield from ((name, encoders.pop(name)) for name in own)
    if GAIN in gains:
        yield "gain", gains.pop(GAIN)
    yield from encoders.items()
    yield from gains.items()


def _rows(
    first: Mapping[str, Any], columns: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[Row, ...]:
    """Sets as rows; each column holds one encoder's scores of every seed."""
    rows = [
        Row(
            name,
            cell["pairs"],
            tuple(over_seeds([e["scores"].get(name, BLANK) for e in column]) for column in columns),
        )
        for name, cell in first["encoders"][0]["scores"].items()
    ]
    if first["encoders"][0]["average"]:
        cells = tuple(over_seeds([e["average"] or BLANK for e in column]) for column in columns)
        rows.append(Row("average", sum(r.pairs for r in rows), cells))
    return tuple(rows)


def _headline(rows: Sequence[Row]) -> Row:
    return next((r for r in rows if r.name == "average"), rows[0])


__all__ = ["Row", "ScoreTable", "over_seeds", "score_table", "verdict"]
