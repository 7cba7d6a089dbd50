"""Waveforms as batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabel.core import Batch


class AudioCollator:
    """Waveforms to a `Batch`; works with any DataLoader or Trainer.

    Args:
        seed: of the run; travels in the batch for the augmentations.
    """

    def __init__(self, *, seed: int = 0):
        self.seed = seed

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """Samples with `waveform` (samples), `index` and `ordinal`.

        They may have a `label`, and `partners`, each with a `waveform` of its own.
        """
        waveform, mask = self.stack([s["waveform"] for s in samples])
        partners = {}
        for name in samples[0].get("partners", {}):
            theirs, exists = self.stack([s["partners"][name]["waveform"] for s in samples])
            partners[name] = {"waveform": theirs, "mask": exists}
        inputs = {"waveform": waveform}
        return Batch.of(samples, inputs, mask, seed=self.seed, partners=partners)

    @staticmethod
    def stack(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Waveforms as one array, padded at the end, and a mask that is True at what exists.

        Raises:
            ValueError: a waveform of more than one channel, or of whole numbers.
        """
        AudioCollator.check(rows)
        if wrong := [np.shape(row) for row in rows if np.ndim(row) != 1]:
            raise ValueError(
                f"A waveform is one channel, (samples,), but one of shape {wrong[0]} came; take "
                "the mean over its channels."
            )
        lengths = np.array([len(row) for row in rows])
        out = np.zeros((len(rows), max(int(lengths.max()), 1)), dtype=np.float32)
        for place, row in zip(out, rows, strict=True):
            place[: len(row)] = row
        exists = np.arange(out.shape[1])[None, :] < lengths[:, None]
        return torch.from_numpy(out), torch.from_numpy(exists)

    @staticmethod
    def check(rows: Sequence[np.ndarray]) -> None:
        """Refuse waveforms of whole numbers, which would be far too loud."""
        if whole := [x.dtype for x in map(np.asarray, rows) if x.dtype.kind in "iu"]:
            raise ValueError(
                f"Waveforms are numbers from -1 to 1, but {whole[0]} came; divide by "
                f"{np.iinfo(whole[0]).max + 1:,}."
            )


__all__ = ["AudioCollator"]
