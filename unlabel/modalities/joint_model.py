"""An encoder of several kinds of data as a transformers model, which `AutoModel` loads."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from unlabel.core import Batch, View, view
from unlabel.modalities.clip import Clip
from unlabel.modalities.joint import JointEncoder
from unlabel.modalities.joint_config import JointConfig

# What of a hub's repository `from_pretrained` may be told.
_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# What `AutoModel` passes on, and a folder of several models has no use for.
_UNUSED = ("_from_auto", "_commit_hash", "adapter_kwargs", "trust_remote_code", "weights_only")


class JointModel(PreTrainedModel):
    """Several encoders whose vectors lie in one space, as `AutoModel.from_pretrained` gives them.

    What a side takes goes by its kind of data:

    - text: `input_ids` and `attention_mask`, as its tokenizer gives them;
    - frames and video: `pixel_values`, as the image processor gives them, `(batch, channels,
      rows, columns)` and `(batch, times, channels, rows, columns)`;
    - audio: `input_values`, waveforms from -1 to 1 at the encoder's rate, `(batch, samples)`, and
      `attention_mask` where some are padded at their end; of longer ones the middle counts, while
      `JointEncoder.encode` takes the mean over their windows;
    - series: `past_values` in raw units, `(batch, steps, channels)`, and `past_observed_mask`; of
      longer ones the newest steps count.

    Args:
        config: of the sides.
        encoder: the encoder itself; `from_pretrained` loads it.

    Raises:
        ValueError: no encoder came.

    Example:
        >>> import unlabel.modalities
        >>> from transformers import AutoModel, AutoTokenizer
        >>> model = AutoModel.from_pretrained("RUN/model")  # doctest: +SKIP
        >>> words = AutoTokenizer.from_pretrained("RUN/model/text")  # doctest: +SKIP
        >>> said = words(["a red square"], return_tensors="pt")  # doctest: +SKIP
        >>> model.get_features("text", **said)  # doctest: +SKIP
    """

    config_class = JointConfig
    base_model_prefix = "encoder"
    main_input_name = "sides"
    encoder: JointEncoder

    def __init__(self, config: JointConfig, encoder: JointEncoder | None = None):
        super().__init__(config)
        if encoder is None:
            raise ValueError(
                "The sides need more than a configuration (a tokenizer, a sample rate): load a "
                "folder with JointModel.from_pretrained, or give JointModel.of a JointEncoder."
            )
        self.encoder = encoder
        self.post_init()

    @classmethod
    def of(cls, encoder: JointEncoder) -> "JointModel":
        """The model around an encoder that there is."""
        return cls(JointConfig.of(encoder), encoder)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """The encoder came with its weights."""

    # -- loading and saving -------------------------------------------------------------------

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        path: str | Path,
        *,
        config: JointConfig | None = None,
        dtype: torch.dtype | str | None = None,
        subfolder: str = "",
        **options: Any,
    ) -> "JointModel":
        """A model from a folder that `JointEncoder.save_pretrained` wrote, or one on the hub.

        Each side comes from the transformers folder of its name, in evaluation mode.

        Args:
            path: folder or hub name.
            config: goes unused, as the folder has one.
            dtype: of the weights; float32 by default.
            subfolder: of the folder.
            options: of the hub: `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            ValueError: an option that there is not.
        """
        dtype = options.pop("torch_dtype", None) or dtype
        hub = {name: options.pop(name) for name in _HUB if name in options}
        if unknown := [k for k in options if k not in _UNUSED and options[k] is not None]:
            raise ValueError(
                f"{', '.join(unknown)} cannot be set for a model of several encoders; there are "
                f"dtype, subfolder, {', '.join(_HUB)}. Move it with .to(device) afterwards."
            )
        folder = Path(path)
        if not folder.is_dir():
            within = f"{subfolder}/*" if subfolder else None
            folder = Path(snapshot_download(str(path), allow_patterns=within, **hub))
        made = cls.of(JointEncoder.from_pretrained(folder / subfolder, local_files_only=True))
        made.config._name_or_path = str(path)
        if dtype not in (None, "auto"):
            made.encoder.to(dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        return made.eval()

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | Path, **options: Any
    ) -> None:
        """Write the same layout: a transformers folder for each side, and the projections.

        Raises:
            ValueError: it is to be sent to the hub as well.
        """
        if options.get("push_to_hub"):
            raise ValueError("Send the saved folder to the hub with huggingface_hub.upload_folder.")
        self.encoder.save_pretrained(save_directory)

    # -- use ----------------------------------------------------------------------------------

    def get_features(self, side: str, **inputs: Any) -> Float[Tensor, "batch width"]:
        """Vectors of length 1 in the shared space; their inner products are cosines.

        Args:
            side: whose encoder sees the inputs.
            inputs: what it takes, see the class.

        Raises:
            ValueError: no such side.
        """
        if side not in self.encoder.towers:
            raise ValueError(f"No side {side!r}; there are {', '.join(self.encoder.sides)}.")
        seen = _SEES[self.config.sides[side]["kind"]](self.encoder.towers[side], **inputs)
        return F.normalize(self.encoder(replace(seen, side=side)).pooled, dim=-1)

    def forward(self, sides: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
        """The vectors of several sides: `model({"text": {...}, "video": {...}})`."""
        return {name: self.get_features(name, **inputs) for name, inputs in sides.items()}


def _text(
    tower: Any,
    input_ids: Int[Tensor, "batch length"],
    attention_mask: Int[Tensor, "batch length"] | None = None,
    token_type_ids: Int[Tensor, "batch length"] | None = None,
) -> View:
    # Single sentences: the kinds of tokens are all 0, as the model takes them to be.
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return View({"input_ids": input_ids}, mask.bool())


def _pictures(
    tower: Any, pixel_values: Float[Tensor, "batch *times channels rows columns"]
) -> View:
    frames = pixel_values if pixel_values.dim() == 5 else pixel_values[:, None]
    mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    mean, std = (x.to(frames)[:, None, None] for x in (tower.mean, tower.std))
    return tower.finish(Clip(frames * std + mean, mask))  # which normalises again


def _sound(
    tower: Any,
    input_values: Float[Tensor, "batch samples"],
    attention_mask: Int[Tensor, "batch samples"] | None = None,
) -> View:
    mask = torch.ones_like(input_values) if attention_mask is None else attention_mask
    return _plain(tower, {"waveform": input_values}, mask.bool())


def _series(
    tower: Any,
    past_values: Float[Tensor, "batch steps channels"],
    past_observed_mask: Bool[Tensor, "batch steps channels"] | None = None,
) -> View:
    inputs = tower.collator().mark(past_values)
    if past_observed_mask is not None:
        inputs["observed"] = inputs["observed"] & past_observed_mask.bool()
        inputs["values"] = torch.where(inputs["observed"], inputs["values"], 0)
    newest = {name: x[:, -tower.context :] for name, x in inputs.items()}
    return _plain(tower, newest, torch.ones_like(newest["observed"][:, :, 0]))


def _plain(tower: Any, inputs: dict[str, Tensor], mask: Tensor) -> View:
    place = torch.arange(len(mask), device=mask.device)
    return tower.view(Batch(inputs, mask, place, place), view("plain"))


_SEES = {
    "text": _text,
    "frames": _pictures,
    "video": _pictures,
    "audio": _sound,
    "series": _series,
}

AutoConfig.register(JointConfig.model_type, JointConfig, exist_ok=True)
AutoModel.register(JointConfig, JointModel, exist_ok=True)

__all__ = ["JointModel"]
