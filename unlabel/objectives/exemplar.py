"""Each sample an exemplar: its views belong together, as a class or closer than any other's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.blocks import in_blocks
from unlabel.objectives.chains import chain
from unlabel.objectives.contrast import contrast
from unlabel.objectives.gather import gather, global_mean
from unlabel.objectives.heads import mlp_projector
from unlabel.objectives.kernels import rank
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term


class Exemplar(Objective):
    """Exemplars: several views of each sample, told from the views of all other samples.

    `triplet`: `ln(1 + exp(|a - p| - |a - n|))` of unit vectors, mean over the views a of all ranks;
    p is the farthest view of the same sample, n the closest one of another. All equal gives ln 2.
    `classes`: cross-entropy over the N samples of the data set, a row of a linear layer for each,
    in memory linear in batch and data. A layer of zeros gives ln N.

    Args:
        loss: `triplet`, or `classes` for the first form.
        copies: views of a sample.
        width: of the projection of triplets, which is linear.
        augment: views that are drawn so often, joined by `+`; `usual` are those of the kind of
            data.
        args: their arguments.

    Raises:
        ValueError: another loss, fewer than two views, an argument of a view that is not there, or
            (in `build`) classes of data whose number of samples is not known.

    Reference: Dosovitskiy et al. 2014, arXiv 1406.6909, section 2.2; triplets: Kolesnikov et al.
    2019, arXiv 1901.09005, section 3.1; soft margin and choice: Hermans et al. 2017, 1703.07737,
    section 2.
    """

    paper = "Exemplar-CNN (Dosovitskiy et al. 2014, arXiv 1406.6909)"

    def __init__(
        self,
        *,
        loss: Literal["triplet", "classes"] = "triplet",
        copies: int = 4,
        width: int = 128,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if loss not in ("triplet", "classes") or copies < 2:
            raise ValueError(
                f"loss is {loss!r} and copies {copies}: give 'triplet' or 'classes', and at least "
                "2 views of a sample."
            )
        self.views = tuple(chain(augment, draw=draw, args=args) for draw in range(copies))
        self.loss, self.width = loss, width
        self.needs_others = loss == "triplet"

    def build(self, encoder: Encoder) -> None:
        """Make the projector, or a class for each sample."""
        if self.loss == "triplet":
            self.projector = mlp_projector(encoder.width, self.width, layers=1)
            return
        if self.samples is None:
            raise ValueError(
                "Exemplar's classes are the samples, but how many there are is not known of a "
                "stream; give data of a known size, or leave loss at 'triplet'."
            )
        self.centres = nn.Parameter(0.01 * torch.randn(self.samples, encoder.width))

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `exemplar`."""
        pooled = torch.cat([e.pooled for e in encodings])
        index = batch.index.repeat(len(encodings))
        if self.loss == "triplet":
            losses = batch_hard(F.normalize(exact(self.projector(pooled)), dim=1), index)
            return {"exemplar": Term(global_mean(losses), chance=math.log(2))}
        losses = contrast(
            pooled, self.centres, index, temperature=1.0, normalize=False, reduction="none"
        )
        return {"exemplar": Term(global_mean(losses), chance=math.log(len(self.centres)))}


def batch_hard(
    z: Float[Tensor, "rows width"], index: Int[Tensor, "rows"]
) -> Float[Tensor, "anchors"]:
    """Soft-margin triplet losses of this rank's rows, each with the hardest pair of all ranks'.

    Args:
        z: vectors; every other one of the same index is a positive, all others negatives.
        index: the samples'.

    Returns:
        One loss for each row that has both.
    """
    keys, own = gather(z), gather(index)
    positive, negative, has_both = _hardest(z, index, keys, own)
    apart = lambda at: (z - keys[at]).norm(dim=1)  # noqa: E731
    return rank(apart(positive), apart(negative), margin=None, reduction="none")[has_both]


@torch.no_grad()
def _hardest(
    z: Tensor, index: Tensor, keys: Tensor, own: Tensor
) -> tuple[Int[Tensor, "rows"], Int[Tensor, "rows"], Bool[Tensor, "rows"]]:
    """Places of each row's farthest positive and closest negative, and True where it has both."""

    def choose(rows: Tensor, of: Tensor) -> tuple[Tensor, ...]:
        apart, same = torch.cdist(rows, keys), of[:, None] == own
        # Itself is nearest to itself: it is the farthest of its sample where there is no other.
        positive = apart.masked_fill(~same, -1).argmax(1)
        negative = apart.masked_fill(same, torch.inf).argmin(1)
        return positive, negative, (same.sum(1) > 1) & ~same.all(1)

    return in_blocks(choose, z, index, each=len(keys))  # type: ignore[return-value]


__all__ = ["Exemplar", "batch_hard"]
