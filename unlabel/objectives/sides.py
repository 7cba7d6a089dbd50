"""Several sides of one sample: what each shows should find what the others show of it."""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec, view
from unlabel.objectives.chains import chain
from unlabel.objectives.contrastive import in_batch
from unlabel.objectives.heads import mlp_projector
from unlabel.objectives.objective import Objective, Term


class CMC(Objective):
    """Contrastive multiview coding: every side of a sample finds every other side of it.

    `-ln exp(cos(a_i, b_i)/T) / sum_j exp(cos(a_i, b_j)/T)` for each ordered pair of sides a and b,
    mean over the pairs (the paper adds them). All equal gives ln N each way. The other samples of
    the batch of all ranks are the negatives, where the paper draws them from a memory; and all
    sides go through one encoder and one projector, where the paper has one for each side.

    Args:
        sides: each a view with its arguments, `{"name": "lab", "part": "l"}`, and the `partner`
            that it shows, if not the sample itself. The lightness and the colours of a picture
            unless said otherwise; a clip and its flow are `{"name": "plain"}` and
            `{"name": "flow"}`.
        temperature: T.
        width: of the projection.
        augment: views that come before each side, drawn alike for all sides of a sample itself,
            joined by `+`.
        args: their arguments.

    Raises:
        ValueError: fewer than two sides, two that are the same, one without a name, or an argument
            of a view that is not there.

    Reference: Tian et al. 2019, arXiv 1906.05849, equations 2 and 7.
    """

    paper = "CMC (Tian et al. 2019, arXiv 1906.05849)"

    def __init__(
        self,
        *,
        sides: Sequence[Mapping[str, Any]] = (
            {"name": "lab", "part": "l"},
            {"name": "lab", "part": "ab"},
        ),
        temperature: float = 0.07,
        width: int = 128,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.views = side_views(sides, augment, args)
        self.needs = frozenset({"pooled", *(v.partner for v in self.views if v.partner)})
        self.temperature, self.width = temperature, width

    def build(self, encoder: Encoder) -> None:
        """Make the projector."""
        self.projector = mlp_projector(encoder.width, self.width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """A term for each side that looks for another: `0_to_1`, `1_to_0`, and so on."""
        shown = [self.projector(e.pooled) for e in encodings]
        pairs, terms = list(permutations(range(len(shown)), 2)), {}
        for a, b in pairs:
            loss, n = in_batch(shown[a], shown[b], batch.index, temperature=self.temperature)
            terms[f"{a}_to_{b}"] = Term(loss, 1 / len(pairs), math.log(n))
        return terms


def side_views(
    sides: Sequence[Mapping[str, Any]], augment: str, args: Mapping[str, Any] | None
) -> tuple[ViewSpec, ...]:
    """The views that show sides of a sample, see `CMC`.

    Raises:
        ValueError: fewer than two sides, two that are the same, one without a name, or an argument
            of a view that is not there.
    """
    views = tuple(_side(side, augment, args) for side in sides)
    if len(set(views)) < max(2, len(views)):
        raise ValueError(
            f"Sides of a sample are two or more different views, but {list(sides)} came."
        )
    return views


def _side(side: Mapping[str, Any], augment: str, args: Mapping[str, Any] | None) -> ViewSpec:
    own = dict(side)
    name, partner = own.pop("name", None), own.pop("partner", None)
    if not isinstance(name, str):
        raise ValueError(f'A side names its view, as {{"name": "plain"}}, but {dict(side)} came.')
    given = {**dict(args or {}), **{f"{name}.{key}": value for key, value in own.items()}}
    made = chain(augment, name, args=given)
    return view(made.name, partner=partner, **dict(made.args))


class SensorContrast(CMC):
    """Two sensors at the same time against other times and series, each way.

    `CMC` of what one sensor shows and what another sensor of the same thing shows at that time;
    mean of both directions. All equal gives ln N.

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

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        width: int = 128,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        sides = {"name": "plain"}, {"name": "plain", "partner": "sensor"}
        super().__init__(
            sides=sides, temperature=temperature, width=width, augment=augment, args=args
        )


__all__ = ["CMC", "SensorContrast", "side_views"]
