"""Heads: small modules built from sizes that stand between an encoding and a kernel."""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unlabel.objectives.moments import exact
from unlabel.objectives.state import State

MOST = math.log(100.0)  # that a learned logit scale's logarithm may be


def check_temperature(*values: float) -> None:
    """Refuse temperatures that are not above 0.

    Raises:
        ValueError: one is not.
    """
    for value in values:
        if not value > 0:
            raise ValueError(f"A temperature is above 0, but {value} came.")


def _check_widths(*widths: int) -> None:
    if min(widths) < 1:
        raise ValueError(f"Widths of a head are 1 or more, but {', '.join(map(str, widths))} came.")


def mlp(*sizes: int, batch_norm: bool = False) -> nn.Sequential:
    """Linear layers through `sizes` with ReLU between (two of them are `mlp(w, w, 128)`).

    Args:
        sizes: width of the input, of every hidden layer, and of the output.
        batch_norm: normalise over the batch before every ReLU.

    Raises:
        ValueError: a width below 1.
    """
    _check_widths(*sizes)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        layers.append(nn.Linear(before, after, bias=last or not batch_norm))
        if not last:
            layers += [nn.BatchNorm1d(after), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return nn.Sequential(*layers)


def check_heads(hidden: int, heads: int) -> None:
    """Refuse a width that the heads of an attention cannot share.

    Raises:
        ValueError: so it is.
    """
    if heads < 1 or hidden % heads:
        raise ValueError(f"{heads} heads cannot share a width of {hidden}: give a multiple.")


class AttentionLayer(nn.TransformerEncoderLayer):
    """One layer of a Transformer, normed first, without dropout; `times` as wide inside.

    It is torch's own, but that q, k and v are parts of one product: torch's copies them, and fills
    zeros of three times their size for the gradient of each.
    """

    def __init__(self, width: int, heads: int, *, times: int = 4):
        super().__init__(
            width, heads, times * width, 0.0, "gelu", batch_first=True, norm_first=True
        )

    def _sa_block(
        self,
        x: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        is_causal: bool = False,
    ) -> Tensor:
        own = self.self_attn
        parts = F.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
        q, k, v = (rearrange(z, "b l (h d) -> b h l d", h=own.num_heads) for z in parts)
        mask = attn_mask
        if key_padding_mask is not None:
            keys = key_padding_mask[:, None, None]
            mask = keys if mask is None else mask + keys
        seen = F.scaled_dot_product_attention(q, k, v, mask)
        return own.out_proj(rearrange(seen, "b h l d -> b l (h d)"))


def small_linear(width: int, out: int) -> nn.Linear:
    """A linear layer of small weights and no bias at first, which begins at chance."""
    layer = nn.Linear(width, out)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def layer_norm_mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """Two linear layers with layer norm and ReLU between.

    Raises:
        ValueError: a width below 1.
    """
    _check_widths(width, hidden, out)
    return nn.Sequential(
        nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, out)
    )


def mlp_projector(width: int, out: int, *, layers: int = 2) -> nn.Module:
    """An MLP as wide as the encoder inside: SimCLR's has 2 layers, SimCLR v2's 3.

    Args:
        width: of the encoder.
        out: of the projection.
        layers: linear layers; 1 is a linear projector, 0 none, whatever `out`.

    Raises:
        ValueError: fewer layers than none.
    """
    if layers < 0:
        raise ValueError(f"A projector has 0 layers or more, but layers is {layers}.")
    return nn.Identity() if layers == 0 else mlp(*[width] * layers, out)


def tanh_projector(width: int) -> nn.Sequential:
    """A square linear layer with tanh: BERT's pooler, SimCSE's train-only head."""
    return nn.Sequential(nn.Linear(width, width), nn.Tanh())


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grads[0], None


def reverse_gradient(x: Float[Tensor, "*any"], scale: float = 1.0) -> Float[Tensor, "*any"]:
    """The same numbers, whose gradient is turned round: what comes before works against the loss.

    With it a head that tells two things apart and an encoder that makes them alike learn in one
    pass, by one optimizer.

    Args:
        x: what the head sees.
        scale: of the gradient that goes back.

    Reference: Ganin & Lempitsky 2015, arXiv 1409.7495, section 3.
    """
    return _Reverse.apply(x, scale)


