"""Does pretraining pay? Fine-tuned on few windows or on all, beside the same budget without it.

Series have no labels to save, so `share` is the share of the train windows that forecasting is
fitted to; pretraining read all of its rows, be they the same ones. What is compared, on all test
windows of the LTSF protocol (Zeng et al. 2023, section 5.1):

- `trained`: the pretrained encoder, fine-tuned;
- `untrained`: the same network from the same random weights, trained on the share for as many
  sequences as pretraining and fine-tuning took together;
- both frozen, with a closed-form ridge on the same share; and a ridge on the raw windows.

Gradients, learning rates and steps are chosen by validation windows; test windows are read once,
when all is chosen. The validation rows are the protocol's own, whatever the share.
"""

import logging
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unlabel.benchmarks.finetune_arms import FOLDERS, FROZEN, RAW, TRAINED, UNTRAINED, Arms, Place
from unlabel.benchmarks.finetune_network import Reads, Tuning
from unlabel.benchmarks.finetune_run import Cells, PretrainedRun, pretrained_runs, weights_digest
from unlabel.benchmarks.forecasting import window_scores
from unlabel.benchmarks.forecasting_data import load_forecasting
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score

logger = logging.getLogger(__name__)

# What is cheap comes first, so that a table that is stopped half way has its controls.
ARMS = (RAW, *FROZEN, TRAINED, UNTRAINED)
SHOWN = (UNTRAINED, TRAINED, *FROZEN, RAW)
ABOUT = (
    "trained, untrained: pretrained and random weights, fine-tuned with their head; untrained is "
    "given the sequences of pretraining on top. frozen: a closed-form ridge on the encoder's "
    "tokens instead. All see the same share, the latest one, of the train windows; pretraining "
    "saw every row it was given. Chosen on validation windows."
)


Errors = dict[int, np.ndarray]  # of every test window, by horizon


def measure(
    place: Place,
    runs: Sequence[PretrainedRun],
    how: Tuning,
    cells: Cells,
    *,
    scratch: bool = True,
    device: str | None = None,
) -> dict[str, list[Errors]]:
    """Errors of each arm, for each seed; what is on disk is read from there.

    Args:
        place: the row of the table.
        runs: a seed each.
        how: networks are trained.
        cells: those on disk.
        scratch: train the untrained network too.
        device: as for torch.
    """
    found: dict[str, list[Errors]] = {}
    for run in runs:
        arms = Arms(place, run, how, device)
        for arm in ARMS:
            if (arm == UNTRAINED and not scratch) or (arm == RAW and arm in found):
                continue
            name = f"{place.name}-{arm.replace(', ', '-').replace(' ', '-')}"
            name += "" if arm == RAW else f"-seed-{run.seed}"
            made_of = _made_of(place, run, arm)
            if cells.get(name, made_of) is None:
                about, errors = _fitted(arms, arm)
                cells.put(name, made_of, about, errors)
                logger.info("%s: %s", name, _said(about))
            found.setdefault(arm, []).append(cells.errors(name))
    return found


def _fitted(arms: Arms, arm: str) -> tuple[dict[str, Any], Errors]:
    began, cpu = time.time(), time.process_time()
    forecaster, about = arms.fit(arm)
    errors = arms.place.errors(forecaster)
    spent = {"cpu_seconds": time.process_time() - cpu, "seconds": time.time() - began}
    return {**about, **{k: round(v, 2) for k, v in spent.items()}}, errors


def _made_of(place: Place, run: PretrainedRun, arm: str) -> dict[str, Any]:
    values = f"{zlib.crc32(np.ascontiguousarray(place.data.values).data):08x}"
    folder = FOLDERS.get(FROZEN.get(arm, arm))
    weights = None if folder is None else weights_digest(run.path / folder)
    extra = run.sequences if arm == UNTRAINED else 0
    return {"data": values, "weights": weights, "lookback": place.lookback, "extra": extra}


def _said(about: dict[str, Any]) -> str:
    parts = [f"{about['cpu_seconds']:g} CPU seconds"]
    if "steps" in about:
        parts.insert(
            0,
            f"validation MSE {about['at_start']:.4f} -> {about['validation']:.4f} at step "
            f"{about['best_step']} of {about['steps']}, learning rate {about['learning_rate']:g}",
        )
    return ", ".join(parts)


