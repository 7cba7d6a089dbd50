"""Series in memory: values, names, time and what reading met."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float32

from unlabel.data_pipes.report import ReadReport, first_of
from unlabel.data_pipes.series_time import Step

logger = logging.getLogger(__name__)

# What the report counts, in words: one, several.
_WORDS = {
    "unsorted": ("series put in order of time", "series put in order of time"),
    "irregular": ("series of irregular step", "series of irregular step"),
    "infinite": ("infinite value made missing", "infinite values made missing"),
    "declared_missing": ("value declared missing", "values declared missing"),
    "filled_covariates": ("covariate filled forward", "covariates filled forward"),
    "filled_statics": ("missing static value taken as 0", "missing static values taken as 0"),
    "empty_channels": ("channel without a value", "channels without a value"),
    "constant_channels": ("constant channel", "constant channels"),
    "sentinels": ("suspected code for missing", "suspected codes for missing"),
    "text_columns": ("text column left out", "text columns left out"),
    "unused_columns": ("column not used", "columns not used"),
    "wide_arrays": ("array with more channels than steps", "arrays with more channels than steps"),
    "empty_series": ("row without steps left out", "rows without steps left out"),
    "decimal_commas": ("file with decimal commas", "files with decimal commas"),
    "renamed": ("repeated id numbered", "repeated ids numbered"),
    "targets_left_out": ("regression target left out", "regression targets left out"),
}


@dataclass
class Series:
    """One series, a row a step.

    Attributes:
        id: its name.
        values: NaN where missing, `(steps, channels)`.
        names: of the channels.
        start: time of the first row: a time stamp, a number where the time column counts, or None.
        freq: pandas' name of the step (`"h"`, `"15min"`, `"MS"`); None where steps are not dates,
            or irregular.
        covariates: known beside the values, without gaps, `(steps, covariates)`.
        static: numbers that hold for the whole series, `(static,)`.
        label: place of its class in `SeriesData.classes`, -1 for none.
        step: what `freq` names, of counting time columns too; None where rows are steps, or the
            step is irregular.
        id_name: column of the table that told it apart, "" for none.
        time_name: column that held its time, "" for none.
    """

    id: str
    values: Float32[np.ndarray, "steps channels"]
    names: tuple[str, ...] = ()
    start: pd.Timestamp | int | None = None
    freq: str | None = None
    covariates: Float32[np.ndarray, "steps covariates"] | None = None
    static: Float32[np.ndarray, "static"] | None = None
    label: int = -1
    step: Step | None = None
    id_name: str = ""
    time_name: str = ""

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.values)

    def in_order(self, names: Sequence[str]) -> "Series":
        """With the channels of these names, in this order; itself where it has not all of them."""
        own = list(self.names)
        if own == list(names) or not set(names) <= set(own) or not names:
            return self
        values = self.values[:, [own.index(n) for n in names]]
        return replace(self, values=values, names=tuple(names))

    @property
    def told(self) -> tuple[str, ...]:
        """Names of the channels; none where they are but their places."""
        return () if self.names == tuple(map(str, range(len(self.names)))) else self.names


@dataclass
class SeriesData:
    """Series that were read together, and the report of the reading.

    Attributes:
        series: one by one; those of one table are views of one array.
        report: what was read, mended, found suspicious and left out.
        classes: names of the classes that the labels count.
        time_gap: unit of the time gaps that are the last covariate; None where there are none.
    """

    series: list[Series]
    report: ReadReport = field(default_factory=ReadReport)
    classes: tuple[str, ...] = ()
    time_gap: float | None = None

    def __len__(self) -> int:
        """Number of series."""
        return len(self.series)

    def __getitem__(self, index: int) -> Series:
        """One series."""
        return self.series[index]

    def __iter__(self) -> Iterator[Series]:
        """The series in order."""
        return iter(self.series)

    def in_order(self, names: Sequence[str]) -> "SeriesData":
        """With the channels of these names, in this order; of other names by their places."""
        if not names:
            return self
        other = next((s for s in self if s.told and not set(names) <= set(s.names)), None)
        if other is not None and len(other.names) == len(names):
            logger.warning(
                "The encoder was trained on the channels %s, but series %r has %s: they are taken "
                "by their places.",
                first_of(names),
                other.id,
                first_of(other.names),
            )
        return replace(self, series=[s.in_order(names) for s in self])

    @property
    def missing(self) -> float:
        """Share of the values that are missing."""
        missing = sum(int(np.isnan(s.values).sum()) for s in self.series)
        return missing / max(sum(s.values.size for s in self.series), 1)

    def summary(self) -> str:
        """One line: how many, how long, which step, gaps, and what is odd (first cases named)."""
        lengths = [len(s) for s in self.series]
        channels = sorted({s.values.shape[1] for s in self.series})
        freqs = sorted({s.freq for s in self.series if s.freq})
        parts = [
            f"{len(self):,} series of {_span(lengths)} steps and {_span(channels)} channel(s)",
            f"step {', '.join(freqs[:3])}" if freqs else "steps without a name",
            f"{self.missing:.2%} missing",
        ]
        if self.time_gap is not None:
            parts.append(f"rows are steps, time gaps in units of {self.time_gap:g}")
        if self.classes:
            parts.append(f"{len(self.classes)} classes")
        return ", ".join([*parts, *_notes(self.report)])


def scale_gaps(series: list[Series], unit: float | None) -> float:
    """Write each time gap (the last covariate) as ln(gap / unit), and 0 where it is 0.

    Args:
        series: of one reading.
        unit: of time; None for the median gap.

    Returns:
        The unit.
    """
    gaps = [s.covariates[:, -1] for s in series if s.covariates is not None]
    if unit is None:
        above = np.concatenate([g[g > 0] for g in gaps])
        unit = float(np.median(above)) if len(above) else 1.0
    for gap in gaps:
        np.log(gap / unit, out=gap, where=gap > 0)
    return unit


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _notes(report: ReadReport) -> list[str]:
    def named(kind: str) -> str:
        return f" ({'; '.join(report.examples[kind])})" if kind in report.examples else ""

    counts = report.counts
    notes = []
    if gaps := counts.get("gaps", 0):
        steps = counts["gap_steps"]
        notes.append(f"{gaps:,} gap{'s' * (gaps > 1)}, {steps:,} step{'s' * (steps > 1)}")
    notes += [
        f"{counts[kind]:,} {words[counts[kind] > 1]}{named(kind)}"
        for kind, words in _WORDS.items()
        if counts.get(kind)
    ]
    notes += [
        f"{n:,} {kind.replace('_', ' ')} row(s) left out{named(kind)}"
        for kind, n in report.dropped.items()
    ]
    if report.broken:
        broken = "; ".join(f"{name}: {why}" for name, why in list(report.broken.items())[:3])
        notes.append(f"{len(report.broken)} broken file(s) skipped ({broken})")
    if report.ignored:
        notes.append(f"{len(report.ignored)} file(s) of another kind ignored")
    return notes
