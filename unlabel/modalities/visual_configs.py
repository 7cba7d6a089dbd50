"""Sizes of new encoders of frames and clips, and the image processor saved beside them."""

from pathlib import Path
from typing import Any

from unlabel.modalities.configs import processor_keys

# Small enough to pretrain on a CPU at 64 pixels and 16 frames.
_TRANSFORMER: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "patch_size": 8,
    # Measured on moving squares: masked patches learn as fast from 0.02, but two views of one clip
    # are told from others in far fewer steps from 0.1 (contrast 2.5 against 3.1 after 100).
    "initializer_range": 0.1,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": _TRANSFORMER,
    # A final norm, as an encoder under a decoder or a head has; transformers leaves it to a
    # classifier.
    "videomae": {**_TRANSFORMER, "tubelet_size": 2, "use_mean_pooling": False},
    "resnet": {
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128],
        "depths": [1, 1, 1],
        "layer_type": "basic",
    },
    "coupling_flow": {"patch_size": 8},
    "convnext": {"hidden_sizes": [32, 64, 128], "depths": [1, 1, 2], "num_stages": 3},
}


def defaults_of(kind: str, frames: int, size: int, keys: dict[str, Any]) -> dict[str, Any]:
    """What a new configuration of a model type has where the user's keys say nothing."""
    own = dict(DEFAULTS.get(kind, {}))
    if kind == "coupling_flow":
        side, deep = keys.get("patch_size", own["patch_size"]), keys.get("tubelet_size", 1)
        own["length"] = frames // deep * (size // side) ** 2
        own["values"] = deep * side**2 * 3
    if kind in ("vit", "videomae"):
        own["image_size"] = size
    if kind == "videomae":
        own["num_frames"] = frames
    return own


def save_processor(encoder: Any, folder: str | Path) -> None:
    """Write the image processor that does to pictures what the view `plain` does.

    It is one that needs no torchvision; a folder's `AutoImageProcessor` finds it.
    """
    from transformers import CLIPImageProcessorPil, VideoMAEImageProcessorPil

    kind = CLIPImageProcessorPil if encoder.frames == 1 else VideoMAEImageProcessorPil
    kind(
        size={"shortest_edge": encoder.size},
        crop_size={"height": encoder.size, "width": encoder.size},
        resample=2,  # bilinear
        image_mean=encoder.mean.tolist(),
        image_std=encoder.std.tolist(),
    ).save_pretrained(folder)


def said_of_pixels(path: str | Path, *, local_files_only: bool) -> dict[str, list[float]]:
    """Mean and standard deviation of a pretrained model's pixels, where its processor says so."""
    said = processor_keys(path, local_files_only=local_files_only)
    names = {"mean": "image_mean", "std": "image_std"}
    return {ours: said[theirs] for ours, theirs in names.items() if theirs in said}


__all__ = ["DEFAULTS", "defaults_of", "said_of_pixels", "save_processor"]
