"""Forecasts as a picture: history, what came, lines of forecasters and a fan of quantiles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

Line = Sequence[float] | Float[np.ndarray, "steps"]


def plot_forecast(
    history: Line,
    truth: Line | None,
    forecasts: Mapping[str, Line],
    quantiles: Mapping[float, Line] | None = None,
    *,
    ax: Any = None,
    colors: Mapping[str, str] | None = None,
    ink: str = "black",
    times: np.ndarray | None = None,
) -> Any:
    """Draw one channel of one window; step 0 is the newest of the history.

    Args:
        history: values up to now.
        truth: what came, None where it is not known.
        forecasts: by name, each as long as it looks ahead.
        quantiles: forecast by level, such as `{0.1: ..., 0.5: ..., 0.9: ...}`; the space between
            a level and its opposite is filled, 0.5 is a line.
        ax: matplotlib axes; a new figure by default.
        colors: of forecasts by name, and of `quantiles`; by default matplotlib's in turn.
        ink: colour of history and truth.
        times: time stamps of the history and all that follows; by default steps from now.

    Returns:
        The axes.

    Raises:
        ValueError: a level that has no opposite.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(8, 3), layout="constrained")
    colors = colors or {}
    steps = np.arange(1 - len(history), 1 + _longest(truth, forecasts, quantiles))
    steps = steps if times is None else times
    past, ahead = steps[: len(history)], steps[len(history) :]
    ax.plot(past, history, color=ink, linewidth=1, label="history")
    _fan(ax, ahead, quantiles or {}, colors.get("quantiles", "C0"))
    for i, (name, line) in enumerate(forecasts.items()):
        ax.plot(
            ahead[: len(line)], line, color=colors.get(name, f"C{i}"), linewidth=1.4, label=name
        )
    if truth is not None:
        ax.plot(ahead[: len(truth)], truth, color=ink, linewidth=1, dashes=(2, 1.5), label="truth")
    if times is None:
        ax.axvline(0.5, color=ink, linewidth=0.5, alpha=0.5)
        ax.set_xlabel("steps from now")
    ax.margins(x=0.01)
    if ax.get_legend_handles_labels()[1]:
        # Above the axes: a forecast has no corner that is always free.
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False, fontsize="small")
    return ax


def _longest(truth: Line | None, *others: Mapping[Any, Line] | None) -> int:
    lines = [line for some in others for line in (some or {}).values()]
    return max([len(line) for line in [*lines, [] if truth is None else truth]])


def _fan(ax: Any, steps: np.ndarray, quantiles: Mapping[float, Line], color: str) -> None:
    levels = {round(level, 6): np.asarray(line) for level, line in quantiles.items()}
    for level in sorted(levels):
        opposite = round(1 - level, 6)
        if opposite not in levels:
            raise ValueError(
                f"Quantile {level:g} has no opposite {opposite:g} to draw a band with; the levels "
                f"are {', '.join(f'{q:g}' for q in sorted(levels))}."
            )
        ahead = steps[: len(levels[level])]
        if level < 0.5:
            label = f"{100 * (opposite - level):.0f} % interval"
            band = {"color": color, "alpha": 0.18, "linewidth": 0, "label": label}
            ax.fill_between(ahead, levels[level], levels[opposite], **band)
        elif level == 0.5:
            ax.plot(ahead, levels[level], color=color, linewidth=1.4, label="median")
