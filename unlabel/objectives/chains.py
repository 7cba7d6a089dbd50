"""Views of several links as an objective's arguments name them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unlabel.core import ViewSpec

USUAL = "usual"  # stands for the views that an encoder names as usual for its data
LOCAL = "local"  # likewise, for views of a small part of a sample
TURNED = "turned"  # the draw-th of those that can be told apart and keep a sample's class


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
            if stands := [name for name in links if name in (USUAL, LOCAL)]:
                raise ValueError(
                    f"{key!r} is no argument of a view in {'+'.join(links)}: to give arguments to "
                    f"the views that {stands[0]!r} stands for, name them, as in crop+jitter."
                )
            raise ValueError(
                f"{key!r} is no argument of a view in {'+'.join(links) or 'plain'}: write "
                f"{links[0] if links else 'view'}.{arg or key}, or add the view that it belongs to."
            )
    if len(links) < 2:  # a view alone takes its arguments by their bare names
        given = {key.partition(".")[2]: value for key, value in given.items()}
    return ViewSpec("+".join(links) or "plain", draw, tuple(sorted(given.items())))


def multi_crop(
    augment: str, args: Mapping[str, Any] | None, *, local: str = LOCAL, count: int = 0
) -> tuple[ViewSpec, ...]:
    """Multi-crop: two draws of whole views, then `count` draws of local ones.

    Args:
        augment: the whole views, joined by `+`.
        args: arguments of both, by `"link.argument"`; those of local views alone by
            `"local.link.argument"`.
        local: the local views, joined by `+`; `local` are those of the kind of data.
        count: of local views.

    Raises:
        ValueError: a count below 0, or an argument of a view that is not there.

    Reference: Caron et al. 2020 (SwAV), arXiv 2006.09882, section 3.2.
    """
    if count < 0:
        raise ValueError(f"The number of local views is 0 or more, but {count} came.")
    own = f"{LOCAL}."
    small = {k.removeprefix(own): v for k, v in (args or {}).items() if k.startswith(own)}
    whole = {k: v for k, v in (args or {}).items() if not k.startswith(own)}
    return (
        *(chain(augment, draw=draw, args=whole) for draw in range(2)),
        *(chain(local, draw=2 + draw, args=small) for draw in range(count)),
    )


def seen_by(spec: ViewSpec, encoder: Any) -> Any:
    """Who sees a view: the encoder (or its class), or the one of the side that the view names."""
    towers = getattr(encoder, "towers", getattr(encoder, "every", {}))
    return towers[spec.partner] if spec.partner in towers else encoder


def usual(spec: ViewSpec, encoder: Any) -> ViewSpec | None:
    """The view with `usual`, `local` and `turned` replaced by those that an encoder names so.

    None where it (or its class) names no local view, or not as many that are turned.
    """
    names, own, encoder = spec.name.split("+"), dict(spec.args), seen_by(spec, encoder)
    if spec.name == TURNED:
        turned = getattr(encoder, "turned", ())  # only who gives `turned` names any
        return turned[spec.draw] if spec.draw < len(turned) else None
    if not {USUAL, LOCAL} & set(names):
        return spec
    small = encoder.local
    if LOCAL in names:
        if small is None:
            return None
        # A view alone has its arguments by their bare names.
        given = {k if small.links else f"{small.name}.{k}": v for k, v in small.args}
        own = {**given, **own}
    stands = {USUAL: encoder.usual, LOCAL: small and small.name}
    made = chain(*(stands.get(n, n) for n in names), draw=spec.draw, args=own)
    return replace(made, encoder=spec.encoder, partner=spec.partner)
