"""Generative models of values: autoencoders, variational ones, and autoregression."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, normal, stream_of
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.kernels import gaussian_kl, regress
from unlabel.objectives.likelihood import (
    bits,
    bounded,
    gaussian_chance,
    gaussian_nll,
    level_bits,
    per_value,
)
from unlabel.objectives.masked import at_targets
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term

Distance = Literal["mse", "l1", "huber"]
# Streams of the noise; named once, which torch.compile cannot follow.
_CODE, _SAMPLE = stream_of("code"), stream_of("sample")


class VectorDecoder(nn.Module):
    """The values of every token from one vector: it is brought to each place, and decoded there.

    The place scales and shifts what it is told. Where places are only added, as in the paper, the
    decoder gives the mean of all for long: 100 steps on waves leave 0.59 of their variance, here
    0.02 (an encoder 16 wide).

    Args:
        width: of the vector.
        length: tokens of the whole view.
        values: numbers that a token stands for.
        hidden: width inside.

    Reference: Watters et al. 2019 (spatial broadcast decoder), arXiv 1901.07017, section 2.
    """

    def __init__(self, width: int, length: int, values: int, *, hidden: int):
        super().__init__()
        self.enter = nn.Linear(width, hidden)
        self.scale = nn.Parameter(torch.randn(length, hidden))
        self.shift = nn.Parameter(torch.randn(length, hidden) * 0.5)
        self.inside = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.leave = nn.Linear(hidden, values)

    def forward(self, vector: Float[Tensor, "batch width"]) -> Float[Tensor, "batch length values"]:
        """Values of the whole view."""
        # A code that was drawn is exact, whatever type the weights have.
        entered = self.enter(vector.to(self.enter.weight.dtype))[:, None]
        return self.leave(self.inside(entered * self.scale + self.shift))


class Autoencoder(Objective):
    """Autoencoder: one vector for the sample, and from it alone all its values again.

    Mean of the distance over all measured values. A perfect decoder gives 0. With `after` it is a
    denoising one: the encoder sees the sample changed (`jitter`, or a part of it hidden by `hide`
    of series, `mask_values` of all), and the decoder gives back what it was.

    Args:
        loss: distance, `"mse"`, `"l1"` or `"huber"`.
        hidden: width of the decoder, which is thrown away afterwards.
        before: views applied before, joined by `+`; targets are taken from their result.
        after: views of what the encoder sees; targets stay as they were.
        args: their arguments, such as `{"jitter.high": 0.5}`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Hinton & Salakhutdinov 2006, Science 313; denoising: Vincent et al. 2008, ICML,
    section 2.3.
    """

    paper = "Denoising autoencoder (Vincent et al. 2008, ICML)"
    needs = frozenset({"pooled", "values", "length"})

    def __init__(
        self,
        *,
        loss: Distance = "mse",
        hidden: int = 256,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.views = (chain(before, "whole", after, args=args),)
        self.hidden = hidden
        self.loss: Distance = loss

    def build(self, encoder: Encoder) -> None:
        """Make the decoder."""
        sizes = (encoder.length, encoder.token_values)
        self.decoder = VectorDecoder(self.decoded(encoder), *sizes, hidden=self.hidden)

    def decoded(self, encoder: Encoder) -> int:
        """Width of the vector that is decoded."""
        return encoder.width

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `value`."""
        (encoding,), (seen,) = encodings, views
        pred, target, is_target = self.decoder(encoding.pooled), *asked(seen)
        return {"value": at_targets(pred, target, is_target, metric=self.loss)}

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """The view with what the decoder gives."""
        return [replace(views[0], target=self.rebuilt(encodings[0]).to(asked(views[0])[0]))]

    def rebuilt(self, encoding: Encoding) -> Float[Tensor, "batch length values"]:
        """What is decoded without any noise."""
        return self.decoder(encoding.pooled)

    def surprise(self, encoding: Encoding, seen: View) -> Float[Tensor, "batch length values"]:
        """The distance of each value from what is decoded."""
        return distances(self.rebuilt(encoding), asked(seen)[0], self.loss)


