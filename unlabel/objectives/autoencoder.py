"""Masked autoencoding: the encoder sees the visible tokens only, a small decoder does the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.heads import AttentionLayer, check_heads
from unlabel.objectives.masked import at_targets, masked_view, target_values
from unlabel.objectives.moments import exact
from unlabel.objectives.objective import Objective, Term


class MaskedDecoder(nn.Module):
    """Visible tokens at their places, a learned token at all others, and a Transformer over them.

    Args:
        length: tokens of the whole view.
        width: of the encoder's tokens.
        values: numbers that a token stands for.
        hidden: width of the decoder.
        layers: of the decoder.
        heads: of its attention.
    """

    def __init__(
        self, length: int, width: int, values: int, *, hidden: int, layers: int, heads: int
    ):
        super().__init__()
        self.length = length
        self.enter = nn.Linear(width, hidden)
        self.missing = nn.Parameter(torch.randn(hidden) * 0.02)
        self.places = nn.Parameter(torch.randn(length, hidden) * 0.02)
        layer = AttentionLayer(hidden, heads)
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden)
        self.leave = nn.Linear(hidden, values)

    def forward(
        self,
        tokens: Float[Tensor, "batch visible width"],
        mask: Bool[Tensor, "batch visible"],
        positions: Int[Tensor, "batch visible"],
    ) -> Float[Tensor, "batch length values"]:
        """Values of every token of the whole view."""
        entered = self.enter(tokens)
        full = self.missing.to(entered.dtype).expand(len(tokens), self.length + 1, -1)
        # Padding goes to a place behind the last, which is then dropped.
        at = torch.where(mask, positions, self.length)
        at = at[:, :, None].expand(-1, -1, entered.shape[2])
        placed = full.scatter(1, at, entered)[:, : self.length] + self.places
        return self.leave(self.norm(self.blocks(placed)))


class MAE(Objective):
    """Masked autoencoder: encode what is visible, decode the rest, mean over what was hidden.

    With `normalize`, the values of each token are first scaled to mean 0 and (unbiased) variance
    1 by their own, and predicting 0 costs (P - 1)/P for P values a token.

    Args:
        unit: what is hidden at a time: `"patch"`, a token; of clips also `"tube"`, the same places
            in all frames, which cannot be looked up in the next frame (then with ratio 0.9),
            `"frame"`, `"block"` or `"square"`.
        ratio: share of tokens hidden.
        normalize: predict values scaled token by token, all channels of it together.
        features: a view that makes features to predict instead of the values, such as `"hog"`;
            they are not scaled.
        hidden: width of the decoder, which is thrown away afterwards.
        layers: of the decoder.
        heads: of the decoder's attention.
        args: arguments of the features and of the mask, such as `{"hog.scales": (1, 2)}`.

    Raises:
        ValueError: no share between 0 and 1, no layer, a width that the heads cannot share, or an
            argument of a view that is not there.

    Reference: He et al. 2021, arXiv 2111.06377, section 3; of series: Li et al. 2023 (Ti-MAE),
    arXiv 2301.08871; tubes: Tong et al. 2022 (VideoMAE), arXiv 2203.12602, section 3.2; of an
    encoder of type `convmae`: Gao et al. 2022 (ConvMAE), arXiv 2205.03892, section 3.
    """

    paper = "MAE (He et al. 2021, arXiv 2111.06377)"
    needs = frozenset({"tokens", "values", "length", "visible_only"})

    def __init__(
        self,
        *,
        unit: str = "patch",
        ratio: float = 0.75,
        normalize: bool = True,
        features: str = "",
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_heads(hidden, heads)
        if layers < 1:
            raise ValueError(f"A decoder has 1 layer or more, but layers is {layers}.")
        how = {"unit": unit, "ratio": ratio, "drop": True}
        self.views = (masked_view(how, features, args=args),)
        self.normalize, self.features = normalize and not features, features
        self.sizes = {"hidden": hidden, "layers": layers, "heads": heads}

    def build(self, encoder: Encoder) -> None:
        """Make the decoder."""
        values = target_values(encoder, self.views[0], self.features)
        self.decoder = MaskedDecoder(encoder.length, encoder.width, values, **self.sizes)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `value`."""
        (encoding,), (seen,) = encodings, views
        pred = decoded(self.decoder, encoding.tokens, encoding.mask, seen)
        return {"value": at_targets(pred, *self.aim(seen))}

    def aim(
        self, seen: View
    ) -> tuple[Float[Tensor, "batch length values"], Bool[Tensor, "batch length values"]]:
        """What is to be predicted, and True where it is."""
        assert seen.target is not None and seen.is_target is not None  # the view makes both
        target = exact(seen.target)
        return by_token(target, seen.is_target) if self.normalize else target, seen.is_target

    def filled(self, encodings: Sequence[Encoding], views: Sequence[View]) -> list[View | None]:
        """The view with what the decoder makes of it; scaled as each token's own values are."""
        if self.features:
            return [None]
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None and seen.is_target is not None  # the view makes both
        pred = self.decoded_last(encoding, seen).to(seen.target.dtype)
        if self.normalize:
            mean, std = token_moments(seen.target, seen.is_target)
            pred = pred * std + mean
        return [replace(seen, target=pred)]

    def decoded_last(self, encoding: Encoding, seen: View) -> Float[Tensor, "batch length values"]:
        """What is decoded from the last layer."""
        return decoded(self.decoder, encoding.tokens, encoding.mask, seen)


def decoded(
    decoder: nn.Module, tokens: Tensor, mask: Tensor, seen: View
) -> Float[Tensor, "batch length values"]:
    """What a decoder makes of the visible tokens of a view."""
    places = seen.inputs["positions"]
    # Beside a longer view, tokens of padding come behind.
    return decoder(tokens[:, : places.shape[1]], mask[:, : places.shape[1]], places)


def by_token(
    values: Float[Tensor, "batch length values"], is_target: Bool[Tensor, "batch length values"]
) -> Float[Tensor, "batch length values"]:
    """Values of each token by the mean and unbiased std of those that count there."""
    off, _, std = _centred(values, is_target)
    return off / std


def token_moments(
    values: Float[Tensor, "batch length values"], is_target: Bool[Tensor, "batch length values"]
) -> tuple[Float[Tensor, "batch length 1"], Float[Tensor, "batch length 1"]]:
    """Mean and (unbiased) std of each token, over its values that count."""
    _, mean, std = _centred(values, is_target)
    return mean, std


def _centred(values: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values off their token's mean, 0 where they do not count; mean and std."""
    count, skipped = is_target.sum(-1, keepdim=True), ~is_target
    mean = values.masked_fill(skipped, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)
    off = (values - mean).masked_fill(skipped, 0.0)
    variance = off.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    return off, mean, (variance + 1e-6).sqrt()


__all__ = ["MAE", "MaskedDecoder", "by_token", "decoded", "token_moments"]
