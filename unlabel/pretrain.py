"""`unlabel train`: from raw data to a pretrained encoder in a folder."""

import copy
import dataclasses
import json
import logging
import time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import transformers

from unlabel.checks import check_above_0
from unlabel.files import alone_in, write_json
from unlabel.heads import save_heads
from unlabel.kinds.audio import AudioOptions
from unlabel.kinds.pair_sides import SIDES, SideOptions
from unlabel.kinds.pairs import PairsOptions
from unlabel.kinds.series import SeriesOptions
from unlabel.kinds.text import TextOptions
from unlabel.kinds.visual import FramesOptions, VideoOptions
from unlabel.modalities.configs import SETTINGS
from unlabel.objectives import CATALOGUE, Objective
from unlabel.record import FirstBatch, LogFile, describe
from unlabel.refusals import meant
from unlabel.training.arguments import TrainingArguments
from unlabel.training.checkpoint import checkpoints
from unlabel.training.pretraining import Pretraining
from unlabel.training.trainer import Trainer

logger = logging.getLogger(__name__)

Options = SideOptions | PairsOptions
KINDS: dict[str, type[Options]] = {**SIDES, "pairs": PairsOptions}


def train(
    *,
    objective: Objective | str,
    data: str | list[str] | None = None,
    modality: Literal["text", "series", "frames", "video", "audio", "pairs"] = "text",
    text: TextOptions | None = None,
    series: SeriesOptions | None = None,
    frames: FramesOptions | None = None,
    video: VideoOptions | None = None,
    audio: AudioOptions | None = None,
    pairs: PairsOptions | None = None,
    training: TrainingArguments | None = None,
    seeds: int = 1,
    resume: bool = False,
) -> Path:
    """Pretrain an encoder on raw data; the result is a run folder (`training.output_dir`).

    The folder holds `model/` (trained) and `untrained/` (as it began), `run.json`, `log.jsonl`,
    `first_batch.json`, and the checkpoints.

    Args:
        objective: a method by its name in `unlabel list`, or an `Objective`.
        data: a file, folder, glob, list of them, or `hf:name`; None takes what every machine
            has: `docstrings` for text, `synthetic` for the others.
        modality: kind of data.
        text: how to read text, and which encoder to train on it.
        series: how to read time series, and which encoder to train on their windows.
        frames: how to read pictures and single frames, and which encoder to train on them.
        video: how to read videos, how clips lie in them, and which encoder to train on them.
        audio: how to read sound, and which encoder to train on it.
        pairs: what the sides of a sample are, and which encoder to train on each.
        training: transformers' training arguments and ours.
        seeds: train so often, from `training.seed` upwards, each in its own `seed-N` folder.
        resume: continue from the newest whole checkpoint in the run folder.

    Raises:
        ValueError: what came cannot be trained on; the message says why and what would work.
    """
    check_above_0(seeds=seeds)
    args = training or TrainingArguments(output_dir=f"runs/{modality}")
    if "" in (data, args.output_dir):  # else the present folder, as of an unset $VARIABLE
        raise ValueError("An empty --data or --training.output_dir came; name it.")
    out = Path(str(args.output_dir))
    given = {"text": text, "series": series, "frames": frames, "video": video, "audio": audio}
    options = _chosen(modality, **given, pairs=pairs)
    data = options.corpus if data is None else data
    method = named_objective(objective) if isinstance(objective, str) else objective
    for seed in range(args.seed, args.seed + seeds):
        own = copy.deepcopy(args)
        own.seed, own.output_dir = seed, str(out if seeds == 1 else out / f"seed-{seed}")
        if seeds > 1 and resume and _is_done(data, own):
            continue
        run = _folder(own)
        with alone_in(run) if own.process_index == 0 else nullcontext():
            _refuse_overwrite(run, resume)
            done = _train_one(copy.deepcopy(method), data, modality, options, own, resume)
        if not done:
            return out  # asked to stop: the seeds after this one wait for --resume, too
    if args.process_index == 0:
        model = out / ("model" if seeds == 1 else "seed-*/model")
        logger.info("Trained: %s. A page of it: unlabel report %s", model, out)
    return out


