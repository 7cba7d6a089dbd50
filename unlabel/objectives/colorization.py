"""Colourisation: the encoder sees lightness alone, and the colour is what it should know."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.clusters import Clusters
from unlabel.objectives.colors import REACH, annealed_mean, color_bins, copied, rarity, soften
from unlabel.objectives.gather import gather, global_mean
from unlabel.objectives.heads import check_temperature
from unlabel.objectives.kernels import classify
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.state import Tally


class Colorization(Objective):
    """Colourisation: from the lightness, the colour of each token's cell, as one of 313 bins.

    Cross-entropy with the colour's soft bins, each cell weighted by how rare the nearest bin of its
    colour was in training so far; mean over the cells. Equal scores give about ln 313 (exactly
    that with `even=1`).

    Args:
        even: l of the weights, `1 / ((1 - l) p + l / Q)`; 1 weighs all alike.
        neighbours: nearest bins that share a colour.
        sigma: of their Gaussian, in the units of a and b.
        before: views applied before the colour is taken away, joined by `+`, such as `"crop+flip"`.
        after: views of what is left, such as `"token_cutoff"`.
        args: their arguments.

    Raises:
        ValueError: even is no share, no such number of bins, a sigma that is not above 0, or an
            argument of a view that is not there.

    Reference: Zhang et al. 2016, arXiv 1603.08511, section 2.
    """

    paper = "Colorful image colorization (Zhang et al. 2016, arXiv 1603.08511)"
    needs = frozenset({"tokens"})
    bins: Tensor

    def __init__(
        self,
        *,
        even: float = 0.5,
        neighbours: int = 5,
        sigma: float = 5.0,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not 0 <= even <= 1:
            raise ValueError(f"even is a share from 0 to 1, but {even} came.")
        self.views = (chain(before, "colors", after, args=args),)
        self.even, self.neighbours, self.sigma = even, neighbours, sigma
        self.register_buffer("bins", color_bins(), persistent=False)
        if not 1 <= neighbours <= len(self.bins) or not sigma > 0:
            raise ValueError(
                f"neighbours is 1 to {len(self.bins)} bins and sigma above 0, but {neighbours} "
                f"and {sigma} came."
            )
        self.seen = Tally(len(self.bins))

    def build(self, encoder: Encoder) -> None:
        """Make the head from tokens to bins."""
        self.predictor = nn.Linear(encoder.width, len(self.bins))

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `color`; remembers how often each bin came."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        tokens, real = _own(encoding, seen)
        how = {"neighbours": self.neighbours, "sigma": self.sigma}
        aim = soften(seen.target[real] * REACH, self.bins, **how)
        losses = classify(self.predictor(tokens[real]), aim, reduction="none")
        weight = rarity(self.seen.shares(), even=self.even)[aim.argmax(1)].to(losses.dtype)
        counts = aim.sum(0, dtype=torch.float64)
        self.seen.put(rearrange(gather(counts), "(r k) -> r k", k=len(counts)).sum(0))
        return {"color": Term(global_mean(losses * weight), chance=math.log(len(self.bins)))}

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """The view with the colours that the head reads off its tokens."""
        tokens, _ = _own(encodings[0], views[0])
        return [replace(views[0], target=self.decode(tokens) / REACH)]

    def decode(
        self, tokens: Float[Tensor, "batch length width"], *, temperature: float = 0.38
    ) -> Float[Tensor, "batch length 2"]:
        """The a and b that the head reads off tokens, for pictures."""
        return annealed_mean(self.predictor(tokens), self.bins, temperature=temperature)


class VideoColorization(Objective):
    """Video colourisation: colour a grey frame by copying from frames before it, by likeness.

    The colour of each cell is one of 16 clusters; a cell copies the mean of all cells of all
    reference frames, weighted by the softmax of its features' inner products with theirs.
    `-ln` of what the copy gives the right cluster, mean over the cells of the last frame. Alike
    features copy the references' histogram. The features find the same thing in other frames, and
    so carry masks and key points along.

    Args:
        references: frames to copy from; the one after them is coloured.
        stride: frames of the sample from one to the next.
        clusters: of colours, by k-means.
        fit_until: steps after which the clusters stay.
        temperature: T; 1 in training, 0.5 to copy masks.
        width: of the features.
        hide: share of samples whose colours are hidden from the encoder. 1 is the paper's; with
            less the features keep colours, too.
        floor: share of an even distribution mixed into the copy: a colour that no reference has
            costs no more than `ln(clusters / floor)`.
        before: views applied before the colour is taken away, joined by `+`.
        after: views of what is left.
        args: their arguments.

    Raises:
        ValueError: no reference, fewer than two clusters, a temperature that is not above 0, no
            share, or an argument of a view that is not there.

    Reference: Vondrick et al. 2018, arXiv 1806.09594, sections 3 and 4; `hide` below 1: Lai & Xie
    2019 (CorrFlow), arXiv 1905.00875, section 3.2.
    """

    paper = "Tracking emerges by colorizing videos (Vondrick et al. 2018, arXiv 1806.09594)"
    # An encoder that mixes frames could look up the references' features in the frame itself.
    needs = frozenset({"tokens", "framewise"})

    def __init__(
        self,
        *,
        references: int = 3,
        stride: int = 1,
        clusters: int = 16,
        fit_until: int = 8,
        temperature: float = 1.0,
        width: int = 64,
        hide: float = 1.0,
        floor: float = 1e-4,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if references < 1:
            raise ValueError(f"references is how many frames are copied from, not {references}.")
        if clusters < 2:
            raise ValueError(f"clusters is 2 or more, but {clusters} came.")
        check_temperature(temperature)
        if not 0 < floor < 1:
            raise ValueError(f"floor is a share between 0 and 1, but {floor} came.")
        if not 0 <= hide <= 1:
            raise ValueError(f"hide is a share from 0 to 1, but {hide} came.")
        how = {"frames.count": references + 1, "frames.stride": stride}
        how |= {"colors.hide": hide, **(args or {})}
        self.views = (chain("frames", before, "colors", after, args=how),)
        self.frames, self.temperature, self.width = references + 1, temperature, width
        self.floor = floor
        self.clusters = Clusters(clusters, 2, until=fit_until)

    def build(self, encoder: Encoder) -> None:
        """Make the linear map from tokens to features."""
        self.projector = nn.Linear(encoder.width, self.width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `color`; holds colours back for the clusters."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        colors = self.clusters.assign(seen.target)
        tokens, real = _own(encoding, seen)
        features = self.projector(tokens)
        cells = features.shape[1] // self.frames
        past, now = slice(None, -cells), slice(-cells, None)
        copy = copied(
            features[:, now],
            features[:, past],
            colors[:, past],
            real[:, past],
            temperature=self.temperature,
        )
        mixed = torch.lerp(copy, torch.full_like(copy, 1 / copy.shape[2]), self.floor)
        losses = -(colors[:, now].to(copy.dtype) * mixed.log()).sum(2)
        # A share of the cells is enough to fit a few clusters.
        rows = seen.target[:, :: max(1, seen.target.shape[1] // 32)].flatten(0, 1)
        self.clusters.put(gather(rows))
        chance = math.log(copy.shape[2])
        return {"color": Term(global_mean(losses[real[:, now]]), chance=chance)}


def _own(encoding: Encoding, seen: View) -> tuple[Tensor, Tensor]:
    """The view's tokens, and True where one exists and has a colour."""
    assert seen.target is not None and seen.is_target is not None  # the view makes both
    # Beside a longer view, tokens of padding come behind.
    length = seen.target.shape[1]
    return encoding.tokens[:, :length], encoding.mask[:, :length] & seen.is_target.all(2)


__all__ = ["Colorization", "VideoColorization"]
