"""Views that show another side of a series: how it changes, and which frequencies it holds."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.draws import arguments
from unlabel.modalities.series_window import Window


def derivative(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Each value less the one a step before: how a series changes, and not where it lies.

    `d[t] = x[t] - x[t-1]`, as long as the window. The first step, and one after a gap or a hidden
    step, has none and is hidden. A line of slope a gives a everywhere. Nothing looks ahead.

    Args of the spec: order (how often the difference is taken, default 1; 0 leaves the series).

    Raises:
        ValueError: an order below 0.
    """
    order = arguments(spec, order=1)["order"]
    if order < 0:
        raise ValueError(f"derivative has an order of 0 or more, but {order} came.")
    for _time in range(order):
        before = F.pad(window.values, (0, 0, 1, 0))[:, :-1]
        follows = window.visible & F.pad(window.visible, (0, 0, 1, 0))[:, :-1]
        window = replace(
            window.change(window.values - before),
            is_hidden=window.is_hidden | (window.visible & ~follows),
        )
    return window


def spectrum(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """The amplitudes of the history's frequencies in place of its steps.

    Place k of T holds `2/n |sum_t (x[t] - mean) exp(-2 pi i k t / 2T)|` over the n values that are
    there: the frequency of k / 2T turns a step, from 0 to just below 1/2. As long as the history;
    a sine of amplitude a and period p has its highest place at 2T/p, of height a. Gaps, and what
    an earlier link hid, count as the mean; a short sample has all frequencies. Nothing is asked
    for any more, covariates of a time become 0, and a future stays as it is.

    Reference: Zhang et al. 2022 (TF-C), arXiv 2206.08496, section 4 (amplitudes as a side).
    """
    arguments(spec)
    now, known = window.history, window.known[:, : window.history]
    x = window.values[:, :now]
    count = known.sum(1, keepdim=True)
    mean = torch.where(known, x, 0).sum(1, keepdim=True) / count.clamp(min=1)
    there = torch.fft.rfft(torch.where(known, x - mean, 0), n=2 * now, dim=1)[:, :now]
    found = 2 * _length(there) / count.clamp(min=1)
    has = (count > 0).expand_as(found)
    swap = lambda old, new: torch.cat([new.to(old.dtype), old[:, now:]], 1)  # noqa: E731
    nothing = torch.zeros_like(has)
    covariates = window.covariates
    if covariates is not None:
        covariates = swap(covariates, torch.zeros_like(covariates[:, :now]))
    return replace(
        window,
        values=swap(window.values, found),
        observed=swap(window.observed, has),
        mask=swap(window.mask, has.any(2)),
        is_hidden=swap(window.is_hidden, nothing),
        is_asked=swap(window.is_asked, nothing),
        covariates=covariates,
        places=None,
    )


def _length(x: Tensor) -> Tensor:
    """Of complex numbers, with a gradient of 0 at 0."""
    power = x.real.square() + x.imag.square()
    return torch.where(power > 0, power, 1).sqrt() * (power > 0)


__all__ = ["derivative", "spectrum"]
