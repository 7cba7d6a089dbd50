"""Views that read the motion of a clip: three moments in order or not, and the flow itself."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.draws import arguments
from unlabel.modalities.triples import draw_triple, is_told, options
from unlabel.modalities.visual_fit import pick

# Pictures are compared at this size: noise of single pixels is no motion.
_SMALL = 16


def triple(clip: Clip, batch: Batch, spec: ViewSpec, *, cell: Cell, **_: Any) -> Clip:
    """One of three pictures that come in the order of time or not; the target says whether.

    The clip is cut into moments of as many frames as one token needs, and five of them are drawn,
    those with much motion more often: the magnitude of the flow where the data has it (partner
    `flow`), else the difference of successive frames. The three views of one draw belong together.
    No target (`is_target` False) where fewer than five moments exist, or where a and c, or c and
    e, look alike: the mean squared difference of their pixels, from 0 to 1 and averaged over areas
    of a 16th of the picture, is not above `unlike`.

    Args of the spec:
        place: which of the three, 0 to 2 (default 0).
        negatives: share of triples that are not in order (default 0.75).
        unlike: see above (default 1e-4, a difference of a hundredth).
        frames: of a moment (default: those of a token).

    Raises:
        ValueError: no clip of the batch has five moments.

    Reference: Misra et al. 2016, arXiv 1603.08561, section 3.
    """
    args = options(spec, frames=cell.frames)
    long, times = int(args["frames"]), clip.frames.shape[1]
    moments = times // long
    if moments < 5:
        raise ValueError(
            f"View 'triple' draws five moments of {long} frames each, but the clips have {times} "
            "frames: read longer clips."
        )
    kept = {"pattern": "b (m t) ... -> b m t ...", "m": moments}
    by_moment = lambda x: rearrange(x[:, : moments * long], **kept)  # noqa: E731
    exists = by_moment(clip.mask).all(2)
    small = thumbnails(clip.frames)
    motion = by_moment(motion_of(small, clip.mask, batch, spec)).mean(2)
    picked = draw_triple(
        batch, spec, motion, exists, place=int(args["place"]), negatives=args["negatives"]
    )
    told = is_told(by_moment(small).mean(2), picked, args["unlike"])
    at = picked.chosen[:, None] * long + torch.arange(long, device=motion.device)
    is_target = told & (exists.sum(1, keepdim=True) >= 5)
    return replace(pick(clip, at), target=picked.target, is_target=is_target)


def thumbnails(
    frames: Shaped[Tensor, "batch times channels rows columns"],
) -> Float[Tensor, "batch times values"]:
    """Each frame as the mean colours of 16 x 16 areas."""
    flat = rearrange(frames, "b t c h w -> (b t) c h w")
    scale = 1 if frames.is_floating_point() else 255
    small = F.adaptive_avg_pool2d(flat.float() / scale, _SMALL)
    return rearrange(small, "(b t) c h w -> b t (c h w)", b=len(frames))


def motion_of(
    small: Float[Tensor, "batch times values"],
    mask: Bool[Tensor, "batch times"],
    batch: Batch,
    spec: ViewSpec,
) -> Float[Tensor, "batch times"]:
    """How much moves at each frame: mean length of its flow, or how far its neighbours are off."""
    flow = batch.partners.get("flow")
    if flow is not None and spec.partner is None:
        steps = flow["flow"].float().norm(dim=2).flatten(2).mean(2)[:, : small.shape[1]]
        return F.pad(steps, (0, small.shape[1] - steps.shape[1]))
    # From the last frame to padding nothing moves.
    steps = small.diff(dim=1).abs().mean(2) * (mask[:, 1:] & mask[:, :-1])
    return (F.pad(steps, (1, 0)) + F.pad(steps, (0, 1))) / 2


def motion(clip: Clip, batch: Batch, spec: ViewSpec, **_: Any) -> Clip:
    """The clip as it is, with what its optical flow says as the target.

    The target is the clip's flow descriptor, `(batch, 1, values)`, see `flow_descriptor`. Flow
    comes with the data, as partner `flow`; a link that mirrors or turns the frames, or runs them
    backwards, would leave it as it was.

    Args of the spec:
        directions: into which flow is sorted (default 8).
        areas: into which rows and columns are cut (default 2).

    Raises:
        ValueError: the data has no flow.
    """
    args = arguments(spec, directions=8, areas=2)
    found = flow_descriptor(*_flow(batch, spec), **args)
    return replace(clip, target=rearrange(found, "b d -> b 1 d"), is_target=None)


def flow(clip: Clip, batch: Batch, spec: ViewSpec, *, dtype: torch.dtype, **_: Any) -> Clip:
    """The optical flow of the clip in place of its pictures: a side of it without any colour.

    Red is how far a pixel moves to the right and green how far down, both 1/2 where it rests, and
    blue the length of the two. Flow comes with the data, as partner `flow`; it is the first link.

    Args of the spec:
        reach: pixels from one frame to the next that are full colour (default 8).

    Raises:
        ValueError: the data has no flow, or frames were picked or cut before.

    Reference: Tian et al. 2019 (CMC), arXiv 1906.05849, section 4.2.
    """
    reach = arguments(spec, reach=8.0)["reach"]
    if clip.picked is not None or clip.is_sized:
        raise ValueError("View 'flow' shows the flow of all frames as stored; put it first.")
    found, mask = _flow(batch, spec)
    moved = found.to(dtype) / reach
    length = torch.hypot(*moved.unbind(2))[:, :, None]
    shown = torch.cat([(moved + 1) / 2, length], 2).clamp(0, 1)
    return replace(clip, frames=shown, mask=mask)


def _flow(batch: Batch, spec: ViewSpec) -> tuple[Tensor, Tensor]:
    """The flow of the samples, and True at times that exist."""
    if "flow" not in batch.partners:
        has = ", ".join(batch.partners) or "none"
        raise ValueError(
            f"View {spec.name!r} needs the optical flow of each sample as its partner 'flow', but "
            f"the data's partners are: {has}. Prepare the data with flow."
        )
    return batch.partners["flow"]["flow"].float(), batch.partners["flow"]["mask"]


def flow_descriptor(
    flow: Float[Tensor, "batch times 2 rows columns"],
    mask: Bool[Tensor, "batch times"],
    *,
    directions: int,
    areas: int,
) -> Float[Tensor, "batch values"]:
    """Where and in which direction a clip moves: a histogram of oriented flow in each area.

    Each flow vector adds its length to its two nearest directions, shared by the angle; mean over
    the pixels of an area and the times, and then the square root, so that fast clips do not
    outweigh all others.

    Args:
        flow: pixels to the right and down.
        mask: True at times that exist.
        directions: of the histogram.
        areas: into which rows and columns are cut.

    Reference: Laptev et al. 2008, Learning realistic human actions from movies, section 3.2.
    """
    x, y = flow.unbind(2)
    turn = torch.atan2(y, x) * (directions / (2 * torch.pi)) % directions
    low = turn.floor()
    # Floor and remainder may round to a whole turn.
    place, part = low.long() % directions, turn - low
    length = torch.hypot(x, y)
    bins = length.new_zeros(*length.shape, directions)
    bins.scatter_add_(-1, place[..., None], (length * (1 - part))[..., None])
    bins.scatter_add_(-1, (place[..., None] + 1) % directions, (length * part)[..., None])
    real = mask[:, :, None, None, None]
    mean = (bins * real).sum(1) / real.sum(1).clamp(min=1)
    pooled = F.adaptive_avg_pool2d(rearrange(mean, "b h w d -> b d h w"), areas)
    return rearrange(pooled, "b d h w -> b (h w d)").sqrt()


__all__ = ["flow", "flow_descriptor", "motion", "motion_of", "thumbnails", "triple"]
