"""Tiny encoders of sound and batches for them."""

import numpy as np
import torch

from unlabel.core import Batch
from unlabel.modalities.audio import AudioCollator, AudioEncoder

RATE = 8_000
TINY = {
    "ast": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
    | {"num_hidden_layers": 2, "num_mel_bins": 16},
    "conv": {"model_type": "wave_conv", "hidden_size": 12},
}


def make_encoder(kind: str = "ast", *, seconds: float = 0.5, config=None, **settings):
    torch.manual_seed(0)
    keys = {**TINY[kind], **(config or {})}
    return AudioEncoder.from_config(keys, rate=RATE, seconds=seconds, **settings).eval()


def sounds(rows: int, samples: int, first: int = 0) -> list[np.ndarray]:
    """Tones with noise, each of its own pitch."""
    t = np.arange(samples) / RATE
    rng = [np.random.default_rng(first + i) for i in range(rows)]
    return [
        (0.3 * np.sin(2 * np.pi * (200 + 150 * (first + i)) * t) + 0.1 * r.normal(size=samples))
        .astype(np.float32)
        for i, r in enumerate(rng)
    ]  # fmt: skip


def batch_of(
    waveforms: list[np.ndarray], first: int = 0, seed: int = 3, dtype: torch.dtype = torch.float32
) -> Batch:
    samples = [
        {"waveform": w, "index": first + i, "ordinal": first + i} for i, w in enumerate(waveforms)
    ]
    batch = AudioCollator(seed=seed)(samples)
    batch.inputs["waveform"] = batch.inputs["waveform"].to(dtype)
    return batch
