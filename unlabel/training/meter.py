"""Means of a run's losses between two log lines, kept on the device until a line is written."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from unlabel.objectives.gather import world


class Meter:
    """Sums and counts by name; values that are not finite are left out of both."""

    def __init__(self):
        self._names: list[str] = []
        self._pairs = torch.zeros(0, 2)  # (sum, count) of each name

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in one value for each name, without waiting for the device."""
        if new := [name for name in values if name not in self._names]:
            self._names += new
            self._pairs = torch.cat([self._pairs, self._pairs.new_zeros(len(new), 2)])
        got = torch.stack(list(values.values()))
        finite = got.isfinite()
        pairs = torch.stack([got.where(finite, 0.0), finite.to(got.dtype)], 1).float()
        self._pairs = self._pairs.to(pairs.device)
        if list(values) == self._names:
            self._pairs += pairs
        else:
            self._pairs[[self._names.index(name) for name in values]] += pairs

    def means(self) -> dict[str, float]:
        """Mean of each name over steps and ranks (NaN for none finite), and start afresh.

        Every rank must call it at the same place of the run.
        """
        if not self._names:
            return {}
        names, pairs = self._names, self._pairs
        if world()[1] > 1:
            dist.all_reduce(pairs)
        self.load_state_dict({})
        return dict(zip(names, (pairs[:, 0] / pairs[:, 1]).tolist(), strict=True))

    def state_dict(self) -> dict[str, list[float]]:
        """What has been taken in since the last line, as plain numbers."""
        return dict(zip(self._names, self._pairs.tolist(), strict=True))

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Go on from `state_dict()`."""
        self._names, self._pairs = list(state), torch.tensor([*state.values()]).view(-1, 2)
