"""A stop signal to any rank ends the run on all ranks at the same step, after a save."""

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from unlabel.objectives.gather import world

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Listens for SIGTERM and Ctrl-C while its `with` block runs; a second Ctrl-C means now.

    Python lets only the main thread listen; in another one nothing is heard.
    """

    def __init__(self):
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        """Listen."""
        self.asked = False
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to whoever had them."""
        for s, handler in self._before.items():
            # None stands for a handler that was not set from Python and cannot be set again.
            signal.signal(s, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def agree(self, device: torch.device) -> torch.Tensor | bool:
        """Whether any rank was asked; on one rank free, on many one all-reduce, not waited for.

        Every rank must call it at the same place of the run.
        """
        if world()[1] == 1:
            return self.asked
        asked = torch.full((), float(self.asked), device=device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return asked
