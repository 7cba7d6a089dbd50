"""Saved scores as the report's tables and as one sentence, from `results/*.json`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# A score as `results/*.json` holds it: score, low, high (None where undefined), reason, seeds.
Cell = Mapping[str, Any]
# What `BenchmarkResult.to_dict` gives.
Result = Mapping[str, Any]
BLANK = {"score": None, "low": None, "high": None, "reason": None, "seeds": ()}
GAIN = "trained − untrained"


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
    """A benchmark of one run, or the mean over several seeds of it.

    Attributes:
        benchmark: its name.
        setting: the protocol in words.
        note: what a reader must know to quote the scores.
        columns: untrained, trained and gain where they are, then baselines.
        rows: sets, and the average where there is one, as the last.
        seeds: name of each seed's run and what it gained, as a table of its own.
        better: `higher` or `lower`.
        digits: of a score, after the point.
    """

    benchmark: str
    setting: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[tuple[str, "ScoreTable"], ...] = ()
    better: str = "higher"
    digits: int = 2

    @property
    def brief(self) -> int:
        """Digits of a score that is read alone, in a sentence."""
        return max(1, self.digits - 1)

    @property
    def headline(self) -> Row:
        """The average, or the first set where the benchmark has no average."""
        return next((r for r in self.rows if r.name == "average"), self.rows[0])

    @property
    def has_gain(self) -> bool:
        """Whether the first columns are a run before and after training."""
        return "gain" in self.columns

    @property
    def change(self) -> tuple[Cell, Cell, Cell]:
        """Of the headline: before, after, gain."""
        return self.side(self.headline)

    @property
    def over(self) -> int:
        """How many seeds the scores are means of; 0 for those of one run."""
        return max(len(cell["seeds"]) for row in self.rows for cell in row.cells)

    def side(self, row: Row) -> tuple[Cell, Cell, Cell]:
        """Before, after and gain of a row."""
        return row.cells[0], row.cells[1], row.cells[self.columns.index("gain")]


def score_table(result: Result, seeds: Mapping[str, Result] | None = None) -> ScoreTable:
    """A saved result as a table.

    Args:
        result: of one run, or of all its seeds together.
        seeds: name of each seed's run -> its own result.

    Raises:
        ValueError: a seed was measured by another protocol than all of them together.
    """
    for name, own in (seeds or {}).items():
        if own["setting"] != result["setting"]:
            raise ValueError(
                f"{name} was measured with {own['setting']!r}, all seeds together with "
                f"{result['setting']!r}: the two do not compare. Measure all of them again with "
                f"`unlabel bench {result['benchmark']}` on the folder that holds the seeds."
            )
    columns = dict(_columns(result))
    return ScoreTable(
        benchmark=result["benchmark"],
        setting=result["setting"],
        note=result.get("note", ""),
        columns=tuple(columns),
        rows=tuple(_rows(result, columns)),
        seeds=tuple((name, score_table(own)) for name, own in (seeds or {}).items()),
        better=result.get("better", "higher"),
        digits=result.get("digits", 2),
    )


def verdict(before: Cell, after: Cell, gain: Cell, digits: int = 1) -> str:
    """What the interval of a gain allows to say, as the end of a sentence."""
    if gain["score"] is None:
        return f"is undefined: {gain['reason'] or after['reason'] or before['reason']}."
    ends = f"from {before['score']:.{digits}f} before training to {after['score']:.{digits}f} after"
    if gain["low"] is None:
        return f"went {ends}; there is no interval."
    if gain["low"] <= 0 <= gain["high"]:
        return f"did not clearly change: it went {ends}, and the interval of the gain contains 0."
    return f"{'rose' if gain['low'] > 0 else 'fell'} {ends}."


def _columns(result: Result) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Untrained, trained and gain first, where they are; then what stands beside them."""
    encoders = {e["name"]: e for e in result["encoders"]}
    gains = {e["name"].replace(" - ", " − "): e for e in result["differences"]}
    own = [name for name in ("untrained", "trained") if name in encoders]
    yield from ((name, encoders.pop(name)) for name in own)
    if GAIN in gains:  # the lead of the baselines on the untrained encoder says little then
        yield "gain", gains[GAIN]
        gains = {}
    yield from (encoders | gains).items()


def _rows(result: Result, columns: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    first = result["encoders"][0]
    for name, cell in first["scores"].items():
        cells = (BLANK | dict(c["scores"].get(name, {})) for c in columns.values())
        yield Row(name, cell["pairs"], tuple(cells))
    if first["average"]:
        pairs = sum(cell["pairs"] for cell in first["scores"].values())
        cells = (BLANK | dict(c["average"] or {}) for c in columns.values())
        yield Row("average", pairs, tuple(cells))


__all__ = ["Row", "ScoreTable", "score_table", "verdict"]
