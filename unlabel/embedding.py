"""Load any text encoder behind one call, and embed files of any size."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.text import TextStream, read_text
from unlabel.files import replacing
from unlabel.modalities.configs import SETTINGS, saved_settings
from unlabel.modalities.text import TextEncoder
from unlabel.vector_files import Chunk, write_npy, write_parquet

# Batches read, sorted by length and embedded at a time: what is held in memory.
CHUNK_BATCHES = 64
WHOLE = 512  # tokens of a plain transformers folder's sentences; the model's limit if lower


@dataclass(frozen=True)
class Embedder:
    """An encoder as a function from sentences to vectors.

    Attributes:
        name: shown in tables.
        encode: sentences and a batch size to `(sentences, width)`.
        batch_size: sentences a forward pass.
    """

    name: str
    encode: Callable[[list[str], int], Float[np.ndarray, "sentences width"]]
    batch_size: int = 64

    def __call__(self, sentences: list[str]) -> Float[np.ndarray, "sentences width"]:
        """Embed sentences, in the order given."""
        return np.asarray(self.encode(sentences, self.batch_size), dtype=np.float32)


def run_model_folder(path: Path) -> Path | None:
    """The trained model's folder when `path` is a run's output folder, else None."""
    return path / "model" if (path / "model" / "config.json").is_file() else None


def device_of(asked: str | None) -> str:
    """The device asked for, as for torch; else a GPU where there is one."""
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def modality_of(folder: Path, *, unsaid: str = "text") -> str:
    """Kind of data of a saved encoder; `unsaid` where its folder does not tell."""
    settings = folder / SETTINGS
    return json.loads(settings.read_text())["modality"] if settings.is_file() else unsaid


def side_folder(folder: Path, *kinds: str, unsaid: str = "text") -> Path:
    """Where the encoder of one of these kinds lies: the folder itself, or that of its one side."""
    if modality_of(folder, unsaid=unsaid) != "pairs" or "pairs" in kinds:
        return folder
    sides = [n for n, kind in saved_settings(folder)["sides"].items() if kind in kinds]
    return folder / sides[0] if len(sides) == 1 else folder


def load_embedder(
    path_or_name: str | Path,
    *,
    pooling: str | None = None,
    max_length: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    name: str | None = None,
) -> Embedder:
    """Load an encoder, whoever saved it; of an encoder of pairs its text side, by itself.

    Args:
        path_or_name: a run's output folder or its model folder, a sentence-transformers folder
            (`modules.json`), a plain transformers folder (`config.json`), or a name on the Hub.
        pooling: `cls`, `mean` or `first_last`; default what the folder says, `mean` for a plain
            transformers folder. A sentence-transformers folder says it itself.
        max_length: longest sentence in tokens; default what the folder says, else 512.
        batch_size: sentences a forward pass.
        device: as for torch; a GPU where there is one.
        name: shown in tables; default the folder's name.

    Raises:
        ValueError: the folder is none of these, belongs to another modality, or does not load.
    """
    device = device_of(device)
    path = Path(path_or_name)
    folder = side_folder(run_model_folder(path) or path, "text")
    shown = name or path.name or str(path)
    try:
        if (folder / "modules.json").is_file() or _is_hub_name(str(path_or_name)):
            return _sentence_transformer(
                str(path_or_name if folder is path else folder),
                pooling=pooling,
                max_length=max_length,
                device=device,
                name=shown,
                batch_size=batch_size,
            )
        _refuse_unknown(folder)
        if not (folder / SETTINGS).is_file():
            pooling, max_length = pooling or "mean", max_length or WHOLE
        encoder = TextEncoder.from_pretrained(
            folder, pooling=pooling, max_length=max_length, local_files_only=True
        ).to(device)
    except ValueError:
        raise
    except Exception as error:  # each loader has its own; all end in the same advice
        raise ValueError(
            f"Could not load {path_or_name}: {type(error).__name__}: {error}. Its files may be "
            "incomplete; save or fetch the model again."
        ) from error
    return Embedder(shown, lambda s, b: encoder.encode(s, batch_size=b), batch_size)


def _is_hub_name(name: str) -> bool:
    return not Path(name).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def _refuse_unknown(folder: Path) -> None:
    expected = (
        "a run's output folder (model/config.json), a sentence-transformers folder "
        "(modules.json), a transformers folder (config.json), or a name on the Hub (owner/model)"
    )
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}; expected {expected}.")
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise ValueError(f"{folder} holds {found}; expected {expected}.")
    if (kind := modality_of(folder)) != "text":
        raise ValueError(f"{folder} is an encoder of {kind}; text is embedded by a text encoder.")


def _sentence_transformer(
    path: str,
    *,
    pooling: str | None,
    max_length: int | None,
    device: str,
    name: str,
    batch_size: int,
) -> Embedder:
    from sentence_transformers import SentenceTransformer

    if pooling is not None:
        raise ValueError(
            f"{path} says itself how it pools (1_Pooling/config.json); leave pooling= out."
        )
    model = SentenceTransformer(path, device=device)
    if max_length is not None:
        model.max_seq_length = max_length
    encode = lambda s, b: model.encode(s, batch_size=b, show_progress_bar=False)  # noqa: E731
    return Embedder(name, encode, batch_size)


@dataclass(frozen=True)
class EmbedSummary:
    """What `embed_file` wrote.

    Attributes:
        output: the file.
        rows: vectors in it.
        width: of a vector.
        report: what was read and what was left out.
    """

    output: Path
    rows: int
    width: int
    report: ReadReport

    def summary(self) -> str:
        """One line."""
        return (
            f"{self.rows:,} vectors of width {self.width} in {self.output}; "
            f"{self.report.summary()}."
        )


def embed_file(
    model: str | Path | Embedder,
    source: Any,
    output: str | Path,
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
        column: of a table, see `read_text`.
        batch_size: sentences a forward pass; they are sorted by length over 64 batches.
        normalize: scale every vector to length 1.
        progress: show a bar.

    Raises:
        ValueError: another ending, nothing to read, or a vector that is not finite.
    """
    output = Path(output)
    write = {".parquet": write_parquet, ".npy": write_npy}.get(output.suffix)
    if write is None:
        raise ValueError(f"{output}: vectors are written as .parquet or .npy; choose one.")
    # The overloads of read_text take their options as Any, and pyright then joins both.
    stream = cast(TextStream, read_text(source, column=column, keep_repeats=True, streaming=True))
    if not isinstance(model, Embedder):
        model = load_embedder(model)
    bar = tqdm(unit=" sentences", disable=not progress, desc=f"embed {output.name}")
    with replacing(output) as partial, bar:
        rows, width = write(partial, _chunks(model, stream, batch_size, normalize, bar))
    if output.suffix == ".npy" and stream.report.lines != rows:
        warnings.warn(
            f"{output} has {rows:,} vectors for {stream.report.lines:,} rows of the source, so row "
            "numbers differ; write .parquet to have each vector's index.",
            stacklevel=2,
        )
    return EmbedSummary(output, rows, width, stream.report)


