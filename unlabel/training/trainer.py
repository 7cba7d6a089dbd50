"""The trainer: transformers' own, with the few overrides that self-supervision needs."""

import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from unlabel.core import Batch, stream_of
from unlabel.data_pipes.order import ShardOrder
from unlabel.data_pipes.sampling import LengthBatches
from unlabel.objectives import Term
from unlabel.objectives.gather import average_gradients, together, world
from unlabel.training import checkpoint, monitors, restore
from unlabel.training.arguments import TrainingArguments
from unlabel.training.meter import Meter
from unlabel.training.pretraining import Pretraining, Step, cached_step
from unlabel.training.profile import StepProfile, part
from unlabel.training.stop import StopSignal
from unlabel.training.waiting import Waiting, waiting_alarm

logger = logging.getLogger(__name__)
WEIGHTS, OPTIMIZER, SCHEDULER = "model.safetensors", "optimizer.pt", "scheduler.pt"


class Diverged(RuntimeError):
    """Too many steps in a row had a NaN or inf in their gradient."""


class Trainer(transformers.Trainer):
    """Trains a `Pretraining` module on a store of samples.

    What differs from transformers' Trainer, each for a reason measured there:

    - randomness is derived from (seed, step, rank) and (seed, sample), never carried over, so a
      resumed run equals the uninterrupted one bit by bit;
    - micro-batches of one step share their negatives;
    - a step whose gradient is not finite is skipped, counted and explained;
    - memories and teachers move once for every optimizer step that was made;
    - checkpoints are staged, hashed and renamed; resume takes the newest whole one;
    - a stop signal to one rank stops all of them, after a save.

    Args:
        model: encoder and objective.
        args: `TrainingArguments`.
        train_dataset: map-style store whose items take ordinals (`TokenStore`), with `lengths`,
            and `shards` (samples in each) where they lie in some; or an iterable that yields
            lists of samples (`StreamBatches`).
        data_collator: samples -> `Batch` (`encoder.collator()`).
        callbacks: transformers callbacks.

    Raises:
        ValueError: micro-batches are asked of an encoder with batch normalisation.
    """

    args: TrainingArguments
    model: Pretraining
    train_dataset: Any

    def __init__(
        self,
        model: Pretraining,
        args: TrainingArguments,
        train_dataset: Any,
        data_collator: Callable[[Sequence[Any]], Batch],
        callbacks: list[TrainerCallback] | None = None,
    ):
        norms = [m for m in model.encoder.modules() if isinstance(m, _BatchNorm)]
        if args.gradient_accumulation_steps > 1 and norms:
            raise ValueError(
                "Micro-batches with shared negatives encode twice, which would update this "
                "encoder's batch normalisation twice. Set gradient_accumulation_steps to 1, or "
                "use an encoder with layer normalisation."
            )
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=data_collator,  # type: ignore[arg-type]
            callbacks=[*(callbacks or []), _EveryStep(self)],
        )
        if args.fsdp and not self.accelerator.is_fsdp2:
            raise ValueError(
                "Sharded parameters (fsdp) take version 2 of it and several devices with memory of "
                "their own; on CPUs accelerate would keep whole copies without a word. Leave out "
                "fsdp, or start torchrun where the devices are."
            )
        self.run = Path(str(args.output_dir))
        cuda = args.device.type == "cuda"
        self.add_callback(StepProfile(self.run, args.profile_steps, cuda=cuda))
        self.skipped = 0  # steps whose gradient was not finite
        self._in_a_row = 0
        self._micro: list[Batch] = []
        self._last: tuple[Step, list[Batch]] | None = None
        self._meter = Meter()
        self._waiting = Waiting()
        self._untrained: dict[str, float] = {}  # what the monitors saw before the first step
        self._suspected: set[str] = set()
        self._said: set[str] = set()
        self._stop = StopSignal()
        self._stopping: Tensor | bool = False
        self._saving = False
        self._seen: int | None = None  # place in the sequence of samples, and its block
        self._block = 0

    # -- data ---------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """A loader of this rank's share of every global batch, resumable by its number."""
        args = self.args
        workers: dict[str, Any] = {
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory and args.device.type == "cuda",
            "collate_fn": self.data_collator,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "persistent_workers": args.dataloader_persistent_workers,
        }
        if isinstance(self.train_dataset, IterableDataset):
            return DataLoader(self.train_dataset, batch_size=None, **workers)
        rank, size = world()
        order = getattr(self.train_dataset, "shards", None)
        if order is not None:
            order = ShardOrder(order, window=args.shard_window, seed=args.seed)
        self.batches = LengthBatches(
            self.train_dataset.lengths,
            args.per_device_train_batch_size,
            seed=args.seed,
            window=args.length_window,
            rank=rank,
            world_size=size,
            order=order,
        )
        if len(self.batches) == 0:
            raise ValueError(
                f"{len(self.train_dataset)} samples do not fill one batch of "
                f"{args.per_device_train_batch_size * size}. Lower per_device_train_batch_size "
                "or bring more data."
            )
        return DataLoader(self.train_dataset, batch_sampler=self.batches, **workers)

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        self._micro = []
        if self.state.global_step >= self.state.max_steps:
            # Resumed from the last checkpoint of all: transformers would make one step too many.
            self.control.should_training_stop = True
            return
        if hasattr(self, "batches"):
            is_resumed = kwargs["resume_from_checkpoint"] and epoch == kwargs["epochs_trained"]
            self._go_to(epoch, kwargs["steps_trained_in_current_epoch"] if is_resumed else 0)
        elif kwargs["resume_from_checkpoint"] and hasattr(self.train_dataset, "start"):
            # The stream skips by itself, which costs no tokenising; the log still counts on.
            done = kwargs["steps_trained_in_current_epoch"]
            self.train_dataset.start = done
            kwargs["steps_trained_in_current_epoch"] = 0
            epoch = kwargs["epochs_trained"] = epoch + done / kwargs["steps_in_epoch"]
        super()._run_epoch(epoch=epoch, **kwargs)

    def _go_to(self, epoch: int, skip: int) -> None:
        """Let the loader begin where the run stands, whatever number of ranks made its steps."""
        batches = self.batches
        batches.epoch, batches.skip = epoch, skip
        if self._seen is not None:
            batches.block = self._block or batches.block
            batches.position += self._seen - batches.place(skip)
        self._seen, self._block = batches.place(skip), batches.block

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of a step, with the time that the loader takes for them."""
        with self._waiting.for_batches(), part("batches"):
            return super().get_batch_samples(*args, **kwargs)

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        with part("transfer"):
            return inputs.to(self.args.device)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        return None  # every objective takes its own mean

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: views of a batch differ in length."""
        return 0

    # -- one step -----------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None
    ) -> Tensor:
        """Gather micro-batches until the step is complete, then take it as one batch."""
        model.train()
        if self._seen is not None:
            self._seen += self.batches.global_size
        self._micro.append(self._prepare_inputs(inputs))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        batches, self._micro = self._micro, []
        if len(batches) == 1:
            self._seed(0)
            with self.compute_loss_context_manager():
                step = model(batches[0])
            with part("backward"):
                self.accelerator.backward(step.loss)
        else:
            step = self._shared_negatives(model, batches)
        return self._note(step, batches)

    def _shared_negatives(self, model: nn.Module, batches: list[Batch]) -> Step:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "Micro-batches with shared negatives are not made for sharded parameters yet; "
                "set gradient_accumulation_steps to 1."
            )
        with self.accelerator.no_sync(model):
            step = cached_step(
                self.accelerator.unwrap_model(model),
                batches,
                seed_micro=self._seed,
                # The step is whole already: no division by the number of micro-batches.
                backward=lambda loss: self._scaled(loss).backward(),
                autocast=self.compute_loss_context_manager,
            )
        average_gradients(model.parameters())
        return step

    def _scaled(self, loss: Tensor) -> Tensor:
        scaler = self.accelerator.scaler
        return loss if scaler is None else scaler.scale(loss)

    def _seed(self, micro: int) -> None:
        # Dropout draws from torch's global generator; this is the one place that sets it.
        step = self.state.global_step
        seed = stream_of(self.args.seed, step, world()[0], micro)
        # torch.manual_seed asks every kind of accelerator, which takes a millisecond.
        on_cpu = self.args.device.type == "cpu"
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)

    # -- gradients that are not finite --------------------------------------------------------

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if self.is_fsdp_enabled:
            average_gradients(restore.scalars(model))
        with part("clip"):
            norm: Any = super()._get_grad_norm(model, grad_norm=grad_norm)
            self._stopping = self._stop.agree(self.args.device)
        # The one place of a step that waits for the device: whether to skip must be known now.
        if math.isfinite(float(norm)):
            self._in_a_row = 0
        else:
            # Without gradients the optimizer passes every parameter over, moments included.
            model.zero_grad(set_to_none=True)
            self._report_skip()
        return norm

    def _report_skip(self) -> None:
        self.skipped += 1
        self._in_a_row += 1
        terms, index = _culprits(*self._last) if self._last else ([], [])
        logger.warning(
            "Step %d skipped: its gradient is not finite (terms: %s; samples: %s). "
            "The weights are untouched; %d skipped so far.",
            self.state.global_step + 1,
            ", ".join(terms) or "all finite, the gradient overflowed",
            f"{index[:32]}{'...' if len(index) > 32 else ''}",
            self.skipped,
        )
        if self._in_a_row >= self.args.max_skipped:
            raise Diverged(
                f"{self._in_a_row} steps in a row had a NaN or inf in their gradient, so the run "
                "ends here with the weights of the last good step in the last checkpoint. Lower "
                "the learning rate, use bf16 instead of fp16, or look at the samples named above."
            )

    # -- logging ------------------------------------------------------------------------------

    def _note(self, step: Step, batches: list[Batch]) -> Tensor:
        """Remember the step for the log; its loss for transformers' own sum, 0 if not finite."""
        terms = {name: _detached(t) for name, t in step.terms.items()}
        loss = step.loss.detach()
        self._last = (Step(loss, terms, step.pooled), batches)
        if self.state.global_step == 0 and self.args.monitor_rows:
            self._untrained = monitors.look(step.pooled, self.args.monitor_rows)
        self._meter.add({"loss": loss} | {f"objective/{n}": t.loss for n, t in terms.items()})
        return loss.where(loss.isfinite(), 0.0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term, its chance level and the monitors to a training log line."""
        if "loss" in logs and self._last is not None:
            step, means = self._last[0], self._meter.means()
            logs.update(means)
            for name, term in step.terms.items():
                if term.chance is not None:
                    logs[f"chance/{name}"] = float(term.chance)
            objective: Any = self.accelerator.unwrap_model(self.model)
            logs.update(objective.objective.figures())
            logs["skipped"] = self.skipped
            logs["monitor/waiting"] = self._waiting.share()
            if self.is_world_process_zero():
                found = self._monitor(step, logs) if self.args.monitor_rows else []
                self._warn([*found, *filter(None, [waiting_alarm(logs["monitor/waiting"])])])
        elif "train_runtime" in logs:  # the summary at the end
            logs["waiting"] = self._waiting.total
        super().log(logs, start_time)

    def _monitor(self, step: Step, logs: dict[str, float]) -> list[str]:
        figures = monitors.look(step.pooled, self.args.monitor_rows)
        module: Any = self.accelerator.unwrap_model(self.model)
        if figures and module.teacher is not None:
            figures["teacher"] = module.teacher.present
        logs.update({f"monitor/{k}": v for k, v in figures.items() if k != "rows"})
        compared = ("std", "effective_rank")
        logs.update({f"untrained/{k}": v for k, v in self._untrained.items() if k in compared})
        terms = {n: (logs[f"objective/{n}"], logs.get(f"chance/{n}")) for n in step.terms}
        return monitors.alarms(figures, terms, step.pooled[0].shape[1], self._untrained)

    def _warn(self, sentences: Sequence[str]) -> None:
        before, self._suspected = self._suspected, set()
        for sentence in sentences:
            kind = re.sub(r"[\d.]+(e[+-]\d+)?", "", sentence)  # the same but for its figures
            self._suspected.add(kind)
            # One line may be a start (MoCo's queue is random then, loader and cache begin empty);
            # two in a row are a finding.
            if kind in before and kind not in self._said:
                logger.warning("Step %d. %s", self.state.global_step, sentence)
                self._said.add(kind)

    # -- checkpoints --------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        # transformers asks here where a checkpoint goes: into the staging folder.
        return str(checkpoint.staging(self.run)) if self._saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        lead = self.args.should_save
        self._together(lambda: checkpoint.clear_staging(self.run) if lead else None)
        self._saving = True
        try:
            self._together(lambda: super(Trainer, self)._save_checkpoint(model, trial))
        finally:
            self._saving = False
        self._together(lambda: self._put_in_place() if lead else None)

    def _together(self, part: Callable[[], None]) -> None:
        """A part of a save, on every rank; whatever goes wrong leaves no half checkpoint."""
        try:
            together(part, self.args.device)
        except Exception as error:
            if self.args.should_save:
                checkpoint.clear_staging(self.run)
            raise checkpoint.explain(error, self.run, self.state.global_step) from error

    def _put_in_place(self) -> None:
        name = f"checkpoint-{self.state.global_step}"
        checkpoint.commit(checkpoint.staging(self.run) / name, self.run / name)
        checkpoint.rotate(self.run, self.args.save_total_limit, self.run / name)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the module's state; a call of all ranks."""
        if not self.is_fsdp_enabled:
            return super().save_model(output_dir, _internal_call)
        self._save(output_dir, self.whole_state())

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            state = state_dict or self.accelerator.unwrap_model(self.model).state_dict()
            # Clones part tied tensors, which safetensors refuses to store twice.
            state = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
            safetensors.torch.save_file(state, str(folder / WEIGHTS), metadata={"format": "pt"})

    def _save_rng_state(self, output_dir: str) -> None:
        """Each rank's counters; no random state, for all of it is derived from step and sample."""
        counters = {"skipped": self.skipped, "in_a_row": self._in_a_row}
        counters |= {} if self._seen is None else {"seen": self._seen, "block": self._block}
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _counters(world()[0])).write_text(
            json.dumps(
                {**counters, "meter": self._meter.state_dict(), "untrained": self._untrained}
            )
        )

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load, see `_save_rng_state`."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        state = restore.whole(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        restore.load_weights(Path(resume_from_checkpoint) / WEIGHTS, model or self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            return super()._load_optimizer_and_scheduler(checkpoint)
        folder = Path(checkpoint)
        restore.load_optimizer(folder / OPTIMIZER, self.optimizer)
        self.lr_scheduler.load_state_dict(restore.load_numbers(folder / SCHEDULER))
        own, first = (folder / _counters(r) for r in (world()[0], 0))
        # A rank that was not there before begins with rank 0's counts and no sums.
        restore.load_record(
            own if own.is_file() else first, lambda kept: self._count_on(kept, own.is_file())
        )

    def _count_on(self, kept: dict[str, Any], own: bool) -> None:
        self.skipped, self._in_a_row = int(kept["skipped"]), int(kept["in_a_row"])
        self._meter.load_state_dict(kept["meter"] if own else {})
        self._untrained = kept.get("untrained", {})
        self._seen, self._block = kept.get("seen"), kept.get("block", 0)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (file := Path(checkpoint) / "scaler.pt").is_file():
            restore.load_numbers(file)  # else it is refused
        super()._load_scaler(checkpoint)

    # -- shards -------------------------------------------------------------------------------

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_fsdp_enabled:
            alone = nn.ParameterList(restore.scalars(self.model)).to(self.args.device)
            self.accelerator.state.fsdp_plugin.ignored_modules = [alone]
        return super()._prepare_for_training(*args, **kwargs)

    def whole_state(self) -> dict[str, Any]:
        """The module's state without shards, on the CPU; a call of all ranks."""
        return restore.whole(self.accelerator.unwrap_model(self.model).state_dict())

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; with `resume_from_checkpoint=True` from the newest whole checkpoint, if any.

        Raises:
            ValueError: the checkpoint named is damaged, or belongs to something else.
            Diverged: `max_skipped` steps in a row were skipped.
            DiskFull: there is no room for a checkpoint; the last good one is intact.
        """
        chosen = self._resume_point(resume_from_checkpoint or None)
        if chosen is not None:
            restore.load_record(Path(chosen) / TRAINER_STATE_NAME, _is_state)
        with self._stop:
            return super().train(resume_from_checkpoint=chosen, **kwargs)

    def _resume_point(self, asked: str | bool | None) -> str | None:
        """The checkpoint to resume from, found by rank 0 and told to the others."""
        found: list[Any] = [None]
        if world()[0] == 0:
            checkpoint.clear_staging(self.run)
            found = [checkpoint.choose(self.run, asked) if asked else None]
        if world()[1] > 1:
            dist.broadcast_object_list(found, device=self.args.device)
        if isinstance(found[0], ValueError):
            raise found[0]
        return found[0]


def _is_state(said: dict[str, Any]) -> None:
    state = TrainerState(**said)
    if not isinstance(state.global_step, int) or not isinstance(state.log_history, list):
        raise ValueError("its step is no number, or its log no list")


def _detached(term: Term) -> Term:
    weight = term.weight.detach() if isinstance(term.weight, Tensor) else term.weight
    return term._replace(loss=term.loss.detach(), weight=weight)


def _counters(rank: int) -> str:
    return f"counters-{rank}.json"


def _culprits(step: Step, batches: Sequence[Batch]) -> tuple[list[str], list[int]]:
    """Terms that are not finite, and samples whose embedding is not (all, if every one is)."""
    terms = [name for name, t in step.terms.items() if not t.loss.isfinite()]
    index = torch.cat([b.index for b in batches])
    bad = ~torch.stack([z.isfinite().all(1) for z in step.pooled]).all(0)
    return terms, (index[bad] if bad.any() else index).tolist()


class _EveryStep(TrainerCallback):
    """Moves memories and teachers after each optimizer step that was made; stops when asked."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by transformers after `optimizer.step()`."""
        if self.trainer._in_a_row == 0 and not self.trainer.accelerator.optimizer_step_was_skipped:
            with part("state"):
                self.trainer.accelerator.unwrap_model(self.trainer.model).step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All ranks have agreed on whether to stop, see `_get_grad_norm`."""
        self.trainer._waiting.end_step()
        if self.trainer._stopping:
            logger.warning("Asked to stop at step %d: saving, then ending.", state.global_step)
            control.should_save = control.should_training_stop = True


__all__ = ["WEIGHTS", "Diverged", "Trainer"]
