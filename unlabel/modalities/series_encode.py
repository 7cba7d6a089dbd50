"""Vectors of windows, and of every step of a long series, without a look into the future."""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unlabel.core import Encoding
from unlabel.modalities.dilated_conv import DilatedConvModel
from unlabel.modalities.series_window import Window, statistics

# Steps that one pass of a convolution covers, where nothing else limits it.
_CHUNK = 4096


def encode(
    encoder: Any,
    values: np.ndarray,
    observed: np.ndarray | None,
    *,
    batch_size: int,
    per_step: bool,
    stride: int | None,
) -> np.ndarray:
    """`SeriesEncoder.encode`, for an encoder in evaluation mode."""
    if any(encoder.kinds):
        raise ValueError(
            "The encoder was made for covariates or static values, which an array does not "
            "have; read a table that has them, and use unlabel.series_embedding.embed_series."
        )
    rows, seen = _rows(encoder, values, observed)
    if per_step:
        steps = _conv_steps if isinstance(encoder.model, DilatedConvModel) else _sliding_steps
        found = torch.stack(
            [steps(encoder, r, s, batch_size, stride) for r, s in zip(rows, seen, strict=True)]
        )
    else:
        last = rows.shape[1] - 1
        ends = torch.zeros(1, dtype=torch.int64) + last
        size = encoder.length * encoder.patch
        parts = zip(rows.split(batch_size), seen.split(batch_size), strict=True)
        found = torch.cat(
            [_encode(encoder, *_cut(r, s, ends, size)).pooled.cpu() for r, s in parts]
        )
    # Rows go back to series and channels; axes that the caller did not have go away.
    channels = values.shape[-1] if encoder.channels == 1 else 1
    found = rearrange(found, "(n c) ... d -> n ... c d", c=channels)
    found = found[..., 0, :] if channels == 1 else found
    return (found[0] if values.ndim == 2 else found).float().numpy()


def _rows(
    encoder: Any, values: np.ndarray, observed: np.ndarray | None
) -> tuple[Float[Tensor, "rows steps channels"], Bool[Tensor, "rows steps channels"]]:
    """Values and where they were observed; each channel a row for an encoder of one channel."""
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            "Series come as (steps, channels) or (series, steps, channels), with at least one of "
            f"each, but the array has shape {values.shape}; values[:, None] adds an axis."
        )
    like = next(encoder.parameters())
    dtype = torch.promote_types(like.dtype, torch.float32)  # half has no room for a series' level
    rows = torch.as_tensor(np.array(values), device=like.device).to(dtype)
    seen = rows.isfinite()
    if observed is not None:
        seen = seen & torch.as_tensor(np.array(observed, dtype=bool), device=like.device)
    rows, seen = (x if x.dim() == 3 else x[None] for x in (torch.where(seen, rows, 0), seen))
    if encoder.channels == 1:
        return tuple(rearrange(x, "n t c -> (n c) t 1") for x in (rows, seen))  # type: ignore
    if rows.shape[2] != encoder.channels:
        raise ValueError(
            f"The series have {rows.shape[2]} channels, but the encoder takes {encoder.channels}."
        )
    return rows, seen


def _cut(
    values: Tensor, seen: Tensor, ends: Int[Tensor, "windows"], size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of `size` steps that end at `ends` (inclusive) of each row: values, seen, mask.

    A window may reach over either end of the series; those steps do not exist.
    """
    index = ends.to(values.device)[:, None] + torch.arange(1 - size, 1, device=values.device)
    exists = (index >= 0) & (index < values.shape[1])
    index = index.clamp(0, values.shape[1] - 1)
    flat = lambda x: rearrange(x[:, index], "n w t c -> (n w) t c")  # noqa: E731
    mask = exists.repeat(len(values), 1)
    return flat(values), flat(seen) & mask[:, :, None], mask


def _window(values: Tensor, seen: Tensor, mask: Tensor, **about: Any) -> Window:
    nothing = torch.zeros_like(seen)
    return Window(
        torch.where(seen, values, 0), seen, mask, nothing, nothing, values.shape[1], **about
    )


def _encode(encoder: Any, values: Tensor, seen: Tensor, mask: Tensor, **about: Any) -> Encoding:
    return encoder(encoder.finish(_window(values, seen, mask, **about)))


def _sliding_steps(
    encoder: Any, values: Tensor, seen: Tensor, batch_size: int, stride: int | None
) -> Float[Tensor, "steps width"]:
    """The pooled vector of the newest window that ends at each step or before it."""
    every = encoder.patch if stride is None else stride
    ends = torch.arange(0, len(values), every)
    size = encoder.length * encoder.patch
    found = [
        _encode(encoder, *_cut(values[None], seen[None], e, size)).pooled.cpu()
        for e in ends.split(batch_size)
    ]
    return torch.cat(found).repeat_interleave(every, 0)[: len(values)]


def _conv_steps(
    encoder: Any, values: Tensor, seen: Tensor, batch_size: int, stride: int | None
) -> Float[Tensor, "steps width"]:
    """Every step's own token, computed once, block by block.

    A block starts with as many earlier steps as its first output depends on (`context` at most).
    All of it is normalised by the `context` steps that end at the block's first step, so no
    output knows a later value; the next block looks anew.
    """
    field, context = encoder.model.config.receptive_field, encoder.context
    reach = min(field, context) - 1
    if stride is None:
        free = encoder.norm == "none" and field <= context
        stride = _CHUNK if free else max(1, context // 4)
    starts = _starts(len(values), stride)
    lengths = torch.tensor([*starts[1:], len(values)]) - torch.tensor(starts)
    width = min(stride, len(values))
    found = []
    for first, long in zip(
        torch.tensor(starts).split(batch_size), lengths.split(batch_size), strict=True
    ):
        known = _window(*_cut(values[None], seen[None], first, context))
        loc, scale = statistics(known, encoder.norm)
        block = _cut(values[None], seen[None], first + width - 1, reach + width)
        tokens = _encode(encoder, *block, loc=loc, scale=scale).tokens[:, reach:]
        found.append(tokens[torch.arange(width)[None, :] < long[:, None]].cpu())
    return torch.cat(found)


def _starts(steps: int, stride: int) -> list[int]:
    """Where blocks start: doubling at first, since the first steps know little of their scale."""
    starts = [0]
    while (following := starts[-1] + min(stride, max(1, starts[-1]))) < steps:
        starts.append(following)
    return starts


__all__ = ["encode"]
