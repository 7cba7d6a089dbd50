"""Language modelling in an order: the next token, tokens in any order, and the next sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from unlabel.core import Batch, Encoder, Encoding, View, view
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import small_linear, tanh_projector
from unlabel.objectives.kernels import classify
from unlabel.objectives.masked import MLM
from unlabel.objectives.objective import Objective, Term


class NextToken(MLM):
    """Autoregressive language modelling: each token is predicted from those before it.

    `-ln p(x_t | x_1 .. x_{t-1})`, mean over all tokens but the first; about ln V at random weights.
    The encoder sees the past alone in training, whatever it sees in use: the Jacobian of the
    predictions by the tokens is strictly lower triangular.

    Reference: Radford et al. 2018, Improving language understanding by generative pre-training,
    section 3.1; with the mask of an encoder: Dong et al. 2019 (UniLM), arXiv 1905.03197, section 2.
    """

    paper = "GPT (Radford et al. 2018)"

    def __init__(self):
        super().__init__()
        self.views = (view("causal"),)


class PermutationLM(MLM):
    """Permutation language modelling: tokens predicted in an order drawn for each sentence.

    `-ln p(x_z(t) | x_z(1) .. x_z(t-1), place z(t))`, mean over the tokens that come last in the
    order z; about ln V at random weights. A token is asked for by a query that knows its place:
    contents and queries go through the encoder as one sequence of twice the length, whose
    attention follows the order. From left to right the contents are those of `NextToken`.

    Args:
        share: of the tokens, the last in the order, that are predicted.
        order: `"random"`, or `"forward"`, from left to right.

    Raises:
        ValueError: no share above 0 and up to 1, or another order.

    Reference: Yang et al. 2019 (XLNet), arXiv 1906.08237, sections 2.2 and 2.3.
    """

    paper = "XLNet (Yang et al. 2019, arXiv 1906.08237)"

    def __init__(self, *, share: float = 1 / 6, order: str = "random"):
        super().__init__()
        if order not in ("random", "forward") or not 0 < share <= 1:
            raise ValueError(
                "share is above 0 and up to 1, and order random or forward, but "
                f"{share} and {order!r} came."
            )
        self.views = (view("permutation", share=share, order=order),)


class NextSentence(Objective):
    """Next-sentence prediction: does the second sentence of a pair follow the first?

    Cross-entropy over two classes, mean over the samples; ln 2 where the head knows nothing. The
    sample's `positive` partner follows, its `negative` does not. As in BERT, beside `MLM` on the
    same pairs: `MLM(before="next_sentence")`. With `after="mask_tokens"` and the same arguments
    here, both read the same view, which is encoded once.

    Args:
        negatives: share of pairs that do not follow.
        after: views of the pair, joined by `+`, such as `"mask_tokens"`.
        args: arguments of the views.

    Raises:
        ValueError: no share between 0 and 1, or an argument of a view that is not there.

    Reference: Devlin et al. 2019, arXiv 1810.04805, section 3.1, task 2.
    """

    paper = "BERT (Devlin et al. 2019, arXiv 1810.04805)"
    needs = frozenset({"pooled", "pair"})

    def __init__(
        self, *, negatives: float = 0.5, after: str = "", args: Mapping[str, Any] | None = None
    ):
        super().__init__()
        if not 0 < negatives < 1:
            raise ValueError(f"negatives is a share between 0 and 1, but {negatives} came.")
        # The usual share goes unsaid, so that the view may be another method's too.
        how = {} if negatives == 0.5 else {"next_sentence.negatives": negatives}
        self.views = (chain("next_sentence", after, args={**how, **(args or {})}),)

    def build(self, encoder: Encoder) -> None:
        """Make the head: BERT's tanh layer, and two classes."""
        last = small_linear(encoder.width, 2)
        self.classifier = nn.Sequential(*tanh_projector(encoder.width), last)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `next`."""
        (encoding,), (seen,) = encodings, views
        assert seen.label is not None  # the view makes it
        logits = self.classifier(encoding.pooled)
        losses = classify(logits, seen.label[:, 0], reduction="none")
        return {"next": Term(global_mean(losses), chance=math.log(2))}


__all__ = ["NextSentence", "NextToken", "PermutationLM"]
