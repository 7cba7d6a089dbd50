"""Forecasting as pretraining: predict the steps that come after what the encoder sees."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabel.core import Batch, Encoder, Encoding, View
from unlabel.objectives.chains import chain
from unlabel.objectives.gather import global_mean
from unlabel.objectives.kernels import pinball, regress
from unlabel.objectives.objective import Objective, Term


class ForecastHead(nn.Module):
    """All tokens of a view to all steps of its future, in one linear layer.

    `linear` reads features in the order `(length width)`, tokens of padding being 0, and writes
    values in the order `(horizon channels)`, or `(quantiles horizon channels)`. So a closed-form
    regression on such features can set `linear.weight` (outputs, inputs) and `linear.bias`.
    Covariates of the future, if any, stand after the tokens, `(horizon covariates)`, and the
    window's own values before them, `(values channels)`.

    Args:
        length: tokens of a whole view; a shorter one is its newest tokens.
        width: of a token.
        horizon: steps to predict.
        channels: numbers of one step.
        quantiles: how many quantiles of each number; 0 is one value, without that dimension.
        dropout: of the features, in training.
        covariates: kinds of numbers known of each step to predict.
        values: steps of the window itself that the head reads beside the tokens, see
            `own_values`; what it predicts is then the change from the newest one.

    Reference: Nie et al. 2023 (PatchTST), arXiv 2211.14730, section 3.1; values: Zeng et al. 2023
    (NLinear), arXiv 2205.13504, section 4.
    """

    def __init__(
        self,
        length: int,
        width: int,
        horizon: int,
        channels: int = 1,
        *,
        quantiles: int = 0,
        dropout: float = 0.0,
        covariates: int = 0,
        values: int = 0,
    ):
        super().__init__()
        self.length, self.horizon, self.channels = length, horizon, channels
        self.quantiles, self.covariates, self.values = quantiles, covariates, values
        self.dropout = nn.Dropout(dropout)
        inputs = values * channels + length * width + horizon * covariates
        self.linear = nn.Linear(inputs, max(quantiles, 1) * horizon * channels)

    def features(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch tokens"],
        known: Float[Tensor, "batch horizon covariates"] | None = None,
        values: Float[Tensor, "batch values channels"] | None = None,
    ) -> Float[Tensor, "batch features"]:
        """What `linear` reads: the tokens of a whole view side by side, 0 where there is none.

        Args:
            tokens: of the view.
            mask: True at real ones.
            known: covariates of the future, where the head was made for them.
            values: of the window, where the head was made for them.

        Raises:
            ValueError: more tokens than the head was made for.
        """
        missing = self.length - tokens.shape[1]
        if missing < 0:
            raise ValueError(
                f"The head was made for {self.length} tokens, but {tokens.shape[1]} came: give "
                "the view one context, as `future` does."
            )
        real = tokens * rearrange(mask, "batch length -> batch length 1")
        # What is missing is the oldest, so that the newest token keeps its place.
        padded = F.pad(real, (0, 0, missing, 0))
        parts = [values if self.values else None, padded, known if self.covariates else None]
        flat = [rearrange(x, "batch l d -> batch (l d)") for x in parts if x is not None]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch tokens"],
        known: Float[Tensor, "batch horizon covariates"] | None = None,
        values: Float[Tensor, "batch values channels"] | None = None,
        scale: Float[Tensor, "batch 1 channels"] | None = None,
    ) -> Float[Tensor, "batch *quantiles horizon channels"]:
        """Predicted values, `(batch, horizon, channels)`, quantiles before the horizon if any.

        Args:
            tokens: as for `features`, and so the next three.
            mask: True at real ones.
            known: covariates of the future.
            values: of the window.
            scale: what the window was divided by; `linear.bias` is then in the units before that.
        """
        # Values are exact, whatever type the weights have.
        features = self.features(tokens, mask, known, values).to(self.linear.weight.dtype)
        seen = self.dropout(features)
        if scale is None:
            out = self.linear(seen)
        else:
            times = self.linear.out_features // self.channels
            bias = self.linear.bias / repeat(scale, "batch 1 c -> batch (n c)", n=times)
            out = F.linear(seen, self.linear.weight) + bias
        if not self.quantiles:
            return rearrange(out, "batch (h c) -> batch h c", c=self.channels)
        sizes = {"q": self.quantiles, "c": self.channels}
        return rearrange(out, "batch (q h c) -> batch q h c", **sizes)


def own_values(
    view: View,
) -> tuple[Float[Tensor, "batch steps channels"], Float[Tensor, "batch 1 channels"]]:
    """A window as its encoder sees it, less each channel's newest value; and that value.

    A step that is not seen is 0: as if nothing had changed since.
    """
    steps = (view.inputs[name] for name in ("values", "observed"))
    values, observed = (rearrange(x, "batch l p c -> batch (l p) c") for x in steps)
    place = torch.arange(1, values.shape[1] + 1, device=values.device)
    newest = values.gather(1, (observed * place[:, None]).argmax(1, keepdim=True))
    return torch.where(observed, values - newest, 0), newest


class Forecast(Objective):
    """Forecast: predict the steps after the window, mean over those observed.

    A perfect forecast gives 0. With `quantiles` the loss is the quantile loss, otherwise `loss`.
    The views `before` the split act on window and future together, so that the two stay
    consistent; those `after` it change the window alone and leave the target as it was: noise
    belongs there.

    Args:
        horizon: steps to predict.
        loss: of one value a step: `"mse"`, `"l1"` or `"huber"`.
        quantiles: levels to predict instead, such as `[0.1, 0.5, 0.9]`.
        before: views, joined by `+`, such as `"random_conv"` or `"scaling"`.
        after: views, joined by `+`, such as `"jitter"`, `"token_cutoff"` or `"reorder"`.
        args: their arguments, such as `{"jitter.high": 0.5}`.
        dropout: of the head's features.
        weigh: take the loss in the units of the data, as forecasts are scored, and not in each
            window's own: what is normalised by a window's scale counts by that scale again.
        values: let the head read the window itself beside the tokens, so that the encoder is asked
            what it adds to a linear model of the window. With `weigh` the head's bias is in the
            units of the data, too.

    Raises:
        ValueError: no step to predict, a level not between 0 and 1, or an argument of a view that
            is not there.

    Reference: Nie et al. 2023 (PatchTST), arXiv 2211.14730, section 3.1; quantiles as in Lim et
    al. 2019 (TFT), arXiv 1912.09363; why views change window and future together: Chen et al. 2023
    (FrAug), arXiv 2302.09292.
    """

    paper = "PatchTST (Nie et al. 2023, arXiv 2211.14730)"
    needs = frozenset({"tokens", "future", "length"})
    # The view that splits a window into what the encoder sees and what it should predict.
    split = "future"

    def __init__(
        self,
        *,
        horizon: int = 96,
        loss: Literal["mse", "l1", "huber"] = "mse",
        quantiles: Sequence[float] = (),
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        weigh: bool = False,
        values: bool = False,
    ):
        super().__init__()
        if horizon < 1:
            raise ValueError(f"horizon is the number of steps to predict, but {horizon} came.")
        if not all(0 < q < 1 for q in quantiles):
            raise ValueError(f"quantiles are {list(quantiles)}: give levels between 0 and 1.")
        named = {f"{self.split}.horizon": horizon, **(args or {})}
        # An absolute error grows as its unit, a squared one (huber's too) as the square of it.
        self.power = (1 if quantiles or loss == "l1" else 2) if weigh else 0
        if weigh:
            named[f"{self.split}.weigh"] = self.power
        if values:
            self.needs = self.needs | {"values"}
        self.views = (chain(before, self.split, after, args=named),)
        self.horizon, self.quantiles, self.dropout = horizon, tuple(quantiles), dropout
        self.values = values
        self.loss: Literal["mse", "l1", "huber"] = loss

    def build(self, encoder: Encoder) -> None:
        """Make the head from all tokens to all steps."""
        self.head = ForecastHead(
            encoder.length,
            encoder.width,
            self.horizon,
            encoder.channels,
            quantiles=len(self.quantiles),
            dropout=self.dropout,
            values=encoder.length * encoder.token_values // encoder.channels if self.values else 0,
        )

    def predict(self, encoding: Encoding, seen: View, batch: Batch) -> Tensor:
        """What the head makes of an encoding, normalised as the view is."""
        scale = None
        if self.values and self.power and seen.weight is not None:
            scale = seen.weight ** (1 / self.power)
        return self.ahead(encoding, seen, scale)

    def ahead(self, encoding: Encoding, seen: View, scale: Tensor | None = None) -> Tensor:
        """Likewise; `scale`, what the view was divided by, puts the bias in the data's units."""
        if not self.values:
            return self.head(encoding.tokens, encoding.mask)
        values, newest = own_values(seen)
        out = self.head(encoding.tokens, encoding.mask, values=values, scale=scale)
        return out + (newest[:, None] if self.quantiles else newest)

    def forward(
        self, encodings: Sequence[Encoding], views: Sequence[View], batch: Batch
    ) -> dict[str, Term]:
        """One term, `forecast`."""
        (encoding,), (seen,) = encodings, views
        assert seen.target is not None  # the view makes both
        pred, target, where = self.predict(encoding, seen, batch), seen.target, seen.is_target
        if self.quantiles:
            pred = rearrange(pred, "batch q h c -> batch h c q")
            losses = pinball(pred, target, self.quantiles, where, reduction="none")
        else:
            one = "batch h c -> batch h c 1"
            pred, target = rearrange(pred, one), rearrange(target, one)
            losses = regress(pred, target, where, metric=self.loss, reduction="none")
        if seen.weight is not None:
            weight = seen.weight.expand_as(seen.target)
            losses = losses * (weight.flatten() if where is None else weight[where])
        return {"forecast": Term(global_mean(losses))}


