"""Several sides of one sample: what each shows should find what the others show of it."""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec, view
from unlabel.objectives.banks import bank_of
from unlabel.objectives.chains import chain
from unlabel.objectives.contrast import contrast
from unlabel.objectives.contrastive import in_batch
from unlabel.objectives.gather import gather, global_mean
from unlabel.objectives.heads import mlp_projector
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term

Side = str | Mapping[str, Any]


class Sided(Objective):
    """A method of several sides of a sample: those named, or else all of a joint encoder.

    Args:
        sides: each a view with its arguments and the `partner` that it shows, if not the sample
            itself; a word alone is that partner, plain. None takes the encoder's own sides, and
            `otherwise` where it has none.
        augment: views that come before each side, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: fewer than two sides, two that are the same, one without a name, or an argument
            of a view that is not there.
    """

    otherwise: tuple[Side, ...] = ()

    def __init__(
        self,
        sides: Sequence[Side] | None,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.named, self.augment, self.args = sides is not None, augment, args
        given = self.otherwise if sides is None else sides
        self._take(side_views(given, augment, args) if self.named or given else ())

    def _take(self, views: tuple[ViewSpec, ...]) -> None:
        self.views = views
        self.needs = type(self).needs | {v.partner for v in views if v.partner}

    def meet(
        self,
        encoder: Encoder | type[Encoder],
        samples: int | None = None,
        classes: int | None = None,
    ) -> None:
        """Learn the sides of a joint encoder too, unless they were named."""
        if own := () if self.named else sides_of(encoder):
            self._take(side_views(own, self.augment, self.args))
        super().meet(encoder, samples, classes)


def sides_of(encoder: Any) -> tuple[str, ...]:
    """Names of the sides that a joint encoder has towers for, or its class; none of any other."""
    return tuple(getattr(encoder, "sides", ()))


class CMC(Sided):
    """Contrastive multiview coding: every side of a sample finds every other side of it.

    `-ln exp(cos(a_i, b_i)/T) / sum_j exp(cos(a_i, b_j)/T)` for each ordered pair of sides a and b,
    mean over the pairs (the paper adds them). All equal gives ln N each way. The other samples of
    the batch of all ranks are the negatives; with `bank`, the memories of all samples' side b, one
    with momentum 0.5 for each side, where the paper draws some of them and takes NCE. A joint
    encoder has a tower for each side; any other sees all sides, and all go through one projector,
    where the paper has one for each; `recipes/pairs.yaml` shows the paper's own sides.

    Args:
        sides: each a view with its arguments, `{"name": "lab", "part": "l"}`, and the `partner`
            that it shows, if not the sample itself; `"text"` is the plain view of that partner.
            None takes those of a joint encoder, and of any other the lightness and the colours of
            a picture; a clip and its flow are `{"name": "plain"}` and `{"name": "flow"}`.
        bank: take memories of all samples for the keys.
        temperature: T.
        width: of the projection.
        augment: views that come before each side, drawn alike for all sides of a sample itself,
            joined by `+`.
        args: their arguments.

    Raises:
        ValueError: fewer than two sides, two that are the same, one without a name, an argument
            of a view that is not there, or (in `build`) a bank for data whose number of samples
            is not known.

    Reference: Tian et al. 2019, arXiv 1906.05849, equations 2 and 7; memories: section 3.4.
    """

    paper = "CMC (Tian et al. 2019, arXiv 1906.05849)"
    otherwise = ({"name": "lab", "part": "l"}, {"name": "lab", "part": "ab"})

    def __init__(
        self,
        *,
        sides: Sequence[Side] | None = None,
        bank: bool = False,
        temperature: float = 0.07,
        width: int = 128,
        augment: str = "plain",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(sides, augment, args)
        self.bank, self.temperature, self.width = bank, temperature, width
        self.needs_others = not bank

    def build(self, encoder: Encoder) -> None:
        """Make the projector and, with `bank`, a memory for each side."""
        self.projector = mlp_projector(encoder.width, self.width)
        count = len(self.views) if self.bank else 0
        self.banks = nn.ModuleList(bank_of(self, self.width, seed=i) for i in range(count))

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """A term for each side that looks for another: `0_to_1`, `1_to_0`, and so on."""
        shown = [self.projector(e.pooled) for e in encodings]
        pairs, terms = list(permutations(range(len(shown)), 2)), {}
        for a, b in pairs:
            loss, n = self._find(shown[a], shown[b], b, batch)
            terms[f"{a}_to_{b}"] = Term(loss, 1 / len(pairs), math.log(n))
        for bank, z in zip(self.banks, shown, strict=False):
            bank.put(gather(F.normalize(exact(z.detach()), dim=1)), gather(batch.index))
        return terms

    def _find(self, a: Tensor, b: Tensor, side: int, batch: Batch) -> tuple[Tensor, int]:
        if not self.bank:
            return in_batch(a, b, batch.same, temperature=self.temperature)
        keys: Any = self.banks[side].rows
        rows = contrast(a, keys, batch.index, temperature=self.temperature, reduction="none")
        return global_mean(rows), len(keys)


def side_views(
    sides: Sequence[Side], augment: str, args: Mapping[str, Any] | None
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


def _side(side: Side, augment: str, args: Mapping[str, Any] | None) -> ViewSpec:
    given = {"name": "plain", "partner": side} if isinstance(side, str) else dict(side)
    own = dict(given)
    name, partner = own.pop("name", None), own.pop("partner", None)
    if not isinstance(name, str):
        raise ValueError(f'A side names its view, as {{"name": "plain"}}, but {given} came.')
    its = {f"{name}.{key}": value for key, value in own.items()}
    made = chain(augment, name, args={**dict(args or {}), **its})
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


__all__ = ["CMC", "SensorContrast", "Side", "Sided", "side_views", "sides_of"]
