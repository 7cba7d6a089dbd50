"""Invertible maps whose density is exact: linear mixing and affine couplings, in turn.

They start as the identity. Known to objectives (a prior over codes) and encoders (of windows and
frames) alike, and knows neither.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Flowed(NamedTuple):
    """What a flow makes of its input.

    Attributes:
        latents: the input, then what each step makes of it, `(batch, length, values)` each.
        log_det: ln |det dz/dx| of all steps, `(batch,)`.
        hidden: of the steps' networks, their mean, `(batch, length, hidden)`.
    """

    latents: list[Tensor]
    log_det: Tensor
    hidden: Tensor

    @property
    def log_prob(self) -> Float[Tensor, "batch"]:
        """Ln p(x) of each sample, in nats."""
        return self.log_det + standard_log_prob(self.latents[-1])


class Mixing(nn.Module):
    """`y = L (U x) + b` over the values of each token: unit lower times upper triangular.

    The diagonal of U is an exponential, so that its determinant is never 0.

    Reference: Kingma & Dhariwal 2018 (Glow), arXiv 1807.03039, section 3.2.
    """

    def __init__(self, values: int):
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(values, values))
        self.upper = nn.Parameter(torch.zeros(values, values))
        self.log_scale = nn.Parameter(torch.zeros(values))
        self.bias = nn.Parameter(torch.zeros(values))

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U."""
        one = torch.eye(len(self.bias), dtype=self.bias.dtype, device=self.bias.device)
        return self.lower.tril(-1) + one, self.upper.triu(1) + torch.diag(self.log_scale.exp())

    def forward(self, x: Float[Tensor, "batch length values"]) -> tuple[Tensor, Tensor]:
        """y, and ln |det| of all tokens together."""
        lower, upper = self.factors()
        return x @ (lower @ upper).T + self.bias, x.shape[1] * self.log_scale.sum()

    def inverse(self, y: Float[Tensor, "batch length values"]) -> Tensor:
        """X."""
        lower, upper = self.factors()
        columns = (y - self.bias).flatten(0, 1).T
        half = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        found = torch.linalg.solve_triangular(upper, half, upper=True)
        return found.T.reshape(y.shape)


class Conditioner(nn.Module):
    """Shift and log scale of the values of every token, from those that stay: a small mixer.

    Args:
        length: tokens.
        values: of a token.
        hidden: width inside.

    Reference: Tolstikhin et al. 2021 (MLP-Mixer), arXiv 2105.01601, section 2.
    """

    def __init__(self, length: int, values: int, hidden: int):
        super().__init__()
        self.enter = nn.Linear(values, hidden)
        self.places = nn.Parameter(torch.randn(length, hidden) * 0.02)
        self.before, self.across = nn.LayerNorm(hidden), nn.Linear(length, length)
        self.within = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.leave = nn.Linear(hidden, 2 * values)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Float[Tensor, "batch length values"]) -> tuple[Tensor, Tensor, Tensor]:
        """Shift, log scale, and the hidden vectors they come from."""
        h = self.enter(x) + self.places
        h = h + self.across(self.before(h).transpose(1, 2)).transpose(1, 2)
        h = h + self.within(h)
        shift, scale = self.leave(F.gelu(h)).chunk(2, dim=2)
        return shift, scale, h


