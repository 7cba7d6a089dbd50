"""Sets of labelled videos, the clips an encoder sees of them, and features that need no encoder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from scipy.sparse.csgraph import connected_components

from unlabel.benchmarks.labelled import Labelled, labelled, read_labelled, set_folder
from unlabel.data_pipes.synthetic_video import embedded_videos
from unlabel.data_pipes.video import VIDEO_SUFFIXES, read_clip

SMALL = 16  # rows and columns of the pictures that controls compare
ALIKE = 0.8  # correlation of two small pictures from which on they show one scene
SETS = ("embedded", "weizmann9", "surveillance_fights", "multiview_gestures")
Frames = UInt8[np.ndarray, "times rows columns 3"]
Small = Float32[np.ndarray, "times 16 16"]


def load_actions(name: str, folder: str | Path | None = None, *, seed: int = 0) -> Labelled:
    """A set of labelled videos, with splits that keep persons and scenes apart.

    Args:
        name: one of `SETS`, or what `read_labelled` takes.
        folder: that has the named sets; default `$UNLABEL_DATA/video`. `embedded` is kept in the
            user's cache directory.
        seed: of folds that are drawn.

    Raises:
        FileNotFoundError: no such set.
    """
    if name == "embedded":
        return _embedded()
    if name not in SETS:
        return read_labelled(name, VIDEO_SUFFIXES, what="video", seed=seed)
    place = set_folder(name, "video", folder)
    return {"weizmann9": _weizmann, "surveillance_fights": _fights}.get(name, _gestures)(
        place, seed
    )


def _embedded() -> Labelled:
    parts = {s: embedded_videos(split=s) for s in ("train", "test")}
    clips = [c for part in parts.values() for c in part]
    split = [s for s, part in parts.items() for _ in part]
    return labelled("embedded", [c.path for c in clips], [c.action for c in clips], split=split)


def _weizmann(place: Path, seed: int) -> Labelled:
    table = pd.read_csv(place / "labels.csv")
    files = [place / p for p in table["path"]]
    return labelled("weizmann9", files, table["label"], group=table["subject"], neighbours=1)


def _gestures(place: Path, seed: int) -> Labelled:
    table = pd.read_csv(place / "pairs.csv")
    files = [place / p for p in table["path"]]
    return labelled(
        "multiview_gestures", files, table["gesture"], group=table["subject"], neighbours=1
    )


def _fights(place: Path, seed: int) -> Labelled:
    table = pd.read_csv(place / "labels.csv")
    files = [place / p for p in table["path"]]
    scenes = scene_groups([_looks(read_clip(f)) for f in files])
    note = (
        f"surveillance_fights: {len(set(scenes))} scenes found by likeness of the picture; its "
        "cameras recur, and folds without groups test on scenes that were trained on."
    )
    return labelled(
        "surveillance_fights", files, table["label"], group=scenes, seed=seed, note=note
    )


def scene_groups(
    looks: Sequence[Float[np.ndarray, "looks pixels"]], alike: float = ALIKE
) -> Int64[np.ndarray, "files"]:
    """Number of each file's scene: files of one scene are linked by looks that are alike.

    Args:
        looks: small grey pictures of each file.
        alike: least correlation of two looks of one scene.
    """
    x = np.stack(looks).astype(np.float64)
    x -= x.mean(-1, keepdims=True)
    x /= np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)
    likeness = np.einsum("aip,bjp->aibj", x, x).max(axis=(1, 3))
    return connected_components(likeness > alike)[1].astype(np.int64)


def _looks(frames: Frames) -> Float32[np.ndarray, "4 pixels"]:
    gray = small(grays(frames))
    return np.stack([gray[0], gray[len(gray) // 2], gray[-1], gray.mean(0)]).reshape(4, -1)


def grays(frames: Frames) -> Float32[np.ndarray, "times rows columns"]:
    """Luma of frames, 0 to 255 (ITU-R BT.601)."""
    return frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def small(pictures: Float32[np.ndarray, "times rows columns"]) -> Small:
    """Pictures of 16x16, each pixel the mean of what it covers."""
    return F.adaptive_avg_pool2d(torch.from_numpy(pictures), SMALL).numpy()


def middle_frame(frames: Frames) -> Float32[np.ndarray, "pixels"]:
    """The middle frame, 16x16 and standardised: what is seen, without any order."""
    shown = small(grays(frames[len(frames) // 2][None])).ravel()
    return (shown - shown.mean()) / max(float(shown.std()), 1e-6)


def mean_pixels(frames: Frames) -> Float32[np.ndarray, "pixels"]:
    """Mean of all frames, 16x16 in colour: order removed."""
    mean = frames.mean(axis=0, dtype=np.float32)
    return small(np.ascontiguousarray(mean.transpose(2, 0, 1))).ravel()


def frame_difference(frames: Frames) -> Float32[np.ndarray, "pixels"]:
    """Mean absolute difference of neighbouring frames, 16x16: where something moves, how much."""
    gray = grays(frames)
    moved = np.abs(np.diff(gray, axis=0)).mean(axis=0) if len(gray) > 1 else np.zeros_like(gray[0])
    return small(moved[None]).ravel()


def motion_amount(frames: Frames) -> Float32[np.ndarray, "2"]:
    """How much moves, and how unevenly: log mean and log deviation of 16x16 frame differences."""
    moved = np.abs(np.diff(small(grays(frames)), axis=0)) if len(frames) > 1 else np.zeros(1)
    return np.log(np.array([moved.mean(), moved.std()], np.float32) + 1e-3)


CONTROLS: dict[str, Callable[[Frames], Float32[np.ndarray, "pixels"]]] = {
    "middle frame": middle_frame,
    "mean pixels": mean_pixels,
    "frame difference": frame_difference,
    "motion amount": motion_amount,
}


def control_features(data: Labelled) -> dict[str, Float[np.ndarray, "files pixels"]]:
    """Features of every control; each file is read once."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in CONTROLS}
    for source in data.sources:
        frames = read_clip(source)
        for name, control in CONTROLS.items():
            found[name].append(control(frames))
    return {name: np.stack(rows) for name, rows in found.items()}


