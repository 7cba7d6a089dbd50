"""k-means over what training sees: classes to predict, and samples that belong together."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from unlabel.objectives.gather import world
from unlabel.objectives.moments import exact
from unlabel.objectives.state import Bank, State


def k_means(
    rows: Float[Tensor, "rows width"],
    count: int,
    *,
    start: Float[Tensor, "clusters width"] | None = None,
    seed: int = 0,
) -> tuple[Float[Tensor, "clusters width"], Int[Tensor, "rows"]]:
    """Centres, and each row's cluster; those of the first rank, where ranks round differently.

    Args:
        rows: alike on every rank.
        count: clusters.
        start: centres to start from; None draws them by k-means++.
        seed: of that draw.
    """
    # sklearn is slow to import, and most objectives have no clusters.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    how: dict[str, Any] = {"n_init": 1, "random_state": seed}
    how["init"] = "k-means++" if start is None else exact(start).cpu().numpy()
    kmeans = KMeans(count, **how)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: some centres coincide, and share what is there.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = kmeans.fit(exact(rows).cpu().numpy())
    centres = torch.as_tensor(found.cluster_centers_).to(rows)
    labels = torch.as_tensor(found.labels_).to(rows.device, torch.int64)
    if world()[1] > 1:
        dist.broadcast(centres, 0)
        dist.broadcast(labels, 0)
    return centres, labels


class Clusterings(State):
    """Several k-means clusterings of a bank; they move only in `step()`.

    Until the first fit every sample is a cluster of its own.

    Args:
        bank: whose rows are clustered; followed, not a part of this.
        count: clusters of each clustering.
        clusterings: how many, each from a start of its own.
        every: passes over the data from fit to fit.

    Reference: k-means of scikit-learn; several of them: Zhuang et al. 2019, arXiv 1903.12355,
    section 3.
    """

    labels: Tensor
    seen: Tensor
    fits: Tensor

    def __init__(self, bank: Bank, count: int, *, clusterings: int, every: float):
        super().__init__()
        self._bank, self.count, self.every = (bank,), count, every
        size = len(bank.rows)
        self.register_buffer("labels", torch.arange(size).repeat(clusterings, 1))
        for name in ("seen", "fits"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._pending = 0

    def put(self, rows: int) -> None:
        """Hold the number of samples of all ranks that came back until `step()`."""
        self._pending = rows

    def step(self) -> None:
        """Count them, and fit if it is time; once, however often it is called."""
        self.seen += self._pending
        came, self._pending = self._pending > 0, 0
        if came and int(self.seen) >= self.every * self.labels.shape[1]:
            (bank,) = self._bank
            for labels in self.labels:
                labels.copy_(k_means(bank.rows, self.count, seed=int(self.fits))[1])
                self.fits += 1
            self.seen.zero_()


class Clusters(State):
    """Centres by k-means of the rows seen lately; they move only in `step()`.

    They are fitted as soon as there are as many rows as clusters. Every later fit starts from the
    centres of the one before, so that a cluster keeps its number. Until the first fit all centres
    are 0 and nothing tells the clusters apart.

    Args:
        count: clusters.
        width: of a row.
        every: steps from fit to fit.
        until: steps after which the centres stay; None fits on and on.
        memory: latest rows that a fit looks at.
        seed: of the first fit.

    Reference: k-means of scikit-learn; as targets: Caron et al. 2018 (DeepCluster), arXiv
    1807.05520, section 3.1.
    """

    centres: Tensor
    rows: Tensor
    held: Tensor
    steps: Tensor
    fits: Tensor

    def __init__(
        self,
        count: int,
        width: int,
        *,
        every: int = 1,
        until: int | None = None,
        memory: int = 8192,
        seed: int = 0,
    ):
        super().__init__()
        self.every, self.until, self.seed = every, until, seed
        self.register_buffer("centres", torch.zeros(count, width))
        self.register_buffer("rows", torch.zeros(max(memory, count), width))
        for name in ("held", "steps", "fits"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._pending: Tensor | None = None

    def put(self, rows: Float[Tensor, "rows width"]) -> None:
        """Hold rows of all ranks back until `step()`."""
        self._pending = rows.detach()

    def step(self) -> None:
        """Remember the held rows, and fit if it is time; once, however often it is called."""
        if self._pending is None:
            return
        rows, self._pending = self._pending[-len(self.rows) :].to(self.rows.dtype), None
        place = (self.held + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows[place] = rows
        self.held += len(rows)
        self.steps += 1
        steps, is_first = int(self.steps), not int(self.fits)
        is_over = self.until is not None and steps > self.until and not is_first
        if int(self.held) >= len(self.centres) and not is_over:
            if is_first or steps % self.every == 0:
                self._fit(is_first)

    def _fit(self, is_first: bool) -> None:
        known = self.rows[: int(self.held.clamp(max=len(self.rows)))]
        start = None if is_first else self.centres
        centres, _ = k_means(known, len(self.centres), start=start, seed=self.seed)
        self.centres.copy_(centres)
        self.fits += 1

    @torch.no_grad()
    def assign(self, rows: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch clusters"]:
        """Each row's nearest cluster as one-hot; clusters equally near share it."""
        centres = exact(self.centres)
        flat = rows.detach().reshape(-1, rows.shape[-1]).to(centres.dtype)
        apart = torch.cdist(flat, centres, compute_mode="donot_use_mm_for_euclid_dist")
        least = apart.min(1, keepdim=True).values
        slack = 1e-5 * (1 + centres.abs().max())
        near = (apart <= least + slack).to(centres.dtype)
        return (near / near.sum(1, keepdim=True)).reshape(*rows.shape[:-1], -1)


__all__ = ["Clusterings", "Clusters", "k_means"]
