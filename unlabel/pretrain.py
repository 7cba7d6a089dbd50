"""`unlabel train`: from raw text to a pretrained encoder in a folder."""

import copy
import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import TrainerCallback

from unlabel.core import View
from unlabel.data_pipes.docstrings import docstring_corpus
from unlabel.data_pipes.sampling import StreamBatches
from unlabel.data_pipes.text import TextData, TextStream, read_text
from unlabel.data_pipes.tokens import TokenStore, train_tokenizer
from unlabel.files import write_json
from unlabel.modalities.text import TextEncoder
from unlabel.objectives import CATALOGUE, Objective
from unlabel.objectives.gather import world
from unlabel.objectives.heads import Temperature
from unlabel.training.arguments import TrainingArguments
from unlabel.training.checkpoint import checkpoints
from unlabel.training.pretraining import Pretraining
from unlabel.training.trainer import Trainer

logger = logging.getLogger(__name__)

# A BERT that two cores can train: 4 blocks, 256 wide, 4 heads.
SMALL_BERT = {
    "model_type": "bert",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}


@dataclass
class TextOptions:
    """Which text encoder to train.

    Args:
        pretrained: folder or hub name to start from; None starts from random weights. `{seed}`
            in it becomes the run's seed, so that each seed continues its own earlier run.
        config: transformers configuration of a new encoder (default: a small BERT).
        vocabulary: token ids of the tokenizer trained on the corpus, for a new encoder.
        lowercase: the new tokenizer ignores case.
        pooling: `cls`, `mean` or `first_last`; None takes the pretrained folder's, else `mean`.
        max_length: longest sentence in tokens.
        dropout: sets every dropout probability; None leaves the model's own.
    """

    pretrained: str | None = None
    config: dict[str, Any] = field(default_factory=lambda: dict(SMALL_BERT))
    vocabulary: int = 16_000
    lowercase: bool = True
    pooling: str | None = None
    max_length: int = 32
    dropout: float | None = None


@dataclass
class DataOptions:
    """How to read the data.

    Args:
        column: the column of a table that holds the text.
        columns: several columns instead: anchor, positive and perhaps hard negative.
        limit: records read at most.
        min_words: shorter sentences are left out.
        streaming: read while training and hold nothing in memory (needs `max_steps`).
        tokenizer_sentences: sentences that a new tokenizer is trained on at most.
    """

    column: str | None = None
    columns: list[str] | None = None
    limit: int | None = None
    min_words: int = 1
    streaming: bool = False
    tokenizer_sentences: int = 200_000


def train(
    *,
    objective: Objective | str,
    data: str | list[str] = "docstrings",
    modality: Literal["text"] = "text",
    encoder: TextOptions | None = None,
    reading: DataOptions | None = None,
    training: TrainingArguments | None = None,
    seeds: int = 1,
    resume: bool = False,
) -> Path:
    """Pretrain an encoder on raw data; the result is a run folder (`training.output_dir`).

    The folder holds `model/` (trained) and `untrained/` (as it began), `run.json`, `log.jsonl`,
    `first_batch.json`, and the checkpoints.

    Args:
        objective: a method by its name in `unlabel list`, or an `Objective`.
        data: a file, folder, glob, list of them, `hf:name`, or `docstrings`, the corpus that
            every Python machine has.
        modality: kind of data.
        encoder: which encoder to train.
        reading: how to read the data.
        training: transformers' training arguments and ours.
        seeds: train so often, from `training.seed` upwards, each in its own `seed-N` folder.
        resume: continue from the newest whole checkpoint in the run folder.

    Raises:
        ValueError: what came cannot be trained on; the message says why and what would work.
    """
    args = training or TrainingArguments(output_dir="runs/text")
    out = Path(str(args.output_dir))
    encoder_options, reading = encoder or TextOptions(), reading or DataOptions()
    method = named_objective(objective) if isinstance(objective, str) else objective
    if seeds == 1:
        _train_one(method, data, modality, encoder_options, reading, args, resume)
        return out
    for seed in range(args.seed, args.seed + seeds):
        folder = str(out / f"seed-{seed}")
        if resume and _is_finished(Path(folder)):
            continue
        own = copy.deepcopy(args)
        own.seed, own.output_dir = seed, folder
        _train_one(copy.deepcopy(method), data, modality, encoder_options, reading, own, resume)
    return out


