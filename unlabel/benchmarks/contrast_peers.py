"""`clip` and `siglip` beside the whole matrix and open_clip: loss and all gradients, on ranks."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from unlabel.benchmarks.contrast_methods import Missing, bare_import, full_clip, full_siglip
from unlabel.objectives import CLIP, SigLIP
from unlabel.objectives.gather import gather, mean_over_ranks, world

PEERS = ("clip", "siglip")
RANKS = (1, 2)
_PAIRS, _WIDTH = 96, 48
Form = Callable[[Tensor, Tensor], Tensor]


def agreement(tasks: Sequence[str], ranks: int) -> dict[str, dict[str, float | str]]:
    """How far the peers are from us, in shares of the largest entry: loss and every gradient.

    All see the same float64 features, and learn the same scale (and bias). What counts are the
    loss and the gradients that DDP makes of those of the ranks.

    Args:
        tasks: some of `PEERS`.
        ranks: processes, of gloo where there are several.

    Returns:
        Task -> peer -> largest difference, or why there is none.
    """
    if ranks == 1 or not tasks:
        return {task: _differences(task) for task in tasks}
    with TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (ranks, tasks, folder), nprocs=ranks)  # pyright: ignore
        return json.loads((Path(folder) / "found.json").read_text())


def _rank(rank: int, ranks: int, tasks: Sequence[str], folder: str) -> None:
    torch.set_num_threads(1)
    about: dict[str, Any] = {"init_method": f"file://{folder}/meet", "rank": rank}
    dist.init_process_group("gloo", world_size=ranks, **about)
    found = {task: _differences(task) for task in tasks}
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.barrier()
    # A thread of gloo may still run when the interpreter takes it down, which aborts the process.
    os._exit(0)


def _differences(task: str) -> dict[str, float | str]:
    method: Any = (CLIP if task == "clip" else SigLIP)(sides=("one", "other")).double()
    learned = [method.temperature.log_scale] if task == "clip" else [method.log_scale, method.bias]
    torch.manual_seed(0)
    whole = torch.randn(2, _PAIRS, _WIDTH, dtype=torch.float64)
    rank, size = world()
    index = torch.arange(_PAIRS).chunk(size)[rank]
    ours = _measured(lambda a, b: method.compare(a, b, index)[0], whole, learned, rank, size)
    found: dict[str, float | str] = {}
    matrix = _matrix(task, learned)
    found["full matrix, one process"] = _apart(_measured(matrix, whole, learned, 0, 1), ours)
    try:
        for name, form in _open_clip(task, learned):
            found[name] = _apart(_measured(form, whole, learned, rank, size), ours)
    except Missing as error:
        found["open_clip"] = f"{error}: pip install open-clip-torch"
    return found


def _matrix(task: str, learned: list[Tensor]) -> Form:
    scale, *bias = learned
    full = full_clip if task == "clip" else full_siglip
    return lambda a, b: full(a, b, scale.exp(), *bias)


def _open_clip(task: str, learned: list[Tensor]) -> Iterator[tuple[str, Form]]:
    module = bare_import("open_clip.loss")
    scale, *bias = learned
    where = dict(zip(("rank", "world_size"), world(), strict=True))
    if task == "clip":
        each = {
            f"open_clip, local_loss={local}": module.ClipLoss(
                local_loss=local, gather_with_grad=True, **where
            )
            for local in (False, True)
        }
    else:
        each = {"open_clip": module.SigLipLoss(**where)}
    for name, loss in each.items():
        yield (
            name,
            lambda a, b, loss=loss: loss(
                F.normalize(a, dim=1), F.normalize(b, dim=1), scale.exp(), *bias
            ),
        )


def _measured(
    form: Form, whole: Tensor, learned: list[Tensor], rank: int, size: int
) -> list[Tensor]:
    """Loss, gradients of both sides' features and of what is learned, of all ranks together."""
    a, b = (x.chunk(size)[rank].clone().requires_grad_() for x in whole)
    loss = form(a, b)
    of_a, of_b, *of_learned = torch.autograd.grad(loss, [a, b, *learned])
    if size == 1:
        return [loss.detach(), of_a, of_b, *of_learned]
    told = mean_over_ranks(torch.stack([loss.detach(), *of_learned])[None])
    return [told[0], gather(of_a) / size, gather(of_b) / size, *told[1:]]


def _apart(theirs: list[Tensor], ours: list[Tensor]) -> float:
    shares = ((x - y).abs().max() / x.abs().max() for x, y in zip(theirs, ours, strict=True))
    return max(float(share) for share in shares)


__all__ = ["PEERS", "RANKS", "agreement"]
