"""Masked autoencoding with a decoder after each of several blocks of the encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View, view
from unlabel.objectives.autoencoder import MAE, MaskedDecoder, decoded
from unlabel.objectives.masked import at_targets, target_values
from unlabel.objectives.objective import Term


class DeepMIM(MAE):
    """Deep supervision of masked autoencoding: a decoder after several blocks, one target for all.

    The sum of `MAE`'s loss over the decoders; with the last layer alone it is `MAE`.

    Args:
        depths: how deep in the encoder each decoder reads, as shares of its blocks; the paper's
            are after the blocks 6, 8, 10 and 12 of 12.
        unit: what is hidden at a time, as for `MAE`.
        ratio: share of tokens hidden.
        normalize: predict values scaled token by token.
        features: a view that makes features to predict instead of the values, such as `"hog"`.
        hidden: width of the decoders, which are thrown away afterwards.
        layers: of each decoder.
        heads: of the decoders' attention.
        args: arguments of the features and of the mask.

    Raises:
        ValueError: no depth, or one outside 0 to 1, and as for `MAE`.

    Reference: Ren et al. 2023, arXiv 2303.08817, section 3.
    """

    paper = "DeepMIM (Ren et al. 2023, arXiv 2303.08817)"
    needs = frozenset({"layers", "values", "length", "visible_only"})

    def __init__(
        self,
        *,
        depths: Sequence[float] = (1 / 2, 2 / 3, 5 / 6, 1.0),
        unit: str = "patch",
        ratio: float = 0.75,
        normalize: bool = True,
        features: str = "",
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        args: Mapping[str, Any] | None = None,
    ):
        sizes: Any = {"hidden": hidden, "layers": layers, "heads": heads}
        how: Any = {"unit": unit, "ratio": ratio, "normalize": normalize, "features": features}
        super().__init__(**how, **sizes, args=args)
        if not depths or not all(0 < depth <= 1 for depth in depths):
            raise ValueError(
                f"depths are shares of the encoder's blocks, above 0 and at most 1, but "
                f"{list(depths)} came."
            )
        self.depths = tuple(depths)

    def build(self, encoder: Encoder) -> None:
        """Make one decoder for each depth."""
        width = encoder.layer_width
        self.decoders = nn.ModuleList(
            MaskedDecoder(encoder.length, width, values, **self.sizes)
            for values in self.widths(encoder)
        )

    def widths(self, encoder: Encoder) -> list[int]:
        """Numbers that each decoder predicts of a token."""
        return [target_values(encoder, self.views[0], self.features)] * len(self.depths)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """A term for each decoder, `level_1` and so on, in the order of `depths`."""
        (encoding,), (seen,) = encodings, views
        parts = zip(self.decoders, self.depths, self.aims(seen), strict=True)
        terms = [
            at_targets(decoded(decoder, layer_at(encoding, depth), encoding.mask, seen), *aim)
            for decoder, depth, aim in parts
        ]
        return {f"level_{i}": term for i, term in enumerate(terms, start=1)}

    def aims(self, seen: View) -> list[tuple[Tensor, Tensor]]:
        """What each decoder is to predict, and True where."""
        return [self.aim(seen)] * len(self.depths)

    def decoded_last(self, encoding: Encoding, seen: View) -> Float[Tensor, "batch length values"]:
        """What the last decoder makes of it."""
        tokens = layer_at(encoding, self.depths[-1])
        return decoded(self.decoders[-1], tokens, encoding.mask, seen)


class LocalMIM(DeepMIM):
    """LocalMIM: small decoders after several blocks, each for gradients of another scale.

    Mean square of what is off from the histograms of oriented gradients (see the view `hog`) at
    hidden tokens, summed over the levels; fine scales early, coarse ones late. A perfect prediction
    gives 0, and one level is a plain masked-feature loss. A histogram that is larger than a token
    counts as often as it has hidden tokens.

    Args:
        scales: side of a histogram's cell over that of a token, one for each decoder. The paper's
            are 4, 8, 16 and 32 pixels, of tokens of 16.
        depths: how deep in the encoder each decoder reads, as shares of its blocks; the paper's
            are after the blocks 2, 4, 10 and 12 of 12.
        unit: what is hidden at a time, as for `MAE`.
        ratio: share of tokens hidden.
        hidden: width of the decoders, which are thrown away afterwards.
        layers: of each decoder.
        heads: of the decoders' attention.

    Raises:
        ValueError: not one scale for each depth, and as for `DeepMIM`.

    Reference: Wang et al. 2023, arXiv 2303.05251, section 3.
    """

    paper = "LocalMIM (Wang et al. 2023, arXiv 2303.05251)"

    def __init__(
        self,
        *,
        scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
        depths: Sequence[float] = (1 / 6, 1 / 3, 5 / 6, 1.0),
        unit: str = "patch",
        ratio: float = 0.75,
        hidden: int = 64,
        layers: int = 1,
        heads: int = 4,
    ):
        if len(scales) != len(depths):
            raise ValueError(
                f"Each level has a scale and a depth, but scales are {list(scales)} and depths "
                f"{list(depths)}."
            )
        sizes: Any = {"hidden": hidden, "layers": layers, "heads": heads}
        args = {"hog.scales": tuple(scales)}
        super().__init__(depths=depths, unit=unit, ratio=ratio, features="hog", args=args, **sizes)
        self.scales = tuple(scales)

    def widths(self, encoder: Encoder) -> list[int]:
        """Numbers of each scale."""
        made = [encoder.target_values(view("hog", scales=(scale,))) for scale in self.scales]
        self.split = made
        return made

    def aims(self, seen: View) -> list[tuple[Tensor, Tensor]]:
        """Each scale's own part of the target."""
        target, is_target = self.aim(seen)
        parts = (x.split(self.split, dim=-1) for x in (target, is_target))
        return list(zip(*parts, strict=True))


def layer_at(encoding: Encoding, depth: float) -> Float[Tensor, "batch length layer_width"]:
    """Hidden states after a share of the blocks, at least one of them."""
    assert encoding.layers is not None  # asked for by name
    blocks = len(encoding.layers) - 1
    return encoding.layers[max(1, round(depth * blocks))]


__all__ = ["DeepMIM", "LocalMIM", "layer_at"]