def clip_places(
    count: int, *, frames: int, stride: int, clips: int
) -> list[Int64[np.ndarray, "frames"]]:
    """Places of the frames of clips that lie evenly over a video.

    A video shorter than a clip is one clip of the frames there are.

    Args:
        count: of the video's frames.
        frames: of a clip.
        stride: from one frame of a clip to the next.
        clips: how many; one lies in the middle.
    """
    room = count - 1 - (frames - 1) * stride
    if room < 0:
        return [np.arange(0, count, stride)]
    starts = np.linspace(0, room, clips) if clips > 1 else np.array([room / 2])
    starts = np.unique(np.floor(starts).astype(np.int64))
    return list(starts[:, None] + stride * np.arange(frames))


def read_views(
    data: Labelled, *, frames: int, size: int, stride: int, clips: int
) -> list[list[UInt8[np.ndarray, "times size size 3"]]]:
    """Clips of every file, the shorter side resized to `size`, the middle cut out."""
    found = []
    for source in data.sources:
        whole = read_clip(source, size=size)
        top, left = ((n - size) // 2 for n in whole.shape[1:3])
        whole = whole[:, top : top + size, left : left + size]
        places = clip_places(len(whole), frames=frames, stride=stride, clips=clips)
        found.append([whole[p] for p in places])
    return found


__all__ = [
    "CONTROLS",
    "SETS",
    "clip_places",
    "control_features",
    "frame_difference",
    "load_actions",
    "mean_pixels",
    "middle_frame",
    "motion_amount",
    "read_views",
    "scene_groups",
]
