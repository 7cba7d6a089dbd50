"""A strided convolution network for waveforms with a GRU over it, as a transformers model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from unlabel.modalities.patchtst import cut


class WaveConvConfig(PreTrainedConfig):
    """Sizes of a `WaveConvModel`; the defaults are CPC's.

    Args:
        hidden_size: channels of every convolution, and width of the GRU.
        conv_stride: of each convolution; their product is the samples a token.
        conv_kernel: likewise, no kernel shorter than its stride.
        context_layers: layers of the GRU over the tokens; 0 leaves it out.
        causal: pad at the left alone, so that a token depends on its own samples and earlier ones;
            else as much at both sides.

    Raises:
        ValueError: strides and kernels that do not go together.

    Reference: van den Oord et al. 2018, arXiv 1807.03748, section 3.1.
    """

    model_type = "wave_conv"

    def __init__(
        self,
        *,
        hidden_size: int = 256,
        conv_stride: Sequence[int] = (5, 4, 2, 2, 2),
        conv_kernel: Sequence[int] = (10, 8, 4, 4, 4),
        context_layers: int = 1,
        causal: bool = True,
        **kwargs: Any,
    ):
        self.hidden_size, self.context_layers, self.causal = hidden_size, context_layers, causal
        self.conv_stride, self.conv_kernel = list(conv_stride), list(conv_kernel)
        sizes = list(zip(self.conv_kernel, self.conv_stride, strict=False))
        if len(self.conv_kernel) != len(self.conv_stride) or any(k < s for k, s in sizes):
            raise ValueError(
                f"Every stride needs a kernel at least as long, but conv_stride is "
                f"{self.conv_stride} and conv_kernel is {self.conv_kernel}."
            )
        super().__init__(**kwargs)

    @property
    def hop(self) -> int:
        """Samples a token."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that a token of the convolutions depends on."""
        field, step = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            field += (kernel - 1) * step
            step *= stride
        return field


@dataclass
class WaveConvOutput(ModelOutput):
    """What the model gives back.

    Attributes:
        last_hidden_state: one vector a token, `(batch, tokens, hidden_size)`.
        hidden_states: those of the convolutions, then of the GRU; None unless asked for.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class WaveConvLayer(nn.Module):
    """A strided convolution, layer norm over the channels of each place, and ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, causal: bool):
        super().__init__()
        self.conv = nn.Conv1d(channels, width, kernel, stride, bias=False)
        self.norm = nn.LayerNorm(width)
        over = kernel - stride
        self.left = over if causal else (over + 1) // 2
        self.right = over - self.left

    def forward(
        self, x: Float[Tensor, "batch channels places"]
    ) -> Float[Tensor, "batch width places_after"]:
        """One place for each `stride` places."""
        found = self.conv(F.pad(x, (self.left, self.right)))
        return F.relu(rearrange(self.norm(rearrange(found, "b c t -> b t c")), "b t c -> b c t"))


class WaveConvModel(PreTrainedModel):
    """One vector for every `hop` samples of a waveform, then one that knows those before it.

    Example:
        >>> import torch
        >>> model = WaveConvModel(WaveConvConfig(hidden_size=32))
        >>> model(torch.randn(2, 8000)).last_hidden_state.shape
        torch.Size([2, 50, 32])
    """

    config_class = WaveConvConfig
    base_model_prefix = "model"
    main_input_name = "input_values"

    def __init__(self, config: WaveConvConfig):
        super().__init__(config)
        width = config.hidden_size
        self.layers = nn.ModuleList(
            WaveConvLayer(width if i else 1, width, kernel, stride, config.causal)
            for i, (kernel, stride) in enumerate(
                zip(config.conv_kernel, config.conv_stride, strict=True)
            )
        )
        self.context = (
            nn.GRU(width, width, config.context_layers, batch_first=True)
            if config.context_layers
            else None
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # torch's own start, by fan-in; it spares weights that were loaded.
        if isinstance(module, nn.Conv1d | nn.GRU | nn.LayerNorm):
            module.reset_parameters()

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        keep_positions: Bool[Tensor, "batch tokens"] | None = None,
        keep_features: Bool[Tensor, "batch width"] | None = None,
        *,
        attention_mask: Bool[Tensor, "batch tokens"] | None = None,
        output_hidden_states: bool = False,
    ) -> WaveConvOutput:
        """Encode waveforms of any one length; samples over a whole number of tokens are left out.

        Args:
            input_values: normalised waveforms, 0 where padded.
            keep_positions: False at tokens zeroed after the convolutions.
            keep_features: False at their channels zeroed.
            attention_mask: False at padded tokens, which come last and change no other.
            output_hidden_states: give back the tokens of the convolutions too.
        """
        tokens = input_values.shape[1] // self.config.hop
        x = input_values[:, None, : tokens * self.config.hop]
        for layer in self.layers:
            x = layer(x)
            if attention_mask is not None:
                # Norm and convolution make something of padding; the next one shall see zeros.
                x = x * attention_mask.repeat_interleave(x.shape[2] // tokens, 1)[:, None, :]
        states = [cut(rearrange(x, "b c t -> b t c"), keep_positions, keep_features)]
        if self.context is not None:
            states.append(self.context(states[0])[0])
        return WaveConvOutput(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
        )


AutoConfig.register(WaveConvConfig.model_type, WaveConvConfig, exist_ok=True)
AutoModel.register(WaveConvConfig, WaveConvModel, exist_ok=True)

__all__ = ["WaveConvConfig", "WaveConvModel", "WaveConvOutput"]
