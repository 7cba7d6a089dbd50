"""Exact likelihoods: an invertible encoder, and a flow as the prior of an autoencoder's code."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.couplings import CouplingFlow, standard_log_prob
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.generative import VAE, asked, noise_like
from unlabel.objectives.likelihood import bits, gaussian_chance, level_bits
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term


class Flow(Objective):
    """Normalizing flow: the exact likelihood of each sample, by an invertible encoder.

    `-(ln N(z; 0, I) + ln |det dz/dx|)` a value, in nats; `bits` is the same in bits per dimension,
    of frames in those of their 8-bit pixels, see `level_bits`: the figure of papers. An encoder
    that is the identity costs what the standard normal density does. A sample with a missing value
    has no exact likelihood and does not count.

    Args:
        before: views, joined by `+`; `dequantize` makes values continuous, without which the
            density of values that repeat exactly has no bound.
        args: their arguments.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Dinh et al. 2016 (RealNVP), arXiv 1605.08803, section 3; mixing: Kingma & Dhariwal
    2018 (Glow), arXiv 1807.03039, section 3.2.
    """

    paper = "RealNVP (Dinh et al. 2016, arXiv 1605.08803)"
    needs = frozenset({"likelihood", "values"})

    def __init__(self, *, before: str = "dequantize", args: Mapping[str, Any] | None = None):
        super().__init__()
        self.views = (chain(before, "whole", args=args),)

    def build(self, encoder: Encoder) -> None:
        """Learn the levels of the data."""
        self._levels = level_bits(encoder, self.views[0])

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `likelihood`, and `bits` to look at."""
        (encoding,), (seen,) = encodings, views
        target, is_target = asked(seen)
        assert encoding.likelihood is not None  # asked for
        complete = is_target.flatten(1).all(1)
        nats = -exact(encoding.likelihood[complete]) / target[0].numel()
        value = global_mean(nats)
        chance = gaussian_chance(target, is_target & complete[:, None, None])
        return {
            "likelihood": Term(value, chance=chance),
            "bits": Term(bits(value, self._levels).detach(), 0.0),
        }

    @torch.no_grad()
    def drawn(
        self, encoder: Encoder, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Float[Tensor, "count length values"]:
        """What the encoder turns into noise."""
        shape, like = (encoder.length, encoder.token_values), next(encoder.model.parameters())
        noise = noise_like(like, count, math.prod(shape), seed).unflatten(1, shape)
        return encoder.model.inverse(temperature * noise)

    def surprise(self, encoding: Encoding, seen: View) -> Float[Tensor, "batch"]:
        """Nats a value of each sample; of one with a missing value NaN."""
        target, is_target = asked(seen)
        assert encoding.likelihood is not None  # asked for
        complete = is_target.flatten(1).all(1)
        return torch.where(complete, -encoding.likelihood / target[0].numel(), torch.nan)


class FlowPrior(VAE):
    """Autoencoder and flow: a variational autoencoder whose code has a learned prior, a flow.

    As `VAE`, with `KL(q || N(0, I)) + E ln N(z; 0, I) - E ln p(z)` for the divergence, of one draw
    of z: the first part in closed form, the rest what the flow gains. A flow that is the identity
    gives the Gaussian prior's divergence exactly, and it starts as that.

    Args:
        steps: of mixing and coupling in the flow.
        options: `width`, `beta`, `deviation`, `hidden` (of the decoder and of the couplings'
            networks), `before`, `after` and `args`, as for `VAE`.

    Raises:
        ValueError: a code of fewer than two numbers, or no step.

    Reference: Chen et al. 2016 (Variational lossy autoencoder), arXiv 1611.02731, section 3.2;
    coupling layers: Dinh et al. 2016 (RealNVP), 1605.08803.
    """

    paper = "Variational lossy autoencoder (Chen et al. 2016, arXiv 1611.02731)"

    def __init__(self, *, steps: int = 6, **options: Any):
        super().__init__(**options)
        if steps < 1 or self.width < 2:
            raise ValueError(
                f"A flow couples at least two numbers of a code in at least one step, but width "
                f"is {self.width} and steps is {steps}."
            )
        self.steps = steps

    def build(self, encoder: Encoder) -> None:
        """Make the heads and the flow."""
        super().build(encoder)
        self.flow = CouplingFlow(1, self.width, steps=self.steps, hidden=self.hidden)

    def divergence(
        self, mean: Tensor, log_variance: Tensor, code: Tensor
    ) -> Float[Tensor, "batch"]:
        """KL of each sample's code from the flow, in nats, of one draw."""
        with torch.autocast(code.device.type, enabled=False):
            gain = self.flow.log_prob(code[:, None]) - standard_log_prob(code)
            return super().divergence(mean, log_variance, code) - gain

    def prior(self, noise: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """Codes that the flow makes of noise."""
        return self.flow.inverse(noise[:, None])[:, 0]


__all__ = ["Flow", "FlowPrior"]
