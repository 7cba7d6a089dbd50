"""Masked modelling with a vocabulary that a tokenizer learns from the same data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, stream_of, uniform
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import mlp
from unlabel.objectives.kernels import classify
from unlabel.objectives.masked import masked_view
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term
from unlabel.objectives.state import Settled


class Tokenizer(nn.Module):
    """A discrete autoencoder of what one token stands for: values, one of K codes, values again.

    Of pictures it is a convolution whose kernel and stride are a token's cell, with 1 x 1
    convolutions behind it, and the same backwards.

    Args:
        values: numbers of a token.
        codes: K.
        width: of a code's vector.
        hidden: width of the layers between.

    Reference: Ramesh et al. 2021 (DALL-E), arXiv 2102.12092, section 2.1 and appendix A.
    """

    def __init__(self, values: int, codes: int, *, width: int = 64, hidden: int = 256):
        super().__init__()
        self.encode = mlp(values, hidden, hidden, codes)
        # Scores that lie apart from the start: on frames of real videos, 600 steps came to a
        # use of 72 codes (exp of the entropy), and of 16 from torch's own start.
        last: Any = self.encode[-1]
        nn.init.normal_(last.weight, std=6 / hidden**0.5)
        self.table = nn.Parameter(torch.randn(codes, width))
        self.decode = mlp(width, hidden, hidden, values)

    def forward(
        self,
        values: Float[Tensor, "tokens values"],
        noise: Float[Tensor, "tokens codes"],
        temperature: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, "tokens values"], Float[Tensor, "tokens codes"]]:
        """What comes out for a sample of the codes, `softmax((logits + noise) / T)`; the logits.

        Args:
            values: of each token.
            noise: from Gumbel's distribution.
            temperature: T; near 0 the sample is one code alone.
        """
        logits = exact(self.encode(values))
        sample = ((logits + noise) / temperature).softmax(-1)
        return self.decode(sample.to(self.table.dtype) @ self.table), logits


class BEiT(Objective):
    """BEiT: which code a learned tokenizer gives to what is hidden.

    Cross-entropy over the K codes, mean over the hidden tokens; equal scores give ln K. What was
    not hidden does not count. The tokenizer is a `Tokenizer`, trained at the same time by terms
    that reach no encoder: the mean square of what it cannot restore, and the distance of its codes
    from an even use, `KL(q || 1/K)`. The codes to predict come from a copy of it that follows for
    `settle` steps and then stays, for good; from then on the tokenizer is not trained any more.

    BEiT's own tokenizer is trained before, by itself, and sees more than one cell at a time. What
    is hidden is shown to the encoder as the data's mean, see `MaskedValues`.

    Args:
        codes: K; the paper's are 8192, for pictures of all kinds.
        settle: steps in which the tokenizer learns; a small part of the run.
        unit: what is hidden at a time. The paper hides `"block"`s of pictures and clips; `"patch"`
            is a token of any data, `"span"` is for series and sound.
        ratio: share of tokens hidden.
        even: weight of the distance from an even use of the codes.
        hidden: width of the tokenizer.
        before: views applied before the masking, joined by `+`, such as `"crop+flip"`.
        after: views of what is left visible.
        args: their arguments, and those of the mask.

    Raises:
        ValueError: fewer than two codes, no share between 0 and 1, or an argument of a view that
            is not there.

    Reference: Bao et al. 2022, arXiv 2106.08254, sections 2.2 to 2.4.
    """

    paper = "BEiT (Bao et al. 2022, arXiv 2106.08254)"
    settles = "settle"
    needs = frozenset({"tokens", "values"})

    def __init__(
        self,
        *,
        codes: int = 512,
        settle: int = 1000,
        unit: str = "patch",
        ratio: float = 0.4,
        even: float = 0.03,
        hidden: int = 256,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if codes < 2:
            raise ValueError(f"codes is how many a hidden token may have, but {codes} came.")
        how = {"unit": unit, "ratio": ratio}
        self.views = (masked_view(how, before=before, after=after, args=args),)
        self.codes, self.settle, self.even, self.hidden = codes, settle, even, hidden
        self.stream = stream_of("beit")

    def build(self, encoder: Encoder) -> None:
        """Make the tokenizer, its copy, and the head over the codes."""
        self.tokenizer = Tokenizer(encoder.token_values, self.codes, hidden=self.hidden)
        self.teacher = Settled(self.tokenizer, until=self.settle)
        self.predictor = nn.Linear(encoder.width, self.codes)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Terms `code`, of the encoder; `restored` and `even`, of the tokenizer."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None and seen.is_target is not None  # the view makes both
        chosen = seen.is_target.any(-1)
        values = exact(seen.target)[chosen].to(self.tokenizer.table.dtype)
        logits = self.predictor(encoding.tokens[:, : chosen.shape[1]][chosen])
        losses = classify(logits, self.code_of(values), reduction="none")
        with torch.autocast(values.device.type, enabled=False):
            restored, even = self.fit(values, seen.is_target[chosen], chosen, batch)
        return {
            "code": Term(global_mean(losses), chance=math.log(self.codes)),
            "restored": Term(restored),
            "even": Term(even, self.even),
        }

    def fit(
        self, values: Tensor, is_target: Tensor, chosen: Tensor, batch: Batch
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The tokenizer's own losses; 0 when it has settled."""
        draws = uniform(batch.seed, batch.ordinal, self.stream, chosen.shape[1] * self.codes)
        draws = exact(rearrange(draws, "b (l k) -> b l k", k=self.codes)[chosen])
        gumbel = -(-draws.clamp(min=2.0**-25).log()).log()  # a draw may be 0, but is never 1
        # From soft samples to hard ones, as the paper's tokenizer.
        share = self.teacher.steps / max(self.settle, 1)
        made, logits = self.tokenizer(values, gumbel, (1 / 16) ** share.clamp(max=1))
        apart = (exact(made) - values).square()[is_target]
        log_q = logits.log_softmax(-1)
        uneven = (log_q.exp() * log_q).sum(-1) + math.log(self.codes)
        learns = self.teacher.follows
        return global_mean(apart) * learns, global_mean(uneven) * learns

    @torch.no_grad()
    def code_of(self, values: Float[Tensor, "*tokens values"]) -> Int[Tensor, "*tokens"]:
        """The code that stands for each token's values."""
        with torch.autocast(values.device.type, enabled=False):
            return self.teacher.module.encode(values).argmax(-1)

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """The view with what the predicted codes stand for."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes it
        tokenizer: Any = self.teacher.module
        code = self.predictor(encoding.tokens[:, : seen.target.shape[1]]).argmax(-1)
        return [replace(seen, target=tokenizer.decode(tokenizer.table[code]))]


__all__ = ["BEiT", "Tokenizer"]
