"""Masks carried through a video by the likeness of features: do tokens know what belongs together?

DAVIS-2016 validation (Perazzi et al. 2016): the first mask is given, those of all later frames are
found by copying along the affinity of features, and scored by the Jaccard index, the first and the
last frame left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from unlabel.benchmarks.actions import load_visual_encoder
from unlabel.benchmarks.clip_pictures import masked, png, strip
from unlabel.benchmarks.intervals import mean_resamples
from unlabel.benchmarks.labelled import set_folder
from unlabel.benchmarks.result import BenchmarkResult, EncoderScores, Score
from unlabel.benchmarks.runs import bench
from unlabel.core import View
from unlabel.data_pipes.faults import library
from unlabel.data_pipes.video import read_clip
from unlabel.modalities.clip import Clip
from unlabel.modalities.visual import VisualEncoder

Frames = UInt8[np.ndarray, "times rows columns 3"]
Masks = Bool[np.ndarray, "times rows columns"]
Carry = Callable[[Frames, Masks], Masks]  # frames, and masks of which the first may be read
STRIDE = 8  # pixels of a cell, of colours
EXAMPLES = 4  # sequences whose masks are kept as pictures
LAB_TEMPERATURE = 1.0  # of squared distances of Lab colours


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


def lab_features(frames: Frames) -> Float[Tensor, "times rows columns 3"]:
    """Mean Lab colour of cells of 8 x 8 pixels."""
    cv2 = library("cv2", "video")
    lab = [cv2.cvtColor(f.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for f in frames]
    pictures = rearrange(torch.from_numpy(np.stack(lab)), "t y x c -> t c y x")
    found = F.adaptive_avg_pool2d(pictures, [max(1, n // STRIDE) for n in frames.shape[1:3]])
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

    beside = CONTROLS.items() if controls else ()
    return bench(
        path,
        lambda loaded: evaluate_propagation(loaded[1], folder, name=loaded[0], **shared),
        compare=compare,
        controls=[evaluate_propagation(c, folder, name=n, **shared) for n, c in beside],
        output=output,
        load=load,
    )


__all__ = ["CONTROLS", "Affinity", "affinity", "along_flow", "bench_propagation", "by_features",
           "carried", "davis_sequences", "evaluate_propagation", "first_mask", "jaccard",
           "lab_features", "token_features"]  # fmt: skip
