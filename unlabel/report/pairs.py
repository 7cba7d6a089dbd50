"""The page's pictures of a space that several kinds of data share."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from unlabel.benchmarks.pair_pictures import first_ranks
from unlabel.report import figures


def heat_maps(results: Mapping[str, Any]) -> Markup | None:
    """R@1 of each side for each other one, a panel for each encoder that was measured on them."""
    panels = []
    for encoder in results.get("retrieval", {}).get("encoders", []):
        if found := first_ranks(encoder["scores"]):
            scores = {pair: score["score"] for pair, score in found.items()}
            label = f"R@1 of each side for each other one: {encoder['name']}"
            panels.append((encoder["name"], figures.heat_map(scores, label=label)))
    return _grid(panels) if panels else None


def planes(results: Mapping[str, Any]) -> Markup | None:
    """Where the sides lie in the space, a panel for each encoder."""
    drawn = results.get("space_examples", {}).get("plane", {}).get("encoders", {})
    if not drawn:
        return None
    sides = next(iter(drawn.values()))["sides"]
    color = "border-color:var(--c{0});background:var(--c{0})"
    dot = Markup(f'<span><i class="key" style="{color}"></i>{{1}}</span> ')
    keys = Markup("").join(dot.format(i, name) for i, name in enumerate(sides))
    panels = [
        (name, figures.plane(one, label=f"the sides in the shared space: {name}"))
        for name, one in drawn.items()
    ]
    return Markup('<p class="note">{}</p>').format(keys) + _grid(panels)


def _grid(panels: list[tuple[str, Markup]]) -> Markup:
    one = "<figure><figcaption><b>{}</b></figcaption>{}</figure>"
    shown = Markup("").join(Markup(one).format(name, svg) for name, svg in panels)
    return Markup('<div class="grid below">{}</div>').format(shown)


__all__ = ["heat_maps", "planes"]
