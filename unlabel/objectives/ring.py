"""Log-sum-exp of negatives of all ranks: gathered while they are few, round a ring when many.

In the ring each rank holds its own columns and one other rank's at a time: W ranks take W steps,
and no rank ever holds all. The log-sum-exps of the steps' negatives add up; what is known of a
column (its own log-sum-exp, when both directions are wanted) travels with it. Backward, the columns
go round again, and with them the gradient that each rank adds to, until both are home. The next
columns are under way while the present ones are used.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unlabel.objectives.gather import gather, world
from unlabel.objectives.logsumexp import Exclude, log_sum_exp_of_negatives
from unlabel.objectives.unit import wide

# Gathered columns of so many bytes are too many: 256 MB, of which a rank would hold a few copies,
# such as the gradient. Below, one large product of matrices is quicker than one a rank, and two,
# when both directions are wanted, although the ring has both from one.
MANY = 2**28


def everyone(exclude: Exclude, n_cols: int) -> Exclude:
    """What is no negative of these rows among the columns of all ranks.

    Args:
        exclude: the same among this rank's own.
        n_cols: of each rank.
    """
    first = world()[0] * n_cols
    numbers = None if exclude.col_id is None else gather(exclude.col_id)
    return Exclude(tuple(x + first for x in exclude.columns), exclude.row_id, numbers)


def log_sum_exp_across_ranks(
    rows: Float[Tensor, "rows width"],
    cols: Float[Tensor, "cols width"],
    exclude: Exclude,
    *,
    both: bool = False,
    rounded: bool = False,
) -> list[Float[Tensor, "..."]]:
    """`log_sum_exp_of_negatives` of this rank's rows among the columns of all ranks.

    And, when `both`, of its columns among the rows of all ranks. The gradient holds what all ranks'
    sums owe to this rank's vectors: averaged over ranks, gradients are those of one process.

    Args:
        rows: of this rank; when `both`, each rank brings equally many.
        cols: of this rank; each rank brings equally many.
        exclude: among this rank's columns.
        both: see `log_sum_exp_of_negatives`.
        rounded: see `log_sum_exp_of_negatives`.
    """
    if cols.nbytes * world()[1] >= MANY:
        parts = _by_rank(everyone(exclude, len(cols)), exclude.columns)
        return list(_Ring.apply(rows, cols, parts, both, rounded))[: 1 + both]
    sides = [(rows, cols, exclude)]
    if both:
        sides.append((cols, rows, exclude.transposed(len(cols))))
    return [
        log_sum_exp_of_negatives(x, gather(y), everyone(e, len(y)), rounded=rounded)[0]
        for x, y, e in sides
    ]


def _by_rank(exclude: Exclude, own: tuple[Tensor, ...]) -> list[Exclude]:
    """What is no negative among each rank's columns; places are among one's own alone."""
    rank, size = world()
    numbers: list[Tensor | None] = [None] * size
    if exclude.col_id is not None:
        numbers = list(exclude.col_id.chunk(size))
    return [Exclude(own if r == rank else (), exclude.row_id, n) for r, n in enumerate(numbers)]


def _pass_on(*tensors: Tensor) -> Callable[[], list[Tensor]]:
    """Starts sending to the next rank; what comes from the one before, when called."""
    rank, size = world()
    gone = [x.contiguous() for x in tensors]
    come = [torch.empty_like(x) for x in gone]
    ways = [dist.P2POp(dist.isend, x, (rank + 1) % size) for x in gone]
    ways += [dist.P2POp(dist.irecv, x, (rank - 1) % size) for x in come]
    works = dist.batch_isend_irecv(ways)

    def arrived() -> list[Tensor]:
        for work in works:
            work.wait()
        gone.clear()  # kept until here: they were being read
        return come

    return arrived


def _around(cols: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Whose columns, and they: first one's own, then those of the rank before, and so on."""
    rank, size = world()
    for step in range(size):
        arrived = _pass_on(cols) if step + 1 < size else None
        yield (rank - step) % size, cols
        if arrived is not None:
            (cols,) = arrived()


class _Ring(Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, cols: Tensor, parts: list[Exclude], both: bool, rounded: bool
    ) -> tuple[Tensor, Tensor]:
        by_row = torch.full((len(rows),), -torch.inf, dtype=wide(rows), device=rows.device)
        by_col = by_row.new_full((len(cols) if both else 0,), -torch.inf)
        for whose, block in _around(cols):
            across, down, _ = log_sum_exp_of_negatives(
                rows, block, parts[whose], both=both, rounded=rounded
            )
            by_row = torch.logaddexp(by_row, across)
            if down is not None:
                (by_col,) = _pass_on(torch.logaddexp(by_col, down))()
        ctx.save_for_backward(rows, cols, by_row, by_col)
        ctx.rest = parts, both, rounded
        return by_row, by_col

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        rows, cols, by_row, by_col = ctx.saved_tensors
        parts, both, rounded = ctx.rest
        d_rows, d_block = torch.zeros_like(rows), torch.zeros_like(cols)
        for whose, block in _around(cols):
            x, y = rows.detach().requires_grad_(), block.detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(rows.device.type, enabled=False):
                across, down, _ = log_sum_exp_of_negatives(
                    x, y, parts[whose], both=both, rounded=rounded
                )
            sums, slopes = [across], [g * _share(across, by_row)]
            if down is not None:
                sums, slopes = [across, down], [*slopes, h * _share(down, by_col)]
            dx, dy = torch.autograd.grad(sums, (x, y), slopes)
            d_rows += dx
            d_block += dy
            d_block, *known = _pass_on(d_block, *([h, by_col] if both else []))()
            h, by_col = known if both else (h, by_col)
        return d_rows, d_block, None, None, None


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Of the exponentials' sum; 0 where there is none."""
    return (part.detach() - whole.masked_fill(whole.isneginf(), 0.0)).exp()
