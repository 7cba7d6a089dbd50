"""Dropout: one knob for a transformers model's, and a layer that draws it faster on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn

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
        cut = round(self.p * 2**16)
        plain = input.device.type != "cpu" or torch.compiler.is_compiling()
        if plain or not self.training or not 0 < cut < 2**16:
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = bits.view(torch.int16)[: input.numel()].view(input.shape) >= cut - 2**15
        return input * keep.to(input.dtype).mul_(2**16 / (2**16 - cut))


def replace_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of every `nn.Dropout` inside; weights and names stay."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))


__all__ = ["Dropout", "replace_dropout", "set_dropout"]
