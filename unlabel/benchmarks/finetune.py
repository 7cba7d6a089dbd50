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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from unlabel.benchmarks.finetune_network import Tuning, held_out, network_forecaster, tune
from unlabel.benchmarks.finetune_run import Cells, PretrainedRun, pretrained_runs, weights_digest
from unlabel.benchmarks.forecast_encoder import WIDEST, encoder_features
from unlabel.benchmarks.forecast_ridge import (
    ALPHAS,
    Features,
    Forecaster,
    RidgeForecaster,
    raw_features,
    window_moments,
)
from unlabel.benchmarks.forecasting import window_errors, window_scores
from unlabel.benchmarks.forecasting_data import ForecastData, Windows, load_forecasting
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.ridge import fit_ridge

logger = logging.getLogger(__name__)

TRAINED, UNTRAINED, RAW = "trained", "untrained", "ridge on values"
FROZEN = {f"{name}, frozen": name for name in (UNTRAINED, TRAINED)}
FOLDERS = {TRAINED: "model", UNTRAINED: "untrained"}
# What is cheap comes first, so that a table that is stopped half way has its controls.
ARMS = (RAW, *FROZEN, TRAINED, UNTRAINED)
SHOWN = (UNTRAINED, TRAINED, *FROZEN, RAW)
ABOUT = (
    "trained, untrained: pretrained and random weights, fine-tuned with their head; untrained is "
    "given the sequences of pretraining on top. frozen: a closed-form ridge on the encoder's "
    "tokens instead. All see the same share, the latest one, of the train windows; pretraining "
    "saw every row it was given. Chosen on validation windows."
)


def latest_windows(data: ForecastData, share: float, *, lookback: int, horizon: int) -> Windows:
    """The latest share of the train windows, those before the validation rows.

    A share of windows, not of rows: few rows hold no window of a long history and horizon at all.
    `n` windows lie in `n + lookback + horizon - 1` rows.

    Raises:
        ValueError: no share from above 0 to 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"A share of the train windows is above 0 and at most 1, not {share}.")
    whole = data.windows("train", lookback)
    count = whole.count(horizon)
    return Windows(whole.values[count - max(1, round(share * count)) :], lookback)


@dataclass(frozen=True)
class Place:
    """One row of the table (of several horizons where one head serves them).

    Attributes:
        data: the set.
        horizons: of one fit, or of one network.
        share: of the train windows.
        lookback: steps of history.
    """

    data: ForecastData
    horizons: tuple[int, ...]
    share: float
    lookback: int

    @property
    def name(self) -> str:
        """For a file."""
        return f"{self.data.name}-{'-'.join(map(str, self.horizons))}-share-{self.share:g}"

    @property
    def row(self) -> str:
        """For people."""
        return f"{self.data.name} {self.share * 100:g}%"

    @property
    def windows(self) -> Windows:
        """To fit."""
        longest = max(self.horizons)
        return latest_windows(self.data, self.share, lookback=self.lookback, horizon=longest)

    def ridge(self, features: Features) -> RidgeForecaster:
        """The ridge on the share, alpha by validation, for each horizon."""
        train = window_moments(self.windows, features, self.horizons)
        held = self.data.windows("validation", self.lookback)
        checks = window_moments(held, features, self.horizons)
        grid = ALPHAS[self.data.protocol]
        heads = {h: fit_ridge(train[h], checks[h], grid) for h in self.horizons}
        return RidgeForecaster(features, heads)

    def errors(self, forecaster: Forecaster) -> dict[int, np.ndarray]:
        """Of every test window; the first and only time that they are read."""
        fitted = lambda data, **_: forecaster  # noqa: E731
        asked = {"lookback": self.lookback, "horizons": self.horizons}
        return window_errors(self.data, fitted, **asked)[0]


Fitted = tuple[Forecaster, dict[str, Any]]


def fit_arms(
    place: Place, run: PretrainedRun, how: Tuning, device: str | None
) -> dict[str, Callable[[], Fitted]]:
    """What makes each arm's forecaster, and tells how it came about; no test window is read."""
    from unlabel.modalities.series import SeriesEncoder

    def load(name: str) -> SeriesEncoder:
        return SeriesEncoder.from_pretrained(run.path / FOLDERS[name])

    @cache
    def frozen(name: str) -> RidgeForecaster:
        return place.ridge(encoder_features(load(name).to(_device(device))))

    def start(name: str) -> RidgeForecaster | None:
        encoder = load(name)
        wide = encoder.length * encoder.width
        if how.head == "random":
            return None
        if wide > WIDEST:
            raise ValueError(
                f"A head on {encoder.length} tokens of width {encoder.width} has {wide:,} "
                f"features, and a ridge takes up to {WIDEST:,}; give head='random'."
            )
        return frozen(name)

    def tuned(name: str, extra: int) -> Fitted:
        longest, ridge = max(place.horizons), start(name)
        found = tune(
            lambda: load(name),
            place.windows,
            held_out(place.data, place.lookback, longest, how.validation_windows),
            horizon=longest,
            how=how,
            start=None if ridge is None else ridge.heads[longest],
            extra=extra,
            seed=run.seed,
            device=device,
        )
        return network_forecaster(found.module, place.horizons), found.about

    return {
        RAW: lambda: _ridge_fitted(place.ridge(raw_features("last"))),
        **{arm: lambda name=name: _ridge_fitted(frozen(name)) for arm, name in FROZEN.items()},
        TRAINED: lambda: tuned(TRAINED, 0),
        UNTRAINED: lambda: tuned(UNTRAINED, run.sequences),
    }


