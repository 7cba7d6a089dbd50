"""Orders of steps, of whatever kind of data: where each step of a sample comes from."""

import functools
import itertools
import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch._compile import _disable_dynamo


def reversed_steps(mask: Bool[Tensor, "batch steps"]) -> Int[Tensor, "batch steps"]:
    """Where each step comes from when the existing ones are turned round in time."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    # The existing steps are one run: samples are padded at one end, series at the left.
    first, count = mask.long().argmax(1, keepdim=True), mask.sum(1, keepdim=True)
    return torch.where(mask, 2 * first + count - 1 - steps, steps)


def orders(segments: int, device: torch.device | str = "cpu") -> Int[Tensor, "orders segments"]:
    """All permutations of a number of segments, in lexicographic order."""
    return torch.tensor(list(itertools.permutations(range(segments))), device=device)


def segment_order(
    mask: Bool[Tensor, "batch steps"], order: Int[Tensor, "batch segments"]
) -> Int[Tensor, "batch steps"]:
    """Where each step comes from when equal segments of the existing steps take an order."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    count, segments = mask.sum(1, keepdim=True), order.shape[1]
    bounds = count * torch.arange(segments + 1, device=mask.device) // segments
    sizes = bounds.diff(dim=1).gather(1, order)
    ends = sizes.cumsum(1)
    first = mask.long().argmax(1, keepdim=True)
    place = (steps - first).clamp(min=0)
    segment = torch.searchsorted(ends, place, right=True).clamp(max=segments - 1)
    source = bounds.gather(1, order.gather(1, segment)) + place - (ends - sizes).gather(1, segment)
    return torch.where(mask, first + source, steps)


@_disable_dynamo  # a table that is made once, see `opaque` of the objectives
@functools.cache
def distant_orders(places: int, count: int) -> Int[Tensor, "count places"]:
    """Orders that lie far apart, the first one the identity.

    Each next one has the greatest Hamming distance from the nearest chosen before it; of several,
    the greatest sum of distances from all of them, then the first in lexicographic order.

    Args:
        places: 2 to 9.
        count: of orders, 2 to `places!`.

    Raises:
        ValueError: other numbers.

    Reference: Noroozi & Favaro 2016, arXiv 1603.09246, algorithm 1, which takes the sum alone: its
    100 orders of 9 places are 2 apart at the nearest, these 6, at the same mean (8.08).
    """
    if not 2 <= places <= 9 or not 2 <= count <= math.factorial(places):
        raise ValueError(
            f"Orders that lie far apart are 2 or more, of 2 to 9 places, but {count} orders of "
            f"{places} places came; there are places! in all."
        )
    every = orders(places).to(torch.int8).T.contiguous()
    total = torch.zeros(every.shape[1], dtype=torch.int32)
    least, chosen = torch.full_like(total, places), [0]
    while len(chosen) < count:
        apart = (every != every[:, chosen[-1], None]).sum(0, dtype=torch.int32)
        total, least = total + apart, torch.minimum(least, apart)
        # A chosen one is nearest to itself, at 0.
        chosen.append(int((least * (places * count) + total).argmax()))
    return every[:, chosen].T.long()


__all__ = ["distant_orders", "orders", "reversed_steps", "segment_order"]
