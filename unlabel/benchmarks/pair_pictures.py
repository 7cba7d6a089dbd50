"""Pictures of a space that several kinds of data share: who finds whom, and where they lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unlabel.benchmarks.result import BenchmarkResult

SHOWN = 200  # points of a side
JOINED = 24  # samples whose sides are joined by a line
# Okabe and Ito's, which all eyes tell apart, and a shape for each as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v")
_FIRST = " R@1"


def plane(shared: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The first two principal axes of all sides' vectors: points by side, and shares of variance.

    Args:
        shared: unit vectors by side, `(samples, width)`; the first 200 are shown.
    """
    whole = np.concatenate(list(shared.values()))
    mean = whole.mean(axis=0)
    _, size, axes = np.linalg.svd(whole - mean, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    points = {n: ((x[:SHOWN] - mean) @ axes[:2].T).round(4).tolist() for n, x in shared.items()}
    variance = size**2 / max(float((size**2).sum()), 1e-12)
    return {"sides": points, "variance": variance[:2].round(4).tolist()}


def first_ranks(scores: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The R@1 of a table by (who asks, who is searched); nothing where sides are no part of it."""
    pairs = [k.removesuffix(_FIRST) for k in scores if k.endswith(_FIRST) and " to " in k]
    return {tuple(p.split(" to ", 1)): scores[p + _FIRST] for p in pairs}  # type: ignore[misc]


def heat(ax: Axes, found: Mapping[tuple[str, str], float], *, color: str, ink: str) -> None:
    """R@1 of each ordered pair of sides as a square as full as the score, with its number.

    Args:
        ax: to draw on.
        found: score x100 by (who asks, who is searched).
        color: of a score of 100.
        ink: of numbers.
    """
    sides = list(dict.fromkeys(side for pair in found for side in pair))
    for (asks, searched), score in found.items():
        x, y = sides.index(searched), sides.index(asks)
        if not np.isnan(score):
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=color, alpha=score / 110, lw=0))
        ax.text(x, y, f"{score:.1f}", ha="center", va="center", color=ink)
    ax.set_xticks(range(len(sides)), sides, parse_math=False)
    ax.set_yticks(range(len(sides)), sides, parse_math=False)
    ax.set(xlim=(-0.5, len(sides) - 0.5), ylim=(len(sides) - 0.5, -0.5), aspect="equal")
    ax.set(xlabel="finds", ylabel="asks")
    ax.grid(visible=False)
    ax.tick_params(length=0, labelcolor=ink)


def cloud(ax: Axes, drawn: Mapping[str, Any], *, colors: Sequence[str], muted: str) -> None:
    """Points of each side in the plane of `plane`, sides of a sample joined for some of them.

    Args:
        ax: to draw on.
        drawn: what `plane` gave.
        colors: of the sides.
        muted: colour of the lines.
    """
    points = {name: np.array(side) for name, side in drawn["sides"].items()}
    for row in range(min(JOINED, *(len(p) for p in points.values()))):
        ax.plot(*np.array([p[row] for p in points.values()]).T, color=muted, lw=0.5, alpha=0.5)
    styles = zip(points.items(), colors, MARKERS, strict=False)
    for (name, at), color, marker in styles:
        ax.plot(*at.T, marker, color=color, markersize=4, alpha=0.75, mew=0, label=name)
    first, second = (f"{100 * share:.0f} % of variance" for share in drawn["variance"])
    # A square of one scale, however flat the cloud is.
    far = 1.08 * max(float(np.abs(at).max()) for at in points.values()) or 1.0
    ax.set(xlabel=first, ylabel=second, aspect="equal", xlim=(-far, far), ylim=(-far, far))


def draw_heat(result: BenchmarkResult, file: str | Path) -> None:
    """Write the heat map of R@1 of each encoder of a table as a picture."""
    names = {e.name: first_ranks(e.scores) for e in result.encoders}
    shown = {n: {k: s.score for k, s in f.items()} for n, f in names.items() if f}
    figure, axes = _panels(list(shown))
    for ax, found in zip(axes, shown.values(), strict=True):
        heat(ax, found, color=COLORS[0], ink="black")
    figure.suptitle("R@1 x100: the side of a row finds the one of a column")
    figure.savefig(file, dpi=120)


def draw_space(result: BenchmarkResult, file: str | Path) -> None:
    """Write where the sides lie for each encoder of a table as a picture."""
    shown = result.examples["plane"]["encoders"] if result.examples else {}
    if not shown:
        return
    figure, axes = _panels(list(shown))
    for ax, drawn in zip(axes, shown.values(), strict=True):
        cloud(ax, drawn, colors=COLORS, muted="grey")
    axes[0].legend(loc="best", fontsize=8)
    figure.suptitle("The shared space, by its first two principal axes")
    figure.savefig(file, dpi=120)


def _panels(names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    # No pyplot: it keeps every figure in a global list.
    figure = Figure(figsize=(4.2 * len(names), 4.4), layout="constrained")
    axes = list(figure.subplots(1, len(names), squeeze=False)[0])
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name, fontsize=10, parse_math=False)
    return figure, axes


__all__ = ["cloud", "draw_heat", "draw_space", "first_ranks", "heat", "plane"]