def _train_one(
    method: Objective,
    data: str | list[str],
    modality: str,
    encoder_options: TextOptions,
    reading: DataOptions,
    args: TrainingArguments,
    resume: bool,
) -> None:
    run = Path(str(args.output_dir))
    _refuse_overwrite(run, resume)
    _refuse_no_steps(reading, args)
    resume = resume and (run / "run.json").is_file()  # else it stopped before it began
    run.mkdir(parents=True, exist_ok=True)
    transformers.set_seed(args.seed)
    started = time.time()

    source = _read(data, reading)
    model = _encoder(encoder_options, source, reading, run, args.seed, resume)
    store = _store(source, model, args)
    transformers.set_seed(args.seed)  # the heads start alike, however the encoder was made
    pretraining = Pretraining(model, method)
    lead = args.process_index == 0
    if lead and not resume:
        model.save_pretrained(run / "untrained")
    about = {
        "modality": modality,
        "data": data if isinstance(data, str) else [str(d) for d in data],
        "encoder": dataclasses.asdict(encoder_options),
        "objective": describe(method),
        "papers": method.paper,
        "reading": dataclasses.asdict(reading),
        "training": _plain(vars(args)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": len(store) if isinstance(store, TokenStore) else None,
        "read": source.report.summary(),
        "versions": {p: version(p) for p in ("torch", "transformers", "unlabel")},
    }
    if resume:
        _refuse_other_run(json.loads((run / "run.json").read_text()), about, run)
    elif lead:
        write_json(run / "run.json", about)
    trainer = Trainer(
        pretraining,
        args,
        store,
        model.collator(seed=args.seed),
        callbacks=[LogFile(run), FirstBatch(run, pretraining)],
    )
    result = trainer.train(resume_from_checkpoint=resume)
    finished = trainer.state.global_step >= trainer.state.max_steps
    if lead:
        model.save_pretrained(run / "model")
        about["result"] = {
            "finished": finished,
            "steps": trainer.state.global_step,
            "skipped_steps": trainer.skipped,
            "seconds": round(time.time() - started, 1),
            "train_seconds": round(result.metrics["train_runtime"], 1),
            "samples_per_second": result.metrics["train_samples_per_second"],
        }
        if isinstance(store, TokenStore) and hasattr(trainer, "batches"):
            about["result"]["padding"] = trainer.batches.padding_share()
        write_json(run / "run.json", about)
    if not finished:
        logger.warning(
            "Stopped at step %d of %d; continue with --resume.",
            trainer.state.global_step,
            trainer.state.max_steps,
        )


def _is_finished(run: Path) -> bool:
    about = run / "run.json"
    return about.is_file() and bool(json.loads(about.read_text()).get("result", {}).get("finished"))


def named_objective(name: str) -> Objective:
    """The catalogue's method of that name with its default arguments.

    Raises:
        ValueError: no such method.
    """
    if name.lower() not in CATALOGUE:
        raise ValueError(f"No objective {name!r}; `unlabel list` knows {', '.join(CATALOGUE)}.")
    return CATALOGUE[name.lower()]()


def describe(objective: Objective) -> dict[str, Any]:
    """An objective's class and settings, for the record of the run."""
    parts = getattr(objective, "parts", None)
    if parts is not None:
        return {
            "class": type(objective).__name__,
            "parts": {n: describe(p) for n, p in parts.items()},
            "weights": objective.weights,
        }
    kept = (int, float, str, bool)
    settings = {
        k: v
        for k, v in vars(objective).items()
        if isinstance(v, kept) and not k.startswith("_") and k != "training"
    }
    for name, module in objective.named_children():
        if isinstance(module, Temperature):
            settings |= {name: module.value, f"learn_{name}": module.log_scale is not None}
    views = [
        " ".join([v.name, *(f"{k}={x}" for k, x in v.args), *([v.partner] if v.partner else [])])
        for v in objective.views
    ]
    return {"class": type(objective).__name__, "settings": settings, "views": views}


def _read(data: str | Sequence[str], reading: DataOptions) -> TextData | TextStream:
    if data == "docstrings":
        return docstring_corpus(limit=reading.limit, progress=True)
    source = read_text(
        data,
        column=reading.column,
        columns=reading.columns,
        limit=reading.limit,
        min_words=reading.min_words,
        streaming=reading.streaming,
    )
    logger.info("%s", source.report.summary())
    return source


def _encoder(
    options: TextOptions,
    source: TextData | TextStream,
    reading: DataOptions,
    run: Path,
    seed: int,
    resume: bool,
) -> TextEncoder:
    chosen: dict[str, Any] = {"max_length": options.max_length}
    if resume and (run / "untrained" / "config.json").is_file():
        # The tokenizer and configuration of the run as it began; the weights come after.
        return TextEncoder.from_pretrained(run / "untrained", dropout=options.dropout)
    if options.pretrained is not None:
        return TextEncoder.from_pretrained(
            options.pretrained.replace("{seed}", str(seed)),
            pooling=options.pooling,
            dropout=options.dropout,
            **chosen,
        )
    texts = []
    for record in source:
        texts.extend(record.values())
        if len(texts) >= reading.tokenizer_sentences:
            break
    tokenizer = train_tokenizer(
        texts,
        vocab_size=options.vocabulary,
        lowercase=options.lowercase,
        model_max_length=options.max_length,
    )
    config = (
        {**SMALL_BERT, **options.config}
        if options.config.get("model_type", "bert") == "bert"
        else dict(options.config)
    )
    return TextEncoder.from_config(
        config,
        tokenizer,
        dropout=options.dropout,
        pooling=options.pooling or "mean",
        **chosen,
    )


def _store(
    source: TextData | TextStream, model: TextEncoder, args: TrainingArguments
) -> TokenStore | StreamBatches:
    if isinstance(source, TextStream):
        rank, size = world()
        return StreamBatches(
            source,
            model.tokenize,
            args.per_device_train_batch_size,
            seed=args.seed,
            window=args.length_window,
            rank=rank,
            world_size=size,
            passes=None,
        )
    names: list[str] = ["positive", "negative"]
    partners = dict(zip(names, source.partners.values(), strict=False))
    return TokenStore(source.texts, model.tokenizer, max_length=model.max_length, partners=partners)


class LogFile(TrainerCallback):
    """Appends every log line to `log.jsonl`; a resumed run drops the lines it will repeat."""

    def __init__(self, run: Path):
        self.path = run / "log.jsonl"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the file from what the checkpoint remembers."""
        if state.is_world_process_zero:
            lines = [json.dumps(line) + "\n" for line in state.log_history]
            self.path.write_text("".join(lines))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
        """Append one line."""
        if state.is_world_process_zero:
            with self.path.open("a") as f:
                f.write(json.dumps({**logs, "step": state.global_step}) + "\n")


class FirstBatch(TrainerCallback):
    """Saves what the encoder sees of the first samples, for the report."""

    def __init__(self, run: Path, module: Pretraining, rows: int = 6):
        self.path, self.module, self.rows = run / "first_batch.json", module, rows

    def on_train_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kw: Any
    ) -> None:
        """Take the loader's first batch apart, once."""
        if not state.is_world_process_zero or self.path.exists():
            return
        batch = next(iter(train_dataloader)).to(args.device)
        specs = self.module.objective.views
        shown = []
        for spec, view in zip(specs, self.module.view(batch), strict=True):
            rows = [self._tokens(view, i) for i in range(min(self.rows, len(batch)))]
            shown.append(
                {
                    "view": spec.name,
                    "args": dict(spec.args),
                    "encoder": spec.encoder,
                    "sentences": rows,
                }
            )
        write_json(self.path, {"index": batch.index[: self.rows].tolist(), "views": shown})

    def _tokens(self, view: View, row: int) -> list[dict[str, str]]:
        tokenizer = self.module.encoder.tokenizer
        ids = view.inputs["input_ids"][row]
        real = view.mask[row].clone()
        if view.keep_positions is not None:
            real |= ~view.keep_positions[row] & (ids != tokenizer.pad_token_id)
        out = []
        for i in torch.nonzero(real)[:, 0].tolist():
            state = "seen"
            if view.keep_positions is not None and not view.keep_positions[row, i]:
                state = "cut"
            elif view.is_target is not None and view.is_target[row, i]:
                state = "masked"
            entry = {"token": tokenizer.convert_ids_to_tokens(int(ids[i])), "state": state}
            if state == "masked" and view.target is not None:
                entry["target"] = tokenizer.convert_ids_to_tokens(int(view.target[row, i]))
            out.append(entry)
        return out


def _refuse_overwrite(run: Path, resume: bool) -> None:
    if not resume and ((run / "model").exists() or checkpoints(run)):
        raise ValueError(
            f"{run} holds a run already. Continue it with --resume, or give another "
            "--training.output_dir."
        )


def _refuse_other_run(before: dict[str, Any], now: dict[str, Any], run: Path) -> None:
    names = ("data", "encoder", "objective", "reading", "samples")
    other = [n for n in names if json.dumps(before.get(n)) != json.dumps(now[n])]
    keys = ("seed", "per_device_train_batch_size", "gradient_accumulation_steps", "length_window")
    old, new = before.get("training", {}), now["training"]
    other += [f"training.{k}" for k in keys if old.get(k) != new.get(k)]
    if other:
        raise ValueError(
            f"{run} was begun with another {', '.join(other)}, so it cannot be continued with "
            "these. Resume with the recipe it was begun with, or give another output_dir."
        )


def _refuse_no_steps(reading: DataOptions, args: TrainingArguments) -> None:
    if reading.streaming and args.max_steps <= 0:
        raise ValueError("A stream has no end that is known: give --training.max_steps.")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    # Tokens for hubs and trackers are nobody's business but the user's.
    kept = {k: v for k, v in values.items() if not (k.endswith("_token") or k.startswith("_"))}
    return {k: v for k, v in kept.items() if isinstance(v, int | float | str | bool | None)}
