"""Motion as the teacher: patches that were tracked, and clusters of optical flow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, stream_of, uniform
from unlabel.objectives.chains import chain
from unlabel.objectives.clusters import Clusters
from unlabel.objectives.gather import gather, global_mean
from unlabel.objectives.heads import mlp_projector
from unlabel.objectives.kernels import classify, rank
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.state import Clock


class Tracking(Objective):
    """Tracked patches: the first and the last patch of a track are closer than two tracks' patches.

    `max(0, D(x, x+) - D(x, x-) + margin)` with D = 1 - cos, mean over samples and their negatives,
    which are last patches of other tracks in the batch of all ranks: drawn at random at first,
    later the closest ones. Coincident vectors give the margin.

    Args:
        margin: of the distances.
        negatives: of each sample.
        random_steps: optimizer steps with random negatives, before the closest ones are taken.
        width: of the projection.
        augment: views of both patches, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: no negative, or an argument of a view that is not there.

    Reference: Wang & Gupta 2015, arXiv 1505.00687, sections 4.2 and 4.3.
    """

    paper = "Siamese-triplet tracking (Wang & Gupta 2015, arXiv 1505.00687)"
    needs = frozenset({"pooled", "tracked"})

    def __init__(
        self,
        *,
        margin: float = 0.5,
        negatives: int = 4,
        random_steps: int = 1000,
        width: int = 128,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if negatives < 1:
            raise ValueError(f"negatives is how many each sample has, but {negatives} came.")
        first = chain(augment, args=args)
        self.views = (first, replace(first, partner="tracked"))
        self.margin, self.negatives = margin, negatives
        self.random_steps, self.width = random_steps, width
        self.clock, self.stream = Clock(), stream_of("tracking")

    def build(self, encoder: Encoder) -> None:
        """Make the projector."""
        self.projector = mlp_projector(encoder.width, self.width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `track`."""
        first, last = (F.normalize(exact(self.projector(e.pooled)), dim=1) for e in encodings)
        with torch.autocast(first.device.type, enabled=False):
            apart = 1 - first @ gather(last).T
        own = 1 - (first * last).sum(1, keepdim=True)
        d_neg, is_other = self.pick(apart, batch)
        losses = rank(own.expand_as(d_neg), d_neg, margin=self.margin, reduction="none")
        return {"track": Term(global_mean(losses[is_other]), chance=self.margin)}

    def pick(
        self, apart: Float[Tensor, "batch all_batch"], batch: Batch
    ) -> tuple[Float[Tensor, "batch negatives"], Tensor]:
        """Distances of the negatives, and True where there is one."""
        others = gather(batch.index)
        is_other = batch.index[:, None] != others
        # A number of the pair, not of the place in the batch.
        mixed = batch.ordinal[:, None] * 1_000_003 + gather(batch.ordinal)
        by_chance = uniform(batch.seed, mixed.flatten(), self.stream, 1).view_as(apart)
        score = torch.where(
            self.clock.steps < self.random_steps, by_chance, apart.detach().to(by_chance.dtype)
        )
        best = score.masked_fill(~is_other, torch.inf).topk(
            min(self.negatives, len(others)), dim=1, largest=False
        )
        return apart.gather(1, best.indices), best.values.isfinite()


class MotionClustering(Objective):
    """Motion clustering: from the frames, which cluster the clip's optical flow falls into.

    k-means of the flow's descriptors gives the classes, and is fitted again as training goes on;
    cross-entropy, mean over samples. Where the flow of all clips is the same, no cluster is nearer
    than another, the target is even, and ln K is the least that can be had.

    Args:
        clusters: K.
        every: steps from fit to fit.
        memory: latest clips that a fit looks at.
        augment: views of the frames, joined by `+`; none that mirrors, turns or reverses them.
        args: their arguments, and those of the descriptor, such as `{"motion.areas": 4}`.

    Raises:
        ValueError: fewer than two clusters, or an argument of a view that is not there.

    Reference: Caron et al. 2018 (DeepCluster), arXiv 1807.05520, section 3.1; clusters of another
    modality as classes: Alwassel et al. 2019 (XDC), arXiv 1911.12667; flow as the other one:
    Mahendran et al. 2018, arXiv 1807.05636.
    """

    paper = "Cross-modal clustering (XDC, Alwassel et al. 2019, arXiv 1911.12667), of optical flow"

    def __init__(
        self,
        *,
        clusters: int = 16,
        every: int = 20,
        memory: int = 4096,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if clusters < 2:
            raise ValueError(f"clusters is 2 or more, but {clusters} came.")
        self.views = (chain(augment, "motion", args=args),)
        areas, directions = (
            int((args or {}).get(f"motion.{name}", default))
            for name, default in (("areas", 2), ("directions", 8))
        )
        self.clusters = Clusters(clusters, areas**2 * directions, every=every, memory=memory)

    def build(self, encoder: Encoder) -> None:
        """Make the head over the clusters."""
        self.classifier = nn.Linear(encoder.width, len(self.clusters.centres))

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `cluster`; holds the descriptors back for the next fit."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        found = seen.target[:, 0]
        self.clusters.put(gather(found))
        logits = self.classifier(encoding.pooled)
        losses = classify(logits, self.clusters.assign(found), reduction="none")
        return {"cluster": Term(global_mean(losses), chance=math.log(logits.shape[1]))}


__all__ = ["MotionClustering", "Tracking"]
