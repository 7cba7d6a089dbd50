"""k-means over what training sees, as the classes that an objective predicts."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from unlabel.objectives.gather import world
from unlabel.objectives.state import State


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
        # sklearn is slow to import, and most objectives have no clusters.
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        known = self.rows[: int(self.held.clamp(max=len(self.rows)))].cpu().numpy()
        how: dict[str, Any] = {"n_init": 1, "random_state": self.seed}
        how["init"] = "k-means++" if is_first else self.centres.cpu().numpy()
        kmeans = KMeans(len(self.centres), **how)
        with warnings.catch_warnings():
            # Fewer distinct rows than clusters: some centres coincide, and share what is there.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = kmeans.fit(known).cluster_centers_
        self.centres.copy_(torch.as_tensor(found))
        if world()[1] > 1:  # ranks may round differently
            dist.broadcast(self.centres, 0)
        self.fits += 1

    @torch.no_grad()
    def assign(self, rows: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch clusters"]:
        """Each row's nearest cluster as one-hot; clusters equally near share it."""
        flat = rows.detach().reshape(-1, rows.shape[-1]).to(self.centres.dtype)
        apart = torch.cdist(flat, self.centres, compute_mode="donot_use_mm_for_euclid_dist")
        least = apart.min(1, keepdim=True).values
        slack = 1e-5 * (1 + self.centres.abs().max())
        near = (apart <= least + slack).to(self.centres.dtype)
        return (near / near.sum(1, keepdim=True)).reshape(*rows.shape[:-1], -1)


__all__ = ["Clusters"]
