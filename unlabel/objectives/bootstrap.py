"""Two views predict each other: a predictor, and a target through which no gradient flows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.contrastive import in_batch
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import layer_norm_mlp
from unlabel.objectives.kernels import regress
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.state import Teacher, growing


def _apart(pred: Tensor, target: Tensor) -> Float[Tensor, ""]:
    return global_mean(regress(pred, target.detach(), metric="cosine", reduction="none"))


class _Bootstrap(Objective):
    """Two views, each predicting what a moving average of the network makes of the other.

    Args:
        momentum: of the moving average.
        momentum_steps: optimizer steps over which it grows to 1; None keeps it.
        width: of the projection.
        hidden: width inside the projector and the predictor.
        augment: views that are drawn twice, joined by `+`.
        args: their arguments.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.996,
        momentum_steps: int | None = None,
        width: int = 256,
        hidden: int = 512,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        online = tuple(chain(augment, draw=draw, args=args) for draw in (0, 1))
        self.views = (*online, *(replace(v, encoder="teacher") for v in online))
        self.teacher_momentum = growing(momentum, momentum_steps)
        self.width, self.hidden = width, hidden

    def build(self, encoder: Encoder) -> None:
        """Make the projector, its moving average, and the predictor."""
        self.projector = layer_norm_mlp(encoder.width, self.hidden, self.width)
        self.key_projector = Teacher(self.projector, momentum=self.teacher_momentum or 0.0)
        self.predictor = layer_norm_mlp(self.width, self.hidden, self.width)

    def pairs(self, encodings: Sequence[Encoding]) -> dict[str, tuple[Tensor, Tensor]]:
        """Prediction and what it should be, `forth` and `back`."""
        p0, p1 = (self.predictor(self.projector(e.pooled)) for e in encodings[:2])
        z0, z1 = (self.key_projector(e.pooled) for e in encodings[2:])
        return {"forth": (p0, z1), "back": (p1, z0)}


class BYOL(_Bootstrap):
    """BYOL: each view predicts what a moving average of the network makes of the other.

    `|p / |p| - z' / |z'||^2 = 2 - 2 cos`, mean of both directions (the paper adds them), which is
    2 + 2 times SimSiam's loss. Heads have layer norm where the paper's have batch norm, so that
    ranks together are one batch.

    Args:
        momentum: of the moving average.
        momentum_steps: optimizer steps over which it grows to 1 along a cosine, such as all steps
            of the run, as in the paper; None keeps it.
        width: of the projection.
        hidden: width inside the projector and the predictor.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments, such as `{"jitter.high": 0.3}`.

    Raises:
        ValueError: an argument of a view that is not there, or a momentum that is no share.

    Reference: Grill et al. 2020, arXiv 2006.07733, section 3; without batch norm: Richemond et al.
    2020, arXiv 2010.10241.
    """

    paper = "BYOL (Grill et al. 2020, arXiv 2006.07733)"

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `forth` and `back`, of half the weight each."""
        found = self.pairs(encodings)
        return {name: Term(_apart(p, z), 0.5, 2.0) for name, (p, z) in found.items()}


class MoCoV3(_Bootstrap):
    """MoCo v3: each view's prediction finds its key of the other view among the batch's keys.

    `2T -ln exp(cos(p_i, k_i)/T) / sum_j exp(cos(p_i, k_j)/T)`, sum of both directions, the keys of
    all ranks made by a moving average of encoder and projector; no queue. All equal gives 2T ln N
    each. Heads have layer norm where the paper's have batch norm, so that ranks together are one
    batch.

    Args:
        temperature: T.
        momentum: of the moving average.
        momentum_steps: optimizer steps over which it grows to 1 along a cosine, such as all steps
            of the run, as in the paper; None keeps it.
        width: of the projection.
        hidden: width inside the projector and the predictor.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments, such as `{"jitter.high": 0.3}`.

    Raises:
        ValueError: an argument of a view that is not there, or a momentum that is no share.

    Reference: Chen et al. 2021, arXiv 2104.02057, algorithm 1 and section 4.
    """

    paper = "MoCo v3 (Chen et al. 2021, arXiv 2104.02057)"
    needs_others = True

    def __init__(
        self,
        *,
        temperature: float = 0.2,
        momentum: float = 0.99,
        momentum_steps: int | None = None,
        width: int = 256,
        hidden: int = 512,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(
            momentum=momentum,
            momentum_steps=momentum_steps,
            width=width,
            hidden=hidden,
            augment=augment,
            args=args,
        )
        self.temperature = temperature

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `forth` and `back`."""
        terms = {}
        for name, (query, keys) in self.pairs(encodings).items():
            loss, n = in_batch(query, keys, batch.same, temperature=self.temperature)
            scale = 2 * self.temperature
            terms[name] = Term(scale * loss, chance=scale * math.log(n))
        return terms


class SimSiam(Objective):
    """SimSiam: each view predicts the other's projection, through which no gradient flows.

    `-cos(p, z)`, mean of both directions; -1 is the least. Heads have layer norm where the paper's
    have batch norm, so that ranks together are one batch.

    Args:
        width: of the projection.
        hidden: width inside the predictor, narrower than the projection.
        augment: views that are drawn twice, joined by `+`; `usual` are those of the kind of data.
        args: their arguments, such as `{"jitter.high": 0.3}`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Chen & He 2020, arXiv 2011.10566, section 3 and algorithm 1.
    """

    paper = "SimSiam (Chen & He 2020, arXiv 2011.10566)"

    def __init__(
        self,
        *,
        width: int = 256,
        hidden: int = 64,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.views = tuple(chain(augment, draw=draw, args=args) for draw in (0, 1))
        self.width, self.hidden = width, hidden

    def build(self, encoder: Encoder) -> None:
        """Make the projector and the predictor."""
        self.projector = layer_norm_mlp(encoder.width, self.width, self.width)
        self.predictor = layer_norm_mlp(self.width, self.hidden, self.width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `forth` and `back`, of half the weight each."""
        z0, z1 = (self.projector(e.pooled) for e in encodings)
        forth, back = _apart(self.predictor(z0), z1) / 2 - 1, _apart(self.predictor(z1), z0) / 2 - 1
        return {"forth": Term(forth, 0.5, 0.0), "back": Term(back, 0.5, 0.0)}


__all__ = ["BYOL", "MoCoV3", "SimSiam"]
