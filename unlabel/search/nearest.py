"""The nearest of many vectors: exactly, block by block, or approximately by a graph of FAISS."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from unlabel.data_pipes.faults import library
from unlabel.files import replacing

Vectors = Float32[np.ndarray, "rows width"]
Found = tuple[Int64[np.ndarray, "queries count"], Float32[np.ndarray, "queries count"]]

_CELLS = 1 << 22  # cosines held at a time
_LINKS, _BUILD, _WALK = 32, 200, 128  # of the graph: neighbours, and candidates kept


def exact(queries: Vectors, vectors: Vectors, count: int, *, cells: int = _CELLS) -> Found:
    """Rows of the highest inner products, and these; of equal ones the earlier row comes first.

    Memory grows with `cells`, not with the number of vectors.

    Args:
        queries: to look for.
        vectors: to look among.
        count: rows for each query at most.
        cells: inner products held at a time.
    """
    block = max(1, cells // max(1, len(queries)))
    best = np.zeros((len(queries), 0), np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), block):
        here = queries @ vectors[start : start + block].T
        own = np.broadcast_to(np.arange(start, start + here.shape[1]), here.shape)
        best, rows = np.concatenate([best, here], 1), np.concatenate([rows, own], 1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, rows = np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)
    return rows, best


class Graph:
    """Neighbours by a graph (HNSW) that FAISS builds once and keeps in a file.

    Args:
        vectors: to look among.
        file: to keep it in; taken from there where it is.

    Raises:
        ImportError: FAISS is missing; the message says how to install it.

    Reference: Malkov and Yashunin 2016 (HNSW), arXiv 1603.09320.
    """

    def __init__(self, vectors: Vectors, file: Path):
        self.faiss: Any = library("faiss", "search")
        if file.is_file():
            self.graph = self.faiss.read_index(str(file))
            return
        self.graph = self.faiss.IndexHNSWFlat(
            vectors.shape[1], _LINKS, self.faiss.METRIC_INNER_PRODUCT
        )
        self.graph.hnsw.efConstruction = _BUILD
        self.graph.add(np.ascontiguousarray(vectors))
        with replacing(file) as partial:
            self.faiss.write_index(self.graph, str(partial))

    def nearest(self, queries: Vectors, count: int, among: np.ndarray | None = None) -> Found:
        """As `exact`, but a near row may be missed, and is then replaced by a farther one.

        Args:
            queries: to look for.
            count: rows for each query.
            among: rows to look among; None for all.
        """
        chosen = None if among is None else self.faiss.IDSelectorBatch(among.astype(np.int64))
        how = self.faiss.SearchParametersHNSW(efSearch=max(_WALK, 2 * count), sel=chosen)
        cosines, rows = self.graph.search(np.ascontiguousarray(queries), count, params=how)
        return rows, cosines


__all__ = ["Graph", "exact"]