def _ridge_fitted(found: RidgeForecaster) -> Fitted:
    return found, {"alpha": {str(h): heads[0].alpha for h, heads in found.heads.items()}}


def _device(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def measure(
    place: Place,
    runs: Sequence[PretrainedRun],
    how: Tuning,
    cells: Cells,
    *,
    scratch: bool = True,
    device: str | None = None,
) -> dict[str, list[dict[int, np.ndarray]]]:
    """Errors of each arm, by seed; what is on disk is read from there."""
    found: dict[str, list[dict[int, np.ndarray]]] = {}
    for run in runs:
        arms = fit_arms(place, run, how, device)
        for arm in ARMS:
            if (arm == UNTRAINED and not scratch) or (arm == RAW and arm in found):
                continue
            name = f"{place.name}-{arm.replace(', ', '-').replace(' ', '-')}"
            name += "" if arm == RAW else f"-seed-{run.seed}"
            made_of = _made_of(place, run, arm)
            if cells.get(name, made_of) is None:
                began, cpu = time.time(), time.process_time()
                forecaster, about = arms[arm]()
                errors = place.errors(forecaster)
                about["cpu_seconds"] = round(time.process_time() - cpu, 2)
                about["seconds"] = round(time.time() - began, 2)
                cells.put(name, made_of, about, errors)
                logger.info("%s: %s", name, _said(about))
            found.setdefault(arm, []).append(cells.errors(name))
    return found


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
    learning_rates: Sequence[float] = (1e-4,),
    batch_size: int = 128,
    head: Literal["ridge", "random"] = "ridge",
    scratch: bool = True,
    joint: bool = False,
    checks: int = 20,
    validation_windows: int = 512,
    patience: int = 0,
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
            or `random`.
        scratch: train the untrained network for the whole budget, too: the dearest part.
        joint: one network for all horizons, trained on the longest, instead of one for each.
        checks: looks at the validation windows, the start being one more; the best is kept.
        validation_windows: looked at each time, evenly spaced; 0 for all.
        patience: looks without a better one that end the training; 0 for never.
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
        steps, tuple(learning_rates), batch_size, head, checks, validation_windows, patience
    )
    runs = pretrained_runs(path, scratch=scratch)
    lookback = _context(runs)
    cells = Cells(path / "finetune", {**asdict(how), "joint": joint})
    found: dict[str, list[dict[str, Score]]] = {}
    notes = [ABOUT]
    for name in dict.fromkeys(sets):
        data = load_forecasting(name, folder)
        notes += [runs[0].saw_beyond_train(data), data.about.note]
        asked = tuple(dict.fromkeys(horizons))
        for share in dict.fromkeys(shares):
            errors: dict[str, list[dict[int, np.ndarray]]] = {}
            for group in [asked] if joint else [(h,) for h in asked]:
                place = Place(data, group, share, lookback)
                own = measure(place, runs, how, cells, scratch=scratch, device=device)
                for arm, seeds in own.items():
                    whole = errors.setdefault(arm, [{} for _ in seeds])
                    for one, more in zip(whole, seeds, strict=True):
                        one.update(more)
            named = replace(data, name=Place(data, asked, share, lookback).row)
            for arm, seeds in errors.items():
                rows = found.setdefault(arm, [{} for _ in seeds])
                for one, more in zip(rows, seeds, strict=True):
                    ordered = {h: more[h] for h in asked}
                    one.update(window_scores(named, ordered, bootstrap=bootstrap, seed=seed))
    result = BenchmarkResult(
        "finetune",
        _setting(how, runs[0], lookback, joint),
        tuple(
            EncoderScores.over_seeds(arm, [EncoderScores(arm, rows) for rows in found[arm]])
            for arm in SHOWN
            if arm in found
        ),
        "\n".join(filter(None, dict.fromkeys(notes))),
        better="lower",
        digits=4,
        unit="error on standardised values",
    )
    Console().print(result.table())
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
    parts = [
        f"MSE and MAE on standardised values, LTSF protocol, lookback {lookback}, every test "
        f"window; pretrained on {run.pretrained_on}",
        f"{how.steps:,} steps of {how.batch_size} sequences, learning rate {rates}{chosen}",
        "head from the ridge" if how.head == "ridge" else "head from random weights",
        "one network for all horizons" if joint else "one network for each horizon",
    ]
    return ", ".join(parts)


__all__ = ["bench_finetune", "latest_windows"]
