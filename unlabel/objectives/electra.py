"""Replaced-token detection: a small generator fills places, the encoder finds them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, stream_of, uniform, view
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import AttentionLayer, TokenPredictor, drawn_class, small_linear
from unlabel.objectives.kernels import classify
from unlabel.objectives.objective import Objective, Term

STREAM = stream_of("electra", "generator")


class Generator(nn.Module):
    """A small Transformer that predicts the tokens at chosen places from all others.

    Args:
        vocabulary: token ids.
        length: places at most; those beyond share the last one's vector.
        width: of its vectors.
        layers: of the Transformer.
        heads: of its attention.
    """

    def __init__(self, vocabulary: int, length: int, width: int, *, layers: int, heads: int):
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.missing = nn.Parameter(torch.randn(width) * 0.02)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        nn.init.normal_(self.table.weight, std=0.02)
        layer = AttentionLayer(width, heads)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.predictor = TokenPredictor(width, vocabulary)

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        is_hidden: Bool[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "hidden vocabulary"]:
        """Scores over the vocabulary at the hidden places, row by row."""
        place = torch.arange(ids.shape[1], device=ids.device).clamp(max=len(self.places) - 1)
        shown = torch.where(is_hidden[:, :, None], self.missing, self.table(ids))
        tokens = self.blocks(shown + self.places[place], src_key_padding_mask=~mask)
        return self.predictor(tokens[is_hidden], self.table.weight)


class Electra(Objective):
    """ELECTRA: the encoder tells tokens that a small generator put in from those that were there.

    The generator is trained by masked language modelling alone (`token`, about ln V at first); what
    it draws at the hidden places stands there for the encoder, and `replaced` is the cross-entropy
    of original against replaced, mean over all tokens: ln 2 where the head knows nothing. A token
    drawn that is the original counts as original. Drawing has no gradient, so that none of the
    encoder's reaches the generator.

    The generator has a token table of its own: the paper ties it to the encoder's.

    Args:
        rate: share of the tokens hidden from the generator.
        whole_word: hide words rather than pieces of words.
        weight: of `replaced`; the paper's lambda.
        size: width of the generator in shares of the encoder's.
        layers: of the generator.
        heads: of its attention.

    Raises:
        ValueError: a size, a number of layers or of heads that is not above 0.

    Reference: Clark et al. 2020, arXiv 2003.10555, section 2.
    """

    paper = "ELECTRA (Clark et al. 2020, arXiv 2003.10555)"
    needs = frozenset({"tokens", "token_ids"})

    def __init__(
        self,
        *,
        rate: float = 0.15,
        whole_word: bool = False,
        weight: float = 50.0,
        size: float = 0.25,
        layers: int = 2,
        heads: int = 4,
    ):
        super().__init__()
        if not min(size, layers, heads) > 0:
            raise ValueError(
                f"size, layers and heads are above 0, but {size}, {layers} and {heads} came."
            )
        self.views = (view("choose_tokens", rate=rate, whole_word=whole_word),)
        self.weight, self.size, self.layers, self.heads = weight, size, layers, heads

    def build(self, encoder: Encoder) -> None:
        """Make the generator and the detector's head."""
        width = max(1, round(self.size * encoder.width / self.heads)) * self.heads
        sizes = (encoder.table_size[0], encoder.grid[0], width)
        self.generator = Generator(*sizes, layers=self.layers, heads=self.heads)
        last = small_linear(encoder.width, 2)
        self.detector = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.GELU(), last)

    @torch.no_grad()
    def rewrite(self, views: Sequence[View], batch: Batch) -> Sequence[View]:
        """The hidden tokens replaced by what the generator draws."""
        (seen,) = views
        ids, is_target = seen.target, seen.is_target
        assert ids is not None and is_target is not None  # the view makes both
        with torch.autocast(ids.device.type, enabled=False):
            guessed = self.generator(ids, is_target, seen.mask)
        draws = uniform(batch.seed, batch.ordinal, STREAM, ids.shape[1])[is_target]
        filled = ids.masked_scatter(is_target, drawn_class(guessed, draws))
        return [replace(seen, inputs={**seen.inputs, "input_ids": filled})]

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """Two terms, `token` (the generator's) and `replaced`."""
        (encoding,), (seen,) = encodings, views
        ids, is_target, mask = seen.target, seen.is_target, seen.mask
        assert ids is not None and is_target is not None  # the view makes both
        guessed = self.generator(ids, is_target, mask)
        token = classify(guessed, ids[is_target], reduction="none")
        # Beside a longer view, tokens of padding come behind.
        logits = self.detector(encoding.tokens[:, : mask.shape[1]])
        is_new = (seen.inputs["input_ids"] != ids).long()
        replaced = classify(logits, is_new, mask, reduction="none")
        return {
            "token": Term(global_mean(token), chance=math.log(guessed.shape[-1])),
            "replaced": Term(global_mean(replaced), self.weight, chance=math.log(2)),
        }


__all__ = ["Electra", "Generator"]
