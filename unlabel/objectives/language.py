"""Language modelling in an order: the next token, tokens in any order, and the next sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, stream_of, uniform, view
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import drawn_class, small_linear, tanh_projector
from unlabel.objectives.kernels import classify
from unlabel.objectives.masked import MLM
from unlabel.objectives.objective import Objective, Term

_SAMPLE = stream_of("sample")
_COLD = 1e-9  # a temperature at which the likeliest token alone is drawn


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

    @torch.no_grad()
    def drawn(
        self, encoder: Encoder, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Int[Tensor, "count length"]:
        """Token after token given those before, to the one that ends a sentence or the last place.

        Raises:
            ValueError: sentences of this vocabulary have no token that begins and none that ends.
        """
        begin, end, pad = encoder.frame
        device, length = self.predictor.bias.device, encoder.grid[0]
        ids = torch.full((count, length), pad, device=device)
        ids[:, 0] = begin
        draws = uniform(seed, torch.arange(count, device=device), _SAMPLE, length)
        is_over = torch.zeros(count, dtype=torch.bool, device=device)
        for place in range(1, length):
            past = torch.ones(place, place, dtype=torch.bool, device=device).tril()
            seen = replace(encoder.of_values(ids[:, :place]), attend=past.expand(count, -1, -1))
            encoding = encoder(seen, want=frozenset({"table"}))
            logits = self.predictor(encoding.tokens[:, -1], encoding.table).double()
            logits[:, [begin, pad]] = -torch.inf  # which no place was ever asked for
            found = drawn_class(logits / max(temperature, _COLD), draws[:, place])
            ids[:, place] = torch.where(is_over, pad, found)
            is_over |= found == end
            if is_over.all():
                break
        return ids


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
