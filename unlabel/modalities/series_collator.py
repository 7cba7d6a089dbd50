"""Windows of series as batches, with gaps marked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabel.core import Batch


class SeriesCollator:
    """Windows of series to a `Batch`; works with any DataLoader or Trainer.

    Args:
        seed: of the run; travels in the batch for the augmentations.
    """

    def __init__(self, *, seed: int = 0):
        self.seed = seed

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """Samples with `values` (steps, channels), NaN where missing, `index` and `ordinal`.

        They may have `covariates` (steps, kinds), `static` (kinds), `label`, and `partners`, each
        with `values` of its own.
        """
        values, mask = self.stack([s["values"] for s in samples])
        inputs = self.mark(values)
        if "covariates" in samples[0]:
            inputs["covariates"] = self.stack([s["covariates"] for s in samples])[0].nan_to_num()
        if "static" in samples[0]:
            rows = np.stack([np.asarray(s["static"], np.float32) for s in samples])
            inputs["static"] = torch.from_numpy(rows).nan_to_num()
        partners = {}
        for name in samples[0].get("partners", {}):
            theirs, exists = self.stack([s["partners"][name]["values"] for s in samples])
            partners[name] = {**self.mark(theirs), "mask": exists}
        return Batch.of(samples, inputs, mask, seed=self.seed, partners=partners)

    @staticmethod
    def stack(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Arrays of steps as one, padded at the left, and a mask that is True at real steps."""
        lengths = np.array([len(r) for r in rows])
        steps = max(int(lengths.max()), 1)
        out = np.zeros((len(rows), steps, rows[0].shape[1]), dtype=np.float32)
        exists = np.arange(steps)[None, :] >= steps - lengths[:, None]
        # The rows may be slices of a memory-mapped file: this is where they are read.
        for place, row in zip(out, rows, strict=True):
            place[steps - len(row) :] = row
        return torch.from_numpy(out), torch.from_numpy(exists)

    @staticmethod
    def mark(values: Tensor) -> dict[str, Tensor]:
        """Values with 0 for what is missing, and where they were observed."""
        observed = values.isfinite()
        return {"values": torch.where(observed, values, 0), "observed": observed}


__all__ = ["SeriesCollator"]