class MaskedHistory(Forecast):
    """Masked history: hide spans of the window, and predict its future from what is left.

    Args:
        ratio: share of the window's steps that is hidden.
        mean_length: steps that a hidden span has on average.
        after: further views after the hiding, as for `Forecast`.
        args: as for `Forecast`.
        options: `horizon`, `loss`, `quantiles`, `before`, `dropout`, `weigh` and `values`, as
            for `Forecast`.

    Reference: Das et al. 2024 (TimesFM), arXiv 2310.10688, masks the front of the window at
    random; Woo et al. 2024 (Moirai), arXiv 2402.02592, masks its end and predicts that.
    """

    paper = "TimesFM (Das et al. 2024, arXiv 2310.10688); Moirai (Woo et al. 2024, 2402.02592)"

    def __init__(
        self,
        *,
        ratio: float = 0.4,
        mean_length: float = 12.0,
        after: str = "",
        args: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is the share to hide, from 0 to below 1, but {ratio} came.")
        how = {"hide.ratio": ratio, "hide.mean_length": mean_length, **(args or {})}
        super().__init__(after=f"hide+{after}", args=how, **options)


class ShuffledHistory(Forecast):
    """Shuffled history: put parts of the window in another order, and predict its future.

    Args:
        unit: what changes places: overlapping windows that are averaged, segments, or single
            steps. Shuffled steps leave the future all but unpredictable: a negative control.
        together: shuffle the window and its future as one series before they are split, as Temporal
            Patch Shuffle does, so that input and target stay consistent.
        before: as for `Forecast`.
        after: as for `Forecast`.
        args: as for `Forecast`; those of the shuffling are `"shuffle.share"` and the like.
        options: `horizon`, `loss`, `quantiles`, `dropout`, `weigh` and `values`, as for
            `Forecast`.

    Reference: Temporal Patch Shuffle, arXiv 2604.09067; Zhao et al. 2024 (Dominant Shuffle), arXiv
    2405.16456; shuffled steps as a control: Zeng et al. 2022, arXiv 2205.13504, section 5.
    """

    paper = "Temporal Patch Shuffle (arXiv 2604.09067)"

    def __init__(
        self,
        *,
        unit: Literal["window", "segment", "step"] = "window",
        together: bool = False,
        before: str = "",
        after: str = "",
        args: Mapping[str, Any] | None = None,
        **options: Any,
    ):
        sides = (f"{before}+shuffle", after) if together else (before, f"shuffle+{after}")
        how = {"shuffle.unit": unit, **(args or {})}
        super().__init__(before=sides[0], after=sides[1], args=how, **options)


class Backcast(Forecast):
    """Backcast: predict the past from the future, with a head of its own.

    Time runs backwards: the encoder sees the last steps of the sample, newest first, and the head
    predicts those before them, the nearest first. A series is not alike in both directions: use it
    beside `Forecast`, whose head is another. Arguments as for `Forecast`.

    Reference: Oreshkin et al. 2019 (N-BEATS), arXiv 1905.10437, section 3.1, predicts the window
    back; reversed windows as augmentation: Temporal Patch Shuffle, arXiv 2604.09067.
    """

    paper = "N-BEATS backcast (Oreshkin et al. 2019, arXiv 1905.10437)"
    split = "past"


__all__ = ["Backcast", "Forecast", "ForecastHead", "MaskedHistory", "ShuffledHistory", "own_values"]
