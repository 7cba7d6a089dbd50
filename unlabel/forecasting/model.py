"""An encoder of series with its forecasting head: windows in, quantiles in the data's units out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabel.core import Batch, view
from unlabel.data_pipes.series_rows import Counts, SeriesRows
from unlabel.modalities.series import SeriesEncoder
from unlabel.objectives.forecast import ForecastHead, own_values

WIDEST = 8192  # features of a head: a ridge's Gram matrix is half a gigabyte then
# A window whose range is under this share of its level is constant but for rounding.
_CONSTANT = 1e-5

Known = Float[np.ndarray, "windows horizon covariates"]


@dataclass(frozen=True)
class Seen:
    """What the head gets of windows, and the way back to their units.

    Attributes:
        x: features.
        loc: what was taken off a channel; of one that did not vary its value.
        scale: what it was divided by; 0 for one that did not vary.
        observed: values that the history has.
    """

    x: Float[np.ndarray, "windows features"]
    loc: Float[np.ndarray, "windows channels"]
    scale: Float[np.ndarray, "windows channels"]
    observed: Float[np.ndarray, "windows channels"]

    def normalised(
        self, future: Float[np.ndarray, "windows horizon channels"]
    ) -> Float[np.ndarray, "windows horizon channels"]:
        """The future as the head predicts it; NaN where the history does not vary."""
        scale = np.where(self.scale > 0, self.scale, np.nan)
        return (future - self.loc[:, None]) / scale[:, None]

    def restored(
        self, forecast: Float[np.ndarray, "windows levels horizon channels"]
    ) -> Float[np.ndarray, "windows levels horizon channels"]:
        """Forecasts in the units of the data."""
        return forecast * self.scale[:, None, None] + self.loc[:, None, None]


class ForecastModel(nn.Module):
    """An encoder and the linear head on its newest tokens.

    Args:
        encoder: of series.
        horizon: steps to predict.
        levels: quantiles to predict, ascending; none for one value a step.
        covariates: kinds of numbers known of the future.
        tokens: newest tokens that the head reads; None for all, or the newest one alone where
            all are more than 8,192 numbers (an encoder whose tokens are single steps).
        values: the head reads the window itself beside the tokens.
        fill: show the encoder a straight line in place of gaps; None where it never learned what
            its flags of missing values mean (their weights are 0).
    """

    def __init__(
        self,
        encoder: SeriesEncoder,
        *,
        horizon: int,
        levels: tuple[float, ...] = (),
        covariates: int = 0,
        tokens: int | None = None,
        values: bool = False,
        fill: bool | None = None,
    ):
        super().__init__()
        flags = encoder.missing
        untaught = flags is not None and not bool(flags.weight.any())
        self.fill = untaught if fill is None else fill
        self.encoder, self.levels = encoder, levels
        all_of_them = encoder.length if encoder.length * encoder.width <= WIDEST else 1
        length = min(tokens or all_of_them, encoder.length)
        self.head = ForecastHead(
            length,
            encoder.width,
            horizon,
            encoder.channels,
            quantiles=len(levels),
            covariates=covariates,
            values=encoder.length * encoder.patch if values else 0,
        )
        for name, kinds in (("known", covariates), ("static", encoder.kinds[1])):
            self.register_buffer(f"{name}_loc", torch.zeros(kinds))
            self.register_buffer(f"{name}_scale", torch.ones(kinds))

    @property
    def horizon(self) -> int:
        """Steps that the head predicts."""
        return self.head.horizon

    @torch.inference_mode()
    def see(self, batch: Batch, known: Known | None) -> Seen:
        """Features of histories, by the encoder without dropout."""
        was_training = self.training
        self.eval()
        try:
            device = self.head.linear.weight.device
            window = self.encoder.window(batch.to(device), view("plain"))
            shown = self.encoder.finish(window)
            encoding = self.encoder(shown)
            ahead = None if known is None else torch.from_numpy(known).to(device)
            values, newest = own_values(shown) if self.head.values else (None, 0)
            kept = slice(-self.head.length, None)
            tokens, mask = encoding.tokens[:, kept], encoding.mask[:, kept]
            x = self.head.features(tokens, mask, ahead, values)
        finally:
            self.train(was_training)
        assert window.loc is not None and window.scale is not None  # by `finish`
        level, varies = _varies(window.values, window.observed)
        loc = torch.where(varies, (window.loc + newest * window.scale)[:, 0], level)
        scale = torch.where(varies, window.scale[:, 0], 0)
        count = window.observed.sum(1)
        return Seen(*(t.double().cpu().numpy() for t in (x, loc, scale, count)))

    @torch.inference_mode()
    def read(self, seen: Seen) -> Float[np.ndarray, "windows levels horizon channels"]:
        """What the head makes of features, in normalised units; one level where it has none."""
        weight = self.head.linear.weight
        out = self.head.linear(torch.from_numpy(seen.x).to(weight.device, weight.dtype))
        sizes = {"q": max(len(self.levels), 1), "c": self.head.channels}
        return rearrange(out, "b (q h c) -> b q h c", **sizes).double().cpu().numpy()

    def look(
        self, rows: SeriesRows, row: Counts, origin: Counts, known: Known | None, size: int
    ) -> Iterator[tuple[slice, Seen]]:
        """Windows as the head sees them, `size` at a time.

        Args:
            rows: where the windows lie.
            row: of each window.
            origin: likewise.
            known: covariates of their futures; None takes those of the rows.
            size: windows a forward pass.
        """
        for start in range(0, len(row), size):
            part = slice(start, start + size)
            batch = rows.batch(row[part], origin[part], self.encoder.context)
            ahead = None
            if self.head.covariates:
                own = rows.known(row[part], origin[part], self.horizon)
                ahead = own if known is None else known[part]
            yield part, self.see(batch, ahead)

    def middle(
        self, values: Float[np.ndarray, "windows levels *rest"]
    ) -> Float[np.ndarray, "windows *rest"]:
        """The median's level, or the only one."""
        return values[:, self.levels.index(0.5) if self.levels else 0]

    def forecast(
        self, rows: SeriesRows, row: Counts, origin: Counts, known: Known | None, *, size: int = 256
    ) -> Float[np.ndarray, "windows levels horizon channels"]:
        """Forecasts in the units of the data; NaN for a channel of fewer than 2 observed values.

        Quantiles are put in ascending order where they cross (Chernozhukov et al. 2010).
        """
        shape = (len(row), max(len(self.levels), 1), self.horizon, self.head.channels)
        found = np.full(shape, np.nan)
        for part, seen in self.look(rows, row, origin, known, size):
            enough = (seen.observed >= 2)[:, None, None]
            found[part] = np.where(enough, seen.restored(np.sort(self.read(seen), axis=1)), np.nan)
        return found


