"""Pretext tasks: a class that the view made up, to be read off what it made of the sample."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, over_time
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.kernels import classify
from unlabel.objectives.objective import Objective, Term


class ReorderPrediction(Objective):
    """Reorder prediction: which of the orders its segments were put in, from the sample's vector.

    Cross-entropy over the `segments!` orders, ln of that where the head knows nothing. Of an
    encoder that sees each frame alone, the head reads one vector a segment, side by side: the mean
    over all frames is the same in every order.

    Args:
        segments: into how many a sample is cut, 2 to 5.
        after: views applied after the reordering, joined by `+`.
        args: arguments of the views.

    Raises:
        ValueError: a number of segments whose orders are too few or too many.

    Reference: Noroozi & Favaro 2016 (jigsaw puzzles), arXiv 1603.09246; in time: Lee et al. 2017
    (sorting sequences), arXiv 1708.01246, section 3.
    """

    paper = "Sorting sequences (Lee et al. 2017, arXiv 1708.01246)"

    def __init__(
        self, *, segments: int = 3, after: str = "", args: Mapping[str, Any] | None = None
    ):
        super().__init__()
        if not 2 <= segments <= 5:
            raise ValueError(f"segments is 2 to 5 (2 to 120 orders), but {segments} came.")
        how = {"reorder.segments": segments, "reorder.ask": True, **(args or {})}
        self.views = (chain("reorder", after, args=how),)
        self.segments, self.orders = segments, math.factorial(segments)

    def build(self, encoder: Encoder) -> None:
        """Make the head over the orders."""
        self.grid, self.by_segment = encoder.grid, "framewise" in encoder.gives
        if self.by_segment:
            # The tokens are read, which the trainer must know before it drops them.
            self.needs = type(self).needs | {"tokens"}
        width = encoder.width * (self.segments if self.by_segment else 1)
        self.classifier = nn.Linear(width, self.orders)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `order`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        read = encoding.pooled
        if self.by_segment:
            times, mask = over_time(encoding.tokens, encoding.mask, self.grid)
            read = rearrange(segment_means(times, mask, self.segments), "b s d -> b (s d)")
        losses = classify(self.classifier(read), seen.target[:, 0], reduction="none")
        return {"order": Term(global_mean(losses), chance=math.log(self.orders))}


def segment_means(
    times: Float[Tensor, "batch times width"], mask: Bool[Tensor, "batch times"], segments: int
) -> Float[Tensor, "batch segments width"]:
    """Mean vector of each of the equal segments that the existing times are cut into.

    Args:
        times: one vector a time.
        mask: True at times that exist.
        segments: how many; one that no time falls into is 0.
    """
    place, count = mask.cumsum(1) - 1, mask.sum(1, keepdim=True).clamp(min=1)
    own = (place * segments // count)[:, None, :] == torch.arange(
        segments, device=mask.device
    ).view(1, -1, 1)
    share = (own & mask[:, None, :]).to(times.dtype)
    return share @ times / share.sum(2, keepdim=True).clamp(min=1)


class RotationPrediction(Objective):
    """Rotation prediction: by how many quarter turns the sample was turned, all frames alike.

    Cross-entropy over the four turns; ln 4 where the head knows nothing.

    Args:
        before: views applied before the turn, joined by `+`, such as `"crop+flip"`.
        after: views applied after it.
        args: arguments of the views.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Gidaris et al. 2018, arXiv 1803.07728, section 2; of clips: Jing et al. 2018
    (3D RotNet), arXiv 1811.11387.
    """

    paper = "RotNet (Gidaris et al. 2018, arXiv 1803.07728)"

    def __init__(self, *, before: str = "", after: str = "", args: Mapping[str, Any] | None = None):
        super().__init__()
        self.views = (chain(before, "rotate", after, args={"rotate.ask": True, **(args or {})}),)

    def build(self, encoder: Encoder) -> None:
        """Make the head over the turns."""
        self.classifier = nn.Linear(encoder.width, 4)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `turn`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        logits = self.classifier(encoding.pooled)
        losses = classify(logits, seen.target[:, 0], reduction="none")
        return {"turn": Term(global_mean(losses), chance=math.log(4))}


class ShuffleAndLearn(Objective):
    """Shuffle and learn: do three pictures of one sample come in the order of time?

    Of five moments a < b < c < d < e, (b, c, d) is in order, and (b, a, d) and (b, e, d) are not;
    each is turned round half of the time, so that only the middle one tells. Each picture is
    encoded alone, and one linear layer reads the three vectors side by side. Cross-entropy, mean
    over the samples whose pictures can be told apart; a class counts in inverse proportion to how
    often it is drawn, so that a head that knows nothing has ln 2 and not less.

    Args:
        negatives: share of samples that are not in order.
        after: views of the three pictures, joined by `+`, alike for all three.
        args: arguments of the views, such as `{"triple.unlike": 0.001}`.

    Raises:
        ValueError: no share between 0 and 1, or an argument of a view that is not there.

    Reference: Misra et al. 2016, arXiv 1603.08561, section 3.
    """

    paper = "Shuffle and Learn (Misra et al. 2016, arXiv 1603.08561)"

    def __init__(
        self, *, negatives: float = 0.75, after: str = "", args: Mapping[str, Any] | None = None
    ):
        super().__init__()
        if not 0 < negatives < 1:
            raise ValueError(f"negatives is a share between 0 and 1, but {negatives} came.")
        how = {"triple.negatives": negatives, **(args or {})}
        self.views = tuple(
            chain("triple", after, args={**how, "triple.place": place}) for place in range(3)
        )
        self.negatives = negatives

    def build(self, encoder: Encoder) -> None:
        """Make the head, one linear layer over three vectors."""
        self.classifier = nn.Linear(3 * encoder.width, 2)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `order`."""
        target, is_target = views[0].target, views[0].is_target
        assert target is not None and is_target is not None  # the view makes both
        logits = self.classifier(torch.cat([e.pooled for e in encodings], 1))
        losses = classify(logits, target[:, 0], is_target[:, 0], reduction="none")
        in_order = target[is_target] == 1
        share = torch.where(in_order, 1 - self.negatives, self.negatives)
        return {"order": Term(global_mean(losses / (2 * share)), chance=math.log(2))}


__all__ = ["ReorderPrediction", "RotationPrediction", "ShuffleAndLearn", "segment_means"]
