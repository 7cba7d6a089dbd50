"""A picture as another camera would see it: depth, motion, and how far two pictures differ.

Pure functions. Pictures are `(batch, colours, rows, columns)` from 0 to 1. A camera is
`(fx, fy, cx, cy)`, in shares of the picture's width and height, so that it fits any size. Points
are to the right, down and forward.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Camera = tuple[float, float, float, float]
Pictures = Float[Tensor, "batch colors rows columns"]
Maps = Float[Tensor, "batch 1 rows columns"]


class Motion(NamedTuple):
    """How a camera turned and moved: what was at p is now at `turn p + shift`.

    Attributes:
        turn: `(batch, 3, 3)`.
        shift: `(batch, 3)`.
    """

    turn: Float[Tensor, "batch 3 3"]
    shift: Float[Tensor, "batch 3"]

    @classmethod
    def of(cls, numbers: Float[Tensor, "batch 6"]) -> "Motion":
        """Of an axis times an angle, and a shift; zeros are no motion."""
        (x, y, z), shift = numbers[:, :3].unbind(1), numbers[:, 3:]
        none = torch.zeros_like(x)
        cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], 1).view(-1, 3, 3)
        return cls(torch.linalg.matrix_exp(cross), shift)

    def back(self) -> "Motion":
        """The way back."""
        return Motion(self.turn.mT, -(self.turn.mT @ self.shift[..., None])[..., 0])


def pinhole(field: float, shape: tuple[int, int]) -> Camera:
    """The camera of square pixels that sees `field` degrees from left to right."""
    rows, columns = shape
    fx = 0.5 / math.tan(math.radians(field / 2))
    return fx, fx * columns / rows, 0.5, 0.5


def depth_of(disparity: Maps, near: float, far: float) -> Maps:
    """Depth from a disparity of 0 to 1: `1 / (1/far + (1/near - 1/far) disparity)`.

    0 is `far`, 1 is `near`. Reference: Godard et al. 2019, arXiv 1806.01260, authors' code
    `layers.py`.
    """
    return 1 / (1 / far + (1 / near - 1 / far) * disparity)


def warp(source: Pictures, depth: Maps, motion: Motion, camera: Camera) -> Pictures:
    """What the source looks like from the target's place.

    Each pixel of the target is moved to its depth, then to where it is for the source's camera, and
    takes the colour there, bilinearly; past the edge, that of the edge. No motion gives the source.

    Args:
        source: picture of the source.
        depth: of the target's pixels.
        motion: from the target to the source.
        camera: of both.
    """
    fx, fy, cx, cy = camera
    rows, columns = depth.shape[2:]
    at = {"device": depth.device, "dtype": depth.dtype}
    y = ((torch.arange(rows, **at) + 0.5) / rows - cy) / fy
    x = ((torch.arange(columns, **at) + 0.5) / columns - cx) / fx
    ray = torch.stack(
        [x.expand(rows, -1), y[:, None].expand(-1, columns), torch.ones_like(depth[0, 0])]
    )
    point = motion.turn @ (depth * ray).flatten(2) + motion.shift[:, :, None]
    # Behind the camera nothing is seen: the edge stands for it.
    ahead = point[:, 2].clamp(min=1e-3)
    there = torch.stack([fx * point[:, 0] / ahead + cx, fy * point[:, 1] / ahead + cy], 2)
    grid = (2 * there - 1).unflatten(1, (rows, columns))
    return F.grid_sample(source, grid, padding_mode="border", align_corners=False)


def ssim(x: Pictures, y: Pictures) -> Pictures:
    """Structural similarity of the 3 x 3 pixels around each; 1 where they are alike.

    `(2 mx my + c1)(2 cov + c2) / ((mx^2 + my^2 + c1)(vx + vy + c2))`, c1 = 0.01^2, c2 = 0.03^2.

    Reference: Wang et al. 2004, equation 13.
    """
    mean = lambda a: F.avg_pool2d(F.pad(a, (1, 1, 1, 1), mode="reflect"), 3, 1)  # noqa: E731
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mx * my + c1) * (2 * cov + c2)
    return alike / ((mx * mx + my * my + c1) * (vx + vy + c2))


def photometric(
    x: Pictures, y: Pictures, *, alpha: float = 0.85
) -> Float[Tensor, "batch rows columns"]:
    """`alpha (1 - SSIM) / 2 + (1 - alpha) |x - y|`, mean over colours; the same picture gives 0.

    Args:
        x: one picture.
        y: another.
        alpha: share of the structure.

    Reference: Godard et al. 2019, arXiv 1806.01260, section 3.1.
    """
    structure = ((1 - ssim(x, y)) / 2).clamp(0, 1)
    return (alpha * structure + (1 - alpha) * (x - y).abs()).mean(1)


def smoothness(disparity: Maps, picture: Pictures) -> Float[Tensor, "batch"]:
    """`mean |dx d| exp(-|dx I|) + mean |dy d| exp(-|dy I|)`, d the disparity over its mean.

    Constant disparity gives 0, and an edge costs less where the picture has one. |dI| is the mean
    over the colours.

    Reference: Godard et al. 2019, arXiv 1806.01260, section 3.1.
    """
    d = disparity / (disparity.mean((2, 3), keepdim=True) + 1e-7)
    found = torch.zeros_like(d[:, 0, 0, 0])
    for dim in (2, 3):
        edge = picture.diff(dim=dim).abs().mean(1, keepdim=True)
        found = found + (d.diff(dim=dim).abs() * torch.exp(-edge)).mean((1, 2, 3))
    return found


__all__ = ["Camera", "Motion", "depth_of", "photometric", "pinhole", "smoothness", "ssim", "warp"]
