"""Vectors on a cluster: what Ray Data calls for each batch of a data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unlabel.data_pipes.text import clean_text
from unlabel.embedding import load_embedder
from unlabel.vector_files import unit_rows


class EmbedBatch:
    """Adds the column `embedding` to batches of a `ray.data.Dataset`; each worker loads a model.

    Where billions of items outgrow what `unlabel embed` does by parts, Ray reads, schedules,
    retries and writes (`pip install 'unlabel[ray]'`):

        rows = ray.data.read_parquet("texts/").map_batches(
            EmbedBatch,
            fn_constructor_kwargs={"model": "runs/notes", "column": "text"},
            batch_size=4096, num_gpus=1, concurrency=8,
        )
        rows.write_parquet("vectors/")

    Rows that hold no text are left out. Leave CPUs for reading beside those of the workers.

    Args:
        model: what `load_embedder` takes, on every machine.
        column: of the texts.
        normalize: scale every vector to length 1.
        loading: further arguments of `load_embedder`.
    """

    def __init__(
        self, model: str, *, column: str = "text", normalize: bool = False, **loading: Any
    ):
        self.embedder = load_embedder(model, **loading)
        self.column, self.normalize = column, normalize
        self.width = self.embedder(["a"]).shape[1]

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch, with its vectors.

        Raises:
            ValueError: it has no such column.
        """
        if self.column not in batch:
            raise ValueError(f"No column {self.column!r} among {', '.join(batch)}.")
        read = [clean_text(text) for text in batch[self.column]]
        is_text = np.array([problem is None for _, problem in read], bool)
        texts = [text for text, problem in read if problem is None]
        vectors = self.embedder(texts) if texts else np.zeros((0, self.width), np.float32)
        vectors = unit_rows(vectors) if self.normalize else vectors
        return {name: values[is_text] for name, values in batch.items()} | {"embedding": vectors}


__all__ = ["EmbedBatch"]
