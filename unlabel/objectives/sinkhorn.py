"""Sinkhorn's assignment of samples to prototypes, every prototype with an equal share of them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unlabel.objectives.gather import global_logsumexp
from unlabel.objectives.moments import exact


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "rows prototypes"],
    *,
    eps: float = 0.05,
    iterations: int = 3,
    is_counted: Bool[Tensor, "rows"] | None = None,
) -> Float[Tensor, "rows prototypes"]:
    """Soft assignments `exp(scores / eps)`, scaled in turn to equal columns and to rows of sum 1.

    Rows sum to 1, and with many iterations the columns over the N rows of all ranks to N/K. In
    log space, so no score overflows; no gradient. Equal scores give 1/K.

    Args:
        scores: of each row with each of the K prototypes.
        eps: smaller is sharper.
        iterations: of both scalings, columns first.
        is_counted: True at rows that have a share in the columns; None for all. A row that has
            none is assigned by the scales of the others.

    Raises:
        ValueError: eps or iterations are not positive.

    Reference: Caron et al. 2020 (SwAV), arXiv 2006.09882, section 3.1; Cuturi 2013, 1306.0895.
    """
    if not eps > 0 or iterations < 1:
        raise ValueError(
            f"sinkhorn needs eps > 0 and at least one iteration, but {eps} and {iterations} came."
        )
    log = exact(scores) / eps
    for _ in range(iterations):
        counted = log
        if is_counted is not None:
            counted = log.masked_fill(~is_counted[:, None], -torch.inf)
        log = (log - global_logsumexp(counted)).log_softmax(1)
    return log.exp()


__all__ = ["sinkhorn"]
