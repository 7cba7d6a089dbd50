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
