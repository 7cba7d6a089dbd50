"""Clips as batches; uint8 travels, numbers with a point are made on the device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabel.core import Batch


class VisualCollator:
    """Clips (or single frames) to a `Batch`; works with any DataLoader or Trainer.

    Args:
        seed: of the run; travels in the batch for the augmentations.
    """

    def __init__(self, *, seed: int = 0):
        self.seed = seed

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """Samples with `frames` uint8 (times, rows, columns, 3), `index` and `ordinal`.

        They may have `times` (seconds of each frame), `label`, and `partners`: another camera's
        `frames` at the same times, or a `flow` (times, rows, columns, 2).

        Raises:
            ValueError: frames of another type, or of several sizes.
        """
        frames, mask = stack([self.frames(s["frames"]) for s in samples])
        inputs = {"frames": frames}
        if "times" in samples[0]:
            inputs["times"] = stack([np.asarray(s["times"], np.float32) for s in samples])[0]
        partners = {}
        for name in samples[0].get("partners", {}):
            theirs = [s["partners"][name] for s in samples]
            key = "frames" if "frames" in theirs[0] else "flow"
            arrays = [self.frames(t[key]) if key == "frames" else first(t[key]) for t in theirs]
            values, exists = stack(arrays)
            partners[name] = {key: values, "mask": exists}
        return Batch.of(samples, inputs, mask, seed=self.seed, partners=partners)

    @staticmethod
    def frames(frames: Any) -> np.ndarray:
        """A sample's frames with channels first.

        Raises:
            ValueError: no uint8 RGB frames.
        """
        array = np.asarray(frames)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            raise ValueError(
                "Frames of a sample are uint8 RGB, (times, rows, columns, 3), but "
                f"{array.dtype} {array.shape} came; a single picture is frames[None]."
            )
        return first(array)


def first(array: np.ndarray) -> np.ndarray:
    """Channels before rows and columns."""
    return np.moveaxis(np.asarray(array), 3, 1)


def stack(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Arrays of frames as one, padded at the end, and a mask that is True at frames that exist.

    Raises:
        ValueError: frames of several sizes.
    """
    if len(sizes := {r.shape[1:] for r in rows}) > 1:
        raise ValueError(
            f"The frames of a batch must have one size, but they have {sorted(sizes)}; read the "
            "data with one size."
        )
    lengths = np.array([len(r) for r in rows])
    times = max(int(lengths.max()), 1)
    out = np.zeros((len(rows), times, *rows[0].shape[1:]), dtype=rows[0].dtype)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    mask = np.arange(times)[None, :] < lengths[:, None]
    return torch.from_numpy(out), torch.from_numpy(mask)


__all__ = ["VisualCollator", "stack"]
