"""Views that change what a series says: filters, noise, scale and frequencies.

They change values that the encoder sees, by statistics of the history alone: what a mask before
them hid stays as it was, and so does a future that was split off.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.draws import arguments, draw, normal
from unlabel.modalities.series_masks import smallest
from unlabel.modalities.series_window import Window, mean_and_std


def jitter(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Add Gaussian noise of a strength drawn for each sample, log-uniform.

    Put it after `future`, else what is to be predicted is noised too.

    Args of the spec: low and high (defaults 0.01 and 0.5), in units of each channel's own std.

    Raises:
        ValueError: low and high are no range of positive numbers.
    """
    args = arguments(spec, low=0.01, high=0.5)
    low, high = args["low"], args["high"]
    if high == 0:
        return window
    if not 0 < low <= high:
        raise ValueError(f"jitter needs 0 < low <= high, but low is {low} and high is {high}.")
    sigma = low * (high / low) ** draw(batch, spec, 1)
    steps, channels = window.values.shape[1:]
    noise = normal(batch, spec, steps * channels, use=1) * sigma
    noise = rearrange(noise, "b (t c) -> b t c", c=channels).to(window.values)
    return window.change(window.values + noise * _std(window))


def scaling(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Multiply each channel by a factor drawn from N(1, sigma).

    Norm `standard` and `last` take the factor out again, all but its sign: it is for norm `none`.

    Args of the spec: sigma (default 0.1).
    """
    sigma = arguments(spec, sigma=0.1)["sigma"]
    factor = 1 + sigma * normal(batch, spec, window.values.shape[2])
    return window.change(window.values * factor[:, None].to(window.values))


def random_conv(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Blend each channel with a random causal filter of itself: `(1 - blend) x + blend conv(x)`.

    Kernels are fresh for each sample and channel, of a size drawn for each sample; their sign is
    such that the filter does not turn the series upside down. Mean and std of the history are
    restored, so a linear filter of history and future it stays. Gaps are left out of the sums
    (normalised convolution), and so is what lies before the window.

    Args of the spec: kernels (sizes, default 1, 3, 5, 7) and blend (default 0.5).

    Reference: Xu et al. 2021, arXiv 2007.13003; Knutsson and Westin 1993 for gaps.
    """
    args = arguments(spec, kernels=(1, 3, 5, 7), blend=0.5)
    sizes, blend = torch.tensor(args["kernels"], device=batch.ordinal.device), args["blend"]
    if not blend:
        return window
    channels, longest = window.values.shape[2], max(args["kernels"])
    size = sizes[(draw(batch, spec, 1) * len(sizes)).long()]
    weights = normal(batch, spec, channels * longest, use=1)
    weights = rearrange(weights, "b (c k) -> b c k", c=channels)
    weights = weights * (torch.arange(longest, device=size.device) < size)[:, None, :]
    x = _standard(window.values, window.known)
    y = _standard(causal_filter(x, window.visible, weights.to(x)), window.known)
    agree = torch.where(window.known, x * y, 0).sum(1, keepdim=True)
    mixed = _standard((1 - blend) * x + blend * torch.where(agree < 0, -y, y), window.known)
    mean = mean_and_std(window.values, window.known)[0]
    return window.change(mixed * _std(window) + mean)


def causal_filter(
    x: Float[Tensor, "batch steps channels"],
    visible: Bool[Tensor, "batch steps channels"],
    weights: Float[Tensor, "batch channels kernel"],
) -> Float[Tensor, "batch steps channels"]:
    """`sum_j w_j x[t - j]`, each sample and channel with its own kernel, over what is visible.

    Where terms are missing the rest is scaled up by the share of absolute weight that is there.
    """
    reach = weights.shape[2]

    def convolve(signal: Tensor, kernel: Tensor) -> Tensor:
        taps = F.pad(signal, (0, 0, reach - 1, 0)).unfold(1, reach, 1)
        return torch.einsum("btck,bck->btc", taps, kernel.flip(2))

    total = weights.abs().sum(2)[:, None, :]
    there = convolve(visible.to(x.dtype), weights.abs())
    found = convolve(torch.where(visible, x, 0), weights)
    return torch.where(there > 0, found * total / torch.where(there > 0, there, 1), 0)


def frequency_mask(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Remove `int(ratio * bins)` random frequencies of the window, never its mean.

    Before `future` it acts on history and future together, as published: every step of a filtered
    series owes something to every other.

    Args of the spec: ratio (default 0.1).

    Reference: Chen et al. 2023, arXiv 2302.09292 (FrAug), section 3.
    """
    return _frequencies(window, batch, spec, mix=False)


def frequency_mix(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Take `int(ratio * bins)` random frequencies from the next sample of the batch.

    The one view whose result depends on the batch: which frequencies is the sample's own draw,
    but whose they are is not. Each side is in units of its own std.

    Args of the spec: ratio (default 0.1).

    Reference: Chen et al. 2023, arXiv 2302.09292 (FrAug), section 3.
    """
    return _frequencies(window, batch, spec, mix=True)


def _frequencies(window: Window, batch: Batch, spec: ViewSpec, *, mix: bool) -> Window:
    ratio = arguments(spec, ratio=0.1)["ratio"]
    if not ratio:
        return window
    steps = window.values.shape[1]
    x = torch.where(window.visible, _standard(window.values, window.known), 0)
    spectrum = torch.fft.rfft(x, dim=1)
    bins = spectrum.shape[1] - 1  # all but the mean
    scores = draw(batch, spec, bins)
    count = torch.full((len(scores),), int(ratio * bins), device=scores.device)
    chosen = F.pad(smallest(scores, scores >= 0, count), (1, 0))
    other = spectrum.roll(-1, 0) if mix else torch.zeros_like(spectrum)
    spectrum = torch.where(repeat(chosen, "b f -> b f 1"), other, spectrum)
    mean = mean_and_std(window.values, window.known)[0]
    return window.change(torch.fft.irfft(spectrum, n=steps, dim=1) * _std(window) + mean)


def _standard(values: Tensor, known: Tensor) -> Tensor:
    mean, scale = mean_and_std(values, known)
    return (values - mean) / scale


def _std(window: Window) -> Float[Tensor, "batch 1 channels"]:
    """The history's std as it is: 0 for a constant channel, which shall stay constant."""
    known = window.known
    mean, scale = mean_and_std(window.values, known)
    power = torch.where(known, window.values - mean, 0).square().sum(1, keepdim=True)
    flat = power <= 1e-10 * torch.where(known, window.values, 0).square().sum(1, keepdim=True)
    return torch.where(flat, 0, scale)


__all__ = [
    "causal_filter",
    "frequency_mask",
    "frequency_mix",
    "jitter",
    "random_conv",
    "scaling",
]
