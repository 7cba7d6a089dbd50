"""Views of text for the report, as tokens with what became of them."""

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from unlabel.core import View


def shown(view: View, row: int, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """The tokens of one sentence, each `seen`, `cut` or `masked`."""
    name = lambda i: str(tokenizer.convert_ids_to_tokens(int(i)))  # noqa: E731
    ids = view.inputs["input_ids"][row]
    kept = torch.ones_like(ids).bool()
    if view.keep_positions is not None:
        kept = view.keep_positions[row]
    is_shown = view.mask[row] | (~kept & (ids != tokenizer.pad_token_id))
    out = []
    for i in torch.nonzero(is_shown)[:, 0].tolist():
        masked = view.is_target is not None and bool(view.is_target[row, i])
        state = "masked" if kept[i] and masked else "seen" if kept[i] else "cut"
        out.append({"token": name(ids[i]), "state": state})
        if state == "masked" and view.target is not None:
            out[-1]["target"] = name(view.target[row, i])
    return out


__all__ = ["shown"]
