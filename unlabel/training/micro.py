"""Parts of a batch of at most so many tokens; they share their negatives, see `cached_step`."""

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unlabel.core import Batch
from unlabel.training.pretraining import Pretraining


def by_tokens(batch: Batch, module: Pretraining, tokens: int) -> list[Batch]:
    """Parts of like length, each of at most so many tokens in one call of the encoder.

    What counts is what is computed: rows of all views of one encoder, times the longest of them
    (steps of a series, frames of a clip). A sample that holds more is a part alone. Sentences are
    cut to the longest of their part.

    Raises:
        ValueError: the samples are of several kinds.
    """
    if batch.sides:
        raise ValueError(
            "Parts of so many tokens are not made of samples of several kinds; set micro_tokens "
            "to 0 and gradient_accumulation_steps above 1."
        )
    views = max(Counter(spec.encoder for spec in module.objective.views).values())
    pads = getattr(module.encoder, "multiple_of", None)  # None: its inputs keep their length
    masks = [batch.mask, *(p["mask"] for p in batch.partners.values())]
    ends = torch.stack([_ends(m) if pads else torch.full_like(batch.index, m.shape[1])
                        for m in masks]).amax(0)  # fmt: skip
    order = ends.argsort(stable=True)
    parts, rows = [[]], order.tolist()
    for row, end in zip(rows, ends[order].tolist(), strict=True):
        length = -(-end // (pads or 1)) * (pads or 1)
        # In order of length, so that this one is the longest of its part.
        if parts[-1] and views * (len(parts[-1]) + 1) * length > tokens:
            parts.append([])
        parts[-1].append(row)
    if len(parts) == 1:
        return [batch]
    return [_rows(batch, torch.tensor(p, device=batch.index.device), pads) for p in parts]


def _ends(mask: Tensor) -> Tensor:
    """One more than the place of the last real token, at least 1."""
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * place).amax(1).clamp(min=1)


def _rows(batch: Batch, rows: Tensor, pads: int | None) -> Batch:
    """Some samples of a batch, without padding that all of them have."""
    inputs, mask = _short(batch.inputs, batch.mask, rows, pads)
    partners = {}
    for name, partner in batch.partners.items():
        cut, is_real = _short(partner, partner["mask"], rows, pads)
        partners[name] = {**cut, "mask": is_real}
    own: dict[str, Any] = {"index": batch.index[rows], "ordinal": batch.ordinal[rows]}
    for name in ("label", "alike"):
        given: Any = getattr(batch, name)
        own[name] = given if given is None else given[rows]
    return replace(batch, inputs=inputs, mask=mask, partners=partners, **own)


def _short(
    inputs: dict[str, Tensor], mask: Tensor, rows: Tensor, pads: int | None
) -> tuple[dict[str, Tensor], Tensor]:
    taken, mask = {k: x[rows] for k, x in inputs.items()}, mask[rows]
    if pads is None:
        return taken, mask
    whole = mask.shape[1]
    length = min(-(-int(_ends(mask).max()) // pads) * pads, whole)
    cut = {k: x[:, :length] if x.dim() > 1 and x.shape[1] == whole else x for k, x in taken.items()}
    return cut, mask[:, :length]


__all__ = ["by_tokens"]
