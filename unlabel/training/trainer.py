"""The trainer: transformers' own, with the few overrides that self-supervision needs."""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback

from unlabel.core import Batch, stream_of
from unlabel.data_pipes.order import ShardOrder
from unlabel.data_pipes.sampling import LengthBatches
from unlabel.objectives.gather import average_gradients, world
from unlabel.training import restore
from unlabel.training.arguments import TrainingArguments
from unlabel.training.journal import Journal
from unlabel.training.micro import by_tokens, refuse_lone, refuse_parts
from unlabel.training.pretraining import Pretraining, Step, cached_step
from unlabel.training.profile import StepProfile, part
from unlabel.training.saving import Saving
from unlabel.training.stop import StopSignal
from unlabel.training.waiting import Waiting, told_by_worker

logger = logging.getLogger(__name__)

MARKS = "stream-marks.jsonl"  # in the run's folder: where a stream can be entered


class Diverged(RuntimeError):
    """Too many steps in a row had a NaN or inf in their gradient."""


class Trainer(Saving):
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
        ValueError: micro-batches are asked of an encoder with batch normalisation, or of an engine
            that cannot make them; or batches of one where the objective needs others in them.
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
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=data_collator,  # type: ignore[arg-type]
            callbacks=[*(callbacks or []), _EveryStep(self)],
        )
        cuda = args.device.type == "cuda"
        refuse_parts(args, model.encoder, self.is_fsdp_enabled, self.is_deepspeed_enabled)
        refuse_lone(args, model.objective)
        if cuda and args.world_size == 1 and (there := torch.cuda.device_count()) > 1:
            logger.warning(
                "%d GPUs are here, and this run takes the first; for all of them start it by "
                "torchrun --nproc_per_node %d.", there, there,
            )  # fmt: skip
        self.add_callback(StepProfile(self.run, args.profile_steps, cuda=cuda))
        self.skipped = 0  # steps whose gradient was not finite
        self._in_a_row = 0
        self._micro: list[Batch] = []
        self._journal = Journal(args.monitor_rows)
        self._batches: list[Batch] = []  # of the newest step
        self._waiting = Waiting()
        self._stop = StopSignal()
        self._stopping = False
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
            if hasattr(self.train_dataset, "marks"):
                self.train_dataset.marks = self.run / MARKS
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
        self.model.train()  # once an epoch: on a small encoder each call is a percent of a step
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
        """The batches of a step, with the time that the loader takes for them.

        Raises:
            ValueError: what is wrong with the data, in the one sentence that a worker said.
        """
        try:
            with self._waiting.for_batches(), part("batches"):
                return super().get_batch_samples(*args, **kwargs)
        except (ValueError, RuntimeError) as error:
            said = told_by_worker(error)
            if said is None:
                raise
            raise ValueError(said) from error

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        with part("transfer"):
            return inputs.to(self.args.device)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        return None  # every objective takes its own mean

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: views of a batch differ in length."""
        return 0

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule; what lr_scheduler_kwargs lacks, or has too many, is named."""
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except TypeError as error:
            why = str(error).rpartition("() ")[2]
            kind = str(self.args.lr_scheduler_type).rpartition(".")[2].lower()
            raise ValueError(f"lr_scheduler_kwargs, for the schedule {kind}: {why}.") from error

    # -- one step -----------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None
    ) -> Tensor:
        """Gather micro-batches until the step is complete, then take it as one batch."""
        if not model.training:
            model.train()
        if self._seen is not None:
            self._seen += self.batches.global_size
        self._micro.append(self._prepare_inputs(inputs))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        batches, self._micro = self._micro, []
        batches, alone = self._parts(batches)
        if alone:
            self._seed(0)
            with self.compute_loss_context_manager():
                step = model(batches[0])
            with part("backward"):
                self.accelerator.backward(step.loss)
        else:
            step = self._shared_negatives(model, batches)
        return self._note(step, batches)

    def _parts(self, batches: list[Batch]) -> tuple[list[Batch], bool]:
        """The parts of a step, and whether it is one pass on every rank."""
        tokens = self.args.micro_tokens
        if not tokens:
            return batches, len(batches) == 1
        module: Any = self.accelerator.unwrap_model(self.model)
        parts = [p for b in batches for p in by_tokens(b, module, tokens)]
        if world()[1] == 1:
            return parts, len(parts) == 1
        # Ranks that have other numbers of parts must still reduce their gradients alike.
        most = torch.tensor(len(parts), device=self.args.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return parts, int(most) == 1

    def _shared_negatives(self, model: nn.Module, batches: list[Batch]) -> Step:
        sharded = self.is_fsdp_enabled  # each backward of shards adds its part, averaged
        with nullcontext() if sharded else self.accelerator.no_sync(model):
            step = cached_step(
                self.accelerator.unwrap_model(model),
                batches,
                seed_micro=self._seed,
                # The step is whole already: no division by the number of micro-batches.
                backward=lambda loss: self._scaled(loss).backward(),
                autocast=self.accelerator.autocast,  # type: ignore[arg-type]
            )
        if not sharded:
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
            stopping = self._stop.agree(self.args.device)
        # The trainer waits for the device here alone: whether to skip must be known now. Asked
        # later, whether to stop would wait for the optimizer, too.
        norm_is, self._stopping = float(norm), bool(stopping)
        if math.isfinite(norm_is):
            self._in_a_row = 0
        else:
            # Without gradients the optimizer passes every parameter over, moments included.
            model.zero_grad(set_to_none=True)
            self._report_skip()
        return norm

    def _report_skip(self) -> None:
        self.skipped += 1
        self._in_a_row += 1
        terms, index = _culprits(self._journal.last, self._batches)
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
        self._batches = batches
        loss = self._journal.note(step, first=self.state.global_step == 0).loss
        return loss.where(loss.isfinite(), 0.0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term, its chance level and the monitors to a training log line."""
        if "loss" in logs and self._journal.last is not None:
            module: Any = self.accelerator.unwrap_model(self.model)
            logs |= self._journal.line(module, self._waiting.share())
            logs["skipped"] = self.skipped
            logs |= self._journal.look(module, logs, self.state.global_step)
        elif "train_runtime" in logs:  # the summary at the end
            logs["waiting"] = self._waiting.total
        super().log(logs, start_time)

    # -- beginning and going on ---------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """Numbers of this rank that a checkpoint keeps: steps skipped, its place, its sums."""
        place = {} if self._seen is None else {"seen": self._seen, "block": self._block}
        skips = {"skipped": self.skipped, "in_a_row": self._in_a_row}
        return skips | place | self._journal.state_dict()

    def count_on(self, kept: dict[str, Any], own: bool) -> None:
        """Go on from `counters()`; a rank that is new takes the first one's, without its sums."""
        self.skipped, self._in_a_row = int(kept["skipped"]), int(kept["in_a_row"])
        self._seen, self._block = kept.get("seen"), kept.get("block", 0)
        self._journal.load_state_dict(kept, own)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; with `resume_from_checkpoint=True` from the newest whole checkpoint, if any.

        Raises:
            ValueError: the checkpoint named is damaged, or belongs to something else.
            Diverged: `max_skipped` steps in a row were skipped.
            DiskFull: there is no room for a checkpoint; the last good one is intact.
        """
        with self._stop:
            return super().train(resume_from_checkpoint, **kwargs)


def _culprits(step: Step | None, batches: Sequence[Batch]) -> tuple[list[str], list[int]]:
    """Terms that are not finite, and samples whose embedding is not (all, if every one is)."""
    if step is None:
        return [], []
    terms = [name for name, t in step.terms.items() if not t.loss.isfinite()]
    index = torch.cat([b.index for b in batches])
    bad = ~torch.stack([z.isfinite().all(1) for z in step.pooled]).all(0)
    return terms, (index[bad] if bad.any() else index).tolist()


class _EveryStep(TrainerCallback):
    """Moves memories and teachers after each optimizer step that was made; stops when asked."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say so where the run ends before its methods have settled."""
        module: Any = self.trainer.accelerator.unwrap_model(self.trainer.model)
        for method in module.objective.modules() if state.is_world_process_zero else ():
            name = getattr(method, "settles", "")
            if name and state.max_steps <= getattr(method, name):
                logger.warning(
                    "This run ends after %d steps, and %s settles in its first %d (%s), which is "
                    "to be a small part of a run: train longer, or lower it.",
                    state.max_steps,
                    type(method).__name__,
                    getattr(method, name),
                    name,
                )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by transformers after `optimizer.step()`."""
        if self.trainer._in_a_row == 0 and not self.trainer.accelerator.optimizer_step_was_skipped:
            with part("state"):
                self.trainer.accelerator.unwrap_model(self.trainer.model).step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All ranks have agreed on whether to stop, see `_get_grad_norm`."""
        self.trainer._waiting.end_step()
        if self.trainer._stopping:
            if state.is_world_process_zero:
                logger.warning("Asked to stop at step %d: saving, then ending.", state.global_step)
            control.should_save = control.should_training_stop = True


__all__ = ["MARKS", "Diverged", "Trainer"]
