"""Vectors of recordings as a file: one a recording, the mean over its windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unlabel.data_pipes.audio_store import AudioStore, read_audio
from unlabel.embedding import device_of
from unlabel.files import replacing
from unlabel.modalities.audio import AudioEncoder

# Recordings that are decoded at a time: what is held in memory.
_CHUNK = 64


def embed_audio_file(
    model: str | Path,
    source: Any,
    output: str | Path,
    *,
    batch_size: int = 64,
    normalize: bool = False,
    device: str | None = None,
    **columns: Any,
) -> str:
    """Embed the recordings of a source into a file; returns one line of what was written.

    Args:
        model: folder of an encoder of sound.
        source: what `read_audio` takes.
        output: ends in `.parquet` (name, label where there is one, and embedding) or `.npy`
            (embeddings alone).
        batch_size: windows a forward pass.
        normalize: scale every vector to length 1.
        device: as for torch; a GPU where there is one.
        columns: as for `read_audio`.

    Raises:
        ValueError: another ending, nothing to read, or a vector that is not finite.
        DecodeError: a recording went bad since it was examined.
    """
    output = Path(output)
    if output.suffix not in (".parquet", ".npy"):
        raise ValueError(f"{output}: vectors are written as .parquet or .npy; choose one.")
    encoder = AudioEncoder.from_pretrained(model, local_files_only=True).to(device_of(device))
    data = read_audio(source, **columns)
    store = AudioStore(data, rate=encoder.rate, seconds=None, cache_bytes=0)
    parts = []
    for start in range(0, len(store), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(store)))
        parts.append(encoder.encode([store[r]["waveform"] for r in rows], batch_size=batch_size))
    if store.lost:
        raise ValueError(f"{store.lost[0]} went bad while it was read; scan the folder again.")
    vectors = np.concatenate(parts)
    names = [item.name for item in data]
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"The vector of {names[row]} is not finite; look at the weights.")
    if normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    beside: dict[str, Any] = {"name": names}
    if (store.labels >= 0).any():
        beside["label"] = [store.classes[k] if k >= 0 else None for k in store.labels]
    with replacing(output) as partial:
        _write(partial, beside, vectors, output.suffix)
    count, width = vectors.shape
    return f"{count:,} vectors of width {width} in {output}; {data.summary()}."


def _write(path: Path, beside: dict[str, Any], vectors: np.ndarray, suffix: str) -> None:
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, vectors)
        return
    flat = pa.array(vectors.ravel(), type=pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    pq.write_table(pa.table(beside).append_column("embedding", column), path)


__all__ = ["embed_audio_file"]
