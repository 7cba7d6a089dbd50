"""What a sample's vector says of its places: bounds of mutual information, maximised."""

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
from unlabel.objectives.contrast import contrast
from unlabel.objectives.gather import gather, global_mean, world
from unlabel.objectives.heads import mlp, reverse_gradient
from unlabel.objectives.logsumexp import Exclude, log_sum_exp_of_negatives
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.unit import opaque, row_dot

Bound = Literal["jsd", "dv", "nce"]
_PRIOR = stream_of("prior of a vector")


@opaque
def mutual_information(
    query: Float[Tensor, "queries width"],
    keys: Float[Tensor, "keys width"],
    query_id: Int[Tensor, "queries"],
    key_id: Int[Tensor, "keys"],
    positive: Int[Tensor, "queries"],
    *,
    bound: Bound = "jsd",
) -> Float[Tensor, ""]:
    """Minus a lower bound of what queries and keys share, over the queries of all ranks.

    The critic is the inner product `s`; pairs of other ids are drawn apart, its own pair is p.

    - `jsd`: `mean softplus(-p) + mean softplus(s) - 2 ln 2`. A zero critic gives 0, a perfect one
      -2 ln 2. (The mean over the queries of each one's mean over its keys.)
    - `dv`, Donsker-Varadhan: `ln mean exp(s) - mean p`. A zero critic gives 0, and so does a batch
      of one sample, which has no s.
    - `nce`: `mean -ln exp(p) / (exp(p) + sum exp(s))`. A zero critic gives ln(keys).

    Args:
        query: of this rank, any number.
        keys: of all ranks.
        query_id: which sample a query is of.
        key_id: which sample a key is of.
        positive: each query's own key.
        bound: which of the three.

    Reference: Hjelm et al. 2019, arXiv 1808.06670, equations 2, 4 and 5.
    """
    with torch.autocast(query.device.type, enabled=False):
        q, k = exact(query), exact(keys)
        if bound == "nce":
            ids = {"query_id": query_id, "key_id": key_id}
            plain: dict[str, Any] = {"temperature": 1.0, "normalize": False, "reduction": "none"}
            return global_mean(contrast(q, k, positive, **ids, **plain))
        if bound == "jsd":
            return global_mean(_jensen_shannon(q, k, query_id, key_id, positive))
        exclude = Exclude((positive,), query_id, key_id)
        apart, _, own = log_sum_exp_of_negatives(q, k, exclude, positive=positive)
        assert own is not None
        count = exclude.count(len(q), len(k), q.device).sum()
        # Ranks may bring different numbers of queries: each brings one sum.
        whole = gather(apart.logsumexp(0)[None]).logsumexp(0)
        pairs = gather(count[None]).sum().to(whole.dtype)
        loss = whole - pairs.log() - global_mean(own)
        return torch.where(pairs > 0, loss, 0.0).to(q.dtype)


def _jensen_shannon(q: Tensor, k: Tensor, query_id: Tensor, key_id: Tensor, own: Tensor) -> Tensor:
    def block(x: Tensor, of: Tensor, pos: Tensor) -> tuple[Tensor]:
        others = of[:, None] != key_id
        apart = ((F.softplus(x @ k.T) - math.log(2)) * others).sum(1)
        return (F.softplus(-pos) - math.log(2) + apart / others.sum(1).clamp(min=1),)

    pos = row_dot(q, k, own).to(q.dtype)
    return in_blocks(block, q, query_id, pos, each=2 * len(k))[0]


