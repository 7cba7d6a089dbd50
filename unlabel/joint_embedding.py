"""Vectors of one side of pairs in the shared space, as a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlabel.data_pipes.sources import find_files
from unlabel.embedding import Embedder, refuse_unused
from unlabel.embedding_parts import Parts
from unlabel.media_embedding import embed_media_file
from unlabel.search.reading import sampling_of, suffixes_of
from unlabel.search.space import Space
from unlabel.series_embedding import embed_series_file
from unlabel.text_embedding import embed_file


def embed_side(
    model: str | Path,
    source: str,
    output: str | Path | Parts,
    *,
    side: str | None = None,
    series: Mapping[str, Any],
    text: Mapping[str, Any],
    per_step: bool = False,
    batch_size: int = 64,
) -> str:
    """Embed what a side of a trained encoder of pairs sees; returns one line of what was written.

    The vectors have length 1. What a recipe said of how the side is read holds here too.

    Args:
        model: folder of a run of pairs, or of its model.
        source: what `unlabel embed` takes.
        output: ends in `.parquet` or `.npy`, or is `Parts`.
        side: whose encoder sees it; None goes by the files' endings.
        series: names of columns, where they are given.
        text: `column`, likewise.
        per_step: of series, a vector for every step.
        batch_size: samples a forward pass.

    Raises:
        ValueError: no side, or several, for such files, or an option that it does not have.
    """
    space = Space.load(model)
    side = _side(space, source, side)
    kind, options = space.sides[side], space.options[side]
    refuse_unused(kind, {**series, "per_step": per_step or None}, text)
    if text.get("pooling") or text.get("max_length"):
        raise ValueError("The text side of pairs pools as it was trained; leave that out.")
    if kind == "text":
        encode = lambda s, b: space.encoder.encode(side, s, batch_size=b)  # noqa: E731
        embedder = Embedder(side, encode, batch_size)
        how = {"column": text.get("column"), "batch_size": batch_size}
        return embed_file(embedder, source, output, **how).summary()

    def project(vectors: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return space.encoder.project(side, torch.from_numpy(vectors)).numpy()

    shared: dict[str, Any] = {"batch_size": batch_size, "project": project}
    folder = space.folder / side
    if kind == "series":
        given = {k: v for k, v in series.items() if v is not None}
        read = {k: v for k, v in options.reading().items() if k not in ("time_gap", "limit")}
        return embed_series_file(
            folder, source, output, per_step=per_step, **shared, **read | given
        )
    return embed_media_file(folder, source, output, sampling=sampling_of(options), **shared)


def _side(space: Space, source: str, side: str | None) -> str:
    """The side asked for, else the one whose kind of data the first file is of.

    Raises:
        ValueError: no such side, or more than one for such a file.
    """
    has = ", ".join(f"{name} ({kind})" for name, kind in space.sides.items())
    if side is not None and side not in space.sides:
        raise ValueError(f"No side {side!r}; there are {has}.")
    if side is not None:
        return side
    found = space.side_of(find_files([source], suffixes_of(space.sides.values()), "files").paths[0])
    if list(space.sides.values()).count(space.sides[found]) > 1:
        raise ValueError(f"Several sides see such files: give --side, one of {has}.")
    return found


__all__ = ["embed_side"]
