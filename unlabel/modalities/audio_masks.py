"""Views that let the encoder hear less: masks of the spectrogram, and cutoffs of embeddings."""

from dataclasses import replace
from typing import Any

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.audio_sound import Layout, Sound, frames_of, tokens_of
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.series_masks import one_run, random_spans, smallest
from unlabel.modalities.visible import narrowed

UNITS = ("patch", "time", "span", "band", "block", "centre")


def mask_values(sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any) -> Sound:
    """Hide tokens and ask for what they stand for.

    A visible frame next to a hidden one shares samples with it, as far as the spectrogram's
    windows overlap; of what is hidden nothing else reaches the encoder.

    Args of the spec:
        unit: `patch`, an exact share of tokens, at least one; `time`, all bands at a share of the
            times; `band`, all times of a share of the tokens' bands; `span`, all bands at runs of
            times, a share on average; `block`, all bands at one run of times, and `centre`, the
            run in the middle.
        ratio: the share (default 0.4).
        mean_length: of a span, in times of tokens (default 3).
        drop: leave the hidden tokens out of the view, so that the encoder hears the others only
            (not for spans, of which every sample has another number).

    Raises:
        ValueError: no such unit, overlapping tokens, or everything would be hidden.

    Reference: Huang et al. 2022 (Audio-MAE), arXiv 2207.06405, section 3.
    """
    args = arguments(spec, unit="patch", ratio=0.4, mean_length=3, drop=False)
    unit, ratio = args["unit"], args["ratio"]
    if unit not in UNITS:
        raise ValueError(f"Masks of sound have no unit {unit!r}; choose one of {', '.join(UNITS)}.")
    if args["drop"] and unit == "span":
        raise ValueError("Spans differ in number, so they cannot be dropped; mask unit 'time'.")
    if ratio == 1:
        raise ValueError(f"View {spec.name!r} would hide everything; ratio must be below 1.")
    if layout.cell != layout.stride:
        raise ValueError(
            "The encoder's patches overlap, so its neighbours show what is hidden; make one with "
            "time_stride and frequency_stride equal to patch_size."
        )
    chosen, count = _chosen(sound, batch, spec, layout, unit, ratio, args["mean_length"])
    hidden = _over(chosen, layout)
    asked = hidden if sound.is_asked is None else sound.is_asked | hidden
    keeps = layout.grid[0] * layout.grid[1] - count if args["drop"] else None
    return replace(sound.hide(hidden), is_asked=asked, clean=sound.waveform, keeps=keeps)


def span_cutoff(sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any) -> Sound:
    """Hide one run of `int(ratio * frames)` frames, as SpecAugment's time mask, and ask for none.

    What is hidden has the value of the mean. SpecAugment draws the length of the run too.

    Args of the spec: ratio (default 0.1).

    Reference: Park et al. 2019, arXiv 1904.08779, section 2.
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    can = frames_of(sound.mask, layout)
    is_cut = one_run(draw(batch, spec, 1), can, (can.sum(1) * ratio).long())
    return sound.hide(repeat(is_cut, "b t -> b t f", f=layout.bands))


def frequency_mask(
    sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any
) -> Sound:
    """Hide one run of `int(ratio * bands)` mel bands, as SpecAugment's frequency mask.

    Of an encoder of waveforms: take as wide a run of the mel scale out of the waveform.

    Args of the spec: ratio (default 0.2).

    Reference: Park et al. 2019, arXiv 1904.08779, section 2.
    """
    ratio = arguments(spec, ratio=0.2)["ratio"]
    start = draw(batch, spec, 1)
    if layout.bands == 1:
        return sound.change(_band_stop(sound.waveform, start, ratio, layout.rate))
    everywhere = torch.ones(len(batch), layout.bands, dtype=torch.bool, device=start.device)
    count = torch.full((len(batch),), int(ratio * layout.bands), device=start.device)
    is_cut = one_run(start, everywhere, count)
    return sound.hide(repeat(is_cut, "b f -> b t f", t=layout.frames))


def token_cutoff(sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any) -> Sound:
    """Zero the vectors of `int(ratio * tokens)` random tokens after the embedding.

    Args of the spec: ratio (default 0.1).
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    can = tokens_of(sound.mask, layout)
    keep = ~smallest(draw(batch, spec, can.shape[1]), can, (can.sum(1) * ratio).long())
    return replace(sound, keep_positions=narrowed(sound.keep_positions, keep))


