"""Methods with a second player: a judge that learns to tell what a model makes from what is."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, normal, stream_of
from unlabel.objectives.gather import global_mean
from unlabel.objectives.generative import CodedAutoencoder, asked
from unlabel.objectives.heads import AttentionLayer, check_heads, mlp
from unlabel.objectives.masked import MaskedValues, at_targets
from unlabel.objectives.objective import Term
from unlabel.objectives.players import play

_PRIOR = stream_of("noise that codes are to look like")


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
        self.layer = AttentionLayer(hidden, heads, times=2)
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
        target, is_target = asked(views[0])
        pred = self.predictor(encodings[0].tokens[:, : target.shape[1]])
        value = at_targets(pred, target, is_target)
        terms = {"value": value._replace(weight=1 - self.adversarial)}
        if self.discriminator is not None:
            part = lambda x: (x.masked_fill(~is_target, 0.0),)  # noqa: E731
            told, fooled = play(self.discriminator, part(target.to(pred.dtype)), part(pred))
            terms["fooled"] = Term(global_mean(fooled), self.adversarial)
            terms["told"] = Term(global_mean(told))
        return terms


class AdversarialAutoencoder(CodedAutoencoder):
    """Adversarial autoencoder: a code from which the sample comes back, and that looks like noise.

    `(decoded - value)^2`, mean over all measured values, `+ weight softplus(-D(z))` for the encoder
    whose code is z, and `softplus(-D(u)) + softplus(D(z))` for the judge D, u from N(0, I), see
    `players`. A perfect decoder costs 0 in the first term.

    Args:
        width: of the code z.
        weight: of what the encoder pays the judge; 0 leaves both out.
        hidden: width of decoder and judge.
        before: views applied before, joined by `+`; targets are taken from their result.
        after: views of what the encoder sees; targets stay as they were.
        args: their arguments.

    Raises:
        ValueError: a weight below 0, or an argument of a view that is not there.

    Reference: Makhzani et al. 2015, arXiv 1511.05644, section 2.
    """

    paper = "Adversarial autoencoder (Makhzani et al. 2015, arXiv 1511.05644)"

    def __init__(
        self,
        *,
        width: int = 32,
        weight: float = 1.0,
        hidden: int = 256,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        if weight < 0:
            raise ValueError(f"The weight of the second player is 0 or more, but {weight} came.")
        super().__init__(width=width, hidden=hidden, before=before, after=after, args=args)
        self.weight = weight

    def build(self, encoder: Encoder) -> None:
        """Make the code's layer, the decoder from it, and the judge of codes."""
        self.code = nn.Linear(encoder.width, self.width)
        super().build(encoder)
        self.discriminator = self.judge(encoder) if self.weight else None

    def judge(self, encoder: Encoder) -> nn.Module:
        """A logit of each code."""
        return mlp(self.width, self.hidden, self.hidden, 1)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `value` and, unless its weight is 0, `fooled` and the judge's `told`."""
        code = self.code(encodings[0].pooled)
        terms = {"value": at_targets(self.decoder(code), *asked(views[0]))}
        if self.discriminator is not None:
            noise = normal(batch.seed, batch.ordinal, _PRIOR, self.width).to(code)
            told, fooled = play(self.discriminator, (noise,), (code,))
            terms |= {"fooled": Term(global_mean(fooled), self.weight)}
            terms |= {"told": Term(global_mean(told))}
        return terms

    def rebuilt(self, encoding: Encoding) -> Float[Tensor, "batch length values"]:
        """What is decoded from the code."""
        return self.decoder(self.code(encoding.pooled))


class BiGAN(AdversarialAutoencoder):
    """BiGAN: an encoder and a generator that together fool a judge of pairs (sample, code).

    The judge D is to tell the pairs of the encoder, (x, E(x)), from those of the generator,
    (G(u), u), u from N(0, I): it pays `softplus(-D(x, E(x))) + softplus(D(G(u), u))`, and encoder
    and generator pay `softplus(D(x, E(x))) + softplus(-D(G(u), u))`, see `players`. Where the judge
    cannot tell, which is 2 ln 2 for both, E and G undo each other. No value is compared with
    another; `rebuilt` is how far `G(E(x))` is from x, to look at.

    Args:
        width: of the code.
        hidden: width of generator and judge.
        heads: of the judge's attention.
        before: views applied before, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: a width that the heads cannot share, or an argument of a view that is not there.

    Reference: Donahue et al. 2017, arXiv 1605.09782, sections 3 and 3.4 (the loss that does not
    saturate).
    """

    paper = "BiGAN (Donahue et al. 2017, arXiv 1605.09782)"

    def __init__(
        self,
        *,
        width: int = 32,
        hidden: int = 128,
        heads: int = 4,
        before: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        check_heads(hidden, heads)
        super().__init__(width=width, hidden=hidden, before=before, args=args)
        self.heads = heads

    def judge(self, encoder: Encoder) -> nn.Module:
        """A logit of each pair."""
        sizes = {"hidden": self.hidden, "heads": self.heads, "beside": self.width}
        return Judge(encoder.length, encoder.token_values, **sizes)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `fooled`, the judge's `told`, and `rebuilt`, to look at."""
        code, (target, is_target) = self.code(encodings[0].pooled), asked(views[0])
        noise = normal(batch.seed, batch.ordinal, _PRIOR, self.width).to(code)
        part = lambda x: x.to(code.dtype).masked_fill(~is_target, 0.0)  # noqa: E731
        pairs = (part(target), code), (part(self.decoder(noise)), noise)
        assert self.discriminator is not None  # the weight of a BiGAN is not its user's to set
        told, fooled = play(self.discriminator, *pairs, both=True)
        with torch.no_grad():
            rebuilt = at_targets(self.decoder(code), target, is_target)
        return {
            "fooled": Term(global_mean(fooled)),
            "told": Term(global_mean(told)),
            "rebuilt": rebuilt._replace(weight=0.0),
        }


__all__ = ["AdversarialAutoencoder", "BiGAN", "ContextEncoder", "Judge"]
