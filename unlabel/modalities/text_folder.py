"""What folders of other libraries say of a text encoder, and models without their pooler."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedModel


def bare(make: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """The model that `make` makes, without a pooling layer where it can be left out."""
    # BERT's pooler would be a layer that no objective trains; models without one refuse the word.
    try:
        return make(add_pooling_layer=False)
    except TypeError:
        return make()


def sentence_transformer(folder: Path) -> dict[str, Any]:
    """Pooling and length of a sentence-transformers folder, of any release, or nothing."""
    modules, said = _read(folder / "modules.json"), {}
    parts = {m["type"].rsplit(".", 1)[-1]: folder / m["path"] for m in modules}
    if "Pooling" in parts:
        keys = _read(parts["Pooling"] / "config.json")
        if keys.get("pooling_mode_cls_token") or keys.get("pooling_mode") == "cls":
            said["pooling"] = "cls"
        elif keys.get("pooling_mode_mean_tokens") or keys.get("pooling_mode") == "mean":
            blocks = parts.get("WeightedLayerPooling")
            said["pooling"] = "first_last" if blocks and _first_and_last(blocks) else "mean"
    # Release 6 leaves the length to the tokenizer, whose number of no limit has 30 digits.
    limits = [("sentence_bert_config.json", "max_seq_length")]
    limits += [("tokenizer_config.json", "model_max_length")] if modules else []
    found = (_read(folder / file).get(key) for file, key in limits)
    if limit := next((n for n in found if n and n < 1e9), None):
        said["max_length"] = limit
    return said


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.is_file() else {}


def _first_and_last(folder: Path) -> bool:
    """Whether the layers are weighed as our pooling `first_last` weighs them."""
    weights = folder / "model.safetensors"
    if not weights.is_file() or _read(folder / "config.json").get("layer_start") != 1:
        return False
    found = load_file(weights)["layer_weights"].tolist()
    return found[0] == found[-1] != 0 and not any(found[1:-1])


__all__ = ["bare", "sentence_transformer"]
