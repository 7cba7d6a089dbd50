"""Write vectors to a file chunk by chunk, so that their number does not matter."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

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
