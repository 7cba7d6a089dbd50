"""Sounds recognised by simple probes of a frozen encoder, with what needs none beside.

Spoken digits (FSDD) leave one speaker out, as a digit of a known speaker is nearly a copy; ESC-10
has its own five folds; generated sounds need no file.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import nn
from transformers.audio_utils import mel_filter_bank

from unlabel.benchmarks.labelled import Labelled, apart, labelled, read_labelled, set_folder
from unlabel.benchmarks.probes import (
    Probe,
    accuracy,
    control_scores,
    probe_result,
    probe_scores,
)
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench, refuse_unfit
from unlabel.benchmarks.saved import projector_layers, saved_encoder
from unlabel.benchmarks.tuning import Tuning, tuned_accuracy
from unlabel.data_pipes.audio import read_waveform
from unlabel.data_pipes.synthetic_audio import CLASSES, generate_audio
from unlabel.modalities.audio import AudioEncoder

SETS = ("digits", "digits, known speakers", "esc10", "synthetic")
# Generated sounds to fit probes on and to test: how many, and seeds that no run begins with.
GENERATED = {"train": (800, 1_000_001), "test": (400, 1_000_002)}
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac", ".opus", ".mp4")
SETTING = "top-1 and R@k x100 on held-out speakers or recordings, probes of frozen features"
NOTE = "R@k: one of the k nearest train sounds by cosine is of the class."
BANDS = 40
Part = Literal["pooled", "mean", "std", "max", "quarters"]
Waveform = Float32[np.ndarray, "samples"]
Read = Callable[[Labelled, int], list[Waveform]]


def load_sounds(name: str, folder: str | Path | None = None, *, seed: int = 0) -> Labelled:
    """A set of labelled sounds, with splits that keep speakers and recordings apart.

    Args:
        name: one of `SETS`, or what `read_labelled` takes.
        folder: that has the named sets; default `$UNLABEL_DATA/audio`.
        seed: of folds that are drawn.

    Raises:
        FileNotFoundError: no such set.
    """
    if name not in SETS:
        return read_labelled(name, SUFFIXES, what="recording", seed=seed)
    if name == "synthetic":
        return _synthetic()
    if name == "esc10":
        place = set_folder("esc10", "audio", folder)
        table = pd.read_csv(place / "labels.csv")
        files = [place / p for p in table["path"]]
        about: dict[str, Any] = {"fold": table["fold"], "group": table["freesound_id"]}
        return labelled(name, files, table["label"], neighbours=3, **about)
    place = set_folder("fsdd", "audio", folder) / "recordings"
    files = sorted(place.glob("*.wav"))
    digit, speaker, take = zip(*(f.stem.split("_") for f in files), strict=True)
    if name == "digits":
        return labelled(name, files, digit, group=speaker)
    # The archive's own test part: takes 0 to 4 of each digit and speaker.
    split = ["test" if int(t) < 5 else "train" for t in take]
    return labelled(name, files, digit, split=split, neighbours=1)


def _synthetic() -> Labelled:
    parts = {s: generate_audio(count, seed=seed) for s, (count, seed) in GENERATED.items()}
    clips = [(w, p.rate) for p in parts.values() for w in p.waveform]
    label = [CLASSES[k] for p in parts.values() for k in p.label]
    split = [s for s, p in parts.items() for _ in p.label]
    return labelled("synthetic", clips, label, split=split)


def log_mel(waveform: Waveform, rate: int) -> Float[np.ndarray, "frames bands"]:
    """Log-mel spectrogram of 40 bands, windows of about 32 ms every 10 ms."""
    size = 2 ** round(math.log2(0.032 * rate))
    short = max(size - len(waveform), 0)
    sound = F.pad(torch.from_numpy(waveform), (0, short))
    window = torch.hann_window(size)
    power = torch.stft(sound, size, rate // 100, window=window, return_complex=True).abs() ** 2
    return np.log(power.numpy().T @ _bank(size, rate) + 1e-6)


@cache
def _bank(size: int, rate: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a low band narrower than a bin is empty
        return mel_filter_bank(size // 2 + 1, BANDS, 0.0, rate / 2, rate, mel_scale="htk")


def quarters(spectrogram: Float[np.ndarray, "frames bands"]) -> Float[np.ndarray, "features"]:
    """Means over four equal parts of the time: a sound's course, whatever its length."""
    return np.concatenate([part.mean(axis=0) for part in np.array_split(spectrogram, 4)])


