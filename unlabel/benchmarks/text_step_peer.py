"""The other side of `text_step`: the sentence-transformers trainer, in its own process.

    python -m unlabel.benchmarks.text_step_peer job.json

As that library's users write it: pairs of texts, or for SimCSE each sentence paired with itself,
one forward pass for either column, cosines times `scale` into a cross-entropy.
"""

import json
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import TrainerCallback


class LogFile(TrainerCallback):
    """Makes `log.jsonl` when training begins and appends each log line: what `unlabel train` does.

    The watching process reads off both sides' logs where training began and ended.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the file."""
        self.path.write_text("")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
        """Append one line."""
        with self.path.open("a") as f:
            f.write(json.dumps({**logs, "step": state.global_step}) + "\n")


class TokenCount:
    """Counts the tokens and the padding that a model is given; a forward hook."""

    def __init__(self):
        self.real: Any = 0  # on the device: nobody waits for it
        self.all = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> None:
        """Called before every forward pass with its features."""
        mask = args[0]["attention_mask"]
        self.real = self.real + mask.sum()
        self.all += mask.numel()


def train_peer(job: dict[str, Any]) -> None:
    """Train as the job says; writes the log, the model folder, and `tokens.json`.

    Args:
        job: `model` and `folder` (paths), `corpus` (JSON lines) and its `columns`, `pooling`,
            `max_length`, `scale`, and `training`, transformers' training arguments.
    """
    folder = Path(job["folder"])
    transformer = Transformer(
        job["model"], max_seq_length=job["max_length"], model_kwargs={"dtype": "float32"}
    )
    width = transformer.get_embedding_dimension()
    model = SentenceTransformer(modules=[transformer, Pooling(width, job["pooling"])])
    with Path(job["corpus"]).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    anchor, *_, positive = [[row[name] for row in rows] for name in job["columns"] * 2]
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**job["training"]),
        train_dataset=Dataset.from_dict({"anchor": anchor, "positive": positive}),
        loss=MultipleNegativesRankingLoss(model, scale=job["scale"]),
        callbacks=[LogFile(folder / "log.jsonl")],
    )
    count = TokenCount()
    model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.train()
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    tokens = {"real": int(count.real), "all": count.all}
    (folder / "tokens.json").write_text(json.dumps(tokens) + "\n")


if __name__ == "__main__":
    train_peer(json.loads(Path(sys.argv[1]).read_text()))
