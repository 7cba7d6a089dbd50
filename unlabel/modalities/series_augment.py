"""Views that change a series: order, filters, noise, frequencies."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def reversed_steps(mask: Bool[Tensor, "batch steps"]) -> Int[Tensor, "batch steps"]:
    """Where each step comes from when the existing ones are turned round in time."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    # Samples are padded at the left, so the existing steps are the last ones.
    first = (~mask).sum(1, keepdim=True)
    return torch.where(mask, first + mask.shape[1] - 1 - steps, steps)


__all__ = ["reversed_steps"]
