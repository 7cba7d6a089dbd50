"""Closed-form ridge from sums over chunks of rows: never all rows at a time, any number of alphas.

`min_W,b sum_i w_i |y_i - W' x_i - b|^2 + alpha |W|^2`; b is not penalised (Hoerl & Kennard 1970).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import linalg


@dataclass(frozen=True)
class Linear:
    """`x @ weight + bias`, as a linear head takes it (torch's `weight` is the transpose).

    Attributes:
        weight: `(features, targets)`.
        bias: `(targets,)`.
        alpha: that gave it.
    """

    weight: Float[np.ndarray, "features targets"]
    bias: Float[np.ndarray, "targets"]
    alpha: float = 0.0

    def __call__(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows targets"]:
        """Predict every row."""
        return x @ self.weight + self.bias

    def squared_error(self, rows: "Moments") -> float:
        """Weighted sum of squared errors over the rows of the sums, without the rows."""
        fitted = np.sum((rows.xx @ self.weight - 2 * rows.xy) * self.weight)
        shift = (2 * (rows.x @ self.weight - rows.y) + rows.weight * self.bias) @ self.bias
        return float(rows.yy.sum() + fitted + shift)


class Moments:
    """Weighted sums over rows that a ridge, and its error on other rows, need; in float64.

    Args:
        features: numbers in a row's `x`.
        targets: numbers in a row's `y`.
    """

    def __init__(self, features: int, targets: int):
        self.weight = 0.0
        self.x, self.y, self.yy = np.zeros(features), np.zeros(targets), np.zeros(targets)
        self.xx, self.xy = np.zeros((features, features)), np.zeros((features, targets))

    def add(
        self,
        x: Float[np.ndarray, "rows features"],
        y: Float[np.ndarray, "rows some"],
        scale: Float[np.ndarray, "rows"] | None = None,
    ) -> None:
        """Add rows; `y` may be the first targets only, where the others are not known.

        Args:
            x: features.
            y: targets.
            scale: a row counts `scale**2` times: targets divided by a window's own std, with the
                std as scale, have their squared error in the units before the division.
        """
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        one = np.ones(len(x)) if scale is None else np.asarray(scale, dtype=np.float64)
        if scale is not None:
            x, y = x * one[:, None], y * one[:, None]
        known = y.shape[1]
        self.weight += float(one @ one)
        self.x += one @ x
        self.xx += x.T @ x
        self.y[:known] += one @ y
        self.xy[:, :known] += x.T @ y
        self.yy[:known] += np.einsum("rt,rt->t", y, y)

    def __add__(self, other: "Moments") -> "Moments":
        """The sums over the rows of both."""
        total = Moments(0, 0)
        for name in vars(total):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def scaled(self, by: Float[np.ndarray, "features"]) -> "Moments":
        """The sums that the same rows would have with each feature times `by`."""
        copy = Moments(0, 0)
        copy.weight, copy.y, copy.yy = self.weight, self.y, self.yy
        copy.x, copy.xx = self.x * by, self.xx * np.outer(by, by)
        copy.xy = self.xy * by[:, None]
        return copy

    def first(self, targets: int) -> "Moments":
        """A copy with the first targets alone."""
        copy = Moments(0, 0)
        copy.weight, copy.x, copy.xx = self.weight, self.x.copy(), self.xx.copy()
        copy.y, copy.yy = self.y[:targets].copy(), self.yy[:targets].copy()
        copy.xy = self.xy[:, :targets].copy()
        return copy


class RidgePath:
    """The ridge of the rows summed up in `train`, at any alpha, from one eigendecomposition.

    Raises:
        ValueError: no rows, or sums that are not finite.
    """

    def __init__(self, train: Moments):
        if train.weight <= 0 or not (np.isfinite(train.xx).all() and np.isfinite(train.xy).all()):
            raise ValueError(
                f"Ridge needs finite features and targets of some weight; the rows' weights sum "
                f"to {train.weight:g}. Look for values that are not finite, or constant windows."
            )
        self.x, self.y = train.x / train.weight, train.y / train.weight
        centred = train.xx - np.outer(train.x, self.x)
        values, self.basis = linalg.eigh(centred, driver="evd")
        # Rounding may leave directions without variance a hair below zero.
        self.values = np.maximum(values, 0.0)
        self.projected = self.basis.T @ (train.xy - np.outer(train.x, self.y))

    def at(self, alpha: float) -> Linear:
        """The minimiser for one alpha.

        Raises:
            ValueError: alpha is not above 0.
        """
        if not alpha > 0:
            raise ValueError(f"Ridge needs an alpha above 0, but {alpha} came.")
        weight = self.basis @ (self.projected / (self.values + alpha)[:, None])
        return Linear(weight, self.y - self.x @ weight, alpha)


def fit_ridge(
    train: Sequence[Moments], validation: Sequence[Moments], alphas: Sequence[float]
) -> list[Linear]:
    """Ridges of several groups of rows that share one alpha: the best on their validation rows.

    Args:
        train: sums over the rows to fit, one for each group.
        validation: sums over the rows to choose alpha by; they are not fitted.
        alphas: to choose from, each above 0.
    """
    paths = [RidgePath(rows) for rows in train]
    fits = ([path.at(alpha) for path in paths] for alpha in alphas)

    def error(heads: list[Linear]) -> float:
        pairs = zip(heads, validation, strict=True)
        return sum(head.squared_error(rows) for head, rows in pairs)

    return min(fits, key=error)


def fit_blocks(
    train: Sequence[Moments],
    validation: Sequence[Moments],
    alphas: Sequence[float],
    *,
    split: int,
    factors: Sequence[float],
) -> list[Linear]:
    """Ridges with one penalty on the first features and another on the rest; see `fit_ridge`.

    Args:
        train: sums over the rows to fit, one for each group.
        validation: sums over the rows to choose both penalties by.
        alphas: of the first `split` features, to choose from.
        split: how many features the first block has.
        factors: the others are fitted as if they were so many times as large, that is with
            `alpha / factor**2`; to choose from, each above 0.
    """
    tried = []
    for factor in factors:
        by = np.ones(len(train[0].x))
        by[split:] = factor
        held = [rows.scaled(by) for rows in validation]
        heads = fit_ridge([rows.scaled(by) for rows in train], held, alphas)
        error = sum(head.squared_error(rows) for head, rows in zip(heads, held, strict=True))
        tried.append((error, [replace(h, weight=h.weight * by[:, None]) for h in heads]))
    return min(tried, key=lambda pair: pair[0])[1]
