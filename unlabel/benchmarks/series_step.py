"""How fast are the steps of time series, beside transformers' PatchTST and the public TS2Vec code?

    python -m unlabel.benchmarks.series_step --data ETTh1.csv.gz --ts2vec FOLDER

Three tasks: a step of masked patches (beside `PatchTSTForPretraining`), a step of TS2Vec's
contrast, and a vector for each step of a whole series (beside TS2Vec's sliding windows, and beside
our own). Each side works in a process of its own, in turn, round after round with another seed, and
counts its CPU seconds, so that ratios hold on a shared machine. Data loading belongs to the step.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from unlabel.benchmarks.commands import run_command
from unlabel.benchmarks.series_step_job import PADDING, Job
from unlabel.benchmarks.series_step_sides import SIDES
from unlabel.checks import check_above_0
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.synthetic_series import generate_series

CHANNELS, ROWS = 7, 17_420  # of the generated series: those of ETTh1


def series_step(
    *,
    data: str | None = None,
    ts2vec: str | None = None,
    rounds: int = 3,
    steps: int = 40,
    threads: int = 1,
    seed: int = 0,
    tasks: list[str] | None = None,
    masked: list[int] | None = None,
    contrast: list[int] | None = None,
    windows: int = 16,
    slice: int = 2000,
    sizes: dict[str, dict[str, Any]] | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Work side by side, print the table, and return all figures.

    Args:
        data: a table of one series, as for `read_series`; None generates one as large as ETTh1.
        ts2vec: folder of the public TS2Vec code; without it those rows are left out.
        rounds: jobs of each side.
        steps: training steps of masked patches; a contrast takes half as many, a quarter where
            windows are longer than 1,000 steps.
        threads: of torch.
        seed: of the first round.
        tasks: of `masked`, `contrast`, `encode`; None for all.
        masked: lengths of the windows of masked patches; None for 336 and 504.
        contrast: lengths of TS2Vec's windows; None for 336 and 1500.
        windows: windows a step of masked patches, of all channels each; a contrast takes 8.
        slice: rows that sides with sliding windows encode; their rate is taken to hold for all.
        sizes: keys of the encoder's configuration, by task.
        output: JSON file for all figures.

    Raises:
        ValueError: an unknown task, sizes below 1, or a series shorter than a window.
        RuntimeError: a side failed, or the two did not do the same work.
    """
    _refuse(tasks, rounds, steps, windows, slice)
    values = _values(data)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "values.npy"
        np.save(file, values)
        jobs = []
        for task in tasks or list(SIDES):
            lengths = {"masked": masked or [336, 504], "contrast": contrast or [336, 1500]}
            for context in lengths.get(task, [PADDING + 1]):
                about = _about(task, context, steps, windows, len(values), slice)
                common = {"values": str(file), "threads": threads, "ts2vec": ts2vec}
                common["sizes"] = (sizes or {}).get(task)
                jobs.append({**about, **common})
        _refuse_short(values, jobs)
        rows = [_compare(job, rounds, seed, Path(name)) for job in jobs]
    result = {"data": data or "generated", "rows": rows, **_machine(threads, values)}
    Console(width=120).print(_table(result))
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
    return result


