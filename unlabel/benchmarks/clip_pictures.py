"""Clips as pictures: strips of frames, nearest neighbours of clips, and masks over frames.

Pictures are PNG in base64, so that results can be saved as JSON and shown by a page that loads
nothing.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from markupsafe import Markup
from PIL import Image

Picture = UInt8[np.ndarray, "rows columns 3"]
SHOWN = 8  # frames of a strip
ROWS = 48  # pixels of a strip's height
TINT = np.array([255, 64, 64], np.float32)  # of what a mask covers


def strip(
    frames: UInt8[np.ndarray, "times rows columns 3"], *, shown: int = SHOWN, rows: int = ROWS
) -> Picture:
    """Frames evenly over a clip, side by side with a white line between them.

    Args:
        frames: of the clip.
        shown: how many at most.
        rows: pixels of the strip's height.
    """
    places = np.linspace(0, len(frames) - 1, min(shown, len(frames))).round().astype(int)
    small = [_resized(frames[p], rows) for p in places]
    gap = np.full((rows, 2, 3), 255, np.uint8)
    parts = [x for picture in small for x in (picture, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _resized(picture: Picture, rows: int) -> Picture:
    columns = max(1, round(picture.shape[1] * rows / picture.shape[0]))
    smooth = Image.Resampling.BOX if picture.shape[0] > rows else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize((columns, rows), smooth))


def masked(
    frames: UInt8[np.ndarray, "times rows columns 3"], masks: Bool[np.ndarray, "times rows columns"]
) -> UInt8[np.ndarray, "times rows columns 3"]:
    """Frames in grey, tinted where the mask is."""
    grey = frames.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return np.where(masks[..., None], 0.45 * grey + 0.55 * TINT, grey).astype(np.uint8)


def png(picture: Picture) -> str:
    """A PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def image(content: str, label: str) -> Markup:
    """An `img` that holds its own picture.

    Args:
        content: a PNG in base64.
        label: what it shows, for readers who cannot see it.
    """
    style = f"height:{ROWS}px;max-width:100%;image-rendering:auto"
    return Markup('<img alt="{}" style="{}" src="data:image/png;base64,{}">').format(
        label, style, content
    )


def neighbour_examples(
    features: np.ndarray,
    clips: Sequence[np.ndarray],
    label: Sequence[str],
    fold: tuple[np.ndarray, np.ndarray],
    *,
    queries: int = 4,
    nearest: int = 3,
) -> list[dict[str, Any]]:
    """Held-out clips with the train clips that are nearest by cosine.

    Args:
        features: a row each.
        clips: frames of each.
        label: class of each.
        fold: rows of the train part and of the test part.
        queries: how many, evenly over the test part.
        nearest: train clips of each.

    Returns:
        For each query `strip`, `label`, and `nearest`: `strip`, `label` and `cosine` of each.
    """
    train, test = fold
    asked = test[np.linspace(0, len(test) - 1, min(queries, len(test))).round().astype(int)]
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    cosine = unit[asked] @ unit[train].T
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :nearest]
    drawn = lambda row: {"strip": png(strip(clips[row])), "label": str(label[row])}  # noqa: E731
    return [
        {
            **drawn(row),
            "nearest": [{**drawn(train[k]), "cosine": round(float(c[k]), 3)} for k in places],
        }
        for row, c, places in zip(asked, cosine, order, strict=True)
    ]


def neighbours_html(examples: Mapping[str, Mapping[str, Any]]) -> Markup:
    """A grid: each held-out clip, and below it what each encoder finds nearest.

    Args:
        examples: `strip`, `label` and `encoders`, neighbours by encoder, by name of the example;
            as a result of `bench actions` saves them.
    """
    parts = []
    for one in examples.values():
        rows = [_row("query", [{**one, "cosine": None}], None)]
        rows += [_row(name, found, one["label"]) for name, found in one["encoders"].items()]
        parts.append(Markup("<table>{}</table>").format(Markup("").join(rows)))
    return Markup('<div class="neighbours">{}</div>').format(Markup("").join(parts))


def _row(name: str, clips: Sequence[Mapping[str, Any]], truth: str | None) -> Markup:
    cells = Markup("").join(_cell(clip, truth) for clip in clips)
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, cells)


def _cell(clip: Mapping[str, Any], truth: str | None) -> Markup:
    # Said in words too: colour alone would not do.
    wrong = truth is not None and clip["label"] != truth
    said = clip["label"] if not wrong else f"{clip['label']} (another class)"
    number = "" if clip["cosine"] is None else f" {clip['cosine']:.2f}"
    style = "color:var(--muted)" if wrong else ""
    return Markup('<td style="{}">{}<br><small>{}{}</small></td>').format(
        style, image(clip["strip"], f"clip of {clip['label']}"), said, number
    )


def masks_html(examples: Mapping[str, Mapping[str, Any]]) -> Markup:
    """For each sequence the true masks, and those that each encoder carried, with their J.

    Args:
        examples: `strip` (the true masks) and `encoders`, `strip` and `J` by encoder, by name of
            the sequence; as a result of `bench propagation` saves them.
    """
    parts = []
    for name, one in examples.items():
        rows = [_mask_row("true masks", one["strip"], None)]
        rows += [_mask_row(k, e["strip"], e["J"]) for k, e in one["encoders"].items()]
        caption = Markup("<caption>{}</caption>").format(name)
        parts.append(Markup("<table>{}{}</table>").format(caption, Markup("").join(rows)))
    return Markup('<div class="masks">{}</div>').format(Markup("").join(parts))


def _mask_row(name: str, content: str, score: float | None) -> Markup:
    said = "" if score is None else Markup("<br><small>J {}</small>").format(f"{score:.3f}")
    shown = image(content, name if score is None else f"masks carried by {name}")
    return Markup('<tr><th scope="row">{}{}</th><td>{}</td></tr>').format(name, said, shown)


__all__ = ["image", "masked", "masks_html", "neighbour_examples", "neighbours_html", "png", "strip"]
