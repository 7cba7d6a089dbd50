"""Means of a run's losses between two log lines, kept on the device until a line is written."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from unlabel.objectives.gather import world


class Meter:
    """Sums and counts by name; values that are not finite are left out of both."""

    def __init__(self):
        self._kept: dict[str, Tensor] = {}  # name -> (sum, count)

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in one value for each name, without waiting for the device."""
        for name, value in values.items():
            finite = value.isfinite()
            pair = torch.stack([value.where(finite, 0.0), finite.to(value.dtype)]).float()
            before = self._kept.get(name)
            self._kept[name] = pair if before is None else before.to(pair.device) + pair

    def means(self) -> dict[str, float]:
        """Mean of each name over steps and ranks (NaN for none finite), and start afresh.

        Every rank must call it at the same place of the run.
        """
        if not self._kept:
            return {}
        names, pairs = list(self._kept), torch.stack(list(self._kept.values()))
        if world()[1] > 1:
            dist.all_reduce(pairs)
        self._kept = {}
        return dict(zip(names, (pairs[:, 0] / pairs[:, 1]).tolist(), strict=True))

    def state_dict(self) -> dict[str, list[float]]:
        """What has been taken in since the last line, as plain numbers."""
        return {name: pair.tolist() for name, pair in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Go on from `state_dict()`."""
        self._kept = {name: torch.tensor(pair) for name, pair in state.items()}
