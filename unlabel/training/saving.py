"""A trainer's checkpoints: staged, hashed and renamed, whole however the run is sharded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from unlabel.objectives.gather import together, world
from unlabel.training import checkpoint, restore

WEIGHTS, OPTIMIZER, SCHEDULER = "model.safetensors", "optimizer.pt", "scheduler.pt"


class Saving(transformers.Trainer):
    """transformers' Trainer with checkpoints that are whole or not there.

    A checkpoint holds whole tensors and numbers, no pickle and no random state; resume takes the
    newest whole one. A trainer says by `counters` and `count_on` what else of a rank is kept.

    Attributes:
        run: folder of the checkpoints.

    Raises:
        ValueError: parameters are to be sharded where accelerate would not do it.
    """

    model: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.fsdp and not self.accelerator.is_fsdp2:
            raise ValueError(
                "Sharded parameters (fsdp) take version 2 of it and several devices with memory of "
                "their own; on CPUs accelerate would keep whole copies without a word. Leave out "
                "fsdp, or start torchrun where the devices are."
            )
        self.run = Path(str(self.args.output_dir))
        self._saving = False

    def counters(self) -> dict[str, Any]:
        """Numbers of this rank that a checkpoint keeps."""
        raise NotImplementedError

    def count_on(self, kept: dict[str, Any], own: bool) -> None:
        """Go on from `counters()` of this rank, or of the first where it has none of its `own`."""
        raise NotImplementedError

    def _get_output_dir(self, trial: Any) -> str:
        # transformers asks here where a checkpoint goes: into the staging folder.
        return str(checkpoint.staging(self.run)) if self._saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        lead = self.args.should_save
        self._together(lambda: checkpoint.clear_staging(self.run) if lead else None)
        self._saving = True
        try:
            self._together(lambda: super(Saving, self)._save_checkpoint(model, trial))
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
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _counters(world()[0])).write_text(json.dumps(self.counters()))

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
        if not (folder / OPTIMIZER).is_file():
            raise ValueError(
                f"{folder} holds weights alone (save_only_model), from which no run goes on as it "
                "was; begin a new one from its encoder (pretrained)."
            )
        restore.load_optimizer(folder / OPTIMIZER, self.optimizer)
        self.lr_scheduler.load_state_dict(restore.load_numbers(folder / SCHEDULER))
        own, first = (folder / _counters(r) for r in (world()[0], 0))
        # A rank that was not there before begins with rank 0's counts and no sums.
        restore.load_record(
            own if own.is_file() else first, lambda kept: self.count_on(kept, own.is_file())
        )

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (file := Path(checkpoint) / "scaler.pt").is_file():
            restore.load_numbers(file)  # else it is refused
        super()._load_scaler(checkpoint)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_fsdp_enabled:
            alone = nn.ParameterList(restore.scalars(self.model)).to(self.args.device)
            self.accelerator.state.fsdp_plugin.ignored_modules = [alone]
        prepared = super()._prepare_for_training(*args, **kwargs)
        for name in ("view", "encode", "score", "pull"):  # what micro-batches call beside forward
            register_fsdp_forward_method(self.model, name)
        return prepared

    def whole_state(self) -> dict[str, Any]:
        """The module's state without shards, on the CPU; a call of all ranks."""
        return restore.whole(self.accelerator.unwrap_model(self.model).state_dict())

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; with `resume_from_checkpoint=True` from the newest whole checkpoint, if any.

        Raises:
            ValueError: the checkpoint named is damaged, or belongs to something else.
            DiskFull: there is no room for a checkpoint; the last good one is intact.
        """
        chosen = self._resume_point(resume_from_checkpoint or None)
        if chosen is not None:
            restore.load_record(Path(chosen) / TRAINER_STATE_NAME, _is_state)
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


def _counters(rank: int) -> str:
    return f"counters-{rank}.json"


__all__ = ["WEIGHTS", "Saving"]
