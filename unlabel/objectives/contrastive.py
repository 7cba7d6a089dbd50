"""Contrastive objectives: a sample against the others of its batch or memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, view
from unlabel.objectives.chains import chain
from unlabel.objectives.contrast import contrast
from unlabel.objectives.gather import gather, global_mean, world
from unlabel.objectives.heads import Temperature, mlp_projector, tanh_projector
from unlabel.objectives.kernels import jensen_shannon
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.state import Queue, Teacher

Cut = Literal["token", "span", "feature", "channel"]


def in_batch(
    query: Tensor,
    keys: Tensor,
    index: Tensor,
    *,
    temperature: float | Tensor,
    normalize: bool = True,
    symmetric: bool = False,
) -> tuple[Tensor, int]:
    """Each query against the keys of all ranks, its own key the positive; loss and candidates.

    Keys of the same sample (equal `index`) are no negatives of it. Without `normalize` they are
    compared by inner products. With `symmetric` it is the mean with the direction from keys to
    queries, which takes as many keys as queries.
    """
    rows = contrast(
        query,
        keys,
        temperature=temperature,
        symmetric=symmetric,
        query_id=index,
        key_id=index,
        normalize=normalize,
        across=True,
        reduction="none",
    )
    return global_mean(rows), len(keys) * world()[1]


class _Pooled(Objective):
    """Contrast of pooled vectors, behind a train-only head unless there is none."""

    needs_others = True

    def __init__(self, *, projector: bool):
        super().__init__()
        self.with_projector = projector

    def build(self, encoder: Encoder) -> None:
        """Make the train-only head."""
        self.projector = tanh_projector(encoder.width) if self.with_projector else nn.Identity()


class SimCSE(_Pooled):
    """The same sentence twice through dropout, against the rest of the batch.

    `-ln exp(cos(z_i, z'_i)/T) / sum_j exp(cos(z_i, z'_j)/T)`, mean over i. All equal gives ln N.
    Without dropout the two views are equal and nothing can be learnt. From random weights it is
    reported not to work: pretrain with `MLM` first, or add it.

    Args:
        temperature: T.
        learn_temperature: learn T, starting from `temperature`.
        projector: train-only head, a linear layer with tanh (dropped for use).

    Reference: Gao et al. 2021, arXiv 2104.08821, equation 4; authors' code `simcse/models.py`.
    """

    paper = "SimCSE (Gao et al. 2021, arXiv 2104.08821)"
    views = (view("plain", 0), view("plain", 1))

    def __init__(
        self,
        *,
        temperature: float = 0.05,
        learn_temperature: bool = False,
        projector: bool = True,
    ):
        super().__init__(projector=projector)
        self.temperature = Temperature(temperature, learned=learn_temperature)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `contrast`."""
        query, keys = (self.projector(e.pooled) for e in encodings)
        loss, n = in_batch(query, keys, batch.same, temperature=self.temperature())
        return {"contrast": Term(loss, chance=math.log(n))}


