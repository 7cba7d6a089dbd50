"""Write vectors to a file chunk by chunk, so that their number does not matter."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from unlabel.files import replacing

Project = Callable[[np.ndarray], np.ndarray]
# Places in the source, texts and vectors of some rows.
Chunk = tuple[list[int], list[str], Float[np.ndarray, "rows width"]]


def write_parquet(path: Path, chunks: Iterable[Chunk]) -> tuple[int, int]:
    """Columns index, text and embedding, a row group a chunk; returns rows and width."""
    writer, rows, width = None, 0, 0
    try:
        for index, texts, vectors in chunks:
            width = vectors.shape[1]
            flat = pa.array(vectors.ravel(), type=pa.float32())
            table = pa.table(
                {
                    "index": pa.array(index, type=pa.int64()),
                    "text": pa.array(texts, type=pa.string()),
                    "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
                }
            )
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            rows += len(texts)
    finally:
        if writer is not None:
            writer.close()
    return rows, width


def write_npy(path: Path, chunks: Iterable[Chunk]) -> tuple[int, int]:
    """The vectors as one float32 array, as `np.save` would write it; returns rows and width."""

    def header(rows: int, width: int) -> None:
        # numpy pads a header so that the number of rows can grow in place.
        shape = {"shape": (rows, width), "fortran_order": False, "descr": "<f4"}
        np.lib.format.write_array_header_1_0(file, shape)

    rows = width = 0
    with path.open("wb") as file:
        for _, _, vectors in chunks:
            if not rows:
                width = vectors.shape[1]
                header(0, width)
            file.write(vectors.astype("<f4", copy=False).tobytes())
            rows += len(vectors)
        file.seek(0)
        header(rows, width)
    return rows, width


def check_suffix(output: str | Path) -> None:
    """Refuse a file of vectors of another kind, before they are computed."""
    if Path(output).suffix not in (".parquet", ".npy"):
        raise ValueError(f"{output}: vectors are written as .parquet or .npy; choose one.")


def unit_rows(vectors: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows width"]:
    """Vectors scaled to length 1; one of length 0 stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def vector_table(
    beside: pa.Table,
    vectors: Float[np.ndarray, "rows width"],
    *,
    normalize: bool = False,
    project: Project | None = None,
) -> pa.Table:
    """Vectors that fit into memory, as the column `embedding` of a table.

    Args:
        beside: a row for each vector.
        vectors: that become the column.
        normalize: scale every vector to length 1.
        project: what becomes of the vectors before.

    Raises:
        ValueError: a vector that is not finite.
    """
    vectors = vectors if project is None else project(vectors)
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"The vector of {beside[0][row]} is not finite; look at the weights.")
    if normalize:
        vectors = unit_rows(vectors)
    flat = pa.array(vectors.astype(np.float32, copy=False).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return beside.append_column("embedding", column)


def save_vectors(output: str | Path, table: pa.Table) -> str:
    """Write a table of vectors; returns one line of what was written.

    Args:
        output: ends in `.parquet` or `.npy` (the vectors alone).
        table: what `vector_table` gave.
    """
    width = table.schema.field("embedding").type.list_size
    with replacing(Path(output)) as partial:
        if Path(output).suffix == ".npy":
            with partial.open("wb") as file:
                flat = table.column("embedding").combine_chunks().flatten()
                np.save(file, flat.to_numpy().reshape(-1, width))
        else:
            pq.write_table(table, partial)
    return f"{len(table):,} vectors of width {width} in {output}"
