"""A view's arguments, and random numbers that belong to the samples; for every modality."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec, uniform


def draw(batch: Batch, spec: ViewSpec, count: int, use: int = 0) -> Float[Tensor, "batch count"]:
    """Uniform numbers that belong to the samples; `use` tells apart the draws of one view."""
    return uniform(batch.seed, batch.ordinal, 8 * spec.stream + use, count)


def normal(batch: Batch, spec: ViewSpec, count: int, use: int = 0) -> Float[Tensor, "batch count"]:
    """Numbers of the standard normal distribution, likewise."""
    # The draws are multiples of 2**-24; the smallest is 0, which would be minus infinity.
    return torch.special.ndtri(draw(batch, spec, count, use).clamp(min=2.0**-25))


def arguments(spec: ViewSpec, **defaults: Any) -> dict[str, Any]:
    """The view's arguments over its defaults.

    Raises:
        ValueError: an argument that the view does not have, or a share outside 0 to 1.
    """
    given = dict(spec.args)
    if unknown := sorted(set(given) - set(defaults)):
        has = ", ".join(defaults) or "none"
        raise ValueError(f"View {spec.name!r} has no {', '.join(unknown)}; its arguments: {has}.")
    for name in {"ratio", "share", "blend"} & set(given):
        if not 0 <= given[name] <= 1:
            raise ValueError(
                f"{name} of view {spec.name!r} is a share from 0 to 1, but {given[name]} came."
            )
    return {**defaults, **given}


__all__ = ["arguments", "draw", "normal"]
