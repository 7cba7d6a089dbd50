"""ConvMAE's encoder of pictures: masked convolutions, then a Transformer over visible places."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from unlabel.modalities.dropout import Dropout


class ConvMAEConfig(PreTrainedConfig):
    """Sizes of a `ConvMAEModel`; the defaults are small enough to pretrain on a CPU.

    Args:
        num_channels: of a pixel.
        hidden_sizes: channels of the two stages of convolutions and of the Transformer.
        depths: blocks of each.
        strides: rows and columns that each stage makes one of what came in; the product is a
            token's side in pixels.
        kernel_size: of the depthwise convolutions, odd.
        num_attention_heads: of the Transformer.
        mlp_ratio: width inside a block over its own.
        dropout: inside the blocks.

    Raises:
        ValueError: not three sizes, depths and strides, or a width that the heads and the position
            codes cannot share.

    Reference: Gao et al. 2022, arXiv 2205.03892, section 3.
    """

    model_type = "convmae"

    def __init__(
        self,
        *,
        num_channels: int = 3,
        hidden_sizes: Sequence[int] = (32, 64, 96),
        depths: Sequence[int] = (1, 1, 4),
        strides: Sequence[int] = (4, 2, 2),
        kernel_size: int = 5,
        num_attention_heads: int = 4,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        self.num_channels, self.kernel_size, self.mlp_ratio = num_channels, kernel_size, mlp_ratio
        self.hidden_sizes, self.depths, self.strides = (
            list(hidden_sizes),
            list(depths),
            list(strides),
        )
        self.num_attention_heads, self.dropout = num_attention_heads, dropout
        super().__init__(**kwargs)
        if not len(self.hidden_sizes) == len(self.depths) == len(self.strides) == 3:
            raise ValueError(
                "A ConvMAE has two stages of convolutions and a Transformer: give three hidden "
                f"sizes, depths and strides, not {self.hidden_sizes}, {self.depths} and "
                f"{self.strides}."
            )
        width = self.hidden_sizes[2]
        if width % num_attention_heads or width % 4 or kernel_size % 2 != 1:
            raise ValueError(
                f"The last hidden size, {width}, must be a multiple of 4 and of the "
                f"{num_attention_heads} heads, and kernel_size, {kernel_size}, odd."
            )

    @property
    def patch_size(self) -> int:
        """Rows and columns that one token stands for."""
        return math.prod(self.strides)


@dataclass
class ConvMAEOutput(ModelOutput):
    """What the model gives back.

    Attributes:
        last_hidden_state: tokens, row by row or as asked for, `(batch, tokens, width)`.
        pooler_output: mean of the tokens asked for, `(batch, width)`.
        hidden_states: tokens after the embedding and after each block of the Transformer.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class PlaceNorm(nn.LayerNorm):
    """Layer norm over the channels of each place alone."""

    def forward(self, input: Float[Tensor, "batch channels rows columns"]) -> Tensor:
        """The same shape."""
        return rearrange(
            super().forward(rearrange(input, "b c y x -> b y x c")), "b y x c -> b c y x"
        )


class ConvBlock(nn.Module):
    """A Transformer's block with a depthwise convolution in place of attention.

    What is hidden is 0 before the convolution, so that it reaches no place that is visible; all
    the rest is done place by place.
    """

    def __init__(self, width: int, *, kernel: int, ratio: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = PlaceNorm(width), PlaceNorm(width)
        self.enter, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.mix = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.grow = nn.Conv2d(width, ratio * width, 1)
        self.shrink = nn.Conv2d(ratio * width, width, 1)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, is_visible: Tensor | None) -> Tensor:
        """The same shape; `is_visible` is 1 or 0, `(batch, 1, rows, columns)`."""
        inner = self.enter(self.norm1(x))
        inner = inner if is_visible is None else inner * is_visible
        x = x + self.dropout(self.leave(self.mix(inner)))
        return x + self.dropout(self.shrink(F.gelu(self.grow(self.norm2(x)))))


