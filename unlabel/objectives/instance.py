"""Each sample its own class: a view finds its partner among the other views of the batch."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.contrast import contrast
from unlabel.objectives.gather import gather, global_mean, world
from unlabel.objectives.objective import Term
from unlabel.objectives.pairing import check_options
from unlabel.objectives.spread import spread
from unlabel.objectives.twins import Twins


class InstanceContrast(Twins):
    """SimCLR: each view finds its partner among the other views of the batch.

    NT-Xent over the 2N views of all ranks, mean over them; keys of the same sample (equal index)
    are no negatives. All equal gives ln(2N - 1).

    Args:
        temperature: T. 0.2 is what contrast of series starts from; SimCLR's images took 0.1 to 0.5.
        width: of the projection.
        layers: of the projector; SimCLR v2's has 3.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments, such as `{"jitter.high": 0.3}`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, equation 1; v2: Chen et al. 2020,
    2006.10029, section 2; T = 0.2: Eldele et al. 2021 (TS-TCC), 2106.14112, section 3.3; crops with
    noise: Yue et al. 2022 (TS2Vec), 2106.10466, section 3.2, and Woo et al. 2022 (CoST),
    2202.01575.
    """

    paper = "SimCLR (Chen et al. 2020, arXiv 2002.05709)"
    needs_others = True
    form: Mapping[str, Any] = MappingProxyType({})  # what more `contrast` is told

    def __init__(
        self,
        *,
        temperature: float = 0.2,
        width: int = 128,
        layers: int = 2,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(width=width, layers=layers, augment=augment, args=args)
        self.temperature = temperature

    def build(self, encoder: Encoder) -> None:
        """Make the projector, and refuse numbers outside their range."""
        super().build(encoder)
        tau_plus, beta = (self.form.get(name, 0.0) for name in ("tau_plus", "beta"))
        check_options(self.temperature, tau_plus, beta, True, False, "none")

    def losses(self, z0: Tensor, z1: Tensor, index: Tensor) -> Tensor:
        """One loss a view of this rank, those of `z0` first."""
        return contrast(
            torch.cat([z0, z1]),
            positive=torch.arange(2 * len(z0), device=z0.device).roll(len(z0)),
            query_id=index.repeat(2),
            temperature=self.temperature,
            across=True,
            reduction="none",
            **self.form,
        )

    def chance(self, candidates: int) -> float:
        """The loss where all are equal; a view has so many candidates, its partner among them."""
        return math.log(candidates)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `contrast`."""
        losses = self.losses(*self.project(encodings), batch.same)
        others = len(losses) * world()[1] - 1
        return {"contrast": Term(global_mean(losses), chance=self.chance(max(1, others)))}


class Debiased(InstanceContrast):
    """SimCLR with the negatives corrected for those that are of the view's own class.

    NT-Xent with `max((sum neg - tau_plus n pos) / (1 - tau_plus), n exp(-1/T))` in place of the
    sum over n negatives. `tau_plus` 0 is NT-Xent; all equal gives ln(2N - 1).

    Args:
        tau_plus: share of the negatives that are false ones.
        kwargs: as for `InstanceContrast`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Chuang et al. 2020, arXiv 2007.00224, equations 7 and 8.
    """

    paper = "Debiased contrast (Chuang et al. 2020, arXiv 2007.00224)"

    def __init__(self, *, tau_plus: float = 0.1, **kwargs: Any):
        super().__init__(**kwargs)
        self.form = {"tau_plus": tau_plus}


class HardNegatives(Debiased):
    """SimCLR with each negative weighted by how hard it is, corrected for false ones.

    Each negative counts `exp(beta s)` over the mean of that, s its logit, in the sum that
    `Debiased` corrects. `beta` 0 is `Debiased`, and `tau_plus` 0 too is NT-Xent; all equal gives
    ln(2N - 1).

    Args:
        beta: concentration on the hard ones.
        kwargs: as for `Debiased`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Robinson et al. 2021, arXiv 2010.04592, section 3.
    """

    paper = "Hard negatives (Robinson et al. 2021, arXiv 2010.04592)"

    def __init__(self, *, beta: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.form = {**self.form, "beta": beta}


class Decoupled(InstanceContrast):
    """SimCLR without the positive in the denominator: `logsumexp_j(s_ij) - p_i`, j the negatives.

    All equal gives ln(2N - 2). It may be below 0. Arguments are those of `InstanceContrast`.

    Reference: Yeh et al. 2022, arXiv 2110.06848, equation 5.
    """

    paper = "Decoupled contrast (Yeh et al. 2022, arXiv 2110.06848)"
    form = MappingProxyType({"decoupled": True})

    def chance(self, candidates: int) -> float:
        """Ln of the negatives alone."""
        return math.log(max(1, candidates - 1))


class FlatNCE(Decoupled):
    """FlatNCE: `exp(v - sg(v))`, v the decoupled loss, so that small batches keep their gradient.

    Its value is 1 whatever it learns, and its gradient InfoNCE's over `1 - p(positive)`. Look at
    `info_nce`, the InfoNCE of the same logits, which has no weight: all equal gives ln(2N - 1).
    Arguments are those of `InstanceContrast`.

    Reference: Chen et al. 2021, arXiv 2107.01152, section 3.
    """

    paper = "FlatNCE (Chen et al. 2021, arXiv 2107.01152)"

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `flat`, and `info_nce` to look at."""
        v = self.losses(*self.project(encodings), batch.same)
        known, others = global_mean(F.softplus(v.detach())), len(v) * world()[1] - 1
        return {
            "flat": Term(global_mean((v - v.detach()).exp())),
            "info_nce": Term(known, 0.0, math.log(max(1, others))),
        }


class InvariantSpread(InstanceContrast):
    """Views of a sample alike, samples spread: a view finds its partner, and no other view does.

    `-ln P_i(partner) - sum_j ln(1 - P_i(j))` over the other samples' views j, P the softmax over
    the 2N - 1 other views of all ranks; mean over the views. All equal gives
    `ln M - (M - 1) ln(1 - 1/M)` with M = 2N - 1.

    Args:
        temperature: T.
        kwargs: as for `InstanceContrast`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Ye et al. 2019, arXiv 1904.03436, equations 3 to 6.
    """

    paper = "Invariant and spreading instance feature (Ye et al. 2019, arXiv 1904.03436)"

    def __init__(self, *, temperature: float = 0.1, **kwargs: Any):
        super().__init__(temperature=temperature, **kwargs)

    def losses(self, z0: Tensor, z1: Tensor, index: Tensor) -> Tensor:
        """One loss a view of this rank, those of `z0` first."""
        (rank, size), n = world(), len(z0)
        first = torch.arange(n, device=z0.device) + rank * n
        itself = torch.cat([first, first + size * n])
        return spread(
            torch.cat([z0, z1]),
            torch.cat([gather(z0), gather(z1)]),
            itself.roll(n),
            query_id=index.repeat(2),
            key_id=gather(index).repeat(2),
            itself=itself,
            temperature=self.temperature,
            reduction="none",
        )

    def chance(self, candidates: int) -> float:
        """The loss where all are equal."""
        others = candidates - 1
        return math.log(candidates) - (others * math.log1p(-1 / candidates) if others else 0.0)


__all__ = [
    "Debiased",
    "Decoupled",
    "FlatNCE",
    "HardNegatives",
    "InstanceContrast",
    "InvariantSpread",
]
