"""The two trainings that `text_step` compares, each in a process that is watched from outside."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

POLL = 0.05  # seconds between two looks at a training process
TEMPERATURE = 0.05


@dataclass(frozen=True)
class Work:
    """What both sides are given to do.

    Attributes:
        model: folder of the weights both start from.
        columns: of the corpus: sentences, each its own partner (SimCSE), or pairs of texts.
        batch: sentences a step.
        max_length: longest sentence in tokens, special ones included.
        pooling: `cls` or `mean`.
        length_window: batches that ours sorts by length together.
        unpadded: ours sends real tokens alone through the model.
        bf16: both multiply in bfloat16.
        lr: learning rate of the first step; it falls to 0 in a straight line.
        threads: of torch, in each process.
        sentences: how many, or pairs; each is seen once, as two texts.
        tokens: how many tokens these have.
        tokenise_seconds: what tokenising them once takes.
        tokenise_cpu_seconds: the same in CPU time.
    """

    model: str
    columns: tuple[str, ...]
    batch: int
    max_length: int
    pooling: str
    length_window: int
    unpadded: bool
    bf16: bool
    lr: float
    threads: int
    sentences: int
    tokens: int
    tokenise_seconds: float
    tokenise_cpu_seconds: float


@dataclass(frozen=True)
class Run:
    """One training by one side.

    Attributes:
        loop_seconds: wall time of the training loop.
        loop_cpu_seconds: CPU time of the process meanwhile.
        seconds: the loop with the tokenising of the sentences, wherever that happens.
        cpu_seconds: the same in CPU time.
        rate: sentences a second of `seconds`.
        cpu_rate: sentences a second of `cpu_seconds`.
        padding: share of the positions in its batches that are padding.
        train_loss: mean over the steps.
        load: processes that waited for the machine's cores, mean of the last minute.
    """

    loop_seconds: float
    loop_cpu_seconds: float
    seconds: float
    cpu_seconds: float
    rate: float
    cpu_rate: float
    padding: float
    train_loss: float
    load: float


def _arguments(work: Work, folder: Path, seed: int) -> dict[str, Any]:
    """Training arguments of transformers, the same for both sides."""
    return {
        "output_dir": str(folder),
        "seed": seed,
        "per_device_train_batch_size": work.batch,
        "num_train_epochs": 1,
        "learning_rate": work.lr,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": work.bf16,
        "fp16": False,
        "dataloader_drop_last": True,
        "dataloader_num_workers": 0,
        "logging_steps": 10,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def train_ours(work: Work, corpus: Path, folder: Path, seed: int) -> Run:
    """Train by `unlabel train`; the encoder is left in `folder/model`.

    Args:
        work: what to do.
        corpus: the sentences or pairs, JSON lines.
        folder: a new one, for everything this training writes.
        seed: of the run.

    Raises:
        RuntimeError: it failed, or did not make the steps that were asked for.
    """
    pairs = len(work.columns) > 1
    method = {"temperature": TEMPERATURE, "projector": False}
    recipe = {
        "data": str(corpus),
        "objective": {
            "class_path": f"unlabel.objectives.{'Pairs' if pairs else 'SimCSE'}",
            "init_args": method,
        },
        "text": {
            **({"columns": list(work.columns)} if pairs else {"column": work.columns[0]}),
            "pretrained": str(Path(work.model).resolve()),
            "pooling": work.pooling,
            "max_length": work.max_length,
            "unpadded": work.unpadded,
        },
        "training": {**_arguments(work, folder, seed), "length_window": work.length_window},
    }
    file = folder.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(recipe))  # JSON is YAML
    command = [sys.executable, "-m", "unlabel.cli", "train", str(file)]
    line, cpu = timed(command, folder, work)
    padding = json.loads((folder / "run.json").read_text())["result"]["padding"]["by_length"]
    return _run(work, line, cpu, padding, tokenised=False)


def train_peer(work: Work, corpus: Path, folder: Path, seed: int) -> Run:
    """Train by the sentence-transformers trainer, see `train_ours`.

    Raises:
        RuntimeError: as `train_ours`; or it saw other tokens than we do.
    """
    folder.mkdir(parents=True)
    job = {
        "model": str(Path(work.model).resolve()),
        "folder": str(folder),
        "corpus": str(corpus),
        "columns": work.columns,
        "pooling": work.pooling,
        "max_length": work.max_length,
        "scale": 1 / TEMPERATURE,
        "training": _arguments(work, folder, seed),
    }
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "unlabel.benchmarks.text_step_peer", str(file)]
    line, cpu = timed(command, folder, work)
    seen = json.loads((folder / "tokens.json").read_text())
    if seen["real"] != work.tokens:
        raise RuntimeError(
            f"The two sides did not see the same tokens: sentence-transformers {seen['real']}, "
            f"unlabel {work.tokens}; their tokenisers read {work.model} differently."
        )
    return _run(work, line, cpu, 1 - seen["real"] / seen["all"], tokenised=True)


def _run(work: Work, line: dict[str, Any], cpu: float, padding: float, *, tokenised: bool) -> Run:
    seconds, cpu_seconds = line["train_runtime"], cpu
    if not tokenised:
        seconds += work.tokenise_seconds
        cpu_seconds += work.tokenise_cpu_seconds
    return Run(
        loop_seconds=line["train_runtime"],
        loop_cpu_seconds=cpu,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        rate=work.sentences / seconds,
        cpu_rate=work.sentences / cpu_seconds,
        padding=padding,
        train_loss=line["train_loss"],
        load=psutil.getloadavg()[0],
    )


# -- a training process, watched ----------------------------------------------------------------


def timed(command: list[str], folder: Path, work: Work) -> tuple[dict[str, Any], float]:
    """Run a training and take its time.

    Args:
        command: makes `log.jsonl` when its loop begins, and ends it with a line that has a
            `train_runtime` and the number of the `step`.
        folder: where it does; what it prints goes beside it.
        work: gives the threads, and the steps that are expected.

    Returns:
        The last line of the log, and the process's CPU seconds between the two moments.

    Raises:
        RuntimeError: it failed (with what it printed), was too short, or made other steps.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(work.threads))
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    said = folder.with_suffix(".out")
    with said.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **threads, **quiet}
        )
        try:
            cpu = _cpu_of_loop(process, folder / "log.jsonl")
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
    if process.returncode != 0:
        tail = said.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command[1:])} ended with {process.returncode}:\n{tail}")
    if not cpu:
        raise RuntimeError("The training was too short to be timed; take more sentences.")
    line = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    if line["step"] != work.sentences // work.batch:
        raise RuntimeError(
            f"{' '.join(command[1:])} made {line['step']} steps, not the "
            f"{work.sentences // work.batch} that were asked for."
        )
    return line, cpu


def _cpu_of_loop(process: subprocess.Popen, log: Path) -> float | None:
    """CPU seconds from the moment the log is there to its line that ends the training."""
    began = None
    child = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            used = sum(child.cpu_times()[:2])  # user and system, all threads
        except psutil.NoSuchProcess:
            return None
        if log.exists():
            began = used if began is None else began
            if "train_runtime" in log.read_text():
                return used - began
        time.sleep(POLL)
    return None
