"""Two views of one sample: what they share should be all there is."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import gather
from unlabel.objectives.heads import mlp_projector
from unlabel.objectives.moments import alignment, barlow_twins, uniformity, vicreg
from unlabel.objectives.objective import Objective, Term


class Twins(Objective):
    """Two draws of one chain of views, through one projector.

    Args:
        width: of the projection.
        layers: of the projector.
        augment: the views, joined by `+`.
        args: their arguments, such as `{"jitter.high": 0.3}`.
    """

    def __init__(
        self, *, width: int, layers: int = 2, augment: str, args: Mapping[str, Any] | None
    ):
        super().__init__()
        self.views = (chain(augment, draw=0, args=args), chain(augment, draw=1, args=args))
        self.width, self.layers = width, layers

    def build(self, encoder: Encoder) -> None:
        """Make the projector."""
        self.projector = mlp_projector(encoder.width, self.width, layers=self.layers)

    def project(self, encodings: Sequence[Encoding]) -> list[Float[Tensor, "batch width"]]:
        """Both projections of this rank's samples."""
        return [self.projector(e.pooled) for e in encodings]


class AlignUniform(Twins):
    """Alignment and uniformity: views of a sample close together, samples evenly on the sphere.

    `mean_i |x_i - y_i|^alpha + weight (U(x) + U(y)) / 2` of unit vectors over the batch of all
    ranks, with `U(x) = ln mean_{i<j} exp(-t |x_i - x_j|^2)`. All equal gives 0; equal views of
    orthonormal samples give -2t weight, of an antipodal pair -4t weight.

    Args:
        weight: lambda, of the uniformity.
        alpha: exponent of the distance.
        t: sharpness of the uniformity.
        width: of the projection.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments.

    Raises:
        ValueError: an alpha or t that is not above 0, or an argument of a view that is not there.

    Reference: Wang & Isola 2020, arXiv 2005.10242, section 4.
    """

    paper = "Alignment and uniformity (Wang & Isola 2020, arXiv 2005.10242)"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        alpha: float = 2.0,
        t: float = 2.0,
        width: int = 128,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(width=width, augment=augment, args=args)
        if not alpha > 0 or not t > 0:
            raise ValueError(f"alpha and t are above 0, but {alpha} and {t} came.")
        self.weight, self.alpha, self.t = weight, alpha, t

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `alignment` and `uniformity`."""
        z0, z1 = (gather(z) for z in self.project(encodings))
        even = (uniformity(z0, t=self.t) + uniformity(z1, t=self.t)) / 2
        return {
            "alignment": Term(alignment(z0, z1, alpha=self.alpha)),
            "uniformity": Term(even, self.weight, 0.0),
        }


class BarlowTwins(Twins):
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


class VICReg(Twins):
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


__all__ = ["AlignUniform", "BarlowTwins", "Twins", "VICReg"]
