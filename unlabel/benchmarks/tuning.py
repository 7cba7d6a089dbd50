"""Fine-tuning on labels: an encoder with a linear head, trained on the train part of every fold.

With few labels, as SimCLR v2 does it: from a layer of the projector, and then distilled, on all
clips and without labels, into a network that starts once more from the pretrained one.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PrinterCallback

from unlabel.benchmarks.labelled import Labelled
from unlabel.benchmarks.probes import inner_folds
from unlabel.checks import check_above_0
from unlabel.core import Batch, Encoder, Encoding, View, view
from unlabel.data_pipes.labels import kept_labels
from unlabel.objectives import Supervised, Term
from unlabel.objectives.gather import global_mean
from unlabel.objectives.kernels import classify
from unlabel.training.arguments import TrainingArguments
from unlabel.training.keep_best import KeepBest
from unlabel.training.pretraining import Pretraining
from unlabel.training.trainer import Trainer

WARMUP = 0.05  # share of the steps; then the learning rate falls to 0 on a cosine


@dataclass(frozen=True)
class Tuning:
    """How an encoder and its head are trained on labels.

    Attributes:
        steps: of the optimizer, in every fold.
        learning_rates: each is tried from the same start; the validation part chooses.
        batch_size: clips a step.
        weight_decay: of AdamW.
        checks: looks at the validation part, evenly spread over the steps; the best is kept.
        view: of a clip in training, such as `crop+flip`; held-out clips are seen as they are.
        labels: share of the train part whose labels are used, of each class at least one.
        projector_layers: layers of the run's projector that stay below the head; it needs a
            checkpoint that has them. The untrained encoder gets as many with random weights.
        distilling: steps of the distillation that follows, at the chosen learning rate; 0 for none.
        temperature: T of the distillation.

    Reference: Chen et al. 2020 (SimCLR v2), arXiv 2006.10029, sections 2 and 3.
    """

    steps: int = 200
    learning_rates: tuple[float, ...] = (3e-4, 1e-3)
    batch_size: int = 32
    weight_decay: float = 0.05
    checks: int = 10
    view: str = "plain"
    labels: float = 1.0
    projector_layers: int = 0
    distilling: int = 0
    temperature: float = 1.0

    def __post_init__(self):
        """Refuse what cannot be trained."""
        check_training(self)
        if not 0 < self.labels <= 1:
            raise ValueError(f"labels is a share above 0 and up to 1, but {self.labels} came.")
        if self.projector_layers < 0 or self.distilling < 0 or self.temperature <= 0:
            raise ValueError(
                "projector_layers and distilling are 0 or more and temperature is above 0, but "
                f"{self.projector_layers}, {self.distilling} and {self.temperature} came."
            )


def check_training(how: Any) -> None:
    """Refuse counts below 1 and learning rates that are none."""
    check_above_0(steps=how.steps, batch_size=how.batch_size, checks=how.checks)
    if not how.learning_rates or not all(rate > 0 for rate in how.learning_rates):
        raise ValueError(
            f"learning_rates is {list(how.learning_rates)}: give at least one, above 0."
        )


class Recognition(Supervised):
    """`Supervised` with a head that begins at chance, and perhaps layers below it.

    Args:
        classes: how many there are.
        seen: name of the view.
        below: layers between the vector and the head, trained as well; copied.
    """

    def __init__(self, *, classes: int, seen: str = "plain", below: nn.Module | None = None):
        super().__init__(classes=classes, augment=seen)
        self.below = copy.deepcopy(below) or nn.Identity()

    def build(self, encoder: Encoder) -> None:
        """Make the head; small weights, so that it begins at chance."""
        super().build(encoder)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def logits(self, encoding: Encoding) -> Float[Tensor, "batch classes"]:
        """Scores of the classes."""
        return self.classifier(self.below(encoding.pooled))


class Distillation(Recognition):
    """Cross-entropy with what a teacher says of the same view, both at temperature T; no labels.

    Args:
        teacher: encoder and head, frozen; not a part of this objective, so never trained.
        temperature: T.
        head: as in `Recognition`.

    Reference: Chen et al. 2020 (SimCLR v2), arXiv 2006.10029, equation 2.
    """

    def __init__(self, teacher: Pretraining, *, temperature: float = 1.0, **head: Any):
        super().__init__(**head)
        self.temperature = temperature
        self._teacher = (teacher.eval().requires_grad_(False),)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `distill`."""
        (teacher,) = self._teacher
        says = teacher.objective.logits(teacher.encoder(views[0])) / self.temperature
        own = self.logits(encodings[0]) / self.temperature
        losses = classify(own, says.softmax(-1), reduction="none")
        return {"distill": Term(global_mean(losses), chance=math.log(own.shape[1]))}


