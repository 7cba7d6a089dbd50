"""Views that show the encoder less: masks, cutoffs, crops, and the future split off."""

from dataclasses import replace
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.series_window import Window

UNITS = ("step", "span", "patch", "channel", "block", "centre")


def smallest(
    scores: Float[Tensor, "batch n"], can: Bool[Tensor, "batch n"], count: Tensor
) -> Bool[Tensor, "batch n"]:
    """True at the `count` smallest scores of each row where it `can`: without replacement."""
    rank = (
        scores.masked_fill(~can, torch.inf).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    )
    return (rank < count[:, None]) & can


def random_spans(
    draws: Float[Tensor, "rows columns"], *, ratio: float, mean_length: float
) -> Bool[Tensor, "rows steps"]:
    """True on runs of random length that cover a share of the steps on average.

    Runs and the gaps between them have geometric lengths; the run length is `mean_length`, or as
    much longer as a high ratio needs for gaps of at least one step.

    Args:
        draws: uniform, one column more than steps.
        ratio: expected share of steps inside a run, below 1.
        mean_length: mean length of a run, in steps.

    Reference: Zerveas et al. 2021, arXiv 2010.02803, section 3.2.
    """
    first, rest = draws[:, :1], draws[:, 1:]
    steps = rest.shape[1]
    inside = max(mean_length, ratio / (1 - ratio), 1.0)
    outside = inside * (1 - ratio) / ratio
    starts_inside = (first < ratio).long()
    is_inside = (torch.arange(steps, device=draws.device) + starts_inside) % 2 == 1
    stop = torch.where(is_inside, 1 / inside, 1 / outside).clamp(max=1 - 1e-6)
    lengths = 1 + (torch.log1p(-rest) / torch.log1p(-stop)).floor().long()
    ends = lengths.cumsum(1)
    place = torch.arange(steps, device=draws.device).expand(len(draws), -1).contiguous()
    run = torch.searchsorted(ends, place, right=True)
    return (run + starts_inside) % 2 == 1


def one_run(
    start: Float[Tensor, "batch 1"] | float,
    can: Bool[Tensor, "batch n"],
    count: Int[Tensor, "batch"],
) -> Bool[Tensor, "batch n"]:
    """True on one run of `count` places among those that `can`.

    Args:
        start: where it begins, from 0 (the first place) to below 1 (as late as it fits).
        can: True where a place exists; padding may lie at either end.
        count: places.
    """
    place, room = can.cumsum(1) - 1, can.sum(1, keepdim=True) - count[:, None] + 1
    first = (start * room).long()
    return can & (place >= first) & (place < first + count[:, None])


