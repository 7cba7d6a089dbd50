"""Two views of one sample: what they share should be told from the rest, or be all there is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, Encoder, Encoding, View, view
from unlabel.objectives.chains import chain
from unlabel.objectives.contrast import contrast
from unlabel.objectives.contrastive import in_batch
from unlabel.objectives.gather import gather, global_mean, world
from unlabel.objectives.heads import mlp
from unlabel.objectives.moments import barlow_twins, vicreg
from unlabel.objectives.objective import Objective, Term


class _Twins(Objective):
    """Two draws of one chain of views, through one projector of two layers.

    Args:
        width: of the projection.
        augment: the views, joined by `+`.
        args: their arguments, such as `{"jitter.high": 0.3}`.
    """

    def __init__(self, *, width: int, augment: str, args: Mapping[str, Any] | None):
        super().__init__()
        self.views = (chain(augment, draw=0, args=args), chain(augment, draw=1, args=args))
        self.width = width

    def build(self, encoder: Encoder) -> None:
        """Make the projector."""
        self.projector = mlp(encoder.width, encoder.width, self.width)

    def project(self, encodings: Sequence[Encoding]) -> list[Float[Tensor, "batch width"]]:
        """Both projections of this rank's samples."""
        return [self.projector(e.pooled) for e in encodings]


class InstanceContrast(_Twins):
    """SimCLR: each view finds its partner among the other views of the batch.

    NT-Xent over the 2N views of all ranks, mean over them; keys of the same sample (equal index)
    are no negatives. All equal gives ln(2N - 1).

    Args:
        temperature: T. 0.2 is what contrast of series starts from; SimCLR's images took 0.1 to 0.5.
        width: of the projection.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments, such as `{"jitter.high": 0.3}`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, equation 1; T = 0.2: Eldele
    et al. 2021 (TS-TCC), arXiv 2106.14112, section 3.3; crops with noise: Yue et al. 2022 (TS2Vec),
    2106.10466, section 3.2, and Woo et al. 2022 (CoST), 2202.01575.
    """

    paper = "SimCLR (Chen et al. 2020, arXiv 2002.05709)"

    def __init__(
        self,
        *,
        temperature: float = 0.2,
        width: int = 128,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(width=width, augment=augment, args=args)
        self.temperature = temperature

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `contrast`."""
        z0, z1 = self.project(encodings)
        keys = torch.cat([gather(z0), gather(z1)])
        (rank, size), n = world(), len(z0)
        first = torch.arange(n, device=z0.device) + rank * n
        itself = torch.cat([first, first + size * n])
        rows = contrast(
            torch.cat([z0, z1]),
            keys,
            itself.roll(n),
            temperature=self.temperature,
            query_id=batch.index.repeat(2),
            key_id=gather(batch.index).repeat(2),
            itself=itself,
            reduction="none",
        )
        return {"contrast": Term(global_mean(rows), chance=math.log(max(1, len(keys) - 1)))}


class SensorContrast(Objective):
    """Two sensors at the same time against other times and series, each way.

    What one sensor shows finds what another sensor of the same thing shows at that time, among
    the batch; mean of both directions. All equal gives ln N.

    Args:
        temperature: T.
        width: of the projection, which both sensors share.
        augment: views of both, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Tian et al. 2019 (CMC), arXiv 1906.05849, section 3.2; the same moment from
    another side: Sermanet et al. 2018 (TCN), arXiv 1704.06888, section 3.
    """

    paper = "CMC (Tian et al. 2019, arXiv 1906.05849); multi-view TCN (Sermanet et al. 2018)"
    needs = frozenset({"pooled", "sensor"})

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        width: int = 128,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        own = chain(augment, args=args)
        self.views = (own, view(own.name, partner="sensor", **dict(own.args)))
        self.temperature, self.width = temperature, width

    def build(self, encoder: Encoder) -> None:
        """Make the projector."""
        self.projector = mlp(encoder.width, encoder.width, self.width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `to_partner` and `from_partner`, of half the weight each."""
        own, other = (self.projector(e.pooled) for e in encodings)
        there, n = in_batch(own, other, batch.index, temperature=self.temperature)
        back, _ = in_batch(other, own, batch.index, temperature=self.temperature)
        chance = math.log(n)
        return {"to_partner": Term(there, 0.5, chance), "from_partner": Term(back, 0.5, chance)}


class BarlowTwins(_Twins):
    """Barlow Twins: every feature alike in both views, and unlike every other feature.

    `sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2` of the correlations over the batch of all
    ranks. Equal and decorrelated views give 0. The projector has no batch normalisation, so that
    ranks together are one batch.

    Args:
        weight: lambda, of the terms off the diagonal.
        width: of the projection.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Zbontar et al. 2021, arXiv 2103.03230, equation 1.
    """

    paper = "Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230)"

    def __init__(
        self,
        *,
        weight: float = 0.005,
        width: int = 256,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(width=width, augment=augment, args=args)
        self.weight = weight

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `correlation`."""
        # All ranks compute the whole: the mean of their gradients is the one-process gradient.
        z0, z1 = (gather(z) for z in self.project(encodings))
        return {"correlation": Term(barlow_twins(z0, z1, weight=self.weight))}


class VICReg(_Twins):
    """VICReg: equal views, features that vary over the batch, and do not vary together.

    Over the batch of all ranks. The projector has no batch normalisation, so that ranks together
    are one batch.

    Args:
        invariance: weight of the distance of the two views.
        variance: weight of the lack of spread of a feature below 1.
        covariance: weight of the covariance of features.
        width: of the projection.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Bardes et al. 2021, arXiv 2105.04906, equations 1 to 6.
    """

    paper = "VICReg (Bardes et al. 2021, arXiv 2105.04906)"

    def __init__(
        self,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        width: int = 256,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(width=width, augment=augment, args=args)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `invariance`, `variance` and `covariance`."""
        z0, z1 = (gather(z) for z in self.project(encodings))
        return {name: Term(x, self.weights[name]) for name, x in vicreg(z0, z1).items()}


__all__ = ["BarlowTwins", "InstanceContrast", "SensorContrast", "VICReg"]