def _chosen(modality: str, **given: Options | None) -> Options:
    """The options of the modality; those of another one would be silently unused."""
    if unused := sorted(k for k, v in given.items() if v is not None and k != modality):
        raise ValueError(
            f"Options of {', '.join(unused)} came, but the modality is {modality}; give "
            f"--modality {unused[0]}, or --{modality} options."
        )
    return given[modality] or KINDS[modality]()


def _train_one(
    method: Objective,
    data: str | list[str],
    modality: str,
    options: Options,
    args: TrainingArguments,
    resume: bool,
) -> bool:
    """Whether the training came to its end."""
    run = Path(str(args.output_dir))
    resume = resume and (run / "run.json").is_file()  # else it stopped before it began
    transformers.set_seed(args.seed)
    started = time.time()
    before = json.loads((run / "run.json").read_text()) if resume else None
    kept = {} if before is None else _keep_batch(before, args, run)

    untrained = run / "untrained"
    begun = untrained if resume and (untrained / SETTINGS).is_file() else None
    if isinstance(options, FramesOptions):
        options = options.settled(args.seed, begun)  # as it is written down
    prepared = options.prepare(data, method, args, begun)
    model = prepared.encoder
    transformers.set_seed(args.seed)  # the heads start alike, however the encoder was made
    pretraining = Pretraining(model, method, prepared.samples, prepared.classes)
    lead = args.process_index == 0
    if lead and not resume:
        model.save_pretrained(untrained)
    about = {
        "modality": modality,
        "data": _said(data),
        "encoder": dataclasses.asdict(options),
        "objective": describe(method),
        "papers": method.paper,
        "training": _plain(vars(args)) | kept,
        "architecture": _architecture(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": prepared.samples,
        "classes": prepared.classes,
        "bytes": prepared.bytes,
        "content": prepared.content,
        "processes": args.world_size if before is None else before["processes"],
        "read": prepared.read,
        "versions": {p: version(p) for p in ("torch", "transformers", "unlabel")},
    }
    if before is not None:
        _refuse_other_run(before, about, run)
    elif lead:
        write_json(run / "run.json", about)
    store, collate = prepared.store, model.collator(seed=args.seed)
    # What is sharded stays so: the whole of it is put together in a second module in the end.
    spare = copy.deepcopy(pretraining) if args.fsdp else None
    first = FirstBatch(run, spare or pretraining, store, collate)
    trainer = Trainer(pretraining, args, store, collate, callbacks=[LogFile(run), first])
    result = trainer.train(resume_from_checkpoint=resume)
    finished = trainer.state.global_step >= trainer.state.max_steps
    if spare is not None:
        spare.load_state_dict(trainer.whole_state())
        spare.to(args.device)
        model, method = spare.encoder, spare.objective
    if lead:
        model.save_pretrained(run / "model")
        save_heads(method, run)
        about["result"] = {
            "finished": finished,
            "steps": trainer.state.global_step,
            "skipped_steps": trainer.skipped,
            "seconds": round(time.time() - started, 1),
            "train_seconds": round(result.metrics["train_runtime"], 1),
            "samples_per_second": result.metrics["train_samples_per_second"],
            "waiting_share": round(result.metrics["waiting"], 4),
        }
        if hasattr(trainer, "batches"):
            about["result"]["padding"] = trainer.batches.padding_share()
        write_json(run / "run.json", about)
        first.fill(args.device)
        first.draw()
    if lead and not finished:
        logger.warning(
            "Stopped at step %d of %d; continue with --resume.",
            trainer.state.global_step,
            trainer.state.max_steps,
        )
    return finished


def _architecture(encoder: Any) -> str:
    towers = getattr(encoder, "towers", None)
    each = [encoder] if towers is None else towers.values()
    return ", ".join(e.model.config.model_type for e in each)


def is_finished(run: Path) -> bool:
    """Whether a run's folder says that its training came to its end."""
    about = run / "run.json"
    return about.is_file() and bool(json.loads(about.read_text()).get("result", {}).get("finished"))


def named_objective(name: str) -> Objective:
    """The catalogue's method of that name with its default arguments.

    Raises:
        ValueError: no such method.
    """
    if name.lower() not in CATALOGUE:
        near = meant(name, CATALOGUE)
        raise ValueError(f"No objective {name!r}{near}; `unlabel list` names all.")
    return CATALOGUE[name.lower()]()


def _folder(args: TrainingArguments) -> Path:
    """The run's folder, made where it is missing."""
    run = Path(str(args.output_dir))
    if file := next((p for p in (run, *run.parents) if p.is_file()), None):
        raise ValueError(f"{file} is a file; give --training.output_dir a folder.")
    run.mkdir(parents=True, exist_ok=True)
    return run


def _refuse_overwrite(run: Path, resume: bool) -> None:
    if not resume and ((run / "model").exists() or checkpoints(run)):
        raise ValueError(
            f"{run} holds a run already. Continue it with --resume, or give another "
            "--training.output_dir."
        )


def _keep_batch(before: dict[str, Any], args: TrainingArguments, run: Path) -> dict[str, Any]:
    """Share the batch of a run that began on another number of processes out among these.

    Its samples come in the same batches then. Where they cannot be shared out evenly, the batch
    is the nearest one; what is left of an epoch comes once all the same.

    Returns:
        What the run's record says of it, as it began.
    """
    size, processes = before["training"]["per_device_train_batch_size"], before["processes"]
    asked, whole, now = args.per_device_train_batch_size, size * processes, args.world_size
    if processes == now or asked not in (size, whole / now):
        return {"per_device_train_batch_size": asked}  # another recipe's will be refused
    args.per_device_train_batch_size = own = max(1, round(whole / now))
    if own * now != whole and before["samples"] is None:
        raise ValueError(
            f"{run} was begun with {whole} samples of a stream a step, which {now} processes "
            "cannot share evenly; take a number of them that can."
        )
    sizes = f"{own} samples a step on each, {own * now} together"
    changed = "" if own * now == whole else f", not {whole}"
    logger.warning("%s goes on on %d processes, not %d: %s%s.", run, now, processes, sizes, changed)
    return {"per_device_train_batch_size": size}


_KEPT = (  # of the training arguments, from a run's beginning to its end
    "seed", "per_device_train_batch_size", "gradient_accumulation_steps", "length_window",
    "micro_tokens",
    # A checkpoint brings its own of these: another one would be said, and not heeded.
    "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
)  # fmt: skip


def _is_done(data: str | list[str], args: TrainingArguments) -> bool:
    """Whether a seed's run is finished, as far as it is asked for now."""
    run = Path(str(args.output_dir))
    if not is_finished(run):
        return False
    before = json.loads((run / "run.json").read_text())
    asked = _plain(vars(args))
    length = ("max_steps", "num_train_epochs")
    same = all(before["training"].get(k) == asked[k] for k in (*_KEPT, *length))
    return same and before["data"] == _said(data)


def _said(data: str | list[str]) -> str | list[str]:
    return [str(d) for d in data] if isinstance(data, list) else data


def _refuse_other_run(before: dict[str, Any], now: dict[str, Any], run: Path) -> None:
    names = {n: n for n in ("data", "encoder", "objective")}
    names |= {"samples": "number of samples", "bytes": "size of its files"}
    names |= {"content": "content of its data"}
    kept = {n: before.get(n) for n in names}
    for name in ("bytes", "content"):  # an earlier version did not write them down
        kept[name] = now[name] if kept[name] is None else kept[name]
    other = [said for n, said in names.items() if json.dumps(kept[n]) != json.dumps(now[n])]
    old, new = before.get("training", {}), now["training"]
    other += [f"training.{k}" for k in _KEPT if old.get(k, 0) != new.get(k)]
    if other:
        raise ValueError(
            f"{run} was begun with another {', '.join(other)}, so it cannot be continued with "
            "these. Resume with the recipe it was begun with, or give another output_dir."
        )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    # Tokens for hubs and trackers are nobody's business but the user's.
    kept = {k: v for k, v in values.items() if not (k.endswith("_token") or k.startswith("_"))}
    return {k: v for k, v in kept.items() if isinstance(v, int | float | str | bool | None)}
