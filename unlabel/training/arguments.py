"""Training arguments: transformers' own, with what shared negatives and long runs need."""

import os
from dataclasses import dataclass, field

import torch
import transformers

from unlabel.checks import check_above_0

# Of transformers' arguments, what cannot be chosen here, the value that it has, and why.
_SETTLED = (
    (
        "dataloader_drop_last",
        True,
        "every batch is whole, and what is left at the end of an epoch begins the next",
    ),
    (
        "train_sampling_strategy",
        "random",
        "samples are shuffled, and sorted by length within windows (length_window)",
    ),
    ("data_seed", None, "seed draws the order of samples, too"),
)
# And what has no meaning here, by the rest of the sentence that says so.
_NOT_HERE = {
    "is for models of language that bring their own loss, and has no meaning here; leave it out.": (
        "include_num_input_tokens_seen",
        "label_smoothing_factor",
        "neftune_noise_alpha",
    ),
    "is for an evaluation, and there is none in a run: `unlabel bench` measures what it leaves. "
    "Leave it out.": (
        "do_eval",
        "do_predict",
        "eval_on_start",
        "eval_strategy",
        "load_best_model_at_end",
    ),
    "would send the trainer's own state, which no model loads. Leave it out, and send what the run "
    "leaves: `hf upload NAME RUN/model`.": ("push_to_hub",),
    "would not be heeded: `--resume` goes on from the newest whole checkpoint, and so does "
    "`trainer.train(resume_from_checkpoint=True)`.": ("resume_from_checkpoint",),
    "is not needed: a step with a NaN is skipped, and its term and samples are named. Leave it "
    "out.": ("debug",),
}


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' `TrainingArguments` with our defaults and a few fields more.

    `gradient_accumulation_steps` means micro-batches that *share their negatives*: the loss is
    that of the whole batch, at the memory of one micro-batch and one more forward pass.
    """

    remove_unused_columns: bool = field(default=False, metadata={"help": "Batches are ours."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Whole batches only."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Off: a NaN is shown, and its step is skipped."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log lines."})
    save_steps: float = field(default=500, metadata={"help": "Steps between two checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Off: every head and encoder here is used in every step."}
    )
    fsdp: bool | str | None = field(
        default=None, metadata={"help": "Shard parameters over the ranks (FSDP2)."}
    )
    micro_tokens: int = field(
        default=0,
        metadata={
            "help": "Tokens (steps of a series, frames of a clip) that one forward pass holds; a "
            "larger batch goes through in parts that share their negatives. 0: off."
        },
    )
    length_window: int = field(
        default=50,
        metadata={"help": "Batches sorted by length together; 1 shuffles without regard to it."},
    )
    shard_window: int = field(
        default=16,
        metadata={"help": "Shards whose samples are shuffled together, where data lies in shards."},
    )
    max_skipped: int = field(
        default=10, metadata={"help": "Steps in a row with a NaN or inf that end the run."}
    )
    monitor_rows: int = field(
        default=512, metadata={"help": "Embeddings of all ranks that a monitor looks at; 0: none."}
    )
    profile_steps: int = field(
        default=0,
        metadata={"help": "Steps whose time is told part by part, into profile.json; 0: none."},
    )

    def __post_init__(self):
        """Check our own fields."""
        if os.environ.get("WORLD_SIZE", "1") == "1":
            self.ddp_backend = None  # transformers would ask a group that one process does not make
        elif not torch.accelerator.is_available() or torch.backends.mps.is_available():
            self.use_cpu = True  # where no device has a backend, each rank would train by itself
        for why, names in _NOT_HERE.items():
            for name in names:
                if getattr(self, name, None) not in (None, False, 0, "no", "", []):
                    raise ValueError(f"{name} {why}")
        super().__post_init__()
        above_0 = ("length_window", "shard_window", "max_skipped", "gradient_accumulation_steps")
        check_above_0(**{name: getattr(self, name) for name in above_0})
        for name, only, why in _SETTLED:
            if (came := getattr(self, name, only)) not in (only, None):
                raise ValueError(f"{name}={came} would not be heeded: {why}. Leave it out.")
        if self.save_strategy == "best":
            raise ValueError(
                "save_strategy=best waits for an evaluation, and there is none in a run, so that "
                "nothing would be saved; choose steps, epoch or no."
            )
        if self.micro_tokens < 0:
            raise ValueError(f"micro_tokens is at least 0 (off), but {self.micro_tokens} came.")

    @property
    def n_gpu(self) -> int:
        """Of a process: one, however many there are; several are what torchrun is for.

        With more, transformers would copy the model to each (`nn.DataParallel`), but not the batch.
        """
        return min(1, super().n_gpu)
