"""Writing results so that a reader finds them whole or not at all; telling files apart."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; moved there when the block ends well, else removed.

    The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()}-{uuid4().hex[:8]}"  # others may write it too, on other machines
    partial = path.with_name(f".{path.name}.{own}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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


def write_json(path: Path, content: Any) -> None:
    """Write JSON beside its place and move it there, making the folder where it is missing."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
