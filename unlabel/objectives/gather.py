"""What the ranks of a run tell each other: rows, means, gradients, and whether all is well."""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn


def world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) outside a distributed run."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        # Every rank's loss reaches these rows, so the gradients add up before each rank takes
        # its own. With losses averaged over ranks (DDP) this is the one-process gradient.
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gather(rows: Float[Tensor, "rows *rest"]) -> Float[Tensor, "all_rows *rest"]:
    """The rows of all ranks in rank order, with gradient to every rank that made them.

    Each rank must bring the same number of rows. Outside a distributed run this is the identity.
    """
    return rows if world()[1] == 1 else _Gather.apply(rows)


def global_mean(
    values: Float[Tensor, "values"], mask: Bool[Tensor, "values"] | None = None
) -> Float[Tensor, ""]:
    """Mean over the values of all ranks, as the share that DDP's averaging makes whole.

    With a mask only those where it is True count; the others must be 0.

    A rank returns `world_size * sum(own values) / count of all values`, so that the mean over
    ranks of losses and of gradients is the one-process mean, also when the ranks bring different
    numbers of values. Without any value it is 0.
    """
    _, size = world()
    if size == 1 and mask is None:
        return values.sum() / max(values.numel(), 1)
    # Filled on the device: a number copied there would make the host wait.
    wide = torch.promote_types(values.dtype, torch.float32)
    if mask is None:
        count = torch.full((), float(values.numel()), dtype=wide, device=values.device)
    else:
        count = mask.sum(dtype=wide)
    if size > 1:
        dist.all_reduce(count)
    return values.sum() * (size / count.clamp(min=1)).to(values.dtype)


@torch.no_grad()
def mean_over_ranks(rows: Float[Tensor, "rows *rest"]) -> Float[Tensor, "*rest"]:
    """Mean over the rows of all ranks, the same on every rank; no gradient. Of no rows it is 0."""
    total, count = rows.sum(0), torch.full_like(rows.sum(), float(len(rows)))
    if world()[1] > 1:
        for part in (total, count):
            dist.all_reduce(part)
    return total / count.clamp(min=1)


@torch.no_grad()
def global_logsumexp(rows: Float[Tensor, "rows columns"]) -> Float[Tensor, "columns"]:
    """Log of the sum of exponentials over the rows of all ranks, by column; no gradient."""
    if world()[1] == 1:
        return rows.logsumexp(0)
    top = rows.amax(0)
    dist.all_reduce(top, op=dist.ReduceOp.MAX)
    total = (rows - top).exp().sum(0)
    dist.all_reduce(total)
    return top + total.log()


def average_gradients(parameters: Iterable[nn.Parameter], *, bucket: int = 25_000_000) -> None:
    """Replace the gradients by their mean over ranks, in messages of about `bucket` numbers."""
    _, size = world()
    if size == 1:
        return
    held: list[Tensor] = []
    for p in parameters:
        if not p.requires_grad:
            continue
        if p.grad is None:
            p.grad = torch.zeros_like(p)  # every rank must bring the same tensors
        if held and (held[0].dtype != p.dtype or sum(g.numel() for g in held) >= bucket):
            _average(held)
            held = []
        held.append(p.grad)
    if held:
        _average(held)


def _average(grads: list[Tensor]) -> None:
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    parts = (flat / world()[1]).split([g.numel() for g in grads])
    torch._foreach_copy_(grads, [x.view_as(g) for x, g in zip(parts, grads, strict=True)])


def together(part: Callable[[], None], device: torch.device) -> None:
    """Run `part` on every rank; where it failed on one, it raises on all, and none waits for ever.

    Raises:
        RuntimeError: it went well here but not on another rank.
        Exception: what `part` raised here.
    """
    error = None
    try:
        part()
    except Exception as caught:
        error = caught
    if world()[1] > 1:
        failed = torch.full((), float(error is not None), device=device)
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if error is None and failed:
            raise RuntimeError("Another rank failed here; its message says why.")
    if error is not None:
        raise error
