"""What folders of other libraries say of a text encoder, and models without their pooler."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
_KNOWN = {"Transformer", "Pooling", "WeightedLayerPooling", "Normalize"}


def bare(make: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """The model that `make` makes, without a pooling layer where it can be left out."""
    # BERT's pooler would be a layer that no objective trains; models without one refuse the word.
    try:
        return make(add_pooling_layer=False)
    except TypeError:
        return make()


def sentence_transformer(folder: Path) -> dict[str, Any]:
    """Pooling and length of a sentence-transformers folder, of any release, or nothing.

    What it has beside that, a `TextEncoder` has not: it is left out, and named.
    """
    parts, said = _parts(folder), {}
    left = sorted(set(parts) - _KNOWN)
    if "Pooling" in parts:
        ways = _ways(_read(parts["Pooling"] / "config.json"))
        blocks = parts.get("WeightedLayerPooling")
        if ways in (["cls"], ["mean"]):
            said["pooling"] = ways[0]
        else:
            left.append(f"its pooling ({', '.join(ways)})")
        if blocks and ways == ["mean"] and _first_and_last(blocks):
            said["pooling"] = "first_last"
        elif blocks:
            left.append("its weights of layers")
    if left:
        logger.warning(
            "%s is read without %s: the vectors are others than those of sentence-transformers.",
            folder,
            " and ".join(left),
        )
    # Release 6 leaves the length to the tokenizer, whose number of no limit has 30 digits.
    limits = [("sentence_bert_config.json", "max_seq_length")]
    limits += [("tokenizer_config.json", "model_max_length")] if parts else []
    found = (_read(transformer_folder(folder) / file).get(key) for file, key in limits)
    if limit := next((n for n in found if n and n < 1e9), None):
        said["max_length"] = limit
    return said


def transformer_folder(folder: Path) -> Path:
    """Where its Transformer lies: in itself, or below in old sentence-transformers folders."""
    return _parts(folder).get("Transformer", folder)


def _parts(folder: Path) -> dict[str, Path]:
    """The modules of a sentence-transformers folder by their classes; of others none."""
    listed = _read(folder / "modules.json")
    return {m["type"].rsplit(".", 1)[-1]: folder / m["path"] for m in listed}


def _ways(keys: dict[str, Any]) -> list[str]:
    """How tokens are pooled; several ways stand side by side in the vector."""
    named = keys.get("pooling_mode")  # since release 6
    if named:
        return [named] if isinstance(named, str) else list(named)
    short = {"cls_token": "cls", "mean_tokens": "mean"}
    ways = (k.partition("pooling_mode_")[2] for k, is_so in keys.items() if is_so)
    return [short.get(way, way) for way in ways if way]


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.is_file() else {}


def _first_and_last(folder: Path) -> bool:
    """Whether the layers are weighed as our pooling `first_last` weighs them."""
    weights = folder / "model.safetensors"
    if not weights.is_file() or _read(folder / "config.json").get("layer_start") != 1:
        return False
    found = load_file(weights)["layer_weights"].tolist()
    return found[0] == found[-1] != 0 and not any(found[1:-1])


__all__ = ["bare", "sentence_transformer", "transformer_folder"]
