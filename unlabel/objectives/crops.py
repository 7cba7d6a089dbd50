"""Two overlapping crops of one sample, contrasted step by step."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlabel.core import Batch, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import gather
from unlabel.objectives.hierarchy import hierarchical_chance, hierarchical_contrast
from unlabel.objectives.objective import Objective, Term


class HierarchicalContrast(Objective):
    """TS2Vec: the same steps in two overlapping crops, against other samples and other times.

    Each crop has some of its tokens cut out after the input projection. What the two share is
    contrasted over the batch and over time, at every scale of a maximum over twice as many steps;
    steps of padding, of a series shorter than the window, are in no pair.

    Args:
        alpha: weight of the contrast over the batch; that over time has the rest.
        mask: share of tokens cut out of each crop.
        args: arguments of the views, such as `{"overlap.ratio": 0.5}`, the share of the tokens that
            the crops have for themselves.

    Raises:
        ValueError: alpha is no share.

    Reference: Yue et al. 2022 (TS2Vec), arXiv 2106.10466, sections 3.2 to 3.4.
    """

    paper = "TS2Vec (Yue et al. 2022, arXiv 2106.10466)"
    needs = frozenset({"tokens"})

    def __init__(
        self, *, alpha: float = 0.5, mask: float = 0.5, args: Mapping[str, Any] | None = None
    ):
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is a share between 0 and 1, but {alpha} came.")
        self.alpha = alpha
        how = {"token_cutoff.ratio": mask, **(args or {})}
        # The two sides belong to one pair of crops, but each is cut by a draw of its own.
        self.views = tuple(
            chain("overlap", "token_cutoff", draw=draw, args={**how, "overlap.side": side})
            for draw, side in enumerate(("left", "right"))
        )

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `instance` and `temporal`."""
        shared = []
        for encoding, seen in zip(encodings, views, strict=True):
            assert seen.target is not None  # the places of the shared tokens
            shared.append(encoding.tokens.take_along_dim(seen.target[:, :, None], 1))
        # All ranks compute the whole: the mean of their gradients is the one-process gradient.
        z1, z2 = (gather(z) for z in shared)
        assert views[0].is_target is not None  # True at those of them that exist
        terms = hierarchical_contrast(z1, z2, gather(views[0].is_target.int()).bool())
        weights = {"instance": self.alpha, "temporal": 1 - self.alpha}
        chance = hierarchical_chance(*z1.shape[:2])
        return {name: Term(x, weights[name], chance[name]) for name, x in terms.items()}