class CodedAutoencoder(Autoencoder):
    """An autoencoder by a code of its own, near to noise: what is decoded from noise is a sample.

    Args:
        width: of the code.
        options: of `Autoencoder`.
    """

    def __init__(self, *, width: int, **options: Any):
        super().__init__(**options)
        self.width = width

    def decoded(self, encoder: Encoder) -> int:
        """That of the code."""
        return self.width

    def prior(self, noise: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """Codes made of standard normal noise."""
        return noise

    @torch.no_grad()
    def drawn(
        self, encoder: Encoder, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Float[Tensor, "count length values"]:
        """What is decoded from the prior, without noise of its own."""
        noise = noise_like(next(self.decoder.parameters()), count, self.width, seed)
        return self.decoder(self.prior(temperature * noise))


class VAE(CodedAutoencoder):
    """Variational autoencoder: a Gaussian code, a Gaussian of the values around what is decoded.

    `-E ln p(x|z) + beta KL(q(z|x) || N(0, I))`, both in nats a value; with beta 1 it bounds the
    negative log likelihood from above, in the view's normalised units. `bits` is that bound in
    bits per dimension, to look at (of 8-bit pixels with `before="dequantize"`, see `level_bits`).
    KL(N(1, I) || N(0, I)) is width / 2.

    Args:
        width: of the code z.
        beta: weight of the KL.
        deviation: of the values around what is decoded; None learns it, one number for all.
        hidden: width of the decoder.
        before: as for `Autoencoder`.
        after: as for `Autoencoder`.
        args: as for `Autoencoder`.

    Raises:
        ValueError: a deviation or beta that is not positive (beta may be 0).

    Reference: Kingma & Welling 2013, arXiv 1312.6114, section 3; beta: Higgins et al. 2017;
    learned deviation: Rybkin et al. 2020, arXiv 2006.13202, section 3.
    """

    paper = "VAE (Kingma & Welling 2013, arXiv 1312.6114)"

    def __init__(
        self,
        *,
        width: int = 32,
        beta: float = 1.0,
        deviation: float | None = None,
        hidden: int = 256,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__(width=width, hidden=hidden, before=before, after=after, args=args)
        if beta < 0 or not (deviation is None or deviation > 0):
            raise ValueError(
                f"beta is 0 or more and a deviation above 0, but {beta} and {deviation} came."
            )
        self.beta, self.deviation = beta, deviation

    def build(self, encoder: Encoder) -> None:
        """Make the code's mean and variance, and the decoder from the code."""
        self.posterior = nn.Linear(encoder.width, 2 * self.width)
        self._levels = level_bits(encoder, self.views[0])
        super().build(encoder)
        if self.deviation is None:
            self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `value` and `kl`, and `bits` to look at."""
        (encoding,), (seen,) = encodings, views
        target, is_target = asked(seen)
        mean, log_variance = self.code(encoding)
        noise = normal(batch.seed, batch.ordinal, _CODE, self.width).to(mean)
        code = mean + (log_variance / 2).exp() * noise
        nats = gaussian_nll(self.decoder(code), target, self.spread(target), is_target)
        value = global_mean(nats)
        divergence = self.divergence(mean, log_variance, code)
        kl = per_value(divergence, is_target.flatten(1).sum(1))
        variance = None if self.deviation is None else self.deviation**2
        return {
            "value": Term(value, chance=gaussian_chance(target, is_target, variance)),
            "kl": Term(kl, self.beta),
            "bits": Term(bits(value + kl, self._levels).detach(), 0.0),
        }

    def code(self, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z, `(batch, width)` each."""
        mean, log_variance = exact(self.posterior(encoding.pooled)).chunk(2, dim=1)
        return mean, log_variance

    def spread(self, like: Tensor) -> Tensor:
        """Log variance of the values around what is decoded."""
        if self.deviation is None:
            return self.log_variance
        return like.new_full((), 2 * math.log(self.deviation))

    def divergence(
        self, mean: Tensor, log_variance: Tensor, code: Tensor
    ) -> Float[Tensor, "batch"]:
        """KL of each sample's code from the prior, in nats."""
        return gaussian_kl(mean, log_variance, reduction="none")

    def rebuilt(self, encoding: Encoding) -> Float[Tensor, "batch length values"]:
        """What is decoded from the code's mean."""
        return self.decoder(self.code(encoding)[0])

    def surprise(self, encoding: Encoding, seen: View) -> Float[Tensor, "batch length values"]:
        """Nats of each value around what is decoded, with its share of the code's divergence."""
        target, is_target = asked(seen)
        mean, log_variance = self.code(encoding)
        nats = gaussian_nll(self.decoder(mean), target, self.spread(target)).view(target.shape)
        shares = is_target.flatten(1).sum(1).clamp(min=1)
        return nats + (self.divergence(mean, log_variance, mean) / shares)[:, None, None]


class NextStep(Objective):
    """Autoregression over values: each token's from the tokens before it, in the grid's order.

    `-ln p(x_l | x_<l)`, a Gaussian for each value with a mean and a variance of its own, mean over
    all measured values, in nats; or a distance. The values of a token do not know each other, and
    the first token's come from a learned vector, so that no prediction sees what it predicts: its
    Jacobian is strictly lower triangular in tokens. `bits` is the same in bits per dimension (of
    8-bit pixels with `before="dequantize"`, see `level_bits`). The units are those of the view:
    where a window is normalised by its own mean and deviation, they are known beforehand, and the
    likelihood is the one given them.

    Args:
        loss: `"gaussian"`, or a distance, `"mse"`, `"l1"` or `"huber"`.
        before: views applied before, joined by `+`.
        args: their arguments.

    Raises:
        ValueError: another loss, or an argument of a view that is not there.

    Reference: Salinas et al. 2017 (DeepAR), arXiv 1704.04110, section 3.1; of pictures, patch by
    patch: El-Nouby et al. 2024 (AIM), arXiv 2401.08541, section 3.
    """

    paper = "DeepAR (Salinas et al. 2017, arXiv 1704.04110); AIM (El-Nouby et al. 2024, 2401.08541)"
    needs = frozenset({"tokens", "values", "causal"})

    def __init__(
        self,
        *,
        loss: Literal["gaussian", "mse", "l1", "huber"] = "gaussian",
        before: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if loss not in ("gaussian", "mse", "l1", "huber"):
            raise ValueError(f"loss is {loss!r}: give 'gaussian', 'mse', 'l1' or 'huber'.")
        self.views = (chain(before, "whole", args=args),)
        self.loss: Any = loss

    def build(self, encoder: Encoder) -> None:
        """Make the head, and the vector before the first token."""
        each = 2 if self.loss == "gaussian" else 1
        self._levels = level_bits(encoder, self.views[0])
        self.start = nn.Parameter(torch.zeros(encoder.width))
        self.predictor = nn.Linear(encoder.width, each * encoder.token_values)

    def predict(self, encoding: Encoding, length: int) -> tuple[Tensor, Tensor]:
        """Mean and log variance of each token's values, from the tokens before it."""
        known = encoding.tokens[:, : length - 1]
        start = self.start.to(known)
        # A token of padding says nothing either.
        known = torch.where(encoding.mask[:, : length - 1, None], known, start)
        first = start.expand(len(known), 1, -1)
        found = exact(self.predictor(torch.cat([first, known], 1)))
        if self.loss != "gaussian":
            return found, torch.zeros_like(found)
        mean, log_variance = found.chunk(2, dim=2)
        return mean, log_variance

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `value`; of the Gaussian `bits`, too, to look at."""
        (encoding,), (seen,) = encodings, views
        target, is_target = asked(seen)
        mean, log_variance = self.predict(encoding, target.shape[1])
        if self.loss != "gaussian":
            return {"value": at_targets(mean, target, is_target, metric=self.loss)}
        value = global_mean(gaussian_nll(mean, target, log_variance, is_target))
        return {
            "value": Term(value, chance=gaussian_chance(target, is_target)),
            "bits": Term(bits(value, self._levels).detach(), 0.0),
        }

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """The view with each token as it was foretold."""
        target, _ = asked(views[0])
        mean, _ = self.predict(encodings[0], target.shape[1])
        return [replace(views[0], target=mean.to(target))]

    @torch.no_grad()
    def drawn(
        self, encoder: Encoder, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Float[Tensor, "count length values"] | None:
        """Token after token from the Gaussian given those before; a distance draws nothing."""
        if self.loss != "gaussian":
            return None
        shape = (encoder.length, encoder.token_values)
        noise = temperature * noise_like(self.start, count, math.prod(shape), seed)
        noise = noise.unflatten(1, shape)
        found = torch.zeros_like(noise)
        for place in range(encoder.length):
            # No later token is looked at, so those may be anything.
            encoding = encoder(encoder.of_values(found))
            mean, log_variance = (x[:, place] for x in self.predict(encoding, encoder.length))
            found[:, place] = mean + (bounded(log_variance) / 2).exp() * noise[:, place]
        return found

    def surprise(self, encoding: Encoding, seen: View) -> Float[Tensor, "batch length values"]:
        """Nats of each value given the tokens before it, or its distance from what was foretold."""
        target, _ = asked(seen)
        mean, log_variance = self.predict(encoding, target.shape[1])
        if self.loss != "gaussian":
            return distances(mean, target, self.loss)
        return gaussian_nll(mean, target, log_variance).view(target.shape)


def noise_like(weights: Tensor, count: int, width: int, seed: int) -> Float[Tensor, "count width"]:
    """Noise to draw samples from; each row's is its own, however many there are."""
    return normal(seed, torch.arange(count, device=weights.device), _SAMPLE, width).to(weights)


def distances(pred: Tensor, target: Tensor, metric: Distance) -> Float[Tensor, "*values"]:
    """The distance of every value by itself."""
    return regress(pred[..., None], target[..., None], metric=metric, reduction="none").view(
        target.shape
    )


def asked(seen: View) -> tuple[Tensor, Tensor]:
    """Target and `is_target` of a view that makes both."""
    assert seen.target is not None and seen.is_target is not None  # the view makes both
    return seen.target, seen.is_target


__all__ = [
    "VAE",
    "Autoencoder",
    "CodedAutoencoder",
    "NextStep",
    "VectorDecoder",
    "asked",
    "noise_like",
]
