"""What does the trainer cost beside a bare loop over the same batches?

    python -m unlabel.benchmarks.overhead

The bare loop is what one would write by hand: batches of the same loader, the same views, encoder,
loss and optimizer, no log, monitor, check of the gradient or checkpoint. Both train the same small
encoder from the same weights in this process, in turn, round after round, and count CPU seconds
(wall seconds on a GPU) a step after a few that warm up, so that the ratio holds on a shared
machine. The trainer logs every ten steps and looks at its monitors, as it does by default.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, TrainerCallback

from unlabel.benchmarks.commands import run_command
from unlabel.pretrain import KINDS, named_objective
from unlabel.training.arguments import TrainingArguments
from unlabel.training.pretraining import Pretraining
from unlabel.training.trainer import Trainer

_WARM_UP = 10
_BERT = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
# kind -> method, its options, samples a step.
WORK: dict[str, tuple[str, dict[str, Any], int]] = {
    "text": ("simcse", {"limit": 8000, "config": {**_BERT, "intermediate_size": 256}}, 64),
    "series": ("ts2vec", {}, 16),
    "frames": ("simclr", {"size": 32, "config": {"model_type": "resnet", "hidden_sizes": [16, 32],
               "depths": [1, 1], "layer_type": "basic", "embedding_size": 16}}, 64),
    "audio": ("simclr", {}, 32),
}  # fmt: skip


def overhead(
    *,
    kinds: list[str] | None = None,
    steps: int = 60,
    rounds: int = 3,
    threads: int = 1,
    seed: int = 0,
    output: str | None = None,
) -> list[dict[str, Any]]:
    """Train side by side, print the table, and return its rows.

    Args:
        kinds: of data, on what every machine has of it; None for text, series, frames and audio.
        steps: of each side and round, after ten to warm up.
        rounds: trainings of each side.
        threads: of torch.
        seed: of the first round.
        output: JSON file for the rows.

    Raises:
        ValueError: an unknown kind, or no step or round.
    """
    if unknown := sorted(set(kinds or []) - set(WORK)):
        raise ValueError(f"There is no kind {unknown[0]!r}; the kinds are {', '.join(WORK)}.")
    if steps < 1 or rounds < 1:
        raise ValueError(f"steps and rounds are at least 1, but {steps} and {rounds} came.")
    torch.set_num_threads(threads)
    rows = [_compare(kind, steps, rounds, seed) for kind in kinds or WORK]
    Console(width=100).print(_table(rows, threads))
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def _compare(kind: str, steps: int, rounds: int, seed: int) -> dict[str, Any]:
    taken: dict[str, list[float]] = {"trainer": [], "bare": []}
    losses = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            made = [_trainer(kind, Path(folder) / side, steps, seed + number) for side in taken]
        turns = list(zip(taken, made, strict=True))
        found = {}
        for side, trainer in turns if number % 2 == 0 else reversed(turns):
            seconds, found[side] = (_trained if side == "trainer" else _bare)(trainer, steps)
            taken[side].append(1000 * seconds / steps)
        losses.append(found)
    ratios = [t / b for t, b in zip(taken["trainer"], taken["bare"], strict=True)]
    middle = {f"{side}_ms": statistics.median(values) for side, values in taken.items()}
    return {
        "kind": kind,
        "method": WORK[kind][0],
        "batch": WORK[kind][2],
        "parameters": sum(p.numel() for p in made[0].model.encoder.parameters()),
        **middle,
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "losses": losses,
    }


def _trainer(kind: str, folder: Path, steps: int, seed: int) -> Trainer:
    name, options, batch = WORK[kind]
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch, max_steps=_WARM_UP + steps,
        save_strategy="no", report_to="none", disable_tqdm=True, seed=seed,
    )  # fmt: skip
    chosen: Any = KINDS[kind](**options)
    transformers.set_seed(seed)
    method = named_objective(name)
    prepared = chosen.prepare(chosen.corpus, method, args, None)
    module = Pretraining(prepared.encoder, method, prepared.samples, prepared.classes)
    trainer = Trainer(module, args, prepared.store, prepared.encoder.collator(seed=seed))
    trainer.remove_callback(PrinterCallback)
    return trainer


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class _Stopwatch(TrainerCallback):
    """The clock at the end of the steps that warm up, and of the last one."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (_WARM_UP, state.max_steps):
            self.times.append(_clock(args.device))


def _trained(trainer: Trainer, steps: int) -> tuple[float, float]:
    """Seconds of the steps, and the loss of the last ones."""
    watch = _Stopwatch()
    trainer.add_callback(watch)
    trainer.train()
    start, end = watch.times
    return end - start, [x["loss"] for x in trainer.state.log_history if "loss" in x][-1]


def _bare(trainer: Trainer, steps: int) -> tuple[float, float]:
    """The same by hand, with the trainer's loader, optimizer and schedule."""
    module, device = trainer.model.to(trainer.args.device), trainer.args.device
    trainer.create_optimizer_and_scheduler(_WARM_UP + steps)
    optimizer: Any = trainer.optimizer
    schedule: Any = trainer.lr_scheduler
    loader, done, start, losses = trainer.get_train_dataloader(), 0, 0.0, []
    module.train()
    while done < _WARM_UP + steps:
        trainer.batches.epoch = done // len(loader)
        for batch in loader:
            loss = module(batch.to(device)).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), trainer.args.max_grad_norm)
            optimizer.step()
            schedule.step()
            module.step()
            losses.append(loss.detach())
            done += 1
            if done == _WARM_UP:
                start = _clock(device)
            if done == _WARM_UP + steps:
                break
    end = _clock(device)
    return end - start, float(torch.stack(losses[-10:]).mean())


def _table(rows: list[dict[str, Any]], threads: int) -> Table:
    table = Table(title=f"A step, milliseconds ({threads} thread(s))", title_justify="left")
    for head in ("kind", "method", "batch", "weights", "bare loop", "trainer", "ratio"):
        table.add_column(head, justify="left" if head in ("kind", "method") else "right")
    for row in rows:
        ratio = row["ratio"]
        table.add_row(
            row["kind"], row["method"], str(row["batch"]), f"{row['parameters']:,}",
            f"{row['bare_ms']:.1f}", f"{row['trainer_ms']:.1f}",
            f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]",
        )  # fmt: skip
    return table


def main(arguments: list[str] | None = None) -> None:
    """Read the options of `overhead` from the command line."""
    run_command(overhead, arguments)


if __name__ == "__main__":
    main()
