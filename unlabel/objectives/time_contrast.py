"""Time contrast: what is near in time, or seen at the same time, is told from what is far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, over_time, stream_of, uniform
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.kernels import classify, rank
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.sequence import check_reach


def near_and_far(
    length: int, near: int, far: int, device: torch.device | None = None
) -> tuple[Bool[Tensor, "length length"], Bool[Tensor, "length length"]]:
    """Which times are each time's positives and which its negatives; none is both.

    Args:
        length: times of the sequence.
        near: a positive is at most so far away, and not the time itself.
        far: a negative is farther away than this.
        device: where the masks live.
    """
    place = torch.arange(length, device=device)
    apart = (place[:, None] - place).abs()
    return (apart > 0) & (apart <= near), apart > far


class TimeContrast(Objective):
    """Time contrast in one view: a time is closer to one nearby than to one far off.

    `max(0, |a - p|^2 - |a - n|^2 + margin)` of unit vectors, mean over anchors. p is drawn from
    the times nearby; n is semi-hard, the closest of the far ones that is farther than p (the
    farthest of all if none is). All equal gives the margin. A time is a token of a sequence, or
    the mean of a clip's tokens of one time; in seconds it is
    `cell.frames * stride / fps`, so that the paper's 0.2 s and 0.4 s at 29 fps are 6 and 12 single
    frames, or 1 and 3 tokens of 2 frames taken every second one. In a seasonal series take `far` so
    that the same phase of the next period is no negative, or reaches only a few.

    Args:
        near: positives are at most so many times away.
        far: negatives are more than so many times away.
        margin: of squared distances.
        width: of the projection.
        augment: views of the sequence, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: near and far would overlap, or an argument of a view that is not there; when
            built, on an encoder of clips whose tokens carry their place in time.

    Reference: Sermanet et al. 2018 (TCN), arXiv 1704.06888, section 3 (single view, with 6 and 12
    frames); semi-hard negatives: Schroff et al. 2015, arXiv 1503.03832, section 3.2.
    """

    paper = "TCN (Sermanet et al. 2018, arXiv 1704.06888)"
    needs = frozenset({"tokens", "times"})

    def __init__(
        self,
        *,
        near: int = 2,
        far: int = 4,
        margin: float = 0.2,
        width: int = 32,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not 1 <= near <= far:
            raise ValueError(
                f"Positives are within near = {near} times and negatives beyond far = {far}: give "
                "1 <= near <= far, so that none is both."
            )
        self.views = (chain(augment, args=args),)
        self.near, self.far, self.margin, self.width = near, far, margin, width
        self.stream = stream_of("time_contrast")

    def build(self, encoder: Encoder) -> None:
        """Make the projection."""
        check_reach(encoder, self.far + 1, "far")
        check_blind(encoder)
        self.grid = encoder.grid
        self.projector = nn.Linear(encoder.width, self.width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `time`."""
        (encoding,) = encodings
        times, mask = over_time(encoding.tokens, encoding.mask, self.grid)
        z = F.normalize(exact(self.projector(times)), dim=2)
        losses = _rank(z, *self.triplets(z.detach(), mask, batch), margin=self.margin)
        return {"time": Term(global_mean(losses), chance=self.margin)}

    def triplets(
        self,
        z: Float[Tensor, "batch length width"],
        mask: Bool[Tensor, "batch length"],
        batch: Batch,
    ) -> tuple[
        Int[Tensor, "batch length"], Int[Tensor, "batch length"], Bool[Tensor, "batch length"]
    ]:
        """Each time's positive and negative, and True where it has both."""
        length = z.shape[1]
        both = rearrange(mask, "b l -> b l 1") & rearrange(mask, "b l -> b 1 l")
        near, far = (m & both for m in near_and_far(length, self.near, self.far, z.device))
        # The draw belongs to the sample: which of the tokens nearby, counted from the oldest.
        share = uniform(batch.seed, batch.ordinal, self.stream, length)
        wanted = (share * near.sum(2)).long() + 1
        positive = ((near.cumsum(2) == wanted[:, :, None]) & near).int().argmax(2)
        negative = semi_hard(torch.cdist(z, z), positive, far)
        return positive, negative, near.any(2) & far.any(2)


