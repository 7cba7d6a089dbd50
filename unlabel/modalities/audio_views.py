"""Views of sound, made on the device for a whole batch at once.

A view function takes and gives a `Sound`. Every random choice comes from `uniform(seed, ordinal,
stream)`, so it belongs to the sample and not to the batch, worker or rank that the sample met.
Links that move samples in time come before those that hide frames.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.audio_masks import (
    feature_cutoff,
    frequency_mask,
    mask_values,
    span_cutoff,
    token_cutoff,
)
from unlabel.modalities.audio_sound import Layout, Sound, refuse_hidden
from unlabel.modalities.audio_voices import equalize, frequency_warp, speed
from unlabel.modalities.draws import arguments, draw, normal
from unlabel.modalities.order import orders, reversed_steps, segment_order
from unlabel.modalities.whole import whole_sound


def plain(sound: Sound, batch: Batch, spec: ViewSpec, **_: Any) -> Sound:
    """The sound as it is, its middle where it is longer than a view."""
    arguments(spec)
    return sound


def crop(sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any) -> Sound:
    """One random run of each sound, at the start of a view of its own.

    As the first link it takes the run from the whole sample, however long that is.

    Args of the spec:
        low: shortest run, as a share of a view (default 0.5).
        high: longest run, likewise (default 1).

    Raises:
        ValueError: low and high are no range of shares.
    """
    refuse_hidden(sound, spec)
    args = arguments(spec, low=0.5, high=1.0)
    low, high = args["low"], args["high"]
    if not 0 < low <= high <= 1:
        raise ValueError(f"crop needs 0 < low <= high <= 1, but {low} and {high} came.")
    draws = draw(batch, spec, 2)
    exists = sound.mask.sum(1)
    share = low + (high - low) * draws[:, 0]
    whole = torch.minimum(exists, torch.full_like(exists, layout.samples))
    count = (whole * share).long().clamp(min=1)
    first = (draws[:, 1] * (exists - count + 1)).long()
    return sound.run(first, count, layout.samples)


def jitter(sound: Sound, batch: Batch, spec: ViewSpec, **_: Any) -> Sound:
    """Change the loudness, and add white noise of a strength drawn for each sample, log-uniform.

    Args of the spec:
        gain: largest change of loudness either way, in dB (default 6).
        low: weakest noise, as a share of the sound's own level (root mean square; default 0.001).
        high: strongest noise, likewise (default 0.1); 0 adds none.

    Raises:
        ValueError: low and high are no range of positive numbers.
    """
    args = arguments(spec, gain=6.0, low=0.001, high=0.1)
    low, high = args["low"], args["high"]
    if high and not 0 < low <= high:
        raise ValueError(f"jitter needs 0 < low <= high, but low is {low} and high is {high}.")
    draws = draw(batch, spec, 2)
    waveform = sound.waveform
    if high:
        strength = low * (high / low) ** draws[:, :1] * _level(sound)
        waveform = waveform + strength * normal(batch, spec, waveform.shape[1], use=1)
    factor = 10 ** (args["gain"] * (2 * draws[:, 1:] - 1) / 20)
    return sound.change((waveform * factor).to(sound.waveform))


def scaling(sound: Sound, batch: Batch, spec: ViewSpec, **_: Any) -> Sound:
    """Multiply each sound by a factor drawn from N(1, sigma).

    Norm `clip` takes the factor out again, all but its sign: it is for norm `fixed`.

    Args of the spec: sigma (default 0.1).
    """
    sigma = arguments(spec, sigma=0.1)["sigma"]
    return sound.change((sound.waveform * (1 + sigma * normal(batch, spec, 1))).to(sound.waveform))


def polarity(sound: Sound, batch: Batch, spec: ViewSpec, **_: Any) -> Sound:
    """Turn waveforms upside down, which no ear hears; a spectrogram stays as it is.

    Args of the spec: ratio (share of samples that are, default 0.5).
    """
    turned = draw(batch, spec, 1) < arguments(spec, ratio=0.5)["ratio"]
    return sound.change(torch.where(turned, -sound.waveform, sound.waveform))


def mix(sound: Sound, batch: Batch, spec: ViewSpec, **_: Any) -> Sound:
    """Add the next sample of the batch, softer: `(1 - w) x + w y`, both at x's level.

    The one view whose result depends on the batch: how much is the sample's own draw, of what is
    not.

    Args of the spec: high (largest w, each drawn evenly from 0 to it; default 0.4).

    Reference: Niizumi et al. 2021 (BYOL-A), arXiv 2103.06695, section 3.1, which mixes
    spectrograms.
    """
    weight = draw(batch, spec, 1) * arguments(spec, high=0.4)["high"]
    level = _level(sound)
    other = sound.waveform.roll(-1, 0) * level / level.roll(-1, 0).clamp(min=1e-6)
    return sound.change(torch.lerp(sound.waveform, other, weight.to(sound.waveform)))


def reverse(sound: Sound, batch: Batch, spec: ViewSpec, **_: Any) -> Sound:
    """Turn sounds round in time.

    Args of the spec: ratio (share of samples that are, default 1).
    """
    refuse_hidden(sound, spec)
    turned = draw(batch, spec, 1) < arguments(spec, ratio=1.0)["ratio"]
    steps = torch.arange(sound.mask.shape[1], device=turned.device)
    index = torch.where(turned, reversed_steps(sound.mask), steps)
    return sound.change(sound.waveform.gather(1, index))


def reorder(sound: Sound, batch: Batch, spec: ViewSpec, **_: Any) -> Sound:
    """Cut each sound into equal segments and put them in a random order, drawn evenly.

    Args of the spec:
        segments: how many, 2 to 5 (default 3).
        ask: make the order the target: the rank of the permutation among all, in lexicographic
            order; 0 leaves the sound as it was.

    Raises:
        ValueError: another number of segments.

    Reference: Lee et al. 2017, arXiv 1708.01246, section 3 (of frames).
    """
    refuse_hidden(sound, spec)
    args = arguments(spec, segments=3, ask=False)
    count = args["segments"]
    if count not in (2, 3, 4, 5):
        raise ValueError(f"reorder takes 2 to 5 segments, but {count} came.")
    rank = (draw(batch, spec, 1) * math.factorial(count)).long()
    index = segment_order(sound.mask, orders(count, rank.device)[rank[:, 0]])
    sound = sound.change(sound.waveform.gather(1, index))
    return replace(sound, target=rank) if args["ask"] else sound


VIEWS = {
    "plain": plain,
    "crop": crop,
    "jitter": jitter,
    "scaling": scaling,
    "polarity": polarity,
    "mix": mix,
    "speed": speed,
    "frequency_warp": frequency_warp,
    "equalize": equalize,
    "reverse": reverse,
    "reorder": reorder,
    "mask_values": mask_values,
    "frequency_mask": frequency_mask,
    "span_cutoff": span_cutoff,
    "token_cutoff": token_cutoff,
    "feature_cutoff": feature_cutoff,
    "whole": whole_sound,
}


def _level(sound: Sound) -> Float[Tensor, "batch 1"]:
    """Root mean square of what exists of each sound."""
    count = sound.mask.sum(1, keepdim=True).clamp(min=1)
    return (sound.waveform.square().sum(1, keepdim=True) / count).sqrt()


__all__ = ["VIEWS"]
