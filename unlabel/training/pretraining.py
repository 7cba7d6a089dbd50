"""Encoder and objective as one module: views, one encoder call, terms."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

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
from unlabel.objectives.chains import seen_by, usual
from unlabel.objectives.state import Teacher
from unlabel.training.profile import part

# What an encoding always holds; the rest is asked for by name.
_FREE = frozenset({"pooled", "tokens"})

LIKE = 0.8  # a view of this share of the longest one's length is padded to it, a shorter one is not


class Step(NamedTuple):
    """What a forward pass gives the trainer: the loss, its terms, and what was encoded."""

    loss: Tensor
    terms: dict[str, Term]
    pooled: tuple[Tensor, ...]


class Pretraining(nn.Module):
    """An encoder under an objective, in training mode whatever mode the encoder came in.

    Args:
        encoder: a modality's adapter, such as `TextEncoder`.
        objective: one method, or a `Sum`.
        samples: of the data set, where their number is known; memories of all of them need it.
        classes: of its labels, where it has any; objectives that use labels need it.

    Raises:
        ValueError: the objective needs what this encoder cannot give.
    """

    encoder: Any
    teacher: Teacher | None

    def __init__(
        self,
        encoder: nn.Module,
        objective: Objective,
        samples: int | None = None,
        classes: int | None = None,
    ):
        super().__init__()
        self.encoder, self.objective = encoder, objective
        objective.meet(self.encoder, samples, classes)
        if missing := lacking(objective, self.encoder):
            only_views = all(m.startswith("view ") for m in missing)
            has = f"; its views are {', '.join(sorted(self.encoder.views))}" if only_views else ""
            raise ValueError(
                f"{type(objective).__name__} needs {_in_words(missing)}, which "
                f"{type(encoder).__name__} cannot give{has}."
            )
        objective.build(self.encoder)
        momentum = objective.teacher_momentum
        self.teacher = None if momentum is None else Teacher(encoder, momentum=momentum)
        self._want = objective.needs - _FREE
        # A batch norm's statistics are of what it sees at once; nothing is padded in unpadded text.
        self._at_once = getattr(encoder, "first_position", None) is not None or any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules()
        )
        self.train()  # a loaded encoder evaluates: no dropout, and batch norms that stand still

    def forward(self, batch: Batch) -> Step:
        """Views, encodings and terms of a batch."""
        views = self.view(batch)
        return self.score(self.encode(views), views, batch)

    def view(self, batch: Batch) -> list[View]:
        """The objective's views of the batch, each made once.

        Raises:
            ValueError: the samples do not say which they are.
        """
        if batch.lacks:
            raise ValueError(
                f"The samples came without {' and '.join(batch.lacks)}, so that none would be "
                "another's negative and all would draw alike; give each its `index` in the data "
                "and its `ordinal` in the run, epoch * len(data) + index."
            )
        with part("views"):
            made = [self.encoder.view(batch, spec) for spec in self.objective.views]
            with torch.no_grad():
                return list(self.objective.rewrite(made, batch))

    def encode(self, views: Sequence[View]) -> list[Encoding]:
        """All views that the same encoder sees, in one call of it if they are about as long."""
        # The online encoder comes first, so that its dropout is the same with and without teacher.
        found = self.encode_by("online", views) | self.encode_by("teacher", views)
        return [found[i] for i in range(len(views))]

    def encode_by(self, who: str, views: Sequence[View]) -> dict[int, Encoding]:
        """Encodings of the views that `online` or `teacher` sees, by their place.

        Views whose inputs differ in more than length (crops of two sizes) go one size at a time,
        those of several sides one side at a time, and those much shorter (questions beside their
        answers) by themselves, where padding them would cost more than a call.
        """
        encoder: Any = self.encoder if who == "online" else self.teacher
        sizes: dict[Any, list[int]] = {}
        for i, spec in enumerate(self.objective.views):
            if spec.encoder == who:
                shape = tuple((k, views[i].inputs[k].shape[2:]) for k in sorted(views[i].inputs))
                sizes.setdefault((views[i].side, shape), []).append(i)
        found = {}
        for rows in (call for alike in sizes.values() for call in self._calls(alike, views)):
            # Targets differ in shape from objective to objective; no encoder reads them or places.
            unread = ("is_target", "target", "weight", "places", "label")
            off: dict[str, None] = dict.fromkeys(unread)
            seen = [replace(views[i], **off) for i in rows]
            with part("encode"):
                together = encoder(cat_views(seen), want=self._want)
            parts = split_encoding(together, [len(views[i].mask) for i in rows])
            found.update(zip(rows, parts, strict=True))
        return found

    def _calls(self, places: list[int], views: Sequence[View]) -> list[list[int]]:
        """Places of views, those apart that are much shorter than the others."""
        # A compiled step has no lengths to decide by: each way to go would be compiled for itself.
        if self._at_once or torch.compiler.is_compiling():
            return [places]
        length = {i: views[i].mask.shape[1] for i in places}
        calls: list[list[int]] = []
        for i in sorted(places, key=lambda i: -length[i]):
            if calls and length[i] >= LIKE * length[calls[-1][0]]:
                calls[-1].append(i)
            else:
                calls.append([i])
        return [sorted(call) for call in calls]

    def score(self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch) -> Step:
        """The objective's terms and their weighted sum."""
        with part("loss"):
            terms = self.objective(encodings, views, batch)
            loss = total(terms)
        return Step(loss, terms, tuple(e.pooled.detach() for e in encodings))

    def pull(self, views: Sequence[View], slopes: Sequence[Sequence[Tensor | None]]) -> Tensor:
        """Encode the views anew; a scalar whose backward is that of the loss.

        Args:
            views: of a micro-batch.
            slopes: the loss's, by each part of each view's encoding.
        """
        ends = [
            (out * slope).sum()
            for place, encoding in self.encode_by("online", views).items()
            for out, slope in zip(_parts(self, encoding), slopes[place], strict=True)
            if slope is not None
        ]
        return torch.stack(ends).sum()

    def activation_checkpointing_enable(self, **how: Any) -> None:
        """Compute the encoder's blocks again for the gradient, at the memory of one of them.

        What transformers' trainer calls where `gradient_checkpointing` is on; heads are left alone.

        Args:
            how: as for the method of the same name of transformers' models.

        Raises:
            ValueError: the model has no blocks that could be computed again.
        """
        for tower in getattr(self.encoder, "towers", {"": self.encoder}).values():
            tower.model.activation_checkpointing_enable(**how)

    def step(self) -> None:
        """Move teachers and memories; call once after each optimizer step."""
        self.objective.step()
        if self.teacher is not None:
            self.teacher.step()


