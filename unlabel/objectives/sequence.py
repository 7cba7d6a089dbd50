"""Objectives on the order of tokens: which come next, and which are near."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, stream_of, uniform
from unlabel.objectives.chains import chain
from unlabel.objectives.contrast import contrast
from unlabel.objectives.gather import gather, global_mean, world
from unlabel.objectives.kernels import rank
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term


class CPC(Objective):
    """Contrastive predictive coding: from what came so far, find the tokens that come next.

    `-ln exp(z_{t+k} . W_k c_t) / sum_j exp(z_j . W_k c_t)`, mean over times t and steps k = 1..K,
    the candidates being the tokens of all times and sequences of the batch that are somebody's
    k-th next. W_k = 0 gives ln(#candidates).

    Args:
        steps: K, how many tokens ahead.
        context: where c_t comes from: the tokens of a causal encoder, or a GRU over the z (then
            any encoder will do, but only its layers up to `target_layer` are trained).
        target_layer: layer that z is taken from, 0 being the embeddings. Deeper layers have seen
            what c_t has seen, and more is given away.
        temperature: T; 1 with plain inner products is the paper's.
        normalize: cosines in place of inner products; take T = 0.1 or so with them.
        width: of the GRU's state.
        augment: views of the sequence, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: no step ahead, an unknown context, or an argument of a view that is not there;
            when built, more steps than a view has tokens.

    Reference: van den Oord et al. 2018, arXiv 1807.03748, section 2.2 and equations 3 and 4.
    """

    paper = "CPC (van den Oord et al. 2018, arXiv 1807.03748)"
    needs = frozenset({"tokens", "layers", "causal"})

    def __init__(
        self,
        *,
        steps: int = 6,
        context: Literal["encoder", "gru"] = "encoder",
        target_layer: int = 0,
        temperature: float = 1.0,
        normalize: bool = False,
        width: int = 256,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps is how many tokens ahead are found, but {steps} came.")
        if context not in ("encoder", "gru"):
            raise ValueError(f"context is {context!r}: give 'encoder' or 'gru'.")
        self.views = (chain(augment, args=args),)
        # A GRU sees what came so far, and nothing else, whatever the encoder does.
        self.needs = type(self).needs if context == "encoder" else frozenset({"layers"})
        self.steps, self.context, self.target_layer = steps, context, target_layer
        self.temperature, self.normalize, self.width = temperature, normalize, width

    def build(self, encoder: Encoder) -> None:
        """Make one W_k for each step ahead, and the GRU if that gives the context."""
        _check_reach(encoder, self.steps, "steps")
        is_gru = self.context == "gru"
        width = self.width if is_gru else encoder.width
        found = encoder.layer_width
        self.gru = nn.GRU(found, width, batch_first=True) if is_gru else None
        self.ahead = nn.ModuleList(nn.Linear(width, found, bias=False) for _ in range(self.steps))

    def summary(self, encoding: Encoding) -> Float[Tensor, "batch length context"]:
        """c_t, from tokens up to t alone."""
        if self.gru is None:
            return encoding.tokens
        assert encoding.layers is not None  # asked for
        return self.gru(encoding.layers[self.target_layer])[0]

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `ahead`."""
        (encoding,) = encodings
        assert encoding.layers is not None  # asked for
        z, real = gather(encoding.layers[self.target_layer]), gather(encoding.mask.int()).bool()
        length = z.shape[1]
        if length <= self.steps:
            raise ValueError(f"{self.steps} steps ahead do not fit into {length} tokens.")
        # The same token of the same sample, should the batch hold that twice, is no negative.
        moment = gather(batch.index)[:, None] * length + torch.arange(length, device=z.device)
        c = self.summary(encoding)
        terms = [
            self._find(predict(c[:, :-k]), z[:, k:], real[:, :-k] & real[:, k:], moment[:, k:])
            for k, predict in enumerate(self.ahead, start=1)
        ]
        loss = torch.stack([t.loss for t in terms]).mean()
        return {"ahead": Term(loss, chance=sum(t.chance or 0.0 for t in terms) / len(terms))}

    def _find(
        self,
        query: Float[Tensor, "batch times width"],
        z: Float[Tensor, "all_batch times width"],
        is_pair: Bool[Tensor, "all_batch times"],
        moment: Int[Tensor, "all_batch times"],
    ) -> Term:
        """Each query against the tokens of all ranks, where both it and its positive are real."""
        first = world()[0] * len(query)
        mine = slice(first, first + len(query))
        place = (is_pair.flatten().cumsum(0) - 1).view_as(is_pair)
        rows, keys = query[is_pair[mine]], z[is_pair]
        if not len(rows):
            return Term(global_mean(rows.sum(1)), chance=0.0)
        losses = contrast(
            rows,
            keys,
            place[mine][is_pair[mine]],
            temperature=self.temperature,
            normalize=self.normalize,
            query_id=moment[mine][is_pair[mine]],
            key_id=moment[is_pair],
            reduction="none",
        )
        return Term(global_mean(losses), chance=math.log(len(keys)))


def near_and_far(
    length: int, near: int, far: int, device: torch.device | None = None
) -> tuple[Bool[Tensor, "length length"], Bool[Tensor, "length length"]]:
    """Which tokens are each token's positives and which its negatives; none is both.

    Args:
        length: tokens of the sequence.
        near: a positive is at most so far away, and not the token itself.
        far: a negative is farther away than this.
        device: where the masks live.
    """
    place = torch.arange(length, device=device)
    apart = (place[:, None] - place).abs()
    return (apart > 0) & (apart <= near), apart > far


class TimeContrast(Objective):
    """Time contrast in one view: a token is closer to one nearby than to one far off in time.

    `max(0, |a - p|^2 - |a - n|^2 + margin)` of unit vectors, mean over anchors. p is drawn from
    the tokens nearby; n is semi-hard, the closest of the far ones that is farther than p (the
    farthest of all if none is). All equal gives the margin. In a seasonal series take `far` so
    that the same phase of the next period is no negative, or reaches only a few.

    Args:
        near: positives are at most so many tokens away.
        far: negatives are more than so many tokens away.
        margin: of squared distances.
        width: of the projection.
        augment: views of the sequence, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: near and far would overlap, or an argument of a view that is not there.

    Reference: Sermanet et al. 2018 (TCN), arXiv 1704.06888, section 3 (single view, with 6 and 12
    frames); semi-hard negatives: Schroff et al. 2015, arXiv 1503.03832, section 3.2.
    """

    paper = "TCN (Sermanet et al. 2018, arXiv 1704.06888)"
    needs = frozenset({"tokens"})

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
                f"Positives are within near = {near} tokens and negatives beyond far = {far}: give "
                "1 <= near <= far, so that no token is both."
            )
        self.views = (chain(augment, args=args),)
        self.near, self.far, self.margin, self.width = near, far, margin, width
        self.stream = stream_of("time_contrast")

    def build(self, encoder: Encoder) -> None:
        """Make the projection."""
        _check_reach(encoder, self.far + 1, "far")
        self.projector = nn.Linear(encoder.width, self.width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `time`."""
        (encoding,) = encodings
        z = F.normalize(exact(self.projector(encoding.tokens)), dim=2)
        positive, negative, is_anchor = self.triplets(z.detach(), encoding.mask, batch)
        to = lambda at: (z - z.take_along_dim(at[:, :, None], 1)).square().sum(2)[is_anchor]  # noqa: E731
        losses = rank(to(positive), to(negative), margin=self.margin, reduction="none")
        return {"time": Term(global_mean(losses), chance=self.margin)}

    def triplets(
        self,
        z: Float[Tensor, "batch length width"],
        mask: Bool[Tensor, "batch length"],
        batch: Batch,
    ) -> tuple[
        Int[Tensor, "batch length"], Int[Tensor, "batch length"], Bool[Tensor, "batch length"]
    ]:
        """Each token's positive and negative, and True where it has both."""
        length = z.shape[1]
        both = rearrange(mask, "b l -> b l 1") & rearrange(mask, "b l -> b 1 l")
        near, far = (m & both for m in near_and_far(length, self.near, self.far, z.device))
        # The draw belongs to the sample: which of the tokens nearby, counted from the oldest.
        share = uniform(batch.seed, batch.ordinal, self.stream, length)
        wanted = (share * near.sum(2)).long() + 1
        positive = ((near.cumsum(2) == wanted[:, :, None]) & near).int().argmax(2)
        apart = torch.cdist(z, z)
        is_hard = far & (apart > apart.gather(2, positive[:, :, None]))
        closest = apart.masked_fill(~is_hard, math.inf).argmin(2)
        farthest = apart.masked_fill(~far, -math.inf).argmax(2)
        negative = torch.where(is_hard.any(2), closest, farthest)
        return positive, negative, near.any(2) & far.any(2)


def _check_reach(encoder: Encoder, tokens: int, name: str) -> None:
    if "length" in encoder.gives and encoder.length <= tokens:
        raise ValueError(
            f"{name} reaches {tokens} tokens on, but a view has {encoder.length}: give a smaller "
            "number, a longer context or smaller patches."
        )


__all__ = ["CPC", "TimeContrast", "near_and_far"]
