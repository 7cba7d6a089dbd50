"""A small (2+1)D residual convolution network for clips, as a transformers model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class R2Plus1DConfig(PreTrainedConfig):
    """Sizes of an `R2Plus1DModel`; the defaults are small enough to pretrain on a CPU.

    Args:
        num_channels: of a pixel.
        embedding_size: channels of the stem, which halves rows and columns.
        hidden_sizes: channels of each stage; every stage but the first halves time, rows and
            columns.
        depths: residual blocks of each stage.
        groups: of the normalisation.
        residual_frames: see each frame less the one before it: what moves, and no background.

    Raises:
        ValueError: sizes and depths of different numbers of stages, or groups that do not divide.

    Reference: Tran et al. 2018, arXiv 1711.11248, section 3.5; residual frames: Tao et al. 2020,
    arXiv 2001.05661, section 3.
    """

    model_type = "r2plus1d"

    def __init__(
        self,
        *,
        num_channels: int = 3,
        embedding_size: int = 16,
        hidden_sizes: Sequence[int] = (16, 48, 128),
        depths: Sequence[int] = (1, 1, 1),
        groups: int = 8,
        residual_frames: bool = False,
        **kwargs: Any,
    ):
        self.num_channels, self.embedding_size = num_channels, embedding_size
        self.residual_frames = residual_frames
        self.hidden_sizes, self.depths, self.groups = list(hidden_sizes), list(depths), groups
        super().__init__(**kwargs)
        sizes = [embedding_size, *hidden_sizes]
        if len(self.depths) != len(self.hidden_sizes) or any(s % groups for s in sizes):
            raise ValueError(
                f"A (2+1)D network needs one depth a stage and sizes that {groups} groups divide, "
                f"but depths are {self.depths} and sizes {sizes}."
            )

    @property
    def strides(self) -> tuple[int, int, int]:
        """Frames, rows and columns that one place of the output stands for."""
        halved = 2 ** (len(self.hidden_sizes) - 1)
        return halved, 2 * halved, 2 * halved


@dataclass
class R2Plus1DOutput(ModelOutput):
    """What the model gives back.

    Attributes:
        last_hidden_state: `(batch, channels, times, rows, columns)`.
        pooler_output: mean over all that exist, `(batch, channels)`.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None


class FrameNorm(nn.GroupNorm):
    """Group norm of each frame by itself: padding and other times change nothing."""

    def forward(self, input: Float[Tensor, "batch channels times rows columns"]) -> Tensor:
        """The same shape."""
        flat = rearrange(input, "b c t y x -> (b t) c y x")
        return rearrange(super().forward(flat), "(b t) c y x -> b c t y x", b=len(input))


class SpaceConv(nn.Conv2d):
    """A convolution over each picture alone."""

    def forward(self, input: Float[Tensor, "batch channels times rows columns"]) -> Tensor:
        """As many times."""
        flat = rearrange(input, "b c t y x -> (b t) c y x")
        return rearrange(super().forward(flat), "(b t) c y x -> b c t y x", b=len(input))


class TimeConv(nn.Conv2d):
    """A convolution over three times of each pixel alone."""

    def __init__(self, channels: int, out: int, stride: int = 1):
        # Two dimensions, not three: more than twice as fast on a CPU.
        super().__init__(channels, out, (3, 1), (stride, 1), (1, 0), bias=False)

    def forward(self, input: Float[Tensor, "batch channels times rows columns"]) -> Tensor:
        """As many pixels."""
        out = super().forward(rearrange(input, "b c t y x -> b c t (y x)"))
        return rearrange(out, "b c t (y x) -> b c t y x", y=input.shape[3])


