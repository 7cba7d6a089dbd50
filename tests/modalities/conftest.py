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
