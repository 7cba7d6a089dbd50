"""Does a run that was broken, however and whenever, end as the one that was not?

    python -m unlabel.benchmarks.faults --trials 200 --output faults.json

Tiny runs of text, series, frames and audio, on one rank or two (gloo), are killed, asked to stop,
robbed of a rank, of a loader's worker, of the disk or of the right to write, given NaNs, a clock
that jumps, a damaged checkpoint or a cut file of data, at moments drawn from the seed. Each is
then resumed by the command that began it, and compared with the uninterrupted run: weights,
optimizer, queue, bank, teacher, counters, log and record, bit by bit. A run with NaNs is compared
with an uninterrupted one that met the same NaNs. Each trial also counts what was left outside the
output folder, and what Python opened that is neither the run's, the data's nor the software's.
"""

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unlabel.benchmarks.commands import run_command
from unlabel.benchmarks.fault_ranks import Ranks
from unlabel.benchmarks.fault_runs import MODALITIES, STEPS, outcome, write_data
from unlabel.benchmarks.fault_trials import FAULTS, LATE, Result, Trial, run_trial
from unlabel.benchmarks.fault_work import Plan, work
from unlabel.files import write_json

_BAD = (5, 6, 13)  # steps that meet a NaN


def faults(
    *,
    trials: int = 200,
    seed: int = 0,
    only: int | None = None,
    kinds: Sequence[str] = tuple(FAULTS),
    modalities: Sequence[str] = MODALITIES,
    ranks: Sequence[int] = (1, 2),
    output: str | None = None,
    keep: str | None = None,
) -> list[Result]:
    """Break and resume runs, print the table, and return what happened.

    Args:
        trials: how many.
        seed: of all that is drawn.
        only: this one of them alone.
        kinds: of faults.
        modalities: kinds of data.
        ranks: numbers of processes.
        output: JSON file, written anew after each trial.
        keep: folder for the runs of failed trials.

    Raises:
        ValueError: a kind of fault or data that is not known.
    """
    if unknown := [*({*kinds} - {*FAULTS}), *({*modalities} - {*MODALITIES})]:
        known = ", ".join([*FAULTS, *MODALITIES])
        raise ValueError(f"No {', '.join(unknown)} here; there are {known}.")
    found: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        bench = _Bench(Path(name))
        for trial in draw(trials, seed, kinds, modalities, ranks):
            if only not in (None, trial.number):
                continue
            result = bench.run(trial, None if keep is None else Path(keep))
            found.append(result)
            if result.wrong:
                print(f"{_name(trial)}: {'; '.join(result.wrong)}\n    {_again(trial, seed)}")
            if output is not None:
                write_json(Path(output), {"seed": seed, "trials": [asdict(r) for r in found]})
    Console(width=120).print(_table(found))
    return found


def draw(
    trials: int, seed: int, kinds: Sequence[str], modalities: Sequence[str], ranks: Sequence[int]
) -> Iterator[Trial]:
    """The trials of a seed: each kind of fault as often, the rest by chance."""
    for number in range(trials):
        rng = random.Random(f"{seed}/{number}")
        fault = kinds[number % len(kinds)]
        many = [r for r in ranks if r > 1] if fault == "rank" else list(ranks)
        # Half of the moments lie anywhere, a third in a save, the others before the first step,
        # where there is nothing yet to be damaged.
        at = max(rng.random(), 1 / 6 if fault in ("truncated", "shard") else 0)
        yield Trial(
            number=number,
            fault=fault,
            modality=rng.choice(list(modalities)),
            ranks=rng.choice(many or [2]),
            workers=1 if fault == "worker" else rng.choice((0, 0, 1)),
            step=-1 if at < 1 / 6 else rng.randrange(1, STEPS),
            in_save=at > 2 / 3,
            delay=rng.uniform(0, 1.5) if at < 1 / 6 else rng.uniform(0, 0.03),
            draw=rng.randrange(1 << 30),
        )


class _Bench:
    """The data, and the uninterrupted runs, each made when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._expected: dict[tuple[Any, ...], dict[str, Any]] = {}

    def run(self, trial: Trial, keep: Path | None) -> Result:
        bad = _BAD if trial.fault == "nan" else ()
        expected = self._whole(trial.modality, trial.ranks, bad)
        plan = self._plan(f"trial-{trial.number}", trial.modality, trial.ranks, bad, trial.workers)
        result = run_trial(trial, plan, expected)
        if result.wrong and keep is not None:
            shutil.copytree(plan.folder, keep / plan.folder.name, dirs_exist_ok=True)
        shutil.rmtree(plan.folder, ignore_errors=True)
        return result

    def _plan(
        self, name: str, modality: str, ranks: int, bad: tuple[int, ...], workers: int
    ) -> Plan:
        data = self.folder / f"data-{modality}"
        if not data.exists():
            write_data(modality, data)
        (self.folder / name).mkdir()
        return Plan(self.folder / name, data, modality, ranks, workers, bad)

    def _whole(self, modality: str, ranks: int, bad: tuple[int, ...]) -> dict[str, Any]:
        key = (modality, ranks, bad)
        if key not in self._expected:
            plan = self._plan(f"whole-{modality}-{ranks}-{len(bad)}", modality, ranks, bad, 0)
            said = str(plan.folder / "said")
            codes = Ranks(work, ranks, (plan, said)).join(LATE)
            if set(codes) != {0}:
                text = "\n".join(p.read_text() for p in plan.folder.glob("said*.txt"))
                raise RuntimeError(f"The run of {modality} fails without a fault: {text[-2000:]}")
            found = outcome(plan.run)
            if found["record"]["result"]["skipped_steps"] != len(bad):
                raise RuntimeError(f"Of {len(bad)} steps with NaNs not all were skipped.")
            self._expected[key] = found
        return self._expected[key]


def _name(trial: Trial) -> str:
    return f"trial {trial.number} ({trial.fault}, {trial.modality}, {trial.ranks} rank(s))"


def _again(trial: Trial, seed: int) -> str:
    return (
        f"python -m unlabel.benchmarks.faults --seed {seed} --trials {trial.number + 1} "
        f"--only {trial.number} --keep faults"
    )


def _table(found: Sequence[Result]) -> Table:
    good = Counter((r.trial.fault, r.trial.modality) for r in found if not r.wrong)
    tried = Counter((r.trial.fault, r.trial.modality) for r in found)
    wrong = sum(bool(r.wrong) for r in found)
    table = Table(title=f"{len(found)} broken runs, {wrong} that did not come back whole")
    modalities = [m for m in MODALITIES if any(r.trial.modality == m for r in found)]
    for heading in ("fault", *modalities, "two ranks", "in a save", "resumed"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for fault in dict.fromkeys(r.trial.fault for r in found):
        mine = [r for r in found if r.trial.fault == fault]
        cells = [f"{good[fault, m]} of {tried[fault, m]}" for m in modalities]
        counts = [
            sum(r.trial.ranks > 1 for r in mine),
            sum(r.trial.in_save for r in mine),
            sum(bool(r.resumed) for r in mine),
        ]
        table.add_row(fault, *cells, *map(str, counts))
    return table


if __name__ == "__main__":
    run_command(faults)