def forecast_blocks(
    model: ForecastModel,
    rows: SeriesRows,
    known: Float[np.ndarray, "rows steps covariates"] | None,
    horizon: int,
    *,
    size: int = 256,
) -> Float[np.ndarray, "rows levels horizon channels"]:
    """Forecasts of the steps after each row; each block of a horizon from the medians before it.

    Args:
        model: what forecasts.
        rows: the data.
        known: covariates of whole blocks.
        horizon: steps, more or fewer than the model's.
        size: windows a forward pass.
    """
    every, found = np.arange(len(rows)), []
    for start in range(0, horizon, model.horizon):
        ahead = None if known is None else known[:, start : start + model.horizon]
        found.append(model.forecast(rows, every, rows.length, ahead, size=size))
        if start + model.horizon < horizon:
            rows = rows.extended(model.middle(found[-1]), ahead)
    return np.concatenate(found, axis=2)[:, :, :horizon]


def _varies(
    values: Float[Tensor, "batch steps channels"], observed: Bool[Tensor, "batch steps channels"]
) -> tuple[Float[Tensor, "batch channels"], Bool[Tensor, "batch channels"]]:
    """The highest value of each channel, and whether another one differs from it."""
    high = torch.where(observed, values, -torch.inf).amax(1)
    low = torch.where(observed, values, torch.inf).amin(1)
    apart = high - low > _CONSTANT * torch.maximum(high.abs(), low.abs())
    return torch.where(observed.any(1), high, 0), apart & observed.any(1)
