"""Masked modelling: predict what the encoder was not shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, ViewSpec
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import TokenPredictor
from unlabel.objectives.kernels import classify, cost_of
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term


class MLM(Objective):
    """Masked language modelling: cross-entropy on the tokens chosen, mean over them.

    At random weights the loss is about ln V for V token ids.

    Args:
        rate: share of tokens to predict, of which 80 % are masked, 10 % random, 10 % kept.
        whole_word: choose words rather than pieces of words.
        before: views applied before the masking, joined by `+`: `"next_sentence"` masks pairs.
        args: their arguments, such as `{"next_sentence.negatives": 0.3}`.

    Raises:
        ValueError: an argument of a view that is not there.

    Reference: Devlin et al. 2019, arXiv 1810.04805, section 3.1.
    """

    paper = "BERT (Devlin et al. 2019, arXiv 1810.04805)"
    needs = frozenset({"tokens", "table", "token_ids"})

    def __init__(
        self,
        *,
        rate: float = 0.15,
        whole_word: bool = False,
        before: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        how = {"mask_tokens.rate": rate, "mask_tokens.whole_word": whole_word, **(args or {})}
        self.views = (chain(before, "mask_tokens", args=how),)

    def build(self, encoder: Encoder) -> None:
        """Make the head over the vocabulary, or go on with the one the encoder came with."""
        vocabulary, width = encoder.table_size
        self.predictor = TokenPredictor(encoder.width, vocabulary, width)
        if (head := encoder.token_head()) is not None:
            self.predictor.start_from(head)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `token`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None and seen.is_target is not None  # the view makes both
        # Beside a longer view, tokens of padding come behind.
        tokens = encoding.tokens[:, : seen.is_target.shape[1]]
        logits = self.predictor(tokens[seen.is_target], encoding.table)
        losses = classify(logits, seen.target[seen.is_target], reduction="none")
        return {"token": Term(global_mean(losses), chance=math.log(logits.shape[-1]))}


class MaskedValues(Objective):
    """Masked values: hide a part of the values and predict them, mean over those hidden.

    A linear head maps each token to the values it stands for. Only values that were hidden to be
    asked for, and were observed, count. A perfect prediction gives 0; predicting the mean of
    normalised values gives about 1 (mse). The defaults are PatchTST's. TST is `unit="span"`,
    `ratio=0.15`, `mean_length=3`; a single step of a window of T is `unit="step"`, `ratio=1/T`;
    MaskFeat is `features="hog"`, of pictures, with `unit="block"`.

    What is hidden is shown to the encoder as the data's mean, which is 0 after normalisation, at
    its place; there is no learned mask token, though the embedding's bias stands there like one.

    Args:
        unit: what is hidden at a time: `"step"`, `"span"` (of steps), `"patch"` (one token) or
            `"channel"`; of pictures `"patch"`, `"square"`, `"block"`, `"tube"` or `"frame"`.
        ratio: share that is hidden.
        mean_length: steps that a span has on average.
        loss: distance, `"mse"`, `"l1"` or `"huber"`.
        features: a view that makes features to predict instead of the values, such as `"hog"`.
        before: views applied before the masking, joined by `+`, such as `"scaling"`; targets are
            taken from their result. One that mixes steps would give away what is hidden: put it
            after.
        after: views of what is left visible, joined by `+`, such as `"jitter"` or `"random_conv"`;
            targets stay as they were.
        args: their arguments, such as `{"jitter.high": 0.5}`.

    Raises:
        ValueError: no share between 0 and 1, or an argument of a view that is not there.

    Reference: Nie et al. 2023 (PatchTST), arXiv 2211.14730, section 3.2; Zerveas et al. 2021
    (TST), arXiv 2010.02803, section 3.2; Wei et al. 2022 (MaskFeat), 2112.09133, section 3.
    """

    paper = "PatchTST (Nie et al. 2023, arXiv 2211.14730); TST (Zerveas et al. 2021, 2010.02803)"
    needs = frozenset({"tokens", "values"})

    def __init__(
        self,
        *,
        unit: str = "patch",
        ratio: float = 0.4,
        mean_length: float = 3.0,
        loss: Literal["mse", "l1", "huber"] = "mse",
        features: str = "",
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        how = {"unit": unit, "ratio": ratio, "mean_length": mean_length}
        self.views = (masked_view(how, features, before=before, after=after, args=args),)
        self.loss: Literal["mse", "l1", "huber"] = loss
        self.features = features

    def build(self, encoder: Encoder) -> None:
        """Make the linear head from tokens to values."""
        width = target_values(encoder, self.views[0], self.features)
        self.predictor = nn.Linear(encoder.width, width)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `value`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None and seen.is_target is not None  # the view makes both
        pred = self.predictor(encoding.tokens[:, : seen.target.shape[1]])
        return {"value": at_targets(pred, seen.target, seen.is_target, metric=self.loss)}

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """The view with what the head predicts; features are nothing to look at."""
        if self.features:
            return [None]
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        return [replace(seen, target=self.predictor(encoding.tokens[:, : seen.target.shape[1]]))]


class SimMIM(MaskedValues):
    """SimMIM: hide much of a picture in large pieces, and predict its raw values by a linear head.

    `|prediction - value|`, mean over the hidden values; what was not hidden does not count. A
    perfect prediction gives 0. The encoder is shown the data's mean where something is hidden, as
    `MaskedValues` does, and no learned token as in the paper.

    Args:
        unit: what is hidden at a time. The paper hides squares of 32 pixels: `"square"` of
            pictures and clips, at all times; `"patch"` is a token of any data.
        ratio: share that is hidden.
        loss: distance, `"l1"`, `"mse"` or `"huber"`.
        before: views applied before the masking, joined by `+`.
        after: views of what is left visible.
        args: their arguments, and those of the mask, such as `{"mask_values.side": 16}`.

    Raises:
        ValueError: no share between 0 and 1, or an argument of a view that is not there.

    Reference: Xie et al. 2022, arXiv 2111.09886, section 3.
    """

    paper = "SimMIM (Xie et al. 2022, arXiv 2111.09886)"

    def __init__(
        self,
        *,
        unit: str = "patch",
        ratio: float = 0.6,
        loss: Literal["mse", "l1", "huber"] = "l1",
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        more: Any = {"before": before, "after": after, "args": args}
        super().__init__(unit=unit, ratio=ratio, loss=loss, **more)


def masked_view(
    how: Mapping[str, Any],
    features: str = "",
    *,
    before: str = "",
    after: str = "",
    args: Mapping[str, Any] | None = None,
) -> ViewSpec:
    """A view with a part hidden, which asks for its values, or for features that a view makes.

    Args:
        how: arguments of the mask.
        features: the view that makes them, or nothing.
        before: views applied before the masking, joined by `+`.
        after: views of what is left visible.
        args: arguments by `"link.argument"`.

    Raises:
        ValueError: no share between 0 and 1, or an argument of a view that is not there.
    """
    if not 0 < (ratio := how["ratio"]) < 1:
        raise ValueError(f"ratio is the share to hide, between 0 and 1, but {ratio} came.")
    named = {f"mask_values.{key}": value for key, value in how.items()}
    # Features are of what was hidden: made before any view changes what is left.
    return chain(before, "mask_values", features, after, args={**named, **(args or {})})


def target_values(encoder: Encoder, spec: ViewSpec, features: str = "") -> int:
    """Numbers that a view made by `masked_view` asks of each token."""
    if not features:
        return encoder.token_values
    return encoder.target_values(next(link for link in spec.parts() if link.name == features))


def at_targets(
    pred: Float[Tensor, "batch length values"],
    target: Float[Tensor, "batch length values"],
    is_target: Bool[Tensor, "batch length values"],
    *,
    metric: Literal["mse", "l1", "huber"] = "mse",
) -> Term:
    """Distance of prediction and target, mean over the values of all ranks that are asked for.

    Chance is what predicting the mean of these values costs.
    """
    # What is not asked for is a distance of 0, and not left out: no shape depends on the data, so
    # that the device is never waited for.
    asked, off = exact(target).masked_fill(~is_target, 0.0), ~is_target

    def distance(made: Tensor) -> Float[Tensor, ""]:
        apart = (made - asked).masked_fill(off, 0.0)
        return global_mean(cost_of(apart, metric).flatten(), is_target.flatten())

    with torch.no_grad():
        mean = asked.sum() / is_target.sum().clamp(min=1)
        chance = distance(mean)
    return Term(distance(exact(pred)), chance=chance)


__all__ = ["MLM", "MaskedValues", "SimMIM", "at_targets", "masked_view", "target_values"]
