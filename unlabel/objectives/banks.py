"""Each sample its own class, against a memory with one row for every sample of the data set."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unlabel.core import Batch, Encoder, Encoding, View, stream_of, uniform
from unlabel.objectives.blocks import in_blocks
from unlabel.objectives.chains import chain
from unlabel.objectives.clusters import Clusterings
from unlabel.objectives.contrast import contrast
from unlabel.objectives.gather import gather, global_mean
from unlabel.objectives.heads import check_temperature, mlp_projector
from unlabel.objectives.kernels import nce
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.state import Bank, Fixed
from unlabel.objectives.unit import wide

_NOISE = stream_of("noise of a bank")


def bank_of(method: Objective, width: int, *, momentum: float = 0.5, seed: int = 0) -> Bank:
    """A memory with a row for each sample of the data that a method has met, see `Bank`.

    Raises:
        ValueError: how many samples there are is not known.
    """
    if method.samples is None:
        raise ValueError(
            f"{type(method).__name__} remembers a row for every sample, but how many there are "
            "is not known of a stream; give data of a known size, or use moco, whose queue "
            "holds as many as you say."
        )
    return Bank(method.samples, width, momentum=momentum, seed=seed)


class _Banked(Objective):
    """One view of a sample, and the memory of all samples' projections.

    Args:
        temperature: T.
        momentum: share of a sample's old row that stays.
        width: of the projection, which is linear.
        augment: the view, joined by `+`.
        args: its arguments.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        momentum: float = 0.5,
        width: int = 128,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_temperature(temperature)
        self.views = (chain(augment, args=args),)
        self.temperature, self.momentum, self.width = temperature, momentum, width

    def build(self, encoder: Encoder) -> None:
        """Make the projector and the memory, a row for each sample."""
        self.projector = mlp_projector(encoder.width, self.width, layers=1)
        self.bank = bank_of(self, self.width, momentum=self.momentum)

    def remember(self, encoding: Encoding, batch: Batch) -> Float[Tensor, "batch width"]:
        """This rank's projections at length 1; those of all ranks go to the memory."""
        z = F.normalize(exact(self.projector(encoding.pooled)), dim=1)
        self.bank.put(gather(z.detach()), gather(batch.index))
        return z