def lacking(objective: Objective, encoder: Any) -> list[str]:
    """What the objective needs and the encoder (or its class) lacks: parts and views, by name."""
    named = (usual(spec, encoder) for spec in objective.views)
    wanted = {
        part.name
        for spec in named
        if spec is not None
        for part in spec.parts()
        if part.name not in seen_by(spec, encoder).views
    }
    return sorted(objective.needs - encoder.gives) + sorted(f"view {name}" for name in wanted)


# What an objective may need of an encoder or of the data, in words.
NEEDS = {
    "causal": "an encoder that sees the past alone",
    "framewise": "frames that are encoded one by one",
    "future": "steps after the window",
    "layers": "the hidden layers",
    "likelihood": "an invertible encoder (model_type: coupling_flow)",
    "length": "views of a fixed number of tokens",
    "pair": "a sentence given with each one",
    "places": "tokens that lie somewhere",
    "pooled": "a vector of the sample",
    "sensor": "a second sensor",
    "sides": "another kind of data beside each sample",
    "table": "a vocabulary",
    "times": "more than one moment",
    "token_ids": "a vocabulary",
    "tokens": "a vector of each token",
    "tracked": "patches tracked through a video",
    "turned": "views that can be told apart and keep a sample's class",
    "values": "numbers that a token stands for",
    "view": "a second camera",
    "visible_only": "an encoder that leaves hidden tokens out",
}


def why_not(objective: Objective, encoder: Any) -> str:
    """Why an objective cannot train this encoder (or any of its class); empty where it can."""
    objective.meet(encoder)
    missing = lacking(objective, encoder)
    return f"needs {_in_words(missing)}" if missing else ""


def _in_words(missing: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(NEEDS.get(m, m) for m in missing))


def cached_step(
    module: Pretraining,
    batches: Sequence[Batch],
    *,
    seed_micro: Callable[[int], object],
    backward: Callable[[Tensor], object],
    autocast: Callable[[], AbstractContextManager],
) -> Step:
    """One step over micro-batches that share their negatives, at the memory of one micro-batch.

    Encode all without a graph, take the loss over them together, then encode each again with a
    graph and push the loss's gradient through it. Dropout is replayed: `seed_micro(i)` sets the
    random state before both encodings of micro-batch i. The gradient equals that of the whole
    batch in one pass.

    Args:
        module: what is trained (not its DDP wrapper: gradients stay local here).
        batches: the micro-batches.
        seed_micro: sets the random state for a micro-batch; with their number, for the heads.
        backward: runs backward for a scalar (the accelerator's, so that scalers work).
        autocast: makes the context to compute in.

    Reference: Gao et al. 2021, arXiv 2101.06983, section 3.
    """
    views = [module.view(b) for b in batches]
    found = []
    for i, seen in enumerate(views):
        seed_micro(i)
        with torch.no_grad(), autocast():
            found.append([_cut(module, v, e) for v, e in enumerate(module.encode(seen))])
    seed_micro(len(batches))
    with autocast():
        step = module.score(
            [cat_encodings(parts) for parts in zip(*found, strict=True)],
            [cat_views(parts) for parts in zip(*views, strict=True)],
            cat_batches(batches),
        )
    with part("backward"):
        backward(step.loss)
    for i, seen in enumerate(views):
        seed_micro(i)
        slopes = [[x.grad for x in _parts(module, cut)] for cut in found[i]]
        with autocast():
            end = module.pull(seen, slopes)
        with part("backward"):
            end.backward()
        found[i] = []  # its gradients are not needed any more
    return step


def _parts(module: Pretraining, encoding: Encoding) -> tuple[Tensor, ...]:
    """What the objective reads of an encoding."""
    tokens = (encoding.tokens,) if "tokens" in module.objective.needs else ()
    nats = () if encoding.likelihood is None else (encoding.likelihood,)
    return (encoding.pooled, *tokens, *(encoding.layers or ()), *nats)


def _cut(module: Pretraining, place: int, encoding: Encoding) -> Encoding:
    """The encoding off its graph: leaves where gradients gather, if the online encoder made it.

    The table is a parameter: the loss's own backward reaches it. Tokens that no objective reads
    keep their length but no width, so that they take no memory.
    """
    online = module.objective.views[place].encoder == "online"
    off = lambda x: x.detach().requires_grad_(online)  # noqa: E731
    reads_tokens = "tokens" in module.objective.needs
    tokens = off(encoding.tokens) if reads_tokens else encoding.tokens[..., :0].clone()
    layers = tuple(off(x) for x in encoding.layers or ()) or None
    nats = None if encoding.likelihood is None else off(encoding.likelihood)
    return Encoding(off(encoding.pooled), tokens, encoding.mask, layers, encoding.table, nats)
