"""Supervised contrast: all views of a class are each other's positives."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unlabel.core import Batch, Encoding, View
from unlabel.objectives.gather import gather, global_mean, world
from unlabel.objectives.instance import InstanceContrast
from unlabel.objectives.labels import labels_of
from unlabel.objectives.logsumexp import Exclude, log_sum_exp_of_negatives
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Term
from unlabel.objectives.unit import opaque, unit


@opaque
def supervised_contrast(
    z: Float[Tensor, "rows width"], label: Int[Tensor, "rows"], *, temperature: float
) -> Float[Tensor, "rows_with_others"]:
    """What it costs each row to find all others of its label, among the rows of all ranks.

    `-mean_p ln exp(cos(z_i, z_p)/T) / sum_{a != i} exp(cos(z_i, z_a)/T)` over the other rows p of
    its label, which is `ln sum_a` less the inner product with the mean of them: memory is linear in
    the rows. A row that is alone with its label has no loss. All equal gives ln(rows - 1); two rows
    a label are NT-Xent.

    Args:
        z: of this rank.
        label: whose rows belong together, the same on every rank.
        temperature: T.

    Reference: Khosla et al. 2020, arXiv 2004.11362, equation 2 (the sum outside the logarithm).
    """
    with torch.autocast(z.device.type, enabled=False):
        keys = unit(gather(z), temperature**-0.5, exact(z).dtype)
        itself = torch.arange(len(z), device=z.device) + world()[0] * len(z)
        own = keys[itself]
        rest, *_ = log_sum_exp_of_negatives(own, keys, Exclude((itself,)))
        number = gather(label).unique(return_inverse=True)[1]
        sums = torch.zeros_like(keys).index_add(0, number, keys)
        others = torch.zeros_like(number).index_add(0, number, torch.ones_like(number)) - 1
        near = ((sums[number[itself]] - own) * own).sum(1)
        count = others[number[itself]]
        return (rest - near / count.clamp(min=1)).to(keys.dtype)[count > 0]


class SupCon(InstanceContrast):
    """SupCon: each view finds all views of its class; of a sample without one, its own other view.

    See `supervised_contrast`, over the 2N views of all ranks. Without any label it is SimCLR. All
    equal gives ln(2N - 1).

    Args:
        temperature: T.
        views: the other arguments of `InstanceContrast`.

    Raises:
        ValueError: a temperature that is not above 0, or an argument of a view that is not there.

    Reference: Khosla et al. 2020, arXiv 2004.11362, section 3.2.
    """

    paper = "SupCon (Khosla et al. 2020, arXiv 2004.11362)"

    def __init__(self, *, temperature: float = 0.1, **views: Any):
        super().__init__(temperature=temperature, **views)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `contrast`."""
        z, label = torch.cat(self.project(encodings)), labels_of(batch)
        # A sample without a class is one of its own.
        belongs = torch.where(label < 0, -1 - batch.index, label).repeat(2)
        losses = supervised_contrast(z, belongs, temperature=self.temperature)
        return {"contrast": Term(global_mean(losses), chance=math.log(len(z) * world()[1] - 1))}


__all__ = ["SupCon", "supervised_contrast"]
