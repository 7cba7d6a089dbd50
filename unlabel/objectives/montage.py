"""Jigsaw clustering: pieces of many pictures in one, to be sorted by picture and by place."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean, world
from unlabel.objectives.heads import check_temperature, mlp_projector
from unlabel.objectives.kernels import classify
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.supervised import supervised_contrast


class JigsawClustering(Objective):
    """Jigsaw clustering: each place of a montage finds the pieces of its own picture.

    Every picture is cut into 2 x 2 pieces, which are changed one by one, mixed over the batch and
    put together again, as many pictures as there were. A place's vector is the mean of its tokens.
    `cluster` is `supervised_contrast` by picture: all equal gives ln(4B - 1) for B pictures.
    `place` is the cross-entropy over the four places that the piece came from, ln 4 where the head
    knows nothing. Pictures are mixed on each rank, and compared with those of all.

    Args:
        temperature: T.
        width: of the projection.
        weight: of the places; that of the clusters is 1.
        overlap: of neighbouring pieces, in shares of their side.
        augment: views of each piece, joined by `+`; `usual` are those of the kind of data.
        args: arguments of the views.

    Raises:
        ValueError: an overlap that is no share, a temperature that is not above 0, or an argument
            of a view that is not there; when built, an encoder whose tokens do not divide by the
            pieces.

    Reference: Chen et al. 2021, arXiv 2104.00323, section 3: equations 1 to 4.
    """

    paper = "Jigsaw clustering (Chen et al. 2021, arXiv 2104.00323)"
    needs = frozenset({"tokens"})

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        width: int = 128,
        weight: float = 1.0,
        overlap: float = 0.3,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_temperature(temperature)
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap is a share of a piece's side, below 1, but {overlap} came.")
        how = {"tiles.gap": -overlap, **(args or {})}
        self.views = (chain("tiles", augment, "montage", args=how),)
        self.temperature, self.width, self.weight = temperature, width, weight

    def build(self, encoder: Encoder) -> None:
        """Make the projector of the clusters and the head over the places."""
        self.grid = encoder.grid
        if any(n % 2 for n in self.grid[1:]):
            raise ValueError(
                f"A montage of 2 x 2 pieces has pieces of whole tokens, but the encoder's lie in "
                f"{self.grid[1]} rows and {self.grid[2]} columns: give pictures or patches of a "
                "size that makes both even."
            )
        self.projector = mlp_projector(encoder.width, self.width)
        self.classifier = nn.Linear(encoder.width, 4)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `cluster` and `place`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        picture, place = seen.target.flatten(0, 1).unbind(1)
        pieces = self.pieces(encoding).flatten(0, 1)
        z = self.projector(pieces)
        together = supervised_contrast(z, picture, temperature=self.temperature)
        apart = classify(self.classifier(pieces), place, reduction="none")
        return {
            "cluster": Term(global_mean(together), chance=math.log(len(z) * world()[1] - 1)),
            "place": Term(global_mean(apart), self.weight, math.log(4)),
        }

    def pieces(self, encoding: Encoding) -> Float[Tensor, "batch 4 width"]:
        """The mean of the tokens of each place, row by row."""
        times, rows, columns = self.grid
        lie = "b (t y h x w) ... -> b (y x) (t h w) ..."
        sizes = {"y": 2, "x": 2, "h": rows // 2, "w": columns // 2}
        count = times * rows * columns  # beside a longer view, padding comes behind
        tokens = rearrange(encoding.tokens[:, :count], lie, **sizes)
        real = rearrange(encoding.mask[:, :count], lie, **sizes)[..., None].to(tokens.dtype)
        return (tokens * real).sum(2) / real.sum(2).clamp(min=1)


__all__ = ["JigsawClustering"]
