"""Views of several links as an objective's arguments name them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unlabel.core import ViewSpec

USUAL = "usual"  # stands for the views that an encoder names as usual for its data


def chain(*parts: str, draw: int = 0, args: Mapping[str, Any] | None = None) -> ViewSpec:
    """The view that applies its parts in order; empty parts are left out.

    Args:
        parts: names of views, each alone or several joined by `+`.
        draw: see `ViewSpec`.
        args: arguments by `"link.argument"`, such as `{"jitter.high": 0.5}`.

    Raises:
        ValueError: an argument for a link that is not in the chain.

    Example:
        >>> chain("random_conv", "future", "", args={"future.horizon": 24}).name
        'random_conv+future'
    """
    links = [name for part in parts for name in part.split("+") if name not in ("", "plain")]
    # A recipe's list becomes a tuple, so that specs can be compared.
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in (args or {}).items()}
    for key in given:
        link, _, arg = key.partition(".")
        if link not in links or not arg:
            raise ValueError(
                f"{key!r} is no argument of a view in {'+'.join(links) or 'plain'}: write "
                f"{links[0] if links else 'view'}.{arg or key}, or add the view that it belongs to."
            )
    if len(links) < 2:  # a view alone takes its arguments by their bare names
        given = {key.partition(".")[2]: value for key, value in given.items()}
    return ViewSpec("+".join(links) or "plain", draw, tuple(sorted(given.items())))


def usual(spec: ViewSpec, named: str) -> ViewSpec:
    """The view with `usual` in its chain replaced by the views that an encoder names so."""
    links = spec.name.split("+")
    if USUAL not in links:
        return spec
    parts = [named if link == USUAL else link for link in links]
    made = chain(*parts, draw=spec.draw, args=dict(spec.args))
    return replace(made, encoder=spec.encoder, partner=spec.partner)