class Temperature(State):
    """The temperature of a contrastive loss, fixed or learned as a logit scale.

    Args:
        value: T to use, or to start from.
        learned: learn ln(1/T), which `step()` clips so that 1/T is at most 100 (Radford et al.
            2021, section 2.5); the gradient is that of the whole loss there too, and leads back.

    Raises:
        ValueError: T is not above 0.
    """

    def __init__(self, value: float, *, learned: bool = False):
        super().__init__()
        check_temperature(value)
        self.value = value
        start = torch.tensor(-math.log(value)).clamp(max=MOST)
        self.log_scale = nn.Parameter(start) if learned else None

    def forward(self) -> float | Tensor:
        """T."""
        if self.log_scale is None:
            return self.value
        return torch.exp(-self.log_scale)

    @torch.no_grad()
    def step(self) -> None:
        """Clip what is learned."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=MOST)


class PrototypeHead(nn.Module):
    """A projection onto the unit sphere, and its cosines with prototypes of length 1.

    The last layer is DINO's weight-normed one and SwAV's prototypes alike.

    Args:
        sizes: of the projection, see `mlp`.
        count: prototypes.
    """

    def __init__(self, *sizes: int, count: int):
        super().__init__()
        self.mlp = mlp(*sizes)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(count, sizes[-1]), dim=1))

    def project(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows last"]:
        """Vectors of length 1, in float32 or wider."""
        return F.normalize(exact(self.mlp(x)), dim=-1)

    def score(
        self, z: Float[Tensor, "*rows last"], is_frozen: Bool[Tensor, ""] | None = None
    ) -> Float[Tensor, "*rows count"]:
        """Cosines of unit vectors with the prototypes, which learn nothing where `is_frozen`."""
        with torch.autocast(z.device.type, enabled=False):
            weight = F.normalize(exact(self.prototypes), dim=1)
            if is_frozen is not None:
                weight = torch.where(is_frozen, weight.detach(), weight)
            return z @ weight.to(z.dtype).T

    def forward(self, x: Tensor, is_frozen: Bool[Tensor, ""] | None = None) -> Tensor:
        """Cosines of rows as the encoder gives them."""
        return self.score(self.project(x), is_frozen)


def drawn_class(
    logits: Float[Tensor, "rows classes"], draws: Float[Tensor, "rows"]
) -> Int[Tensor, "rows"]:
    """A class of each row by its chances, for an even draw from 0 to 1; it has no gradient."""
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        chances = exact(logits).softmax(-1).cumsum(-1)
        # Not 1, as sums are rounded; and at an even draw of 0 no class without a chance.
        draws = (draws.to(chances) * chances[:, -1]).clamp(min=torch.finfo(chances.dtype).tiny)
        return (chances < draws[:, None]).sum(-1)


class TokenPredictor(nn.Module):
    """Scores over the vocabulary from token vectors, tied to the encoder's own token table.

    Transform, GELU, layer norm, then the table's transpose and a bias (Devlin et al. 2019, A.2).

    Args:
        width: of the encoder's token vectors.
        vocabulary: rows of the table.
        table_width: columns of the table, where they differ from `width`.
    """

    def __init__(self, width: int, vocabulary: int, table_width: int | None = None):
        super().__init__()
        self.transform = nn.Linear(width, table_width or width)
        self.norm = nn.LayerNorm(table_width or width)
        self.bias = nn.Parameter(self.transform.weight.new_zeros(vocabulary))
        nn.init.normal_(self.transform.weight, std=0.02)
        nn.init.zeros_(self.transform.bias)

    @torch.no_grad()
    def start_from(self, head: Any) -> None:
        """Take over the weights of a pretrained head, see `TextEncoder.token_head`."""
        self.transform.weight.copy_(head.weight)
        self.transform.bias.copy_(head.bias)
        self.norm.weight.copy_(head.norm_weight)
        self.norm.bias.copy_(head.norm_bias)
        self.norm.eps = head.eps
        self.bias[: len(head.vocabulary_bias)] = head.vocabulary_bias

    def forward(
        self, tokens: Float[Tensor, "tokens width"], table: Float[Tensor, "vocabulary columns"]
    ) -> Float[Tensor, "tokens vocabulary"]:
        """Logits for each token vector."""
        return F.linear(self.norm(F.gelu(self.transform(tokens))), table, self.bias)