def feature_cutoff(
    sound: Sound, batch: Batch, spec: ViewSpec, *, layout: Layout, **_: Any
) -> Sound:
    """Zero `int(ratio * width)` embedding columns in every token of a sample.

    Args of the spec: ratio (default 0.1).
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    scores = draw(batch, spec, layout.width)
    count = torch.full((len(scores),), int(layout.width * ratio), device=scores.device)
    keep = ~smallest(scores, scores >= 0, count)
    return replace(sound, keep_features=narrowed(sound.keep_features, keep))


def _chosen(
    sound: Sound,
    batch: Batch,
    spec: ViewSpec,
    layout: Layout,
    unit: str,
    ratio: float,
    mean_length: float,
) -> tuple[Bool[Tensor, "batch times bands"], int]:
    """Tokens to hide, and how many a whole sound has of them (0 where samples differ)."""
    (times, bands), rows = layout.grid, len(batch)
    can = tokens_of(sound.mask, layout).unflatten(1, layout.grid)
    if unit == "span":
        found = torch.zeros_like(can[:, :, 0])
        if ratio:
            draws = draw(batch, spec, times + 1)
            found = random_spans(draws, ratio=ratio, mean_length=mean_length)
        return repeat(found, "b t -> b t f", f=bands) & can, 0
    least = 1 if ratio else 0
    if unit == "band":
        count = max(least, int(bands * ratio))
        if bands == 1:
            raise ValueError("The encoder's tokens have one band, which would be all; mask times.")
        everywhere = torch.ones(rows, bands, dtype=torch.bool, device=can.device)
        many = torch.full((rows,), count, device=can.device)
        found = smallest(draw(batch, spec, bands), everywhere, many)
        return repeat(found, "b f -> b t f", t=times) & can, count * times
    flat = can.flatten(1) if unit == "patch" else can.any(2)
    many = (flat.sum(1) * ratio).long().clamp(min=least)
    if unit in ("block", "centre"):
        found = one_run(draw(batch, spec, 1) if unit == "block" else 0.5, flat, many)
    else:
        found = smallest(draw(batch, spec, flat.shape[1]), flat, many)
    count = max(least, int(flat.shape[1] * ratio))
    if unit != "patch":
        return repeat(found, "b t -> b t f", f=bands), count * bands
    return found.unflatten(1, layout.grid), count


def _over(
    chosen: Bool[Tensor, "batch times bands"], layout: Layout
) -> Bool[Tensor, "batch frames bands"]:
    """Frames and mel bands of tokens; those over a whole number of tokens belong to none."""
    (frames, bands), rows = layout.cell, len(chosen)
    whole = chosen.new_zeros(rows, layout.frames, layout.bands)
    wide = repeat(chosen, "b t f -> b (t p) (f q)", p=frames, q=bands)
    whole[:, : wide.shape[1], : wide.shape[2]] = wide
    return whole


def _band_stop(
    waveform: Float[Tensor, "batch samples"],
    start: Float[Tensor, "batch 1"],
    ratio: float,
    rate: int,
) -> Float[Tensor, "batch samples"]:
    """The waveform without the frequencies of a run of the mel scale."""
    samples = waveform.shape[1]
    hertz = torch.arange(samples // 2 + 1, device=waveform.device) * (rate / samples)
    mel = torch.log1p(hertz / 700) / torch.log1p(torch.tensor(rate / 2 / 700.0))
    first = start * (1 - ratio)
    is_cut = (mel >= first) & (mel < first + ratio)
    spectrum = torch.fft.rfft(waveform, dim=1).masked_fill(is_cut, 0)
    return torch.fft.irfft(spectrum, n=samples, dim=1)


__all__ = [
    "UNITS",
    "feature_cutoff",
    "frequency_mask",
    "mask_values",
    "span_cutoff",
    "token_cutoff",
]
