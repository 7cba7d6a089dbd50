"""Views of sound that change who speaks and what it is recorded with, and not what is said."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.audio_sound import Layout, Sound, refuse_hidden
from unlabel.modalities.draws import arguments, draw


def speed(sound: Sound, batch: Batch, spec: ViewSpec, **_: Any) -> Sound:
    """Play each sound faster or slower, as a tape: length, pitch and resonances change together.

    Samples are read between those there are by a cubic through four of them. Where a slower sound
    outgrows the view, its end is left out.

    Args of the spec:
        low: slowest speed (default 0.9).
        high: fastest, each drawn log-uniform between them (default 1.1).

    Raises:
        ValueError: low and high are no range of speeds.

    Reference: Ko et al. 2015, Audio augmentation for speech recognition, section 2.1, which takes
    0.9, 1 and 1.1.
    """
    refuse_hidden(sound, spec)
    factor = _factors(batch, spec, **arguments(spec, low=0.9, high=1.1))
    places = sound.mask.shape[1]
    at = torch.arange(places, device=factor.device) * factor
    exists = sound.mask.sum(1, keepdim=True)
    mask = at <= exists - 1
    waveform = _between(sound.waveform, at.to(sound.waveform), exists)
    return replace(sound, waveform=torch.where(mask, waveform, 0), mask=mask)


def frequency_warp(
    sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any
) -> Sound:
    """Stretch the frequencies of each spectrogram, as another length of the vocal tract would.

    A band reads the spectrogram at `factor` times its own frequency, and beyond `edge` on a line
    that ends at half the rate: the paper's warp of the mel filters' centres, read between bands.
    Of two in a chain the last one counts.

    Args of the spec:
        low: least factor (default 0.9).
        high: greatest, each drawn log-uniform between them (default 1.1).
        edge: where the line begins, as a share of half the rate (default 0.6).

    Raises:
        ValueError: low and high are no range of factors, or a network of waveforms.

    Reference: Jaitly and Hinton 2013, Vocal Tract Length Perturbation improves speech recognition,
    section 3 (factors drawn evenly from 0.9 to 1.1, edge 4,800 of 8,000 Hz).
    """
    args = arguments(spec, low=0.9, high=1.1, edge=0.6)
    refuse_hidden(sound, spec)
    if layout.bands == 1:
        raise ValueError(
            "A network of waveforms has no spectrogram to warp; change voices by the view 'speed'."
        )
    factor = _factors(batch, spec, low=args["low"], high=args["high"])
    half, steps = layout.rate / 2, layout.bands + 1
    centre = _hertz(torch.arange(1, steps, device=factor.device) / steps, layout.rate)
    warped = half * _warp(centre / half, factor, args["edge"])
    return replace(sound, band_at=_mel(warped, layout.rate) * steps - 1)


def equalize(sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any) -> Sound:
    """Change the loudness of frequencies, as another microphone or room would.

    The gain is a line in dB between points at frequencies drawn evenly on the mel scale.

    Args of the spec:
        gain: largest change either way, in dB (default 6).
        points: between which the gain runs, with one at either end (default 4).

    Raises:
        ValueError: fewer than two points.

    Reference: Nam et al. 2022 (FilterAugment, linear), arXiv 2110.03282, section 2.2, which draws
    the number of points too, and keeps them apart.
    """
    args = arguments(spec, gain=6.0, points=4)
    points = args["points"]
    if points < 2:
        raise ValueError(f"equalize needs 2 points at least, but {points} came.")
    decibels = args["gain"] * (2 * draw(batch, spec, points) - 1)
    samples = sound.waveform.shape[1]
    hertz = torch.arange(samples // 2 + 1, device=decibels.device) * (layout.rate / samples)
    mel = _mel(hertz, layout.rate)
    between = draw(batch, spec, points, use=1)[:, 2:].sort(1).values
    ends = torch.zeros_like(decibels[:, :1])
    gain = 10 ** (_line(mel, torch.cat([ends, between, ends + 1], 1), decibels) / 20)
    spectrum = torch.fft.rfft(sound.waveform, dim=1) * gain.to(sound.waveform)
    return sound.change(torch.fft.irfft(spectrum, n=samples, dim=1))


def _factors(batch: Batch, spec: ViewSpec, *, low: float, high: float) -> Tensor:
    """One factor a sample, log-uniform, `(batch, 1)`."""
    if not 0 < low <= high:
        raise ValueError(f"{spec.name} needs 0 < low <= high, but {low} and {high} came.")
    return low * (high / low) ** draw(batch, spec, 1)


def _between(
    waveform: Float[Tensor, "batch samples"],
    at: Float[Tensor, "batch samples"],
    exists: Int[Tensor, "batch 1"],
) -> Float[Tensor, "batch samples"]:
    """The waveform at places between its samples, by Catmull and Rom's cubic."""
    first = at.floor().long()
    t = at - first
    last = (exists - 1).clamp(min=0)
    tap = lambda k: waveform.gather(1, (first + k).clamp(min=0).minimum(last))  # noqa: E731
    a, b, c, d = (tap(k) for k in (-1, 0, 1, 2))
    bend = (2 * a - 5 * b + 4 * c - d) + t * (3 * (b - c) + d - a)
    return b + 0.5 * t * ((c - a) + t * bend)


def _warp(
    share: Float[Tensor, "bands"], factor: Float[Tensor, "batch 1"], edge: float
) -> Float[Tensor, "batch bands"]:
    """The paper's warp of frequencies, all as shares of half the rate."""
    most = edge * factor.clamp(max=1)  # where the edge comes to lie
    beyond = 1 - (1 - most) / (1 - most / factor) * (1 - share)
    return torch.where(share <= most / factor, share * factor, beyond)


def _line(
    x: Float[Tensor, "places"],
    points: Float[Tensor, "batch points"],
    values: Float[Tensor, "batch points"],
) -> Float[Tensor, "batch places"]:
    """Values on the lines between points, which are sorted from 0 to 1."""
    x = x.expand(len(points), -1).contiguous()
    right = torch.searchsorted(points, x).clamp(1, points.shape[1] - 1)
    (a, b), (u, v) = ([p.gather(1, right - 1), p.gather(1, right)] for p in (points, values))
    return torch.lerp(u, v, ((x - a) / (b - a).clamp(min=1e-6)).clamp(0, 1))


def _mel(hertz: Tensor, rate: float) -> Tensor:
    """Places on the mel scale (HTK's) of frequencies, 1 at half the rate."""
    return torch.log1p(hertz / 700) / math.log1p(rate / 2 / 700)


def _hertz(mel: Tensor, rate: float) -> Tensor:
    """The frequencies at places on the mel scale, 1 at half the rate."""
    return 700 * torch.expm1(mel * math.log1p(rate / 2 / 700))


__all__ = ["equalize", "frequency_warp", "speed"]
