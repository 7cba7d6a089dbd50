"""Processes for a run that is to be broken: the ranks of a gloo group, from a fork server.

The server has imported everything once, so that one starts in well under a second.
"""

import os
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context, set_start_method
from multiprocessing.process import BaseProcess
from typing import Any

from torch.distributed import TCPStore

_IMPORTED = ("unlabel.pretrain", "sklearn", "accelerate", "scipy.stats", "kornia", "torchaudio")


class Ranks:
    """The processes of one launch, and where they meet.

    Args:
        work: a function of a module, called with `(rank, *given)` in each process.
        ranks: processes.
        given: to each of them.
        imported: modules that the server imports before the first process of all.
    """

    def __init__(
        self,
        work: Callable[..., None],
        ranks: int,
        given: Sequence[Any],
        *,
        imported: Sequence[str] = _IMPORTED,
    ):
        context = get_context("forkserver")
        context.set_forkserver_preload(list(imported))
        # The ranks meet where this process listens, as under torchrun: a port that is only looked
        # for may be taken by others before rank 0 listens there.
        self._meet = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        at = (ranks, self._meet.port)
        self.processes: list[BaseProcess] = [
            context.Process(target=_ranked, args=(work, rank, *at, tuple(given)))
            for rank in range(ranks)
        ]
        for p in self.processes:
            p.start()

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [p.pid for p in self.processes if p.pid is not None and p.is_alive()]

    def join(self, timeout: float, *, grace: float | None = None) -> list[int | None]:
        """Wait for all, and kill those that are late; exit codes.

        Args:
            timeout: seconds for all of them.
            grace: seconds that the others have after the first one that failed; None for no limit.
        """
        until = time.monotonic() + timeout
        while any(p.is_alive() for p in self.processes) and time.monotonic() < until:
            time.sleep(0.02)
            if grace is not None and any(p.exitcode for p in self.processes):
                until, grace = min(until, time.monotonic() + grace), None
        for p in self.processes:
            if p.is_alive():
                p.kill()
            p.join()
        return [p.exitcode for p in self.processes]


def _ranked(
    work: Callable[..., None], rank: int, ranks: int, port: int, given: tuple[Any, ...]
) -> None:
    # Loaders start their workers as in a process that was begun by hand.
    set_start_method("fork", force=True)
    if ranks > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
        places |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": True}
        os.environ |= {k: str(v) for k, v in places.items()}
    work(rank, *given)


__all__ = ["Ranks"]
