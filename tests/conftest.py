"""What all tests share: where the real data is, and that a run without it says so."""

import gc
import importlib
import os
from pathlib import Path

import pytest

# Tiny models are slower on two threads than on one; this must come before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# transformers imports torchaudio where that is installed, which must be able to load by then.
importlib.import_module("unlabel")


@pytest.fixture(scope="module", autouse=True)
def imports_stay() -> None:
    """Spare the garbage collector what is imported: each training run collects, 0.3 s a time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The shared data, or a skip that says why."""
    folder = os.environ.get("UNLABEL_DATA")
    if not folder or not Path(folder).is_dir():
        reason = f"UNLABEL_DATA is {folder or 'not set'}: no folder of real data to test on"
        if os.environ.get("UNLABEL_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(folder)


SENTENCES = [
    "A man with a hard hat is dancing in the street.",
    "The regional capital is thirty six kilometres away.",
    "The assault was filmed and broadcast on television.",
    "Their goal is to locate and assist blinded veterans.",
    "Albions continued to be made in a range of sizes.",
    "A young child is riding a large brown horse.",
    "Return the sum of the values along the given axis.",
    "Open the file and read all of its lines into a list.",
    "The quick brown fox jumps over the lazy dog.",
    "Rain fell all day on the roofs of the old town.",
    "She counted the coins twice before she paid.",
    "An encoder maps sentences to vectors of numbers.",
    "The river bends twice before it meets the sea.",
    "He wrote a letter to the editor of the paper.",
    "Snow is rare here.",
    "No model was trained on the sentences of the test set.",
]


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Sixteen sentences of different lengths."""
    return list(SENTENCES)


@pytest.fixture(scope="session")
def tokenizer():
    """A word-piece tokenizer trained on the sentences."""
    from unlabel.data_pipes.tokens import train_tokenizer

    return train_tokenizer(SENTENCES, vocab_size=200, model_max_length=32)


@pytest.fixture
def make_encoder(tokenizer):
    """Makes a tiny BERT; `make_encoder(dropout=0.0, pooling="cls")`."""
    import torch

    from unlabel.modalities.text import TextEncoder

    def make(*, dropout: float = 0.1, pooling: str = "mean", seed: int = 0, **config):
        torch.manual_seed(seed)
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 40,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }
        return TextEncoder.from_config(
            {**sizes, **config}, tokenizer, pooling=pooling, max_length=32
        )

    return make


@pytest.fixture
def make_joint(make_encoder):
    """Makes a tiny encoder of several sides; `make_joint("text", "video", locked=["text"])`."""
    import torch

    from unlabel.modalities.audio import AudioEncoder
    from unlabel.modalities.joint import JointEncoder
    from unlabel.modalities.series import SeriesEncoder
    from unlabel.modalities.visual import PictureEncoder, VisualEncoder

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small["intermediate_size"] = 32
    patches = {"patch_length": 6, "d_model": 16, "ffn_dim": 32, "num_attention_heads": 2}
    spectrogram = {**small, "num_mel_bins": 16, "patch_size": 8}
    kinds = {
        "text": lambda: make_encoder(dropout=0.0, seed=3),
        "series": lambda: SeriesEncoder.from_config(patches, context=48),
        "frames": lambda: PictureEncoder.from_config(small, frames=1, size=16),
        "video": lambda: VisualEncoder.from_config(small, frames=4, size=16),
        "audio": lambda: AudioEncoder.from_config(spectrogram, rate=8_000, seconds=0.5),
    }

    def make(*sides: str, width: int = 8, **settings):
        torch.manual_seed(0)
        towers = {side: kinds[side]() for side in sides or kinds}
        return JointEncoder(towers, width=width, **settings).eval()

    return make


@pytest.fixture
def joint_data(sentences):
    """Four samples of each kind, as its encoder's `encode` takes them."""
    import numpy as np

    rng = np.random.default_rng(0)
    series = rng.normal(size=(4, 48, 1)).cumsum(1).astype(np.float32) + 20
    series[1, 10:20] = np.nan
    sound = (0.3 * rng.normal(size=(4, 3_840))).astype(np.float32)
    sound[2, 2_500:] = 0
    return {
        "text": sentences[:4],
        "series": series,
        "frames": rng.integers(0, 256, (4, 16, 16, 3), np.uint8),
        "video": rng.integers(0, 256, (4, 4, 16, 16, 3), np.uint8),
        "audio": sound,
    }


@pytest.fixture
def make_batch(sentences):
    """Makes a batch of the sentences; `make_batch(encoder, rows=8, first=0)`."""

    def make(encoder, rows: int = 8, first: int = 0, seed: int = 3, partners: bool = False):
        ids = encoder.tokenize(sentences)
        samples = []
        for i in range(first, first + rows):
            sample = {"input_ids": ids[i], "index": i, "ordinal": i}
            if partners:
                sample["partners"] = {"positive": ids[(i + 1) % 16], "negative": ids[(i + 5) % 16]}
            samples.append(sample)
        return encoder.collator(seed=seed)(samples)

    return make
