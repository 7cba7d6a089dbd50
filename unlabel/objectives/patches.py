"""Contrast of places inside one sample: what is here, against what is elsewhere in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, stream_of, uniform
from unlabel.objectives.chains import chain
from unlabel.objectives.deep_masked import layer_at
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import Temperature, mlp
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term

_CHOICE = stream_of("places of a contrast inside a sample")


def patch_nce(
    query: Float[Tensor, "batch places width"],
    keys: Float[Tensor, "batch places width"],
    mask: Bool[Tensor, "batch places"] | None = None,
    *,
    temperature: float | Tensor = 0.07,
) -> Float[Tensor, "kept"]:
    """PatchNCE: `-ln exp(s_pp) / sum_q exp(s_pq)`, one value for each place p that exists.

    `s_pq = cos(query_p, keys_q) / temperature` over the places q of the same sample; no other
    sample has a part in it. All equal gives ln P for P places.

    Args:
        query: vectors of places of each sample.
        keys: vectors of the same places, of another view.
        mask: True at places that exist; None for all.
        temperature: T.

    Reference: Park et al. 2020, arXiv 2007.15651, equations 2 and 3; authors' code
    `models/patchnce.py`.
    """
    with torch.autocast(query.device.type, enabled=False):
        q, k = (F.normalize(exact(x), dim=-1) for x in (query, keys))
        logits = q @ k.mT / temperature
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, :], -torch.inf)
        losses = logits.logsumexp(2) - logits.diagonal(dim1=1, dim2=2)
        return losses.flatten() if mask is None else losses[mask]


class PatchContrast(Objective):
    """Patch contrast: a place knows its own in another view, among the places of its sample.

    `patch_nce` of heads on the tokens after several blocks, mean over them; ln P for P places where
    all are equal. The view may change what there is at a place, and moves none. Where tokens know
    their place by a position embedding the task is easy; a convolution must look at what is there.
    To translate pictures, the kernel is used with a generator, see `examples/cut.py`.

    Args:
        places: P, drawn of each sample; all where there are fewer.
        depths: how deep in the encoder the heads read, as shares of its blocks; of an encoder that
            gives no layers its tokens are read.
        temperature: T.
        width: of the heads.
        augment: the changed view, joined by `+`; the other one is plain.
        args: its arguments.

    Raises:
        ValueError: no places, no depth or one outside 0 to 1, or an argument of a view that is not
            there.

    Reference: Park et al. 2020 (CUT), arXiv 2007.15651, section 3.
    """

    paper = "CUT (Park et al. 2020, arXiv 2007.15651)"
    needs = frozenset({"tokens"})

    def __init__(
        self,
        *,
        places: int = 256,
        depths: Sequence[float] = (0.5, 1.0),
        temperature: float = 0.07,
        width: int = 256,
        augment: str = "jitter",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if places < 2:
            raise ValueError(f"A contrast needs 2 places or more, but {places} came.")
        if not depths or not all(0 < depth <= 1 for depth in depths):
            raise ValueError(
                f"depths are shares of the encoder's blocks, above 0 and at most 1, but "
                f"{list(depths)} came."
            )
        self.views = (chain(augment, args=args), chain("plain"))
        self.temperature = Temperature(temperature)
        self.places, self.depths, self.width = places, tuple(depths), width

    def build(self, encoder: Encoder) -> None:
        """Make a head for each depth."""
        in_layers = "layers" in encoder.gives
        self.needs = frozenset({"layers"}) if in_layers else type(self).needs
        own, count = (encoder.layer_width, len(self.depths)) if in_layers else (encoder.width, 1)
        self.heads = nn.ModuleList(mlp(own, self.width, self.width) for _ in range(count))

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """A term for each head, `level_1` and so on, from the first blocks on."""
        chosen, mask = self.choose(encodings[0].mask & encodings[1].mask, batch)
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        chance = global_mean(mask.sum(1).clamp(min=1).log().repeat_interleave(mask.sum(1)))
        terms = {}
        for i, head in enumerate(self.heads):
            query, keys = (head(self.read(e, i)[rows, chosen]) for e in encodings)
            losses = patch_nce(query, keys, mask, temperature=self.temperature())
            terms[f"level_{i + 1}"] = Term(global_mean(losses), 1 / len(self.heads), chance)
        return terms

    def read(self, encoding: Encoding, level: int) -> Float[Tensor, "batch length width"]:
        """The vectors that a head reads."""
        if encoding.layers is None:
            return encoding.tokens
        return layer_at(encoding, self.depths[level])

    def choose(self, mask: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Places that take part, `(batch, places)`, and True where one exists."""
        scores = uniform(batch.seed, batch.ordinal, _CHOICE, mask.shape[1])
        order = scores.masked_fill(~mask, 2.0).argsort(dim=1, stable=True)
        chosen = order[:, : self.places]
        return chosen, mask.gather(1, chosen)


__all__ = ["PatchContrast", "patch_nce"]