class Conv2Plus1D(nn.Module):
    """A convolution over each picture, then one over time, with as many weights as a 3D one."""

    def __init__(self, channels: int, out: int, *, stride: int, time_stride: int, groups: int):
        super().__init__()
        between = 3 * 9 * channels * out // (9 * channels + 3 * out)
        between = max(groups, between // groups * groups)
        self.space = SpaceConv(channels, between, 3, stride, 1, bias=False)
        self.norm = FrameNorm(groups, between)
        self.time = TimeConv(between, out, time_stride)

    def forward(self, x: Tensor, exists: Tensor | None) -> Tensor:
        """`exists` is 0 at padded frames, `(batch, 1, times, 1, 1)`.

        The convolution over time pads with zeros, so padded frames must be 0 before it for a
        padded clip to come out as it does alone.
        """
        x = F.relu(self.norm(self.space(x)))
        return self.time(x if exists is None else x * exists)


class ResidualBlock(nn.Module):
    """Two (2+1)D convolutions, added to what came in."""

    def __init__(self, channels: int, out: int, *, stride: int, groups: int):
        super().__init__()
        self.stride = stride
        self.first = Conv2Plus1D(channels, out, stride=stride, time_stride=stride, groups=groups)
        self.norm1 = FrameNorm(groups, out)
        self.second = Conv2Plus1D(out, out, stride=1, time_stride=1, groups=groups)
        self.norm2 = FrameNorm(groups, out)
        same = stride == 1 and channels == out
        self.shortcut = None if same else SpaceConv(channels, out, 1, stride, bias=False)
        self.norm3 = None if same else FrameNorm(groups, out)

    def forward(self, x: Tensor, exists: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What comes out, and which of its times exist."""
        y = F.relu(self.norm1(self.first(x, exists)))
        if exists is not None:
            exists = exists[:, :, :: self.stride]
        y = self.norm2(self.second(y, exists))
        if self.shortcut is not None and self.norm3 is not None:
            x = self.norm3(self.shortcut(x[:, :, :: self.stride]))
        return F.relu(x + y), exists


def changes(
    x: Float[Tensor, "batch channels times rows columns"],
) -> Float[Tensor, "batch channels times rows columns"]:
    """Each frame less the one before it; the first change stands for that of the first frame."""
    change = x.diff(dim=2)
    return torch.cat([change[:, :, :1], change], 2) if change.shape[2] else torch.zeros_like(x)


class R2Plus1DModel(PreTrainedModel):
    """Convolutions over space and over time by turns, in residual blocks.

    Norms are over the channel groups of each frame alone, where the paper has batch norm: no
    sample, frame or rank reaches another through a statistic.

    Example:
        >>> import torch
        >>> model = R2Plus1DModel(R2Plus1DConfig())
        >>> model(torch.randn(2, 16, 3, 64, 64)).last_hidden_state.shape
        torch.Size([2, 128, 4, 8, 8])
    """

    config_class = R2Plus1DConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = "video"

    def __init__(self, config: R2Plus1DConfig):
        super().__init__(config)
        groups, width = config.groups, config.embedding_size
        self.stem = SpaceConv(config.num_channels, width, 7, 2, 3, bias=False)
        self.norm1 = FrameNorm(groups, width)
        self.stem_time = TimeConv(width, width)
        self.norm2 = FrameNorm(groups, width)
        blocks = []
        for stage, (out, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(ResidualBlock(width, out, stride=stride, groups=groups))
                width = out
        self.blocks = nn.ModuleList(blocks)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # torch's own start: transformers' 0.02 would fade through the convolutions.
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch times channels rows columns"],
        frame_mask: Bool[Tensor, "batch times"] | None = None,
    ) -> R2Plus1DOutput:
        """Encode clips of any size and number of frames.

        Args:
            pixel_values: normalised frames.
            frame_mask: False at frames that pad shorter clips at the end; None for none.
        """
        x = rearrange(pixel_values, "b t c y x -> b c t y x")
        exists = None
        if frame_mask is not None:
            exists = frame_mask[:, None, :, None, None].to(x.dtype)
        if self.config.residual_frames:
            x = changes(x)
        x = F.relu(self.norm1(self.stem(x)))
        x = F.relu(self.norm2(self.stem_time(x if exists is None else x * exists)))
        for block in self.blocks:
            x, exists = block(x, exists)
        if exists is None:
            return R2Plus1DOutput(x, x.mean((2, 3, 4)))
        pooled = (x * exists).mean((3, 4)).sum(2) / exists.sum(2).clamp(min=1)[:, :, 0, 0]
        return R2Plus1DOutput(x, pooled)


AutoConfig.register(R2Plus1DConfig.model_type, R2Plus1DConfig, exist_ok=True)
AutoModel.register(R2Plus1DConfig, R2Plus1DModel, exist_ok=True)

__all__ = ["R2Plus1DConfig", "R2Plus1DModel", "R2Plus1DOutput"]