class MultiViewTimeContrast(Objective):
    """Time contrast of two views: the same time seen from elsewhere is closer than other times.

    Triplets: `max(0, |a - p|^2 - |a - n|^2 + margin)` of unit vectors, mean over the times of both
    views; p is the same time in the other view, n the semi-hard one among all other times of the
    same sequence in both views. All equal gives the margin. N-pairs: cross-entropy of a time's
    inner products, not normalised, with all times of the other view, mean of both directions, plus
    `penalty / 4` of both squared lengths; equal vectors give ln(times).

    Args:
        loss: `"triplet"` or `"npairs"`.
        partner: name of the other view in the data: another camera, or a series' `"sensor"`.
        margin: of squared distances.
        penalty: of n-pairs' squared lengths.
        width: of the projection, which both views share.
        augment: views of both, joined by `+`, that leave all times in place.
        args: their arguments.

    Raises:
        ValueError: an unknown loss, or an argument of a view that is not there; when built, on an
            encoder of clips whose tokens carry their place in time; in training, when the two views
            have not as many times.

    Reference: Sermanet et al. 2018 (TCN), arXiv 1704.06888, section 3; n-pairs: Sohn 2016,
    Improved deep metric learning with multi-class N-pair loss objective, section 3.
    """

    paper = "TCN, multi-view (Sermanet et al. 2018, arXiv 1704.06888)"

    def __init__(
        self,
        *,
        loss: Literal["triplet", "npairs"] = "triplet",
        partner: str = "view",
        margin: float = 0.2,
        penalty: float = 0.002,
        width: int = 32,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if loss not in ("triplet", "npairs"):
            raise ValueError(f"loss is {loss!r}: give 'triplet' or 'npairs'.")
        own = chain(augment, args=args)
        self.views = (own, replace(own, partner=partner))
        self.needs = frozenset({"tokens", partner})
        self.loss, self.margin, self.penalty, self.width = loss, margin, penalty, width

    def build(self, encoder: Encoder) -> None:
        """Make the projection."""
        check_reach(encoder, 1, "Time contrast")
        check_blind(encoder)
        self.grid = encoder.grid
        self.projector = nn.Linear(encoder.width, self.width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `time`; for n-pairs also `length`."""
        (own, here), (other, there) = (over_time(e.tokens, e.mask, self.grid) for e in encodings)
        if own.shape[1] != other.shape[1]:
            raise ValueError(
                f"The two views have {own.shape[1]} and {other.shape[1]} times: give both as many "
                "frames, taken at the same times."
            )
        a, b, real = exact(self.projector(own)), exact(self.projector(other)), here & there
        if self.loss == "npairs":
            return self._pairs(a, b, real)
        z = F.normalize(torch.cat([a, b], 1), dim=2)
        losses = _rank(z, *across(z.detach(), real), margin=self.margin)
        return {"time": Term(global_mean(losses), chance=self.margin)}

    def _pairs(
        self,
        a: Float[Tensor, "batch times width"],
        b: Float[Tensor, "batch times width"],
        real: Bool[Tensor, "batch times"],
    ) -> dict[str, Term]:
        with torch.autocast(a.device.type, enabled=False):
            scores = a @ b.mT
        target = torch.arange(a.shape[1], device=a.device).expand_as(real)
        find = lambda s: classify(  # noqa: E731
            s.masked_fill(~real[:, None, :], -math.inf), target, real, reduction="none"
        )
        lengths = (a.square() + b.square()).sum(2)[real]
        loss = global_mean((find(scores) + find(scores.mT)) / 2)
        return {
            "time": Term(loss, chance=math.log(a.shape[1])),
            "length": Term(global_mean(lengths), self.penalty / 4),
        }


def check_blind(encoder: Encoder) -> None:
    """Refuses a transformer over the tokens of a whole clip: its table of positions tells the time.

    Raises:
        ValueError: the encoder is one.
    """
    # Those alone can leave tokens out, as each carries its place.
    is_placed = "visible_only" in encoder.gives and "framewise" not in encoder.gives
    if len(encoder.grid) > 1 and is_placed:
        raise ValueError(
            f"{type(encoder).__name__} tells each token where in the clip it is, so that time "
            "contrast would be solved without looking: take an encoder of single frames (a ViT or "
            "a ResNet on each frame), or a convolutional one."
        )


def across(
    z: Float[Tensor, "batch both width"], real: Bool[Tensor, "batch times"]
) -> tuple[Int[Tensor, "batch both"], Int[Tensor, "batch both"], Bool[Tensor, "batch both"]]:
    """Positives and semi-hard negatives of two views' times one after the other.

    Args:
        z: unit vectors of all times of one view, then of the other.
        real: True at times that exist in both.

    Returns:
        Each place's positive and negative among the places, and True where it has both.
    """
    times = real.shape[1]
    place = torch.arange(2 * times, device=z.device)
    exists = real.repeat(1, 2)
    is_other = (place[:, None] % times != place % times) & exists[:, None, :] & exists[:, :, None]
    positive = place.roll(times).expand(len(z), -1)
    return positive, semi_hard(torch.cdist(z, z), positive, is_other), is_other.any(2)


def semi_hard(
    apart: Float[Tensor, "batch places places"],
    positive: Int[Tensor, "batch places"],
    can: Bool[Tensor, "batch places places"],
) -> Int[Tensor, "batch places"]:
    """The closest that is farther than the positive; the farthest of all where none is.

    Args:
        apart: distances.
        positive: each place's positive.
        can: True at places that may be a place's negative.
    """
    is_hard = can & (apart > apart.gather(2, positive[:, :, None]))
    closest = apart.masked_fill(~is_hard, math.inf).argmin(2)
    farthest = apart.masked_fill(~can, -math.inf).argmax(2)
    return torch.where(is_hard.any(2), closest, farthest)


def _rank(
    z: Float[Tensor, "batch places width"],
    positive: Int[Tensor, "batch places"],
    negative: Int[Tensor, "batch places"],
    is_anchor: Bool[Tensor, "batch places"],
    *,
    margin: float,
) -> Float[Tensor, "anchors"]:
    to = lambda at: (z - z.take_along_dim(at[:, :, None], 1)).square().sum(2)[is_anchor]  # noqa: E731
    return rank(to(positive), to(negative), margin=margin, reduction="none")


__all__ = [
    "MultiViewTimeContrast",
    "TimeContrast",
    "across",
    "check_blind",
    "near_and_far",
    "semi_hard",
]
