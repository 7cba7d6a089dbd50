"""Contrastive predictive coding: which tokens come next."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, over_time
from unlabel.objectives.chains import chain
from unlabel.objectives.contrast import contrast
from unlabel.objectives.gather import gather, global_mean, world
from unlabel.objectives.objective import Objective, Term


class CPC(Objective):
    """Contrastive predictive coding: from what came so far, find the tokens that come next.

    `-ln exp(z_{t+k} . W_k c_t) / sum_j exp(z_j . W_k c_t)`, mean over times t and steps k = 1..K,
    the candidates being the z of all times and sequences of the batch that are somebody's k-th
    next. W_k = 0 gives ln(#candidates). A time is a token of a sequence, or the mean of a clip's
    tokens of one time.

    Args:
        steps: K, how many times ahead.
        context: where c_t comes from: the tokens of a causal encoder (`"encoder"`), or a GRU over
            the z (`"gru"`; then any encoder will do, but only its layers up to `target_layer` are
            trained). None takes the encoder if it is causal.
        target_layer: layer that z is taken from, 0 being the embeddings. Deeper layers have seen
            what c_t has seen, and more is given away. None takes the embeddings, and the last
            layer of an encoder that sees each time alone or gives no other: of clips, take one of
            single frames, so that all of it is trained and no time gives the next away.
        temperature: T; 1 with plain inner products is the paper's.
        normalize: cosines in place of inner products; take T = 0.1 or so with them.
        width: of the GRU's state.
        augment: views of the sequence, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: no step ahead, an unknown context, or an argument of a view that is not there;
            when built, more steps than a view has times, or a layer that the encoder does not give.

    Reference: van den Oord et al. 2018, arXiv 1807.03748, section 2.2 and equations 3 and 4.
    """

    paper = "CPC (van den Oord et al. 2018, arXiv 1807.03748)"
    needs = frozenset({"tokens", "times"})

    def __init__(
        self,
        *,
        steps: int = 6,
        context: Literal["encoder", "gru"] | None = None,
        target_layer: int | None = None,
        temperature: float = 1.0,
        normalize: bool = False,
        width: int = 256,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps is how many tokens ahead are found, but {steps} came.")
        if context not in ("encoder", "gru", None):
            raise ValueError(f"context is {context!r}: give 'encoder' or 'gru'.")
        self.views = (chain(augment, args=args),)
        if context == "encoder":
            self.needs = frozenset({"tokens", "times", "layers", "causal"})
        self.steps, self.context, self.target_layer = steps, context, target_layer
        self.temperature, self.normalize, self.width = temperature, normalize, width

    def build(self, encoder: Encoder) -> None:
        """Make one W_k for each step ahead, and the GRU if that gives the context."""
        check_reach(encoder, self.steps, "steps")
        gives, self.grid = encoder.gives, encoder.grid
        # A GRU sees what came so far, and nothing else, whatever the encoder does.
        is_gru = self.context == "gru" or (self.context is None and "causal" not in gives)
        self.layer = self.target_layer
        if self.layer is None and "layers" in gives and "framewise" not in gives:
            self.layer = 0
        if self.layer is not None and "layers" not in gives:
            raise ValueError(
                f"target_layer is {self.layer}, but {type(encoder).__name__} gives its last layer "
                "alone: leave target_layer out."
            )
        read = {"tokens"} if self.layer is None or not is_gru else set()
        self.needs = frozenset(read if self.layer is None else {*read, "layers"})
        found = encoder.width
        if self.layer is not None:
            found = getattr(encoder, "layer_width", encoder.width)
        width = self.width if is_gru else encoder.width
        self.gru = nn.GRU(found, width, batch_first=True) if is_gru else None
        self.ahead = nn.ModuleList(nn.Linear(width, found, bias=False) for _ in range(self.steps))

    def states(
        self, encoding: Encoding
    ) -> tuple[Float[Tensor, "batch times width"], Bool[Tensor, "batch times"]]:
        """z_t, and True at times that exist."""
        found = encoding.tokens
        if self.layer is not None:
            assert encoding.layers is not None  # asked for
            found = encoding.layers[self.layer]
        return over_time(found, encoding.mask, self.grid)

    def summary(self, encoding: Encoding) -> Float[Tensor, "batch times context"]:
        """c_t, from times up to t alone."""
        if self.gru is None:
            return over_time(encoding.tokens, encoding.mask, self.grid)[0]
        z, real = self.states(encoding)
        # Times that exist come first, so that padding before them is nothing that was seen.
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)[:, :, None]
        c = self.gru(z.take_along_dim(order, 1))[0]
        return torch.empty_like(c).scatter(1, order.expand_as(c), c)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `ahead`."""
        (encoding,) = encodings
        z, real = self.states(encoding)
        z, real = gather(z), gather(real.int()).bool()
        length = z.shape[1]
        if length <= self.steps:
            raise ValueError(f"{self.steps} steps ahead do not fit into {length} times.")
        # The same time of the same sample, should the batch hold that twice, is no negative.
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


def check_reach(encoder: Encoder, tokens: int, name: str) -> None:
    """Refuses to look farther ahead or away than a view is long.

    Raises:
        ValueError: a view has too few times.
    """
    if "length" in encoder.gives and encoder.grid[0] <= tokens:
        raise ValueError(
            f"{name} reaches {tokens} tokens on, but a view has {encoder.grid[0]}: give a smaller "
            "number, a longer context or smaller patches."
        )


__all__ = ["CPC", "check_reach"]