class DeepInfoMax(Objective):
    """Deep InfoMax: a sample's vector tells its own places from those of other samples.

    `alpha I(all places; vector) + beta mean_places I(place; vector) + gamma D`, each I minus a
    bound of the mutual information, see `mutual_information`, by a critic of inner products behind
    two heads; the samples of all ranks are the pairs apart. All places stand for the mean of what a
    head makes of each token. D is a discriminator's `-ln D(u) - ln(1 - D(y))` of uniform noise u
    and `y = sigmoid(vector)`, whose gradient is turned round for the encoder: the vector learns to
    look like noise in the same pass, without an optimizer of its own. A zero critic gives 0 under
    `jsd` and `dv`, ln N under `nce`; a zero discriminator 2 ln 2.

    The paper's places see a small part of the picture. Where a token has seen the whole sample by
    attention, to tell whose it is takes little, and the vectors may learn nothing of use.

    Args:
        bound: `jsd`, `dv` or `nce`.
        global_weight: alpha, of the whole; 0 leaves it out, as with the next two.
        local_weight: beta, of the places.
        prior_weight: gamma, of the discriminator.
        width: of the critic's heads.
        augment: the view, joined by `+`; `usual` are those of the kind of data.
        args: its arguments.

    Raises:
        ValueError: another bound, no weight for the whole or the places, or an argument of a view
            that is not there.

    Reference: Hjelm et al. 2019, arXiv 1808.06670, equations 2 to 8.
    """

    paper = "Deep InfoMax (Hjelm et al. 2019, arXiv 1808.06670)"
    needs = frozenset({"pooled", "tokens"})
    needs_others = True

    def __init__(
        self,
        *,
        bound: Bound = "jsd",
        global_weight: float = 0.5,
        local_weight: float = 1.0,
        prior_weight: float = 0.1,
        width: int = 128,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if bound not in ("jsd", "dv", "nce"):
            raise ValueError(f"bound is {bound!r}: give 'jsd', 'dv' or 'nce'.")
        weights = global_weight, local_weight, prior_weight
        if min(weights) < 0 or not global_weight + local_weight:
            raise ValueError(
                f"The weights of whole, places and prior are {weights}: give at least 0, and more "
                "for one of the first two."
            )
        self.views = (chain(augment, args=args),)
        self.bound: Bound = bound
        self.weights = {"global": global_weight, "local": local_weight}
        self.prior_weight, self.width = prior_weight, width

    def build(self, encoder: Encoder) -> None:
        """Make two heads for each bound, and the discriminator."""
        sizes = encoder.width, encoder.width, self.width
        wanted = [name for name, weight in self.weights.items() if weight]
        self.of_places = torch.nn.ModuleDict({name: mlp(*sizes) for name in wanted})
        self.of_vector = torch.nn.ModuleDict({name: mlp(*sizes) for name in wanted})
        self.discriminator = mlp(encoder.width, self.width, 1) if self.prior_weight else None

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `global`, `local` and `prior`, those that have a weight."""
        (encoding,), terms = encodings, {}
        key_id = gather(batch.index)
        chance = math.log(len(key_id)) if self.bound == "nce" else 0.0
        for name, head in self.of_places.items():
            keys = gather(self.of_vector[name](encoding.pooled))
            query, sample = self.places(name, head(encoding.tokens), encoding.mask)
            own = sample + len(batch) * world()[0]
            ids = batch.index[sample], key_id
            loss = mutual_information(query, keys, *ids, own, bound=self.bound)
            terms[name] = Term(loss, self.weights[name], chance)
        if self.discriminator is not None:
            loss = global_mean(self.told(encoding.pooled, batch))
            terms["prior"] = Term(loss, self.prior_weight, 2 * math.log(2))
        return terms

    def places(self, name: str, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What looks for its vector: each real place, or the mean of all; and whose it is."""
        if name == "local":
            return tokens[mask], mask.nonzero()[:, 0]
        real = mask[:, :, None].to(tokens.dtype)
        mean = (tokens * real).sum(1) / real.sum(1).clamp(min=1)
        return mean, torch.arange(len(mask), device=mask.device)

    def told(self, pooled: Tensor, batch: Batch) -> Float[Tensor, "batch"]:
        """How well the discriminator tells vectors from noise, the encoder working against it."""
        assert self.discriminator is not None
        noise = uniform(batch.seed, batch.ordinal, _PRIOR, pooled.shape[1]).to(pooled.dtype)
        shown = torch.cat([noise, reverse_gradient(pooled.sigmoid())])
        of_noise, of_vector = exact(self.discriminator(shown))[:, 0].chunk(2)
        return F.softplus(-of_noise) + F.softplus(of_vector)


__all__ = ["DeepInfoMax", "mutual_information"]