class Cutoff(_Pooled):
    """The whole sentence against itself with a part cut out, and agreement of the two.

    `CE(full) + CE(cut) + consistency * JS(p_full, p_cut)` as in the paper, with the other samples
    of the batch as the classes: `p_full[i]` is the softmax over j of `cos(z_i, z'_j)/T`, and
    `p_cut[i]` that of `cos(z'_i, z_j)/T`, where z' sees the cut sentence.

    Args:
        cut: what is cut: random tokens, one span of tokens, embedding features, or channels.
        ratio: share that is cut; 0 leaves the sentence as it is.
        temperature: T.
        consistency: weight of the Jensen-Shannon term; 0 leaves the contrastive ones alone.
        projector: train-only head, as in `SimCSE`.

    Reference: Shen et al. 2020, arXiv 2009.13818, sections 3.1 and 3.2.
    """

    paper = "Cutoff (Shen et al. 2020, arXiv 2009.13818)"

    def __init__(
        self,
        *,
        cut: Cut = "token",
        ratio: float = 0.1,
        temperature: float = 0.05,
        consistency: float = 1.0,
        projector: bool = True,
    ):
        super().__init__(projector=projector)
        self.views = (view("plain", 0), view(f"{cut}_cutoff", 1, ratio=ratio))
        self.temperature, self.consistency = temperature, consistency

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `full`, `cut` and, unless its weight is 0, `consistency`."""
        full, cut = (self.projector(e.pooled) for e in encodings)
        of_full, n = in_batch(full, cut, batch.same, temperature=self.temperature)
        of_cut, _ = in_batch(cut, full, batch.same, temperature=self.temperature)
        terms = {"full": Term(of_full, 1.0, math.log(n)), "cut": Term(of_cut, 1.0, math.log(n))}
        if self.consistency:
            # The two nearly agree: rounded logits would be all that there is between them.
            with torch.autocast(full.device.type, enabled=False):
                a, b = (F.normalize(exact(z), dim=1) for z in (full, cut))
                logits = [a @ gather(b).T / self.temperature, b @ gather(a).T / self.temperature]
            apart = jensen_shannon(logits, reduction="none")
            terms["consistency"] = Term(global_mean(apart), self.consistency)
        return terms


class Pairs(_Pooled):
    """A sentence against the one given with it, other pairs' and hard negatives being wrong.

    The same sample's own pair, should a batch hold it twice, is not wrong; its hard negative is.

    Args:
        temperature: T.
        negative: the data has a third column of hard negatives.
        projector: train-only head, as in `SimCSE` (supervised SimCSE keeps none by default here).

    Reference: Gao et al. 2021, arXiv 2104.08821, equation 5.
    """

    paper = "Supervised SimCSE (Gao et al. 2021, arXiv 2104.08821)"
    needs = frozenset({"pooled", "pair"})

    def __init__(
        self, *, temperature: float = 0.05, negative: bool = False, projector: bool = False
    ):
        super().__init__(projector=projector)
        partners = ("positive", "negative") if negative else ("positive",)
        self.views = (view("plain"), *(view("plain", partner=p) for p in partners))
        self.needs_others = not negative
        self.temperature = temperature

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `contrast`."""
        query, positive, *hard = (self.projector(e.pooled) for e in encodings)
        keys = torch.cat([positive, *hard])
        nobodys = [torch.full_like(batch.same, -2) for _ in hard]
        rows = contrast(
            query,
            keys,
            temperature=self.temperature,
            query_id=batch.same,
            key_id=torch.cat([batch.same, *nobodys]),
            across=True,
            reduction="none",
        )
        chance = math.log(len(keys) * world()[1])
        return {"contrast": Term(global_mean(rows), chance=chance)}


class MoCo(Objective):
    """A query against its moving-average key and a queue of earlier keys.

    `-ln exp(q.k/T) / (exp(q.k/T) + sum_queue exp(q.k_j/T))`. All equal gives ln(K + 1).

    Args:
        queue: K, keys remembered.
        temperature: T.
        momentum: of the key encoder and its head.
        width: of the projection.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
            Plain ones differ by dropout alone.
        args: their arguments, such as `{"jitter.high": 0.3}`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: He et al. 2020, arXiv 1911.05722, algorithm 1; MLP head of v2, arXiv 2003.04297.
    """

    paper = "MoCo v2 (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297)"

    def __init__(
        self,
        *,
        queue: int = 4096,
        temperature: float = 0.05,
        momentum: float = 0.995,
        width: int = 128,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        query, key = (chain(augment, draw=draw, args=args) for draw in (0, 1))
        self.views = (query, replace(key, encoder="teacher"))
        self.temperature, self.teacher_momentum, self.width = temperature, momentum, width
        self.queue = Queue(queue, width)

    def build(self, encoder: Encoder) -> None:
        """Make the projector and its moving average."""
        self.projector = mlp_projector(encoder.width, self.width)
        self.key_projector = Teacher(self.projector, momentum=self.teacher_momentum or 0.0)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `contrast`; remembers the batch's keys for the next steps."""
        query = self.projector(encodings[0].pooled)
        keys = F.normalize(self.key_projector(encodings[1].pooled), dim=1)
        rows = contrast(
            query,
            self.queue.rows.to(keys.dtype),
            keys,
            temperature=self.temperature,
            query_id=batch.same,
            key_id=self.queue.index,
            reduction="none",
        )
        self.queue.put(gather(keys), gather(batch.same))
        return {"contrast": Term(global_mean(rows), chance=math.log(1 + len(self.queue.rows)))}


__all__ = ["Cutoff", "MoCo", "Pairs", "SimCSE", "in_batch"]
