"""How each kind of model is called, and what it is refused for."""

from typing import Any

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from unlabel.modalities.coupling_flow import CouplingFlowModel
from unlabel.modalities.dilated_conv import DilatedConvModel
from unlabel.modalities.patchtst import PatchTST, is_patchtst


class Convolution(nn.Module):
    """A dilated convolution behind the same call as `PatchTST`: every step is a token."""

    def __init__(self, model: DilatedConvModel):
        super().__init__()
        self.model, self.patch = model, 1
        self.width: int = model.config.output_size
        self.embedding_width: int = model.config.hidden_size

    def forward(
        self,
        values: Float[Tensor, "batch steps 1 channels"],
        observed: Bool[Tensor, "batch steps 1 channels"],
        added: Tensor,
        *,
        mask: Bool[Tensor, "batch steps"],
        positions: Tensor,
        keep_positions: Tensor | None = None,
        keep_features: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Hidden states by layer, and the output of the last, which has a width of its own."""
        out = self.model(
            values[:, :, 0],
            observed[:, :, 0],
            keep_positions,
            keep_features,
            attention_mask=mask,
            added=added,
            output_hidden_states=True,
        )
        return list(out.hidden_states), out.last_hidden_state


class Flow(nn.Module):
    """An invertible model behind the same call, with the likelihood of each window beside."""

    def __init__(self, model: CouplingFlowModel):
        super().__init__()
        self.model = model
        self.patch: int = model.config.patch_size
        self.width: int = model.config.hidden_size
        self.embedding_width: int = model.config.values

    def forward(
        self, values: Float[Tensor, "batch tokens patch channels"], *_: Any, **__: Any
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Latents by step, one vector a token, and ln p of each window."""
        out = self.model(rearrange(values, "b l p c -> b l (p c)"))
        return list(out.hidden_states), out.last_hidden_state, out.log_prob


def driver_of(model: PreTrainedModel, *, causal: bool) -> PatchTST | Convolution | Flow:
    """What calls the model.

    Raises:
        ValueError: a model that nothing here can call.
    """
    if isinstance(model, DilatedConvModel):
        return Convolution(model)
    if isinstance(model, CouplingFlowModel) and not causal:
        return Flow(model)
    if is_patchtst(model):
        return PatchTST(model, causal=causal)  # type: ignore[arg-type]
    raise ValueError(
        f"{type(model).__name__} is no encoder of series that unlabel can drive; use a "
        "PatchTSTModel (model_type: patchtst), a DilatedConvModel (model_type: dilated_conv), or "
        "(not causal) a CouplingFlowModel (model_type: coupling_flow)."
    )


def check_sizes(model: PreTrainedModel, *, context: int, channels: int, tokens: int) -> None:
    """Refuse sizes that do not go together, before the first batch."""
    if is_patchtst(model):
        places = places_of(model, tokens)
        if channels != 1:
            raise ValueError(
                f"A PatchTST sees one channel at a time, but channels is {channels}; set it to 1 "
                "and read one channel a sample, or use model_type: dilated_conv."
            )
        if not 0 < tokens <= places:
            raise ValueError(
                f"A context of {context} steps is {tokens} whole patches, but the PatchTST has "
                f"places for 1 to {places}; change context, or its context_length."
            )
    elif isinstance(model, CouplingFlowModel):
        config = model.config
        if (tokens, config.patch_size * channels) != (config.length, config.values):
            raise ValueError(
                f"The flow takes {config.length} tokens of {config.values} numbers, but a context "
                f"of {context} steps and {channels} channel(s) is {tokens} of "
                f"{config.patch_size * channels}."
            )
    elif channels != model.config.num_input_channels:
        raise ValueError(
            f"The model takes {model.config.num_input_channels} channels, but channels is "
            f"{channels}."
        )


def places_of(model: PreTrainedModel, tokens: int) -> int:
    """Rows of the position table; a convolution has no table, and room for any number."""
    if not is_patchtst(model):
        return tokens
    encoder: Any = model.encoder
    return encoder.positional_encoder.position_enc.shape[0]


__all__ = ["Convolution", "Flow", "check_sizes", "driver_of", "places_of"]
