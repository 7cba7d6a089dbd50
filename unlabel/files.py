"""Writing results so that a reader finds them whole or not at all; telling contents apart."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4
from zlib import crc32

_PIECE, _PIECES = 1 << 20, 256  # bytes, and how many of them are looked at


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; moved there when the block ends well, else removed.

    The folder is made where it is missing.

    Raises:
        OSError: it is a folder itself, or a file lies where its folder should be.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file.")
    if file := next((p for p in path.parents if p.is_file()), None):
        raise NotADirectoryError(f"{file} is a file, so {path} cannot be in it; name another.")
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()}-{uuid4().hex[:8]}"  # others may write it too, on other machines
    partial = path.with_name(f".{path.name}.{own}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def lock(handle: int) -> bool | None:
    """Make an open file or folder this process's own until it is closed, or the process dies.

    Returns:
        False where another process has it; None where no locks are known (Windows, and some file
        systems).
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


@contextmanager
def alone_in(folder: Path, *, patience: float = 10.0) -> Iterator[None]:
    """No other process has the folder while the block runs; one that dies has it no more.

    Args:
        folder: that is there.
        patience: seconds to wait for one that is ending, such as the workers of one that died.

    Raises:
        ValueError: another process has it.
    """
    if os.name == "nt":  # where no folder can be opened
        yield
        return
    handle, until = os.open(folder, os.O_RDONLY), time.monotonic() + patience
    try:
        while lock(handle) is False:
            if time.monotonic() > until:
                raise ValueError(
                    f"Another process is at work in {folder}; wait for it, or give another folder."
                )
            time.sleep(0.2)
        yield
    finally:
        os.close(handle)


def files_in(folder: Path) -> list[Path]:
    """The files in a folder, to the bottom and in order, but for hidden ones.

    A link to a folder elsewhere is gone into, once. A link that leads nowhere is among the files,
    so that who reads them names it.
    """
    found: list[Path] = []
    roots = [folder.resolve()]
    for here, folders, files in os.walk(folder, followlinks=True):
        place = Path(here)
        found += [place / name for name in files if name[0] != "."]
        links = [n for n in folders if (place / n).is_symlink()]
        folders[:] = [n for n in folders if n[0] != "." and n not in links]
        for name in sorted(n for n in links if n[0] != "."):
            real = (place / name).resolve()
            if not (roots[0].is_relative_to(real) or any(map(real.is_relative_to, roots))):
                roots.append(real)
                folders.append(name)
    return sorted(p for p in found if p.is_file() or p.is_symlink())


def flush(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def identity(path: Path) -> tuple[int, int]:
    """Size and time of change, which tell a file from a later one of its name; zeros for none."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def fingerprint(*contents: Any) -> str:
    """Eight digits that other contents would not have; of large ones even pieces are looked at.

    Args:
        contents: arrays whose numbers lie together.
    """
    told = 0
    for content in contents:
        whole = memoryview(content)
        told = crc32(f"{whole.shape} {whole.format}".encode(), told)
        flat = whole.cast("B") if whole.nbytes else b""
        for begin in range(0, len(flat), max(_PIECE, len(flat) // _PIECES)):
            told = crc32(flat[begin : begin + _PIECE], told)
    return f"{told:08x}"


def write_json(path: Path, content: Any) -> None:
    """Write JSON beside its place and move it there, making the folder where it is missing."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
