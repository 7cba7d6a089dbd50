"""A view's arguments, and random numbers that belong to the samples; for every modality."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec, uniform
from unlabel.core import normal as normal_of


def draw(batch: Batch, spec: ViewSpec, count: int, use: int = 0) -> Float[Tensor, "batch count"]:
    """Uniform numbers that belong to the samples; `use` tells apart the draws of one view."""
    return uniform(batch.seed, batch.ordinal, 8 * spec.stream + use, count)


def normal(batch: Batch, spec: ViewSpec, count: int, use: int = 0) -> Float[Tensor, "batch count"]:
    """Numbers of the standard normal distribution, likewise."""
    return normal_of(batch.seed, batch.ordinal, 8 * spec.stream + use, count)


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
