"""Monodepth: depth from clips alone, since with it a frame can be made of the next one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.reproject import (
    Camera,
    Motion,
    depth_of,
    photometric,
    pinhole,
    smoothness,
    warp,
)

Tokens = Float[Tensor, "batch width rows columns"]


class DepthDecoder(nn.Module):
    """Disparity from 0 to 1 of a frame's tokens, at several sizes, each twice as fine.

    Args:
        width: of the tokens.
        hidden: width inside.
        scales: sizes; the finest is that of the pixels.
    """

    def __init__(self, width: int, *, hidden: int, scales: int):
        super().__init__()
        wide = [width, *[hidden] * scales]
        self.inside = nn.ModuleList(
            nn.Conv2d(a, hidden, 3, padding=1, padding_mode="replicate") for a in wide[:-1]
        )
        self.leave = nn.ModuleList(
            nn.Conv2d(hidden, 1, 3, padding=1, padding_mode="replicate") for _ in range(scales)
        )

    def forward(self, tokens: Tokens, shape: tuple[int, int]) -> list[Tensor]:
        """Maps `(batch, 1, rows, columns)`, the finest first; none is coarser than the tokens."""
        found, x = [], tokens
        for i, (inside, leave) in enumerate(zip(self.inside, self.leave, strict=True)):
            halved = 2 ** (len(self.inside) - 1 - i)
            size = [max(have, -(-n // halved)) for have, n in zip(x.shape[2:], shape, strict=True)]
            x = F.elu(inside(F.interpolate(x, size=size, mode="bilinear")))
            found.append(exact(leave(x)).sigmoid())
        return found[::-1]


class MotionHead(nn.Module):
    """How the camera moved from one frame to the next, of both frames' tokens.

    Products of the two frames' features tell a shift, which is a phase between them, from what is
    seen. Without them (the authors' network sees both frames at once) 240 steps on clips of planes
    find no direction: the shift to the side correlates with the true one by 0.3, with them by 0.8.

    Args:
        width: of the tokens.
        hidden: width inside.

    Reference: products: Memisevic & Hinton 2010, Neural Computation 22, section 2.
    """

    def __init__(self, width: int, *, hidden: int):
        super().__init__()
        self.earlier, self.later = (nn.Conv2d(width, hidden, 3, padding=1) for _ in range(2))
        self.inside = nn.Sequential(
            nn.GroupNorm(1, 3 * hidden), nn.Conv2d(3 * hidden, hidden, 1), nn.ReLU()
        )
        self.leave = nn.Linear(hidden, 6)

    def forward(self, earlier: Tokens, later: Tokens) -> Motion:
        """Small at first, as in the authors' code."""
        a, b = self.earlier(earlier), self.later(later)
        inside = self.inside(torch.cat([a, b, a * b], 1)).mean((2, 3))
        return Motion.of(0.01 * exact(self.leave(inside)))


class Monodepth(Objective):
    """Monodepth2: a frame made of the frames beside it, by its depth and how the camera moved.

    From its tokens a frame gets a disparity at every pixel, and from both frames' tokens each pair
    its motion; with them the frames before and after are seen from the frame's own place, see
    `warp`. `min_s photometric(frame, warped_s)` over both, mean over the pixels, and
    `smooth * smoothness`, halved with each coarser of the `scales`, mean over them. A pixel whose
    neighbours as they are fit at least as well (a thing that moves with the camera, a camera that
    stands) counts as if nothing had moved, and teaches nothing. The same frame thrice gives 0, and
    no motion the chance level: the loss of the neighbours as they are. Depth is known up to a
    factor.

    Args:
        field: of view, degrees from left to right of the pictures as the encoder sees them.
        intrinsics: of the camera in place of `field`: fx, fy, cx and cy, in shares of width and
            height.
        stride: frames of the sample from one to the next.
        near: depth of disparity 1.
        far: depth of disparity 0.
        alpha: share of the structure in the photometric distance.
        smooth: weight of the smoothness.
        scales: sizes of the disparity.
        hidden: width of the heads.
        before: views applied before, joined by `+`, such as `"flip"`. A crop changes the field.
        after: views of what the encoder alone sees changed, such as `"jitter"`.
        args: their arguments.

    Raises:
        ValueError: a field, depths, or scales that no camera has, or an argument of a view that is
            not there.

    Reference: Godard et al. 2019, arXiv 1806.01260, section 3; authors' code `trainer.py`.
    """

    paper = "Monodepth2 (Godard et al. 2019, arXiv 1806.01260)"
    needs = frozenset({"tokens", "times", "framewise"})
    pictured = "the disparity of each frame: what is near is bright"

    def __init__(
        self,
        *,
        field: float = 60.0,
        intrinsics: Sequence[float] | None = None,
        stride: int = 1,
        near: float = 0.1,
        far: float = 100.0,
        alpha: float = 0.85,
        smooth: float = 1e-3,
        scales: int = 4,
        hidden: int = 64,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not 0 < field < 180 or not 0 < near < far or scales < 1:
            raise ValueError(
                f"field is above 0 and below 180 degrees, 0 < near < far, and there is at least "
                f"one scale, but field {field}, near {near}, far {far} and {scales} scales came."
            )
        if intrinsics is not None and (len(intrinsics) != 4 or min(intrinsics[:2]) <= 0):
            raise ValueError(
                f"intrinsics are fx, fy, cx and cy in shares of width and height, the first two "
                f"above 0, but {list(intrinsics)} came."
            )
        how = {"frames.count": 3, "frames.stride": stride, **(args or {})}
        self.views = (chain("frames", before, "pixels", after, args=how),)
        self.field, self.intrinsics = field, intrinsics
        self.near, self.far, self.alpha, self.smooth = near, far, alpha, smooth
        self.scales, self.hidden = scales, hidden

    def build(self, encoder: Encoder) -> None:
        """Make the decoder of disparity, and the head of the motion."""
        self.grid = encoder.grid[1:]
        self.decoder = DepthDecoder(encoder.width, hidden=self.hidden, scales=self.scales)
        self.motion = MotionHead(encoder.width, hidden=self.hidden)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `photometric` and `smooth`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None and seen.is_target is not None  # the view makes both
        pictures, exists = exact(seen.target), seen.is_target.flatten(1).all(1)
        first, frame, last = pictures.unbind(1)
        tokens = self.on_grid(encoding.tokens, 3)
        maps = self.decoder(tokens[:, 1], (frame.shape[2], frame.shape[3]))
        with torch.autocast(frame.device.type, enabled=False):
            tokens = tokens.to(self.motion.leave.weight.dtype)  # autocast may have narrowed them
            moved = [
                (first, self.motion(tokens[:, 0], tokens[:, 1]).back()),
                (last, self.motion(tokens[:, 1], tokens[:, 2])),
            ]
            still = self.closest([first, last], frame)
            seen_as = [self.losses(m, moved, frame, still) for m in maps]
            smooth = [
                smoothness(m, F.interpolate(frame, size=m.shape[2:], mode="area")) / 2**s
                for s, m in enumerate(maps)
            ]
        over = lambda each: global_mean(torch.stack(each).mean(0)[exists])  # noqa: E731
        return {
            "photometric": Term(over(seen_as), chance=over([still.mean((1, 2)).detach()])),
            "smooth": Term(over(smooth), self.smooth),
        }

    def losses(
        self,
        disparity: Tensor,
        moved: Sequence[tuple[Tensor, Motion]],
        frame: Tensor,
        still: Tensor,
    ) -> Float[Tensor, "batch"]:
        """Of each sample, at one scale of its disparity."""
        shape = (frame.shape[2], frame.shape[3])
        whole = F.interpolate(disparity, size=shape, mode="bilinear")
        depth = depth_of(whole, self.near, self.far)
        warped = [warp(source, depth, motion, self.camera(shape)) for source, motion in moved]
        found = self.closest(warped, frame)
        return torch.where(found < still, found, still).mean((1, 2))

    def closest(self, pictures: Sequence[Tensor], frame: Tensor) -> Float[Tensor, "batch y x"]:
        """The distance of each pixel from that picture which fits best there."""
        return torch.stack([photometric(x, frame, alpha=self.alpha) for x in pictures]).amin(0)

    def camera(self, shape: tuple[int, int]) -> Camera:
        """Of pictures of a shape."""
        if self.intrinsics is None:
            return pinhole(self.field, shape)
        fx, fy, cx, cy = self.intrinsics
        return fx, fy, cx, cy

    def on_grid(self, tokens: Tensor, times: int) -> Float[Tensor, "batch times width y x"]:
        """Tokens of so many frames as maps; tokens of padding come behind."""
        rows, columns = self.grid
        own = tokens[:, : times * rows * columns]
        return rearrange(own, "b (t y x) d -> b t d y x", y=rows, x=columns)

    def depth(
        self, encoding: Encoding, times: int, shape: tuple[int, int]
    ) -> Float[Tensor, "batch times rows columns"]:
        """The depth of every pixel of a clip, up to a factor.

        Args:
            encoding: of the clip.
            times: its frames.
            shape: rows and columns of a frame.
        """
        return depth_of(self.disparity(encoding, times, shape), self.near, self.far)

    def disparity(
        self, encoding: Encoding, times: int, shape: tuple[int, int]
    ) -> Float[Tensor, "batch times rows columns"]:
        """The finest disparity of every pixel of a clip, from 0 to 1; arguments as for `depth`."""
        tokens = self.on_grid(encoding.tokens, times).flatten(0, 1)
        return self.decoder(tokens, shape)[0][:, 0].unflatten(0, (-1, times))

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """The clip with each frame's disparity in grey, from the clip's least to its greatest."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        times, colors, *shape = seen.target.shape[1:]
        found = self.disparity(encoding, times, (shape[0], shape[1]))
        least, most = (f(found, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        grey = (found - least) / (most - least).clamp(min=1e-6)
        wide = repeat(grey.to(seen.target), "b t y x -> b t c y x", c=colors)
        return [replace(seen, target=wide)]


__all__ = ["DepthDecoder", "Monodepth", "MotionHead"]
