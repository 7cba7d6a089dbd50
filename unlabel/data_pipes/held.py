"""Values that lie in a data set or in a shard, and are fetched when they are wanted."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from unlabel.data_pipes.faults import DecodeError
from unlabel.files import identity


class Held(ABC):
    """A value that is not a file of its own.

    Attributes:
        shard: what it lies in, where reading one value makes its neighbours cheap; else None.
    """

    shard: Hashable = None

    @abstractmethod
    def load(self) -> Any:
        """The value, as `read_clip` and `read_waveform` take it."""


@dataclass(frozen=True)
class Row(Held):
    """A field of a `datasets.Dataset`."""

    dataset: Any
    place: int
    column: str

    def load(self) -> Any:
        """The field's value."""
        return self.dataset[self.place][self.column]


@dataclass(frozen=True)
class Member(Held):
    """A file inside a tar that is not packed; nothing is ever unpacked.

    Attributes:
        tar: path of the shard.
        name: in the shard.
        offset: where its bytes begin there.
        size: how many there are.
        known: size and time of change of the shard when it was looked into.
    """

    tar: str
    name: str
    offset: int
    size: int
    known: tuple[int, int]

    @property
    def shard(self) -> Hashable:
        """The tar."""
        return self.tar

    def load(self) -> dict[str, Any]:
        """Its bytes, and its name as `path`.

        Raises:
            DecodeError: the shard changed, is gone, or cannot be read there.
        """
        if identity(Path(self.tar)) != self.known:
            raise DecodeError(self, "the shard changed since it was looked into, or is gone")
        try:
            with Path(self.tar).open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as e:
            raise DecodeError(self, e) from e
        return {"bytes": content, "path": self.name}

    def __str__(self) -> str:
        """Shard and name, for messages."""
        return f"{self.tar}:{self.name}"


def shard_sizes(values: Iterable[Any]) -> Int64[np.ndarray, "shards"] | None:
    """How many values lie in each shard, in order; None where one lies in none."""
    runs = [(key, len(list(run))) for key, run in groupby(values, _shard_of)]
    return None if any(key is None for key, _ in runs) else np.array([n for _, n in runs], np.int64)


def _shard_of(value: Any) -> Hashable:
    return value.shard if isinstance(value, Held) else None


__all__ = ["Held", "Member", "Row", "shard_sizes"]
