"""Encoder and objective as one module: views, one encoder call, terms."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlabel.core import (
    Batch,
    Encoding,
    View,
    cat_batches,
    cat_encodings,
    cat_views,
    split_encoding,
)
from unlabel.objectives import Objective, Term, total
from unlabel.objectives.state import Teacher

# What an encoding always holds; the rest is asked for by name.
_FREE = frozenset({"pooled", "tokens"})


class Step(NamedTuple):
    """What a forward pass gives the trainer: the loss, its terms, and what was encoded."""

    loss: Tensor
    terms: dict[str, Term]
    pooled: tuple[Tensor, ...]


class Pretraining(nn.Module):
    """An encoder under an objective.

    Args:
        encoder: a modality's adapter, such as `TextEncoder`.
        objective: one method, or a `Sum`.

    Raises:
        ValueError: the objective needs what this encoder cannot give.
    """

    def __init__(self, encoder: nn.Module, objective: Objective):
        super().__init__()
        if missing := sorted(objective.needs - encoder.gives):
            gives = ", ".join(sorted(encoder.gives))
            raise ValueError(
                f"{type(objective).__name__} needs {', '.join(missing)} of the encoder, which "
                f"{type(encoder).__name__} cannot give; it gives {gives}."
            )
        self.encoder, self.objective = encoder, objective
        objective.build(encoder)
        momentum = objective.teacher_momentum
        self.teacher = None if momentum is None else Teacher(encoder, momentum=momentum)
        self._want = objective.needs - _FREE

    def forward(self, batch: Batch) -> Step:
        """Views, encodings and terms of a batch."""
        views = self.view(batch)
        return self.score(self.encode(views), views, batch)

    def view(self, batch: Batch) -> list[View]:
        """The objective's views of the batch, each made once."""
        return [self.encoder.view(batch, spec) for spec in self.objective.views]

    def encode(self, views: Sequence[View]) -> list[Encoding]:
        """All views that the same encoder sees, in one call of it."""
        encodings: dict[int, Encoding] = {}
        for who in dict.fromkeys(spec.encoder for spec in self.objective.views):
            rows = [i for i, spec in enumerate(self.objective.views) if spec.encoder == who]
            encoder = self.encoder if who == "online" else self.teacher
            together = encoder(cat_views([views[i] for i in rows]), want=self._want)
            sizes = [len(views[i].mask) for i in rows]
            encodings.update(zip(rows, split_encoding(together, sizes), strict=True))
        return [encodings[i] for i in range(len(views))]

    def score(self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch) -> Step:
        """The objective's terms and their weighted sum."""
        terms = self.objective(encodings, views, batch)
        return Step(total(terms), terms, tuple(e.pooled.detach() for e in encodings))

    def step(self) -> None:
        """Move teachers and memories; call once after each optimizer step."""
        self.objective.step()
        if self.teacher is not None:
            self.teacher.step()


class _Leaf(NamedTuple):
    """Encodings cut off from the encoder's graph, and where their gradients gather."""

    encoding: Encoding
    tensors: tuple[Tensor, ...]


def _detach(encoding: Encoding, want_tokens: bool) -> _Leaf:
    leaf = lambda x: x.detach().requires_grad_()  # noqa: E731
    pooled = leaf(encoding.pooled)
    tokens = leaf(encoding.tokens) if want_tokens else encoding.tokens.detach()
    layers = tuple(leaf(x) for x in encoding.layers or ()) or None
    # The table is a parameter: the loss's own backward reaches it.
    cut = Encoding(pooled, tokens, encoding.mask, layers, encoding.table)
    return _Leaf(cut, (pooled, *((tokens,) if want_tokens else ()), *(layers or ())))


def cached_step(
    module: Pretraining, batches: Sequence[Batch], *, seed_micro, backward, autocast
) -> Step:
    """One step over micro-batches that share their negatives, at the memory of one micro-batch.

    Encode all without a graph, take the loss over them together, then encode each again with a
    graph and push the loss's gradient through it. Dropout is replayed: `seed_micro(i)` sets the
    random state before both encodings of micro-batch i. The gradient equals that of the whole
    batch in one pass.

    Args:
        module: what is trained (not its DDP wrapper: gradients stay local here).
        batches: the micro-batches.
        seed_micro: sets the random state for a micro-batch.
        backward: runs backward for a scalar (the accelerator's, so that scalers work).
        autocast: makes the context to compute in.

    Reference: Gao et al. 2021, arXiv 2101.06983, section 3.
    """
    want_tokens = "tokens" in module.objective.needs
    specs = module.objective.views
    views = [module.view(b) for b in batches]
    found = []
    for i, seen in enumerate(views):
        seed_micro(i)
        with torch.no_grad(), autocast():
            found.append(module.encode(seen))
    online = [spec.encoder == "online" for spec in specs]
    leaves = [
        [_detach(e, want_tokens) if on else _Leaf(e, ()) for e, on in zip(es, online, strict=True)]
        for es in found
    ]
    del found
    seed_micro(len(batches))  # heads with dropout draw from a stream of their own
    with autocast():
        step = module.score(
            [cat_encodings([row[v].encoding for row in leaves]) for v in range(len(specs))],
            [cat_views([row[v] for row in views]) for v in range(len(specs))],
            cat_batches(batches),
        )
    backward(step.loss)
    for i, seen in enumerate(views):
        seed_micro(i)
        with autocast():
            again = module.encode(seen)
        outs, grads = [], []
        for encoding, leaf in zip(again, leaves[i], strict=True):
            parts = (encoding.pooled, encoding.tokens) if want_tokens else (encoding.pooled,)
            for out, cut in zip((*parts, *(encoding.layers or ())), leaf.tensors, strict=False):
                if cut.grad is not None:
                    outs.append(out)
                    grads.append(cut.grad.to(out.dtype))
        torch.autograd.backward(outs, grads)
    return step
