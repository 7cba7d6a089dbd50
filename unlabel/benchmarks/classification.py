"""Classification of whole series by simple probes of a frozen encoder, and of the raw values.

The UCR and UEA archives' own train and test cases (Dau et al. 2019; Bagnall et al. 2018).
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float

from unlabel.benchmarks.forecast_encoder import load_series_encoder
from unlabel.benchmarks.forecasting_data import series_folder
from unlabel.benchmarks.intervals import mean_resamples
from unlabel.benchmarks.probes import Probe, predict
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench, refuse_unfit
from unlabel.data_pipes.series import read_series
from unlabel.modalities.series import SeriesEncoder

# Cases of any lengths, each (steps, channels), to one row of features a case.
SeriesEmbed = Callable[[list[np.ndarray]], Float[np.ndarray, "cases features"]]
PROBES: tuple[Probe, ...] = ("1-NN", "logistic")
SETS = ("GunPoint", "ItalyPowerDemand", "ArrowHead", "BasicMotions")


@dataclass(frozen=True)
class Cases:
    """Train or test cases of a set.

    Attributes:
        values: of each case, `(steps, channels)`.
        label: name of the class of each.
    """

    values: list[np.ndarray]
    label: list[str]


def load_cases(name: str, folder: str | Path | None = None) -> tuple[Cases, Cases]:
    """Train and test cases from `NAME_TRAIN.ts[.gz]` and `NAME_TEST.ts[.gz]`.

    Args:
        name: of the set.
        folder: where the files are; by default `$UNLABEL_DATA/series/classification`.

    Raises:
        ValueError: no such set, or cases without a class.
    """
    place = Path(folder) if folder is not None else series_folder(None) / "classification"
    parts = []
    for side in ("TRAIN", "TEST"):
        stems = (place / f"{name}_{side}{e}" for e in (".ts.gz", ".ts"))
        path = next((p for p in stems if p.is_file()), None)
        if path is None:
            there = sorted({p.name.split("_")[0] for p in place.glob("*_TRAIN.ts*")})
            raise ValueError(
                f"No {name}_{side}.ts[.gz] in {place}, which has {', '.join(there) or 'no sets'}."
            )
        data = read_series(path)
        if not data.classes or any(s.label < 0 for s in data):
            raise ValueError(f"{path} has cases without a class; a probe needs one for each.")
        parts.append(Cases([s.values for s in data], [data.classes[s.label] for s in data]))
    return parts[0], parts[1]


def resized(
    values: Float[np.ndarray, "steps channels"], steps: int
) -> Float[np.ndarray, "some channels"]:
    """A case stretched to `steps` by lines between its observed values; a channel of none is 0."""
    at, there = np.linspace(0, len(values) - 1, steps), np.arange(len(values))
    out = np.zeros((steps, values.shape[1]), dtype=np.float32)
    for channel, seen in enumerate(np.isfinite(values).T):
        if seen.any():
            out[:, channel] = np.interp(at, there[seen], values[seen, channel])
    return out


def raw_values(steps: int) -> SeriesEmbed:
    """The control: the values themselves, stretched to `steps`, channels one after the other."""
    return lambda cases: rearrange(np.stack([resized(v, steps) for v in cases]), "n t c -> n (c t)")


def encoder_vectors(encoder: SeriesEncoder, *, batch_size: int = 256) -> SeriesEmbed:
    """Pooled vectors of a frozen encoder; of single channels, one after the other.

    Cases are stretched to the encoder's context: those of an archive have 24 to 1,460 steps, and
    an encoder knows the scale of time that it was trained on.
    """

    def embed(cases: list[np.ndarray]) -> Float[np.ndarray, "cases features"]:
        values = np.stack([resized(v, encoder.context) for v in cases])
        if encoder.channels not in (1, values.shape[2]):
            raise ValueError(
                f"The encoder takes {encoder.channels} channels together, the cases have "
                f"{values.shape[2]}; give a set with as many, or an encoder of single channels."
            )
        found = encoder.encode(values, batch_size=batch_size)
        return found.reshape(len(values), -1)

    return embed


def evaluate_classification(
    embed: SeriesEmbed | None = None,
    folder: str | Path | None = None,
    *,
    sets: Sequence[str] = SETS,
    probes: Sequence[Probe] = PROBES,
    bootstrap: int = 1000,
    seed: int = 0,
    name: str = "values",
) -> BenchmarkResult:
    """Accuracy x100 of probes on test cases, with bootstrap intervals over them.

    Args:
        embed: cases to rows of features; None for the raw values, stretched to the length of the
            longest train case.
        folder: of the `.ts[.gz]` files, see `load_cases`.
        sets: names of sets.
        probes: `1-NN` (Euclidean) and `logistic` (standardised features, C by cross-validation on
            the train cases).
        bootstrap: resamples of the test cases; 0 for no intervals.
        seed: of the folds and resamples.
        name: in the table.

    Raises:
        ValueError: an unknown set or probe, or features that are not finite.
    """
    if unknown := sorted(set(probes) - set(PROBES)):
        raise ValueError(f"No probe {unknown[0]!r}: choose from {', '.join(PROBES)}.")
    scores = {}
    for key in dict.fromkeys(sets):
        train, test = load_cases(key, folder)
        own = embed or raw_values(max(len(v) for v in train.values))
        x, there = own(train.values), own(test.values)
        if not (np.isfinite(x).all() and np.isfinite(there).all()):
            raise ValueError(f"{key}: features of {name} are not finite; look at its weights.")
        label, truth = np.asarray(train.label), np.asarray(test.label)
        for probe in probes:
            right = 100.0 * (predict(probe, x, label, there, seed=seed) == truth)
            # Seeded by the row, not the encoder: differences between encoders are paired.
            rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
            drawn = mean_resamples(right, resamples=bootstrap, rng=rng)
            scores[f"{key} {probe}"] = Score.of(float(right.mean()), drawn, pairs=len(right))
    return BenchmarkResult(
        "classification",
        "accuracy x100 of probes on frozen features, the archives' own train and test cases",
        (EncoderScores(name, scores),),
        "An encoder that normalises each case knows nothing of its level and scale; the raw values "
        "do.",
    )


def bench_classification(
    path: str | Path,
    *,
    compare: Sequence[str] = (),
    controls: bool = True,
    folder: str | Path | None = None,
    sets: Sequence[str] = SETS,
    probes: Sequence[Probe] = PROBES,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 256,
    device: str | None = None,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Probe a frozen series encoder, or a run before and after training, beside the raw values.

    Args:
        path: a run's output folder (both its untrained and its trained encoder are probed, as
            means over its seeds), or the folder of a saved series encoder.
        compare: further runs (after training) or encoders for the same table.
        controls: probe the raw values, too.
        folder: of the sets, see `evaluate_classification`; also `sets`, `probes`, `bootstrap`,
            `seed`.
        sets: which sets.
        probes: `1-NN` and `logistic`.
        bootstrap: resamples for the intervals.
        seed: of the folds and resamples.
        batch_size: sequences a forward pass.
        device: as for torch; a GPU where there is one.
        output: JSON file; default `results/classification.json` in a run's output folder.
    """
    options: dict[str, Any] = {
        "folder": folder,
        "sets": sets,
        "probes": probes,
        "bootstrap": bootstrap,
        "seed": seed,
    }

    def load(path: Path, name: str) -> tuple[str, SeriesEmbed]:
        encoder = load_series_encoder(path, device=device)
        return name, encoder_vectors(encoder, batch_size=batch_size)

    refuse_unfit(path, load, compare=compare)
    return bench(
        path,
        lambda loaded: evaluate_classification(loaded[1], name=loaded[0], **options),
        compare=compare,
        controls=[evaluate_classification(**options)] if controls else (),
        output=output,
        load=load,
    )
