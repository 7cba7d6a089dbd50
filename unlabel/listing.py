"""`unlabel list`: every method, the kinds of data it runs on, and the views there are of one."""

import inspect
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table


def list_methods(modality: str | None = None) -> None:
    """Print every method, the kinds of data it runs on, and its paper.

    Args:
        modality: this kind of data alone: what each method does there, why others do not run, and
            the views that an objective may name (`--objective.augment crop+jitter`).
    """
    from unlabel.modalities import ENCODERS, VIEWS
    from unlabel.objectives import CATALOGUE
    from unlabel.training.pretraining import why_not

    if modality not in (None, *ENCODERS):
        raise ValueError(f"No modality {modality!r}; there are {', '.join(ENCODERS)}.")
    console = Console()
    if not console.is_terminal:  # a file is as wide as it must be
        console = Console(width=160)
    reasons = {
        name: {kind: why_not(method(), encoder) for kind, encoder in ENCODERS.items()}
        for name, method in CATALOGUE.items()
    }
    if modality is None:
        table = _table("Objectives", "name", *ENCODERS, "paper")
        for name, why in reasons.items():
            runs = ["" if reason else "yes" for reason in why.values()]
            table.add_row(name, *runs, CATALOGUE[name].paper)
        console.print(table)
        console.print(
            "What each does, why it does not run on a kind of data, and the views there are: "
            "--modality NAME."
        )
        return
    able = _table(f"Objectives on {modality}", "name", "what it does", "paper")
    unable = _table(f"Not on {modality}", "name", "it needs")
    for name, why in reasons.items():
        if reason := why[modality]:
            unable.add_row(name, reason.removeprefix("needs "))
        else:
            able.add_row(name, _first_line(CATALOGUE[name]), CATALOGUE[name].paper)
    views = _table(f"Views of {modality}", "name", "what it does", "source")
    for name in sorted(ENCODERS[modality].views):
        view = VIEWS[modality][name]
        views.add_row(name, _first_line(view), _source(view))
    for table in (able, views, unable):
        if table.row_count:
            console.print(table)


def _table(title: str, first: str, *more: str) -> Table:
    """A table whose first column is never broken."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, no_wrap=True)
    for heading in more:
        table.add_column(heading)
    return table


def _first_line(thing: Callable[..., Any] | type) -> str:
    return (thing.__doc__ or "").split("\n")[0]


def _source(view: Callable[..., Any]) -> str:
    """What the docstring of a view names as its reference, if any."""
    said = inspect.getdoc(view) or ""
    return " ".join(said.partition("Reference: ")[2].partition("\n\n")[0].split()).rstrip(".")


__all__ = ["list_methods"]
