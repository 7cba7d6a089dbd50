"""Vectors of series as a table, and as a file: one a series, or one a step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float

from unlabel.core import view
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import Series, SeriesData
from unlabel.data_pipes.series_future import times_of
from unlabel.data_pipes.series_rows import SeriesRows
from unlabel.embedding import device_of
from unlabel.embedding_parts import Parts
from unlabel.modalities.series import SeriesEncoder
from unlabel.vector_files import Project, check_suffix, save_vectors, vector_table


def embed_series(
    encoder: SeriesEncoder, data: SeriesData, *, per_step: bool = False, size: int = 256
) -> pd.DataFrame:
    """One vector a series by its last `context` steps, or one a step that knows no later one.

    Args:
        encoder: of single channels (one vector for each), or of all channels together.
        data: the series.
        per_step: a vector for every step, see `SeriesEncoder.encode`.
        size: windows a forward pass.

    Returns:
        Columns: the ids under their own name (`item_id` where they have none), `target_name`
        where channels are apart, the time stamps where it is a vector a step, and `embedding`.

    Raises:
        ValueError: a vector that is not finite, or steps of an encoder made for covariates.
    """
    encoder.check_gaps(data.time_gap)
    together, data = encoder.channels > 1, data.in_order(encoder.names)
    rows = SeriesRows(data.series, together=together)
    own = [data[int(s)] for s in rows.series]
    counts = rows.length if per_step else np.ones(len(rows), dtype=np.int64)
    vectors = _steps(encoder, data, size) if per_step else _last(encoder, rows, size)
    if not np.isfinite(vectors).all():
        row = int(np.repeat(np.arange(len(rows)), counts)[~np.isfinite(vectors).all(axis=1)][0])
        raise ValueError(
            f"The vector of {own[row].id!r} is not finite; look at its values and at the "
            "encoder's weights."
        )
    places = np.repeat(np.arange(len(rows)), counts)
    columns: dict[str, Any] = {
        data[0].id_name or "item_id": np.array([s.id for s in own], dtype=object)[places]
    }
    if not together:
        names = [s.names[c] if s.names else str(c) for s, c in zip(own, rows.channel, strict=True)]
        columns["target_name"] = np.array(names, dtype=object)[places]
    if per_step:
        times = [times_of(s, 0, len(s)) for s in own]
        columns[data[0].time_name or "step"] = times[0].append(times[1:])
    return pd.DataFrame({**columns, "embedding": list(vectors)})


def series_vectors(
    encoder: SeriesEncoder, data: SeriesData, *, size: int = 256
) -> Float[np.ndarray, "series width"]:
    """One vector a series by its last `context` steps, the mean over channels that are apart."""
    encoder.check_gaps(data.time_gap)
    data = data.in_order(encoder.names)
    rows = SeriesRows(data.series, together=encoder.channels > 1)
    vectors = _last(encoder, rows, size)
    found = np.zeros((len(data), vectors.shape[1]))
    np.add.at(found, rows.series, vectors)
    return found / np.bincount(rows.series, minlength=len(data))[:, None]


@torch.inference_mode()
def _last(encoder: SeriesEncoder, rows: SeriesRows, size: int) -> np.ndarray:
    was_training = encoder.training
    encoder.eval()
    device, found = next(encoder.parameters()).device, []
    try:
        for start in range(0, len(rows), size):
            row = np.arange(start, min(start + size, len(rows)))
            batch = rows.batch(row, rows.length[row], encoder.context).to(device)
            found.append(encoder(encoder.view(batch, view("plain"))).pooled.float().cpu().numpy())
    finally:
        encoder.train(was_training)
    return np.concatenate(found)


def _steps(encoder: SeriesEncoder, data: SeriesData, size: int) -> np.ndarray:
    if any(encoder.kinds):
        raise ValueError(
            "The encoder was made for covariates, and vectors of single steps are made without; "
            "embed whole series, or use an encoder without covariates."
        )

    def of(one: Series) -> np.ndarray:
        found = encoder.encode(one.values, per_step=True, batch_size=size)
        # Channel after channel, as the rows are.
        return found if found.ndim == 2 else np.concatenate(list(found.transpose(1, 0, 2)))

    return np.concatenate([of(one) for one in data])


def embed_series_file(
    model: str | Path,
    source: Any,
    output: str | Path | Parts,
    *,
    per_step: bool = False,
    batch_size: int = 256,
    normalize: bool = False,
    device: str | None = None,
    project: Project | None = None,
    **columns: Any,
) -> str:
    """Embed the series of a source into a file; returns one line of what was written.

    Args:
        model: folder of a series encoder.
        source: what `read_series` takes.
        output: ends in `.parquet` (ids, times and embedding) or `.npy` (embeddings alone); or
            `Parts`, of which those that are this process's and not yet there are made.
        per_step: a vector for every step.
        batch_size: windows a forward pass.
        normalize: scale every vector to length 1.
        device: as for torch; a GPU where there is one.
        project: what becomes of the vectors, such as others in a space that is shared.
        columns: as for `read_series`.

    Raises:
        ValueError: another ending, or nothing to read.
    """
    if not isinstance(output, Parts):
        check_suffix(output)
    encoder = SeriesEncoder.from_pretrained(model, local_files_only=True).to(device_of(device))
    data = read_series(source, time_gap=encoder.time_gap or False, **columns)

    def made(places: range) -> pa.Table:
        part = replace(data, series=[data[i] for i in places])
        table = embed_series(encoder, part, per_step=per_step, size=batch_size)
        vectors = np.stack(table["embedding"].tolist())
        beside = pa.Table.from_pandas(table.drop(columns="embedding"), preserve_index=False)
        return vector_table(beside, vectors, normalize=normalize, project=project)

    if isinstance(output, Parts):
        about = {**columns, "per_step": per_step, "normalize": normalize}
        output.begin("series", model, source, **about)
        said = output.fill(len(data), made)
    else:
        said = save_vectors(output, made(range(len(data))))
    return f"{said}; {data.summary()}."