class InstDisc(_Banked):
    """Instance discrimination: a view finds its own sample's memory among those of all samples.

    `P(i|v) = exp(v.m_i/T) / Z`, m the memories. `softmax` takes `-ln P` with the whole Z, in memory
    linear in the batch and the data: all equal gives ln n. `nce` tells the sample from K noise
    samples, `-ln h(i) - sum_k ln(1 - h(k))` with `h = P / (P + K/n)` and Z settled by the first
    batch: P = 1/n gives `ln(1 + K) + K ln((1 + K)/K)`.

    Args:
        loss: `softmax` or `nce`.
        noise: K, drawn evenly from the data for each sample.
        banked: temperature T, momentum (share of a sample's old memory that stays), width of the
            projection, which is linear, and the view: augment, args.

    Raises:
        ValueError: another loss, no noise, a temperature that is not above 0, an argument of a
            view that is not there, or (in `build`) data whose number of samples is not known.

    Reference: Wu et al. 2018, arXiv 1805.01978, sections 3.1 and 3.2, equations 2 and 4 to 8.
    """

    paper = "InstDisc (Wu et al. 2018, arXiv 1805.01978)"

    def __init__(
        self,
        *,
        loss: Literal["softmax", "nce"] = "softmax",
        noise: int = 4096,
        **banked: Any,
    ):
        super().__init__(**banked)
        if loss not in ("softmax", "nce") or noise < 1:
            raise ValueError(
                f"loss is {loss!r} and noise {noise}: give 'softmax' or 'nce', and at least 1."
            )
        self.loss, self.noise = loss, noise
        self.log_z = Fixed()

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `instance`; remembers the batch for the next steps."""
        z, n, k = self.remember(encodings[0], batch), len(self.bank.rows), self.noise
        if self.loss == "nce":
            chance = math.log1p(k) + k * math.log1p(1 / k)
            return {"instance": Term(global_mean(self.against_noise(z, batch)), chance=chance)}
        rows = contrast(
            z, self.bank.rows, batch.index, temperature=self.temperature, reduction="none"
        )
        return {"instance": Term(global_mean(rows), chance=math.log(n))}

    def against_noise(
        self, z: Float[Tensor, "batch width"], batch: Batch
    ) -> Float[Tensor, "batch"]:
        """NCE of each sample against its noise."""
        n = len(self.bank.rows)
        drawn = uniform(batch.seed, batch.ordinal, _NOISE, self.noise).double()
        at = torch.cat([batch.index[:, None], (drawn * n).long()], 1)
        memory = self.bank.rows.to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            (scores,) = in_blocks(
                lambda x, own: (torch.einsum("bd,bkd->bk", x, memory[own]),),
                z / self.temperature,
                at,
                each=at.shape[1] * self.width,
            )
        over_noise = gather(scores[:, 1:].detach().logsumexp(1))
        mean = over_noise.logsumexp(0) - math.log(len(over_noise) * self.noise)
        scores = scores - self.log_z(mean + math.log(n))
        prior = math.log(self.noise / n)
        return nce(scores[:, 0], scores[:, 1:], log_prior=prior, reduction="none")


class LocalAggregation(_Banked):
    """Local aggregation: a view is near those of its neighbours that share a cluster with it.

    `-ln sum_{j in C and B} exp(v.m_j/T) / sum_{j in B} exp(v.m_j/T)`: B the k memories nearest to
    the view, C those in the sample's own cluster in any of H clusterings by k-means; the sample
    itself belongs to both. One cluster gives 0. While every sample is a cluster of its own (until
    the first fit), and with k = n, it is the softmax of `InstDisc`. k-means is scikit-learn's, on
    the CPU.

    Args:
        neighbours: k; all samples where there are fewer.
        clusterings: H.
        clusters: of each clustering; None takes one for 40 samples.
        every: passes over the data from clustering to clustering.
        banked: temperature T, momentum (share of a sample's old memory that stays), width of the
            projection, which is linear, and the view: augment, args.

    Raises:
        ValueError: a temperature that is not above 0, an argument of a view that is not there, or
            (in `build`) data whose number of samples is not known or smaller than that of the
            clusters.

    Reference: Zhuang et al. 2019, arXiv 1903.12355, section 3, equations 2 to 5.
    """

    paper = "Local aggregation (Zhuang et al. 2019, arXiv 1903.12355)"

    def __init__(
        self,
        *,
        neighbours: int = 4096,
        clusterings: int = 3,
        clusters: int | None = None,
        every: float = 1.0,
        **banked: Any,
    ):
        super().__init__(**banked)
        self.neighbours, self.clusterings = neighbours, clusterings
        self.clusters, self.every = clusters, every

    def build(self, encoder: Encoder) -> None:
        """Make the projector, the memory and its clusterings."""
        super().build(encoder)
        n = len(self.bank.rows)
        count = max(1, n // 40) if self.clusters is None else self.clusters
        if not 1 <= count <= n or self.neighbours < 1 or self.clusterings < 1:
            raise ValueError(
                f"clusters is {count}, neighbours {self.neighbours} and clusterings "
                f"{self.clusterings}: give at least 1 of each, and at most as many clusters as the "
                f"{n} samples."
            )
        # After the bank: in a step, that has moved by the time it is clustered.
        self.groups = Clusterings(self.bank, count, clusterings=self.clusterings, every=self.every)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `local`; remembers the batch for the next steps."""
        z = self.remember(encodings[0], batch)
        self.groups.put(len(gather(batch.index)))
        memory, labels = self.bank.rows.to(z.dtype), self.groups.labels
        count = min(self.neighbours, len(memory))

        def block(x: Tensor, own: Int[Tensor, "rows"]) -> tuple[Tensor]:
            scores = x @ memory.T
            first = scores.detach().scatter(1, own[:, None], math.inf)
            near = first.topk(count, dim=1).indices
            kept = scores.gather(1, near).to(wide(x))
            close = (labels[:, near] == labels[:, own, None]).any(0)
            return (kept.logsumexp(1) - kept.masked_fill(~close, -math.inf).logsumexp(1),)

        each = len(memory) + count * (2 + len(labels))
        with torch.autocast(z.device.type, enabled=False):
            (rows,) = in_blocks(block, z / self.temperature, batch.index, each=each)
        return {"local": Term(global_mean(rows.to(z.dtype)))}


__all__ = ["InstDisc", "LocalAggregation", "bank_of"]
