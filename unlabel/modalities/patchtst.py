"""transformers' PatchTST, driven by hand: any number of tokens, padding, gaps and causal order."""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PatchTSTModel, PreTrainedModel

from unlabel.modalities.dropout import replace_dropout

# A new PatchTST: small enough to pretrain on a CPU; layer norm, so that a token depends on its
# own window alone.
DEFAULTS: dict[str, Any] = {
    "patch_length": 12,
    "d_model": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 128,
    "norm_type": "layernorm",
    "pre_norm": True,
    "scaling": None,
    "num_input_channels": 1,
    "share_embedding": True,
    # Measured on masked patches of ETTh1 (400 steps): a learned position table and a wider start
    # take the loss from 0.91 to 0.59, where transformers' own defaults stay near the mean's.
    "positional_encoding_type": "random",
    "init_std": 0.1,
    "attention_dropout": 0.1,
    "ff_dropout": 0.1,
    "path_dropout": 0.1,
    "positional_dropout": 0.1,
}


class PatchTST(nn.Module):
    """Tokens of one channel through a PatchTST, each at its own place of the position table.

    `PatchTSTModel` itself takes windows of one length only, and has no attention mask.

    Args:
        model: the model; its own scaling and masking are not used.
        causal: let every token attend to itself and earlier ones only.

    Raises:
        ValueError: overlapping patches, or a variant that ties windows or channels together.
    """

    def __init__(self, model: PatchTSTModel, *, causal: bool = False):
        super().__init__()
        config = model.config
        _check(config, causal)
        self.model, self.causal = model, causal
        self.patch: int = config.patch_length
        self.width = self.embedding_width = int(config.d_model)
        self._attention: Tensor | None = None
        replace_dropout(model)
        for layer in model.encoder.layers:
            # A bound method, so that a deep copy of this module is hooked to itself.
            layer.self_attn.register_forward_pre_hook(self._hand_over, with_kwargs=True)

    def forward(
        self,
        values: Float[Tensor, "batch tokens patch 1"],
        observed: Bool[Tensor, "batch tokens patch 1"],
        added: Float[Tensor, "batch tokens width"],
        *,
        mask: Bool[Tensor, "batch tokens"],
        positions: Int[Tensor, "batch tokens"],
        keep_positions: Bool[Tensor, "batch tokens"] | None = None,
        keep_features: Bool[Tensor, "batch width"] | None = None,
    ) -> tuple[list[Float[Tensor, "batch tokens width"]], Float[Tensor, "batch tokens width"]]:
        """Hidden states by layer, embedding layer first, and the output, here the last of them.

        Args:
            values: normalised values of each patch.
            observed: not read: a PatchTST has no word for gaps, which come in `added`.
            added: what is added to the projected patches (flags, covariates).
            mask: True at tokens that others may attend to.
            positions: rows of the position table.
            keep_positions: False at tokens zeroed after projection and position.
            keep_features: False at embedding columns zeroed there.
        """
        encoder = self.model.encoder
        tokens = encoder.embedder.input_embedding(rearrange(values, "b l p 1 -> b l p")) + added
        places = encoder.positional_encoder
        tokens = tokens + places.position_enc[positions]
        tokens = places.positional_dropout(cut(tokens, keep_positions, keep_features))
        states = [tokens]
        self._attention = self._allowed(mask, positions, tokens.dtype)
        try:
            for layer in encoder.layers:
                states.append(layer(hidden_state=states[-1][:, None])[0][:, 0])
        finally:
            self._attention = None
        return states, states[-1]

    def _allowed(self, mask: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What is added to the attention scores: 0 where a token may look, else a huge negative."""
        if not self.causal:
            # On a CPU it costs nothing to ask whether there is padding at all.
            if mask.device.type == "cpu" and not torch.compiler.is_compiling() and mask.all():
                return None
            # One row for all queries. A sample without a real token looks everywhere, so that no
            # row of the softmax is empty.
            allowed = (mask | ~mask.any(1, keepdim=True))[:, None, :]
        else:
            allowed = mask[:, None, :] & (positions[:, None, :] <= positions[:, :, None])
            # A padded token looks at itself, for the same reason.
            allowed = allowed | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        huge = torch.finfo(dtype).min
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, huge)[:, None]

    def _hand_over(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": self._attention}


def cut(tokens: Tensor, keep_positions: Tensor | None, keep_features: Tensor | None) -> Tensor:
    """Zero tokens and columns of embeddings, `(batch, tokens, width)`."""
    if keep_positions is not None:
        tokens = tokens * keep_positions[:, :, None]
    if keep_features is not None:
        tokens = tokens * keep_features[:, None, :]
    return tokens


def _check(config: Any, causal: bool) -> None:
    refused = {
        f"patches of {config.patch_length} steps every {config.patch_stride} steps, which overlap "
        "or leave gaps; set patch_stride to patch_length": config.patch_stride
        != config.patch_length,
        "one embedding for each channel; set share_embedding": not config.share_embedding,
        "attention between channels; leave channel_attention off": config.channel_attention,
        "a class token; leave use_cls_token off": config.use_cls_token,
        "batch norm, through which later steps reach earlier ones in training; set norm_type to "
        "layernorm for a causal encoder": causal and config.norm_type == "batchnorm",
    }
    for what, is_so in refused.items():
        if is_so:
            raise ValueError(f"This PatchTST has {what}.")


def is_patchtst(model: PreTrainedModel) -> bool:
    """True for transformers' PatchTST without a head."""
    return isinstance(model, PatchTSTModel)


__all__ = ["DEFAULTS", "PatchTST", "cut", "is_patchtst"]
