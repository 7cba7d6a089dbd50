"""Do a GPU's kernels work where they are? Tried once on a small problem, before they are used."""

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

logger = logging.getLogger(__name__)
_NEAR = 1e-2  # of the gradient, whose numbers have eleven bits


@cache
def works(sums: Any, device: torch.device) -> bool:
    """Whether kernels compile, run, and give what the blocks of `logsumexp.py` give.

    Args:
        sums: `ExpSums` of the kernels.
        device: to try them on.
    """
    from unlabel.objectives.logsumexp import _ExpSums

    try:
        found, wanted = _slopes(sums, device), _slopes(_ExpSums, device)
        off = max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))
        if off < _NEAR:
            return True
        why = f"their gradient is off by {off:.1e}"
    except Exception as error:  # a compiler's and a driver's errors have no class in common
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    logger.warning(
        "The loss's kernels do not work on this device (%s), so blocks of the library's products "
        "take their place: as exact, and slower.",
        why,
    )
    return False


@torch.inference_mode(False)
@torch.enable_grad()
def _slopes(sums: Any, device: torch.device) -> list[Tensor]:
    """Sums by row and by column of a problem of several blocks, and their gradients."""
    from unlabel.objectives.logsumexp import Exclude, _Plan

    draw = torch.Generator().manual_seed(0)
    rows, cols = (3 * normalize(torch.randn(n, 72, generator=draw)) for n in (300, 280))
    rows, cols = (x.to(device).requires_grad_() for x in (rows, cols))
    left_out = torch.arange(300, device=device) % 280
    plan = _Plan(Exclude((left_out,)), 0.0, False, (160, 256), (3.001, 3.001))
    by_row, by_col, _ = sums.apply(rows, cols, plan, True, None)
    total = by_row.log().sum() + by_col.log().sum()
    return [by_row.detach(), by_col.detach(), *torch.autograd.grad(total, (rows, cols))]


__all__ = ["works"]
