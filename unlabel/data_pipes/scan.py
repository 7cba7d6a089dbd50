"""Scan a folder: true frame counts, rates and sizes of its files, and which of them are bad."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from unlabel.data_pipes.kept_frames import KeptFrames
from unlabel.data_pipes.media import SUFFIXES, Media, kind_of_media
from unlabel.data_pipes.sandbox import examine_all
from unlabel.data_pipes.sources import find_files
from unlabel.files import replacing, write_json


def scan(
    folder: str,
    *,
    output: str | None = None,
    jobs: int | None = None,
    patience: float = 30.0,
    rows: int = 20,
    quiet: bool = False,
) -> list[Media]:
    """Decode every file once and say what is in it; what crashes or hangs is contained and named.

    Args:
        folder: of videos, pictures and recordings, searched to the bottom; a file or a glob too.
        output: manifest to write, `.parquet` or `.json`; of a manifest that is there, files that
            did not change are not decoded again. None writes nothing.
        jobs: processes that decode; None for one a core.
        patience: seconds without a new frame after which a file counts as hanging.
        rows: files shown in the table; bad ones are all shown.
        quiet: print nothing.

    Raises:
        FileNotFoundError: nothing to scan is there.
        ValueError: the manifest's name ends in neither.
    """
    manifest = None if output is None else Path(output)
    if manifest is not None and manifest.suffix not in (".parquet", ".json"):
        raise ValueError(f"A manifest is .parquet or .json, but {output} came.")
    files = find_files([folder], SUFFIXES, "media")
    found = scan_files(files.paths, manifest, jobs=jobs, patience=patience, quiet=quiet)
    if not quiet:
        base = Path(folder) if Path(folder).is_dir() else Path()
        _show(found, base, rows, len(files.ignored), output)
    return found


def scan_files(
    paths: Sequence[Path],
    manifest: Path | None = None,
    *,
    kind: str | None = None,
    jobs: int | None = None,
    patience: float = 30.0,
    quiet: bool = True,
    kept: KeptFrames | None = None,
) -> list[Media]:
    """What each file holds, from the manifest where it is unchanged, else by decoding it.

    Args:
        paths: of the files, and of folders of pictures that are one video each.
        manifest: file to take from and to write to.
        kind: what to look for in all of them, see `examine`; None goes by their names.
        jobs: as for `scan`.
        patience: as for `scan`.
        quiet: show no progress.
        kept: takes the frames of files that are decoded.
    """
    known = {(m.path, m.kind): m for m in read_manifest(manifest)} if manifest else {}
    keys = [(str(path.resolve()), kind or kind_of_media(path)) for path in paths]
    # A file is decoded once whatever names lead to it.
    new = [k[0] for k in dict.fromkeys(keys) if k not in known or not known[k].unchanged()]
    with Progress(disable=quiet or not new, transient=True) as progress:
        decoded = examine_all(new, kind, jobs=jobs, patience=patience, kept=kept)
        for media in progress.track(decoded, total=len(new), description="decoding"):
            known[media.path, media.kind] = media
    if manifest is not None and new:
        write_manifest(manifest, known.values())
    return [known[key] for key in keys]


def read_manifest(path: Path) -> list[Media]:
    """The files that a manifest tells of; none where there is no readable one."""
    try:
        if path.suffix == ".json":
            fields = json.loads(path.read_text(encoding="utf-8"))
        else:
            import pyarrow.parquet as pq

            fields = pq.read_table(path).to_pylist()
        return [Media.from_dict(f) for f in fields]
    except (OSError, ValueError, TypeError, AttributeError):
        return []  # made anew


def write_manifest(path: Path, found: Iterable[Media]) -> None:
    """Write what was found, a row a file."""
    fields = [m.as_dict() for m in found]
    if path.suffix == ".json":
        return write_json(path, fields)
    import pyarrow as pa
    import pyarrow.parquet as pq

    for field in fields:  # a name of other bytes than UTF-8, which Parquet cannot hold
        field["path"] = field["path"].encode("utf-8", "backslashreplace").decode()
    schema = pa.Table.from_pylist([Media("", stamps=(0.0,)).as_dict()]).schema
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(fields, schema=schema), partial)
    return None


def _show(found: list[Media], base: Path, rows: int, ignored: int, output: str | None) -> None:
    console = Console()
    bad = [m for m in found if m.fault]
    good = [m for m in found if not m.fault]
    table = Table(title=f"{len(found):,} files, {len(bad):,} bad", title_justify="left")
    for heading in ("file", "kind", "frames", "a second", "size", "codec", "fault"):
        table.add_column(heading, justify="right" if heading in ("frames", "a second") else "left")
    for media in [*good[:rows], *bad]:
        table.add_row(*_cells(media, base))
    console.print(table)
    notes = [f"{len(good) - rows:,} more good files"] if len(good) > rows else []
    notes += [f"{ignored:,} files of other kinds ignored"] if ignored else []
    short = [m for m in good if m.cut]
    notes += [f"{len(short):,} cut off: shorter than their headers say, but whole"] * bool(short)
    notes += [f"manifest: {output}"] if output else []
    if notes:
        console.print("; ".join(notes))


def _cells(media: Media, base: Path) -> list[str]:
    path = Path(media.path)
    root = base.resolve()
    name = str(path.relative_to(root)) if path.is_relative_to(root) else media.path
    size = f"{media.columns}x{media.rows}" if media.rows else ""
    told = f" (header {media.header})" if media.cut or (media.fault and media.header) else ""
    frames = f"{media.frames:,}{told}"
    said = media.fault or ("cut off" if media.cut else "")
    return [name, media.kind, frames, f"{media.fps:.4g}", size, media.codec, said]


__all__ = ["read_manifest", "scan", "scan_files", "write_manifest"]
