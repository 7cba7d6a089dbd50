"""Views that choose and order the frames of a clip."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Clip
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.order import orders, reversed_steps, segment_order
from unlabel.modalities.visual_fit import middle, pick
from unlabel.modalities.visual_geometry import random_start

PLACES = ("random", "middle", "first")


def reverse(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """Turn samples round in time.

    Args of the spec: ratio (share of samples that are, default 1), ask (make it the target whether
        a sample was, 0 or 1; default False).

    Reference: the arrow of time: Wei et al. 2018 (CVPR), section 3.
    """
    args = arguments(spec, ratio=1.0, ask=False)
    turned = draw(batch, spec, 1) < args["ratio"]
    times = torch.arange(clip.mask.shape[1], device=turned.device)
    clip = _take(clip, torch.where(turned, reversed_steps(clip.mask), times))
    return replace(clip, target=turned.long()) if args["ask"] else clip


def reorder(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """Cut each clip into equal segments and put them in a random order, drawn evenly.

    Args of the spec:
        segments: how many, 2 to 5 (default 3).
        ask: make the order the target: the rank of the permutation among all, in lexicographic
            order; 0 leaves the clip as it was.

    Raises:
        ValueError: another number of segments, or fewer frames than segments.

    Reference: Xu et al. 2019 (clip order), CVPR, section 3; Lee et al. 2017, arXiv 1708.01246.
    """
    args = arguments(spec, segments=3, ask=False)
    count, times = args["segments"], clip.mask.shape[1]
    if count not in (2, 3, 4, 5) or count > times:
        raise ValueError(
            f"reorder takes 2 to 5 segments of at least a frame, but {count} of {times} frames "
            "came."
        )
    rank = (draw(batch, spec, 1) * math.factorial(count)).long()
    clip = _take(clip, segment_order(clip.mask, orders(count, rank.device)[rank[:, 0]]))
    return replace(clip, target=rank) if args["ask"] else clip


def frames(clip: Clip, batch: Batch, spec: ViewSpec, *, frames: int, **_: Any) -> Clip:
    """Take some frames of the sample, equally far apart.

    Args of the spec:
        count: how many (default as many as the encoder takes).
        stride: frames from one to the next (default 1).
        place: of the run in the sample, `random` (default), `middle` or `first`.

    Raises:
        ValueError: another place, or a count or stride below 1.
    """
    args = arguments(spec, count=frames, stride=1, place="random")
    count, stride, place = args["count"], args["stride"], args["place"]
    if place not in PLACES or count < 1 or stride < 1:
        raise ValueError(
            f"frames needs a count and a stride of at least 1 and a place of {', '.join(PLACES)}, "
            f"but {count}, {stride} and {place!r} came."
        )
    long = (count - 1) * stride + 1
    if place == "random":
        start = random_start(clip, batch, spec, long, use=0)
    else:
        start = middle(clip.mask, long)[:, :1] if place == "middle" else clip.mask.new_zeros(1, 1)
    steps = torch.arange(0, long, stride, device=clip.mask.device)
    return pick(clip, (start.long() + steps).expand(len(clip.mask), -1))


def speed(clip: Clip, batch: Batch, spec: ViewSpec, *, frames: int, **_: Any) -> Clip:
    """Play each sample at a random speed: every n-th frame, from a random start.

    Args of the spec:
        speeds: frames from one to the next (default 1 and 2).
        count: frames of the result (default as many as the fastest finds in the encoder's).
        ask: make the place of the drawn speed among them the target (default False).

    Raises:
        ValueError: a speed below 1, or fewer than two frames would come out.

    Reference: Benaim et al. 2020 (SpeedNet), arXiv 2004.06130, section 3; Wang et al. 2020, arXiv
    2008.05861 (several paces).
    """
    args = arguments(spec, speeds=(1, 2), count=0, ask=False)
    speeds = tuple(args["speeds"])
    count = args["count"] or -(-frames // max(speeds))
    if min(speeds) < 1 or count < 2:
        raise ValueError(
            f"speed takes at least two frames of the fastest of its speeds, but of {speeds} it "
            f"finds {count} in {frames}; give a count."
        )
    which = (draw(batch, spec, 1) * len(speeds)).long()
    pace = torch.tensor(speeds, device=which.device)[which]
    long = (count - 1) * pace + 1
    room = (clip.mask.sum(1, keepdim=True) - long).clamp(min=0) + 1
    start = (draw(batch, spec, 1, use=1) * room).long()
    clip = pick(clip, start + pace * torch.arange(count, device=pace.device))
    return replace(clip, target=which) if args["ask"] else clip


def _take(clip: Clip, index: Int[Tensor, "batch times"]) -> Clip:
    """Whole frames in another order; padding stays at the end."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    picked = clip.picked
    if picked is not None and picked.shape == index.shape:
        picked = picked.gather(1, index)
    return replace(clip, frames=clip.frames[rows, index], picked=picked)


__all__ = ["PLACES", "frames", "reorder", "reverse", "speed"]
