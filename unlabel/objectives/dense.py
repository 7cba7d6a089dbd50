"""Dense correspondence: tokens of two crops that show the same place of a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import multi_crop
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import check_temperature, layer_norm_mlp
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.state import Teacher, growing


def near(
    a: Float[Tensor, "batch tokens axes 2"],
    b: Float[Tensor, "batch others axes 2"],
    *,
    threshold: float,
) -> Bool[Tensor, "batch tokens others"]:
    """True where two tokens' middles are closer than a share of the larger one's diagonal.

    Of clips, time and picture each have to be.

    Args:
        a: places of one view's tokens, see `View.places`.
        b: of another view's.
        threshold: the share.

    Reference: Xie et al. 2021 (PixPro), arXiv 2011.10043, equation 1.
    """
    is_near = torch.ones((), dtype=torch.bool, device=a.device)
    # One axis (time), two (rows and columns), or all three.
    axes = a.shape[2]
    for part in (slice(0, 1), slice(1, 3)) if axes == 3 else (slice(0, axes),):
        (x, long), (y, other) = (v[:, :, part].unbind(-1) for v in (a, b))
        diagonal = torch.maximum(long.norm(dim=2)[:, :, None], other.norm(dim=2)[:, None])
        apart = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        is_near = is_near & (apart < threshold * diagonal)
    return is_near


class _Dense(Objective):
    """Tokens of two crops against those that a moving average makes of the other crop.

    Args:
        threshold: tokens are near below this share of a cell's diagonal.
        momentum: of the moving average.
        momentum_steps: optimizer steps over which it grows to 1 along a cosine; None keeps it.
        width: of the projection.
        hidden: width inside the projector.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments, such as `{"crop.low": 0.2}`.
    """

    needs = frozenset({"tokens", "places"})
    weight = 1.0

    def __init__(
        self,
        *,
        threshold: float = 0.7,
        momentum: float = 0.99,
        momentum_steps: int | None = None,
        width: int = 256,
        hidden: int = 512,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not threshold > 0:
            raise ValueError(f"threshold is a distance in cells, above 0, but {threshold} came.")
        online = multi_crop(augment, args)
        self.views = (*online, *(replace(v, encoder="teacher") for v in online))
        self.threshold, self.width, self.hidden = threshold, width, hidden
        self.teacher_momentum = growing(momentum, momentum_steps)

    def build(self, encoder: Encoder) -> None:
        """Make the projector of tokens and its moving average."""
        self.projector = layer_norm_mlp(encoder.width, self.hidden, self.width)
        assert self.teacher_momentum is not None  # set when it was made
        self.key_projector = Teacher(self.projector, momentum=self.teacher_momentum)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `forth` and `back`."""
        where, tokens, masks = [], [], []
        for encoding, seen in zip(encodings, views, strict=True):
            assert seen.places is not None  # the encoder gives them
            count = seen.places.shape[1]  # beside a longer view, padding comes behind
            where.append(seen.places)
            tokens.append(encoding.tokens[:, :count])
            masks.append(encoding.mask[:, :count])
        own = [self.queries(x, m) for x, m in zip(tokens[:2], masks[:2], strict=True)]
        keys = [F.normalize(exact(self.key_projector(x)), dim=-1) for x in tokens[2:]]
        terms = {}
        for name, i, j in (("forth", 0, 1), ("back", 1, 0)):
            is_pair = masks[i][:, :, None] & masks[j][:, None]
            is_positive = near(where[i], where[j], threshold=self.threshold) & is_pair
            with torch.autocast(own[i].device.type, enabled=False):
                cosines = own[i] @ keys[j].transpose(1, 2).to(own[i].dtype)
            losses = self.compare(cosines, is_positive, masks[j])
            terms[name] = Term(global_mean(losses), self.weight)
        return terms

    def queries(
        self, tokens: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens last"]:
        """Vectors of length 1 of the tokens that are compared."""
        return F.normalize(exact(self.projector(tokens)), dim=-1)

    def compare(
        self,
        cosines: Float[Tensor, "batch tokens others"],
        is_positive: Bool[Tensor, "batch tokens others"],
        mask: Bool[Tensor, "batch others"],
    ) -> Float[Tensor, "losses"]:
        """Losses of one direction."""
        raise NotImplementedError


class PixContrast(_Dense):
    """PixContrast: a token finds those of the other crop that show its place, among all of it.

    `-ln sum_{j near i} exp(cos(x_i, x'_j) / T) / sum_j exp(cos(x_i, x'_j) / T)`, mean over the
    tokens i that have one near; x' comes from a moving average. Mean of both directions. All equal
    gives ln(tokens / near ones): the same crop ln(tokens), and disjoint crops 0.

    Args:
        temperature: T.
        dense: threshold (tokens are near below this share of a cell's diagonal), momentum of the
            moving average, momentum_steps over which it grows to 1 along a cosine, width and hidden
            of the projector, and the views that are drawn twice: augment, args.

    Raises:
        ValueError: an argument of a view that is not there, or a threshold or temperature that is
            not above 0.

    Reference: Xie et al. 2021, arXiv 2011.10043, equations 1 and 2.
    """

    paper = "PixContrast (Xie et al. 2021, arXiv 2011.10043)"
    weight = 0.5

    def __init__(self, *, temperature: float = 0.3, **dense: Any):
        super().__init__(**dense)
        check_temperature(temperature)
        self.temperature = temperature

    def compare(self, cosines: Tensor, is_positive: Tensor, mask: Tensor) -> Tensor:
        """One loss for each token that has one near."""
        has = is_positive.any(2)
        logits = (cosines / self.temperature).masked_fill(~mask[:, None], -torch.inf)
        # A token that has none near keeps all: its loss is left out, and its gradient is no NaN.
        near_ones = logits.masked_fill(~(is_positive | ~has[:, :, None]), -torch.inf)
        return (logits.logsumexp(2) - near_ones.logsumexp(2))[has]


class PixPro(_Dense):
    """PixPro: a token, smoothed over its like, agrees with those of the other crop at its place.

    `-cos(y_i, x'_j)`, mean over the near pairs of a sample, then over samples, summed over both
    directions, where `y_i = sum_j max(0, cos(x_i, x_j))^sharpness g(x_j)` (pixel propagation, g
    linear) and x' comes from a moving average. The same crop and y = x' give -1 a direction, -2
    in all; disjoint crops give 0.

    Args:
        sharpness: of the propagation.
        dense: threshold (tokens are near below this share of a cell's diagonal), momentum of the
            moving average, momentum_steps over which it grows to 1 along a cosine, width and hidden
            of the projector, and the views that are drawn twice: augment, args.

    Raises:
        ValueError: an argument of a view that is not there, or a threshold that is not above 0.

    Reference: Xie et al. 2021, arXiv 2011.10043, equations 1, 3, 4 and 5. The authors' code
    doubles the loss.
    """

    paper = "PixPro (Xie et al. 2021, arXiv 2011.10043)"

    def __init__(self, *, sharpness: float = 2.0, **dense: Any):
        super().__init__(**dense)
        self.sharpness = sharpness

    def build(self, encoder: Encoder) -> None:
        """Make the projector, its moving average, and the propagation's linear map."""
        super().build(encoder)
        self.propagate = nn.Linear(self.width, self.width)

    def queries(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Propagated vectors, scaled to length 1."""
        x = exact(self.projector(tokens))
        values = exact(self.propagate(x.to(self.propagate.weight.dtype))).to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            unit = F.normalize(x, dim=-1)
            alike = (unit @ unit.transpose(1, 2)).clamp(min=0) ** self.sharpness
            return F.normalize((alike * mask[:, None]) @ values, dim=-1)

    def compare(self, cosines: Tensor, is_positive: Tensor, mask: Tensor) -> Tensor:
        """One loss for each sample, 0 where no tokens are near."""
        count = is_positive.sum((1, 2)).clamp(min=1)
        return -(cosines * is_positive).sum((1, 2)) / count


__all__ = ["PixContrast", "PixPro", "near"]
