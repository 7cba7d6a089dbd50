"""What the projector drops: changes of a picture, read from the vectors before and behind it.

`python -m unlabel.benchmarks.projector RUN --data FRAMES`: RUN was trained on frames with a head
named `projector` (SimCLR and its kin, Barlow Twins, VICReg, ...) and has a checkpoint
(`--training.save_strategy steps`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from unlabel.benchmarks.actions import load_visual_encoder
from unlabel.benchmarks.commands import run_command
from unlabel.benchmarks.probes import predict
from unlabel.benchmarks.result import student
from unlabel.benchmarks.runs import seed_runs
from unlabel.benchmarks.saved import saved_projector
from unlabel.core import ViewSpec
from unlabel.data_pipes.frame_store import FrameStore
from unlabel.data_pipes.videos import read_frames

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


def projector(run: str, *, data: str, pictures: int = 300) -> None:
    """Print how well changes of a picture are told apart before and behind the projector.

    Args:
        run: a run's folder, of one or several seeds.
        data: files that the pictures are taken from.
        pictures: how many.

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
    each = []
    for one in runs:
        encoder = load_visual_encoder(one / "model", device="cpu").eval()
        each.append(told_apart(encoder, saved_projector(one), shown))
    table = Table(title=f"Changes told apart x100, {len(runs)} seed(s)")
    for head in ("change", "classes", "encoder's vector", "behind the projector", "difference"):
        table.add_column(head, justify="left" if head == "change" else "right")
    for name, changes in CHANGES.items():
        values = np.array([found[name] for found in each])
        cells = [_said(v) for v in (values[:, 0], values[:, 1], values[:, 1] - values[:, 0])]
        table.add_row(name, str(len(changes)), *cells)
    Console().print(table)


def _said(values: np.ndarray) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    mean, low, high = student(values.tolist())
    return f"{mean:.1f} ± {(high - low) / 2:.1f}"


def main(arguments: list[str] | None = None) -> None:
    """Read the options of `projector` from the command line."""
    run_command(projector, arguments, as_positional=True)


if __name__ == "__main__":
    main()
