"""Samples as the page shows them: tokens, steps or frames of the first batch, points of the map."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from unlabel.report import figures
from unlabel.report.words import spaced

SPECIAL = re.compile(r"\[[A-Z]+\]|<[^<>]+>")
# How tokenizers mark a piece that starts a word (byte-level BPE, SentencePiece).
WORD_STARTS = ("Ġ", "▁")


def views(first_batch: Mapping[str, Any] | None, key: str = "views") -> list[dict[str, Any]]:
    """The views of the first batch, equal ones together: words of tokens, or pictures.

    Args:
        first_batch: as saved.
        key: `views`, or `filled` for what the trained heads predict.
    """
    found: dict[str, dict[str, Any]] = {}
    for view in (first_batch or {}).get(key, []):
        kind = next((k for k in _SHOWN if k in view), "sentences")
        samples = view.get(kind, [])
        name = spaced(view["view"]).replace("+", " + ")
        name = f"{view['side']}: {name}" if view.get("side") else name
        entry = found.setdefault(
            repr((name, samples)), {"name": name, "encoders": [], "kind": kind}
        )
        entry["encoders"].append(view["encoder"])
        shown = [_SHOWN[kind](s) for s in samples]
        entry["rows"] = list(zip((first_batch or {})["index"], shown, strict=False))
    return list(found.values())


def _strips(clip: Mapping[str, Any]) -> Markup:
    """What is seen, and below it what is asked for: pixels, or a class."""
    picture = '<img class="frames" alt="{}" src="data:image/png;base64,{}">'
    said = {"seen": "what the encoder sees", "asked": "the same with what it is to predict"}
    rows = [Markup(picture).format(said[k], clip[k]) for k in said if clip[k]]
    if clip["target"] is not None:
        rows.append(Markup('<span class="note">class {}</span>').format(clip["target"]))
    return Markup("\n").join(rows)


def _drawn(window: Mapping[str, Any]) -> Any:
    label = "a window as the encoder sees it, with what it is to predict"
    return figures.window(**window, label=label)


def _grouped(tokens: Sequence[Mapping[str, str]]) -> list[list[dict[str, Any]]]:
    marked = any(t["token"].startswith(WORD_STARTS) for t in tokens)
    words: list[list[dict[str, Any]]] = []
    for token in tokens:
        text = token["token"]
        special = SPECIAL.fullmatch(text) is not None and token["state"] != "masked"
        # A masked piece stands where its target does, whatever is shown in its place.
        piece = token.get("target", text)
        glued = not piece.startswith(WORD_STARTS) if marked else piece.startswith("##")
        entry = {**token, "text": _bare(text), "special": special}
        entry["target"] = _bare(token.get("target", ""))
        if glued and not special and words and not words[-1][-1]["special"]:
            words[-1].append(entry)
        else:
            words.append([entry])
    return words


def _bare(token: str) -> str:
    return token.removeprefix("##").lstrip("".join(WORD_STARTS)) or token


# How a sample of each kind that encoders show becomes a piece of the page.
_SHOWN = {"sentences": _grouped, "series": _drawn, "clips": _strips}


def maps(saved: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Points of both maps in a square of 100, with the cluster and text of each."""
    if saved is None:
        return None
    sides = {
        name: list(zip(_fitted(saved[name]), saved["cluster"], saved["text"], strict=True))
        for name in ("before", "after")
    }
    return {"sides": sides, "sentences": len(saved["text"])}


def _fitted(points: Sequence[Sequence[float]]) -> list[tuple[str, str]]:
    columns = list(zip(*points, strict=True))
    middle = [(max(c) + min(c)) / 2 for c in columns]
    span = max(max(c) - min(c) for c in columns) or 1.0
    x, y = (
        [f"{50 + 96 * (v - m) / span:.1f}" for v in c] for c, m in zip(columns, middle, strict=True)
    )
    return list(zip(x, y, strict=True))
