"""Vectors of pictures, videos and recordings as a file: one each, the mean over its clips."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from tqdm import tqdm

from unlabel.data_pipes.audio_store import AudioStore, read_audio
from unlabel.data_pipes.kept_frames import Keep
from unlabel.data_pipes.media import SOUND_SUFFIXES
from unlabel.data_pipes.report import NothingUsable, ReadReport
from unlabel.data_pipes.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from unlabel.data_pipes.video_list import Columns, Entry, list_media
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.video_windows import STEPS
from unlabel.data_pipes.videos import read_frames, read_videos
from unlabel.embedding import device_of, modality_of
from unlabel.embedding_parts import Parts
from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.visual import VisualEncoder
from unlabel.vector_files import Project, check_suffix, save_vectors, vector_table

# Files that are decoded at a time: what is held in memory.
_CHUNK = 32
Encode = Callable[[list[np.ndarray]], Float[np.ndarray, "samples width"]]


def embed_media_file(
    model: str | Path,
    source: Any,
    output: str | Path | Parts,
    *,
    clips: int = 3,
    batch_size: int = 32,
    normalize: bool = False,
    device: str | None = None,
    project: Project | None = None,
    sampling: Mapping[str, Any] | None = None,
    **columns: Any,
) -> str:
    """Embed the files of a source into a file; returns one line of what was written.

    Args:
        model: folder of an encoder of frames, video or audio.
        source: what `read_frames`, `read_videos` or `read_audio` takes.
        output: ends in `.parquet` (name, label where there is one, and embedding) or `.npy`
            (embeddings alone); or `Parts`, of which those that are this process's and not yet
            there are made. (No file of another part is looked into.)
        clips: of each video, evenly over it; a recording is embedded whole.
        batch_size: clips, or windows of sound, a forward pass.
        normalize: scale every vector to length 1.
        device: as for torch; a GPU where there is one.
        project: what becomes of the vectors, such as others in a space that is shared.
        sampling: see `media_vectors`; None is that of the run whose model it is.
        columns: as for the reader.

    Raises:
        ValueError: another ending, nothing to read, or a vector that is not finite.
        DecodeError: a file went bad since it was examined.
    """
    if not isinstance(output, Parts):
        check_suffix(output)
    modality = modality_of(Path(model), unsaid="video")
    kind = AudioEncoder if modality == "audio" else VisualEncoder
    encoder = kind.from_pretrained(model, local_files_only=True).to(device_of(device))
    sampling = trained_sampling(model) if sampling is None else sampling
    how: dict[str, Any] = {"clips": clips, "batch_size": batch_size, "progress": True}
    how["sampling"] = sampling
    last: Any = None  # the store that was read last

    def made(of: Any, has_labels: bool = False) -> pa.Table:
        nonlocal last
        last, vectors = media_vectors(encoder, of, **how, **columns)
        beside = pa.table(names_of(last, last.clips, has_labels=has_labels))
        return vector_table(beside, vectors, normalize=normalize, project=project)

    if not isinstance(output, Parts):
        said = save_vectors(output, made(source))
        return f"{said}; {last.data.summary()}."
    entries = _entries(encoder, source)
    labelled, broken = any(e.label is not None for e in entries), {}

    def part(places: range) -> pa.Table | None:
        try:
            found = made([entries[i] for i in places], labelled)
        except NothingUsable as e:
            broken.update(e.report.broken)
            return None
        broken.update(last.data.report.broken)
        return found

    output.begin(modality, model, source, clips=clips, normalize=normalize, **sampling)
    said = f"{output.fill(len(entries), part)}; {len(entries):,} files"
    named = "; ".join(f"{name}: {why}" for name, why in list(broken.items())[:3])
    return f"{said}, {len(broken):,} broken, left out ({named})." if broken else f"{said}."


def _entries(encoder: AudioEncoder | VisualEncoder, source: Any) -> list[Entry]:
    """The files of a source, none of them looked into."""
    if isinstance(encoder, VisualEncoder):
        wanted = VIDEO_SUFFIXES if encoder.frames > 1 else (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        return list_media(source, wanted, Columns(), ReadReport())
    try:
        return list_media(source, SOUND_SUFFIXES, Columns(), ReadReport())
    except FileNotFoundError as e:
        try:  # their sound tracks
            return list_media(source, VIDEO_SUFFIXES, Columns(), ReadReport())
        except FileNotFoundError:
            raise e from None


def media_vectors(
    encoder: AudioEncoder | VisualEncoder,
    source: Any,
    *,
    clips: int = 3,
    batch_size: int = 32,
    sampling: Mapping[str, Any] | None = None,
    progress: bool = False,
    **columns: Any,
) -> tuple[Any, Float[np.ndarray, "files width"]]:
    """A vector for each file of a source, the mean over its clips, and the store they came from.

    Args:
        encoder: of frames, video or audio.
        source: as for `embed_media_file`.
        clips: likewise.
        batch_size: likewise.
        sampling: how the frames of a clip lie in a video, as `VideoStore` takes it.
        progress: show a bar.
        columns: as for the reader.

    Returns:
        The store, whose `data` are the files in the order of the vectors. Vectors of files that
        its `lost` names are of no use.

    Raises:
        ValueError: nothing to read.
    """
    store: Any
    if isinstance(encoder, AudioEncoder):
        data, key, each = read_audio(source, **columns), "waveform", 1
        store = AudioStore(data, rate=encoder.rate, seconds=None, cache_bytes=0)
    else:
        store, each = clips_of(source, encoder, clips, sampling=sampling, **columns)
        key = "frames"
    encode = lambda rows: encoder.encode(rows, batch_size=batch_size)  # noqa: E731
    found = [_means(store, c, key, each, encode) for c in _chunks(store, each, progress)]
    return store, np.concatenate(found)


def trained_sampling(model: str | Path) -> dict[str, Any]:
    """How clips lay in the videos of the run whose model this is; nothing where no run says so."""
    file = Path(model).parent / "run.json"
    said = json.loads(file.read_text()).get("encoder") if file.is_file() else None
    return {k: said[k] for k in STEPS if said.get(k) is not None} if said else {}


def clips_of(
    source: Any,
    encoder: VisualEncoder,
    clips: int,
    *,
    sampling: Mapping[str, Any] | None = None,
    **columns: Any,
) -> tuple[VideoStore, int]:
    """Clips of each picture or video of a source, evenly over it, and how many of each.

    One where none is longer than the encoder's clips.
    """
    read = read_frames if encoder.frames == 1 else read_videos
    data = read(source, keep=Keep.of(encoder.size), **columns)
    each = clips if any(len(item) > encoder.frames for item in data) else 1
    sizes: dict[str, Any] = {"size": encoder.size, "frames": encoder.frames, "clips": each}
    # One file after the other: what was decoded for its clips is not met again.
    sizes["cache_bytes"] = sum(item.media.frames for item in data) * encoder.size**2 * 3
    return VideoStore(data, start="even", **sizes, **(sampling or {})), each


def names_of(store: Any, each: int, *, has_labels: bool = False) -> dict[str, list[Any]]:
    """Name, and label where there is one, of the files of a store that was read to its end.

    Raises:
        ValueError: a file went bad meanwhile.
    """
    if store.lost:
        raise ValueError(f"{store.lost[0]} went bad while it was read; scan the folder again.")
    labels = store.labels[::each]
    beside: dict[str, Any] = {"name": [item.name for item in store.data]}
    if has_labels or (labels >= 0).any():
        beside["label"] = [store.classes[k] if k >= 0 else None for k in labels]
    return beside


def _chunks(store: Any, each: int, progress: bool) -> Iterator[Sequence[int]]:
    """Places of the samples of some files at a time."""
    step = _CHUNK * each
    starts = range(0, len(store), step)
    for start in tqdm(starts, desc="embed", unit=f" x {_CHUNK} files", disable=not progress):
        yield range(start, min(start + step, len(store)))


def _means(
    store: Any, places: Sequence[int], key: str, each: int, encode: Encode
) -> Float[np.ndarray, "files width"]:
    vectors = encode([store[place][key] for place in places])
    return vectors.reshape(-1, each, vectors.shape[-1]).mean(axis=1)


__all__ = ["clips_of", "embed_media_file", "media_vectors", "names_of", "trained_sampling"]
