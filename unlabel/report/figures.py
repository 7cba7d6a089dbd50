"""The report's line and dot figures, as SVG that follows the page's colours and font."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unlabel.benchmarks.forecast_plot import plot_forecast
from unlabel.benchmarks.pair_pictures import cloud, heat

# matplotlib wants colours, the page has variables that change with light and dark mode: figures
# are drawn in these stand-ins, which are exchanged for the variables in the finished SVG.
INK, MUTED, RULE, PAGE = "#010101", "#020202", "#030303", "#040404"
BEFORE, AFTER = "#050505", "#060606"
CLASSES = ("#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b")
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", RULE: "--rule", PAGE: "--page", BEFORE: "--before",
    AFTER: "--after", **{color: f"--c{i}" for i, color in enumerate(CLASSES)},
}  # fmt: skip
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "unlabel",  # the same run gives the same file
    "font.size": 8.5,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.labelcolor": MUTED,
    "axes.formatter.use_mathtext": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.3,
    "lines.solid_joinstyle": "round",
}

_FORECASTS = {"untrained": BEFORE, "trained": AFTER, "quantiles": AFTER}

_POINTS = 400  # steps of a series that a line shows

Curve = tuple[Sequence[float], Sequence[float]]


def lines(curves: Sequence[Curve], *, level: float | None = None, label: str = "") -> Markup:
    """One curve a seed against the step, with a dashed level to compare with.

    Args:
        curves: steps and values of each seed; gaps where a value is not finite.
        level: height of the dashed line.
        label: what the figure shows, for readers who cannot see it.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure, ax = _axes(3.3, 1.75)
        if level is not None:
            ax.axhline(level, color=MUTED, linewidth=1, dashes=(4, 3))
        for steps, values in curves:
            alone = {"marker": "o", "markersize": 4} if len(values) == 1 else {}
            width = 1.6 if len(curves) == 1 else 0.9
            ax.plot(steps, values, color=AFTER, linewidth=width, **alone)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.margins(x=0.01, y=0.08)
        return _svg(figure, label)


def path(curves: Sequence[Curve], *, names: tuple[str, str], label: str = "") -> Markup:
    """One path a seed through a plane: hollow where it starts, filled where it ends."""
    with matplotlib.rc_context(_SETTINGS):
        figure, ax = _axes(3.3, 2.0)
        for x, y in curves:
            ax.plot(x, y, color=AFTER, linewidth=0.9, alpha=0.55)
            ax.plot(x[:1], y[:1], "o", markersize=6, color=AFTER, markerfacecolor=PAGE)
            ax.plot(x[-1:], y[-1:], "o", markersize=6, color=AFTER)
        ax.set(xlabel=names[0], ylabel=names[1])
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.margins(0.1)
        return _svg(figure, label)


def dots(
    rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]], *, label: str = ""
) -> Markup:
    """Score before (hollow) and after (filled) with intervals, one row a set.

    Args:
        rows: name, score before and score after, each with `score`, `low` and `high` (or None).
        label: what the figure shows, for readers who cannot see it.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure, ax = _axes(5.0, 0.45 + 0.3 * len(rows))
        for y, (_, before, after) in enumerate(rows):
            _dot(ax, y - 0.14, before, color=BEFORE, markerfacecolor=PAGE)
            _dot(ax, y + 0.14, after, color=AFTER)
        ax.set_yticks(range(len(rows)), [name for name, _, _ in rows], parse_math=False)
        ax.set_ylim(len(rows) - 0.4, -0.6)  # from the top down
        ax.grid(visible=False, axis="y")
        ax.grid(visible=True, axis="x")
        ax.tick_params(axis="y", labelcolor=INK)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        return _svg(figure, label)


def forecast(
    history: Sequence[float],
    truth: Sequence[float],
    forecasts: Mapping[str, Sequence[float]],
    quantiles: Mapping[float, Sequence[float]] | None = None,
    *,
    label: str = "",
) -> Markup:
    """One window: history, what came (dashed), forecasts by name and a fan of quantiles.

    Args:
        history: values up to now; as many are drawn as twice the forecast is long.
        truth: what came.
        forecasts: by name; `untrained` and `trained` have the page's colours, others are muted.
        quantiles: forecast by level, see `plot_forecast`.
        label: what the figure shows, for readers who cannot see it.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure, ax = _axes(5.0, 1.75)
        colors = dict.fromkeys(forecasts, MUTED) | _FORECASTS
        recent = history[-2 * len(truth) :]
        plot_forecast(recent, truth, forecasts, quantiles, ax=ax, colors=colors, ink=INK)
        ax.set_xlabel("")
        ax.get_legend().remove()
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(4))
        return _svg(figure, label)


