"""Crude features of the four sides of a pair, all computed from the files."""

import csv
from pathlib import Path

import av
import numpy as np
import pandas as pd
from scipy.io import wavfile
from scipy.signal import stft
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SIDES = ("video", "audio", "text", "series")


def listed(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])


def weights_of(frames: np.ndarray) -> np.ndarray:
    """How much each pixel stands out by its colour, (frames, rows, columns)."""
    chroma = frames - frames.mean(-1, keepdims=True)
    chroma = chroma - np.median(chroma, axis=(1, 2), keepdims=True)
    far = (chroma**2).sum(-1)
    return np.where(far > 0.35 * np.quantile(far, 0.995), 1.0, 0.0)


def moments_of(weights: np.ndarray) -> np.ndarray:
    """x, y, area and second moments over time, (frames, 6), in widths of the frame."""
    size = weights.shape[-1]
    at = (np.arange(size) + 0.5) / size
    total = weights.sum((1, 2)) + 1e-9
    x, y = (weights.sum(1) * at).sum(1) / total, (weights.sum(2) * at).sum(1) / total
    dx, dy = at - x[:, None], at - y[:, None]
    second = [
        np.einsum("tij,tj,tj->t", weights, dx, dx), np.einsum("tij,ti,ti->t", weights, dy, dy),
        np.einsum("tij,ti,tj->t", weights, dy, dx),
    ]  # fmt: skip
    return np.stack([x, y, total / size**2, *(s / total for s in second)], axis=1)


def video_features(path: Path) -> np.ndarray:
    """Colour of what stands out, its form about its middle, and the spectra of its motion."""
    frames = frames_of(path).astype(float)
    weights = weights_of(frames)
    color = (weights[..., None] * frames).sum((0, 1, 2)) / weights.sum()
    moments = moments_of(weights)
    size = weights.shape[-1]
    reach = np.arange(-7, 8) * np.sqrt(np.median(moments[:, 2])) * size / 10
    form = np.zeros((len(reach), len(reach)))
    for shown, (x, y) in zip(weights, moments[:, :2], strict=True):
        rows, columns = (
            np.clip(np.rint(m * size + reach), 0, size - 1).astype(int) for m in (y, x)
        )
        form += shown[np.ix_(rows, columns)]
    ratio = moments[:, 3:5].sum(1) / moments[:, 2]
    motion = np.concatenate([moments, ratio[:, None]], 1)
    waves = np.abs(np.fft.rfft(motion - motion.mean(0), axis=0))
    hue = color / color.sum()
    return np.concatenate(
        [color, hue * 255, form.ravel(), np.log(waves + 1e-3).ravel(), [ratio.mean()]]
    )


def audio_features(path: Path) -> np.ndarray:
    """Mean spectrum, and how sixteen bands change in time."""
    rate, wave = wavfile.read(path)
    _, _, spectrum = stft(
        wave / 32768,
        rate,
        nperseg=512,
        noverlap=384,
        padded=False,
        boundary=None,  # pyright: ignore
    )
    power = np.log(np.abs(spectrum[1:]) + 1e-4)  # (256, times)
    bands = np.stack([b.mean(0) for b in np.array_split(power, 16)])
    waves = np.log(np.abs(np.fft.rfft(bands - bands.mean(1, keepdims=True), axis=1))[:, :24] + 0.1)
    centred = power - power.mean()
    return np.concatenate([centred.mean(1), centred.std(1), waves.ravel()])


def series_features(path: Path) -> np.ndarray:
    """Readings and their spectra, each channel at mean 0 and deviation 1: levels are lost."""
    values = pd.read_csv(path).drop(columns="time").to_numpy()
    values = (values - values.mean(0)) / values.std(0)
    waves = np.log(np.abs(np.fft.rfft(values, axis=0)) + 0.5)
    return np.concatenate([values[:, -2:].ravel(), waves.ravel()])


def features(file: Path, side: str) -> np.ndarray:
    rows = listed(file)
    if side == "text":
        words = HashingVectorizer(n_features=1024, ngram_range=(1, 2), alternate_sign=False)
        return words.transform([r["text"] for r in rows]).toarray()  # pyright: ignore
    of = {"video": video_features, "audio": audio_features, "series": series_features}[side]
    return np.stack([of(file.parent / r[side]) for r in rows])


def told(
    train: Path, test: Path, side: str, parts=("shape", "color", "motion")
) -> dict[str, float]:
    """Share of the test samples whose part one side tells, to a linear model of the others."""
    x, z = features(train, side), features(test, side)
    right = {}
    for part in parts:
        y, truth = (np.array([r[part] for r in listed(f)]) for f in (train, test))
        fit = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=300))
        right[part] = fit.fit(x, y).predict(z) == truth
    all_three = np.logical_and.reduce([right[p] for p in parts[:3]])
    return {p: float(r.mean()) for p, r in right.items()} | {"all": float(all_three.mean())}
