"""Views that cut pieces out of pictures, each a sample of its own, and put pieces together."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.draws import arguments, draw
from unlabel.modalities.order import distant_orders
from unlabel.modalities.visual_geometry import cut_box, random_frames

_BESIDE = "beside"


def piece(
    clip: Clip,
    batch: Batch,
    spec: ViewSpec,
    *,
    frames: int,
    size: int,
    dtype: torch.dtype,
    cell: Cell,
    resizes: bool,
    **_: Any,
) -> Clip:
    """Cut one piece out of the picture, the same from all frames; later links draw for it alone.

    `grid` x `grid` square pieces lie in the picture's middle square, row by row, with gaps and room
    to move: their side is `1 / (grid + (grid - 1) gap + 2 jitter)` of the square's. The pieces of
    one draw belong together: they share the frames, the order and, in a chain, the links before.
    As the first link it cuts from the pictures as stored, else from what is left of them.

    Args of the spec:
        grid: pieces in a row and in a column (default 3).
        place: which one, from 0; `beside` for one drawn evenly from all but the middle one, whose
            number among them becomes the target (default 0).
        orders: put the pieces in one of as many orders that lie far apart, and show what lies in
            the place; the number of the order becomes the target, 0 for as they were (default 0:
            no order is drawn).
        gap: between two pieces, in shares of their side; below 0 they overlap (default 0).
        jitter: how far each is moved at random, likewise, each way (default 0).
        scale: rows and columns of the result in shares of the encoder's, rounded to whole tokens
            (default the piece's side, so that its pixels stay as large). A model that takes
            pictures of one size only gets that.

    Raises:
        ValueError: a grid, place, number of orders, gap or jitter that cannot be.

    Reference: Doersch et al. 2015, arXiv 1505.05192, section 4.1; Noroozi & Favaro 2016, arXiv
    1603.09246, section 3; Henaff et al. 2020, arXiv 1905.09272, section 3.
    """
    args = _options(spec, place=0, orders=0)
    clip = random_frames(clip, batch, spec, frames, dtype)
    shown, target = _shown(batch, spec, args)
    box = _boxes(draw(batch, spec, 2 * args["grid"] ** 2), shown, clip.frames.shape[3:], args)
    side = _side(args, size, cell, resizes)
    return replace(_cut(clip, batch, shown, box, side, args), target=target)


def tiles(
    clip: Clip,
    batch: Batch,
    spec: ViewSpec,
    *,
    frames: int,
    size: int,
    dtype: torch.dtype,
    cell: Cell,
    resizes: bool,
    **_: Any,
) -> Clip:
    """Cut all pieces out of each picture, each a row of its own, those of a sample side by side.

    What follows draws for each piece alone; `montage` makes samples of them again.

    Args of the spec: grid (default 2), gap, jitter and scale, see `piece`.
    """
    args = _options(spec, grid=2)
    clip = random_frames(clip, batch, spec, frames, dtype)
    count = args["grid"] ** 2
    shown = torch.arange(count, device=clip.frames.device).repeat(len(clip.frames))
    draws = draw(batch, spec, 2 * count).repeat_interleave(count, 0)
    box = _boxes(draws, shown, clip.frames.shape[3:], args)
    given = {f.name: getattr(clip, f.name) for f in fields(clip)}
    many: dict[str, Any] = {
        k: x.repeat_interleave(count, 0) if isinstance(x, Tensor) else x for k, x in given.items()
    }
    own = replace(batch, ordinal=batch.ordinal.repeat_interleave(count, 0))
    return _cut(Clip(**many), own, shown, box, _side(args, size, cell, resizes), args)


def montage(
    clip: Clip, batch: Batch, spec: ViewSpec, *, size: int, cell: Cell, **about: Any
) -> Clip:
    """Put the pieces of the whole batch together at random, as many pictures as there were.

    The target says what each place of a picture shows: the ordinal of the sample, and the piece's
    number in it, `(batch, grid^2, 2)`. Who lies beside whom depends on the batch and no more on
    the sample: micro-batches and ranks make pictures of their own samples alone.

    Args of the spec: grid (default 2, as `tiles` has it).

    Raises:
        ValueError: `tiles` of that grid are not before it, or the picture does not divide by it.

    Reference: Chen et al. 2021 (jigsaw clustering), arXiv 2104.00323, section 3.1.
    """
    grid = int(arguments(spec, grid=2)["grid"])
    if clip.ordinal is None or len(clip.frames) % grid**2:
        raise ValueError(
            f"'montage' puts pieces of {grid} x {grid} together: put 'tiles' of that grid before "
            "it."
        )
    if size % (grid * math.lcm(cell.rows, cell.columns)):
        raise ValueError(
            f"A montage of {grid} x {grid} pieces needs pictures of whole tokens a piece, but "
            f"{size} pixels are not {grid} times a multiple of {cell.rows} x {cell.columns}."
        )
    order = draw(batch, spec, 1)[:, 0].argsort(stable=True)
    whole = torch.tensor([[0.0, 0, 1, 1]], device=order.device).to(clip.frames)
    small = cut_box(clip.frames, whole.expand(len(order), -1), size // grid)[order]
    joined = rearrange(small, "(b y x) t c h w -> b t c (y h) (x w)", y=grid, x=grid)
    by_picture = lambda x: x[order].unflatten(0, (-1, grid**2))  # noqa: E731
    came = by_picture(clip.ordinal)
    # Frames that one of the pieces lacks are in none.
    return Clip(
        joined,
        by_picture(clip.mask).all(1),
        target=torch.stack([came // grid**2, came % grid**2], 2),
        picked=by_picture(clip.picked)[:, 0] if clip.picked is not None else None,
        is_sized=True,
    )


def standardize(
    clip: Clip, batch: Batch, spec: ViewSpec, *, mean: Tensor, std: Tensor, **_: Any
) -> Clip:
    """Give each channel of a sample the data's mean and deviation: its own would tell it apart.

    Reference: Noroozi & Favaro 2016, arXiv 1603.09246, section 3.3.
    """
    arguments(spec)
    frames = clip.frames
    real = clip.mask[:, :, None, None, None].to(frames).expand_as(frames)
    count = real.sum((1, 3, 4), keepdim=True).clamp(min=1)
    own = (frames * real).sum((1, 3, 4), keepdim=True) / count
    variance = ((frames - own).square() * real).sum((1, 3, 4), keepdim=True) / count
    scale = std.to(frames)[:, None, None] / (variance + 1e-5).sqrt()
    return replace(clip, frames=mean.to(frames)[:, None, None] + (frames - own) * scale)


def _options(spec: ViewSpec, **more: Any) -> dict[str, Any]:
    args = arguments(spec, **{"grid": 3, "gap": 0.0, "jitter": 0.0, "scale": None, **more})
    grid, gap, jitter, place = args["grid"], args["gap"], args["jitter"], args.get("place", 0)
    if grid < 1 or gap <= -1 or jitter < 0:
        raise ValueError(
            f"Pieces need a grid of at least 1, a gap above -1 and a jitter of at least 0, but "
            f"{grid}, {gap} and {jitter} came."
        )
    if place != _BESIDE and not (isinstance(place, int) and 0 <= place < grid**2):
        raise ValueError(
            f"place of view {spec.name!r} is 0 to {grid**2 - 1} or 'beside', but {place!r} came."
        )
    if place == _BESIDE and (grid % 2 == 0 or grid < 3 or args["orders"]):
        raise ValueError(
            f"A piece beside the middle one needs an odd grid of 3 or more and no orders, but "
            f"grid is {grid} and orders is {args['orders']}."
        )
    return args


def _shown(
    batch: Batch, spec: ViewSpec, args: Mapping[str, Any]
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch 1"] | None]:
    """Which piece of each sample is shown, and what was drawn."""
    grid, place, orders = args["grid"], args["place"], args["orders"]
    drawn = draw(batch, spec, 1, use=2)
    if place == _BESIDE:
        which = (drawn * (grid**2 - 1)).long()
        return (which + (which >= grid**2 // 2))[:, 0], which
    if not orders:
        return torch.full_like(batch.ordinal, place), None
    which = (drawn * orders).long()
    return distant_orders(grid**2, orders).to(which.device)[which[:, 0], place], which


def _boxes(
    draws: Float[Tensor, "batch values"],
    shown: Int[Tensor, "batch"],
    shape: tuple[int, ...],
    args: Mapping[str, Any],
) -> Float[Tensor, "batch 4"]:
    """Where each piece lies: centre y and x, half height and half width, from -1 to 1."""
    grid, jitter = args["grid"], args["jitter"]
    side = 1 / (grid + (grid - 1) * args["gap"] + 2 * jitter)
    own = draws.unflatten(1, (-1, 2)).take_along_dim(shown[:, None, None], 1)[:, 0]
    number = torch.stack([shown // grid, shown % grid], 1)
    middle = side * (jitter + 0.5 + (1 + args["gap"]) * number + (2 * own - 1) * jitter)
    square = min(shape) / torch.tensor(shape, device=draws.device, dtype=draws.dtype)
    return torch.cat([(2 * middle - 1) * square, side * square.expand(len(shown), -1)], 1)


def _side(args: Mapping[str, Any], size: int, cell: Cell, resizes: bool) -> int:
    """Pixels of a piece's side, whole tokens."""
    grid, step = args["grid"], math.lcm(cell.rows, cell.columns)
    scale = args["scale"] or 1 / (grid + (grid - 1) * args["gap"] + 2 * args["jitter"])
    return max(1, round(scale * size / step)) * step if resizes else size


def _cut(
    clip: Clip,
    batch: Batch,
    shown: Int[Tensor, "batch"],
    box: Float[Tensor, "batch 4"],
    side: int,
    args: Mapping[str, Any],
) -> Clip:
    y, x, height, width = box.T[:, :, None]
    clip = clip.moved(*((1 + edge) / 2 for edge in (y - height, y + height, x - width, x + width)))
    cut = cut_box(clip.frames, box.to(clip.frames), side)
    own = batch.ordinal * args["grid"] ** 2 + shown
    return replace(clip, frames=cut, is_sized=True, ordinal=own)


__all__ = ["montage", "piece", "standardize", "tiles"]
