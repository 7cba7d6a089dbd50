"""Which frames of a video make a clip: arithmetic on counts and seconds, nothing is decoded."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

Places = Int64[np.ndarray, "picked"]


STEPS = ("stride", "fps", "duration")  # of which one says how far apart the frames of a clip lie


@dataclass(frozen=True)
class Sampling:
    """How clips lie in their videos; one of `stride`, `fps` and `duration` sets the step.

    Args:
        frames: of a clip.
        stride: frames of the video from one frame of the clip to the next.
        fps: frames of the clip a second, whatever the video's rate.
        duration: seconds that a clip lasts, its frames evenly in it.
        spread: `"dense"`, a window of the video at that step, or `"uniform"`, one frame from each
            of `frames` equal parts of the whole video (TSN's sampling).
        start: where clips lie: `"random"`, `"even"` (the clips of a video evenly over it, the same
            in every epoch), or `"motion"` (drawn in proportion to the optical flow in the window).
        short: what becomes of a video shorter than a clip: `"pad"` gives the frames there are, and
            the batch marks the missing ones; `"loop"` starts again from its first frame; `"skip"`
            leaves it out.

    Raises:
        ValueError: numbers out of range, more than one step, or unknown words.
    """

    frames: int = 16
    stride: int | None = None
    fps: float | None = None
    duration: float | None = None
    spread: Literal["dense", "uniform"] = "dense"
    start: Literal["random", "even", "motion"] = "random"
    short: Literal["pad", "loop", "skip"] = "pad"

    def __post_init__(self):
        given = {k: getattr(self, k) for k in STEPS}
        given = {k: v for k, v in given.items() if v is not None}
        if len(given) > 1:
            raise ValueError(f"Give one of stride, fps and duration, but {', '.join(given)} came.")
        for name, value in (("frames", self.frames), *given.items()):
            if value <= 0:
                raise ValueError(f"{name} is above 0, but {value} came.")
        for name, words in (
            ("spread", ("dense", "uniform")),
            ("start", ("random", "even", "motion")),
            ("short", ("pad", "loop", "skip")),
        ):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is one of {words}, but {getattr(self, name)!r} came.")
        if self.spread == "uniform" and (given or self.start == "motion"):
            raise ValueError(
                "spread='uniform' takes frames of the whole video; it has no step and no motion."
            )

    @property
    def by_clock(self) -> bool:
        """Whether the step is one of seconds."""
        return self.fps is not None or self.duration is not None

    def step(self, fps: float) -> float:
        """Frames of a video of this rate from one frame of the clip to the next."""
        if self.fps is not None:
            return fps / self.fps
        if self.duration is not None:
            return self.duration * fps / self.frames
        return float(self.stride or 1)

    def span(self, fps: float) -> float:
        """Frames of the video from the first of a clip to the one after its last."""
        return (self.frames - 1) * self.step(fps) + 1

    def fits(self, count: int, fps: float) -> bool:
        """Whether a video of `count` frames has all frames of a clip."""
        return self.spread == "uniform" or int(np.ceil(self.span(fps) - 1e-6)) <= count


def window(sampling: Sampling, start: float, count: int, fps: float) -> Places:
    """Places of the frames of a dense clip.

    Args:
        sampling: how clips lie.
        start: frame where it begins.
        count: frames of the video.
        fps: of the video.

    Returns:
        All frames of the clip, or those that a shorter video has, see `Sampling.short`.
    """
    # The small number keeps 3 x 1/3 from being 0.999....
    offsets = np.floor(start + np.arange(sampling.frames) * sampling.step(fps) + 1e-6)
    places = offsets.astype(np.int64)
    return places % count if sampling.short == "loop" else places[places < count]


def spread_out(
    frames: int, count: int, within: Float[np.ndarray, "frames"] | None = None
) -> Places:
    """One place from each of `frames` equal parts of a video.

    Args:
        frames: of the clip.
        count: of the video.
        within: where in its part each frame lies, 0 to 1; None for the middle.

    Reference:
        Wang et al. 2016, "Temporal Segment Networks", section 3.1.
    """
    shares = np.full(frames, 0.5) if within is None else within
    places = np.floor((np.arange(frames) + shares) * count / frames).astype(np.int64)
    return np.minimum(places, count - 1)


def even_start(clip: int, clips: int, room: float) -> float:
    """Where one of several evenly lying clips begins; a lone one lies in the middle.

    Args:
        clip: which.
        clips: how many.
        room: frames by which the video is longer than a clip.
    """
    return max(room, 0.0) * (0.5 if clips == 1 else clip / (clips - 1))


def motion_start(motion: Float[np.ndarray, "count"], span: int, chance: float) -> int:
    """A window's first frame, drawn in proportion to the mean motion in the window.

    Args:
        motion: of each frame to the next one.
        span: frames of a window.
        chance: the random number, from 0 to 1.

    Reference:
        Misra et al. 2016, "Shuffle and Learn", section 3.1 (frames of high motion).
    """
    inside = max(span - 1, 1)  # changes between the frames of the window
    if len(motion) < span:
        return 0
    sums = np.concatenate([[0.0], np.cumsum(motion, dtype=np.float64)])
    starts = np.arange(len(motion) - span + 1)
    weights = sums[starts + inside] - sums[starts]
    chances = np.cumsum(np.maximum(weights, 0) + 1e-9)
    return int(np.searchsorted(chances, chance * chances[-1], side="right"))


__all__ = ["STEPS", "Sampling", "even_start", "motion_start", "spread_out", "window"]
