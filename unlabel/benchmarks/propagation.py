"""Masks carried through a video by the likeness of features: do tokens know what belongs together?

DAVIS-2016 validation (Perazzi et al. 2016): the first mask is given, those of all later frames are
found by copying along the affinity of features, and scored by the Jaccard index, the first and the
last frame left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unlabel.benchmarks.actions import load_visual_encoder
from unlabel.benchmarks.clip_pictures import masked, png, strip
from unlabel.benchmarks.intervals import mean_resamples
from unlabel.benchmarks.labelled import set_folder
from unlabel.benchmarks.mask_carrying import (
    CONTROLS,
    Affinity,
    Carry,
    Frames,
    Masks,
    by_features,
)
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench, refuse_unfit
from unlabel.core import View
from unlabel.data_pipes.video import read_clip
from unlabel.modalities.clip import Clip
from unlabel.modalities.visual import VisualEncoder

EXAMPLES = 4  # sequences whose masks are kept as pictures


@dataclass(frozen=True)
class MaskedVideo:
    """A video with a mask for every frame.

    Attributes:
        name: of the sequence.
        frames: RGB.
        masks: True on the object.
    """

    name: str
    frames: Frames
    masks: Masks


def davis_sequences(
    folder: str | Path | None = None, names: Sequence[str] | None = None
) -> Iterator[MaskedVideo]:
    """The sequences, one in memory at a time.

    Args:
        folder: that has `davis16val`; default `$UNLABEL_DATA/video`.
        names: some of them; default all.

    Raises:
        FileNotFoundError: no such set.
        ValueError: a name that is not there.
    """
    place = set_folder("davis16val", "video", folder)
    there = sorted(p.name for p in (place / "frames").iterdir())
    if unknown := sorted(set(names or ()) - set(there)):
        raise ValueError(f"There is no sequence {unknown[0]!r}; there are {', '.join(there)}.")
    for name in names or there:
        masks = read_clip(place / "masks" / name)[..., 0] > 127
        yield MaskedVideo(name, read_clip(place / "frames" / name), masks)


def jaccard(found: Masks, truth: Masks) -> Float[np.ndarray, "times"]:
    """Intersection over union of each frame; 1 where both are empty."""
    both, either = (op(found, truth).sum((1, 2)) for op in (np.logical_and, np.logical_or))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def token_features(
    encoder: VisualEncoder, *, height: int | None = None, batch_size: int = 8
) -> Callable[[Frames], Float[Tensor, "times rows columns width"]]:
    """Unit vectors of an encoder's tokens, each frame by itself (repeated to fill a cell of time).

    Args:
        encoder: with tokens on a grid.
        height: pixels that frames are resized to, for a finer grid; default their own. Both sides
            are rounded to whole cells.
        batch_size: frames a forward pass.
    """
    cell = encoder.cell

    def features(frames: Frames) -> Float[Tensor, "times rows columns width"]:
        rows, columns = frames.shape[1:3]
        scale = (height or rows) / rows
        shape = [
            max(1, round(n * scale / c)) * c for n, c in zip((rows, columns), cell[1:], strict=True)
        ]
        device = next(encoder.parameters()).device
        found = []
        for start in range(0, len(frames), batch_size):
            part = torch.from_numpy(frames[start : start + batch_size]).to(device)
            part = rearrange(part, "t y x c -> t c y x").to(encoder.dtype) / 255
            part = F.interpolate(part, size=shape, mode="bilinear", antialias=True)
            tokens = encoder(_view(encoder, part)).tokens.float()
            grid = (shape[0] // cell.rows, shape[1] // cell.columns)
            last = tokens[:, -grid[0] * grid[1] :]
            found.append(rearrange(last, "t (y x) d -> t y x d", y=grid[0]))
        return F.normalize(torch.cat(found), dim=-1)

    def checked(frames: Frames) -> Float[Tensor, "times rows columns width"]:
        was_training = encoder.training
        encoder.eval()
        try:
            return features(frames)
        finally:
            encoder.train(was_training)

    return checked


def _view(encoder: VisualEncoder, pictures: Float[Tensor, "batch channels rows columns"]) -> View:
    clip = pictures[:, None].expand(-1, encoder.cell.frames, -1, -1, -1)
    mask = torch.ones(clip.shape[:2], dtype=torch.bool, device=clip.device)
    return encoder.finish(Clip(clip, mask))


def evaluate_propagation(
    carry: Carry,
    folder: str | Path | None = None,
    *,
    sequences: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    name: str = "encoder",
) -> BenchmarkResult:
    """Mean J of carried masks over sequences, and of each; the interval is over sequences.

    Args:
        carry: frames and masks (of which it may read the first) to masks.
        folder: see `davis_sequences`.
        sequences: some of them; default all.
        bootstrap: resamples of the sequences.
        seed: of the resamples.
        name: in the table.
    """
    own, examples = {}, {}
    for one in davis_sequences(folder, sequences):
        masks = carry(one.frames, one.masks)
        own[one.name] = float(jaccard(masks, one.masks)[1:-1].mean())
        if len(examples) < EXAMPLES:
            drawn, truth = (png(strip(masked(one.frames, m))) for m in (masks, one.masks))
            about = {name: {"strip": drawn, "J": round(own[one.name], 4)}}
            examples[one.name] = {"strip": truth, "encoders": about}
    values = np.array(list(own.values()))
    drawn = mean_resamples(values, resamples=bootstrap, rng=np.random.default_rng(seed))
    scores = {"J": Score.of(float(values.mean()), drawn, pairs=len(values))}
    scores |= {key: Score(value, pairs=1) for key, value in own.items()}
    return BenchmarkResult(
        "propagation",
        "mean J on DAVIS-2016 validation, first mask given, first and last frame left out",
        (EncoderScores(name, scores),),
        "Features: first and last 4 frames, radius and top as given; interval over sequences.",
        digits=3,
        unit="J",
        examples=examples,
    )


def bench_propagation(
    path: str | Path,
    *,
    compare: Sequence[str] = (),
    controls: bool = True,
    folder: str | Path | None = None,
    sequences: Sequence[str] | None = None,
    height: int | None = None,
    affinity: Affinity | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 8,
    device: str | None = None,
    output: str | Path | None = None,
) -> BenchmarkResult:
    """Carry masks through videos by the tokens of an encoder, before and after training.

    Args:
        path: a run's output folder, or the folder of a saved encoder of frames or clips.
        compare: further runs (after training) or encoders for the same table.
        controls: the first mask copied, Lab colours, and copying along optical flow, too.
        folder: that has `davis16val`; default `$UNLABEL_DATA/video`.
        sequences: some of its sequences; default all.
        height: pixels that frames are resized to, for a finer grid; default their own.
        affinity: how masks are copied.
        bootstrap: resamples of the sequences for the interval.
        seed: of the resamples.
        batch_size: frames a forward pass.
        device: as for torch; a GPU where there is one.
        output: JSON file; default `results/propagation.json` in a run's output folder.
    """
    shared: dict[str, Any] = {"sequences": sequences, "bootstrap": bootstrap, "seed": seed}
    how = affinity or Affinity()

    def load(path: Path, name: str) -> tuple[str, Carry]:
        encoder = load_visual_encoder(path, device=device)
        features = token_features(encoder, height=height, batch_size=batch_size)
        return name, by_features(features, how)

    refuse_unfit(path, load, compare=compare)
    beside = CONTROLS.items() if controls else ()
    return bench(
        path,
        lambda loaded: evaluate_propagation(loaded[1], folder, name=loaded[0], **shared),
        compare=compare,
        controls=[evaluate_propagation(c, folder, name=n, **shared) for n, c in beside],
        output=output,
        load=load,
    )


__all__ = [
    "MaskedVideo",
    "bench_propagation",
    "davis_sequences",
    "evaluate_propagation",
    "jaccard",
    "token_features",
]
