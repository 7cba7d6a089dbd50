"""Methods that use labels where a batch has them; -1 is none."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec
from unlabel.objectives.chains import TURNED, chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import check_temperature
from unlabel.objectives.instance import InstanceContrast
from unlabel.objectives.kernels import classify, kl
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.sum import Sum

_MOST = 8  # turned views that an encoder may name


def class_count(classes: int | None) -> int:
    """The number of classes.

    Raises:
        ValueError: it is not known, or there are fewer than two.
    """
    if classes is None or classes < 2:
        had = "has none" if classes is None else f"has {classes} class(es)"
        raise ValueError(
            f"This objective learns from the labels of at least two classes, but the data {had}: "
            "read data with classes (a column `label`, folders by class), or give classes."
        )
    return classes


def labels_of(batch: Batch) -> Tensor:
    """Class of each sample, -1 for none."""
    return torch.full_like(batch.index, -1) if batch.label is None else batch.label


class Supervised(Objective):
    """Cross-entropy of a linear layer on the samples that have a class, mean over them.

    ln C where the layer knows nothing of C classes; 0 where no sample has a class.

    Args:
        classes: C; None takes the number that the data has.
        augment: the view, joined by `+`; `usual` are those of the kind of data.
        args: its arguments.

    Raises:
        ValueError: an argument of a view that is not there, or (when it is built) no classes.

    Reference: Shannon 1948, cross-entropy.
    """

    paper = "cross-entropy"

    def __init__(
        self,
        *,
        classes: int | None = None,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.views, self.classes = (chain(augment, args=args),), classes

    def build(self, encoder: Encoder) -> None:
        """Make the linear layer."""
        self.classifier = nn.Linear(encoder.width, class_count(self.classes))

    def logits(self, encoding: Encoding) -> Float[Tensor, "batch classes"]:
        """Scores of the classes."""
        return self.classifier(encoding.pooled)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `label`."""
        logits = self.logits(encodings[0])
        losses = classify(logits, labels_of(batch), ignore=-1, reduction="none")
        return {"label": Term(global_mean(losses), chance=math.log(logits.shape[1]))}


class S4L(Sum):
    """S4L: cross-entropy on the samples that have a class, and a pretext task on all.

    `CE(labelled) + weight * pretext(all)`. With a weight of 0 it is `Supervised`.

    Args:
        pretext: any objective. S4L's own are `RotationPrediction` and exemplars: views of one
            sample belong together, for which None takes `InstanceContrast`.
        weight: of the pretext.
        classes: how many; None takes the number that the data has.
        augment: what the cross-entropy sees, joined by `+`; `usual` are the views of the kind of
            data, `rotate` is S4L-Rotation's.
        args: its arguments.

    Raises:
        ValueError: a weight below 0, an argument of a view that is not there, or (when it is
            built) no classes.

    Reference: Zhai et al. 2019, arXiv 1905.03670, section 3.
    """

    paper = "S4L (Zhai et al. 2019, arXiv 1905.03670)"

    def __init__(
        self,
        *,
        pretext: Objective | None = None,
        weight: float = 1.0,
        classes: int | None = None,
        augment: str = "usual",
        args: Mapping[str, Any] | None = None,
    ):
        if weight < 0:
            raise ValueError(f"The weight of the pretext is 0 or more, but {weight} came.")
        own = Supervised(classes=classes, augment=augment, args=args)
        pretext = InstanceContrast() if pretext is None else pretext
        super().__init__({"supervised": own, "pretext": pretext}, {"pretext": weight})
        self.paper = type(self).paper


class SLA(Objective):
    """Self-supervised label augmentation: which class and which turn, told as one, and distilled.

    Of each sample with a class y are M views j, turned in ways that can be told apart: pictures by
    quarter turns, series and sound forth and back. A joint head has C M classes, of which
    `y M + j` is right; a single head tells y from the first view, which is not turned:
    `mean_j CE(joint(x_j), y M + j) + CE(single(x_0), y) + T^2 KL(p || softmax(single(x_0) / T))`,
    where `p = softmax(mean_j joint(x_j)[:, j] / T)`, without a gradient, is what all views together
    say of the class. Mean over the samples with a class. Heads that know nothing have
    `ln(C M) + ln C`.

    Args:
        temperature: T.
        classes: C; None takes the number that the data has.

    Raises:
        ValueError: a temperature that is not above 0, or (when it is built) no classes.

    Reference: Lee et al. 2020, arXiv 1910.05872, sections 2.2 and 2.3; authors'
    code `trainers.py`.
    """

    paper = "SLA+SD (Lee et al. 2020, arXiv 1910.05872)"
    needs = frozenset({"pooled", "turned"})

    def __init__(self, *, temperature: float = 1.0, classes: int | None = None):
        super().__init__()
        check_temperature(temperature)
        self.views = tuple(ViewSpec(TURNED, turn) for turn in range(_MOST))
        self.temperature, self.classes = temperature, classes

    def build(self, encoder: Encoder) -> None:
        """Make both heads."""
        classes = class_count(self.classes)
        self.joint = nn.Linear(encoder.width, classes * len(self.views))
        self.single = nn.Linear(encoder.width, classes)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `joint`, `single` and `distilled`."""
        labels, turns = labels_of(batch), len(encodings)
        seen = labels >= 0
        label = labels[seen]
        # (labelled, turn that is seen, class and turn that is told)
        joint = torch.stack([self.joint(e.pooled[seen]) for e in encodings], 1)
        turn = torch.arange(turns, device=label.device)
        told = classify(joint, label[:, None] * turns + turn, reduction="none")
        single = self.single(encodings[0].pooled[seen])
        alone = classify(single, label, reduction="none")
        together = joint.unflatten(2, (-1, turns)).diagonal(dim1=1, dim2=3).mean(2)
        apart = kl(single, together.detach(), temperature=self.temperature, reduction="none")
        classes = single.shape[1]
        return {
            "joint": Term(global_mean(told), chance=math.log(classes * turns)),
            "single": Term(global_mean(alone), chance=math.log(classes)),
            "distilled": Term(global_mean(apart)),
        }


__all__ = ["S4L", "SLA", "Supervised", "class_count", "labels_of"]
