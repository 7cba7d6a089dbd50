"""Where a fine-tuned network starts from: closed-form ridges as its head, and their penalty."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unlabel.benchmarks.forecast_ridge import ALPHAS
from unlabel.benchmarks.ridge import Linear
from unlabel.core import Batch, Encoding, View
from unlabel.objectives import Forecast, ForecastHead, Term

STIFFEST = max(ALPHAS["ltsf"])  # the penalty of weights that a ridge does not have
Heads = Mapping[int, Sequence[Linear]]  # ridges, by horizon; one for all channels or one for each


class RidgeForecast(Forecast):
    """Forecast with the penalty of the ridge that its head starts from.

    The head's start is the minimum of loss and penalty while the encoder stays as it is, so that
    training has something to gain from the encoder alone. Without it, the first steps undo what
    the ridge's alpha was chosen for.

    Args:
        penalty: of the head's squared weights, for each or for a feature; None for none.
        options: as for `Forecast`.
    """

    penalty: Tensor

    def __init__(
        self, *, penalty: Float[np.ndarray, "*outputs features"] | None = None, **options: Any
    ):
        super().__init__(**options)
        given = np.zeros(1) if penalty is None else penalty
        self.register_buffer("penalty", torch.tensor(given, dtype=torch.float32), persistent=False)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Two terms, `forecast` and `ridge`."""
        ridge = (self.penalty * self.head.linear.weight.square()).sum()
        return {**super().forward(encodings, views, batch), "ridge": Term(ridge)}


def start_head(head: ForecastHead, ridges: Sequence[Linear]) -> None:
    """Give a head the weights of closed-form regressions on its features.

    Args:
        head: of one value a step.
        ridges: one for each channel of the head, to all of its horizon; of the window's values,
            if the head reads them, each has those of its channel.
    """
    weight = np.stack([r.weight for r in ridges], axis=-1)
    bias = np.stack([r.bias for r in ridges], axis=-1)
    own = np.einsum("fhc,cd->fdhc", weight[: head.values], np.eye(head.channels))
    weight = np.concatenate([rearrange(own, "f d h c -> (f d) h c"), weight[head.values :]])
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(rearrange(weight, "f h c -> (h c) f")))
        head.linear.bias.copy_(torch.from_numpy(rearrange(bias, "h c -> (h c)")))


def stitched(heads: Heads) -> list[Linear]:
    """Ridges to the longest horizon: a step's weights are those of the shortest that has it."""

    def one(group: int) -> Linear:
        parts = [(heads[h][group], steps) for h, steps in _first_of(heads)]
        weight = np.concatenate([fit.weight[:, steps] for fit, steps in parts], axis=1)
        return Linear(weight, np.concatenate([fit.bias[steps] for fit, steps in parts]))

    return [one(group) for group in range(len(heads[max(heads)]))]


def ridge_penalty(
    heads: Heads, *, values: int, channels: int
) -> Float[np.ndarray, "outputs features"]:
    """The penalties of the ridges that start a head, for each of its weights.

    Features that validation gave no weight have a penalty that keeps them near none.

    Args:
        heads: ridges, by horizon; channels alike.
        values: features that are the window's own values.
        channels: of the head, which reads the values of all.
    """
    rows = []
    for h, steps in _first_of(heads):
        ridge = heads[h][0]
        own = np.minimum(ridge.penalty, STIFFEST)
        row = np.concatenate([np.repeat(own[:values], channels), own[values:]])
        rows.append(np.tile(row, ((steps.stop - steps.start) * channels, 1)))
    return np.concatenate(rows)


def _first_of(heads: Heads) -> list[tuple[int, slice]]:
    """Horizons, and the steps that no shorter one has."""
    ends = sorted(heads)
    return [(h, slice(start, h)) for start, h in zip([0, *ends], ends, strict=False)]


__all__ = ["Heads", "RidgeForecast", "ridge_penalty", "start_head", "stitched"]
