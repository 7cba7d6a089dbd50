"""Learned prototypes as classes: what one crop of a sample is assigned to, others predict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec
from unlabel.objectives.chains import multi_crop
from unlabel.objectives.gather import gather, global_mean, mean_over_ranks, world
from unlabel.objectives.heads import PrototypeHead, check_temperature
from unlabel.objectives.kernels import classify
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.sinkhorn import sinkhorn
from unlabel.objectives.state import Centre, Clock, Queue, Ramp, Teacher, growing


def swapped(
    targets: Sequence[Float[Tensor, "batch classes"]],
    logits: Sequence[Float[Tensor, "batch classes"]],
) -> Float[Tensor, ""]:
    """Cross-entropy of each crop's logits with the target of every other whole crop, their mean.

    Args:
        targets: of the whole crops, which come first among the logits.
        logits: of all crops.
    """
    pairs = [
        classify(logit, target, reduction="none")
        for i, target in enumerate(targets)
        for j, logit in enumerate(logits)
        if i != j
    ]
    return global_mean(torch.cat(pairs))


class SwAV(Objective):
    """SwAV: each crop predicts which prototypes another whole crop of the sample was assigned to.

    `-sum_k q_k ln softmax(cos(z, c_k) / T)`, mean over pairs of a whole crop, which gives q, and
    another crop, which gives z. Assignments q are Sinkhorn's, so that all prototypes are used alike
    over the batch of all ranks. Equal scores give ln K.

    Args:
        temperature: T.
        eps: of the assignment; smaller is sharper.
        iterations: of the assignment.
        prototypes: K (the paper's images took 3000).
        width: of the projection.
        hidden: width inside the projector.
        crops: number of local views beside the two whole ones.
        queue: earlier projections that are assigned with the batch, for small batches; 0 for none.
        queue_after: optimizer steps before they are.
        frozen: optimizer steps in which the prototypes learn nothing.
        augment: whole views, joined by `+`; `usual` are those of the kind of data.
        local: local views, likewise; `local` are those of the kind of data.
        args: their arguments, such as `{"jitter.high": 0.3, "local.crop.high": 0.2}`.

    Raises:
        ValueError: a temperature that is not above 0, or an argument of a view that is not there.

    Reference: Caron et al. 2020, arXiv 2006.09882, equation 2 and sections 3.1, 3.2 and A.2.
    """

    paper = "SwAV (Caron et al. 2020, arXiv 2006.09882)"
    settles = "frozen"

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        eps: float = 0.05,
        iterations: int = 3,
        prototypes: int = 512,
        width: int = 128,
        hidden: int = 512,
        crops: int = 6,
        queue: int = 0,
        queue_after: int = 0,
        frozen: int = 300,
        augment: str = "usual",
        local: str = "local",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_temperature(temperature)
        self.views = multi_crop(augment, args, local=local, count=crops)
        self.temperature, self.eps, self.iterations = temperature, eps, iterations
        self.sizes, self.count = (hidden, width), prototypes
        self.queue_after, self.frozen, self.clock = queue_after, frozen, Clock()
        self.queues = nn.ModuleList(Queue(queue, width) for _ in range(2 if queue else 0))

    def build(self, encoder: Encoder) -> None:
        """Make the projector and the prototypes."""
        self.projector = PrototypeHead(encoder.width, *self.sizes, count=self.count)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `swap`; remembers the batch's projections where there is a queue."""
        z = [self.projector.project(e.pooled) for e in encodings]
        scores = [self.projector.score(x, self.clock.steps < self.frozen) for x in z]
        targets = [self.assign(i, scores[i]) for i in range(2)]
        for queue, own in zip(self.queues, z, strict=False):
            queue.put(gather(own.detach()), gather(batch.index))  # type: ignore[operator]
        loss = swapped(targets, [s / self.temperature for s in scores])
        return {"swap": Term(loss, chance=math.log(self.count))}

    @torch.no_grad()
    def assign(
        self, crop: int, scores: Float[Tensor, "batch prototypes"]
    ) -> Float[Tensor, "batch prototypes"]:
        """Assignments of a whole crop, balanced together with its queue."""
        rows, is_counted = scores, None
        if self.queues:
            queue: Any = self.queues[crop]
            rank, size = world()
            # All ranks hold the same queue: each brings a part of it.
            known, index = queue.rows[rank::size], queue.index[rank::size]
            rows = torch.cat([scores, self.projector.score(known.to(scores))])
            is_late = (index >= 0) & (self.clock.steps >= self.queue_after)
            is_counted = torch.cat([is_late.new_ones(len(scores)), is_late])
        how = {"eps": self.eps, "iterations": self.iterations}
        return sinkhorn(rows, **how, is_counted=is_counted)[: len(scores)]


class DINO(Objective):
    """DINO: each crop predicts the prototypes that a moving average finds in another whole crop.

    `-sum_k q_k ln softmax(cos(z, c_k) / T)` with `q = softmax((cos(z', c'_k) - m_k) / T')`, mean
    over pairs of a whole crop, which the teacher sees, and another crop. The centre m is a moving
    average of the teacher's cosines and keeps one prototype from taking all; T' < T keeps them from
    sharing evenly. Equal cosines give ln K. The head has no batch norm and ReLU for GELU.

    Args:
        temperature: T.
        teacher_temperature: T'.
        first_temperature: T' before the first step; it grows to T' along a line.
        warm_steps: optimizer steps that this takes.
        centre: momentum of m.
        momentum: of the moving average.
        momentum_steps: optimizer steps over which it grows to 1 along a cosine, such as all steps
            of the run; None keeps it.
        prototypes: K (the paper's images took 65536).
        width: of the projection.
        hidden: width inside the projector, of two layers.
        crops: number of local views beside the two whole ones.
        frozen: optimizer steps in which the prototypes learn nothing.
        augment: whole views, joined by `+`; `usual` are those of the kind of data.
        local: local views, likewise; `local` are those of the kind of data.
        args: their arguments, such as `{"jitter.high": 0.3, "local.crop.high": 0.2}`.

    Raises:
        ValueError: a temperature that is not above 0, an argument of a view that is not there, or
            a momentum that is no share.

    Reference: Caron et al. 2021, arXiv 2104.14294, section 3.1, algorithm 1 and appendix C.
    """

    paper = "DINO (Caron et al. 2021, arXiv 2104.14294)"
    settles = "frozen"

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        first_temperature: float = 0.04,
        warm_steps: int = 0,
        centre: float = 0.9,
        momentum: float = 0.996,
        momentum_steps: int | None = None,
        prototypes: int = 1024,
        width: int = 256,
        hidden: int = 512,
        crops: int = 8,
        frozen: int = 300,
        augment: str = "usual",
        local: str = "local",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_temperature(temperature, teacher_temperature, first_temperature)
        online = multi_crop(augment, args, local=local, count=crops)
        self.views = (*online, *(replace(v, encoder="teacher") for v in online[:2]))
        self.temperature = temperature
        self.teacher_temperature = Ramp(first_temperature, teacher_temperature, warm_steps)
        self.teacher_momentum = growing(momentum, momentum_steps)
        self.sizes, self.count = (hidden, hidden, width), prototypes
        self.centre, self.frozen, self.clock = Centre(prototypes, momentum=centre), frozen, Clock()

    def build(self, encoder: Encoder) -> None:
        """Make the head and its moving average."""
        self.projector = PrototypeHead(encoder.width, *self.sizes, count=self.count)
        assert self.teacher_momentum is not None  # set when it was made
        self.key_projector = Teacher(self.projector, momentum=self.teacher_momentum)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `distil`; holds the batch's mean back for the centre."""
        online, teacher = encodings[:-2], encodings[-2:]
        found = [self.key_projector(e.pooled) for e in teacher]
        targets = [self.sharpen(x, self.centre) for x in found]
        self.centre.put(mean_over_ranks(torch.cat(found)))
        loss = swapped(targets, [self.logits(e.pooled) for e in online])
        return {"distil": Term(loss, chance=math.log(self.count))}

    def logits(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows prototypes"]:
        """What the online head makes of vectors."""
        return self.projector(x, self.clock.steps < self.frozen) / self.temperature

    def sharpen(
        self, cosines: Float[Tensor, "rows prototypes"], centre: Centre
    ) -> Float[Tensor, "rows prototypes"]:
        """Targets of the teacher's cosines."""
        temperature = self.teacher_temperature.at(self.clock.steps).to(cosines.dtype)
        return ((cosines - centre.value.to(cosines.dtype)) / temperature).softmax(1)


class IBOT(DINO):
    """iBOT: DINO on crops with a part hidden, and the teacher's prototypes of each hidden token.

    The teacher sees the same crops whole. To `distil` comes the same cross-entropy between what the
    one head makes of a hidden token and of the teacher's token there, with a centre of its own:
    mean over a sample's hidden tokens, then over the samples that have some. Equal cosines give
    ln K each; nothing hidden is DINO.

    Args:
        unit: what is hidden at a time: `"patch"`, a token; of pictures and clips also `"block"`, as
            the paper's, and those of `MaskedValues`.
        ratio: share hidden of each whole crop; 0 hides nothing.
        crops: number of local views, whole ones not counted.
        augment: as for `DINO`.
        args: as for `DINO`.
        dino: further arguments of `DINO`.

    Raises:
        ValueError: no share of at least 0 and below 1, or as for `DINO`.

    Reference: Zhou et al. 2022, arXiv 2111.07832, equations 2 and 3 and section 3.2.
    """

    paper = "iBOT (Zhou et al. 2022, arXiv 2111.07832)"
    needs = frozenset({"pooled", "tokens", "values"})

    def __init__(
        self,
        *,
        unit: str = "patch",
        ratio: float = 0.3,
        crops: int = 8,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
        **dino: Any,
    ):
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is the share to hide, below 1, but {ratio} came.")
        how = {"mask_values.unit": unit, "mask_values.ratio": ratio, **(args or {})}
        super().__init__(crops=crops, augment=f"{augment}+mask_values", args=how, **dino)
        self.views = (*self.views[:-2], *(_unmasked(v) for v in self.views[-2:]))
        self.token_centre = Centre(self.count, momentum=self.centre.momentum)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `distil` and `token`."""
        terms = super().forward(encodings, views, batch)
        losses, means = [], []
        for own, theirs, seen in zip(encodings[:2], encodings[-2:], views[:2], strict=True):
            assert seen.is_target is not None  # the view says what it hides
            is_hidden = seen.is_target.flatten(2).any(2)
            own_tokens, their_tokens, is_real = (
                x[:, : is_hidden.shape[1]] for x in (own.tokens, theirs.tokens, theirs.mask)
            )
            teacher: Any = self.key_projector.module
            with torch.no_grad():
                z = teacher.project(their_tokens)
                means.append(z[is_real])
                target = self.sharpen(teacher.score(z[is_hidden]), self.token_centre)
            found = classify(self.logits(own_tokens[is_hidden]), target, reduction="none")
            losses.append(_by_sample(found, is_hidden))
        # The mean of cosines is the cosine of the mean, and no token needs all of its own.
        self.token_centre.put(teacher.score(mean_over_ranks(torch.cat(means))))
        loss = global_mean(torch.cat(losses))
        return terms | {"token": Term(loss, chance=math.log(self.count))}


def _unmasked(spec: ViewSpec) -> ViewSpec:
    """The same draw of a view, with nothing hidden."""
    ratio = {"mask_values.ratio" if spec.links else "ratio": 0.0}
    return replace(spec, args=tuple(sorted({**dict(spec.args), **ratio}.items())))


def _by_sample(
    values: Float[Tensor, "chosen"], is_chosen: Bool[Tensor, "batch length"]
) -> Float[Tensor, "samples"]:
    """Mean of each sample's values, of the samples that have some."""
    count, sample = is_chosen.sum(1), is_chosen.nonzero()[:, 0]
    total = values.new_zeros(len(count)).index_add(0, sample, values)
    return (total / count.clamp(min=1))[count > 0]


__all__ = ["DINO", "IBOT", "SwAV", "swapped"]
