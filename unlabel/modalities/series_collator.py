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


def inputs_of(
    batch: Batch, partner: str | None, *, channels: int, kinds: tuple[int, int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and mask of the samples, or of a partner of theirs, that an encoder takes.

    Args:
        batch: the samples.
        partner: whose; None for the samples' own.
        channels: that the encoder takes.
        kinds: how many covariates and static values it takes; others are left out.

    Raises:
        ValueError: no such partner, or other channels or kinds.
    """
    inputs, mask = batch.inputs, batch.mask
    if partner is not None:
        if partner not in batch.partners:
            raise ValueError(
                f"The objective wants a {partner!r} beside each sample, but the data has "
                f"{sorted(batch.partners) or 'none'}; read series of several channels, one "
                f"channel a sample, with their partners ({partner}: true)."
            )
        theirs = batch.partners[partner]
        inputs = {**inputs, "values": theirs["values"], "observed": theirs["observed"]}
        mask = theirs["mask"]
    if (found := inputs["values"].shape[2]) != channels:
        raise ValueError(
            f"Samples have {found} channels, but the encoder takes {channels}; read "
            "one channel a sample (channels: independent), or make the encoder for as many."
        )
    used = ["values", "observed"]
    for name, count in zip(("covariates", "static"), kinds, strict=True):
        has = inputs[name].shape[-1] if name in inputs else 0
        if count and has != count:
            raise ValueError(
                f"The encoder was made for {count} {name}, but the samples have {has}."
            )
        used += [name] if count else []
    return {k: inputs[k] for k in used}, mask


__all__ = ["SeriesCollator", "inputs_of"]
