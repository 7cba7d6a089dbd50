"""Where text comes from: paths, globs, folders, lists and `datasets` objects."""

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from unlabel.data_pipes.formats import (
    PACKED,
    SUFFIXES,
    BrokenFile,
    Columns,
    Row,
    Wanted,
    choose,
    in_first,
    kind_of,
    pick_values,
    read_rows,
)
from unlabel.data_pipes.marks import EVERY, Mark, Tape
from unlabel.data_pipes.report import ReadReport
from unlabel.files import files_in, identity

_BATCH = 1024  # rows of a `datasets` object read together; of these there are whole ones to a mark


@dataclass(frozen=True)
class Files:
    """Files to read one after the other, and what else lay in their folders."""

    paths: tuple[Path, ...]
    ignored: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all files together; one that is gone has none."""
        return sum(identity(path)[0] for path in self.paths)


def rows_of(
    source: Any,
    report: ReadReport,
    columns: Columns,
    encoding: str | None,
    wanted: Wanted | None = None,
    tape: Tape | None = None,
) -> Iterator[tuple[str, Row]]:
    """All rows of a resolved source, each with the name of its file; broken files are reported.

    Who asks counts them in `report.lines`. For `wanted` see `read_rows`; its places are those in
    the whole source. With a tape, files are read from its mark on, where they can be.

    Raises:
        ValueError: when the only file is broken, or the wanted column is unknown.
    """
    if not isinstance(source, Files):
        info = getattr(source, "info", None)
        name = getattr(info, "dataset_name", None) or type(source).__name__
        report.files.append(name)
        try:
            if columns is None and not hasattr(source, "select_columns"):
                columns = in_first(source)
            items = _items(source, columns, tape)
            yield from ((name, row) for row in pick_values(items, columns))
        except BrokenFile as e:
            raise ValueError(f"{name}: {e}.") from e
        return
    report.ignored.extend(source.ignored)
    for number, path in enumerate(source.paths):
        started = report.lines
        report.files.append(str(path))  # before the rows: a limit may end the reading among them
        if tape is not None and not tape.opens(number):
            continue
        here = None if wanted is None else partial(_shifted, wanted, started)
        enters = tape is not None and tape.enters
        try:
            rows = read_rows(path, columns, encoding, here, tape)
            yield from ((str(path), row) for row in rows)
            if report.lines == started and not enters:
                raise BrokenFile("it holds no rows")
        except BrokenFile as e:
            if len(source.paths) == 1:
                raise ValueError(f"{path}: {e}.") from e
            if read := report.lines - started:
                report.broken[str(path)] = f"given up after line {read}: {e}"
            else:
                report.files.remove(str(path))
                report.broken[str(path)] = str(e)


def _shifted(wanted: Wanted, by: int, start: int, stop: int) -> bool:
    return wanted(by + start, by + stop)


def _items(source: Any, columns: Columns, tape: Tape | None) -> Iterator[tuple[int, Any]]:
    if not hasattr(source, "select_columns"):
        return enumerate(source)
    begin = 0 if tape is None else tape.row
    batches = _batches(source, columns, tape)
    rows = (dict(zip(b, v, strict=True)) for b in batches for v in zip(*b.values(), strict=True))
    return enumerate(rows, begin)


def _batches(source: Any, columns: Columns, tape: Tape | None) -> Iterator[dict[str, list[Any]]]:
    """Rows of a `datasets` object; with each batch the tape is told where the next one begins."""
    begin = tape.begin if tape is not None else None
    place = begin.rows if begin is not None else 0
    source = _from(source, columns, begin)
    # A `datasets` stream splits itself among DataLoader workers when iterated row by row; in
    # batches it does not, and every worker sees the same rows, as StreamBatches needs.
    batches = source.iter(min(_BATCH, EVERY))
    following = next(batches, None)
    while (batch := following) is not None:
        place += len(next(iter(batch.values())))
        state = source.state_dict() if hasattr(source, "state_dict") else place
        following = next(batches, None)
        if tape is not None and tape.writes:
            tape.reaches(place, None if following is None else [state, _digest(following)])
        yield batch


def _from(source: Any, columns: Columns, mark: Mark | None) -> Any:
    """The wanted columns of a `datasets` object, from a mark on; never the object itself."""
    if source.column_names:  # unknown for some streams; other columns may be costly to decode
        source = source.select_columns(list(choose(source.column_names, columns)))
    else:
        source = source.skip(0)
    if mark is None:
        return source
    state, _ = mark.cookie
    if not hasattr(source, "load_state_dict"):
        return source.skip(state)
    source.load_state_dict(state)
    return source


def _digest(batch: Mapping[str, Any]) -> str:
    return sha256(repr(batch).encode(errors="surrogatepass")).hexdigest()[:16]


def stands(source: Any, columns: Columns, mark: Mark) -> bool:
    """Whether a `datasets` object gives behind a mark what it gave when the mark was made.

    It does not where it has changed, or draws from a buffer, which its state does not hold.
    """
    try:
        batch = next(_from(source, columns, mark).iter(min(_BATCH, EVERY)), None)
    except Exception:  # a state of another object
        return False
    return batch is not None and _digest(batch) == mark.cookie[1]


def resolve(source: Any) -> Any:
    """Turn what the user named into `Files`, or something that can be iterated again and again.

    Raises:
        FileNotFoundError: when a path, folder or glob gives no file.
        ValueError: for what cannot be read again, or is no text source at all.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return load_hub(source)
    if isinstance(source, (str, Path)):
        return find_files([source])
    if isinstance(source, Mapping):
        raise ValueError(f"Several splits came ({', '.join(map(str, source))}); give one of them.")
    if not isinstance(source, Iterable):
        raise ValueError(f"Cannot read text from a {type(source).__name__}; give a path or a list.")
    if isinstance(source, Iterator):
        raise ValueError("An iterator can be read only once; give a list, a path or a data set.")
    if hasattr(source, "iterrows"):  # a DataFrame, of which Python gives the names of its columns
        return source.astype(object).where(source.notna(), None).to_dict("records")
    if isinstance(source, Sequence) and source and _is_path(source[0]):
        return find_files(source)
    return source


