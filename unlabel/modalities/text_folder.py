"""What folders of other libraries say of a text encoder, and models without their pooler."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel


def bare(make: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """The model that `make` makes, without a pooling layer where it can be left out."""
    # BERT's pooler would be a layer that no objective trains; models without one refuse the word.
    try:
        return make(add_pooling_layer=False)
    except TypeError:
        return make()


def sentence_transformer(folder: Path) -> dict[str, Any]:
    """Pooling and length of a sentence-transformers folder, or nothing."""
    said: dict[str, Any] = {}
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.is_file():
        keys = json.loads(pooling.read_text())
        if keys.get("pooling_mode_cls_token") or keys.get("pooling_mode") == "cls":
            said["pooling"] = "cls"
        elif keys.get("pooling_mode_mean_tokens") or keys.get("pooling_mode") == "mean":
            said["pooling"] = "mean"
    length = folder / "sentence_bert_config.json"
    if length.is_file() and (limit := json.loads(length.read_text()).get("max_seq_length")):
        said["max_length"] = limit
    return said


__all__ = ["bare", "sentence_transformer"]
