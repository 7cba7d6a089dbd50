"""Load any text encoder behind one call, and the command that embeds any kind of data."""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import MODEL_MAPPING, AutoConfig

from unlabel.checks import check_above_0
from unlabel.embedding_parts import Parts
from unlabel.modalities.configs import SETTINGS, hub_answers, nowhere, saved_settings
from unlabel.modalities.text import TextEncoder


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
    """The device asked for, as for torch; else a GPU where there is one, its own for each rank."""
    if asked or not torch.cuda.is_available():
        return asked or "cpu"
    rank = os.environ.get("LOCAL_RANK")
    return "cuda" if rank is None else f"cuda:{int(rank) % torch.cuda.device_count()}"


def modality_of(folder: Path, *, unsaid: str = "text") -> str:
    """Kind of data of a saved encoder; `unsaid` where its folder does not tell."""
    settings = folder / SETTINGS
    if settings.is_file():
        return json.loads(settings.read_text())["modality"]
    return _taken_by(folder) or unsaid


def _taken_by(folder: Path) -> str | None:
    """Kind of data that the model of a plain transformers folder takes; None for text."""
    if not (folder / "config.json").is_file():
        return None
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        takes = MODEL_MAPPING[type(config)].main_input_name
    except (AttributeError, KeyError, OSError, ValueError):  # of another library, or broken
        return None
    if takes == "pixel_values" and getattr(config, "num_frames", 1) > 1:
        return "video"
    return {"pixel_values": "frames", "input_values": "audio", "past_values": "series"}.get(takes)


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
        encoder = TextEncoder.from_pretrained(
            folder, pooling=pooling, max_length=max_length, local_files_only=True
        ).to(device)
    except ValueError:
        raise
    except Exception as error:  # each loader has its own; all end in the same advice
        if not path.exists():
            raise ValueError(nowhere(path_or_name)) from error
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
    is_local = not (Path(path).exists() or hub_answers())
    model = SentenceTransformer(path, device=device, local_files_only=is_local)
    if max_length is not None:
        model.max_seq_length = max_length
    encode = lambda s, b: model.encode(s, batch_size=b, show_progress_bar=False)  # noqa: E731
    return Embedder(name, encode, batch_size)


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
    part: str | None = None,
    part_rows: int | None = None,
    join: str | None = None,
) -> None:
    """Embed a file, folder or glob of any kind of data, and say what was written.

    Of series there is one vector each, or one a step; channels that the encoder takes one at a
    time have their own. A picture, video or recording has one each. The vectors of an encoder of
    pairs have length 1 and lie in the space that its sides share.

    An output without ending is a folder of parts, which many processes (those of torchrun, or a
    `part` each on whatever machines) make together, and which goes on where it stopped.

    Args:
        model: a run's output folder, a model's folder, or a name on the Hub.
        source: what to embed.
        output: ends in `.parquet` (index, text and embedding; of series id and embedding, of
            media name, label and embedding) or `.npy` (embeddings); or a folder of Parquet files.
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
        part: of a folder: `i/n`, this process is the i-th of n from 0 on; default as torchrun says.
        part_rows: of a folder: rows of the source in a file; default 16,384 texts, 4,096 series,
            256 files.
        join: of a folder whose parts are all there: one file of them, `.parquet` or `.npy`.
    """
    check_above_0(batch_size=batch_size, max_length=max_length)
    own = {"pooling": pooling, "max_length": max_length, "side": side}
    parts = Parts.told(output, part, part_rows, model=run_model_folder(Path(model)) or model, **own)
    if join is not None and parts is None:
        raise ValueError(f"{output} is one file; join is for a folder of parts.")
    told: dict[str, dict[str, Any]] = {
        "series": {
            "id_column": id_column,
            "timestamp_column": timestamp_column,
            "target": target,
            "freq": freq,
        },
        "text": {"column": column, "pooling": pooling, "max_length": max_length},
    }
    how: dict[str, Any] = {"batch_size": batch_size, "normalize": normalize, "side": side}
    print(_embed(model, source, parts or output, told, per_step=per_step, **how))
    if join is not None and parts is not None:
        print(parts.join(join))


def _embed(
    model: str,
    source: str,
    output: str | Parts,
    told: Mapping[str, Mapping[str, Any]],
    *,
    per_step: bool,
    batch_size: int,
    normalize: bool,
    side: str | None,
) -> str:
    """Embed with what the kind of the model takes; returns one line of what was written."""
    folder = run_model_folder(Path(model)) or Path(model)
    kind = modality_of(folder)
    if kind == "pairs":
        from unlabel.joint_embedding import embed_side

        how: dict[str, Any] = {**told, "per_step": per_step, "batch_size": batch_size}
        return embed_side(model, source, output, side=side, **how)
    if side is not None:
        raise ValueError(f"The model is an encoder of {kind}, which has no sides; leave side out.")
    refuse_unused(kind, {**told["series"], "per_step": per_step or None}, told["text"])
    settings: dict[str, Any] = {"batch_size": batch_size, "normalize": normalize}
    if kind == "series":
        from unlabel.series_embedding import embed_series_file

        own: dict[str, Any] = {**told["series"], "per_step": per_step}
        return embed_series_file(folder, source, output, **settings, **own)
    if kind != "text":
        from unlabel.media_embedding import embed_media_file

        return embed_media_file(folder, source, output, **settings)
    from unlabel.text_embedding import embed_file

    loading = dict(told["text"])
    settings["column"] = loading.pop("column")
    embedder = load_embedder(model, **loading)
    return embed_file(embedder, source, output, **settings).summary()


def refuse_unused(kind: str, series: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Options of other kinds of data would be silently unused."""
    foreign = {**(series if kind != "series" else {}), **(text if kind != "text" else {})}
    if unused := [name for name, value in foreign.items() if value is not None]:
        raise ValueError(f"The model is an encoder of {kind}, which has no {', '.join(unused)}.")