def level_quarters(spectrogram: Float[np.ndarray, "frames bands"]) -> Float[np.ndarray, "features"]:
    """`quarters` with their mean taken out: how loud a recording is says who spoke."""
    found = quarters(spectrogram)
    return found - found.mean()


def moments(spectrogram: Float[np.ndarray, "frames bands"]) -> Float[np.ndarray, "features"]:
    """Mean and deviation of each band: what is heard, without any order."""
    return np.concatenate([spectrogram.mean(axis=0), spectrogram.std(axis=0)])


CONTROLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log-mel in quarters": quarters,
    "quarters, level out": level_quarters,
    "log-mel moments": moments,
}


def control_features(
    waveforms: Sequence[tuple[Waveform, int]],
) -> dict[str, Float[np.ndarray, "files features"]]:
    """Features of every control."""
    spectrograms = [log_mel(*one) for one in waveforms]
    return {name: np.stack([f(s) for s in spectrograms]) for name, f in CONTROLS.items()}


def read_once() -> Read:
    """Reads a set's waveforms at a rate, and keeps them for the next encoder of the table."""
    kept: dict[tuple[int, int], list[Waveform]] = {}

    def read(data: Labelled, rate: int) -> list[Waveform]:
        key = id(data), rate
        if key not in kept:
            kept[key] = [read_waveform(s, rate=rate)[0] for s in data.sources]
        return kept[key]

    return read


def evaluate_sounds(
    encoder: AudioEncoder,
    data: Sequence[Labelled],
    *,
    features: Sequence[Part] = ("pooled",),
    probes: Sequence[Probe] | None = None,
    tuning: Tuning | None = None,
    below: nn.Module | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    name: str = "encoder",
    read: Read | None = None,
) -> BenchmarkResult:
    """Accuracy x100 of probes on held-out sounds, and retrieval, of one encoder.

    Args:
        encoder: hears a sound in windows of its length.
        data: the sets.
        features: that probes read, side by side, see `AudioEncoder.encode`.
        probes: default `logistic` and the set's own number of neighbours.
        tuning: fine-tune a copy of the encoder on the train part of every fold, too.
        below: layers between the encoder's vector and the head then.
        bootstrap: resamples of the held-out groups; 0 for no intervals.
        seed: of folds, resamples and fine-tuning.
        batch_size: windows a forward pass.
        name: in the table.
        read: gives the waveforms of a set at a rate; default `read_once()`.
    """
    scores: dict[str, Score] = {}
    read = read or read_once()
    for one in data:
        waveforms = read(one, encoder.rate)
        found = encoder.encode(waveforms, batch_size=batch_size, features=features)
        scores |= probe_scores(one, found, probes=probes, bootstrap=bootstrap, seed=seed)
        if tuning is not None:
            clips = [[w] for w in waveforms]
            more = {"below": below, "key": "waveform", "seed": seed}
            for how, right in tuned_accuracy(encoder, one, clips, tuning, **more).items():
                own = accuracy(one, right, bootstrap=bootstrap, seed=seed)
                scores[f"{one.name} {how}"] = own
    return _result(EncoderScores(name, scores), data, features)