def _is_path(item: Any) -> bool:
    if isinstance(item, Path):
        return True
    if not isinstance(item, str) or len(item) > 1000 or "\n" in item or "\0" in item:
        return False
    named = " " not in item and kind_of(Path(item)) is not None
    return named or Path(item).expanduser().exists()


def find_files(
    sources: Sequence[str | Path], suffixes: Sequence[str] = SUFFIXES, what: str = "text"
) -> Files:
    """The files that paths, folders (searched to the bottom) and globs of both name, in order.

    Raises:
        FileNotFoundError: when one of them gives no file.
    """
    paths: list[Path] = []
    ignored: list[str] = []
    if "" in sources:
        raise FileNotFoundError(
            "An empty path came; name a file or folder ('.' is the present one)."
        )
    for source in map(Path, sources):
        path = source.expanduser()
        before = len(paths)
        there = path.exists()
        for one in [path] if there else map(Path, sorted(glob.glob(str(path), recursive=True))):  # noqa: PTH207
            inside = files_in(one) if one.is_dir() else [one]
            paths += [p for p in inside if p == one or kind_of(p, suffixes)]
            ignored += [str(p) for p in inside if p != one and not kind_of(p, suffixes)]
        if len(paths) == before:
            packed = f" (packed: {', '.join(PACKED)})" if what in ("text", "series") else ""
            kinds = f"{', '.join(suffixes)}{packed}"
            found = f"{len(ignored)} files of other kinds" if ignored else "nothing"
            raise FileNotFoundError(f"{path}: found {found} there; {what} is read from {kinds}.")
    return Files(tuple(dict.fromkeys(paths)), tuple(dict.fromkeys(ignored)))


def load_hub(source: str) -> Any:
    """The data set that `hf:name[:config[:split]]` names, as a stream.

    Raises:
        ValueError: when it cannot be loaded.
    """
    import datasets

    name, config, split = [*source.removeprefix("hf:").split(":"), "", ""][:3]
    try:
        return datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
    except Exception as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ValueError(
            f"datasets cannot load {source!r} ({reason}); write hf:name:config:split, or give a "
            "local path."
        ) from e
