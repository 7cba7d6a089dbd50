"""Does a long run stay as small as it began? Memory of the trainer and of its loader's workers.

    python -m unlabel.benchmarks.steady --output runs/steady

Trains a tiny encoder of generated series by the command line, with two workers, log lines,
checkpoints, a queue and a teacher, and measures each process from outside: what it has written to
memory, and its share of what it has in common with others (anonymous PSS; pages of files come and
go with the system's needs). Linux alone tells that.
"""

import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from scipy import stats

from unlabel.benchmarks.commands import run_command
from unlabel.benchmarks.fault_runs import last_step
from unlabel.files import replacing, write_json

_TINY = {"d_model": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
_BLOCKS = 10  # means of so many parts are fitted, as neighbouring measurements are not independent
_WARM = 0.1  # of the run, which fills caches and is left out of the fit


def steady(
    *,
    output: str = "runs/steady",
    steps: int = 50_000,
    every: int = 500,
    workers: int = 2,
    save_steps: int = 500,
    logging_steps: int = 10,
) -> dict[str, tuple[float, float]]:
    """Train, measure, draw, and return MB per 10,000 steps of each part, with the half interval.

    Args:
        output: folder for the run, `steady.json` and `steady.png`.
        steps: of training.
        every: steps between two measurements.
        workers: of the loader.
        save_steps: steps between two checkpoints.
        logging_steps: steps between two log lines.

    Raises:
        ValueError: fewer measurements than a slope takes.
        RuntimeError: the training failed.
    """
    if steps * (1 - _WARM) / every < 2 * _BLOCKS:
        raise ValueError(
            f"{steps} steps measured each {every} are too few for a slope; take at least "
            f"{round(2 * _BLOCKS / (1 - _WARM))} measurements."
        )
    folder = Path(output)
    options = {
        "--modality": "series",
        "--objective": "unlabel.objectives.MoCo",
        "--objective.queue": 256,
        "--objective.width": 8,
        "--series.context": 48,
        "--series.config": json.dumps({**_TINY, "patch_length": 8}),
        "--training.output_dir": folder / "run",
        "--training.max_steps": steps,
        "--training.save_steps": save_steps,
        "--training.logging_steps": logging_steps,
        "--training.per_device_train_batch_size": 4,
        "--training.dataloader_num_workers": workers,
        "--training.use_cpu": "true",
        "--training.disable_tqdm": "true",
    }
    words = [str(part) for pair in options.items() for part in pair]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said.txt").open("w") as said:
        training = subprocess.Popen(
            [sys.executable, "-m", "unlabel.cli", "train", *words], stdout=said, stderr=said
        )
        try:
            found = _watch(training, folder / "run", every, steps)
        finally:
            training.kill()
    if training.returncode:
        raise RuntimeError(f"The training failed; {folder / 'said.txt'} says why.")
    slopes = {name: slope(*np.array(line).T) for name, line in found.items()}
    write_json(folder / "steady.json", {"megabytes": found, "per_10000_steps": slopes})
    _draw(found, slopes, folder / "steady.png")
    for name, (rise, half) in slopes.items():
        first, last = found[name][0][1], found[name][-1][1]
        print(
            f"{name}: {first:.1f} MB at step {found[name][0][0]:.0f}, {last:.1f} MB at step "
            f"{found[name][-1][0]:.0f}; {rise:+.2f} ± {half:.2f} MB per 10,000 steps"
        )
    return slopes


def slope(
    steps: Sequence[float] | np.ndarray, megabytes: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """MB per 10,000 steps after the warm-up, and half of its 95 % interval.

    The line is fitted to the means of ten parts of the run.
    """
    x, y = np.asarray(steps, dtype=float), np.asarray(megabytes, dtype=float)
    kept = x >= _WARM * x[-1]
    parts = [
        (a.mean(), b.mean())
        for a, b in zip(
            np.array_split(x[kept], _BLOCKS), np.array_split(y[kept], _BLOCKS), strict=True
        )
    ]
    at, held = zip(*parts, strict=True)
    fit = stats.linregress(at, held)
    half = fit.stderr * stats.t.ppf(0.975, _BLOCKS - 2)
    return 10_000 * float(fit.slope), 10_000 * float(half)


def _watch(
    training: subprocess.Popen, run: Path, every: int, steps: int
) -> dict[str, list[tuple[float, float]]]:
    """(step, MB) of the trainer and of all workers together, until the training ends."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    trainer, due = psutil.Process(training.pid), every
    while training.poll() is None:
        time.sleep(0.05)
        step = last_step(run)
        if step < due:
            continue
        due = step - step % every + every
        try:
            own, workers = _megabytes(trainer), sum(map(_megabytes, trainer.children()))
        except psutil.NoSuchProcess:
            continue
        if own and workers and step < steps:  # else between two epochs, or at the end
            for name, now in (("trainer", own), ("workers", workers), ("all", own + workers)):
                found[name].append((step, now))
    return dict(found)


def _megabytes(process: psutil.Process) -> float:
    try:
        said = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0.0
    return sum(int(n) for n in re.findall(r"^(?:Pss_Anon|SwapPss): +(\d+)", said, re.M)) / 1024


def _draw(
    found: dict[str, list[tuple[float, float]]],
    slopes: dict[str, tuple[float, float]],
    path: Path,
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    for name, line in found.items():
        rise, half = slopes[name]
        axes.plot(*zip(*line, strict=True), label=f"{name}: {rise:+.2f} ± {half:.2f} MB / 10,000")
    axes.set(xlabel="step", ylabel="MB (anonymous PSS)", title="Memory of a long run")
    axes.set_ylim(bottom=0)
    axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


if __name__ == "__main__":
    run_command(steady)
