"""Checkpoints that are there whole or not at all.

A checkpoint is written to a staging folder, its files are hashed into a manifest and flushed to
disk, and only then is the folder renamed into place. On resume the newest one whose files still
match their manifest is taken.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_STAGING = ".staging"
_NAME = re.compile(r"checkpoint-(\d+)")


class DiskFull(OSError):
    """A checkpoint could not be written for want of space; the last good one is intact."""


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def staging(run: Path) -> Path:
    """The folder that checkpoints of this run are staged in."""
    return run / _STAGING


def clear_staging(run: Path) -> None:
    """Remove what a crash left behind."""
    shutil.rmtree(staging(run), ignore_errors=True)


def commit(staged: Path, final: Path) -> None:
    """Hash and flush a staged folder, then rename it into place.

    Args:
        staged: a finished folder on the same file system as `final`.
        final: where it goes; what stood there is replaced.
    """
    files = sorted(p for p in staged.rglob("*") if p.is_file() and p.name != MANIFEST)
    manifest = {str(p.relative_to(staged)): _digest(p) for p in files}
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, staged / MANIFEST, staged]:
        _flush(path)
    if final.exists():
        shutil.rmtree(final)
    staged.rename(final)
    _flush(final.parent)


def fault(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None where every file matches its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error.__class__.__name__})"
    for name, digest in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} is damaged"
    return None


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, newest first."""
    found = [(int(m[1]), p) for p in run.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found, reverse=True)]


def newest_valid(run: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named in a warning and passed over."""
    for folder in checkpoints(run):
        why = fault(folder)
        if why is None:
            return folder
        logger.warning("Passing over %s: %s. Falling back to the one before.", folder, why)
    return None


def rotate(run: Path, keep: int | None, protect: str | None = None) -> None:
    """Delete all but the newest `keep` checkpoints (None keeps all) and the protected one."""
    if not keep:
        return
    for folder in checkpoints(run)[keep:]:
        if protect is None or Path(protect).resolve() != folder.resolve():
            shutil.rmtree(folder, ignore_errors=True)


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # torch and safetensors wrap the system's error in their own words.
    words = str(error).lower()
    signs = ("no space left", "file too large", "disk quota", "os error 28", "os error 27")
    return any(s in words for s in signs) or "enforce fail at inline_container" in words


@contextlib.contextmanager
def saving(run: Path, step: int) -> Iterator[Path]:
    """Stage a checkpoint; a full disk becomes one clear sentence and leaves no half folder.

    Raises:
        DiskFull: the file system refused the bytes.
    """
    try:
        yield staging(run) / f"checkpoint-{step}"
    except Exception as error:
        clear_staging(run)
        if not _is_full(error):
            raise
        last = newest_valid(run)
        free = shutil.disk_usage(run).free / 2**20
        raise DiskFull(
            f"The disk is full: checkpoint-{step} could not be written to {run} ({free:.0f} MB "
            f"free). The last good checkpoint is {last.name if last else 'none yet'}; free some "
            "space and run again with --resume."
        ) from error
