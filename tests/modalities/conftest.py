"""Tiny encoders of series and batches for them; lets the tests here import `audio_tools`."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
CONTEXT, HORIZON, PATCH = 48, 12, 6


@pytest.fixture
def make_series():
    """Makes a tiny encoder; `make_series("conv", channels=3, norm="none")`."""
    from unlabel.modalities.series import SeriesEncoder

    def make(kind: str = "patchtst", *, seed: int = 0, context: int = CONTEXT, **settings):
        torch.manual_seed(seed)
        config = {
            "patchtst": {
                "patch_length": PATCH,
                "d_model": 16,
                "ffn_dim": 32,
                "num_attention_heads": 2,
            },
            "conv": {
                "model_type": "dilated_conv",
                "hidden_size": 12,
                "output_size": 16,
                "num_hidden_layers": 3,
            },
            "flow": {"model_type": "coupling_flow", "patch_size": PATCH, "hidden_size": 16},
        }[kind]
        encoder = SeriesEncoder.from_config(config, context=context, **settings)
        # Flags of gaps start at 0 and would hide a mistake.
        if encoder.missing is not None:
            torch.nn.init.normal_(encoder.missing.weight)
        return encoder.eval()

    return make


def walks(rows: int, steps: int, channels: int, seed: int = 0) -> np.ndarray:
    """Random walks with a season, far from 0."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(rows, steps, channels)).cumsum(1)
    season = np.sin(np.arange(steps) / 3)[None, :, None]
    return (50 + noise + 3 * season).astype(np.float32)


@pytest.fixture
def make_walks():
    """Makes an array of random walks, `(rows, steps, channels)`."""
    return walks


@pytest.fixture
def make_windows():
    """Makes a batch for an encoder; `make_windows(encoder, rows=4, gaps=True)`."""

    def make(
        encoder,
        rows: int = 4,
        *,
        steps: int = CONTEXT + HORIZON,
        gaps: bool = False,
        short: bool = False,
        seed: int = 3,
        first: int = 0,
    ):
        samples = []
        for i in range(first, first + rows):
            values = walks(1, steps, encoder.channels, seed=i)[0]
            if gaps:
                values[5 + i : 8 + 2 * i] = np.nan
            if short and i % 2:
                values = values[15 + i :]
            samples.append({"values": values, "index": i, "ordinal": i})
        batch = encoder.collator(seed=seed)(samples)
        like = next(encoder.parameters())
        batch.inputs["values"] = batch.inputs["values"].to(like.dtype)
        return batch

    return make


def squares(index: int, frames: int = 8, height: int = 40, width: int = 48) -> np.ndarray:
    """A square of one colour that moves over noise, `(frames, height, width, 3)` uint8."""
    rng = np.random.default_rng(index)
    clip = rng.integers(20, 60, (1, height, width, 3)).repeat(frames, 0)
    place, color = rng.integers(8, 20, 2), rng.integers(80, 255, 3)
    step = rng.integers(1, 3, 2) * rng.choice([-1, 1], 2)
    for t in range(frames):
        y, x = np.clip(place + step * t, 0, min(height, width) - 10)
        clip[t, y : y + 10, x : x + 10] = color
    return clip.astype(np.uint8)


@pytest.fixture
def make_visual():
    """Makes a tiny encoder of clips; `make_visual("vit", frames=1)`."""
    from unlabel.modalities.visual import VisualEncoder

    tiny = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    small = {"embedding_size": 8, "hidden_sizes": [8, 16, 32], "depths": [1, 1, 1]}
    configs = {
        "videomae": tiny,
        "vit": tiny,
        "resnet": small,
        "convnext": {"hidden_sizes": [8, 16, 32], "depths": [1, 1, 1]},
        "r2plus1d": small,
        "coupling_flow": {"hidden_size": 16, "num_hidden_layers": 2},
        "convmae": {"hidden_sizes": [8, 16, 32], "depths": [1, 1, 2], "strides": [2, 2, 2]},
    }

    def make(kind: str = "videomae", *, frames: int = 8, size: int = 32, seed: int = 0, **settings):
        torch.manual_seed(seed)
        config = {"model_type": kind, **configs[kind]}
        return VisualEncoder.from_config(config, frames=frames, size=size, **settings).eval()

    return make


@pytest.fixture
def make_clips():
    """Makes a batch of clips of moving squares; `make_clips(encoder, lengths=[8, 5])`."""

    def make(encoder, rows: int = 4, *, lengths=None, first: int = 0, seed: int = 3, **sizes):
        lengths = lengths or [encoder.frames] * rows
        samples = [
            {"frames": squares(i, length, **sizes), "index": i, "ordinal": i, "label": i % 2}
            for i, length in enumerate(lengths, first)
        ]
        return encoder.collator(seed=seed)(samples)

    return make