def bench_finetune(
    path: str | Path,
    *,
    sets: Sequence[str] = ("ETTh1",),
    horizons: Sequence[int] = (96, 192, 336, 720),
    shares: Sequence[float] = (1.0, 0.1, 0.05),
    steps: int = 500,
    learning_rates: Sequence[float] = (1e-4, 3e-4),
    batch_size: int = 128,
    head: Literal["ridge", "random"] = "ridge",
    scratch: bool = True,
    joint: bool = False,
    checks: int = 20,
    validation_windows: int = 512,
    patience: int = 0,
    dropout: float | None = 0.0,
    features: Reads = "tokens",
    head_rate: float = 1.0,
    folder: str | Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    device: str | None = None,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Fine-tune a run's encoder to forecast, beside the same network without pretraining.

    Every cell (set, horizon, share, arm and seed) is written to `finetune/` in the run's folder as
    soon as it is measured, with its validation curve and CPU seconds, and is not measured again.
    The set need not be the one that the run was trained on: that is transfer. Every network sees
    `context` steps of history, and so does the ridge on values.

    Args:
        path: a run's output folder, of one or several seeds.
        sets: which sets.
        horizons: steps of future.
        shares: of the train windows, each in turn; see `latest_windows`.
        steps: of fine-tuning.
        learning_rates: each is tried, from the same start; validation chooses, for each cell.
        batch_size: sequences a step.
        head: starts as the closed-form `ridge` on the frozen (or untrained) encoder, as in LP-FT,
            whose penalty goes on in training, or `random`.
        scratch: train the untrained network for the whole budget, too: the dearest part.
        joint: one network for all horizons, trained on the longest, instead of one for each.
        checks: looks at the validation windows, the start being one more; the best is kept.
        validation_windows: looked at each time, evenly spaced; 0 for all.
        patience: looks without a better one that end the training; 0 for never.
        dropout: of the networks while they are trained; None leaves the encoder's own.
            The ridge that the head starts from was fitted without any.
        features: what heads and ridges on an encoder read: its `tokens`, or `values+tokens`, the
            window itself too; the ridge on values is where that starts, if validation finds
            nothing better.
        head_rate: learning rate of the head, in units of the encoder's: Adam moves every weight of
            a wide head by as much as one of a narrow one.
        folder: of the sets, see `evaluate_forecasting`; also `bootstrap`, `seed`.
        bootstrap: resamples for the intervals of a single seed.
        seed: of the resamples.
        device: as for torch; a GPU where there is one.
        output: JSON file; default `results/finetune.json` in the run's folder.

    Raises:
        ValueError: no finished run of series, an unknown set, or settings that cannot be trained.

    Reference: Kumar et al. 2022 (LP-FT), arXiv 2202.10054; the same network from random weights
    with the same budget: He et al. 2018, arXiv 1811.08883.
    """
    path = Path(path)
    how = Tuning(
        steps,
        tuple(learning_rates),
        batch_size,
        head,
        checks,
        validation_windows,
        patience,
        dropout,
        features,
        head_rate,
    )
    runs = pretrained_runs(path, scratch=scratch)
    lookback = _context(runs)
    cells = Cells(path / "finetune", {**asdict(how), "joint": joint})
    asked = tuple(dict.fromkeys(horizons))
    read = [load_forecasting(name, folder) for name in dict.fromkeys(sets)]
    found: dict[str, list[dict[str, Score]]] = {}
    for place in (Place(d, asked, s, lookback) for d in read for s in dict.fromkeys(shares)):
        parts = [
            measure(own, runs, how, cells, scratch=scratch, device=device)
            for own in ([place] if joint else place.parts)
        ]
        named = replace(place.data, name=place.row)
        for arm in parts[0]:
            for i, rows in enumerate(found.setdefault(arm, [{} for _ in parts[0][arm]])):
                errors = {h: e for part in parts for h, e in part[arm][i].items()}
                ordered = {h: errors[h] for h in asked}
                rows.update(window_scores(named, ordered, bootstrap=bootstrap, seed=seed))
    notes = [ABOUT, *(n for d in read for n in (runs[0].saw_beyond_train(d), d.about.note))]
    result = BenchmarkResult(
        "finetune",
        _setting(how, runs[0], lookback, joint),
        tuple(
            EncoderScores.over_seeds(arm, [EncoderScores(arm, rows) for rows in found[arm]])
            for arm in SHOWN
            if arm in found
        ),
        "\n".join(filter(None, notes)),
        better="lower",
        digits=4,
        unit="error on standardised values",
    )
    result.print()
    result.save(output or path / "results" / "finetune.json")
    return result


def _context(runs: Sequence[PretrainedRun]) -> int:
    contexts = {run.about["encoder"]["context"] for run in runs}
    if len(contexts) > 1:
        raise ValueError(
            f"The runs' encoders see {', '.join(map(str, sorted(contexts)))} steps; give seeds of "
            "one recipe."
        )
    return contexts.pop()


def _setting(how: Tuning, run: PretrainedRun, lookback: int, joint: bool) -> str:
    rates = ", ".join(f"{rate:g}" for rate in how.learning_rates)
    chosen = " by validation" if len(how.learning_rates) > 1 else ""
    head = f"head on {how.features.replace('+', ' and ')}"
    if how.head_rate != 1:
        head += f" at {how.head_rate:g} times the learning rate"
    parts = [
        f"MSE and MAE on standardised values, LTSF protocol, lookback {lookback}, every test "
        f"window; pretrained on {run.pretrained_on}",
        f"{how.steps:,} steps of {how.batch_size} sequences, learning rate {rates}{chosen}",
        f"{head}, from {'the ridge' if how.head == 'ridge' else 'random weights'}",
        "one network for all horizons" if joint else "one network for each horizon",
    ]
    return ", ".join(parts)


__all__ = ["bench_finetune", "measure"]