def embed(
    model: str,
    source: str,
    output: str = "vectors.parquet",
    *,
    column: str | None = None,
    batch_size: int = 64,
    normalize: bool = False,
    pooling: str | None = None,
    max_length: int | None = None,
    per_step: bool = False,
    id_column: str | None = None,
    timestamp_column: str | None = None,
    target: list[str] | None = None,
    freq: str | None = None,
    side: str | None = None,
) -> None:
    """Embed a file, folder or glob of any kind of data, and say what was written.

    Text may be of any size. Of series there is one vector each, or one a step; channels that the
    encoder takes one at a time have their own. A picture, video or recording has one each. The
    vectors of an encoder of pairs have length 1 and lie in the space that its sides share.

    Args:
        model: a run's output folder, a model's folder, or a name on the Hub.
        source: what to embed.
        output: ends in `.parquet` (index, text and embedding; of series id and embedding, of
            media name, label and embedding) or `.npy` (embeddings).
        column: of a table that holds the text.
        batch_size: sentences, windows or clips a forward pass.
        normalize: scale every vector to length 1.
        pooling: for transformers folders of text: `cls`, `mean` or `first_last`.
        max_length: longest sentence in tokens; default what the model was saved with.
        per_step: of series: a vector for every step.
        id_column: of series: which column of a table tells them apart.
        timestamp_column: of series: which column holds the time.
        target: of series: columns of values; default every column of numbers.
        freq: of series: the step, in pandas' names.
        side: of an encoder of pairs: whose encoder sees the source; default by its ending, where
            one side alone is of such a kind.
    """
    folder = run_model_folder(Path(model)) or Path(model)
    about_series = {
        "id_column": id_column, "timestamp_column": timestamp_column, "target": target, "freq": freq
    }  # fmt: skip
    about_text = {"column": column, "pooling": pooling, "max_length": max_length}
    kind = modality_of(folder)
    if kind == "pairs":
        from unlabel.joint_embedding import embed_side

        told = {"series": about_series, "text": about_text, "per_step": per_step}
        print(embed_side(model, source, output, side=side, batch_size=batch_size, **told))
        return
    if side is not None:
        raise ValueError(f"The model is an encoder of {kind}, which has no sides; leave side out.")
    refuse_unused(kind, {**about_series, "per_step": per_step or None}, about_text)
    settings: dict[str, Any] = {"batch_size": batch_size, "normalize": normalize}
    if kind == "series":
        from unlabel.series_embedding import embed_series_file

        own: dict[str, Any] = {**about_series, "per_step": per_step}
        print(embed_series_file(folder, source, output, **settings, **own))
    elif kind != "text":
        from unlabel.media_embedding import embed_media_file

        print(embed_media_file(folder, source, output, **settings))
    else:
        embedder = load_embedder(model, pooling=pooling, max_length=max_length)
        print(embed_file(embedder, source, output, column=column, **settings).summary())


def refuse_unused(kind: str, series: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Options of other kinds of data would be silently unused."""
    foreign = {**(series if kind != "series" else {}), **(text if kind != "text" else {})}
    if unused := [name for name, value in foreign.items() if value is not None]:
        raise ValueError(f"The model is an encoder of {kind}, which has no {', '.join(unused)}.")


def _chunks(
    model: Embedder, stream: TextStream, batch_size: int, normalize: bool, bar: tqdm
) -> Iterator[Chunk]:
    # The report counts rows as the stream yields them, so it knows each record's place.
    placed = ((stream.report.lines - 1, next(iter(r.values()))) for r in stream)
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
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        yield index, texts, vectors
        bar.update(len(texts))
