"""Dropout: one knob for a transformers model's, and layers that draw it faster on a CPU."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# What the dropout probabilities are called in the configurations of BERT and its kin, of PatchTST
# and of our own models.
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "embedding_dropout",
    "mlp_dropout",
    "positional_dropout",
    "path_dropout",
    "ff_dropout",
)


def set_dropout(config: Any, probability: float | None) -> None:
    """Set every dropout probability the configuration has; None leaves them alone.

    Raises:
        ValueError: no probability.
    """
    if probability is None:
        return
    if not 0 <= probability < 1:
        raise ValueError(f"dropout is a probability below 1, but {probability} came.")
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, probability)


class Dropout(nn.Dropout):
    """Dropout that takes four draws from 64 random bits on a CPU, and is torch's own elsewhere.

    torch draws one value at a time on most CPUs, which can be a third of a small model's step.
    The probability is rounded to a multiple of `2**-16`, and what is kept is scaled by that.

    Example:
        >>> torch.manual_seed(0) and round(float(Dropout(0.25)(torch.ones(100_000)).mean()), 1)
        1.0
    """

    def forward(self, input: Tensor) -> Tensor:
        """Zeros in random places while training; the rest scaled up."""
        if self.training and is_quick(input, self.p):
            return drop(input, self.p)
        return super().forward(input)


def is_quick(x: Tensor, probability: float) -> bool:
    """Whether `drop` is the way to drop out of `x`."""
    cut = round(probability * 2**16)
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and 0 < cut < 2**16


def drop(x: Tensor, probability: float) -> Tensor:
    """Zeros in random places, the rest scaled up; see `Dropout`."""
    cut = round(probability * 2**16)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= cut - 2**15
    return x * keep.to(x.dtype).mul_(2**16 / (2**16 - cut))


def attend(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch heads keys width"],
    value: Float[Tensor, "batch heads keys width"],
    attention_mask: Float[Tensor, "batch #heads #queries keys"] | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch queries heads width"], None]:
    """Transformers' own `sdpa`, but for the dropout of the attention weights on a CPU.

    There, torch's fused kernels do not drop out, and what it does instead draws one weight at a
    time. No row of `attention_mask` may forbid everything by minus infinity.
    """
    about = {"dropout": dropout, "scaling": scaling, **kwargs}
    is_causal = attention_mask is None and getattr(module, "is_causal", True)
    if is_causal or not is_quick(query, dropout):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **about)
    scores = query * (query.shape[-1] ** -0.5 if scaling is None else scaling) @ key.mT
    weights = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
    return (drop(weights, dropout) @ value).transpose(1, 2).contiguous(), None


def replace_dropout(model: PreTrainedModel) -> None:
    """Put `Dropout` in the place of every `nn.Dropout` inside, and `attend` in that of `sdpa`.

    Weights and names stay, and so does an attention that was chosen otherwise.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_ATTENTION)


_ATTENTION = "unlabel_sdpa"
AttentionInterface.register(_ATTENTION, attend)

__all__ = ["Dropout", "attend", "drop", "replace_dropout", "set_dropout"]