class Coupling(nn.Module):
    """`y = x` where the mask is True, elsewhere `y = x exp(s) + t`, s and t from what stays.

    `|s|` is at most 2, so that no step blows up.

    Args:
        mask: True at what stays.
        hidden: width of the network of s and t.

    Reference: Dinh et al. 2016 (RealNVP), arXiv 1605.08803, section 3.2.
    """

    stays: Tensor

    def __init__(self, mask: Bool[Tensor, "length values"], hidden: int):
        super().__init__()
        self.conditioner = Conditioner(*mask.shape, hidden)
        # Saved, too: what is not would be lost where a model is made on no device, and then loaded.
        self.register_buffer("stays", mask)

    def forward(self, x: Float[Tensor, "batch length values"]) -> tuple[Tensor, Tensor, Tensor]:
        """y, ln |det| of each sample, and the network's hidden vectors."""
        shift, scale, hidden = self.conditioner(x * self.stays)
        scale = (2 * torch.tanh(scale / 2)).masked_fill(self.stays, 0)
        moved = x * scale.exp() + shift.masked_fill(self.stays, 0)
        return moved, scale.flatten(1).sum(1), hidden

    def inverse(self, y: Float[Tensor, "batch length values"]) -> Tensor:
        """X."""
        shift, scale, _ = self.conditioner(y * self.stays)
        scale = (2 * torch.tanh(scale / 2)).masked_fill(self.stays, 0)
        return (y - shift.masked_fill(self.stays, 0)) * (-scale).exp()


class CouplingFlow(nn.Module):
    """Steps of mixing and coupling from data to standard normal noise; the identity at the start.

    Couplings hold back every other token and every other value of each token in turn.

    Args:
        length: tokens of a sample; 1 for plain vectors.
        values: of a token.
        steps: how many of each.
        hidden: width of the couplings' networks.

    Raises:
        ValueError: fewer than two numbers a sample, or no step.
    """

    def __init__(self, length: int, values: int, *, steps: int, hidden: int):
        super().__init__()
        if length * values < 2 or steps < 1:
            raise ValueError(
                f"A flow couples at least two numbers in at least one step, but {length} x "
                f"{values} numbers and {steps} steps came."
            )
        self.mixings = nn.ModuleList(Mixing(values) for _ in range(steps))
        self.couplings = nn.ModuleList(
            Coupling(alternate(length, values, step), hidden) for step in range(steps)
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, in which all is computed, whatever autocast says."""
        return next(self.parameters()).dtype

    def forward(self, x: Float[Tensor, "batch length values"]) -> Flowed:
        """From data to noise."""
        with torch.autocast(x.device.type, enabled=False):
            latents = [x.to(self.dtype)]
            log_det = latents[0].new_zeros(len(x))
            hidden: list[Tensor] = []
            for mix, couple in zip(self.mixings, self.couplings, strict=True):
                mixed, of_mix = mix(latents[-1])
                moved, of_couple, inside = couple(mixed)
                latents.append(moved)
                hidden.append(inside)
                log_det = log_det + of_mix + of_couple
        return Flowed(latents, log_det, torch.stack(hidden).mean(0))

    def inverse(self, z: Float[Tensor, "batch length values"]) -> Tensor:
        """From noise to data."""
        with torch.autocast(z.device.type, enabled=False):
            x = z.to(self.dtype)
            for mix, couple in zip(reversed(self.mixings), reversed(self.couplings), strict=True):
                x = mix.inverse(couple.inverse(x))
        return x

    def log_prob(self, x: Float[Tensor, "batch length values"]) -> Float[Tensor, "batch"]:
        """`ln p(x) = ln N(z; 0, I) + ln |det dz/dx|` of each sample, in nats."""
        return self(x).log_prob


def standard_log_prob(z: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch"]:
    """`ln N(z; 0, I)` of each row, in nats."""
    flat = z.flatten(1)
    return -(flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi)) / 2


def alternate(length: int, values: int, step: int) -> Bool[Tensor, "length values"]:
    """What stays at a step: every other value, the rest, every other token, the rest, and so on.

    Where there is one token or one value, the other of the two kinds alone.
    """
    by_value = length == 1 or (values > 1 and step % 4 < 2)
    token, value = torch.arange(length)[:, None], torch.arange(values)[None, :]
    number = value if by_value else token
    return (number + step).expand(length, values) % 2 == 0


__all__ = ["CouplingFlow", "Flowed", "alternate", "standard_log_prob"]
