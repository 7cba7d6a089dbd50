"""What a kind of data hands to a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlabel.data_pipes.sources import Files


@dataclass(frozen=True)
class Prepared:
    """An encoder and what to train it on.

    Attributes:
        encoder: the modality's adapter, its weights as the run begins.
        store: samples, map-style by ordinal or an iterable of batches, as the trainer takes them.
        read: one line on what was read and what was left out.
        samples: how many there are, None for a stream.
        classes: how many their labels count, None where they have no labels.
        bytes: of the files that samples are read from during the run, None where none are.
        content: tells the samples that are held apart from others, None where none are.
    """

    encoder: Any
    store: Any
    read: str
    samples: int | None
    classes: int | None = None
    bytes: int | None = None
    content: str | None = None


def stream_bytes(stream: Any) -> int | None:
    """Of the files that a stream of text or series reads, None where it reads no files."""
    return stream.source.bytes if isinstance(stream.source, Files) else None


def is_named(data: Any, corpus: str) -> bool:
    """Whether the data is the corpus of that name; a table has no truth of its own."""
    return isinstance(data, str) and data == corpus


def encoder_of(
    adapter: Any,
    options: Any,
    *,
    seed: int,
    begun: Path | None,
    settings: Mapping[str, Any],
    new: Mapping[str, Any],
) -> Any:
    """The encoder that a run trains: as it began, a pretrained one, or a new one.

    Args:
        adapter: the modality's class of encoders.
        options: of the run, with `pretrained`, `config` and `dropout`.
        seed: of the run, which takes the place of `{seed}` in `pretrained`.
        begun: folder of the encoder as the run began, where it is resumed.
        settings: of a pretrained or a new encoder.
        new: further settings, of a new one alone.
    """
    if begun is not None:
        # The configuration of the run as it began; the weights come after.
        return adapter.from_pretrained(begun, dropout=options.dropout)
    if options.pretrained is not None:
        name = options.pretrained.replace("{seed}", str(seed))
        return adapter.from_pretrained(name, dropout=options.dropout, **settings)
    return adapter.from_config(options.config, dropout=options.dropout, **{**new, **settings})
