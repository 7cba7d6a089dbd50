"""Views that take part of a window away: cutoffs after the input projection, and crops."""

from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from unlabel.core import Batch, ViewSpec, stream_of, uniform
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.series_masks import random_channels, smallest
from unlabel.modalities.series_window import Window
from unlabel.modalities.visible import narrowed


def token_cutoff(window: Window, batch: Batch, spec: ViewSpec, *, patch: int, **_: Any) -> Window:
    """Zero the vectors of `int(ratio * tokens)` random tokens after the input projection.

    The encoder still has a token there, as TS2Vec's timestamp masks.

    Args of the spec: ratio (default 0.1).

    Reference: Yue et al. 2022, arXiv 2106.10466, section 3.2; Shen et al. 2020, arXiv 2009.13818.
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    can = tokens_of(window, patch)
    scores = draw(batch, spec, can.shape[1])
    return _zero(window, smallest(scores, can, (can.sum(1) * ratio).long()), patch)


def span_cutoff(window: Window, batch: Batch, spec: ViewSpec, *, patch: int, **_: Any) -> Window:
    """Zero the vectors of one run of `int(ratio * tokens)` tokens.

    Args of the spec: ratio (default 0.1).
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    can = tokens_of(window, patch)
    count = can.sum(1)
    long = (count * ratio).long()
    start = (draw(batch, spec, 1)[:, 0] * (count - long + 1)).long()
    place = can.cumsum(1) - 1
    return _zero(window, can & (place >= start[:, None]) & (place < (start + long)[:, None]), patch)


def feature_cutoff(window: Window, batch: Batch, spec: ViewSpec, *, width: int, **_: Any) -> Window:
    """Zero `int(ratio * width)` embedding columns in every token of a sample.

    Args of the spec: ratio (default 0.1).
    """
    ratio = arguments(spec, ratio=0.1)["ratio"]
    scores = draw(batch, spec, width)
    cut = smallest(scores, scores >= 0, torch.full((len(scores),), int(width * ratio)).to(scores))
    return replace(window, keep_features=narrowed(window.keep_features, ~cut))


def channel_cutoff(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Hide `int(ratio * channels)` whole channels of the history, and ask for none.

    Args of the spec: ratio (default 0.25).
    """
    ratio = arguments(spec, ratio=0.25)["ratio"]
    if not ratio:
        return window
    cut = random_channels(window, batch, spec, int(ratio * window.values.shape[2]))
    steps = torch.arange(window.values.shape[1], device=cut.device) < window.history
    return replace(window, is_hidden=window.is_hidden | (cut[:, None, :] & steps[:, None]))


def crop(window: Window, batch: Batch, spec: ViewSpec, *, patch: int, **_: Any) -> Window:
    """Keep one random run of tokens and leave out `int(ratio * tokens)` others.

    The run becomes a shorter series of its own, at the end of the window: where it stood in the
    sample is not to be read off its positions.

    Args of the spec: ratio (default 0.5).
    """
    ratio = arguments(spec, ratio=0.5)["ratio"]
    exists = tokens_of(window, patch)
    count = exists.sum(1)
    # Of a sample that has no step before what is to be predicted nothing is kept.
    long = torch.minimum((count - (count * ratio).long()).clamp(min=1), count)
    first = exists.shape[1] - count + (draw(batch, spec, 1)[:, 0] * (count - long + 1)).long()
    return run(window, first, first + long, patch)


def overlap(window: Window, batch: Batch, spec: ViewSpec, *, patch: int, **_: Any) -> Window:
    """One of a pair of random runs of tokens that share a part; the target says where it is.

    Both runs of a sample share the same tokens, whatever `draw` their views have, and each comes
    at the end of its window. The target is the places of the shared tokens, `(batch, shared)`,
    in the same order in both.

    Args of the spec:
        side: `left` (the run ends with the shared part) or `right` (it begins with it).
        ratio: `int(ratio * tokens)` tokens are not shared (default 0.5).

    Reference: Yue et al. 2022, arXiv 2106.10466, section 3.2.
    """
    args = arguments(spec, side="left", ratio=0.5)
    if args["side"] not in ("left", "right"):
        raise ValueError(f"side of view 'overlap' is left or right, but {args['side']!r} came.")
    exists = tokens_of(window, patch)
    tokens = exists.shape[1]
    shared = max(1, tokens - int(tokens * args["ratio"]))
    # A stream without the view's draw: the two sides must agree.
    draws = uniform(batch.seed, batch.ordinal, stream_of("overlap"), 3)
    first = (draws[:, 0] * (tokens - shared + 1)).long()
    if args["side"] == "left":
        begin, end = (draws[:, 1] * (first + 1)).long(), first + shared
    else:
        begin = first
        end = first + shared + (draws[:, 2] * (tokens - first - shared + 1)).long()
    window = run(window, begin, end, patch)
    places = (first + tokens - end)[:, None] + torch.arange(shared, device=first.device)
    is_target = tokens_of(window, patch).gather(1, places)
    return replace(window, target=places, is_target=is_target)


def tokens_of(window: Window, patch: int) -> Bool[Tensor, "batch tokens"]:
    """True at tokens of the history that have a step that exists."""
    return rearrange(window.mask[:, : window.history], "b (l p) -> b l p", p=patch).any(2)


def _zero(window: Window, is_cut: Bool[Tensor, "batch tokens"], patch: int) -> Window:
    keep = torch.ones_like(window.mask) if window.keep_steps is None else window.keep_steps.clone()
    keep[:, : window.history] &= ~is_cut.repeat_interleave(patch, 1)
    return replace(window, keep_steps=keep)


def run(
    window: Window, begin: Int[Tensor, "batch"], end: Int[Tensor, "batch"], patch: int
) -> Window:
    """The tokens from `begin` up to `end` of each history, moved to its end."""
    steps = torch.arange(window.mask.shape[1], device=begin.device)[None, :]
    shift = window.history - end[:, None] * patch
    is_history = steps < window.history
    source = torch.where(is_history, steps - shift, steps)
    exists = ~is_history | (source >= begin[:, None] * patch)
    moved = window.take(source.clamp(min=0))
    return replace(
        moved,
        mask=moved.mask & exists,
        observed=moved.observed & exists[:, :, None],
        values=torch.where(exists[:, :, None], moved.values, 0),
    )


__all__ = [
    "channel_cutoff",
    "crop",
    "feature_cutoff",
    "overlap",
    "run",
    "span_cutoff",
    "token_cutoff",
    "tokens_of",
]
