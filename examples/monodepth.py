r"""Depth from clips alone: a camera moves, and nobody says how, nor how far away anything is.

An encoder of single frames, a decoder of disparity and a head of motion learn together, since with
the right depth and motion each frame can be made of the frames beside it.

    python examples/monodepth.py                       # drawn clips, about a minute on one CPU
    python examples/monodepth.py --clips drives --size 224 --width 512 --hidden 256 --scales 4 \
        --field 82 --batch 12 --rate 0.0001 --steps 66000 --device cuda --model resnet18

The second line is about the paper's scale (KITTI's camera sees 82 degrees), for a GPU: `drives` is
a folder of videos. Written is one picture: frames above, the inverse of their depth below, light is
near; of drawn clips, the true one at the bottom.

Reference: Godard et al. 2019, arXiv 1806.01260.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from unlabel.core import Batch
from unlabel.data_pipes.synthetic_planes import draw_planes
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.videos import read_videos
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import Monodepth
from unlabel.training.pretraining import Pretraining

Maps = Float[np.ndarray, "clips rows columns"]
# Frames of a training clip: one in the middle, and its neighbours.
FRAMES = 3


class Clips:
    """Samples of clips, drawn or read; the last ones are kept back for numbers and the picture.

    Args:
        source: videos, see `read_videos`; None draws planes.
        size: rows and columns.
        count: clips that are drawn to train on.
        seed: of drawing.
    """

    def __init__(self, source: str | None, *, size: int, count: int, seed: int):
        made = draw_planes(count + 64, size=size, frames=FRAMES, seed=seed)
        drawn = [{"frames": x, "index": i, "ordinal": i} for i, x in enumerate(made.frames)]
        read = source and VideoStore(read_videos(source), frames=FRAMES, size=size, seed=seed)
        self.samples: Any = read or drawn
        self.kept = min(64, len(self.samples) // 5)
        self.training = len(self.samples) - self.kept
        self.true = None if source else made.depth[self.training :, 1]

    def batch(self, encoder: VisualEncoder, places: Iterable[int]) -> Batch:
        """These samples, where the encoder is."""
        device = next(encoder.parameters()).device
        return encoder.collator()([self.samples[int(i)] for i in places]).to(device)


def train(
    module: Pretraining, clips: Clips, *, steps: int, batch: int, rate: float, seed: int
) -> None:
    """Lower the loss on clips in random order, at a rate that rises and falls once."""
    random = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(steps):
        places = random.integers(0, clips.training, batch)
        found = module(clips.batch(module.encoder, places))
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 8) == 0 or step == steps - 1:
            term: Any = found.terms["photometric"]
            print(f"{step} photometric {term.loss:.4f}, of frames as they are {term.chance:.4f}")


@torch.no_grad()
def judge(module: Pretraining, clips: Clips) -> tuple[dict[str, float], np.ndarray, Maps]:
    """Numbers of clips that were not trained on, their middle frames, and the depth there."""
    module.eval()
    kept = range(clips.training, clips.training + clips.kept)
    batch = clips.batch(module.encoder, kept)
    views = module.view(batch)
    encodings = module.encode(views)
    term: Any = module.score(encodings, views, batch).terms["photometric"]
    frames: Any = views[0].target
    method: Any = module.objective
    depth = method.depth(encodings[0], FRAMES, tuple(frames.shape[3:]))[:, 1].cpu().numpy()
    found = {"photometric": float(term.loss), "as they are": float(term.chance)}
    if clips.true is not None:
        pairs = list(zip(depth, clips.true, strict=True))
        others = zip(depth, np.roll(clips.true, 1, axis=0), strict=True)
        found["order"] = float(np.mean([nearer(d, t < 2) for d, t in pairs]))
        found["correlation"] = float(np.mean([correlation(d, t) for d, t in pairs]))
        # What knowing where a board mostly is would give.
        found["with another's"] = float(np.mean([correlation(d, t) for d, t in others]))
    return found, np.moveaxis(frames[:, 1].cpu().numpy(), 1, 3), depth


def nearer(depth: np.ndarray, is_board: np.ndarray) -> bool:
    """Whether the board is nearer than the wall, by the median of the pixels of each."""
    return bool(np.median(depth[is_board]) < np.median(depth[~is_board]))


def correlation(depth: np.ndarray, true: np.ndarray) -> float:
    """Of the logarithms: a common factor does not matter."""
    return float(np.corrcoef(np.log(depth).ravel(), np.log(true).ravel())[0, 1])


def picture(
    frames: np.ndarray, depth: Maps, true: Maps | None, *, count: int = 10, scale: int = 3
) -> Image.Image:
    """Frames above, inverse depths below, each from its farthest (dark) to its nearest (light)."""
    rows = [(frames[:count] * 255).round().astype(np.uint8)]
    for maps in (depth, true):
        if maps is not None:
            near = 1 / maps[:count]
            low, high = (f((1, 2), keepdims=True) for f in (near.min, near.max))
            light = ((near - low) / (high - low).clip(1e-9) * 255).round().astype(np.uint8)
            rows.append(np.repeat(light[..., None], 3, axis=3))
    image = Image.fromarray(np.concatenate([np.concatenate(list(r), 1) for r in rows]))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def encoder_of(model: str, *, size: int, width: int) -> VisualEncoder:
    """An encoder of frames one by one: a small ViT, or ResNet-18 without pretraining."""
    if model == "resnet18":
        config: dict[str, Any] = {"model_type": "resnet", "layer_type": "basic"}
        config |= {"hidden_sizes": [width // 8, width // 4, width // 2, width]}
        config |= {"depths": [2, 2, 2, 2]}
    else:
        config = {"model_type": "vit", "hidden_size": width, "intermediate_size": 2 * width}
        config |= {"num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
    return VisualEncoder.from_config(config, frames=FRAMES, size=size, dropout=0.0)


def main(words: list[str] | None = None) -> dict[str, float]:
    """Train, write the picture, and print what came of it."""
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--clips", help="videos: a folder, glob or list; left out, planes are drawn")
    ask.add_argument("--model", choices=["vit", "resnet18"], default="vit")
    sizes = {"size": 32, "width": 48, "hidden": 48, "scales": 3, "count": 512}
    for name, default in {**sizes, "steps": 300, "batch": 16, "seed": 0}.items():
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--field", type=float, default=60.0, help="of view, in degrees")
    ask.add_argument("--rate", type=float, default=3e-3)
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--out", type=Path, default=Path("monodepth.png"))
    given = ask.parse_args(words)
    clips = Clips(given.clips, size=given.size, count=given.count, seed=given.seed)
    torch.manual_seed(given.seed)
    method = Monodepth(field=given.field, scales=given.scales, hidden=given.hidden)
    encoder = encoder_of(given.model, size=given.size, width=given.width)
    module = Pretraining(encoder, method).to(given.device)
    started, how = time.time(), {"steps": given.steps, "batch": given.batch, "seed": given.seed}
    train(module, clips, rate=given.rate, **how)
    found, frames, depth = judge(module, clips)
    picture(frames, depth, clips.true).save(given.out)
    found["seconds"] = time.time() - started
    print(" ".join(f"{name} {value:.3f}" for name, value in found.items()), f"-> {given.out}")
    return found


if __name__ == "__main__":
    main()
