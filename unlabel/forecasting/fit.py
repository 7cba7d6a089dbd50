"""How a forecasting head is fitted: closed form, by gradient, and calibrated on held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float

from unlabel.benchmarks.ridge import Linear, Moments, fit_nested, fit_ridge, refit
from unlabel.data_pipes.series_rows import Counts, SeriesRows, filled, windows_between
from unlabel.forecasting.model import ForecastModel, Seen

ALPHAS = tuple(10.0**k for k in range(-2, 7))
_ENOUGH = 200  # held-out errors that a quantile is taken from, where there are as many
Windows = tuple[Counts, Counts]


@dataclass(frozen=True)
class Split:
    """Windows to fit, and later ones held out: no step of a held-out future is in a fitted one.

    Attributes:
        train: row and origin of the windows to fit.
        held: likewise, whose futures lie in the latest part of their row.
        left_out: rows too short for both.
    """

    train: Windows
    held: Windows
    left_out: int

    @classmethod
    def of(
        cls, rows: SeriesRows, *, context: int, horizon: int, share: float, limit: int
    ) -> "Split":
        """The latest `share` of each row is held out, and more where that is few windows.

        A row shorter than context and horizons gives windows of shorter history: the first half
        of its steps to fit is never a future.

        Raises:
            ValueError: no row is long enough.
        """
        ends = rows.length - held_steps(rows.length, horizon, share)
        first = np.minimum(context, np.maximum(2, (ends - horizon + 2) // 2))
        is_long = first <= ends - horizon
        check_length(int(rows.length.max()), horizon)
        none = np.where(is_long, 0, rows.length)
        train = windows_between(first + none, ends - horizon + 1, limit=limit)
        late = windows_between(
            np.maximum(first, ends) + none, rows.length - horizon + 1, limit=max(limit // 4, 1)
        )
        return cls(train, late, int((~is_long).sum()))


def check_length(longest: int, horizon: int) -> None:
    """Refuse series of which none can be both fitted and checked on."""
    if longest < 2 * horizon + 2:
        raise ValueError(
            f"To forecast {horizon} steps a series needs {2 * horizon + 2} (one horizon to fit and "
            f"one to check on), but the longest has {longest}; give longer series, or a smaller "
            "prediction_length."
        )


def held_steps(length: Counts, horizon: int, share: float) -> Counts:
    """Latest steps of each row that are held out: one and a half horizons where there is room."""
    wanted = np.maximum(horizon + (horizon + 1) // 2, np.rint(share * length).astype(np.int64))
    return np.maximum(horizon, np.minimum(wanted, length - horizon - 2))


@dataclass(frozen=True)
class FitReport:
    """What fitting met.

    Attributes:
        windows: that were fitted.
        held: that were held out.
        error: mean absolute error on those, in units of each window's scale.
        naive: likewise, of repeating the last value.
        alpha: of the ridge, 0 where there was none.
    """

    windows: int
    held: int
    error: float
    naive: float
    alpha: float = 0.0

    def summary(self) -> str:
        """One line."""
        ridge = f", alpha {self.alpha:g}" if self.alpha else ""
        return (
            f"{self.windows:,} windows fitted{ridge}; on {self.held:,} later windows the error is "
            f"{self.error / self.naive:.2f} of that of repeating the last value"
        )


def fit_closed_form(
    model: ForecastModel,
    rows: SeriesRows,
    split: Split,
    *,
    alphas: Sequence[float] = ALPHAS,
    again: bool = True,
    as_start: bool = False,
    size: int = 256,
) -> FitReport:
    """Set the head to a ridge on the frozen encoder's features, and calibrate its quantiles.

    A window counts by its scale in units of its row's std, so that the loss is in those units.
    Where the head reads the window's values, tokens are asked what they add, see `fit_nested`.

    Args:
        model: whose head is set.
        rows: the data.
        split: which windows to fit; alpha is chosen on the held-out ones.
        alphas: to choose from.
        again: fit again on all windows once alpha and calibration are known.
        as_start: only where a gradient will start from: calibrated on fitted windows and not
            fitted again, since held-out ones will choose the step to keep.
        size: windows a forward pass.
    """
    train = _sums(model, rows, split.train, size)
    held = _sums(model, rows, split.held, size)
    own = model.head.values * model.head.channels
    fit = partial(fit_nested, split=own) if own else fit_ridge
    (head,) = fit([train], [held], alphas)
    _set(model, head)
    checks = thinned(split.train, len(split.held[0])) if as_start else split.held
    offsets, error, naive = errors_ahead(model, rows, checks, size)
    if again and not as_start:
        _set(model, refit(train + held, head))
    _shift(model, offsets)
    return FitReport(len(split.train[0]), len(split.held[0]), error, naive, head.alpha)


def calibrate(
    model: ForecastModel, rows: SeriesRows, split: Split, *, size: int = 256
) -> FitReport:
    """Shift each quantile so that its share of the held-out values lies below it."""
    offsets, error, naive = errors_ahead(model, rows, split.held, size)
    _shift(model, offsets)
    return FitReport(len(split.train[0]), len(split.held[0]), error, naive)


def errors_ahead(
    model: ForecastModel, rows: SeriesRows, windows: Windows, size: int
) -> tuple[Float[np.ndarray, "levels horizon channels"], float, float]:
    r"""What to add to each level at each step ahead, and errors of the middle level and of none.

    Split conformal prediction: the k-th of n errors in order, k = q (n + 1), is the quantile q of
    a further error if all n + 1 are exchangeable. Those of one series are not quite, so the
    coverage is what the held-out rows had, and no guarantee.

    Reference: Papadopoulos et al. 2002; Lei et al. 2018, arXiv 1604.04173, section 2.2; signed
    errors: Linusson et al. 2014; on predicted quantiles: Romano et al. 2019, arXiv 1905.03222.
    """
    errors, naive = [], []
    for part, seen in model.look(rows, *windows, None, size):
        row, origin = (w[part] for w in windows)
        future = seen.normalised(rows.futures(row, origin, model.horizon))
        future = np.where((seen.observed >= 2)[:, None], future, np.nan)
        errors.append((future[:, None] - model.read(seen)).astype(np.float32))
        last = seen.normalised(last_values(rows, row, origin, model.encoder.context)[:, None])
        naive.append(np.abs(future - last))
    apart = np.concatenate(errors)
    middle = np.abs(model.middle(apart))
    if not np.isfinite(middle).any():
        raise ValueError(
            "No window to check on has both a history that varies and a future that was observed; "
            "give longer series, or series with fewer gaps."
        )
    offsets = np.zeros(apart.shape[1:])
    for i, level in enumerate(model.levels):
        offsets[i] = _quantile(apart[:, i], level)
    return offsets, float(np.nanmean(middle)), float(np.nanmean(np.concatenate(naive)))


def thinned(windows: Windows, count: int) -> Windows:
    """So many of the windows, evenly spaced."""
    row, origin = windows
    places = np.linspace(0, len(row) - 1, min(count, len(row))).astype(int)
    return row[places], origin[places]


def last_values(
    rows: SeriesRows, row: Counts, origin: Counts, context: int
) -> Float[np.ndarray, "windows channels"]:
    """The newest observed value before each origin, NaN where there is none."""
    batch = rows.batch(row, origin, context)
    seen = batch.inputs["observed"].numpy()
    place = (seen * np.arange(1, context + 1)[:, None]).argmax(axis=1)
    last = np.take_along_axis(batch.inputs["values"].numpy(), place[:, None], axis=1)[:, 0]
    return np.where(seen.any(axis=1), last, np.nan)


def _quantile(
    errors: Float[np.ndarray, "windows horizon channels"], level: float
) -> Float[np.ndarray, "horizon channels"]:
    """The level of the errors at each step ahead, with neighbouring steps where they are few."""
    count, horizon, channels = errors.shape
    wing = min((_ENOUGH // max(count, 1)) // 2, horizon // 2)
    found = np.empty((horizon, channels))
    for step in range(horizon):
        near = errors[:, max(0, step - wing) : step + wing + 1]
        flat = rearrange(near, "n h c -> (n h) c")
        for c in range(channels):
            known = flat[:, c][np.isfinite(flat[:, c])]
            found[step, c] = np.quantile(known, level, method="weibull") if len(known) else 0.0
    return found


def _sums(model: ForecastModel, rows: SeriesRows, windows: Windows, size: int) -> Moments:
    """What the ridge needs to know of windows."""
    std = _std(rows)
    outputs = model.horizon * model.head.channels
    sums = Moments(model.head.linear.in_features, outputs)
    for part, seen in model.look(rows, *windows, None, size):
        row, origin = (w[part] for w in windows)
        future = rows.futures(row, origin, model.horizon)
        # A gap in a future would cost its window: a line is drawn through it.
        target = seen.normalised(filled(future))
        fits = np.isfinite(target).all(axis=1) & (seen.observed >= 2)
        fits &= np.isfinite(future).mean(axis=1) >= 0.5
        weight = np.where(fits, seen.scale / std[row], 0).mean(axis=1)
        keep = weight > 0
        y = rearrange(np.where(fits[:, None], target, 0), "n h c -> n (h c)")
        sums.add(seen.x[keep], y[keep], weight[keep])
    if not sums.weight:
        raise ValueError(
            "No window to fit has both a history that varies and a future at least half observed; "
            "give longer series, or series with fewer gaps."
        )
    return sums


def _std(rows: SeriesRows) -> Float[np.ndarray, "rows channels"]:
    """Of each row's values; 1 where it has none."""
    seen = np.isfinite(rows.values)
    total = lambda x: np.add.reduceat(x, rows.begin, axis=0)  # noqa: E731
    count = np.maximum(total(seen.astype(np.int64)), 1)
    values = np.where(seen, rows.values, 0).astype(np.float64)
    mean = total(values) / count
    apart = np.where(seen, values - np.repeat(mean, rows.length, axis=0), 0)
    std = np.sqrt(total(apart**2) / count)
    return np.where(std > 0, std, 1.0)


def _set(model: ForecastModel, fit: Linear) -> None:
    """Every level gets the ridge's forecast; `_shift` then parts them."""
    linear, levels = model.head.linear, max(len(model.levels), 1)
    with torch.no_grad():
        weight = repeat(torch.from_numpy(fit.weight.T), "o i -> (q o) i", q=levels)
        bias = repeat(torch.from_numpy(fit.bias), "o -> (q o)", q=levels)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)


def _shift(model: ForecastModel, offsets: Float[np.ndarray, "levels horizon channels"]) -> None:
    with torch.no_grad():
        bias = model.head.linear.bias
        shift = torch.from_numpy(rearrange(offsets, "q h c -> (q h c)"))
        bias.add_(shift.to(bias.device, bias.dtype))


__all__ = ["ALPHAS", "FitReport", "Seen", "Split", "calibrate", "fit_closed_form"]
