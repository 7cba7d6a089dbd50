"""Views of text, made on the device for a whole batch at once.

Every random choice comes from `uniform(seed, ordinal, stream)`, so it belongs to the sample and
not to the batch, worker or rank that the sample met. Special tokens are never cut or masked.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from unlabel.core import Batch, View, ViewSpec
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.visible import narrowed


@dataclass(frozen=True)
class Vocabulary:
    """What the views need to know of a tokenizer.

    Attributes:
        size: number of token ids.
        special_ids: ids that are no words ([CLS], [SEP], [PAD], ...).
        mask_id: id of the mask token, None where there is none.
        starts_word: True for ids that begin a word, `(size,)`.
    """

    size: int
    special_ids: tuple[int, ...]
    mask_id: int | None
    starts_word: Bool[Tensor, "size"]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Vocabulary":
        """Read it off a tokenizer (WordPiece, byte-level BPE or SentencePiece)."""
        tokens = [str(t) for t in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
        wordpiece = any(t.startswith("##") for t in tokens)
        mask_id: Any = tokenizer.mask_token_id
        starts = [not t.startswith("##") if wordpiece else t[:1] in "Ġ▁" for t in tokens]
        return cls(
            len(tokenizer),
            tuple(sorted(set(tokenizer.all_special_ids))),
            mask_id,
            torch.tensor(starts),
        )

    def is_word(
        self, ids: Int[Tensor, "batch length"], mask: Tensor
    ) -> Bool[Tensor, "batch length"]:
        """True where a token is real and not special."""
        special = torch.tensor(self.special_ids, device=ids.device)
        return mask & ~torch.isin(ids, special)


def _fraction(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is a share of at least 0 and below 1, but {value} came.")
    return value


def _smallest(
    scores: Float[Tensor, "batch n"], count: Int[Tensor, "batch"]
) -> Bool[Tensor, "batch n"]:
    """True at the `count` smallest scores of each row: a draw without replacement."""
    rank = scores.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return rank < count[:, None]


def plain(view: View, batch: Batch, spec: ViewSpec, **_: Any) -> View:
    """The sentence as it is; two draws of it differ by the encoder's dropout alone (SimCSE)."""
    arguments(spec)  # it has none
    return view


def crop(view: View, batch: Batch, spec: ViewSpec, *, vocabulary: Vocabulary, **_: Any) -> View:
    """Keep one random run of words; the others are hidden from attention, and at least one stays.

    Args of the spec: low and high (share of the words, defaults 0.3 and 1).

    Raises:
        ValueError: low and high are no range of shares.
    """
    low, high = arguments(spec, low=0.3, high=1.0).values()
    if not 0 < low <= high <= 1:
        raise ValueError(f"crop needs 0 < low <= high <= 1, but {low} and {high} came.")
    can = vocabulary.is_word(view.inputs["input_ids"], view.mask)
    draws, words = draw(batch, spec, 2), can.sum(1)
    length = (words * (low + (high - low) * draws[:, 0])).long().clamp(min=1)
    start = (draws[:, 1] * (words - length + 1).clamp(min=0)).long()
    place = can.cumsum(1) - 1
    inside = (place >= start[:, None]) & (place < (start + length)[:, None])
    return replace(view, mask=view.mask & (inside | ~can))


def token_cutoff(
    view: View, batch: Batch, spec: ViewSpec, *, vocabulary: Vocabulary, **_: Any
) -> View:
    """Cut `int(ratio * words)` tokens: vector zeroed, hidden from attention (Shen et al. 2020).

    Args of the spec: ratio (default 0.1).
    """
    ratio = _fraction("ratio", arguments(spec, ratio=0.1)["ratio"])
    can = vocabulary.is_word(view.inputs["input_ids"], view.mask)
    scores = draw(batch, spec, view.mask.shape[1]).masked_fill(~can, 2.0)
    return _cut(view, _smallest(scores, (can.sum(1) * ratio).long()) & can)


def span_cutoff(
    view: View, batch: Batch, spec: ViewSpec, *, vocabulary: Vocabulary, **_: Any
) -> View:
    """Cut one run of `int(ratio * words)` tokens (Shen et al. 2020).

    Args of the spec: ratio (default 0.1).
    """
    ratio = _fraction("ratio", arguments(spec, ratio=0.1)["ratio"])
    can = vocabulary.is_word(view.inputs["input_ids"], view.mask)
    words = can.sum(1)
    length = (words * ratio).long()
    start = (draw(batch, spec, 1)[:, 0] * (words - length + 1)).long()
    place = can.cumsum(1) - 1
    inside = (place >= start[:, None]) & (place < (start + length)[:, None])
    return _cut(view, inside & can)


