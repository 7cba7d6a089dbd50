"""A sentence through one vector: delete words, and decode the whole sentence from the rest."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, view
from unlabel.objectives.gather import global_mean
from unlabel.objectives.heads import AttentionLayer, TokenPredictor
from unlabel.objectives.kernels import classify
from unlabel.objectives.objective import Objective, Term


class SentenceDecoder(nn.Module):
    """A causal Transformer that reads the tokens so far and one vector of the sentence.

    Attention to a single vector gives that vector to every token, whatever the scores are, so that
    it is one linear map of it, added before each block.

    Args:
        width: of the sentence's vector and of the decoder.
        columns: of the token table.
        length: tokens of a sentence at most.
        layers: of the decoder.
        heads: of its attention.
    """

    def __init__(self, width: int, columns: int, length: int, *, layers: int, heads: int):
        super().__init__()
        self.enter = nn.Linear(columns, width)
        self.start = nn.LayerNorm(width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        self.bridges = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.blocks = nn.ModuleList(AttentionLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        pooled: Float[Tensor, "batch width"],
        ids: Int[Tensor, "batch length"],
        table: Float[Tensor, "vocabulary columns"],
    ) -> Float[Tensor, "batch length width"]:
        """A vector at each token, from the tokens up to it."""
        length = ids.shape[1]
        place = torch.arange(length, device=ids.device).clamp(max=len(self.places) - 1)
        x = self.start(self.enter(nn.functional.embedding(ids, table)) + self.places[place])
        later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        for bridge, block in zip(self.bridges, self.blocks, strict=True):
            x = block(x + bridge(pooled)[:, None], src_mask=later)
        return self.norm(x)


class TSDAE(Objective):
    """Sequential denoising autoencoder: delete words, and decode the sentence from one vector.

    `-ln p(x_t | x_1 .. x_{t-1}, vector)`, mean over all tokens but the first: the decoder sees of
    the sentence its pooled vector alone. Its token table is the encoder's. A perfect decoder gives
    0; about ln V at random weights.

    Args:
        ratio: chance of each word to be deleted.
        layers: of the decoder, which is thrown away afterwards.
        heads: of its attention.

    Raises:
        ValueError: no share of at least 0 and below 1, no layer, or no head.

    Reference: Wang et al. 2021, arXiv 2104.06979, section 3.
    """

    paper = "TSDAE (Wang et al. 2021, arXiv 2104.06979)"
    needs = frozenset({"pooled", "table", "token_ids"})

    def __init__(self, *, ratio: float = 0.6, layers: int = 2, heads: int = 4):
        super().__init__()
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is a share of at least 0 and below 1, but {ratio} came.")
        if min(layers, heads) < 1:
            raise ValueError(f"layers and heads are 1 or more, but {layers} and {heads} came.")
        self.views = (view("delete_tokens", ratio=ratio),)
        self.layers, self.heads = layers, heads

    def build(self, encoder: Encoder) -> None:
        """Make the decoder.

        Raises:
            ValueError: a width that the heads cannot share.
        """
        width, (vocabulary, columns) = encoder.width, encoder.table_size
        if width % self.heads:
            raise ValueError(f"A width of {width} cannot be shared by {self.heads} heads.")
        size = (width, columns, encoder.grid[0])
        self.decoder = SentenceDecoder(*size, layers=self.layers, heads=self.heads)
        self.predictor = TokenPredictor(width, vocabulary, columns)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `token`."""
        (encoding,), (seen,) = encodings, views
        ids, asked = seen.target, batch.mask[:, 1:]
        assert ids is not None and encoding.table is not None  # the view makes it, it was asked for
        tokens = self.decoder(encoding.pooled, ids[:, :-1], encoding.table)
        logits = self.predictor(tokens[asked], encoding.table)
        losses = classify(logits, ids[:, 1:][asked], reduction="none")
        return {"token": Term(global_mean(losses), chance=math.log(logits.shape[-1]))}


__all__ = ["TSDAE", "SentenceDecoder"]
