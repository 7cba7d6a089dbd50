"""What a kind of data hands to a run."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prepared:
    """An encoder and what to train it on.

    Attributes:
        encoder: the modality's adapter, its weights as the run begins.
        store: samples, map-style by ordinal or an iterable of batches, as the trainer takes them.
        read: one line on what was read and what was left out.
        samples: how many there are, None for a stream.
    """

    encoder: Any
    store: Any
    read: str
    samples: int | None
