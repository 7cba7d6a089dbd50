"""Where the values of a store lie: in one array, in memory or mapped, or in files of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from unlabel.data_pipes.series_windows import Counts
from unlabel.data_pipes.sources import find_files
from unlabel.files import identity

Flat = Float32[np.ndarray, "values"]
Rows = Float32[np.ndarray, "steps width"]


class FlatValues:
    """All series end to end in one array.

    Args:
        flat: channel after channel of each series, or step after step where they are together.
        steps: of each series.
        widths: channels of each series.
        together: a window has all channels.
    """

    def __init__(self, flat: Flat, steps: Counts, widths: Counts, *, together: bool):
        self.flat, self.steps, self.widths, self.together = flat, steps, widths, together
        self.begin = np.cumsum(steps * widths) - steps * widths

    def window(self, series: int, rows: slice, channel: int) -> Rows:
        """Rows of a channel, or of all channels together: a slice of the array."""
        begin, width = int(self.begin[series]), int(self.widths[series])
        if self.together:
            flat = self.flat[begin + rows.start * width : begin + rows.stop * width]
            return flat.reshape(-1, width)
        begin += channel * int(self.steps[series])
        return self.flat[begin + rows.start : begin + rows.stop, None]

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        frozen(self.flat)  # pickling forgets it


@dataclass(frozen=True)
class NpyFile:
    """What the header of a `.npy` file says, and when that was read.

    Attributes:
        path: of the file.
        known: size and time of its last change.
        shape: `(series, steps, channels)`.
    """

    path: Path
    known: tuple[int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path) -> "NpyFile":
        """Read the header.

        Raises:
            ValueError: no plain `.npy` file, or an array that holds no series.
        """
        if path.suffix.lower() != ".npy":
            raise ValueError(
                f"{path}: only plain .npy files can be read where they lie; stream other kinds "
                "(streaming=True), or write them once with SeriesStore(..., path=)."
            )
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as e:
            raise ValueError(f"{path}: it cannot be mapped: {e}.") from e
        if array.dtype.kind not in "fiub" or not 1 <= array.ndim <= 3 or not array.size:
            raise ValueError(
                f"{path}: an array of {array.dtype} and shape {array.shape} came, but numbers of "
                "(steps,), (steps, channels) or (series, steps, channels) are wanted."
            )
        return cls(path, identity(path), _three(array).shape)  # type: ignore[arg-type]


class NpyFiles:
    """Series that stay in their `.npy` files; only the rows of a window are ever read.

    A window is a slice of the mapped file where that holds float32, else those rows as float32.

    Args:
        files: at least one.
        together: a window has all channels.
    """

    def __init__(self, files: Sequence[NpyFile], *, together: bool):
        self.files, self.together = tuple(files), together
        counts = np.array([f.shape[0] for f in files], dtype=np.int64)
        self.until = np.cumsum(counts)
        self.steps = np.repeat([f.shape[1] for f in files], counts).astype(np.int64)
        self.widths = np.repeat([f.shape[2] for f in files], counts).astype(np.int64)

    @property
    def ids(self) -> list[str]:
        """The files' names; series of one file are counted."""
        one = lambda f: [f.path.stem]  # noqa: E731
        many = lambda f: [f"{f.path.stem}:{i}" for i in range(f.shape[0])]  # noqa: E731
        return [name for f in self.files for name in (one(f) if f.shape[0] == 1 else many(f))]

    def window(self, series: int, rows: slice, channel: int) -> Rows:
        """Rows of a channel, or of all channels together."""
        place = int(np.searchsorted(self.until, series, side="right"))
        file = self.files[place]
        inside = series - int(self.until[place]) + file.shape[0]
        wanted = slice(None) if self.together else slice(channel, channel + 1)
        return np.asarray(_open(file)[inside, rows, wanted], dtype=np.float32)


# A mapped file takes a file descriptor, of which a process often has 1024.
@lru_cache(maxsize=256)
def _open(file: NpyFile) -> np.ndarray:
    if identity(file.path) != file.known:
        raise ValueError(f"{file.path} changed since it was looked into, or is gone; begin anew.")
    return _three(np.load(file.path, mmap_mode="r", allow_pickle=False).view(np.ndarray))


def _three(array: np.ndarray) -> np.ndarray:
    array = array[:, None] if array.ndim == 1 else array
    return array[None] if array.ndim == 2 else array


def npy_files(source: str | Path | Sequence[str | Path], *, together: bool) -> NpyFiles:
    """The `.npy` files of paths, globs and folders, of which only the headers are read.

    Raises:
        FileNotFoundError: when nothing is there.
        ValueError: a file that cannot be read in place, or different channels to be together.
    """
    sources = [source] if isinstance(source, str | Path) else source
    found = NpyFiles([NpyFile.of(p) for p in find_files(sources, (".npy",), "series").paths],
                     together=together)  # fmt: skip
    other = int((found.widths != found.widths[0]).argmax())
    if together and other:
        raise ValueError(
            f"Series {found.ids[0]!r} has {found.widths[0]} channels and {found.ids[other]!r} has "
            f"{found.widths[other]}; take channels='independent'."
        )
    return found


class Collected:
    """A flat array that grows part by part: in memory, or in a file that is mapped in the end."""

    def __init__(self, path: Path | None):
        self.path, self.parts = path, [np.zeros(0, np.float32)]
        if path is not None:
            path.write_bytes(b"")

    def add(self, part: np.ndarray) -> None:
        """Append the values of `part` in their order."""
        part = np.ascontiguousarray(part, dtype=np.float32)
        if self.path is None:
            self.parts.append(part.ravel())
            return
        with self.path.open("ab") as file:
            part.tofile(file)

    def done(self) -> Flat:
        """The whole, read-only."""
        if self.path is not None:
            return mapped(self.path)
        # A lone part is still copied: what the caller does to its array is not our affair.
        return frozen(np.concatenate(self.parts))


def frozen(array: np.ndarray) -> np.ndarray:
    """The array, read-only."""
    array.flags.writeable = False
    return array


def mapped(path: Path) -> Flat:
    """A file of float32, read where it lies."""
    if not path.stat().st_size:
        return np.zeros(0, np.float32)  # an empty file cannot be mapped
    return np.memmap(path, np.float32, "r").view(np.ndarray)
