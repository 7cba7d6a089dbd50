"""Contrastive predictive coding of pictures: the pieces of the rows below, from those above."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.contrast import contrast
from unlabel.objectives.gather import global_mean, world
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.pieces import pieces


class FromAbove(nn.Module):
    """Residual convolutions in which a place sees its own row and those above, never one below.

    Args:
        width: of the places' vectors.
        hidden: inside a block.
        blocks: each sees one more row above, and one more column on either side.

    Reference: van den Oord et al. 2016 (PixelCNN), arXiv 1606.05328, section 2.2; by rows: Henaff
    et al. 2020, arXiv 1905.09272, appendix A.
    """

    def __init__(self, width: int, hidden: int, blocks: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, hidden, 1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)),
                nn.ZeroPad2d((0, 0, 1, 0)),  # above
                nn.Conv2d(hidden, hidden, (2, 1)),
                nn.ReLU(),
                nn.Conv2d(hidden, width, 1),
            )
            for _ in range(blocks)
        )

    def forward(self, x: Float[Tensor, "batch width rows columns"]) -> Tensor:
        """One vector a place."""
        for block in self.blocks:
            x = x + block(x)
        return F.relu(x)


class CPCv2(Objective):
    """CPC v2: from the pieces of the rows above, find those that lie so many rows below.

    The pieces of a grid overlap by half and go through the encoder one by one: z, after a layer
    norm. Masked convolutions over them give c, which sees no row below.
    `-ln exp(t_{i+k,j} . p_k) / sum exp(t . p_k)` with t linear in z and p_k 0.1 times a linear map
    of c_{i,j}, mean over places and k; the candidates are all pieces of the batch of all ranks.
    Zero predictions give ln(#pieces in the batch).

    Args:
        grid: pieces in a row and in a column.
        ahead: k, rows below; the next one shows half of the row itself.
        overlap: of neighbours, in shares of a piece's side.
        width: of t and p.
        hidden: of the convolutions inside.
        blocks: of convolutions; c sees so many rows above.
        scale: of the predictions.
        before: views of the whole picture before it is cut, joined by `+`.
        after: views of each piece, drawn for it alone.
        args: arguments of the views.

    Raises:
        ValueError: rows below that the grid does not have, an overlap that is no share, or an
            argument of a view that is not there.

    Reference: Henaff et al. 2020, arXiv 1905.09272, section 3 and appendix A: pieces of 64 of 256
    pixels, three rows below.
    """

    paper = "CPC v2 (Henaff et al. 2020, arXiv 1905.09272)"

    def __init__(
        self,
        *,
        grid: int = 7,
        ahead: Sequence[int] = (2, 3),
        overlap: float = 0.5,
        width: int = 64,
        hidden: int = 256,
        blocks: int = 5,
        scale: float = 0.1,
        before: str = "flip",
        after: str = "jitter+channel_cutoff",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not ahead or min(ahead) < 1 or max(ahead) >= grid or not 0 <= overlap < 1:
            raise ValueError(
                f"ahead is rows below, from 1 to {grid - 1} in a grid of {grid}, and overlap a "
                f"share below 1, but {list(ahead)} and {overlap} came."
            )
        own = [{"grid": grid, "gap": -overlap, "place": place} for place in range(grid**2)]
        self.views = pieces(*own, before=before, after=after, args=args)
        self.grid, self.ahead, self.scale = grid, tuple(ahead), scale
        self.width, self.hidden, self.blocks = width, hidden, blocks

    def build(self, encoder: Encoder) -> None:
        """Make the norm, the convolutions, and the linear maps to targets and predictions."""
        self.norm = nn.LayerNorm(encoder.width)
        self.context = FromAbove(encoder.width, self.hidden, self.blocks)
        self.target = nn.Linear(encoder.width, self.width)
        self.predict = nn.ModuleList(nn.Linear(encoder.width, self.width) for _ in self.ahead)

    def summary(
        self, z: Float[Tensor, "batch rows columns width"]
    ) -> Float[Tensor, "batch rows columns width"]:
        """c, from the own row and those above."""
        return self.context(z.movedim(3, 1)).movedim(1, 3)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `below`."""
        z = self.norm(torch.stack([e.pooled for e in encodings], 1))
        z = rearrange(z, "b (y x) d -> b y x d", y=self.grid)
        c = self.summary(z)
        targets, number = self.target(z), self.numbers(batch.index)
        place = torch.arange(len(number), device=z.device).view(z.shape[:3])
        losses = []
        for k, predict in zip(self.ahead, self.predict, strict=True):
            own = place[:, k:].flatten()
            losses.append(
                contrast(
                    self.scale * predict(c[:, :-k]).flatten(0, 2),
                    targets.flatten(0, 2),
                    own,
                    temperature=1.0,
                    normalize=False,
                    query_id=number[own],
                    key_id=number,
                    across=True,
                    reduction="none",
                )
            )
        loss = torch.stack([global_mean(x) for x in losses]).mean()
        return {"below": Term(loss, chance=math.log(len(number) * world()[1]))}

    def numbers(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "numbers"]:
        """One for each piece; of a sample that is there twice the same, which is no negative."""
        count = self.grid**2
        return (index[:, None] * count + torch.arange(count, device=index.device)).flatten()


__all__ = ["CPCv2", "FromAbove"]