def plain(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """The series as it is; two draws of it differ by the encoder's dropout alone."""
    arguments(spec)
    return window


def future(window: Window, batch: Batch, spec: ViewSpec, **_: Any) -> Window:
    """Split off what follows the history, to be predicted.

    As `past` the sample is turned round in time before the first link of its chain, so that what
    is predicted came before what is seen, and every other link acts in that order too.

    Args of the spec:
        horizon: steps; how long the window is was settled when it was made.
        weigh: power of its scale that a window's future counts with (default 0): errors of
            normalised values, times the scale's square, are squared errors in the data's units.
    """
    return replace(window.split(), weigh=arguments(spec, horizon=0, weigh=0)["weigh"])


def mask_values(window: Window, batch: Batch, spec: ViewSpec, *, patch: int, **_: Any) -> Window:
    """Hide values and ask for them.

    A link before it that mixes steps (`random_conv`, `frequency_mask`, ...) has mixed a hidden
    step into its neighbours already: put such links after it.

    Args of the spec:
        unit: `step` and `patch` hide an exact share of steps or tokens, at least one; `span` runs
            of steps, a share on average; `channel` an exact share of channels, as a whole;
            `block` one run of tokens, of all channels, and `centre` the one in the middle, an exact
            share too.
        ratio: the share (default 0.4).
        mean_length: of a span, in steps (default 3).
        together: all channels at the same steps, else each at its own (default).
        drop: leave the hidden patches out of the view, so that the encoder sees the visible ones
            only (MAE); then all channels go together.

    Raises:
        ValueError: another unit than `patch` is to be left out.
    """
    args = arguments(spec, unit="patch", ratio=0.4, mean_length=3, together=False, drop=False)
    if drops := args.pop("drop"):
        if args["unit"] != "patch":
            raise ValueError(f"Only whole patches can be dropped, but unit is {args['unit']!r}.")
        args["together"] = True
    tokens = window.history // patch
    hidden = _hidden(window, batch, spec, patch, **args)
    return replace(
        window,
        is_hidden=window.is_hidden | hidden,
        is_asked=window.is_asked | hidden,
        asks=True,
        # As many as a whole window leaves visible; a shorter sample leaves fewer.
        keeps=tokens - max(1, int(tokens * args["ratio"])) if drops else None,
    )


def hide(window: Window, batch: Batch, spec: ViewSpec, *, patch: int, **_: Any) -> Window:
    """Hide random spans of the history and do not ask for them (predict the future from the rest).

    Args of the spec: ratio (expected share, default 0.2), mean_length (steps, default 12),
        together (all channels at the same steps, default False).
    """
    args = arguments(spec, ratio=0.2, mean_length=12, together=False)
    hidden = _hidden(window, batch, spec, patch, unit="span", **args)
    return replace(window, is_hidden=window.is_hidden | hidden)


def _hidden(
    window: Window,
    batch: Batch,
    spec: ViewSpec,
    patch: int,
    *,
    unit: str,
    ratio: float,
    mean_length: float,
    together: bool,
) -> Bool[Tensor, "batch steps channels"]:
    """Which values of the history to hide."""
    if unit not in UNITS:
        raise ValueError(f"Masks have no unit {unit!r}; choose one of {', '.join(UNITS)}.")
    if ratio == 1:
        raise ValueError(f"View {spec.name!r} would hide everything; ratio must be below 1.")
    hidden = torch.zeros_like(window.is_hidden)
    if ratio == 0:
        return hidden
    rows, now, channels = len(batch), window.history, window.values.shape[2]
    exists = window.mask[:, :now]
    if unit == "channel":
        is_in = random_channels(window, batch, spec, max(1, int(ratio * channels)))
        hidden[:, :now] = is_in[:, None, :] & exists[:, :, None]
        return hidden
    kinds = 1 if together else channels
    if unit in ("block", "centre"):
        can = rearrange(exists, "b (l p) -> b l p", p=patch).any(2)
        start = draw(batch, spec, 1) if unit == "block" else 0.5
        run = one_run(start, can, (can.sum(1) * ratio).long().clamp(min=1))
        chosen = repeat(run, "b l -> b (l p) 1", p=patch)
    elif unit == "span":
        draws = draw(batch, spec, kinds * (now + 1))
        spans = random_spans(
            rearrange(draws, "b (c n) -> (b c) n", c=kinds), ratio=ratio, mean_length=mean_length
        )
        chosen = rearrange(spans, "(b c) t -> b t c", b=rows)
    else:
        size = patch if unit == "patch" else 1
        can = rearrange(exists, "b (l p) -> b l p", p=size).any(2)
        count = (can.sum(1) * ratio).long().clamp(min=1)
        scores = rearrange(draw(batch, spec, kinds * can.shape[1]), "b (c l) -> (b c) l", c=kinds)
        each = lambda x: x.repeat_interleave(kinds, 0)  # noqa: E731
        picked = smallest(scores, each(can), each(count))
        chosen = repeat(picked, "(b c) l -> b (l p) c", b=rows, p=size)
    hidden[:, :now] = chosen & exists[:, :, None]
    return hidden


def random_channels(
    window: Window, batch: Batch, spec: ViewSpec, count: int
) -> Bool[Tensor, "batch channels"]:
    """A random `count` of the channels of each sample."""
    channels = window.values.shape[2]
    if channels == 1:
        raise ValueError(
            f"View {spec.name!r} hides whole channels, but each sample has one; read the channels "
            "together (channels: together) or hide steps."
        )
    scores = draw(batch, spec, channels)
    everywhere = torch.ones_like(scores, dtype=torch.bool)
    return smallest(scores, everywhere, scores.new_full((len(scores),), count))


__all__ = [
    "UNITS",
    "future",
    "hide",
    "mask_values",
    "one_run",
    "plain",
    "random_channels",
    "random_spans",
    "smallest",
]
