"""Masked modelling: predict what the encoder was not shown."""

import math
from collections.abc import Sequence

from unlabel.core import Batch, Encoder, Encoding, View, view
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import TokenPredictor
from unlabel.objectives.kernels import classify
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
