"""What the ranks of a run tell each other: one autograd-correct gather and one mean."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


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


def global_mean(values: Float[Tensor, "values"]) -> Float[Tensor, ""]:
    """Mean over the values of all ranks, as the share that DDP's averaging makes whole.

    A rank returns `world_size * sum(own values) / count of all values`, so that the mean over
    ranks of losses and of gradients is the one-process mean, also when the ranks bring different
    numbers of values. Without any value it is 0.
    """
    _, size = world()
    count = torch.tensor(float(values.numel()), device=values.device, dtype=torch.float64)
    if size > 1:
        dist.all_reduce(count)
    return values.sum() * (size / count.clamp(min=1).to(values.dtype))
