"""Orders of steps, of whatever kind of data: where each step of a sample comes from."""

import itertools

import torch
from jaxtyping import Bool, Int
from torch import Tensor


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


__all__ = ["orders", "reversed_steps", "segment_order"]