@dataclass(frozen=True)
class ClipStore:
    """Clips of files with labels, in the trainer's manner: each epoch the next clip of a file.

    Attributes:
        clips: of each file.
        label: number of each file's class.
        key: name of the sample's data, `frames` or `waveform`.
    """

    clips: Sequence[Sequence[np.ndarray]]
    label: Int64[np.ndarray, "files"]
    key: str

    @property
    def lengths(self) -> Int64[np.ndarray, "files"]:
        """Steps of each sample."""
        return np.array([len(own[0]) for own in self.clips], dtype=np.int64)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.clips)

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The clip at a place of the run."""
        epoch, index = divmod(int(ordinal), len(self))
        own = self.clips[index]
        label = int(self.label[index])
        return {self.key: own[epoch % len(own)], "index": index, "ordinal": ordinal, "label": label}


def tuned_accuracy(
    encoder: Any,
    data: Labelled,
    clips: Sequence[Sequence[np.ndarray]],
    tuning: Tuning,
    *,
    below: nn.Module | None = None,
    key: str = "frames",
    seed: int = 0,
) -> dict[str, Bool[np.ndarray, "tested"]]:
    """Fine-tune a copy of the encoder for every fold; True where a held-out file is recognised.

    One of five folds of the train part (of whole groups) is the validation part, which chooses
    step and learning rate. By name: `fine-tuned`, and `distilled` where that is asked for.

    Args:
        encoder: copied, never changed.
        data: with its folds.
        clips: of every file; their predictions are averaged.
        tuning: how it is trained.
        below: layers between the encoder's vector and the head; copied.
        key: `frames` or `waveform`.
        seed: of the head, of the order of samples, of the labels kept and of the validation part.
    """
    classes, label = np.unique(data.label, return_inverse=True)
    pick = lambda rows: ClipStore([clips[i] for i in rows], label[rows], key)  # noqa: E731
    right: dict[str, list[np.ndarray]] = {}
    for train, test in data.folds:
        known = train[kept_labels(label[train], tuning.labels, seed=seed) >= 0]
        groups = None if data.group is None else data.group[known]
        fit, held = (inner_folds(data.label[known], groups, seed) or [(known[:0], known[:0])])[0]
        # Where the train part cannot be parted, its own error chooses.
        own, checked = (known[fit], known[held]) if len(held) else (known, known)
        head = {"classes": len(classes), "seen": tuning.view, "below": below}
        parts = pick(own), pick(checked)
        tried = [
            (_train(encoder, Recognition(**head), *parts, tuning, rate, seed), rate)
            for rate in tuning.learning_rates
        ]
        (_, tuned), rate = min(tried, key=lambda one: one[0][0])
        found = {"fine-tuned": tuned}
        if tuning.distilling:
            objective = Distillation(tuned, temperature=tuning.temperature, **head)
            how = replace(tuning, steps=tuning.distilling)
            _, found["distilled"] = _train(
                encoder, objective, pick(train), pick(checked), how, rate, seed
            )
        for name, module in found.items():
            said = _probabilities(module, pick(test)).argmax(axis=1)
            right.setdefault(name, []).append(said == label[test])
    return {name: np.concatenate(each) for name, each in right.items()}


def _train(
    encoder: Any,
    objective: Recognition,
    train: ClipStore,
    held: ClipStore,
    tuning: Tuning,
    rate: float,
    seed: int,
) -> tuple[float, Pretraining]:
    """A copy of the encoder trained under the objective, and its error on the validation part."""
    transformers.set_seed(seed)  # the heads start alike
    module = Pretraining(copy.deepcopy(encoder), objective)
    keep = KeepBest(module, _error(module, held), every=max(1, tuning.steps // tuning.checks))
    options = {"learning_rate": rate, "weight_decay": tuning.weight_decay, "seed": seed}
    train_kept(
        module, train, keep, max_steps=tuning.steps,
        per_device_train_batch_size=min(tuning.batch_size, len(train)),
        use_cpu=next(encoder.parameters()).device.type == "cpu", **options,
    )  # fmt: skip
    return keep.best, module


def _error(module: Pretraining, held: ClipStore) -> Callable[[], float]:
    """Mean negative log probability of the held-out labels."""

    def error() -> float:
        found = _probabilities(module, held)[np.arange(len(held)), held.label]
        return float(-np.log(np.maximum(found, 1e-12)).mean())

    return error


@torch.no_grad()
def _probabilities(module: Pretraining, store: ClipStore) -> Float[np.ndarray, "files classes"]:
    """Of each file's classes: the mean over its clips."""
    was_training = module.training
    module.eval()
    places = [(i, clip) for i, own in enumerate(store.clips) for clip in own]
    found = []
    for start in range(0, len(places), 64):
        samples = [{store.key: clip} for _, clip in places[start : start + 64]]
        batch = module.encoder.collator()(samples).to(next(module.parameters()).device)
        encoding = module.encoder(module.encoder.view(batch, view("plain")))
        found.append(module.objective.logits(encoding).softmax(-1).double().cpu().numpy())
    module.train(was_training)
    file = np.array([i for i, _ in places])
    rows = np.concatenate(found)
    sums = np.zeros((len(store), rows.shape[1]))
    np.add.at(sums, file, rows)
    return sums / np.bincount(file)[:, None]


