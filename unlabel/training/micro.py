"""Micro-batches that share their negatives: where they can be made, and parts of so many tokens."""

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlabel.core import Batch
from unlabel.objectives import Objective
from unlabel.training.pretraining import Pretraining


def refuse_parts(args: Any, encoder: nn.Module, fsdp: bool, deepspeed: bool) -> None:
    """Refuse micro-batches that share their negatives where they cannot be made.

    Args:
        args: `TrainingArguments`.
        encoder: what is trained.
        fsdp: parameters are sharded.
        deepspeed: DeepSpeed trains.

    Raises:
        ValueError: they are asked for, and cannot be made.
    """
    if not args.micro_tokens and args.gradient_accumulation_steps == 1:
        return
    if any(isinstance(m, _BatchNorm) for m in encoder.modules()):
        raise ValueError(
            "Micro-batches with shared negatives encode twice, which would update this encoder's "
            "batch normalisation twice. Set gradient_accumulation_steps to 1 and micro_tokens to "
            "0, or use an encoder with layer normalisation."
        )
    if deepspeed:
        raise ValueError(
            "Micro-batches with shared negatives take several passes a step, which DeepSpeed does "
            "not allow; set gradient_accumulation_steps to 1 and micro_tokens to 0, or take fsdp."
        )
    if fsdp and args.micro_tokens:
        raise ValueError(
            "Ranks split their batches into unlike numbers of parts, which sharded parameters "
            "(fsdp) do not allow; set micro_tokens to 0 and gradient_accumulation_steps to what "
            "the memory needs."
        )


def refuse_lone(args: Any, objective: Objective) -> None:
    """Refuse batches of one sample where the objective tells a sample from the others of its own.

    Args:
        args: `TrainingArguments`.
        objective: what is trained.

    Raises:
        ValueError: ranks and micro-batches together hold one sample.
    """
    each = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if objective.needs_others and each * args.world_size < 2:
        raise ValueError(
            f"{type(objective).__name__} tells a sample from the others of its batch, and a batch "
            "of one has no others, so that nothing would be learned. Set "
            "per_device_train_batch_size (or processes, or gradient_accumulation_steps) to 2 or "
            "more."
        )


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
    ends = [_ends(m) if pads else torch.full_like(batch.index, m.shape[1]) for m in masks]
    held = torch.stack(ends).cpu().numpy()  # (masks, batch); a device is asked this once
    order = held.max(0).argsort(kind="stable")
    held = -(-held // (pads or 1)) * (pads or 1)
    parts: list[list[int]] = [[]]
    for row in order.tolist():
        # In order of length, so that this one is the longest of its part.
        if parts[-1] and views * (len(parts[-1]) + 1) * held[:, row].max() > tokens:
            parts.append([])
        parts[-1].append(row)
    if len(parts) == 1:
        return [batch]
    return [_part(batch, rows, held[:, rows].max(1).tolist()) for rows in parts]


def _ends(mask: Tensor) -> Tensor:
    """One more than the place of the last real token, at least 1."""
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * place).amax(1).clamp(min=1)


def _part(batch: Batch, samples: list[int], lengths: list[int]) -> Batch:
    """Some samples of a batch, cut to a length, and each of their partners to its own."""
    rows = torch.tensor(samples, device=batch.index.device)
    inputs, mask = _cut(batch.inputs, batch.mask, rows, lengths[0])
    partners = {}
    for (name, partner), length in zip(batch.partners.items(), lengths[1:], strict=True):
        cut, is_real = _cut(partner, partner["mask"], rows, length)
        partners[name] = {**cut, "mask": is_real}
    own: dict[str, Any] = {"index": batch.index[rows], "ordinal": batch.ordinal[rows]}
    for name in ("label", "alike"):
        given: Any = getattr(batch, name)
        own[name] = given if given is None else given[rows]
    return replace(batch, inputs=inputs, mask=mask, partners=partners, **own)


def _cut(
    inputs: dict[str, Tensor], mask: Tensor, rows: Tensor, length: int
) -> tuple[dict[str, Tensor], Tensor]:
    whole, taken = mask.shape[1], {k: x[rows] for k, x in inputs.items()}
    of_tokens = {k for k, x in taken.items() if x.dim() > 1 and x.shape[1] == whole}
    cut = {k: x[:, :length] if k in of_tokens else x for k, x in taken.items()}
    return cut, mask[rows, :length]


__all__ = ["by_tokens", "refuse_lone", "refuse_parts"]
