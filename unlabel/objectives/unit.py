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


def number(value: float | Tensor, like: Tensor) -> Float[Tensor, ""]:
    """A number in the type of sums where `like` is, filled there: a copy would make one wait."""
    if isinstance(value, Tensor):
        return value.to(like.device, wide(like))
    return torch.full((), value, dtype=wide(like), device=like.device)


def _slices(x: Tensor) -> Iterator[slice]:
    high = max(1, NUMBERS // x.shape[1]) if x.device.type == "cpu" else 2**16
    return (slice(top, min(top + high, len(x))) for top in range(0, len(x), high))


def _exact(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows at a time: which, and a copy of them in float64 to write over."""
    # The same few pages every time: memory asked for anew costs more than the arithmetic.
    room: Tensor | None = None
    for r in _slices(x):
        if room is None:
            room = torch.empty(r.stop - r.start, x.shape[1], dtype=wide(x), device=x.device)
        yield r, room[: r.stop - r.start].copy_(x[r])


class _Unit(Function):
    # y = x s/|x|, so with u = x/|x|: dx = s/|x| (g - u (u.g)) and ds = sum u.g
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        norm = torch.empty(len(x), 1, dtype=wide(x), device=x.device)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        for r, exact in _exact(x):
            length = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
            norm[r] = length.masked_fill_(length == 0, 1.0)
            y[r] = exact.mul_(scale / length)
        ctx.save_for_backward(x, norm, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, norm, scale = ctx.saved_tensors
        dx, ds = torch.empty_like(x), torch.zeros_like(scale)
        for r in _slices(x):
            y, slope, by = x[r].to(g.dtype), g[r], scale / norm[r]
            along = (y * slope).sum(1, keepdim=True, dtype=norm.dtype) / norm[r]
            ds += along.sum()
            away = (along / norm[r] * by).to(g.dtype)
            dx[r] = (slope * by.to(g.dtype)).addcmul_(y, away, value=-1)
        return dx, ds, None


class _RowDot(Function):
    # out_i = x_i . y_at(i)
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, at: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, at)
        return dots(x, y, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, y, at = ctx.saved_tensors
        dx, dy = torch.zeros_like(x), torch.zeros_like(y)
        add_slopes_of_dots(dx, dy, g.to(x.dtype), x, y, at)
        return dx, dy, None


def dots(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """`row_dot` without its gradient."""
    out = torch.empty(len(x), dtype=wide(x), device=x.device)
    for r, exact in _exact(x):
        out[r] = exact.mul_(y.index_select(0, at[r])).sum(1)
    return out


def add_slopes_of_dots(dx: Tensor, dy: Tensor, g: Tensor, x: Tensor, y: Tensor, at: Tensor) -> None:
    """Add to `dx` and `dy`, which may be one tensor, the gradient `g` of `dots` times theirs."""
    for r in _slices(x):
        dx[r].addcmul_(y.index_select(0, at[r]).to(dx.dtype), g[r, None])
        dy.index_add_(0, at[r], x[r] * g[r, None])


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
    return _Unit.apply(x, number(scale, x), dtype)


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
