"""Sentences as batches of token ids."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabel.checks import check_above_0
from unlabel.core import Batch


class TextCollator:
    """Samples of token ids to a padded `Batch`; works with any DataLoader or Trainer.

    Args:
        pad_id: token id that fills the places after a sentence.
        seed: of the run; travels in the batch for the augmentations.
        multiple_of: pad lengths up to a multiple (8 suits tensor cores and torch.compile).
        limit: no length is padded beyond it; None where there is no limit.

    Raises:
        ValueError: a multiple of nothing.
    """

    def __init__(
        self, pad_id: int, *, seed: int = 0, multiple_of: int = 1, limit: int | None = None
    ):
        check_above_0(multiple_of=multiple_of)
        self.pad_id, self.seed, self.multiple_of, self.limit = pad_id, seed, multiple_of, limit

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """Samples with `input_ids`, `index`, `ordinal`, and maybe `partners` and `label`."""
        inputs, mask = self.pad([s["input_ids"] for s in samples])
        partners = {}
        for name in samples[0].get("partners", {}):
            ids, is_real = self.pad([s["partners"][name] for s in samples])
            partners[name] = {"input_ids": ids, "mask": is_real}
        return Batch.of(samples, {"input_ids": inputs}, mask, seed=self.seed, partners=partners)

    def pad(self, rows: Sequence[Iterable[int]]) -> tuple[Tensor, Tensor]:
        """Rows of ids as `(batch, length)` ids and a mask that is True at real tokens."""
        arrays = [np.asarray(r, dtype=np.int64) for r in rows]
        lengths = np.array([len(a) for a in arrays])
        longest = max(int(lengths.max()), 1)
        length = -(-longest // self.multiple_of) * self.multiple_of
        if self.limit is not None:
            length = max(longest, min(length, self.limit))
        ids = np.full((len(arrays), length), self.pad_id, dtype=np.int64)
        is_real = np.arange(length)[None, :] < lengths[:, None]
        ids[is_real] = np.concatenate(arrays)
        return torch.from_numpy(ids), torch.from_numpy(is_real)


__all__ = ["TextCollator"]
