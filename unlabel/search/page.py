"""The page of a search: what was asked, and a card for each hit, in one file that loads nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from unlabel.files import replacing
from unlabel.report.templates import environment, version
from unlabel.search.cards import length_of, shown
from unlabel.search.space import Space


def write_page(
    path: str | Path,
    space: Space,
    hits: pd.DataFrame,
    *,
    count: int,
    words: str | None = None,
    like: Mapping[str, Any] | None = None,
) -> None:
    """Write the hits of a search as a page.

    Args:
        path: of the HTML file.
        space: that was searched.
        hits: what `Space.search` gave.
        count: things that were searched.
        words: that were asked for.
        like: the example that was asked for in their place, as `Space.example` describes it.
    """
    cards = [_card(space, hit) for hit in hits.to_dict("records")]
    page = (
        environment(Path(__file__).parent)
        .get_template("hits.html.j2")
        .render(
            words=words,
            query=None if like is None else _card(space, like),
            cards=cards,
            count=count,
            model=str(space.home),
            made_by=version(),
        )
    )
    with replacing(Path(path)) as partial:
        # Texts may hold halves of surrogate pairs, which UTF-8 has no bytes for.
        partial.write_text(page, encoding="utf-8", errors="replace")


def _card(space: Space, item: Mapping[str, Any]) -> dict[str, Any]:
    kind, path = space.sides[item["side"]], Path(item["path"])
    about = [item["side"], length_of(item, kind)]
    about += [f"row {item['row'] + 1:,}"] if kind == "text" or item["row"] else []
    return {
        "shown": shown(item, kind, space.options[item["side"]]),
        "name": path.name,
        "folder": str(path.parent),
        "about": " · ".join(filter(None, about)),
        "rank": item.get("rank"),
        "cosine": item.get("cosine"),
    }


__all__ = ["write_page"]
