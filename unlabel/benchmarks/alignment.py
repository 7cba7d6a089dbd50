"""Two cameras on one take: does the frame nearest by its vector show the same moment?

For each frame of one view the nearest frame of the other view is found, and the error is how far
its place lies from the frame's own, over the length of the take (Sermanet et al. 2018). Frames of
one number show one moment. Whoever knows nothing of the moment is off by a third.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8

from unlabel.benchmarks.actions import load_visual_encoder, trained_stride
from unlabel.benchmarks.actions_data import grays, small
from unlabel.benchmarks.intervals import mean_resamples
from unlabel.benchmarks.labelled import set_folder
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench, refuse_unfit
from unlabel.core import ViewSpec, over_time
from unlabel.data_pipes.faults import library
from unlabel.data_pipes.video import read_clip
from unlabel.modalities.visual import VisualEncoder

SET = "multiview_gestures"
Frames = UInt8[np.ndarray, "times rows columns 3"]
Vectors = Float[np.ndarray, "times width"]
COLUMNS = ("path", "take", "view")


@dataclass(frozen=True)
class Take:
    """Videos of several cameras that show the same at the same frame.

    Attributes:
        name: of the take.
        views: the frames of each camera, as many of each.
    """

    name: str
    views: tuple[Frames, ...]


def read_takes(
    source: str = SET, folder: str | Path | None = None, *, subject: int = 1
) -> list[Take]:
    """The takes of a set or of a list.

    Args:
        source: `multiview_gestures`, or a CSV with the columns `path` (from its folder), `take`
            and `view`.
        folder: that has the named set; default `$UNLABEL_DATA/video`.
        subject: of the named set, whose takes are measured.

    Raises:
        FileNotFoundError: no such set or list.
        ValueError: a column is missing, or no take has two views.
    """
    base = set_folder(SET, "video", folder) if source == SET else Path(source).parent
    table = pd.read_csv(base / "pairs.csv" if source == SET else source)
    if source == SET:
        table = table[table["subject"] == subject]
        table = table.assign(take=table["gesture"] + " " + table["take"].astype(str))
    if missing := sorted(set(COLUMNS) - set(table.columns)):
        raise ValueError(f"{source} has no column {missing[0]}; it needs {', '.join(COLUMNS)}.")
    rows = [(str(k), part.sort_values("view")) for k, part in table.groupby("take", sort=True)]
    takes = [_take(name, [base / p for p in part["path"]]) for name, part in rows if len(part) > 1]
    if not takes:
        raise ValueError(f"No take in {source} has two views, so that nothing can be compared.")
    return takes


def _take(name: str, paths: Sequence[Path]) -> Take:
    views = [read_clip(path) for path in paths]
    length = min(len(view) for view in views)
    return Take(name, tuple(view[:length] for view in views))


def alignment_error(one: Vectors, other: Vectors) -> float:
    """Mean of |place - place of the nearest| / length over the frames of one view.

    Frames that are equally near count alike, so that vectors that are all the same are at chance,
    (1 - 1 / length^2) / 3 on average.

    Args:
        one: a vector for each frame of a view.
        other: of another view, as many.

    Reference: Sermanet et al. 2018, "Time-Contrastive Networks", arXiv 1704.06888, section 4.
    """
    apart = np.linalg.norm(one[:, None].astype(np.float64) - other[None], axis=-1)
    is_nearest = apart <= apart.min(axis=1, keepdims=True) + 1e-9
    place = np.arange(len(one))
    off = np.abs(place[:, None] - place[None, :]) / len(one)
    return float(((is_nearest * off).sum(1) / is_nearest.sum(1)).mean())


def frame_vectors(
    encoder: VisualEncoder, frames: Frames, *, stride: int = 1, batch_size: int = 32
) -> Vectors:
    """A unit vector for each frame: its own, or that of the middle time of a clip around it.

    The frame lies at the same place of its clip, whatever its place in the take, so that an
    encoder that knows the places in a clip cannot count with them. Behind the ends the first and
    the last frame are repeated, which says little of clips that are as long as the take.

    Args:
        encoder: of clips or single frames.
        frames: of a take.
        stride: frames of the take from one frame of a clip to the next.
        batch_size: clips a forward pass.
    """
    if "framewise" in encoder.gives:
        found = encoder.encode(frames, batch_size=batch_size)
    else:
        around = stride * (np.arange(encoder.frames) - encoder.frames // 2)
        places = (np.arange(len(frames))[:, None] + around).clip(0, len(frames) - 1)
        parts = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
        found = np.concatenate([_middle(encoder, frames[part]) for part in parts])
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


@torch.inference_mode()
def _middle(
    encoder: VisualEncoder, clips: UInt8[np.ndarray, "clips times rows columns 3"]
) -> Vectors:
    was_training = encoder.training
    encoder.eval()
    try:
        batch = encoder.collator()([{"frames": clip} for clip in clips])
        view = encoder.view(batch.to(next(encoder.parameters()).device), ViewSpec("plain"))
        encoding = encoder(view)
    finally:
        encoder.train(was_training)
    times, _ = over_time(encoding.tokens, encoding.mask, encoder.grid)
    return times[:, encoder.grid[0] // 2].float().cpu().numpy()


def grey_frames(frames: Frames) -> Vectors:
    """Each frame in grey, 16x16, standardised."""
    x = small(grays(frames)).reshape(len(frames), -1)
    return (x - x.mean(1, keepdims=True)) / np.maximum(x.std(1, keepdims=True), 1e-6)


def lab_frames(frames: Frames) -> Vectors:
    """Each frame in Lab colours, 16x16."""
    cv2 = library("cv2", "video")
    lab = np.stack([cv2.cvtColor(f.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for f in frames])
    channels = [small(np.ascontiguousarray(lab[..., c])) for c in range(3)]
    return np.stack(channels, axis=-1).reshape(len(frames), -1)


CONTROLS: dict[str, Callable[[Frames], Vectors]] = {
    "grey frame": grey_frames,
    "Lab frame": lab_frames,
    "constant": lambda frames: np.zeros((len(frames), 1)),
}


def evaluate_alignment(
    vectors: Callable[[Frames], Vectors],
    takes: Sequence[Take],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    name: str = "encoder",
) -> BenchmarkResult:
    """Alignment error over takes, each the mean of all ordered pairs of its views.

    Args:
        vectors: frames of a video to one vector each.
        takes: of several cameras.
        bootstrap: resamples of the takes, for the interval; 0 for none.
        seed: of the resamples.
        name: in the table.
    """
    own: dict[str, float] = {}
    for take in takes:
        seen = [vectors(view) for view in take.views]
        own[take.name] = float(np.mean([alignment_error(a, b) for a, b in permutations(seen, 2)]))
    values = np.array(list(own.values()))
    drawn = mean_resamples(values, resamples=bootstrap, rng=np.random.default_rng(seed))
    score = Score.of(float(values.mean()), drawn, pairs=len(values), subsets=own)
    return BenchmarkResult(
        "alignment",
        "mean distance in time to the nearest frame of the other view, over the take's length",
        (EncoderScores(name, {"error": score}),),
        "Chance is a third. Nearest by cosine (pixels: by distance); interval over takes.",
        digits=3,
        unit="error",
        better="lower",
    )


def bench_alignment(
    path: str | Path,
    *,
    compare: Sequence[str] = (),
    controls: bool = True,
    takes: str = SET,
    folder: str | Path | None = None,
    subject: int = 1,
    stride: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    device: str | None = None,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Find the same moment in another camera's view, before and after training.

    Args:
        path: a run's output folder, or the folder of a saved encoder of frames or clips.
        compare: further runs (after training) or encoders for the same table.
        controls: pixels in grey and in colour, and vectors that are all the same, too.
        takes: `multiview_gestures`, or a CSV with columns `path`, `take` and `view`; frames of one
            number show one moment, and whoever trains should not have seen them.
        folder: that has the named set; default `$UNLABEL_DATA/video`.
        subject: of the named set, whose takes are measured; train on the other one.
        stride: frames from one frame of a clip to the next; default as the run was trained.
        bootstrap: resamples of the takes for the interval.
        seed: of the resamples.
        batch_size: clips a forward pass.
        device: as for torch; a GPU where there is one.
        output: JSON file; default `results/alignment.json` in a run's output folder.

    Reference: Sermanet et al. 2018, arXiv 1704.06888, section 4.
    """

    def load(path: Path, name: str) -> tuple[str, VisualEncoder]:
        return name, load_visual_encoder(path, device=device)

    refuse_unfit(path, load, compare=compare)
    data = read_takes(takes, folder, subject=subject)
    shared: Mapping[str, Any] = {"bootstrap": bootstrap, "seed": seed}
    how = {"stride": stride or trained_stride(path), "batch_size": batch_size}

    def evaluate(loaded: tuple[str, VisualEncoder]) -> BenchmarkResult:
        name, encoder = loaded
        vectors = lambda frames: frame_vectors(encoder, frames, **how)  # noqa: E731
        return evaluate_alignment(vectors, data, name=name, **shared)

    beside = CONTROLS.items() if controls else ()
    return bench(
        path,
        evaluate,
        compare=compare,
        controls=[evaluate_alignment(c, data, name=n, **shared) for n, c in beside],
        output=output,
        load=load,
    )


__all__ = [
    "Take",
    "alignment_error",
    "bench_alignment",
    "evaluate_alignment",
    "frame_vectors",
    "read_takes",
]