def _about(
    task: str, context: int, steps: int, windows: int, rows: int, slice: int
) -> dict[str, Any]:
    """The size of a job; `slice` is what sliding sides encode instead of all rows."""
    if task == "encode":
        sliding = min(slice, rows)
        return {"task": task, "context": context, "windows": 256, "steps": rows, "slice": sliding}
    if task == "contrast":
        windows, steps = 8, max(1, steps // (4 if context > 1000 else 2))
    return {"task": task, "context": context, "windows": windows, "steps": steps}


def _refuse(tasks: list[str] | None, rounds: int, steps: int, windows: int, slice: int) -> None:
    if unknown := sorted(set(tasks or []) - set(SIDES)):
        raise ValueError(f"There is no task {unknown[0]!r}; the tasks are {', '.join(SIDES)}.")
    check_above_0(rounds=rounds, steps=steps, windows=windows, slice=slice)


def _refuse_short(values: np.ndarray, jobs: list[dict[str, Any]]) -> None:
    longest = max(job["context"] for job in jobs)
    # The error of masked patches is taken on the last fifth.
    if len(values) < 6 * longest:
        raise ValueError(
            f"The series has {len(values)} rows, but windows of {longest} steps want {6 * longest} "
            "at least; bring a longer one or shorten the windows."
        )


def _values(data: str | None) -> np.ndarray:
    """Rows of all channels, each of mean 0 and variance 1; gaps become 0."""
    source = (
        generate_series(1, ROWS, channels=CHANNELS, seed=0) if data is None else read_series(data)
    )
    series = list(source)
    if len(series) != 1:
        raise ValueError(f"{data} holds {len(series)} series; give a table of one.")
    values = series[0].values.astype(np.float64)
    values = (values - np.nanmean(values, 0)) / np.maximum(np.nanstd(values, 0), 1e-8)
    return np.nan_to_num(values).astype(np.float32)


# -- rounds ---------------------------------------------------------------------------------------


def _compare(job: dict[str, Any], rounds: int, seed: int, folder: Path) -> dict[str, Any]:
    """All sides of a task in turn, every round the other way round."""
    sides = list(SIDES[job["task"]])
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            runs[side].append(_run(_job(job, side, seed + number), folder))
    _same_work(job, runs)
    about = {k: v for k, v in job.items() if k not in ("values", "ts2vec")}
    return {**about, "sides": [_summary(side, runs) for side in sides]}


def _job(about: dict[str, Any], side: str, seed: int) -> Job:
    given = dict(about)
    sliding = given.pop("slice", given["steps"])
    if side in ("TS2Vec", "unlabel, a window a step"):
        given["steps"] = sliding
    return Job(side=side, seed=seed, **given)


def _run(job: Job, folder: Path) -> dict[str, Any]:
    file = folder / "job.json"
    file.write_text(json.dumps(asdict(job)))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job.threads))
    done = subprocess.run(
        [sys.executable, "-m", "unlabel.benchmarks.series_step_sides", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, **threads, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{job.side} failed at {job.task} with windows of {job.context} steps:\n"
            f"{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def _same_work(job: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("sequences", "width") if job["task"] == "encode" else ("sequences", "steps"):
        made = {r[name] for rs in runs.values() for r in rs if name in r}
        if len(made) > 1:
            raise RuntimeError(
                f"The sides of {job['task']} did not do the same work: {name} {sorted(made)}."
            )


def _summary(side: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds; `ratio` is this side's time for a step over ours."""
    mine, ours = runs[side], runs["unlabel"]
    if "note" in mine[0]:
        return {"side": side, "note": mine[0]["note"]}
    cost = lambda r: r["cpu_seconds"] / r["steps"]  # noqa: E731
    wall = lambda r: r["wall_seconds"] / r["steps"]  # noqa: E731
    ratios = [cost(r) / cost(o) for r, o in zip(mine, ours, strict=True)]
    walls = [wall(r) / wall(o) for r, o in zip(mine, ours, strict=True)]
    return {
        "side": side,
        "cpu_ms": 1000 * statistics.median(cost(r) for r in mine),
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "wall_ratio": statistics.median(walls),
        **{
            k: statistics.median(r[k] for r in mine)
            for k in ("loss", "error", "encoded", "parameters")
            if k in mine[0]
        },
        "runs": mine,
    }


# -- figures --------------------------------------------------------------------------------------


def _machine(threads: int, values: np.ndarray) -> dict[str, Any]:
    packages = ("torch", "transformers", "unlabel")
    return {
        "versions": {p: version(p) for p in packages},
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "series": list(values.shape),
    }


def _table(result: dict[str, Any]) -> Table:
    rows, channels = result["series"]
    table = Table(
        title=f"{result['data']}: {rows} steps of {channels} channels, threads "
        f"{result['threads']}; medians, CPU time of a side over ours in brackets low to high",
        title_justify="left",
    )
    for heading in (
        "task", "window", "side", "CPU ms a step", "over ours", "loss", "error", "steps encoded",
        "weights",
    ):  # fmt: skip
        table.add_column(heading)
    for row in result["rows"]:
        for place, side in enumerate(row["sides"]):
            start = [row["task"], str(row["context"])] if place == 0 else ["", ""]
            table.add_row(*start, side["side"], *_cells(side))
        table.add_section()
    return table


def _cells(side: dict[str, Any]) -> list[str]:
    if "note" in side:
        return [side["note"]]
    ratio = side["ratio"]
    said = lambda key, form: format(side[key], form) if key in side else ""  # noqa: E731
    cells = [f"{side['cpu_ms']:.4g}"]
    cells += [f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"]
    cells += [said("loss", ".3f"), said("error", ".3f"), said("encoded", ".0f")]
    return [*cells, said("parameters", ",.0f")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options of `series_step` from the command line."""
    run_command(series_step, arguments)


if __name__ == "__main__":
    main()
