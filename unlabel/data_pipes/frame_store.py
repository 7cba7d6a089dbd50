"""Single frames by their place in the run."""

from pathlib import Path
from typing import Any, Literal

from unlabel.data_pipes.kept_frames import Keep
from unlabel.data_pipes.video_data import VideoData
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.videos import read_frames

__all__ = ["FrameStore"]


class FrameStore(VideoStore):
    """Single frames: pictures, and frames of videos; an item is a clip of one frame.

    Args:
        data: what `read_frames` or `read_videos` gave, or what `read_frames` takes.
        size: as for `VideoStore`.
        hop: seconds between the frames taken of a video; None draws one of each video.
        start: as for `VideoStore`, where `hop` is None.
        fit: as for `VideoStore`.
        seed: of the run.
        cache_bytes: as for `VideoStore`.
        cache: as for `VideoStore`.
    """

    def __init__(
        self,
        data: VideoData | Any,
        *,
        size: int | tuple[int, int] = 128,
        hop: float | None = None,
        start: Literal["random", "even", "motion"] = "random",
        fit: Literal["cover", "stretch"] = "cover",
        seed: int = 0,
        cache_bytes: int = 1 << 31,
        cache: str | Path | None = None,
    ):
        if not isinstance(data, VideoData):
            data = read_frames(data, keep=Keep.of(size, fit=fit, limit=cache_bytes))
        super().__init__(
            data,
            size=size,
            frames=1,
            hop=hop,
            start=start,
            fit=fit,
            seed=seed,
            cache_bytes=cache_bytes,
            cache=cache,
        )
