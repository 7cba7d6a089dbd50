"""transformers' ViT, VideoMAE and AST, driven by hand: any tokens of the grid, and padding."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import ASTModel, PreTrainedModel, VideoMAEModel, ViTModel

from unlabel.modalities.dropout import replace_dropout
from unlabel.modalities.patchtst import cut

PATCH_MODELS = (ViTModel, VideoMAEModel, ASTModel)


class PatchTransformer(nn.Module):
    """Patches through a transformers model, each at its own place of the position table.

    The models themselves take whole pictures of one size only, and a VideoMAE has no attention
    mask. Over all patches in order the outputs are the models' own. A patch is flattened as the
    weight of the model's convolution is: channels, then frames, rows and columns (ViT, VideoMAE),
    or mel bands, then time frames (AST).

    Attributes:
        model: the transformers model.
        width: of the tokens.
        cell: size of a patch in the order of `grid`: `(frames, rows, columns)`, or of an AST
            `(time frames, mel bands)`.
        stride: from patch to patch, likewise; an AST's patches may overlap.
        grid: patches of a whole input, time first; tokens are counted in that order.
        values: numbers of one patch.
        specials: tokens in front of the patches (class, distillation).

    Args:
        model: a ViTModel, a VideoMAEModel or an ASTModel.

    Raises:
        ValueError: another model.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        if not isinstance(model, PATCH_MODELS):
            known = ", ".join(kind.__name__ for kind in PATCH_MODELS)
            raise ValueError(f"{type(model).__name__} is none of {known}.")
        self.model: Any = model
        replace_dropout(model)
        self.is_sound = isinstance(model, ASTModel)
        projection: Any = model.embeddings.patch_embeddings.projection
        self.width = int(model.config.hidden_size)
        self.values = int(projection.weight[0].numel())
        self.cell = self._in_order(projection.kernel_size)
        self.stride = self._in_order(projection.stride)
        self.grid = self._sizes()
        names = ("cls_token", "distillation_token")
        self._names = [n for n in names if hasattr(model.embeddings, n)]
        self.specials = len(self._names)

    def forward(
        self,
        patches: Float[Tensor, "batch tokens values"],
        *,
        positions: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
        grid: Sequence[int] | None = None,
        keep_positions: Bool[Tensor, "batch tokens"] | None = None,
        keep_features: Bool[Tensor, "batch width"] | None = None,
        causal: bool = False,
    ) -> list[Float[Tensor, "batch specials_and_tokens width"]]:
        """Hidden states by layer, embedding layer first; the last has gone through the norm.

        The first `specials` tokens of each are the class tokens; a state's `[:, specials:]` are
        the patches.

        Args:
            patches: any of the grid's, flattened, 0 where hidden.
            positions: their places, counted through the grid, time first.
            mask: True at tokens that others may attend to; None where all are real.
            grid: whose places they are; the table is interpolated where it is not the model's.
            keep_positions: False at tokens zeroed after projection and position.
            keep_features: False at embedding columns zeroed there.
            causal: every patch sees itself, those at earlier places and the class tokens, which
                see each other alone.
        """
        embeddings = self.model.embeddings
        projection = embeddings.patch_embeddings.projection
        tokens = F.linear(patches, projection.weight.flatten(1), projection.bias)
        front, table = self.tables(grid or self.grid)
        tokens = cut(tokens + table.to(tokens)[positions], keep_positions, None)
        if front is not None:
            tokens = torch.cat([front.to(tokens).expand(len(tokens), -1, -1), tokens], 1)
        tokens = cut(tokens, None, keep_features)
        if hasattr(embeddings, "dropout"):
            tokens = embeddings.dropout(tokens)
        before = positions if causal else None
        return self._layers(tokens, self._allowed(mask, before, tokens.dtype))

    def _apply(self, fn: Any, recurse: bool = True) -> "PatchTransformer":
        # A VideoMAE keeps its table as a plain tensor, which would stay behind on the CPU.
        super()._apply(fn, recurse)
        embeddings = self.model.embeddings
        if not isinstance(embeddings.position_embeddings, nn.Parameter):
            embeddings.position_embeddings = fn(embeddings.position_embeddings)
        return self

    def tables(
        self, grid: Sequence[int]
    ) -> tuple[Float[Tensor, "1 specials width"] | None, Float[Tensor, "places width"]]:
        """Class tokens with their positions, and the positions of a grid's places in order."""
        embeddings = self.model.embeddings
        table = embeddings.position_embeddings
        front, places = table[:, : self.specials], table[0, self.specials :]
        if self.is_sound:
            # The model counts bands first.
            times, bands = self.grid
            places = rearrange(places, "(f t) d -> (t f) d", t=times, f=bands)
        if tuple(grid) != self.grid:
            places = _resize(places.unflatten(0, self.grid), grid).flatten(0, -2)
        if not self._names:
            return None, places
        return torch.cat([getattr(embeddings, n) for n in self._names], 1) + front, places

    def _layers(self, tokens: Tensor, allowed: Tensor | None) -> list[Tensor]:
        is_video = isinstance(self.model, VideoMAEModel)
        layers = self.model.encoder.layer if is_video else self.model.layers
        states = [tokens]
        for layer in layers:
            if is_video and allowed is not None:
                states.append(_masked_layer(layer, states[-1], allowed))
            elif is_video:
                states.append(layer(states[-1]))
            else:
                states.append(layer(states[-1], allowed))
        if self.model.layernorm is not None:
            states[-1] = self.model.layernorm(states[-1])
        return states

    def _allowed(
        self, mask: Tensor | None, positions: Tensor | None, dtype: torch.dtype
    ) -> Tensor | None:
        """What is added to the attention scores: 0 where a token may look, else a huge negative.

        With positions it looks at none after its own.
        """
        if positions is not None:
            place = F.pad(positions, (self.specials, 0), value=-1)
            allowed = place[:, None, :] <= place[:, :, None]
            if mask is not None:
                real = F.pad(mask, (self.specials, 0), value=True)[:, None, :]
                # A padded token looks at itself, so that no row of the softmax is empty.
                itself = torch.eye(place.shape[1], dtype=torch.bool, device=mask.device)
                allowed = allowed & real | itself
            huge = torch.finfo(dtype).min
            return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, huge)[:, None]
        if mask is None:
            return None
        # A sample without a real token looks everywhere, so that no row of the softmax is empty.
        allowed = F.pad(mask | ~mask.any(1, keepdim=True), (self.specials, 0), value=True)
        huge = torch.finfo(dtype).min
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, huge)[:, None, None]

    def _in_order(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """A convolution's sizes as the grid has them, time first."""
        if self.is_sound:
            return tuple(int(s) for s in reversed(sizes))
        return (1,) * (3 - len(sizes)) + tuple(int(s) for s in sizes)

    def _sizes(self) -> tuple[int, ...]:
        config = self.model.config
        if self.is_sound:
            whole = (config.max_length, config.num_mel_bins)
            sizes = zip(whole, self.cell, self.stride, strict=True)
            return tuple((n - cell) // stride + 1 for n, cell, stride in sizes)
        rows, columns = self.model.embeddings.patch_embeddings.image_size
        frames = config.num_frames if isinstance(self.model, VideoMAEModel) else 1
        whole = (frames, rows, columns)
        return tuple(n // cell for n, cell in zip(whole, self.cell, strict=True))


def _masked_layer(layer: Any, tokens: Tensor, allowed: Tensor) -> Tensor:
    """A VideoMAE layer with an attention mask, which its own attention does not take."""
    inner = layer.attention.attention
    heads = lambda x: rearrange(x, "b l (h d) -> b h l d", h=inner.num_attention_heads)  # noqa: E731
    normed = layer.layernorm_before(tokens)
    query, key, value = (heads(f(normed)) for f in (inner.query, inner.key, inner.value))
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=allowed.to(query.dtype),
        dropout_p=inner.dropout_prob if layer.training else 0.0,
        scale=inner.scaling,
    )
    mixed = layer.attention.output(rearrange(mixed, "b h l d -> b l (h d)"), tokens)
    tokens = mixed + tokens
    return layer.output(layer.intermediate(layer.layernorm_after(tokens)), tokens)


def _resize(table: Float[Tensor, "*grid width"], grid: Sequence[int]) -> Tensor:
    """A position table on another grid: bicubic over each picture, linear over time."""
    *whole, width = table.shape
    times = whole[0]
    if len(whole) == 2:
        # Sound: time and bands are one picture.
        flat = rearrange(table, "t f d -> 1 d t f")
        return rearrange(_bicubic(flat, grid), "1 d t f -> t f d")
    if tuple(whole[1:]) != tuple(grid[1:]):
        table = rearrange(
            _bicubic(rearrange(table, "t y x d -> t d y x"), grid[1:]), "t d y x -> t y x d"
        )
    if times != grid[0]:
        lines = rearrange(table, "t y x d -> 1 (y x d) t")
        lines = F.interpolate(lines, size=grid[0], mode="linear", align_corners=False)
        table = rearrange(lines, "1 (y x d) t -> t y x d", y=grid[1], d=width)
    return table


def _bicubic(pictures: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(pictures, size=tuple(size), mode="bicubic", align_corners=False)


__all__ = ["PATCH_MODELS", "PatchTransformer"]
