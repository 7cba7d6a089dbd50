"""Vectors of pictures, videos and recordings as a file: one each, the mean over its clips."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from tqdm import tqdm

from unlabel.data_pipes.audio_store import AudioStore, read_audio
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.videos import read_frames, read_videos
from unlabel.embedding import device_of, modality_of
from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.visual import VisualEncoder
from unlabel.vector_files import check_suffix, save_vectors

# Files that are decoded at a time: what is held in memory.
_CHUNK = 32
Encode = Callable[[list[np.ndarray]], Float[np.ndarray, "samples width"]]


def embed_media_file(
    model: str | Path,
    source: Any,
    output: str | Path,
    *,
    clips: int = 3,
    batch_size: int = 32,
    normalize: bool = False,
    device: str | None = None,
    **columns: Any,
) -> str:
    """Embed the files of a source into a file; returns one line of what was written.

    Args:
        model: folder of an encoder of frames, video or audio.
        source: what `read_frames`, `read_videos` or `read_audio` takes.
        output: ends in `.parquet` (name, label where there is one, and embedding) or `.npy`
            (embeddings alone).
        clips: of each video, evenly over it; a recording is embedded whole.
        batch_size: clips, or windows of sound, a forward pass.
        normalize: scale every vector to length 1.
        device: as for torch; a GPU where there is one.
        columns: as for the reader.

    Raises:
        ValueError: another ending, nothing to read, or a vector that is not finite.
        DecodeError: a file went bad since it was examined.
    """
    check_suffix(output)
    modality = modality_of(Path(model), unsaid="video")
    kind = AudioEncoder if modality == "audio" else VisualEncoder
    encoder = kind.from_pretrained(model, local_files_only=True).to(device_of(device))
    if isinstance(encoder, AudioEncoder):
        data, key, each = read_audio(source, **columns), "waveform", 1
        store: Any = AudioStore(data, rate=encoder.rate, seconds=None, cache_bytes=0)
    else:
        store, each = clips_of(source, encoder, clips, **columns)
        data, key = store.data, "frames"
    encode = lambda rows: encoder.encode(rows, batch_size=batch_size)  # noqa: E731
    found = [v for chunk in _chunks(store, each) for v in _means(store, chunk, key, each, encode)]
    beside = pa.table(names_of(store, each))
    said = save_vectors(output, beside, np.stack(found), normalize=normalize)
    return f"{said}; {data.summary()}."


def clips_of(
    source: Any, encoder: VisualEncoder, clips: int, **columns: Any
) -> tuple[VideoStore, int]:
    """Clips of each picture or video of a source, evenly over it, and how many of each.

    One where none is longer than the encoder's clips.
    """
    data = (read_frames if encoder.frames == 1 else read_videos)(source, **columns)
    each = clips if any(len(item) > encoder.frames for item in data) else 1
    sizes: dict[str, Any] = {"size": encoder.size, "frames": encoder.frames, "clips": each}
    # One file after the other: what was decoded for its clips is not met again.
    return VideoStore(data, start="even", cache_bytes=_room(data, encoder.size), **sizes), each


def names_of(store: Any, each: int) -> dict[str, list[Any]]:
    """Name, and label where there is one, of the files of a store that was read to its end.

    Raises:
        ValueError: a file went bad meanwhile.
    """
    if store.lost:
        raise ValueError(f"{store.lost[0]} went bad while it was read; scan the folder again.")
    labels = store.labels[::each]
    beside: dict[str, Any] = {"name": [item.name for item in store.data]}
    if (labels >= 0).any():
        beside["label"] = [store.classes[k] if k >= 0 else None for k in labels]
    return beside


def _room(data: Any, size: int) -> int:
    return sum(item.media.frames for item in data) * size * size * 3


def _chunks(store: Any, each: int) -> Iterator[Sequence[int]]:
    """Places of the samples of some files at a time."""
    step = _CHUNK * each
    for start in tqdm(range(0, len(store), step), desc="embed", unit=f" x {_CHUNK} files"):
        yield range(start, min(start + step, len(store)))


def _means(
    store: Any, places: Sequence[int], key: str, each: int, encode: Encode
) -> Float[np.ndarray, "files width"]:
    vectors = encode([store[place][key] for place in places])
    return vectors.reshape(-1, each, vectors.shape[-1]).mean(axis=1)


__all__ = ["clips_of", "embed_media_file", "names_of"]