def evaluate_controls(
    data: Sequence[Labelled],
    *,
    probes: Sequence[Probe] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[BenchmarkResult]:
    """What needs no encoder: log-mel spectrograms in quarters, with their level out, and moments.

    Args:
        data: the sets.
        probes: as for `evaluate_sounds`; also `bootstrap`, `seed`.
        bootstrap: resamples.
        seed: of folds and resamples.
    """
    found = [control_features([read_waveform(s) for s in one.sources]) for one in data]
    return [
        _result(own, data)
        for own in control_scores(data, found, probes=probes, bootstrap=bootstrap, seed=seed)
    ]


def _result(
    scores: EncoderScores, data: Sequence[Labelled], features: Sequence[Part] = ("pooled",)
) -> BenchmarkResult:
    read = (
        "" if list(features) == ["pooled"] else f"\nOf encoders, probes read {', '.join(features)}."
    )
    return probe_result("sounds", SETTING, NOTE + read, scores, data)


def load_audio_encoder(path: str | Path, *, device: str | None = None) -> AudioEncoder:
    """An encoder of sound, see `saved_encoder`."""
    return saved_encoder(path, "audio", device=device)


def bench_sounds(
    path: str | Path,
    *,
    compare: Sequence[str] = (),
    controls: bool = True,
    sets: Sequence[str] = ("digits", "esc10"),
    folder: str | Path | None = None,
    features: Sequence[Part] = ("pooled",),
    probes: Sequence[Probe] | None = None,
    finetune: bool = False,
    tuning: Tuning | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    device: str | None = None,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Recognise sounds from a frozen encoder, or a run before and after training.

    Args:
        path: a run's output folder (both its untrained and its trained encoder are probed, as
            means over its seeds), or the folder of a saved audio encoder.
        compare: further runs (after training) or encoders for the same table.
        controls: probe what needs no encoder, too: log-mel spectrograms in three ways.
        sets: `digits` (an unseen speaker), `digits, known speakers`, `esc10`, `synthetic` (what a
            run without `--data` trains on, other draws of it); a folder of class folders, a CSV
            list with columns `path` and `label` (and `split`, `fold` or `group`), or
            `hf:name[:config[:split]]`.
        folder: that has the named sets; default `$UNLABEL_DATA/audio`.
        features: what probes read of a recording, side by side: `pooled`, the encoder's own vector;
            of its tokens the `mean`, `std`, `max` and `quarters` (means over four equal parts of
            the time, as the controls').
        probes: default `logistic` and the set's own number of nearest neighbours.
        finetune: train all weights with a linear head on the train part of every fold, too; in the
            column of the untrained encoder that is supervised training from scratch.
        tuning: how, with `finetune`.
        bootstrap: resamples for the intervals.
        seed: of folds, resamples and fine-tuning.
        batch_size: windows a forward pass.
        device: as for torch; a GPU where there is one.
        output: JSON file; default `results/sounds.json` in a run's output folder.

    Reference: Piczak 2015 (ESC), for the folds of ESC-10.
    """
    how = (tuning or Tuning()) if finetune else None

    def load(path: Path, name: str) -> tuple[AudioEncoder, dict[str, Any]]:
        below = projector_layers(path, how.projector_layers) if how else None
        return load_audio_encoder(path, device=device), {"name": name, "below": below}

    refuse_unfit(path, load, compare=compare)
    names = list(dict.fromkeys(sets))
    data = apart(names, [load_sounds(name, folder, seed=seed) for name in names])
    shared: dict[str, Any] = {"probes": probes, "bootstrap": bootstrap, "seed": seed}
    own = {
        **shared,
        "features": features,
        "tuning": how,
        "batch_size": batch_size,
        "read": read_once(),
    }
    return bench(
        path,
        lambda loaded: evaluate_sounds(loaded[0], data, **loaded[1], **own),
        compare=compare,
        controls=evaluate_controls(data, **shared) if controls else (),
        output=output,
        load=load,
    )


__all__ = ["CONTROLS", "SETS", "bench_sounds", "control_features", "evaluate_controls",
           "evaluate_sounds", "load_audio_encoder", "load_sounds", "read_once"]  # fmt: skip
