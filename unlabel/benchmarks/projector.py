"""What the projector drops: changes of a picture, read from the vectors before and behind it.

`python -m unlabel.benchmarks.projector RUN --data FRAMES`: RUN was trained on frames with a head
named `projector` (SimCLR and its kin, Barlow Twins, VICReg, ...) and has a checkpoint
(`--training.save_strategy steps`). With `--labels SET`, also how evenly the vectors lie on the
sphere and how near those of one class, which the temperature trades for each other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from unlabel.benchmarks.actions import load_visual_encoder
from unlabel.benchmarks.actions_data import load_actions, read_views
from unlabel.benchmarks.commands import run_command
from unlabel.benchmarks.probes import predict
from unlabel.benchmarks.result import student
from unlabel.benchmarks.runs import seed_runs
from unlabel.benchmarks.saved import saved_projector
from unlabel.core import ViewSpec
from unlabel.data_pipes.frame_store import FrameStore
from unlabel.data_pipes.videos import read_frames
from unlabel.objectives.moments import uniformity

Pictures = UInt8[np.ndarray, "times rows columns 3"]
# What is done to a picture: the classes that a probe is to tell apart.
CHANGES: dict[str, tuple[Callable[[Pictures], Pictures], ...]] = {
    "turned by a quarter": tuple(lambda x, k=k: np.rot90(x, k, (1, 2)).copy() for k in range(4)),
    "colour or grey": (lambda x: x, lambda x: _gray(x)),
    "bright or dim": (lambda x: x, lambda x: (x * 0.6).astype(np.uint8)),
}
TRAIN = 0.6  # share of the pictures that a probe is fitted to


def _gray(frames: Pictures) -> Pictures:
    luma = frames @ np.array([0.299, 0.587, 0.114])
    return np.repeat(luma[..., None], 3, axis=-1).astype(np.uint8)


@torch.inference_mode()
def told_apart(
    encoder: Any, projector: nn.Module, pictures: list[Pictures], *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Accuracy x100 of a logistic probe for each change, from the vectors and behind the head.

    No picture is in both the part that the probe is fitted to and the part that it is tested on.

    Args:
        encoder: frozen, of frames.
        projector: its head.
        pictures: single frames.
        seed: of the parts.
    """
    order = np.random.default_rng(seed).permutation(len(pictures))
    train = np.isin(np.arange(len(pictures)), order[: int(TRAIN * len(pictures))])
    found = {}
    for name, changes in CHANGES.items():
        own = [_vectors(encoder, [change(x) for x in pictures]) for change in changes]
        label = np.repeat(np.arange(len(changes)), len(pictures))
        part = np.tile(train, len(changes))
        both = (torch.cat(own), projector(torch.cat(own)))
        found[name] = tuple(_accuracy(x.numpy(), label, part) for x in both)
    return found


def _vectors(encoder: Any, pictures: list[Pictures]) -> Float[Tensor, "pictures width"]:
    parts = []
    for start in range(0, len(pictures), 64):
        batch = encoder.collator()([{"frames": x} for x in pictures[start : start + 64]])
        parts.append(encoder(encoder.view(batch, ViewSpec("plain"))).pooled.float())
    return torch.cat(parts)


def _accuracy(x: np.ndarray, label: np.ndarray, train: np.ndarray) -> float:
    said = predict("logistic", x[train], label[train], x[~train])
    return 100 * float((said == label[~train]).mean())


@torch.inference_mode()
def spread(
    encoder: Any, head: nn.Module, pictures: list[Pictures], label: np.ndarray
) -> dict[str, tuple[float, float]]:
    """`uniformity`, and `tolerance`, from the vectors and behind the head.

    Tolerance is the mean cosine of two samples of one class: what contrast must put up with.

    Args:
        encoder: frozen, of frames.
        head: its projector.
        pictures: single frames.
        label: class of each.

    Reference: Wang & Liu 2021, arXiv 2012.09740, section 3.4.
    """
    own = _vectors(encoder, pictures)
    same = torch.from_numpy(label[:, None] == label) & ~torch.eye(len(label), dtype=torch.bool)
    both = own, head(own)
    cosines = [unit @ unit.T for unit in (F.normalize(x, dim=1) for x in both)]
    return {
        "uniformity": (float(uniformity(both[0])), float(uniformity(both[1]))),
        "tolerance": (float(cosines[0][same].mean()), float(cosines[1][same].mean())),
    }


def projector(run: str, *, data: str, pictures: int = 300, labels: str | None = None) -> None:
    """Print how well changes of a picture are told apart before and behind the projector.

    Args:
        run: a run's folder, of one or several seeds.
        data: files that the pictures are taken from.
        pictures: how many.
        labels: a labelled set as `bench actions` takes it, for uniformity and tolerance; the
            middle frame of each file is taken.

    Raises:
        ValueError: no run, or no projector in its checkpoint.

    Reference: Chen et al. 2020 (SimCLR), arXiv 2002.05709, section 4.2 and table 3.
    """
    runs = seed_runs(Path(run))
    if not runs:
        raise ValueError(f"{run} is no run's folder.")
    first = load_visual_encoder(runs[0] / "model", device="cpu")
    store = FrameStore(read_frames(data), size=first.size)
    places = np.linspace(0, len(store) - 1, pictures).astype(int)
    shown = [np.asarray(store[int(p)]["frames"]) for p in places]
    heads = [
        (load_visual_encoder(r / "model", device="cpu").eval(), saved_projector(r)) for r in runs
    ]
    kinds = {name: str(len(changes)) for name, changes in CHANGES.items()}
    each = [told_apart(*both, shown) for both in heads]
    _print(f"Changes told apart x100, {len(runs)} seed(s)", kinds, each, digits=1)
    if labels is not None:
        known = load_actions(labels)
        clips = read_views(known, frames=1, size=first.size, stride=1, clips=1)
        middles = [video[0] for video in clips]
        found = [spread(*both, middles, known.label) for both in heads]
        _print(f"{known.name}, {len(known)} files", dict.fromkeys(found[0], ""), found, digits=2)


def _print(
    title: str, rows: dict[str, str], each: list[dict[str, tuple[float, float]]], *, digits: int
) -> None:
    table = Table(title=title)
    for head in ("", "classes", "encoder's vector", "behind the projector", "difference"):
        table.add_column(head, justify="right" if head else "left")
    for name, classes in rows.items():
        values = np.array([found[name] for found in each])
        parts = (values[:, 0], values[:, 1], values[:, 1] - values[:, 0])
        table.add_row(name, classes, *(_said(v, digits) for v in parts))
    Console().print(table)


def _said(values: np.ndarray, digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    mean, low, high = student(values.tolist())
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def main(arguments: list[str] | None = None) -> None:
    """Read the options of `projector` from the command line."""
    run_command(projector, arguments, as_positional=True)


if __name__ == "__main__":
    main()
