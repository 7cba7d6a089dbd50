"""Checkpoints that are there whole or not at all.

A checkpoint is written to a staging folder, its files are hashed into a manifest and flushed to
disk, and only then is the folder renamed into place. On resume the newest one whose files still
match their manifest is taken.
"""

import errno
import hashlib
import json
import logging
import re
import shutil
from pathlib import Path

from unlabel.files import flush

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_STAGING = ".staging"
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NAME = re.compile(r"checkpoint-(\d+)")


class DiskFull(OSError):
    """A checkpoint could not be written for want of space; the last good one is intact."""


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


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
        final: where it goes; what stood there is set aside first and then removed.
    """
    files = sorted(p for p in staged.rglob("*") if p.is_file() and p.name != MANIFEST)
    manifest = {str(p.relative_to(staged)): _digest(p) for p in files}
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=1))
    folders = sorted(p for p in staged.rglob("*") if p.is_dir())
    for path in [*files, staged / MANIFEST, *folders, staged]:
        flush(path)
    if final.exists():
        final.rename(staged.with_name(f"replaced-{final.name}"))
    staged.rename(final)
    flush(final.parent)


def fault(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None where every file matches its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error.__class__.__name__})"
    if not isinstance(manifest, dict) or not manifest:
        return "its manifest names no files"
    for name, digest in manifest.items():
        path = folder / name
        inside = not Path(name).is_absolute() and ".." not in path.parts
        if not inside or path.resolve() != folder.resolve() / name:
            return f"its manifest names {name}, which lies outside of it"
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


def choose(run: Path, asked: str | bool) -> str | ValueError | None:
    """The checkpoint asked for, or for True the newest whole one of the run, None if there is none.

    A named one that is damaged comes back as the error to raise.
    """
    if isinstance(asked, str):
        why = fault(Path(asked))
        wrong = f"Cannot resume from {asked}: {why}. Resume from the newest whole one with True."
        return asked if why is None else ValueError(wrong)
    newest = newest_valid(run)
    if newest is None:
        logger.warning("No whole checkpoint in %s: starting from the beginning.", run)
    return None if newest is None else str(newest)


def rotate(run: Path, keep: int | None, newest: Path) -> None:
    """Delete all but `keep` checkpoints (None keeps all); the one just written always stays.

    Those of later steps go first: they are damaged, or of a course that this run has left by
    going back to an earlier checkpoint, and would be resumed from by mistake.
    """
    if not keep:
        return
    step = int(newest.name.rpartition("-")[2])
    later = [p for p in checkpoints(run) if int(p.name.rpartition("-")[2]) > step]
    kept = [p for p in checkpoints(run) if p not in later][:keep]
    for folder in checkpoints(run):
        if folder not in kept:
            # Renamed first: a folder that is half deleted is never seen among the whole ones.
            doomed = staging(run) / f"deleted-{folder.name}"
            doomed.parent.mkdir(exist_ok=True)
            folder.rename(doomed)
    clear_staging(run)


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # torch and safetensors wrap the system's error in their own words.
    words = str(error).lower()
    signs = (
        "no space left",
        "file too large",
        "disk quota",
        "os error 28",
        "os error 27",
        "iostream error",
    )
    return any(s in words for s in signs) or "enforce fail at inline_container" in words


def explain(error: Exception, run: Path, step: int) -> Exception:
    """The error of a failed save in one sentence, where the disk or the folder is at fault."""
    full = _is_full(error)
    if not full and not (isinstance(error, OSError) and error.errno in _CLOSED):
        return error
    last = newest_valid(run)
    failed = f"checkpoint-{step} could not be written to {run}"
    last_good = f"The last good checkpoint is {last.name if last else 'none yet'};"
    if full:
        free = shutil.disk_usage(run).free / 2**20
        return DiskFull(
            f"The disk is full: {failed} ({free:.0f} MB free). {last_good} free some space and "
            "run again with --resume."
        )
    return PermissionError(
        f"The folder is closed: {failed} ({error.strerror}). {last_good} make it writable and run "
        "again with --resume."
    )