def window(
    *,
    seen: Sequence[float | None],
    asked: Sequence[float | None] = (),
    future: Sequence[float | None] = (),
    cut: Sequence[bool] = (),
    label: str = "",
) -> Markup:
    """One window of a series: what the encoder sees, what it is asked for, what is cut.

    Args:
        seen: values by step, None where hidden or missing.
        asked: hidden values to be predicted, likewise.
        future: values after the window, to be predicted.
        cut: True at steps whose embedding is zeroed.
        label: what the figure shows, for readers who cannot see it.
    """
    gaps = lambda values: [np.nan if v is None else v for v in values]  # noqa: E731
    with matplotlib.rc_context(_SETTINGS):
        figure, ax = _axes(8.0, 1.0)
        for start in np.flatnonzero(np.asarray(cut, dtype=bool)):
            ax.axvspan(start - 0.5, start + 0.5, color=RULE, linewidth=0)
        if any(v is not None for v in asked):
            ax.plot(gaps(asked), color=AFTER, linewidth=1.1)
        later = range(len(seen), len(seen) + len(future))
        ax.plot(later, gaps(future), color=AFTER, linewidth=1.1)
        ax.plot(gaps(seen), color=INK, linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.margins(x=0.005, y=0.1)
        return _svg(figure, label)


def heat_map(found: Mapping[tuple[str, str], float | None], *, label: str = "") -> Markup:
    """A score x100 by (who asks, who is searched), see `pair_pictures.heat`."""
    with matplotlib.rc_context(_SETTINGS):
        figure, ax = _axes(3.0, 2.6)
        scores = {pair: np.nan if score is None else score for pair, score in found.items()}
        heat(ax, scores, color=AFTER, ink=INK)
        return _svg(figure, label)


def plane(drawn: Mapping[str, Any], *, label: str = "") -> Markup:
    """Points of each side of pairs, see `pair_pictures.cloud`."""
    with matplotlib.rc_context(_SETTINGS):
        figure, ax = _axes(3.3, 3.3)
        cloud(ax, drawn, colors=CLASSES, muted=MUTED)
        ax.grid(visible=False)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(3))
        return _svg(figure, label)


def channels(
    values: Float[np.ndarray, "steps channels"], *, most: int = 4, label: str = ""
) -> Markup:
    """The first channels of a series below each other, each as high as its own spread.

    Args:
        values: NaN where missing; the steps are thinned to a few hundred.
        most: channels drawn at most.
        label: what the figure shows, for readers who cannot see it.
    """
    every = -(-len(values) // _POINTS)
    steps, shown = np.arange(0, len(values), every), values[::every, :most].astype(np.float64)
    seen = np.where(np.isfinite(shown).any(axis=0), shown, 0.0)
    low, high = np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)
    with matplotlib.rc_context(_SETTINGS):
        figure, ax = _axes(5.0, 0.9 + 0.45 * seen.shape[1])
        for k, line in enumerate(((seen - low) / np.maximum(high - low, 1e-12)).T):
            ax.plot(steps, line - 1.2 * k, color=INK, linewidth=0.9)
        ax.set_yticks([])
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.margins(x=0.01, y=0.06)
        return _svg(figure, label)


def _dot(ax: Axes, y: float, cell: Mapping[str, Any], color: str, **marker: Any) -> None:
    if cell["score"] is None:
        return
    if cell["low"] is not None:
        ax.plot([cell["low"], cell["high"]], [y, y], color=color, linewidth=1.2, zorder=2)
    ax.plot([cell["score"]], [y], "o", color=color, markersize=5, zorder=3, **marker)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    # No pyplot: it keeps every figure in a global list.
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.add_subplot()
    ax.grid(visible=True, axis="y")
    ax.set_axisbelow(True)
    return figure, ax


def _svg(figure: Figure, label: str) -> Markup:
    file = io.StringIO()
    blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=blank)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]+"', text)
    body = text[text.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    # Ids of groups repeat from figure to figure, and nothing refers to them.
    body = re.sub(r'<g id="[a-z0-9]*_\d+">', "<g>", body)
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, f"var({variable})")
    opening = Markup('<svg {} role="img" aria-label="{}">').format(Markup(box.group()), label)
    return opening + Markup(body)


__all__ = ["channels", "dots", "forecast", "heat_map", "lines", "path", "plane", "window"]
