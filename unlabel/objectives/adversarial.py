"""Methods with a second player: a judge that learns to tell what a model makes from what is."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import check_heads, mlp
from unlabel.objectives.masked import MaskedValues, at_targets
from unlabel.objectives.objective import Term
from unlabel.objectives.players import play


class Judge(nn.Module):
    """A logit that a sample is real, from the values of its tokens at their places.

    Args:
        length: tokens of a sample.
        values: of a token.
        hidden: width inside.
        heads: of its one layer of attention.
        beside: width of a vector that it sees with them; 0 for none.
    """

    def __init__(self, length: int, values: int, *, hidden: int, heads: int, beside: int = 0):
        super().__init__()
        self.enter = nn.Linear(values, hidden)
        self.places = nn.Parameter(torch.randn(length, hidden) * 0.02)
        self.beside = nn.Linear(beside, hidden, bias=False) if beside else None
        self.layer = attention_layer(hidden, heads)
        self.leave = nn.Linear(hidden, 1)

    def forward(
        self,
        values: Float[Tensor, "batch length values"],
        vector: Float[Tensor, "batch beside"] | None = None,
    ) -> Float[Tensor, "batch"]:
        """The logits."""
        x = self.enter(values) + self.places
        if self.beside is not None:
            x = x + self.beside(vector)[:, None]
        return self.leave(self.layer(x).mean(1))[:, 0]


def attention_layer(hidden: int, heads: int) -> nn.TransformerEncoderLayer:
    """One layer of attention, normed first, without dropout."""
    return nn.TransformerEncoderLayer(
        hidden, heads, 2 * hidden, 0.0, "gelu", batch_first=True, norm_first=True
    )


class ContextEncoder(MaskedValues):
    """Context encoder: fill in what is hidden, near to what was there and so that it looks real.

    `(1 - a) (prediction - value)^2`, mean over the hidden values, `+ a softplus(-D(prediction))`
    for the encoder and its decoder, and `softplus(-D(values)) + softplus(D(prediction))` for the
    judge D, see `players`. The judge sees the hidden part alone, at its place. A perfect fill
    costs 0 in the first term; what was not hidden does not count.

    Args:
        unit: what is hidden, `"centre"` or a random `"block"`, or any other of the kind of data.
        ratio: share that is hidden.
        adversarial: a; 0 leaves the judge out.
        hidden: width of decoder and judge.
        heads: of the judge's attention.
        before: views applied before the masking, joined by `+`.
        after: views of what is left visible.
        args: their arguments.

    Raises:
        ValueError: no share, a width that the heads cannot share, or an argument of a view that is
            not there.

    Reference: Pathak et al. 2016, arXiv 1604.07379, section 3.2 and equation 3.
    """

    paper = "Context encoders (Pathak et al. 2016, arXiv 1604.07379)"
    needs = frozenset({"tokens", "values", "length"})

    def __init__(
        self,
        *,
        unit: str = "centre",
        ratio: float = 0.25,
        adversarial: float = 0.001,
        hidden: int = 64,
        heads: int = 4,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        if not 0 <= adversarial <= 1:
            raise ValueError(f"adversarial is a share from 0 to 1, but {adversarial} came.")
        check_heads(hidden, heads)
        super().__init__(unit=unit, ratio=ratio, before=before, after=after, args=args)
        self.adversarial, self.hidden, self.heads = adversarial, hidden, heads

    def build(self, encoder: Encoder) -> None:
        """Make the decoder and the judge."""
        values = encoder.token_values
        self.predictor = mlp(encoder.width, 2 * self.hidden, values)
        sizes = {"hidden": self.hidden, "heads": self.heads}
        self.discriminator = Judge(encoder.length, values, **sizes) if self.adversarial else None

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `value` and, unless its weight is 0, `fooled` and the judge's `told`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None and seen.is_target is not None  # the view makes both
        pred = self.predictor(encoding.tokens[:, : seen.target.shape[1]])
        value = at_targets(pred, seen.target, seen.is_target)
        terms = {"value": value._replace(weight=1 - self.adversarial)}
        if self.discriminator is not None:
            part = lambda x: (x.masked_fill(~seen.is_target, 0.0),)  # noqa: E731
            told, fooled = play(self.discriminator, part(seen.target.to(pred.dtype)), part(pred))
            terms["fooled"] = Term(global_mean(fooled), self.adversarial)
            terms["told"] = Term(global_mean(told))
        return terms


__all__ = ["ContextEncoder", "Judge"]
