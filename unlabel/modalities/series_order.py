"""Views that change the order of steps; all channels move together."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.order import orders, reversed_steps, segment_order
from unlabel.modalities.series_cuts import run, tokens_of
from unlabel.modalities.series_masks import smallest
from unlabel.modalities.series_window import Window, mean_and_std
from unlabel.modalities.triples import draw_triple, is_told, options

UNITS = ("step", "segment", "window")


def reverse(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Turn samples round in time.

    Args of the spec: ratio (share of samples that are, default 1).
    """
    ratio = arguments(spec, ratio=1.0)["ratio"]
    turned = draw(batch, spec, 1) < ratio
    steps = torch.arange(window.mask.shape[1], device=turned.device)
    return window.take(torch.where(turned, reversed_steps(window.mask), steps))


def reorder(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Cut each sample into equal segments and put them in a random order, drawn evenly.

    Args of the spec:
        segments: how many, 2 to 5 (default 3).
        ask: make the order the target: the rank of the permutation among all, in lexicographic
            order; 0 leaves the sample as it was. Covariates then keep their places, or a clock
            among them would give the order away.

    Raises:
        ValueError: another number of segments.

    Reference: Eldele et al. 2021, arXiv 2106.14112 (permutation); Misra et al. 2016 (order).
    """
    args = arguments(spec, segments=3, ask=False)
    count = args["segments"]
    if count not in (2, 3, 4, 5):
        raise ValueError(f"reorder takes 2 to 5 segments, but {count} came; shuffle takes more.")
    rank = (draw(batch, spec, 1) * math.factorial(count)).long()
    index = segment_order(window.mask, orders(count, rank.device)[rank[:, 0]])
    window = window.take(index, clock=not args["ask"])
    return replace(window, target=rank) if args["ask"] else window


def shuffle(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Shuffle the window in time.

    Before `future` it moves steps between history and future.

    Args of the spec:
        unit: `window` moves overlapping runs of steps and averages where they meet (default);
            `segment` permutes equal segments; `step` permutes all steps, which leaves nothing to
            predict: a negative control.
        segments: how many (unit `segment`, default 4).
        length: steps of a run (unit `window`, default 72).
        stride: steps from run to run (unit `window`, default 12).
        share: of runs that move, those with the least variance (unit `window`, default 0.5).

    Reference: Temporal Patch Shuffle, arXiv 2604.09067.
    """
    args = arguments(spec, unit="window", segments=4, length=72, stride=12, share=0.5)
    if args["unit"] == "step":
        draws = draw(batch, spec, window.mask.shape[1])
        return window.take(permute(window.mask, draws))
    if args["unit"] == "segment":
        order = draw(batch, spec, args["segments"]).argsort(dim=1, stable=True)
        return window.take(segment_order(window.mask, order))
    if args["unit"] != "window":
        raise ValueError(f"shuffle has no unit {args['unit']!r}; choose one of {', '.join(UNITS)}.")
    if not args["share"]:
        return window
    return _shuffle_runs(window, batch, spec, args["length"], args["stride"], args["share"])


def triple(window: Window, batch: Batch, spec: ViewSpec, *, patch: int, **_: Any) -> Window:
    """One of three segments that come in the order of time or not; the target says whether.

    Five segments are drawn, those with much change from step to step more often. Each becomes a
    short series of its own at the end of the window. The three views of one draw belong together.
    No target (`is_target` False) where fewer than five segments exist, or where a and c, or c and
    e, look alike: the mean squared difference of their values, in standard deviations of the
    window, is not above `unlike`.

    Args of the spec:
        place: which of the three, 0 to 2 (default 0).
        negatives: share of triples that are not in order (default 0.75).
        unlike: see above (default 1e-4).
        segments: that the window is cut into (default 8).

    Raises:
        ValueError: a window has no five segments of a token or more.

    Reference: Misra et al. 2016, arXiv 1603.08561, section 3.
    """
    args = options(spec, segments=8)
    exists = tokens_of(window, patch)
    segments, tokens = int(args["segments"]), exists.shape[1]
    long = tokens // segments
    if segments < 5 or not long:
        raise ValueError(
            f"View 'triple' draws five of {segments} segments of whole tokens, but a window has "
            f"{tokens} tokens: give 5 to {tokens} segments."
        )
    first = tokens - segments * long  # tokens before it lie in no segment
    mean, scale = mean_and_std(window.values, window.known)
    values = torch.where(window.known, (window.values - mean) / scale, 0)[:, : window.history]
    parts = rearrange(values[:, first * patch :], "b (s t) c -> b s (t c)", s=segments)
    # Into and out of a gap nothing changes.
    known = window.known[:, : window.history]
    steps = values.diff(dim=1).abs() * (known[:, 1:] & known[:, :-1])
    change = F.pad(steps.mean(2), (1, 0))[:, first * patch :]
    can = rearrange(exists[:, first:], "b (s l) -> b s l", s=segments).all(2)
    picked = draw_triple(
        batch,
        spec,
        rearrange(change, "b (s t) -> b s t", s=segments).mean(2),
        can,
        place=int(args["place"]),
        negatives=args["negatives"],
    )
    begin = first + picked.chosen * long
    told = is_told(parts, picked, args["unlike"]) & (can.sum(1, keepdim=True) >= 5)
    shown = run(window, begin, begin + long, patch)
    return replace(shown, target=picked.target, is_target=told)


def _shuffle_runs(
    window: Window, batch: Batch, spec: ViewSpec, length: int, stride: int, share: float
) -> Window:
    steps = window.values.shape[1]
    length = min(length, steps)
    count = (steps - length) // stride + 1
    first = steps - (count - 1) * stride - length  # steps before it lie in no run
    runs = lambda x: x[:, first:].unfold(1, length, stride)  # noqa: E731
    mean, scale = mean_and_std(window.values, window.known)
    seen = runs(window.visible)  # (batch, runs, channels, length)
    values = torch.where(seen, runs((window.values - mean) / scale), 0)
    spread = _variance(values, seen).mean(2)
    can = runs(window.mask).all(2)
    chosen = smallest(spread, can, (can.sum(1) * share).long())
    index = permute(chosen, draw(batch, spec, count))[:, :, None, None]
    moved, there = (x.gather(1, index.expand_as(x)) for x in (values, seen.to(values.dtype)))
    fold = lambda x: rearrange(  # noqa: E731
        F.fold(
            rearrange(x, "b n c l -> b (c l) n"),
            (1, steps - first),
            (1, length),
            stride=(1, stride),
        ),
        "b c 1 t -> b t c",
    )
    total, weight = fold(moved * there), fold(there)
    found = torch.where(weight > 0, total / weight.clamp(min=1), values.new_zeros(()))
    old = window.values[:, first:]
    new = torch.where(weight > 0, found * scale + mean, old)
    return window.change(torch.cat([window.values[:, :first], new], 1))


def _variance(
    values: Float[Tensor, "*rows length"], seen: Bool[Tensor, "*rows length"]
) -> Float[Tensor, "*rows"]:
    count = seen.sum(-1, keepdim=True).clamp(min=1)
    mean = values.sum(-1, keepdim=True) / count
    return (torch.where(seen, values - mean, 0).square().sum(-1, keepdim=True) / count)[..., 0]


def inverse(index: Int[Tensor, "batch steps"]) -> Int[Tensor, "batch steps"]:
    """The order that undoes an order."""
    return index.argsort(1)


def permute(
    can: Bool[Tensor, "batch n"], draws: Float[Tensor, "batch n"]
) -> Int[Tensor, "batch n"]:
    """Where each place takes its content from: a random permutation of those that `can` move."""
    places = (~can).long().argsort(dim=1, stable=True)
    sources = draws.masked_fill(~can, torch.inf).argsort(dim=1, stable=True)
    return torch.zeros_like(places).scatter(1, places, sources)


__all__ = [
    "inverse",
    "permute",
    "reorder",
    "reverse",
    "shuffle",
    "triple",
]
