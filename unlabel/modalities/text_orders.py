"""Views of text in which a token may not see all others: orders of prediction, and pairs."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unlabel.core import Batch, View, ViewSpec
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.text_views import Vocabulary, needed_mask


def causal(view: View, batch: Batch, spec: ViewSpec, **_: Any) -> View:
    """Each token sees itself and what comes before, and is asked for the next one."""
    arguments(spec)  # it has none
    ids, mask = view.inputs["input_ids"], view.mask
    seen = mask[:, None, :].expand(-1, mask.shape[1], -1).tril()
    is_target = mask & torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    return replace(view, attend=seen, is_target=is_target, target=ids.roll(-1, 1))


def permutation(
    view: View, batch: Batch, spec: ViewSpec, *, vocabulary: Vocabulary, **_: Any
) -> View:
    """The tokens twice, as contents and as queries that know their place but not their token.

    In an order drawn for each sentence, a content sees itself and the contents before it, and a
    query the contents before it and itself. The last queries in the order are asked for their
    tokens. Special tokens come first in the order, and are never asked for.

    Args of the spec: share (default 1/6, of the tokens asked for), order (`random`, or `forward`:
    from left to right, special tokens at their places).

    Raises:
        ValueError: another order, no share above 0 and up to 1, or no mask token.
    """
    args = arguments(spec, share=1 / 6, order="random")
    if args["order"] not in ("random", "forward") or not 0 < args["share"] <= 1:
        raise ValueError(
            "permutation takes a share above 0 and up to 1, and the order random or forward, but "
            f"{args['share']} and {args['order']!r} came."
        )
    ids, mask = view.inputs["input_ids"], view.mask
    length, can = mask.shape[1], vocabulary.is_word(ids, mask)
    if args["order"] == "random":
        key = torch.where(can, 1 + draw(batch, spec, length), 0.0)
    else:
        key = torch.arange(length, device=ids.device).expand_as(ids).float()
    rank = key.masked_fill(~mask, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    before = (rank[:, :, None] > rank[:, None, :]) & mask[:, None, :]
    itself = torch.eye(length, dtype=torch.bool, device=ids.device).expand_as(before)
    never = torch.zeros_like(itself)
    contents = torch.cat([before | itself, never], 2)
    queries = torch.cat([before, itself], 2)
    count = (can.sum(1, keepdim=True) * args["share"]).ceil()
    asked = can & (rank >= mask.sum(1, keepdim=True) - count)
    places = torch.arange(length, device=ids.device).expand_as(ids)
    hidden = torch.full_like(ids, needed_mask(vocabulary))
    return replace(
        view,
        inputs={
            **view.inputs,
            "input_ids": torch.cat([ids, hidden], 1),
            "position_ids": torch.cat([places, places], 1),
        },
        mask=torch.cat([mask, mask], 1),
        attend=torch.cat([contents, queries], 1),
        is_target=torch.cat([torch.zeros_like(asked), asked], 1),
        target=torch.cat([ids, ids], 1),
    )


def next_sentence(
    view: View, batch: Batch, spec: ViewSpec, *, length: int, segments: bool, **_: Any
) -> View:
    """The sentence and a second one behind it: the next one (label 1), or another one (label 0).

    The next one is the `positive` partner, the other one the `negative`. Where both are too long
    together, each keeps at least half of the room.

    Args of the spec: negatives (default 0.5), the share of other ones.

    Raises:
        ValueError: the data has no such partners, or no share between 0 and 1.
    """
    share = arguments(spec, negatives=0.5)["negatives"]
    if not 0 < share < 1:
        raise ValueError(f"negatives is a share between 0 and 1, but {share} came.")
    if missing := {"positive", "negative"} - set(batch.partners):
        raise ValueError(
            f"Next-sentence prediction wants a next and another sentence beside each one, but the "
            f"data has no {' and no '.join(sorted(missing))}: read documents (--text.documents "
            "true), or name three columns: [sentence, next, other]."
        )
    is_next = draw(batch, spec, 1) >= share
    second = _either(batch.partners["positive"], batch.partners["negative"], is_next)
    ids, token_types, mask = _joined(
        (view.inputs["input_ids"], view.mask), (second["input_ids"][:, 1:], second["mask"][:, 1:]),
        room=length,
    )  # fmt: skip
    types = {"token_type_ids": token_types} if segments else {}
    inputs = {**view.inputs, "input_ids": ids, **types}
    return replace(view, inputs=inputs, mask=mask, label=is_next.long())


def _either(one: dict[str, Tensor], two: dict[str, Tensor], is_one: Tensor) -> dict[str, Tensor]:
    """Row by row one or the other."""
    width = max(one["mask"].shape[1], two["mask"].shape[1])
    wide = lambda x: torch.nn.functional.pad(x, (0, width - x.shape[1]))  # noqa: E731
    return {key: torch.where(is_one, wide(one[key]), wide(two[key])) for key in one}


def _joined(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], *, room: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Two rows of tokens as one: ids, 0 and 1 for the first and the second, and what is real.

    A row that must be cut keeps its last token, which ends the sentence.
    """
    a, b = (mask.sum(1, keepdim=True) for _, mask in (first, second))
    kept_a = torch.minimum(a, (room - b).clamp(min=room // 2))
    kept_b = torch.minimum(b, room - kept_a)
    places = torch.arange(min(room, first[0].shape[1] + second[0].shape[1]), device=a.device)
    places = places.expand(len(a), -1)
    is_second, own = places >= kept_a, torch.where(places >= kept_a, places - kept_a, places)

    def at(ids: Tensor, count: Tensor, kept: Tensor) -> Tensor:
        place = torch.where(own == kept - 1, count - 1, own)
        return ids.gather(1, place.clamp(min=0, max=ids.shape[1] - 1))

    ids = torch.where(is_second, at(second[0], b, kept_b), at(first[0], a, kept_a))
    mask = places < kept_a + kept_b
    return ids, (is_second & mask).long(), mask


VIEWS = {"causal": causal, "permutation": permutation, "next_sentence": next_sentence}

__all__ = ["VIEWS", "causal", "next_sentence", "permutation"]
