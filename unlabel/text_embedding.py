"""Vectors of sentences as a file of any size, or as the parts of one."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from unlabel.checks import check_above_0
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.text import TextStream, read_text
from unlabel.embedding import Embedder, load_embedder
from unlabel.embedding_parts import Parts
from unlabel.files import replacing
from unlabel.vector_files import Chunk, check_suffix, unit_rows, write_npy, write_parquet

# Batches read, sorted by length and embedded at a time: what is held in memory.
CHUNK_BATCHES = 64


@dataclass(frozen=True)
class EmbedSummary:
    """What `embed_file` wrote.

    Attributes:
        output: the file, or the folder of parts.
        rows: vectors that were written.
        width: of a vector; 0 where none was left to write.
        report: what was read and what was left out.
        parts: how many of them are there, in words.
    """

    output: Path
    rows: int
    width: int
    report: ReadReport
    parts: str = ""

    def summary(self) -> str:
        """One line."""
        if self.parts and not self.report.lines:
            return f"Nothing was left to make: {self.parts} in {self.output}."
        width = f" of width {self.width}" if self.width else ""
        done = f" ({self.parts})" if self.parts else ""
        return f"{self.rows:,} vectors{width} in {self.output}{done}; {self.report.summary()}."


def embed_file(
    model: str | Path | Embedder,
    source: Any,
    output: str | Path | Parts,
    *,
    column: str | int | None = None,
    batch_size: int = 64,
    normalize: bool = False,
    progress: bool = True,
) -> EmbedSummary:
    """Embed the sentences of a source, holding only a chunk of them in memory.

    Rows that hold no text are left out and counted. In Parquet each vector stands beside its text
    and its `index`: the place of its row in the source, from 0, rows left out counted. A `.npy`
    has the vectors only; a warning says when it is shorter than the source.

    Args:
        model: an embedder, or what `load_embedder` takes.
        source: what `read_text` takes: files, folders, globs, `hf:` names, lists.
        output: ends in `.parquet` or `.npy`; written under another name and renamed when whole.
            Or `Parts`, of which those that are this process's and not yet there are made.
        column: of a table, see `read_text`.
        batch_size: sentences a forward pass; they are sorted by length over 64 batches.
        normalize: scale every vector to length 1.
        progress: show a bar.

    Raises:
        ValueError: another ending, batches of nothing, nothing to read, or a vector that is not
            finite.
    """
    check_above_0(batch_size=batch_size)
    if not isinstance(output, Parts):
        check_suffix(output)
    # The overloads of read_text take their options as Any, and pyright then joins both.
    stream = cast(TextStream, read_text(source, column=column, keep_repeats=True, streaming=True))
    told = {"column": column, "normalize": normalize}
    size = output.begin("text", model, source, **told) if isinstance(output, Parts) else 0
    if not isinstance(model, Embedder):
        model = load_embedder(model)
    name = output.folder.name if isinstance(output, Parts) else Path(output).name
    with tqdm(unit=" sentences", disable=not progress, desc=f"embed {name}") as bar:
        made = partial(_chunks, model, batch_size=batch_size, normalize=normalize, bar=bar)
        if isinstance(output, Parts):
            return _in_parts(output, stream, size, made)
        output = Path(output)
        write = write_npy if output.suffix == ".npy" else write_parquet
        with replacing(output) as new:
            rows, width = write(new, made(stream.chosen(lambda start, stop: True)))
    if output.suffix == ".npy" and stream.report.lines != rows:
        warnings.warn(
            f"{output} has {rows:,} vectors for {stream.report.lines:,} rows of the source, so row "
            "numbers differ; write .parquet to have each vector's index.",
            stacklevel=2,
        )
    return EmbedSummary(output, rows, width, stream.report)


def _in_parts(parts: Parts, stream: TextStream, size: int, made: Any) -> EmbedSummary:
    rows = width = 0
    if parts.is_over:  # nothing is left to this process: the source need not be read again
        return EmbedSummary(parts.folder, 0, 0, ReadReport(), parts.there())
    chosen = stream.chosen(parts.wants_any)
    for part, placed in groupby(chosen, key=lambda row: row[0] // size):
        with parts.writing(part) as new:
            own, width = write_parquet(new, made(placed))
        rows += own
    return EmbedSummary(parts.folder, rows, width, stream.report, parts.end(stream.report.lines))


def _chunks(
    model: Embedder,
    placed: Iterable[tuple[int, str]],
    *,
    batch_size: int,
    normalize: bool,
    bar: tqdm,
) -> Iterator[Chunk]:
    placed = iter(placed)
    while rows := list(islice(placed, batch_size * CHUNK_BATCHES)):
        index, texts = [i for i, _ in rows], [t for _, t in rows]
        vectors = np.asarray(model.encode(texts, batch_size), dtype=np.float32)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise ValueError(
                f"The vector of row {index[broken[0]]} of the source ({texts[broken[0]][:60]!r}) "
                "is not finite; look at the encoder's weights."
            )
        if normalize:
            vectors = unit_rows(vectors)
        yield index, texts, vectors
        bar.update(len(texts))


__all__ = ["CHUNK_BATCHES", "EmbedSummary", "embed_file"]