def feature_cutoff(view: View, batch: Batch, spec: ViewSpec, *, width: int, **_: Any) -> View:
    """Zero `int(ratio * width)` embedding columns in every token of a sentence (Shen et al. 2020).

    Args of the spec: ratio (default 0.1).
    """
    ratio = _fraction("ratio", arguments(spec, ratio=0.1)["ratio"])
    scores = draw(batch, spec, width)
    count = torch.full((len(batch),), int(width * ratio), device=scores.device)
    keep = ~_smallest(scores, count)
    return replace(view, keep_features=narrowed(view.keep_features, keep))


def choose_tokens(
    view: View, batch: Batch, spec: ViewSpec, *, vocabulary: Vocabulary, **_: Any
) -> View:
    """Choose tokens to predict, and leave the sentence as it is.

    Args of the spec: rate (default 0.15), whole_word (default False: whole words when True).
    """
    args, ids = arguments(spec, rate=0.15, whole_word=False), view.inputs["input_ids"]
    rate = _fraction("rate", args["rate"])
    can = vocabulary.is_word(ids, view.mask)
    chance = draw(batch, spec, view.mask.shape[1])
    if args["whole_word"]:
        chance = _by_word(chance, ids, can, vocabulary)
    return replace(view, is_target=can & (chance < rate), target=ids)


def mask_tokens(
    view: View, batch: Batch, spec: ViewSpec, *, vocabulary: Vocabulary, **_: Any
) -> View:
    """Choose tokens to predict: 80 % become the mask token, 10 % a random one, 10 % stay (BERT).

    Args of the spec: rate (default 0.15), whole_word (default False: whole words when True).

    Raises:
        ValueError: the tokenizer has no mask token.
    """
    mask_id = needed_mask(vocabulary)
    chosen = choose_tokens(view, batch, spec, vocabulary=vocabulary)
    ids, length, is_target = view.inputs["input_ids"], view.mask.shape[1], chosen.is_target
    assert is_target is not None  # it was just chosen
    fate = draw(batch, spec, length, use=1)
    other = (draw(batch, spec, length, use=2) * vocabulary.size).long()
    masked = torch.where(is_target & (fate < 0.8), mask_id, ids)
    masked = torch.where(is_target & (fate >= 0.8) & (fate < 0.9), other, masked)
    return replace(chosen, inputs={**view.inputs, "input_ids": masked})


def delete_tokens(
    view: View, batch: Batch, spec: ViewSpec, *, vocabulary: Vocabulary, **_: Any
) -> View:
    """Delete words, at least one stays; the target is the whole sentence, in its own places.

    Args of the spec: ratio (default 0.6), the chance of each word.
    """
    ratio = _fraction("ratio", arguments(spec, ratio=0.6)["ratio"])
    ids, mask = view.inputs["input_ids"], view.mask
    can = vocabulary.is_word(ids, mask)
    chance = _by_word(draw(batch, spec, mask.shape[1]), ids, can, vocabulary)
    best = chance.masked_fill(~can, -1.0).amax(1, keepdim=True)
    stays = mask & (~can | (chance >= ratio) | (chance == best))
    # What stays moves together, and the rest lies outside the mask.
    order = (~stays).to(torch.int8).argsort(dim=1, stable=True)
    count = stays.sum(1, keepdim=True)
    return replace(
        view,
        inputs={**view.inputs, "input_ids": ids.gather(1, order)},
        mask=torch.arange(mask.shape[1], device=mask.device) < count,
        target=ids,
    )


def needed_mask(vocabulary: Vocabulary) -> int:
    """The mask token's id.

    Raises:
        ValueError: the tokenizer has no mask token.
    """
    if vocabulary.mask_id is None:
        raise ValueError("The tokenizer has no mask token, which masked language modelling needs.")
    return vocabulary.mask_id


def _by_word(chance: Tensor, ids: Tensor, can: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Draws that the pieces of a word share."""
    starts = vocabulary.starts_word.to(ids.device)[ids] | ~can
    return chance.gather(1, starts.long().cumsum(1).clamp(min=1, max=ids.shape[1]) - 1)


def _cut(view: View, is_cut: Bool[Tensor, "batch length"]) -> View:
    both = narrowed(view.keep_positions, ~is_cut)
    return replace(view, mask=view.mask & ~is_cut, keep_positions=both)


VIEWS = {
    "plain": plain,
    "crop": crop,
    "token_cutoff": token_cutoff,
    "span_cutoff": span_cutoff,
    "feature_cutoff": feature_cutoff,
    "mask_tokens": mask_tokens,
    "choose_tokens": choose_tokens,
    "delete_tokens": delete_tokens,
}
