"""How much does a step of tube-masked autoencoding save by encoding the visible tokens alone?

    python -m unlabel.benchmarks.video_step

Two sides are ours, with the same views of the same clips, the same decoder and loss: one encodes
the visible tokens alone, the other all tokens, the hidden ones blank. The third is transformers'
`VideoMAEForPreTraining` of the same sizes, with frames scaled and tubes drawn on the device as
well. They take turns, step by step, and count CPU seconds (on an accelerator, seconds), so that the
ratio holds on a shared machine.
"""

import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import repeat
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from unlabel.benchmarks.commands import run_command
from unlabel.checks import check_above_0
from unlabel.core import Batch, view
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives.autoencoder import MAE
from unlabel.training.pretraining import Pretraining

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of its colours
SIDES = ("visible", "all", "transformers")
# name -> frames, pixels, clips a step, keys of the encoder, sizes of the decoder.
SIZES: dict[str, tuple[int, int, int, dict[str, Any], dict[str, int]]] = {
    "default": (16, 64, 8, {}, {"hidden": 64, "layers": 2}),
    "small": (
        16,
        112,
        2,
        {
            "hidden_size": 192,
            "num_hidden_layers": 12,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "patch_size": 16,
        },
        {"hidden": 96, "layers": 4},
    ),
    "base": (
        16,
        224,
        8,
        {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "patch_size": 16,
        },
        {"hidden": 384, "layers": 4},
    ),
}


def video_step(
    *,
    sizes: list[str] | None = None,
    ratio: float = 0.9,
    steps: int = 10,
    threads: int = 1,
    device: str = "cpu",
    autocast: bool = False,
    output: str | None = None,
) -> list[dict[str, Any]]:
    """Time all sides, print the table, and return its rows.

    Args:
        sizes: of `default`, `small` (12 layers of width 192) and `base` (VideoMAE's ViT-B); None
            for the first two.
        ratio: share of tubes that are hidden.
        steps: of each side, after two to warm up.
        threads: of torch.
        device: where to train.
        autocast: compute in bfloat16.
        output: JSON file for the rows.

    Raises:
        ValueError: an unknown size, or no step.
    """
    names = sizes or ["default", "small"]
    if unknown := sorted(set(names) - set(SIZES)):
        raise ValueError(f"There is no size {unknown[0]!r}; the sizes are {', '.join(SIZES)}.")
    check_above_0(steps=steps)
    torch.set_num_threads(threads)
    rows = [_compare(name, ratio, steps, device, autocast) for name in names]
    Console(width=100).print(_table(rows, ratio))
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def _compare(name: str, ratio: float, steps: int, device: str, autocast: bool) -> dict[str, Any]:
    frames, size, clips, config, decoder = SIZES[name]
    sides: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {}
    for side in SIDES:
        torch.manual_seed(0)
        encoder = VisualEncoder.from_config(config, frames=frames, size=size)
        objective = MAE(ratio=ratio, hidden=decoder["hidden"], layers=decoder["layers"])
        drop = side == "visible"
        objective.views = (view("mask_values", unit="tube", ratio=ratio, drop=drop),)
        module: nn.Module = Pretraining(encoder, objective)
        if side == "transformers":
            module = _Peer(encoder, ratio, **decoder)
        module.to(device)
        sides[side] = (module, torch.optim.AdamW(module.parameters(), 1e-4))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (clips, frames, size, size, 3)).astype(np.uint8)
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for step in range(steps + 2):
        samples = [
            {"frames": x, "index": i, "ordinal": step * clips + i} for i, x in enumerate(pixels)
        ]
        batch = encoder.collator()(samples).to(device)
        for side, (module, optimizer) in sides.items():
            taken[side].append(_time(module, optimizer, batch, autocast))
    seconds = {side: statistics.median(times[2:]) for side, times in taken.items()}
    return {
        "size": name,
        "frames": frames,
        "pixels": size,
        "clips": clips,
        "tokens": encoder.length,
        "width": encoder.width,
        "seconds": seconds,
        "ratio": {side: s / seconds["visible"] for side, s in seconds.items()},
        "rounds": {side: times[2:] for side, times in taken.items()},
    }


class _Peer(nn.Module):
    """transformers' own pretraining of VideoMAE, of the sizes of one of our encoders."""

    def __init__(self, encoder: VisualEncoder, ratio: float, *, hidden: int, layers: int):
        super().__init__()
        sizes: dict[str, Any] = {
            "decoder_hidden_size": hidden,
            "decoder_num_hidden_layers": layers,
            "decoder_num_attention_heads": MAE().sizes["heads"],
            "decoder_intermediate_size": 4 * hidden,
        }
        config: dict[str, Any] = encoder.model.config.to_dict() | sizes
        self.model = VideoMAEForPreTraining(VideoMAEConfig(**config))
        self.ratio, self.side = ratio, config["image_size"] // config["patch_size"]
        self.times = config["num_frames"] // config["tubelet_size"]
        self.mean, self.std = (nn.Buffer(torch.tensor(x)[:, None, None]) for x in IMAGENET)

    def forward(self, batch: Batch) -> Tensor:
        clips = batch.inputs["frames"] / 255
        places = self.side**2
        hidden = torch.zeros(len(clips), places, dtype=torch.bool, device=clips.device)
        order = torch.rand(len(clips), places, device=clips.device).argsort(1)
        hidden.scatter_(1, order[:, : round(self.ratio * places)], True)
        tubes = repeat(hidden, "b p -> b (t p)", t=self.times)
        return self.model((clips - self.mean) / self.std, bool_masked_pos=tubes).loss


def _time(
    module: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, autocast: bool
) -> float:
    kind = batch.mask.device.type
    clock = time.process_time if kind == "cpu" else time.perf_counter
    wait = partial(torch.cuda.synchronize, batch.mask.device) if kind == "cuda" else lambda: None
    wait()
    start = clock()
    with torch.autocast(kind, torch.bfloat16, enabled=autocast):
        made = module(batch)
        loss = made if isinstance(made, Tensor) else made.loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    wait()
    return clock() - start


def _table(rows: list[dict[str, Any]], ratio: float) -> Table:
    table = Table(title=f"A step of tube-masked autoencoding, {ratio:.0%} hidden (seconds)")
    heads = ("size", "clips", "tokens", "width", "visible tokens", "all tokens", "transformers")
    for head in (*heads, "all / visible", "transformers / visible"):
        table.add_column(head, justify="left" if head == "size" else "right")
    for row in rows:
        table.add_row(
            f"{row['size']} ({row['frames']} x {row['pixels']}²)",
            *(str(row[k]) for k in ("clips", "tokens", "width")),
            *(f"{row['seconds'][side]:.3f}" for side in SIDES),
            *(f"{row['ratio'][side]:.2f}" for side in SIDES[1:]),
        )
    return table


def main(arguments: list[str] | None = None) -> None:
    """Read the options of `video_step` from the command line."""
    run_command(video_step, arguments)


if __name__ == "__main__":
    main()
