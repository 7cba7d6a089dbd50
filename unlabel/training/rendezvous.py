"""Ranks that torchrun starts again must not meet those that died."""

import os
import socket
from datetime import timedelta

_LATE = timedelta(minutes=10)


def meet_anew() -> None:
    """Let the ranks of torchrun's second and later attempts agree on a store of their own.

    torchrun keeps one store for all attempts (torch 2.13), where a rank that is started again
    finds the addresses of the attempt before, and waits for a process that is gone. Call it
    before anything makes a process group; elsewhere it does nothing.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    from torch.distributed import TCPStore  # which not every build of torch has

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared, key = TCPStore(host, port, is_master=False, timeout=_LATE), f"unlabel/{attempt}"
    if os.environ["RANK"] == "0":
        with socket.socket() as free:
            free.bind(("", 0))
            shared.set(key, str(free.getsockname()[1]))
    os.environ["MASTER_PORT"] = shared.get(key).decode()
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # rank 0 holds the new one


__all__ = ["meet_anew"]
