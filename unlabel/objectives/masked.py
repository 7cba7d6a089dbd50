"""Masked modelling: predict what the encoder was not shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from einops import rearrange
from torch import nn

from unlabel.core import Batch, Encoder, Encoding, View, view
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import TokenPredictor
from unlabel.objectives.kernels import classify, regress
from unlabel.objectives.objective import Objective, Term


class MLM(Objective):
    """Masked language modelling: cross-entropy on the tokens chosen, mean over them.

    At random weights the loss is about ln V for V token ids.

    Args:
        rate: share of tokens to predict, of which 80 % are masked, 10 % random, 10 % kept.
        whole_word: choose words rather than pieces of words.

    Reference: Devlin et al. 2019, arXiv 1810.04805, section 3.1.
    """

    paper = "BERT (Devlin et al. 2019, arXiv 1810.04805)"
    needs = frozenset({"tokens", "table", "token_ids"})

    def __init__(self, *, rate: float = 0.15, whole_word: bool = False):
        super().__init__()
        self.views = (view("mask_tokens", rate=rate, whole_word=whole_word),)

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
        assert seen.target is not None  # the view makes both
        logits = self.predictor(encoding.tokens[seen.is_target], encoding.table)
        losses = classify(logits, seen.target[seen.is_target], reduction="none")
        return {"token": Term(global_mean(losses), chance=math.log(logits.shape[-1]))}


class MaskedValues(Objective):
    """Masked values: hide a part of the values and predict them, mean over those hidden.

    A linear head maps each token to the values it stands for. Only values that were hidden to be
    asked for, and were observed, count. A perfect prediction gives 0; predicting the mean of
    normalised values gives about 1 (mse). The defaults are PatchTST's. TST is `unit="span"`,
    `ratio=0.15`, `mean_length=3`; a single step of a window of T is `unit="step"`, `ratio=1/T`.

    Args:
        unit: what is hidden at a time: a step, a span of steps, a patch (one token), or a whole
            channel.
        ratio: share that is hidden.
        mean_length: steps that a span has on average.
        loss: distance, `"mse"`, `"l1"` or `"huber"`.
        before: views applied before the masking, joined by `+`, such as `"scaling"`; targets are
            taken from their result. One that mixes steps would give away what is hidden: put it
            after.
        after: views of what is left visible, joined by `+`, such as `"jitter"` or `"random_conv"`;
            targets stay as they were.
        args: their arguments, such as `{"jitter.high": 0.5}`.

    Raises:
        ValueError: no share between 0 and 1, or an argument of a view that is not there.

    Reference: Nie et al. 2023 (PatchTST), arXiv 2211.14730, section 3.2; Zerveas et al. 2021
    (TST), arXiv 2010.02803, section 3.2.
    """

    paper = "PatchTST (Nie et al. 2023, arXiv 2211.14730); TST (Zerveas et al. 2021, 2010.02803)"
    needs = frozenset({"tokens", "values"})

    def __init__(
        self,
        *,
        unit: Literal["step", "span", "patch", "channel"] = "patch",
        ratio: float = 0.4,
        mean_length: float = 3.0,
        loss: Literal["mse", "l1", "huber"] = "mse",
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not 0 < ratio < 1:
            raise ValueError(f"ratio is the share to hide, between 0 and 1, but {ratio} came.")
        how = {"unit": unit, "ratio": ratio, "mean_length": mean_length}
        named = {f"mask_values.{key}": value for key, value in how.items()}
        self.views = (chain(before, "mask_values", after, args={**named, **(args or {})}),)
        self.loss: Literal["mse", "l1", "huber"] = loss

    def build(self, encoder: Encoder) -> None:
        """Make the linear head from tokens to values."""
        self.predictor = nn.Linear(encoder.width, encoder.token_values)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `value`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes both
        one = "batch length values -> batch length values 1"
        pred, target = rearrange(self.predictor(encoding.tokens), one), rearrange(seen.target, one)
        losses = regress(pred, target, seen.is_target, metric=self.loss, reduction="none")
        return {"value": Term(global_mean(losses))}

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """The view with what the head predicts."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        return [replace(seen, target=self.predictor(encoding.tokens[:, : seen.target.shape[1]]))]
