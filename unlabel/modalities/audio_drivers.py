"""How each kind of model of sound is called, and how its sounds lie."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import ASTModel, PreTrainedModel

from unlabel.modalities.audio_sound import Layout
from unlabel.modalities.patch_transformer import PatchTransformer
from unlabel.modalities.wave_conv import WaveConvModel

# A new AST: small enough to pretrain on two cores.
AST: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "num_mel_bins": 64,
    "patch_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
WAVE_CONV: dict[str, Any] = {"hidden_size": 128}


class Patches(nn.Module):
    """An AST over patches of the log-mel spectrogram."""

    gives = frozenset({"values", "visible_only"})

    def __init__(self, model: ASTModel):
        super().__init__()
        self.patches = PatchTransformer(model)
        self.width = self.patches.width
        self.bands = int(model.config.num_mel_bins)
        times, _ = self.patches.grid
        self.frames = (times - 1) * self.patches.stride[0] + self.patches.cell[0]
        if self.patches.cell != self.patches.stride:
            self.gives = frozenset()  # a hidden patch would be heard in its neighbours

    @property
    def model(self) -> Any:
        """The transformers model inside."""
        return self.patches.model

    def layout(self, rate: int, hop: int) -> Layout:
        """How sounds lie."""
        cell, stride, grid = self.patches.cell, self.patches.stride, self.patches.grid
        pair = lambda x: (x[0], x[1])  # noqa: E731
        return Layout(
            rate=rate,
            samples=self.frames * hop,
            hop=hop,
            frames=self.frames,
            bands=self.bands,
            cell=pair(cell),
            stride=pair(stride),
            grid=pair(grid),
            width=self.width,
        )

    def forward(
        self,
        inputs: dict[str, Tensor],
        *,
        mask: Bool[Tensor, "batch tokens"],
        keep_positions: Bool[Tensor, "batch tokens"] | None = None,
        keep_features: Bool[Tensor, "batch width"] | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Hidden states of the patches by layer, and the mean of the class tokens."""
        patches: Float[Tensor, "batch tokens values"] = inputs["patches"]
        positions: Int[Tensor, "batch tokens"] = inputs["positions"]
        states = self.patches(
            patches,
            positions=positions,
            mask=None if bool(mask.all()) else mask,
            keep_positions=keep_positions,
            keep_features=keep_features,
        )
        front = self.patches.specials
        return [s[:, front:] for s in states], states[-1][:, :front].mean(1)


class Waves(nn.Module):
    """A `WaveConvModel`; a token is a run of samples."""

    gives = frozenset({"values"})

    def __init__(self, model: WaveConvModel):
        super().__init__()
        self.model: Any = model
        self.width = int(model.config.hidden_size)
        if model.config.causal:
            self.gives = self.gives | {"causal"}

    def layout(self, rate: int, samples: int) -> Layout:
        """How sounds lie."""
        hop = self.model.config.hop
        times = samples // hop
        one = (1, 1)
        return Layout(
            rate=rate,
            samples=times * hop,
            hop=hop,
            frames=times,
            bands=1,
            cell=one,
            stride=one,
            grid=(times, 1),
            width=self.width,
        )

    def forward(
        self,
        inputs: dict[str, Tensor],
        *,
        mask: Bool[Tensor, "batch tokens"],
        keep_positions: Bool[Tensor, "batch tokens"] | None = None,
        keep_features: Bool[Tensor, "batch width"] | None = None,
    ) -> tuple[list[Tensor], None]:
        """Hidden states by layer: the convolutions' tokens, then those of the GRU."""
        out = self.model(
            inputs["waveform"].flatten(1),
            keep_positions,
            keep_features,
            attention_mask=None if bool(mask.all()) else mask,
            output_hidden_states=True,
        )
        return list(out.hidden_states), None


def driver_of(model: PreTrainedModel) -> Patches | Waves:
    """What calls the model.

    Raises:
        ValueError: a model that nothing here can call.
    """
    if isinstance(model, WaveConvModel):
        return Waves(model)
    if isinstance(model, ASTModel):
        return Patches(model)
    raise ValueError(
        f"{type(model).__name__} is no encoder of sound that unlabel can drive; use an ASTModel "
        "(model_type: audio-spectrogram-transformer) or a WaveConvModel (model_type: wave_conv)."
    )


def defaults_for(kind: str, keys: dict[str, Any], frames: int) -> dict[str, Any]:
    """Small sizes of a new model where the keys say nothing; patches that do not overlap."""
    if kind == WaveConvModel.config_class.model_type:
        return dict(WAVE_CONV)
    patch = keys.get("patch_size", AST["patch_size"])
    return {**AST, "max_length": frames, "time_stride": patch, "frequency_stride": patch}


def wake(model: PreTrainedModel) -> None:
    """Give a new AST position and class vectors of its own; transformers' start is all zeros.

    With zeros all its tokens are alike but for their sound, and it learns where they are late.
    """
    if not isinstance(model, ASTModel):
        return
    with torch.no_grad():
        for name in ("position_embeddings", "cls_token", "distillation_token"):
            getattr(model.embeddings, name).normal_(std=model.config.initializer_range)


__all__ = ["Patches", "Waves", "defaults_for", "driver_of", "wake"]
