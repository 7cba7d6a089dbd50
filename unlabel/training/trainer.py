"""The trainer: transformers' own, with the few overrides that self-supervision needs."""

import logging
import signal
import threading
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
from transformers import TrainerCallback

from unlabel.core import Batch, stream_of
from unlabel.data_pipes.sampling import LengthBatches
from unlabel.objectives.gather import world
from unlabel.training import checkpoint, monitors
from unlabel.training.arguments import TrainingArguments
from unlabel.training.pretraining import Pretraining, Step, cached_step

logger = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"


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
        train_dataset: map-style store whose items take ordinals (`TokenStore`), with `lengths`;
            or an iterable that yields lists of samples (`StreamBatches`).
        data_collator: samples -> `Batch` (`encoder.collator()`).
        callbacks: transformers callbacks.

    Raises:
        ValueError: micro-batches are asked of an encoder with batch normalisation.
    """

    args: TrainingArguments
    model: Pretraining

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
            data_collator=data_collator,
            callbacks=[*(callbacks or []), _StopTogether(), _StepState(self)],
        )
        self.run = Path(args.output_dir)
        self.skipped = 0
        self._in_a_row = 0
        self._micro: list[Batch] = []
        self._last: tuple[Step, Batch | list[Batch]] | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts = 0
        self._said: set[str] = set()

    # -- data ---------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """A loader of this rank's share of every global batch, resumable by its number."""
        args = self.args
        workers: dict[str, Any] = {
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory and args.device.type == "cuda",
            "collate_fn": self.data_collator,
            "prefetch_factor": args.dataloader_prefetch_factor,
        }
        if isinstance(self.train_dataset, IterableDataset):
            return DataLoader(self.train_dataset, batch_size=None, **workers)
        rank, size = world()
        self.batches = LengthBatches(
            self.train_dataset.lengths,
            args.per_device_train_batch_size,
            seed=args.seed,
            window=args.length_window,
            rank=rank,
            world_size=size,
        )
        if len(self.batches) == 0:
            raise ValueError(
                f"{len(self.train_dataset)} samples do not fill one batch of "
                f"{args.per_device_train_batch_size * size}. Lower per_device_train_batch_size "
                "or bring more data."
            )
        return DataLoader(self.train_dataset, batch_sampler=self.batches, **workers)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if hasattr(self, "batches"):
            self.batches.epoch = kwargs["epoch"]
        super()._run_epoch(*args, **kwargs)

    def _prepare_inputs(self, inputs: Batch) -> Batch:
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
        self._micro.append(self._prepare_inputs(inputs))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        batches, self._micro = self._micro, []
        if len(batches) == 1:
            self._seed(0)
            with self.compute_loss_context_manager():
                step = model(batches[0])
            self.accelerator.backward(step.loss)
        else:
            step = self._shared_negatives(model, batches)
        self._note(step, batches)
        return step.loss.detach()

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
        _average_gradients(model.parameters())
        return step

    def _scaled(self, loss: Tensor) -> Tensor:
        scaler = self.accelerator.scaler
        return loss if scaler is None else scaler.scale(loss)

    def _seed(self, micro: int) -> None:
        # Dropout draws from torch's global generator; this is the one place that sets it.
        step = self.state.global_step
        torch.manual_seed(stream_of(self.args.seed, step, world()[0], micro))

    # -- gradients that are not finite --------------------------------------------------------

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if torch.isfinite(torch.as_tensor(norm)).all():
            self._in_a_row = 0
        else:
            # Without gradients the optimizer passes every parameter over, moments included.
            model.zero_grad(set_to_none=True)
            self._report_skip()
        return norm

    def _report_skip(self) -> None:
        self.skipped += 1
        self._in_a_row += 1
        step, batches = self._last or (None, [])
        bad = [k for k, t in (step.terms if step else {}).items() if not t.loss.isfinite()]
        index = torch.cat([b.index for b in batches]).tolist() if batches else []
        logger.warning(
            "Step %d skipped: its gradient is not finite (terms: %s; samples: %s). "
            "The weights are untouched; %d skipped so far.",
            self.state.global_step + 1,
            ", ".join(bad) or "all finite, the gradient overflowed",
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

    def _note(self, step: Step, batches: list[Batch]) -> None:
        self._last = (step, batches)
        self._counts += 1
        for name, term in step.terms.items():
            loss = term.loss.detach()
            self._sums[name] = self._sums.get(name, 0.0) + loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term, its chance level and the monitors to a training log line."""
        if "loss" in logs and self._last is not None:
            step = self._last[0]
            terms = self._mean_terms(step)
            for name, (loss, chance) in terms.items():
                logs[f"objective/{name}"] = loss
                if chance is not None:
                    logs[f"chance/{name}"] = chance
            logs["skipped"] = self.skipped
            if self.args.monitor_rows:
                figures = monitors.look(step.pooled, self.args.monitor_rows)
                logs.update({f"monitor/{k}": v for k, v in figures.items() if k != "rows"})
                self._warn(monitors.alarms(figures, terms, step.pooled[0].shape[1]))
        super().log(logs, start_time)

    def _mean_terms(self, step: Step) -> dict[str, tuple[float, float | None]]:
        names = list(self._sums)
        values = torch.stack([self._sums[n] for n in names]).float() / max(self._counts, 1)
        if world()[1] > 1:
            dist.all_reduce(values)
            values /= world()[1]
        self._sums, self._counts = {}, 0
        return {n: (v, step.terms[n].chance) for n, v in zip(names, values.tolist(), strict=True)}

    def _warn(self, sentences: list[str]) -> None:
        if not self.is_world_process_zero():
            return
        for sentence in sentences:
            kind = sentence.split(":")[0].split("(")[0]
            if kind not in self._said:
                logger.warning("Step %d. %s", self.state.global_step, sentence)
                self._said.add(kind)

    # -- checkpoints --------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        # transformers asks here where a checkpoint goes: into the staging folder.
        return str(checkpoint.staging(self.run)) if self._saving else super()._get_output_dir(trial)

    _saving = False

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step, lead = self.state.global_step, self.args.should_save
        if lead:
            checkpoint.clear_staging(self.run)
        self.accelerator.wait_for_everyone()
        with checkpoint.saving(self.run, step) as staged:
            self._saving = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saving = False
            self.accelerator.wait_for_everyone()
            if lead:
                checkpoint.commit(staged, self.run / staged.name)
                checkpoint.clear_staging(self.run)
                checkpoint.rotate(self.run, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            state = state_dict or self.accelerator.unwrap_model(self.model).state_dict()
            # Clones part tied tensors, which safetensors refuses to store twice.
            state = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
            safetensors.torch.save_file(state, str(folder / WEIGHTS), metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = safetensors.torch.load_file(Path(resume_from_checkpoint) / WEIGHTS)
        (model or self.model).load_state_dict(state, strict=True)

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to save: all randomness is derived from the step and the samples."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load, see `_save_rng_state`."""

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; with `resume_from_checkpoint=True` from the newest whole checkpoint, if any."""
        if resume_from_checkpoint is True:
            found = checkpoint.newest_valid(self.run)
            resume_from_checkpoint = None if found is None else str(found)
            if found is None:
                logger.warning("No whole checkpoint in %s: starting from the beginning.", self.run)
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)


def _average_gradients(parameters: Any) -> None:
    """Mean of the gradients over ranks, in the parameters' order."""
    _, size = world()
    if size == 1:
        return
    for p in parameters:
        if p.requires_grad:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)
            p.grad /= size


class _StepState(TrainerCallback):
    """Moves memories and teachers after each optimizer step that was made."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by transformers after `optimizer.step()`."""
        if self.trainer._in_a_row == 0 and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.accelerator.unwrap_model(self.trainer.model).step()


class _StopTogether(TrainerCallback):
    """A stop signal to any rank saves and ends the run on all ranks at the same step."""

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Listen, where Python lets us (the main thread)."""
        if threading.current_thread() is threading.main_thread():
            for s in self.signals:
                self._before[s] = signal.signal(s, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Agree on whether to stop."""
        asked = torch.tensor(float(self.asked), device=args.device)
        if world()[1] > 1:
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        if asked.item():
            logger.warning("Asked to stop at step %d: saving, then ending.", state.global_step)
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the signals back."""
        for s, handler in self._before.items():
            signal.signal(s, handler)


__all__ = ["WEIGHTS", "Diverged", "Trainer"]
