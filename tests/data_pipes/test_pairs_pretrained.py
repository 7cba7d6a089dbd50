"""Sides that begin with models of the hub: plain transformers folders, with nothing of ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, ViTConfig, ViTImageProcessor, ViTModel

from unlabel.data_pipes.tokens import train_tokenizer
from unlabel.kinds.pairs import PairsOptions
from unlabel.kinds.visual import FramesOptions, VideoOptions
from unlabel.modalities.joint import JointEncoder
from unlabel.objectives import CLIP
from unlabel.pretrain import train
from unlabel.training.arguments import TrainingArguments

TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                        "intermediate_size": 16}  # fmt: skip
CAPTIONS = ["a red square", "a blue circle", "a green cross", "a grey star"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A tiny BERT with its tokenizer, a tiny ViT with its image processor, and pictures."""
    folder, random = tmp_path_factory.mktemp("hub"), np.random.default_rng(0)
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=60, model_max_length=16)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **TINY)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    ViTModel(ViTConfig(image_size=32, patch_size=8, **TINY)).save_pretrained(folder / "vit")
    pixels: dict[str, Any] = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    ViTImageProcessor(size={"height": 32, "width": 32}, **pixels).save_pretrained(folder / "vit")
    for i in range(4):
        pixel = random.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixel).save(folder / f"{i}.png")
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(4)], "caption": CAPTIONS})
    table.to_csv(folder / "list.csv", index=False)
    return folder


def test_sides_begin_with_the_weights_the_words_and_the_pixels_of_hub_folders(saved, tmp_path):
    sides = {
        "text": {"column": "caption", "pretrained": str(saved / "bert")},
        "frames": {"column": "path", "pretrained": str(saved / "vit")},
    }
    run = train(
        objective=CLIP(),
        data=str(saved / "list.csv"),
        modality="pairs",
        pairs=PairsOptions(sides=sides, width=8),
        training=TrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4,
            learning_rate=1e-2, report_to=[],
        ),
    )  # fmt: skip
    begun = JointEncoder.from_pretrained(Path(str(run)) / "untrained")
    text, frames = begun.towers["text"], begun.towers["frames"]
    assert (frames.size, frames.frames) == (32, 1)  # and not those of a new encoder
    torch.testing.assert_close(frames.mean, torch.tensor([0.1, 0.2, 0.3]))
    for tower, kind, name in ((text, BertModel, "bert"), (frames, ViTModel, "vit")):
        own, wanted = tower.model.state_dict(), kind.from_pretrained(saved / name).state_dict()
        assert len(own) > 10 and own.keys() <= wanted.keys()  # the pooler goes unused
        assert all(torch.equal(own[k], wanted[k]) for k in own)
    words = train_tokenizer(CAPTIONS, vocab_size=60, model_max_length=16)
    assert text.tokenizer(CAPTIONS[0])["input_ids"] == words(CAPTIONS[0])["input_ids"]
    trained = JointEncoder.from_pretrained(Path(str(run)) / "model")
    moved = zip(begun.towers.parameters(), trained.towers.parameters(), strict=True)
    assert sum(not torch.equal(a, b) for a, b in moved) > 20


def test_pictures_are_as_large_as_the_folder_says_unless_told_otherwise(saved, tmp_path):
    of = lambda **options: FramesOptions(**options).settled(0, None).size  # noqa: E731
    folder = str(saved / "vit")
    assert (of(), of(pretrained=folder), of(pretrained=folder, size=48)) == (64, 32, 48)
    assert FramesOptions().settled(0, saved / "vit").size == 32
    assert VideoOptions().settled(0, None).frames == 16
    assert FramesOptions(pretrained=folder).encoder(0, None).size == 32
