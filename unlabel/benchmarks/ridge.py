"""Closed-form ridge from sums over chunks of rows: never all rows at a time, any number of alphas.

`min_W,b sum_i w_i |y_i - W' x_i - b|^2 + alpha |W|^2`; b is not penalised (Hoerl & Kennard 1970).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from operator import add

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
        split: features that it is the penalty of, where the others have their own; None for all.
        rest: alpha of the others; infinity where they got no weight.
    """

    weight: Float[np.ndarray, "features targets"]
    bias: Float[np.ndarray, "targets"]
    alpha: float = 0.0
    split: int | None = None
    rest: float = np.inf

    def __call__(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows targets"]:
        """Predict every row."""
        return x @ self.weight + self.bias

    @property
    def penalty(self) -> Float[np.ndarray, "features"]:
        """Of each feature's squared weights."""
        place = np.arange(len(self.weight))
        return np.where(place < (self.split or len(place)), self.alpha, self.rest)

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

    def first(self, targets: int) -> "Moments":
        """A copy with the first targets alone."""
        copy = Moments(0, 0)
        copy.weight, copy.x, copy.xx = self.weight, self.x.copy(), self.xx.copy()
        copy.y, copy.yy = self.y[:targets].copy(), self.yy[:targets].copy()
        copy.xy = self.xy[:, :targets].copy()
        return copy

    def block(self, features: int) -> "Moments":
        """A copy with the first features alone."""
        copy = Moments(0, 0)
        copy.weight, copy.y, copy.yy = self.weight, self.y.copy(), self.yy.copy()
        copy.x, copy.xx = self.x[:features].copy(), self.xx[:features, :features].copy()
        copy.xy = self.xy[:features].copy()
        return copy

    def centred(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Means of features and targets, and the products of what is left without them.

        Raises:
            ValueError: no rows, or sums that are not finite.
        """
        if self.weight <= 0 or not (np.isfinite(self.xx).all() and np.isfinite(self.xy).all()):
            raise ValueError(
                f"Ridge needs finite features and targets of some weight; the rows' weights sum "
                f"to {self.weight:g}. Look for values that are not finite, or constant windows."
            )
        x, y = self.x / self.weight, self.y / self.weight
        return x, y, self.xx - np.outer(self.x, x), self.xy - np.outer(self.x, y)


class RidgePath:
    """The ridge of the rows summed up in `train`, at any alpha, from one eigendecomposition.

    Raises:
        ValueError: no rows, or sums that are not finite.
    """

    def __init__(self, train: Moments):
        self.x, self.y, xx, xy = train.centred()
        self.weight_at = _weights(xx, xy)

    def at(self, alpha: float) -> Linear:
        """The minimiser for one alpha.

        Raises:
            ValueError: alpha is not above 0.
        """
        weight = self.weight_at(alpha)
        return Linear(weight, self.y - self.x @ weight, alpha)


class BlockPath:
    """The ridge with a penalty of its own on the first features, at any alpha of the others.

    The first are eliminated from the normal equations (Schur complement), so that one
    eigendecomposition gives all alphas of the others.

    Args:
        train: sums over the rows.
        split: how many the first features are.
        alpha: their penalty.

    Raises:
        ValueError: no rows, or sums that are not finite.
    """

    def __init__(self, train: Moments, *, split: int, alpha: float):
        self.x, self.y, xx, xy = train.centred()
        self.split, self.alpha = split, alpha
        across = xx[:split, split:]
        known = np.concatenate([across, xy[:split]], axis=1)
        own = xx[:split, :split] + alpha * np.eye(split)
        solved = linalg.solve(own, known, assume_a="pos")
        self.across, self.alone = np.split(solved, [across.shape[1]], axis=1)
        left = xx[split:, split:] - across.T @ self.across
        self.weight_at = _weights(left, xy[split:] - across.T @ self.alone)

    def at(self, alpha: float) -> Linear:
        """The minimiser for one alpha of the others.

        Raises:
            ValueError: alpha is not above 0.
        """
        rest = self.weight_at(alpha)
        weight = np.concatenate([self.alone - self.across @ rest, rest])
        return Linear(weight, self.y - self.x @ weight, self.alpha, self.split, alpha)


def _weights(
    xx: Float[np.ndarray, "features features"], xy: Float[np.ndarray, "features targets"]
) -> Callable[[float], Float[np.ndarray, "features targets"]]:
    values, basis = linalg.eigh(xx, driver="evd")
    # Rounding may leave directions without variance a hair below zero.
    values, projected = np.maximum(values, 0.0), basis.T @ xy

    def at(alpha: float) -> Float[np.ndarray, "features targets"]:
        if not alpha > 0:
            raise ValueError(f"Ridge needs an alpha above 0, but {alpha} came.")
        return basis @ (projected / (values + alpha)[:, None])

    return at


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
    return _best(([path.at(alpha) for path in paths] for alpha in alphas), validation)


def fit_nested(
    train: Sequence[Moments],
    validation: Sequence[Moments],
    alphas: Sequence[float],
    *,
    split: int,
) -> list[Linear]:
    """Ridges that ask what further features add to the first ones; see `fit_ridge`.

    The first features keep the alpha that is best where they are alone, with one ridge for all
    groups. That of the others is chosen given it, and infinity is among the choices: then the fit
    is that one ridge on the first features, and nothing else.

    Args:
        train: sums over the rows to fit, one for each group.
        validation: sums over the rows to choose both alphas by.
        alphas: of either block, to choose from.
        split: how many the first features are.
    """
    alone, checks = (reduce(add, (rows.block(split) for rows in s)) for s in (train, validation))
    (first,) = fit_ridge([alone], [checks], alphas)
    nothing = _beside(first, len(train[0].x))
    paths = [BlockPath(rows, split=split, alpha=first.alpha) for rows in train]
    fits = ([path.at(alpha) for path in paths] for alpha in alphas)
    return _best(chain([[nothing] * len(train)], fits), validation)


def refit(rows: Moments, like: Linear) -> Linear:
    """The ridge of other rows with the penalties of one that was chosen."""
    if like.split is None:
        return RidgePath(rows).at(like.alpha)
    if np.isfinite(like.rest):
        return BlockPath(rows, split=like.split, alpha=like.alpha).at(like.rest)
    return _beside(RidgePath(rows.block(like.split)).at(like.alpha), len(rows.x))


def _beside(first: Linear, features: int) -> Linear:
    """A ridge on the first features, as one on all."""
    split, targets = first.weight.shape
    weight = np.concatenate([first.weight, np.zeros((features - split, targets))])
    return Linear(weight, first.bias, first.alpha, split)


def _best(fits: Iterable[list[Linear]], validation: Sequence[Moments]) -> list[Linear]:
    def error(heads: list[Linear]) -> float:
        pairs = zip(heads, validation, strict=True)
        return sum(head.squared_error(rows) for head, rows in pairs)

    return min(fits, key=error)
