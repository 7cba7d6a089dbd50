"""A dilated causal convolution network for series, as a transformers model."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from unlabel.modalities.dropout import Dropout


class DilatedConvConfig(PreTrainedConfig):
    """Sizes of a `DilatedConvModel`; the defaults are TS2Vec's.

    Args:
        num_input_channels: values of a step.
        hidden_size: channels of the residual blocks.
        output_size: width of the vectors that come out.
        num_hidden_layers: residual blocks; block i has dilation `2**i`.
        kernel_size: steps that a convolution looks at.
        dropout: on what each block adds, and on the output.

    Reference: Yue et al. 2022, arXiv 2106.10466, section 3.1 and the authors' code.
    """

    model_type = "dilated_conv"

    def __init__(
        self,
        *,
        num_input_channels: int = 1,
        hidden_size: int = 64,
        output_size: int = 320,
        num_hidden_layers: int = 10,
        kernel_size: int = 3,
        dropout: float = 0.1,
        **kwargs: Any,
    ):
        self.num_input_channels, self.kernel_size = num_input_channels, kernel_size
        self.hidden_size, self.output_size = hidden_size, output_size
        self.num_hidden_layers, self.dropout = num_hidden_layers, dropout
        super().__init__(**kwargs)

    @property
    def receptive_field(self) -> int:
        """Steps that one output depends on, its own included."""
        return 1 + 2 * (self.kernel_size - 1) * (2**self.num_hidden_layers - 1)


@dataclass
class DilatedConvOutput(ModelOutput):
    """What the model gives back.

    Attributes:
        last_hidden_state: one vector a step, `(batch, steps, output_size)`.
        hidden_states: input projection, then each block, `(batch, steps, hidden_size)` each;
            None unless asked for.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class CausalConv(nn.Conv1d):
    """A convolution that sees a step and earlier ones: all its padding is at the left."""

    def forward(self, input: Float[Tensor, "batch channels steps"]) -> Tensor:
        """The same number of steps."""
        reach = (self.kernel_size[0] - 1) * self.dilation[0]
        return super().forward(F.pad(input, (reach, 0)))


class ResidualBlock(nn.Module):
    """Two causal convolutions with GELU before each, added to what came in."""

    def __init__(self, width: int, kernel_size: int, dilation: int, dropout: float):
        super().__init__()
        self.first = CausalConv(width, width, kernel_size, dilation=dilation)
        self.second = CausalConv(width, width, kernel_size, dilation=dilation)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, exists: Tensor | None) -> Tensor:
        """`exists` is 0 at padded steps, `(batch, 1, steps)`.

        A convolution pads with zeros, so a padded step must be 0 before each of the two for a
        padded sample to come out as it does alone.
        """
        y = self.first(F.gelu(x if exists is None else x * exists))
        return x + self.dropout(self.second(F.gelu(y if exists is None else y * exists)))


class DilatedConvModel(PreTrainedModel):
    """Causal convolutions of growing dilation: one vector a step, from it and earlier steps.

    Example:
        >>> import torch
        >>> model = DilatedConvModel(DilatedConvConfig(num_hidden_layers=2))
        >>> model(torch.randn(4, 50, 1)).last_hidden_state.shape
        torch.Size([4, 50, 320])
    """

    config_class = DilatedConvConfig
    base_model_prefix = "model"
    main_input_name = "past_values"

    def __init__(self, config: DilatedConvConfig):
        super().__init__(config)
        channels, width = config.num_input_channels, config.hidden_size
        self.input_projection = nn.Linear(channels, width)
        self.missing_projection = nn.Linear(channels, width, bias=False)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.kernel_size, 2**i, config.dropout)
            for i in range(config.num_hidden_layers)
        )
        self.dropout = Dropout(config.dropout)
        self.output_projection = nn.Linear(width, config.output_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # torch's own start (by fan-in): there is no normalisation layer that would lift weights
        # of transformers' 0.02. It spares weights that were loaded.
        if isinstance(module, nn.Linear | nn.Conv1d):
            module.reset_parameters()

    def forward(
        self,
        past_values: Float[Tensor, "batch steps channels"],
        past_observed_mask: Bool[Tensor, "batch steps channels"] | None = None,
        keep_positions: Bool[Tensor, "batch steps"] | None = None,
        keep_features: Bool[Tensor, "batch hidden"] | None = None,
        *,
        attention_mask: Bool[Tensor, "batch steps"] | None = None,
        added: Float[Tensor, "batch steps hidden"] | None = None,
        output_hidden_states: bool = False,
    ) -> DilatedConvOutput:
        """Encode series of any one length.

        Args:
            past_values: normalised values, 0 where missing.
            past_observed_mask: False where a value is missing; None for nowhere.
            keep_positions: False at steps zeroed after the input projection.
            keep_features: False at its columns zeroed.
            attention_mask: False at padded steps, which change nothing after them.
            added: further terms of the input projection (covariates).
            output_hidden_states: give back all layers.
        """
        x = self.input_projection(past_values)
        if past_observed_mask is not None:
            x = x + self.missing_projection((~past_observed_mask.bool()).to(x.dtype))
        if added is not None:
            x = x + added
        if keep_positions is not None:
            x = x * keep_positions[:, :, None]
        if keep_features is not None:
            x = x * keep_features[:, None, :]
        exists = None if attention_mask is None else attention_mask[:, None, :].to(x.dtype)
        states = [x.transpose(1, 2)]
        for block in self.blocks:
            states.append(block(states[-1], exists))
        steps = states[-1].transpose(1, 2)
        return DilatedConvOutput(
            last_hidden_state=self.output_projection(self.dropout(steps)),
            hidden_states=tuple(s.transpose(1, 2) for s in states)
            if output_hidden_states
            else None,
        )


AutoConfig.register(DilatedConvConfig.model_type, DilatedConvConfig, exist_ok=True)
AutoModel.register(DilatedConvConfig, DilatedConvModel, exist_ok=True)

__all__ = ["DilatedConvConfig", "DilatedConvModel", "DilatedConvOutput"]
