"""From one vector a token to one a sample."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pool(
    tokens: Float[Tensor, "batch length width"],
    mask: Bool[Tensor, "batch length"],
    pooling: str,
    layers: tuple[Tensor, ...] | None = None,
) -> Float[Tensor, "batch width"]:
    """One vector a sample from its real tokens; 0 where it has none (but for `cls`).

    Args:
        tokens: of the last layer.
        mask: True at real tokens.
        pooling: `mean`, `max`, `last` (the newest), `cls` (the first), or `first_last`: the mean of
            the first and the last block. The first block's output is `layers[1]`; `layers[0]` is
            the embedding layer (SimCSE's authors corrected the same off-by-one in their code).
        layers: hidden states by layer, for `first_last`.

    Raises:
        ValueError: `first_last` without layers.
    """
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "last":
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        newest = (mask * places).argmax(1)
        return tokens[torch.arange(len(tokens), device=mask.device), newest]
    if pooling == "max":
        highest = tokens.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
        return torch.where(mask.any(1, keepdim=True), highest, 0)
    if pooling == "first_last":
        if layers is None:
            raise ValueError("first_last pooling needs the hidden states of all layers.")
        tokens = (layers[1] + layers[-1]) / 2
    weight = mask[:, :, None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


__all__ = ["pool"]
