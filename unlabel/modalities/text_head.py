"""The masked-language-model head that a pretrained text encoder was saved with."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM


@dataclass(frozen=True)
class TokenHead:
    """Weights of transform, layer norm and bias over the vocabulary (Devlin et al. 2019, A.2)."""

    weight: Float[Tensor, "columns width"]
    bias: Float[Tensor, "columns"]
    norm_weight: Float[Tensor, "columns"]
    norm_bias: Float[Tensor, "columns"]
    vocabulary_bias: Float[Tensor, "vocabulary"]
    eps: float


def saved_token_head(path: str | Path, *, local_files_only: bool = False) -> TokenHead | None:
    """The head in a transformers folder or hub model, None where there is none of this form.

    BERT, RoBERTa, DistilBERT, DeBERTa, ELECTRA's generator and their kin differ in the names, not
    in the parts: a linear layer, GELU, a layer norm, and one bias a token beside the tied table.

    Args:
        path: folder or hub name.
        local_files_only: never ask the hub.
    """
    config = AutoConfig.from_pretrained(str(path), local_files_only=local_files_only)
    if not any(name.endswith("ForMaskedLM") for name in config.architectures or ()):
        return None
    activation = getattr(config, "hidden_act", getattr(config, "activation", None))
    if activation != "gelu":
        return None
    model = AutoModelForMaskedLM.from_pretrained(
        str(path), dtype=torch.float32, local_files_only=local_files_only
    )
    inner = {id(m) for m in model.base_model.modules()}
    outer = [m for m in model.modules() if id(m) not in inner]
    columns = model.get_input_embeddings().weight.shape[1]
    output = model.get_output_embeddings()
    norms = [m for m in outer if isinstance(m, nn.LayerNorm)]
    linears = [m for m in outer if isinstance(m, nn.Linear) and m is not output]
    if len(norms) != 1 or len(linears) != 1 or linears[0].out_features != columns:
        return None
    weights = (linears[0].weight, linears[0].bias, norms[0].weight, norms[0].bias, output.bias)
    if any(w is None for w in weights):
        return None
    return TokenHead(*(w.detach() for w in weights), eps=norms[0].eps)