def train_kept(
    module: Pretraining, store: Any, keep: KeepBest, *, head_rate: float = 1.0, **options: Any
) -> int:
    """Train in silence and take the best weights; how many steps were made.

    Args:
        module: what is trained.
        store: of its samples.
        keep: looks at the validation part.
        head_rate: the objective's heads learn so many times as fast as the encoder.
        options: of the training.
    """
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            lr_scheduler_type="cosine",
            warmup_steps=WARMUP,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            monitor_rows=0,
            **options,
        )
        collator = module.encoder.collator(seed=args.seed)
        trainer = Trainer(module, args, store, collator, [keep])
        trainer.remove_callback(PrinterCallback)
        if head_rate != 1:
            trainer.optimizer = _optimizer(module, args, head_rate)
        trainer.train()
    if not keep.ended:
        raise KeyboardInterrupt  # the trainer ends in good order when asked to, but half way
    module.load_state_dict(keep.weights)
    return trainer.state.global_step


def _optimizer(module: Pretraining, args: TrainingArguments, head_rate: float) -> Optimizer:
    """The trainer's own, with a learning rate for the encoder and another for the heads."""
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    rates = ((module.encoder, 1.0), (module.objective, head_rate))
    groups = [
        {"params": list(part.parameters()), "lr": args.learning_rate * times}
        for part, times in rates
    ]
    return kind(groups, **{"weight_decay": args.weight_decay, **options})


__all__ = ["ClipStore", "Distillation", "Recognition", "Tuning", "check_training", "train_kept",
           "tuned_accuracy"]  # fmt: skip
