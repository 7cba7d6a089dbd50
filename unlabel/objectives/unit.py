"""Unit vectors times a scale, and inner products of rows: with one rounding, in little memory."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd import Function
from torch.autograd.function import once_differentiable

F = TypeVar("F", bound=Callable[..., Any])
NUMBERS = 2**16  # at a time: float64 copies of this many stay in a processor's cache


def opaque(function: F) -> F:
    """One call that torch.compile does not look into; the function keeps its type."""
    # torch's optimisers use this one too: torch.compiler.disable, the public name of the same,
    # loads the compiler at import and doubles the time that `import unlabel.objectives` takes.
    return cast(F, _disable_dynamo(function))


def wide(like: Tensor) -> torch.dtype:
    """The type of sums and their logarithms: float64 where there is one (Apple's GPU has none)."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _row_blocks(x: Tensor) -> Iterator[slice]:
    high = max(1, NUMBERS // x.shape[1]) if x.device.type == "cpu" else 2**16
    return (slice(top, top + high) for top in range(0, len(x), high))


class _Unit(Function):
    # y = x s/|x|, so with u = x/|x|: dx = s/|x| (g - u (u.g)) and ds = sum u.g
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        norm = torch.empty(len(x), 1, dtype=wide(x), device=x.device)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        for r in _row_blocks(x):
            exact = x[r].to(norm.dtype)
            length = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
            norm[r] = length.masked_fill(length == 0, 1.0)
            y[r] = exact * (scale / norm[r])
        ctx.save_for_backward(x, norm, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, norm, scale = ctx.saved_tensors
        dx, ds = torch.empty_like(x), torch.zeros_like(scale)
        for r in _row_blocks(x):
            unit, slope = x[r].to(norm.dtype) / norm[r], g[r].to(norm.dtype)
            along = (unit * slope).sum(1, keepdim=True)
            ds += along.sum()
            dx[r] = (slope - unit * along) * (scale / norm[r])
        return dx, ds, None


class _RowDot(Function):
    # out_i = x_i . y_at(i)
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, at: Tensor) -> Tensor:
        out = torch.empty(len(x), dtype=wide(x), device=x.device)
        for r in _row_blocks(x):
            out[r] = (x[r].to(out.dtype) * y[at[r]]).sum(1)
        ctx.save_for_backward(x, y, at)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, y, at = ctx.saved_tensors
        slope = g.to(x.dtype)[:, None]
        dx, dy = y[at].mul_(slope), torch.zeros_like(y)
        for r in _row_blocks(x):
            dy.index_add_(0, at[r], x[r] * slope[r])
        return dx, dy, None


def unit(
    x: Float[Tensor, "rows width"], scale: float | Float[Tensor, ""], dtype: torch.dtype
) -> Float[Tensor, "rows width"]:
    """`scale x / |x|` for each row, rounded once; a zero vector stays zero.

    An error in a norm or in the scale would move all logits of a row together, by 1e-5 at
    temperature 0.01, so both are float64.

    Args:
        x: vectors of any float type.
        scale: a number or a learned tensor.
        dtype: of the result.
    """
    return _Unit.apply(x, torch.as_tensor(scale, dtype=wide(x), device=x.device), dtype)


def row_dot(
    x: Float[Tensor, "rows width"], y: Float[Tensor, "others width"], at: Int[Tensor, "rows"]
) -> Float[Tensor, "rows"]:
    """`x_i . y_at(i)`, summed in float64.

    Args:
        x: vectors.
        y: the vectors to pick from.
        at: which of `y` belongs to each row of `x`.
    """
    return _RowDot.apply(x, y, at)