class ConvMAEModel(PreTrainedModel):
    """Two stages of masked convolutions and a Transformer; each token knows all three scales.

    What the two stages made of a token's own pixels joins it behind the Transformer, before the
    last norm. Positions are fixed sines and cosines of row and column, for pictures of any size.

    Example:
        >>> import torch
        >>> model = ConvMAEModel(ConvMAEConfig())
        >>> model(torch.randn(2, 3, 64, 64)).last_hidden_state.shape
        torch.Size([2, 16, 96])
    """

    config_class = ConvMAEConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = "image"

    def __init__(self, config: ConvMAEConfig):
        super().__init__(config)
        first, second, width = config.hidden_sizes
        sizes = [config.num_channels, first, second, width]
        # Cells of a stage lie within a token, so nothing crosses over here.
        self.embeds = nn.ModuleList(
            nn.Conv2d(before, after, stride, stride)
            for before, after, stride in zip(sizes, sizes[1:], config.strides, strict=False)
        )
        self.norms = nn.ModuleList(PlaceNorm(size) for size in config.hidden_sizes)
        how = {"kernel": config.kernel_size, "ratio": config.mlp_ratio, "dropout": config.dropout}
        self.stages = nn.ModuleList(
            nn.ModuleList(ConvBlock(size, **how) for _ in range(depth))
            for size, depth in zip((first, second), config.depths, strict=False)
        )
        _, two, three = config.strides
        self.fuse = nn.ModuleList(
            nn.Conv2d(size, width, stride, stride)
            for size, stride in ((first, two * three), (second, three))
        )
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.num_attention_heads,
                config.mlp_ratio * width,
                config.dropout,
                "gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.depths[2])
        )
        self.norm = nn.LayerNorm(width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # torch's own start: transformers' 0.02 would fade through the convolutions.
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels rows columns"],
        is_visible: Bool[Tensor, "batch cells_y cells_x"] | None = None,
        positions: Int[Tensor, "batch tokens"] | None = None,
        mask: Bool[Tensor, "batch tokens"] | None = None,
        keep_features: Bool[Tensor, "batch width"] | None = None,
    ) -> ConvMAEOutput:
        """Encode pictures of any size that is a multiple of a token's.

        Args:
            pixel_values: normalised pictures.
            is_visible: False at tokens whose pixels reach no other; None where all may.
            positions: tokens to encode, counted row by row; None for all.
            mask: True at those of them that others may attend to; None for all.
            keep_features: False at embedding columns zeroed.
        """
        maps = self.embedded(pixel_values, is_visible)
        both = torch.stack([rearrange(m, "b d y x -> b (y x) d") for m in maps])
        if positions is not None:
            at = positions[None, :, :, None].expand(2, -1, -1, both.shape[3])
            both = both.gather(2, at)
        if keep_features is not None:
            both = both * keep_features[:, None]
        x, fine = both
        # A picture without a token looks everywhere, so that no row of the softmax is empty.
        hides = None if mask is None else ~(mask | ~mask.any(1, keepdim=True))
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], src_key_padding_mask=hides))
        states[-1] = self.norm(states[-1] + fine)
        weight = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        pooled = torch.einsum("bld,bl->bd", states[-1], weight)
        pooled = pooled / weight.sum(1, keepdim=True).clamp(min=1)
        return ConvMAEOutput(states[-1], pooled, tuple(states))

    def embedded(
        self, pictures: Tensor, is_visible: Tensor | None
    ) -> tuple[
        Float[Tensor, "batch width rows columns"], Float[Tensor, "batch width rows columns"]
    ]:
        """Tokens with their places, and what the stages before add to them; 0 where hidden."""
        visible = None if is_visible is None else is_visible[:, None].to(pictures.dtype)
        x, fused, size = pictures, [], self.config.patch_size
        for i, stage in enumerate(self.stages):
            size //= self.config.strides[i]
            at = visible
            if visible is not None:
                at = visible.repeat_interleave(size, 2).repeat_interleave(size, 3)
            x = self.norms[i](self.embeds[i](x))
            for block in stage.children():
                x = block(x, at)
            fused.append(self.fuse[i](x))
        x, fine = self.norms[2](self.embeds[2](x)), fused[0] + fused[1]
        x = x + places(x.shape[1], x.shape[2], x.shape[3]).to(x)
        return (x, fine) if visible is None else (x * visible, fine * visible)


def places(width: int, rows: int, columns: int) -> Float[Tensor, "width rows columns"]:
    """Sines and cosines of each row in the first half of the channels, of each column in the rest.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.
    """
    rates = 10_000 ** (-torch.arange(width // 4) / (width // 4))

    def line(count: int) -> Tensor:
        angles = rates[:, None] * torch.arange(count)
        return torch.cat([angles.sin(), angles.cos()])

    down = line(rows)[:, :, None].expand(-1, -1, columns)
    across = line(columns)[:, None, :].expand(-1, rows, -1)
    return torch.cat([down, across])


AutoConfig.register(ConvMAEConfig.model_type, ConvMAEConfig, exist_ok=True)
AutoModel.register(ConvMAEConfig, ConvMAEModel, exist_ok=True)

__all__ = ["ConvMAEConfig", "ConvMAEModel", "ConvMAEOutput", "places"]
