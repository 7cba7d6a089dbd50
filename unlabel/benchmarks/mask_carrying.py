"""Carrying masks from frame to frame: by the affinity of features, along flow, or not at all."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from unlabel.data_pipes.faults import library

Frames = UInt8[np.ndarray, "times rows columns 3"]
Masks = Bool[np.ndarray, "times rows columns"]
Carry = Callable[[Frames, Masks], Masks]  # frames, and masks of which the first may be read
STRIDE = 8  # pixels of a cell, of colours
LAB_TEMPERATURE = 1.0  # of half the squared distances of Lab colours


@dataclass(frozen=True)
class Affinity:
    """How masks are copied.

    Attributes:
        last: frames before this one that are looked at, beside the first.
        radius: cells around a place that are looked at.
        top: most alike cells of all these frames that count.
        temperature: of the softmax over them.
    """

    last: int = 4
    radius: int = 6
    top: int = 10
    temperature: float = 0.07

    def __post_init__(self):
        """Refuse what copies nothing."""
        for name in ("last", "radius", "top"):
            if getattr(self, name) < (name != "last"):
                raise ValueError(f"{name} is too small: {getattr(self, name)} came.")
        if self.temperature <= 0:
            raise ValueError(f"temperature is above 0, but {self.temperature} came.")


def affinity(
    query: Float[Tensor, "rows columns width"],
    keys: Float[Tensor, "refs rows columns width"],
    radius: int,
) -> Float[Tensor, "rows columns candidates"]:
    """Minus half the squared distance to every cell around, -inf outside of the picture.

    Of unit vectors, that is their cosine less 1.

    Args:
        query: of one frame.
        keys: of the frames looked at; candidates are counted frame, row, column.
        radius: of the square looked at.
    """
    rows, columns, _ = query.shape
    side = 2 * radius + 1
    padded = F.pad(keys, (0, 0, 0, 0, radius, radius))
    # For each row of the query, the rows of keys around it, as one block: few products in vain.
    near = padded.unfold(1, side, 1)  # (refs, rows, columns, width, side)
    near = rearrange(near, "r y x d s -> r y (s x) d")
    dots = torch.einsum("yxd,rykd->ryxk", query, near) - 0.5 * near.square().sum(-1)[:, :, None]
    dots = rearrange(dots, "r y x (s k) -> r y x s k", s=side)
    dots = dots - 0.5 * query.square().sum(-1)[None, :, :, None, None]
    at = torch.arange(columns)[:, None] + torch.arange(-radius, radius + 1)
    index = at.clamp(0, columns - 1)[None, None, :, None, :].to(dots.device)
    found = dots.gather(4, index.expand(*dots.shape[:4], side))
    across = (at >= 0) & (at < columns)
    down = torch.arange(rows)[:, None] + torch.arange(-radius, radius + 1)
    inside = ((down >= 0) & (down < rows))[:, None, :, None] & across[None, :, None, :]
    found = found.masked_fill(~inside.to(found.device), -torch.inf)
    return rearrange(found, "r y x s k -> y x (r s k)")


def carried(
    features: Float[Tensor, "times rows columns width"],
    first: Float[Tensor, "rows columns"],
    how: Affinity,
) -> Float[Tensor, "times rows columns"]:
    """The share of the object in each cell of all frames, from that of the first frame.

    Args:
        features: of every frame.
        first: share of the object in each cell of the first frame.
        how: see `Affinity`.

    Reference: Vondrick et al. 2018 (colorization), arXiv 1806.09594, section 3.2; the first and
    the last frames, radius and top as in Jabri et al. 2020, arXiv 2006.14613, appendix.
    """
    shares = [first]
    for t in range(1, len(features)):
        places = [0, *range(max(1, t - how.last), t)]
        alike = affinity(features[t], features[places], how.radius)
        values = torch.stack([_around(shares[p], how.radius) for p in places], dim=2).flatten(2)
        best, index = alike.topk(min(how.top, alike.shape[-1]), dim=-1)
        weight = (best / how.temperature).softmax(-1)
        shares.append((weight * values.gather(2, index)).sum(-1))
    return torch.stack(shares)


def _around(
    share: Float[Tensor, "rows columns"], radius: int
) -> Float[Tensor, "rows columns places"]:
    """The cells of the square around each cell, 0 outside."""
    side = 2 * radius + 1
    flat = F.unfold(share[None, None], side, padding=radius)[0]  # (places, cells)
    return rearrange(flat, "k (y x) -> y x k", y=share.shape[0])


def by_features(
    features: Callable[[Frames], Float[Tensor, "times rows columns width"]], how: Affinity
) -> Carry:
    """Masks carried by the affinity of features, at the features' resolution."""

    def carry(frames: Frames, masks: Masks) -> Masks:
        with torch.inference_mode():
            found = features(frames)
            first = torch.from_numpy(masks[:1, None].astype(np.float32)).to(found.device)
            first = F.interpolate(first, size=found.shape[1:3], mode="area")[0, 0]
            shares = carried(found, first, how)[:, None]
            shares = F.interpolate(shares, size=masks.shape[1:], mode="bilinear")
            return (shares[:, 0] > 0.5).cpu().numpy()

    return carry


def lab_features(frames: Frames) -> Float[Tensor, "times rows columns 3"]:
    """Mean Lab colour of cells of 8 x 8 pixels."""
    cv2, (rows, columns) = library("cv2", "video"), frames.shape[1:3]
    lab = [cv2.cvtColor(f.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for f in frames]
    pictures = rearrange(torch.from_numpy(np.stack(lab)), "t y x c -> t c y x")
    found = F.adaptive_avg_pool2d(pictures, (max(1, rows // STRIDE), max(1, columns // STRIDE)))
    return rearrange(found, "t c y x -> t y x c")


def first_mask(frames: Frames, masks: Masks) -> Masks:
    """The first mask, for every frame."""
    return np.repeat(masks[:1], len(frames), axis=0)


def along_flow(frames: Frames, masks: Masks) -> Masks:
    """The mask of the frame before, moved along dense optical flow (DIS, Kroeger et al. 2016)."""
    cv2 = library("cv2", "video")
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grays = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]
    at = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in frames.shape[2:0:-1])), -1)
    shares = [masks[0].astype(np.float32)]
    for before, now in pairwise(grays):
        came = at + flow.calc(now, before, None)
        shares.append(cv2.remap(shares[-1], came, None, cv2.INTER_LINEAR))
    return np.stack(shares) > 0.5


CONTROLS: dict[str, Carry] = {
    "first mask": first_mask,
    "Lab colours": by_features(lab_features, Affinity(temperature=LAB_TEMPERATURE)),
    "optical flow": along_flow,
}


__all__ = [
    "CONTROLS",
    "Affinity",
    "Carry",
    "Frames",
    "Masks",
    "affinity",
    "along_flow",
    "by_features",
    "carried",
    "first_mask",
    "lab_features",
]
