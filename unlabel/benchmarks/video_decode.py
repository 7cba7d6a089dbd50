"""How many frames a second come from video files to augmented batches, beside a plain loop?

    python -m unlabel.benchmarks.video_decode --data FOLDER

Ours is a `VideoStore` and whole-batch augmentation; the plain loops open each file for each clip in
decord or PyAV, take its frames at the file's size, and crop, resize, flip and colour each clip on
its own. All sides give float batches of one size, of the same videos, clip length and number; they
work in turn, round after round, and count their CPU seconds (one process, one thread). Ours is
counted from the first epoch on, with the scan of the files.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unlabel.benchmarks.commands import run_command
from unlabel.data_pipes.kept_frames import Keep
from unlabel.data_pipes.video import VIDEO_SUFFIXES
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.videos import VideoData, read_videos

Clips = Float[Tensor, "batch times 3 rows columns"]


def video_decode(
    data: str,
    *,
    size: int = 112,
    kept: int = 128,
    frames: int = 16,
    stride: int = 2,
    batch: int = 8,
    epochs: int = 20,
    rounds: int = 3,
    limit: int | None = None,
    device: str = "cpu",
    output: str | None = None,
) -> dict[str, Any]:
    """Work side by side, print the table, and return all figures.

    Args:
        data: folder of videos.
        size: rows and columns of a batch's frames.
        kept: rows and columns of the store's frames, which are cropped from.
        frames: of a clip.
        stride: of a clip.
        batch: clips of a batch.
        epochs: over all videos, a clip of each.
        rounds: how often each side works.
        limit: videos taken at most.
        device: where batches are augmented; plain loops augment on the CPU.
        output: JSON file for all figures.

    Raises:
        FileNotFoundError: no videos are there.
    """
    torch.set_num_threads(1)
    names = sorted(p for p in Path(data).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)[:limit]
    if not names:
        raise FileNotFoundError(f"{data} holds no videos; give a folder of some.")
    about = {"frames": frames, "stride": stride}

    def ours() -> Iterator[Clips]:
        found = read_videos(names, jobs=1, keep=Keep.of(kept))
        store = VideoStore(found, size=kept, frames=frames, stride=stride, short="loop")
        yield from _ours(store, batch, epochs, size, device)

    found = read_videos(names, jobs=1)
    sides: dict[str, Callable[[], Iterator[Clips]]] = {
        "unlabel": ours,
        "decord, clip by clip": lambda: _plain(found, _by_decord, about, batch, epochs, size),
        "PyAV, clip by clip": lambda: _plain(found, _by_av, about, batch, epochs, size),
    }
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides) if number % 2 == 0 else reversed(list(sides)):
            runs[side].append(_measured(sides[side], len(found) * frames))
    result = {"data": Path(data).name, "videos": len(found), "epochs": epochs, **about}
    result["sides"] = [_summary(side, runs) for side in sides]
    Console(width=120).print(_table(result))
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
    return result


# -- sides ----------------------------------------------------------------------------------------


def _ours(store: VideoStore, batch: int, epochs: int, size: int, device: str) -> Iterator[Clips]:
    random = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        order = epoch * len(store) + np.random.default_rng(epoch).permutation(len(store))
        for start in range(0, len(order), batch):
            samples = [torch.from_numpy(store[i]["frames"]) for i in order[start : start + batch]]
            clips = rearrange(torch.stack(samples).to(device), "b t h w c -> b t c h w")
            yield _augmented(clips, size, random)


def _plain(
    data: VideoData, read: Callable[..., np.ndarray], about: dict[str, int], batch: int,
    epochs: int, size: int,
) -> Iterator[Clips]:  # fmt: skip
    random = torch.Generator().manual_seed(0)
    draw = np.random.default_rng(0)
    for _ in range(epochs):
        held = []
        for item in (data[i] for i in draw.permutation(len(data))):
            span = about["stride"] * (about["frames"] - 1) + 1
            start = int(draw.integers(max(len(item) - span, 0) + 1))
            places = (start + about["stride"] * np.arange(about["frames"])) % len(item)
            clip = torch.from_numpy(read(item.name, places))
            held.append(_augmented(rearrange(clip, "t h w c -> 1 t c h w"), size, random))
            if len(held) == batch:
                yield torch.cat(held)
                held = []
        if held:
            yield torch.cat(held)


def _by_decord(path: str, places: np.ndarray) -> np.ndarray:
    import decord

    return decord.VideoReader(path, num_threads=1).get_batch(places).asnumpy()


def _by_av(path: str, places: np.ndarray) -> np.ndarray:
    import av

    wanted, last = set(places.tolist()), int(places.max())
    taken = {}
    with av.open(path) as file:
        for place, frame in enumerate(file.decode(video=0)):
            if place in wanted:
                taken[place] = frame.to_ndarray(format="rgb24")
            if place == last:
                break
    return np.stack([taken[place] for place in places.tolist()])


def _augmented(clips: Tensor, size: int, random: torch.Generator) -> Clips:
    """A random box, flip, brightness and contrast for each clip, the same for all its frames."""
    count, times = clips.shape[:2]
    draw = torch.rand(6, count, generator=random).to(clips.device)
    scale = 0.5 + 0.5 * draw[0]
    flip = torch.where(draw[1] < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=clips.device)
    theta[:, 0, 0], theta[:, 1, 1] = scale * flip, scale
    theta[:, 0, 2], theta[:, 1, 2] = (
        (1 - scale) * (2 * draw[2] - 1),
        (1 - scale) * (2 * draw[3] - 1),
    )
    flat = rearrange(clips, "b t c h w -> b (t c) h w").float()
    grid = F.affine_grid(theta, [count, flat.shape[1], size, size], align_corners=False)
    boxed = F.grid_sample(flat, grid, align_corners=False)
    out = rearrange(boxed, "b (t c) h w -> b t c h w", t=times)
    gain, shift = (0.8 + 0.4 * draw[4:]).view(2, -1, 1, 1, 1, 1) / 255
    mean = out.mean((1, 2, 3, 4), keepdim=True)
    # In place: on a CPU, fresh memory for every step of a batch costs more than the arithmetic.
    return out.mul_(gain).add_(mean * (shift - gain)).clamp_(0, 1)


# -- figures --------------------------------------------------------------------------------------


def _measured(side: Callable[[], Iterator[Clips]], per_epoch: int) -> dict[str, Any]:
    wall, cpu, made = time.perf_counter(), _cpu(), 0
    first = None
    for batch in side():
        made += batch.shape[0] * batch.shape[1]
        if first is None and made >= per_epoch:
            first = _cpu() - cpu
    seconds = _cpu() - cpu
    later = (made - per_epoch) / max(seconds - (first or 0), 1e-9)
    return {
        "frames": made, "cpu_seconds": seconds, "rate": made / seconds,
        "first_rate": per_epoch / (first or seconds), "later_rate": later,
        "wall_seconds": time.perf_counter() - wall,
    }  # fmt: skip


def _cpu() -> float:
    """CPU seconds of this process and of those that it started and saw end (the scan's)."""
    import os

    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _summary(side: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    mine, ours = runs[side], runs["unlabel"]
    ratios = [o["rate"] / m["rate"] for m, o in zip(mine, ours, strict=True)]
    medians = {
        key: statistics.median(r[key] for r in mine) for key in ("rate", "first_rate", "later_rate")
    }
    spread = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {"side": side, **medians, "ratio": spread, "runs": mine}


def _table(result: dict[str, Any]) -> Table:
    table = Table(
        title=f"{result['data']}: {result['videos']} videos, clips of {result['frames']} frames, "
        f"stride {result['stride']}, {result['epochs']} epochs; frames a CPU second, medians",
        title_justify="left",
    )
    for heading in ("side", "all epochs", "first epoch", "later epochs", "ours over it"):
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for side in result["sides"]:
        ratio = side["ratio"]
        said = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        rates = [f"{side[k]:,.0f}" for k in ("rate", "first_rate", "later_rate")]
        table.add_row(side["side"], *rates, said)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options of `video_decode` from the command line."""
    run_command(video_decode, arguments)


if __name__ == "__main__":
    main()
