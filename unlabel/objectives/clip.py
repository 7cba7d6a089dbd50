"""Kinds of data beside each other: a text and its clip find each other among those of others."""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.contrastive import in_batch
from unlabel.objectives.gather import gather, global_mean, world
from unlabel.objectives.heads import Temperature
from unlabel.objectives.objective import Term
from unlabel.objectives.sides import Side, Sided
from unlabel.objectives.sigmoid import sigmoid_contrast


class _Between(Sided):
    """Pairs of sides of a sample, as a joint encoder puts them into one space.

    Args:
        sides: see `Sided`.
        anchor: the side that is compared with each other one; None compares all with all.

    Raises:
        ValueError: sides that cannot be compared, or an anchor that is none of them.
    """

    needs = frozenset({"pooled", "sides"})
    needs_others = True

    def __init__(self, sides: Sequence[Side] | None, anchor: str | None):
        super().__init__(sides)
        self.anchor = anchor
        self._check()

    def meet(
        self,
        encoder: Encoder | type[Encoder],
        samples: int | None = None,
        classes: int | None = None,
    ) -> None:
        """Learn the encoder's sides, unless they were named."""
        super().meet(encoder, samples, classes)
        self._check()

    def names(self) -> list[str]:
        """Names of the sides: what each shows and, where two show the same, its view too."""
        shown = [v.partner or "sample" for v in self.views]
        both = [f"{name}_{v.name}" for name, v in zip(shown, self.views, strict=True)]
        return [n if shown.count(n) == 1 else long for n, long in zip(shown, both, strict=True)]

    def pairs(self) -> list[tuple[int, int]]:
        """Places of the sides that are compared, an anchor first."""
        names = self.names()
        if self.anchor is None:
            return list(combinations(range(len(names)), 2))
        first = names.index(self.anchor)
        return [(first, other) for other in range(len(names)) if other != first]

    def _check(self) -> None:
        if self.views and self.anchor not in (None, *self.names()):
            raise ValueError(
                f"anchor is {self.anchor!r}, but the sides are {', '.join(self.names())}."
            )

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """A term for each pair of sides, by their names: `text_video`."""
        names, pairs, terms = self.names(), self.pairs(), {}
        for a, b in pairs:
            loss, chance = self.compare(encodings[a].pooled, encodings[b].pooled, batch.same)
            terms[f"{names[a]}_{names[b]}"] = Term(loss, 1 / len(pairs), chance)
        return terms

    def compare(self, a: Tensor, b: Tensor, index: Tensor) -> tuple[Tensor, float]:
        """The loss of two sides of the same samples, and that of a model that knows nothing."""
        raise NotImplementedError


class CLIP(_Between):
    """Each side of a sample finds the other among those of the batch of all ranks, both ways.

    `(CE(a -> b) + CE(b -> a)) / 2` with `CE(a -> b) = -ln exp(s cos(a_i, b_i)) / sum_j exp(s
    cos(a_i, b_j))`, mean over samples i and over the pairs of sides; s is learned, one for all
    pairs, and stays at most 100. All equal gives ln N. The vectors are the encoder's own: a joint
    encoder projects each side into one space, so there is no head. Two samples of the same caption
    are each other's negatives, as in the paper, unless the data calls them alike (`pairs.alike`);
    the same sample twice is none.

    Args:
        sides: names of the encoder's sides, such as `["text", "video"]`, each by its plain view, or
            views with arguments, `{"name": "token_cutoff", "ratio": 0.1, "partner": "text"}`. None
            takes all sides.
        anchor: the side that is compared with each other one; None compares all with all.
        temperature: 1/s to start from.

    Raises:
        ValueError: fewer than two sides, two that are the same, one without a name, or an anchor
            that is none of them.

    Reference: Radford et al. 2021, arXiv 2103.00020, figure 3 and section 2.5; one tower frozen:
    Zhai et al. 2022 (LiT), arXiv 2111.07991.
    """

    paper = "CLIP (Radford et al. 2021, arXiv 2103.00020)"

    def __init__(
        self,
        *,
        sides: Sequence[Side] | None = None,
        anchor: str | None = None,
        temperature: float = 0.07,
    ):
        super().__init__(sides, anchor)
        self.temperature = Temperature(temperature, learned=True)

    def compare(self, a: Tensor, b: Tensor, index: Tensor) -> tuple[Tensor, float]:
        """Cross-entropy both ways; knowing nothing gives ln N."""
        loss, n = in_batch(a, b, index, temperature=self.temperature(), symmetric=True)
        return loss, math.log(n)


class SigLIP(_Between):
    """Every pair of two samples' sides is told to belong together or not, each for itself.

    `-sum_ij ln sigmoid(z_ij (t cos(a_i, b_j) + b)) / N` with z = 1 where i = j and -1 elsewhere,
    mean over the pairs of sides; t and b are learned, one of each for all pairs. All equal gives
    `softplus(-t - b) + (N - 1) softplus(t + b)`; a model that knows nothing but N can reach `ln N +
    (N - 1) ln(N/(N - 1))`. N counts the samples of all ranks, of which the same sample twice is
    no negative.

    Args:
        sides: see `CLIP`.
        anchor: see `CLIP`.
        scale: t to start from.
        bias: b to start from.

    Raises:
        ValueError: as for `CLIP`, or a scale that is not above 0.

    Reference: Zhai et al. 2023, arXiv 2303.15343, algorithm 1.
    """

    paper = "SigLIP (Zhai et al. 2023, arXiv 2303.15343)"

    def __init__(
        self,
        *,
        sides: Sequence[Side] | None = None,
        anchor: str | None = None,
        scale: float = 10.0,
        bias: float = -10.0,
    ):
        super().__init__(sides, anchor)
        if not scale > 0:
            raise ValueError(f"A scale is above 0, but {scale} came.")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def compare(self, a: Tensor, b: Tensor, index: Tensor) -> tuple[Tensor, float]:
        """The sum over all pairs, a sample; both directions are the same one."""
        keys, n = gather(b), len(b) * world()[1]
        rows = sigmoid_contrast(
            a,
            keys,
            torch.arange(len(a), device=a.device) + world()[0] * len(b),
            scale=self.log_scale.exp(),
            bias=self.bias,
            query_id=index,
            key_id=gather(index),
            reduction="none",
        )
        return global_mean(rows), math.log(n) + (n - 1) * math.log(n / max(n - 1, 1))


__all__ = ["CLIP", "SigLIP"]
