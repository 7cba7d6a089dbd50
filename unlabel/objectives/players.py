"""Two players in one pass, by one optimizer: each one's loss reaches its own parameters alone."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from unlabel.objectives.moments import exact


def unmoved(module: nn.Module, *seen: Tensor) -> Any:
    """What a module says of what it sees, which gets a gradient; its own parameters get none.

    Args:
        module: called as it is, buffers included.
        seen: its arguments.
    """
    held = {name: p.detach() for name, p in module.named_parameters()}
    return functional_call(module, held, seen)


def play(
    judge: nn.Module,
    real: tuple[Tensor, ...],
    made: tuple[Tensor, ...],
    *,
    both: bool = False,
) -> tuple[Float[Tensor, "verdicts"], Float[Tensor, "verdicts"]]:
    """What a round costs the judge and what it costs who made the samples, for each verdict.

    With D the judge's logit that a sample is real: the judge pays
    `softplus(-D(real)) + softplus(D(made))`, of samples without a gradient; the maker pays
    `softplus(-D(made))`, through a judge whose parameters have none. Their sum is the loss of one
    pass, and each player's gradient is what a pass of its own would have given. A judge that knows
    nothing costs 2 ln 2, and the maker then pays ln 2.

    Args:
        judge: gives a logit for each row, or several (of the parts of a picture).
        real: what it is to accept, all its arguments.
        made: what it is to refuse.
        both: what is real was made too (by an encoder), and its maker pays `softplus(D(real))`.

    Reference: Goodfellow et al. 2014, arXiv 1406.2661, section 3, the generator's loss that does
    not saturate; both: Donahue et al. 2017 (BiGAN), arXiv 1605.09782, section 3.
    """
    aside = lambda xs: [x.detach() for x in xs]  # noqa: E731
    told = F.softplus(-exact(judge(*aside(real)))) + F.softplus(exact(judge(*aside(made))))
    fooled = F.softplus(-exact(unmoved(judge, *made)))
    if both:
        fooled = fooled + F.softplus(exact(unmoved(judge, *real)))
    return told.flatten(), fooled.flatten()


__all__ = ["play", "unmoved"]
