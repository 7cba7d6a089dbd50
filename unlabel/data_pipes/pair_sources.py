"""Where pairs are named: lists, data sets, files of one stem in a folder, and shards."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import pandas as pd

from unlabel.data_pipes.cells import cells_of, held_columns
from unlabel.data_pipes.held import Held, Row
from unlabel.data_pipes.media import SOUND_SUFFIXES
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.shards import is_shard, members_of, shards_of
from unlabel.data_pipes.sources import SUFFIXES as LISTS
from unlabel.data_pipes.sources import Files, find_files, resolve, rows_of
from unlabel.data_pipes.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from unlabel.data_pipes.video_list import load_whole
from unlabel.files import files_in

# Which files of a stem are of which kind, the first one that is there.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "text": (".txt",),
    "series": (".csv", ".tsv", ".npy", ".parquet"),
    "frames": (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES),
    "video": VIDEO_SUFFIXES,
    "audio": SOUND_SUFFIXES,
}


@dataclass(frozen=True)
class Wanted:
    """A side of a sample, as it is looked for.

    Attributes:
        name: of the side.
        kind: of its data, one of `SUFFIXES`.
        column: of a list (None: the side's name), or how its files end (None: as `SUFFIXES` says).
        start: column of a list that says, in seconds, where the part that counts begins.
        end: where it ends, likewise.
    """

    name: str
    kind: str
    column: str | None = None
    start: str | None = None
    end: str | None = None


@dataclass(frozen=True)
class Found:
    """A sample as its source names it.

    Attributes:
        place: in the source, for messages.
        values: side -> text, path, `Held`, numbers or what lies in memory; None for nothing.
        problem: why the row cannot be used at all, None where it can.
        label: name of its class.
        base: folder that its paths are relative to.
        parts: side -> start and end of the part that counts, as the list says them.
    """

    place: str
    values: Mapping[str, Any]
    problem: str | None = None
    label: Any = None
    base: Path = Path()
    parts: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


def find_pairs(
    source: Any, sides: Sequence[Wanted], label_column: str | None, report: ReadReport
) -> Iterator[Found]:
    """Samples of any source, whole or not.

    Args:
        source: see `read_pairs`.
        sides: that are looked for.
        label_column: of a list, or how files of classes end (`cls`).
        report: takes files, and what is broken or ignored.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no file of a side, a packed shard, a source of no known kind, or parts of files
            that no list names.
    """
    paths = _paths(source)
    if paths is None:
        yield from _listed(source, sides, label_column, report)
        return
    folders = [p for p in paths if Path(p).expanduser().is_dir()]
    tars = [p for p in paths if p not in folders and is_shard(p)]
    if lists := [p for p in paths if p not in folders and p not in tars]:
        yield from _listed(find_files(lists), sides, label_column, report)
    shards = [shard for p in tars for shard in shards_of(p)]
    for folder in folders.copy():
        if inside := sorted(Path(folder).expanduser().glob("*.tar")):
            folders.remove(folder)
            shards += inside
    if (folders or shards) and (cut := next((s.name for s in sides if s.start or s.end), None)):
        raise ValueError(
            f"start_column and end_column of {cut} name columns of a list, but {source} holds "
            "files of one stem: list them, a row a part."
        )
    met: Counter[str] = Counter()
    for folder in folders:
        report.files.append(str(folder))
        files = _files(Path(folder).expanduser())
        yield from _by_stem(files, sides, label_column, report, met, str(folder))
    for shard in shards:
        members = ((m.name, m) for m in members_of(shard, report))
        yield from _by_stem(members, sides, label_column, report, met, str(shard))
    if folders or shards:
        _check_met(sides, met, report, source)


def _paths(source: Any) -> list[Any] | None:
    """Paths and globs, where the source is some."""
    if isinstance(source, (str, Path)):
        return None if str(source).startswith("hf:") else [source]
    listed = isinstance(source, Sequence) and len(source) > 0
    return list(source) if listed and all(isinstance(p, (str, Path)) for p in source) else None


# -- lists and data sets ------------------------------------------------------------------------


def _listed(
    source: Any, sides: Sequence[Wanted], label_column: str | None, report: ReadReport
) -> Iterator[Found]:
    source = _table(source)
    columns = {s.name: s.column or s.name for s in sides}
    times = {s.name: (s.start, s.end) for s in sides if s.start or s.end}
    named = [*columns.values(), *(c for pair in times.values() for c in pair), label_column]
    wanted: tuple[str, ...] = tuple(dict.fromkeys(c for c in named if c))
    features = getattr(source, "features", None) or {}
    classes = getattr(features.get(label_column), "names", None)

    def made(place: str, fields: Mapping[str, Any], **about: Any) -> Found:
        values = {side: fields.get(c) for side, c in columns.items()}
        label = fields.get(label_column) if label_column else None
        if classes and isinstance(label, int):
            label = classes[label] if label >= 0 else None
        parts = {side: (fields.get(a or ""), fields.get(b or "")) for side, (a, b) in times.items()}
        return Found(place, values, label=label, parts=parts, **about)

    if embedded := _embedded(source, wanted):
        report.files.append("the data set")
        for number, fields in enumerate(_rows(source, embedded, wanted)):
            yield made(f"row {number}", fields)
        return
    source = source if isinstance(source, Files) else resolve(source)
    if isinstance(source, Files):
        held = {path: found for path in source.paths if (found := held_columns(path, wanted))}
        for path, own in held.items():
            for number, fields in enumerate(_in_parquet(path, own, wanted, report)):
                yield made(f"{path}:{number + 1}", fields, base=path.parent)
        source = Files(tuple(p for p in source.paths if p not in held), source.ignored)
        if held and not source.paths:
            report.ignored += source.ignored
            return
    for name, row in rows_of(source, report, wanted, None):
        fields = dict(zip(wanted, row.values, strict=False))
        yield made(f"{name}:{row.line}", fields, problem=row.problem, base=Path(name).parent)


def _table(source: Any) -> Any:
    """A pandas table as records, and a data set by its name as a whole one."""
    if isinstance(source, str) and source.startswith("hf:"):
        return load_whole(source)
    return source.to_dict("records") if isinstance(source, pd.DataFrame) else source


def _embedded(source: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """Columns of a data set that hold media -> the data set that gives them undecoded.

    Raises:
        ValueError: a stream has such columns, or the data set lacks one that is wanted.
    """
    features = getattr(source, "features", None)
    if not hasattr(source, "cast_column") or not features:
        return {}
    import datasets

    if missing := [c for c in wanted if c not in features]:
        raise ValueError(
            f"The data set has no column {missing[0]!r}; it has {', '.join(features)}."
        )
    kinds = (datasets.Video, datasets.Image, datasets.Audio)
    media = [c for c in wanted if isinstance(features[c], kinds)]
    if media and not hasattr(source, "__len__"):
        raise ValueError(
            f"{media[0]} lies in a stream, which cannot be read at random; give the data set "
            "itself (streaming=False)."
        )
    as_bytes = lambda c: source.cast_column(c, type(features[c])(decode=False))  # noqa: E731
    return {c: as_bytes(c).select_columns([c]) for c in media}


def _rows(
    source: Any, embedded: Mapping[str, Any], wanted: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Fields of each row; media of equal bytes are one value, which is then decoded once."""
    plain = [c for c in wanted if c not in embedded]
    others = iter(source.select_columns(plain)) if plain else repeat({})
    seen: dict[tuple[str, bytes], Row] = {}
    for place, fields in zip(range(len(source)), others, strict=False):
        found = dict(fields)
        for column, dataset in embedded.items():
            value = dataset[place][column] or {}
            found[column] = value.get("path")
            if value.get("bytes"):
                key = (column, hashlib.sha256(value["bytes"]).digest())
                found[column] = seen.setdefault(key, Row(dataset, place, column))
        yield found


def _in_parquet(
    path: Path, held: Sequence[str], wanted: Sequence[str], report: ReadReport
) -> Iterator[dict[str, Any]]:
    """Fields of each row; the media among them are read when they are wanted."""
    plain = tuple(c for c in wanted if c not in held)
    if plain:
        others = (row.values for _, row in rows_of(Files((path,)), report, plain, None))
    else:
        others = repeat(())
        report.files.append(str(path))
    cells = zip(*(cells_of(path, c) for c in held), strict=True)
    for values, own in zip(others, cells, strict=False):
        yield dict(zip((*plain, *held), (*values, *own), strict=True))


# -- files of one stem --------------------------------------------------------------------------


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in files_in(folder):
        yield str(path.relative_to(folder)), path


def _by_stem(
    files: Iterable[tuple[str, Any]],
    sides: Sequence[Wanted],
    label_column: str | None,
    report: ReadReport,
    met: Counter[str],
    base: str,
) -> Iterator[Found]:
    """Files that differ in their ending alone are the sides of one sample."""
    said = [f".{c.lstrip('.').lower()}" for c in (*(s.column for s in sides), label_column) if c]
    stems: dict[str, dict[str, Any]] = {}
    for name, value in files:
        stem, ending = _split(name, said, isinstance(value, Held))
        stems.setdefault(stem, {}).setdefault(ending, value)
    for stem, endings in stems.items():
        values = {s.name: _side(s, endings) for s in sides}
        met.update(s for s, v in values.items() if v is not None)
        met.update(f"*{ending}" for ending in endings)
        if all(v is None for v in values.values()):
            report.ignored += [f"{base}/{stem}{ending}" for ending in endings]
            continue
        told = endings.get(f".{label_column.lstrip('.').lower()}") if label_column else None
        texts = {s.name: _text(values[s.name]) for s in sides if s.kind == "text"}
        yield Found(f"{base}/{stem}", {**values, **texts}, label=_text(told))


def _split(name: str, said: Sequence[str], in_shard: bool) -> tuple[str, str]:
    """Stem and ending: from the last dot of a file, from the first one of a shard's member."""
    folder, slash, own = name.rpartition("/")
    lower = own.lower()
    known = next((s for s in said if lower.endswith(s) and len(own) > len(s)), None)
    if in_shard:
        cut = own.find(".", 1)
    else:
        cut = own.rfind(".", 1) if known is None else len(own) - len(known)
    cut = len(own) if cut < 0 else cut
    return folder + slash + own[:cut], lower[cut:]


def _side(side: Wanted, endings: Mapping[str, Any]) -> Any:
    """The file of a side among those of a stem."""
    if side.column is not None:
        return endings.get(f".{side.column.lstrip('.').lower()}")
    fits = (v for s in SUFFIXES[side.kind] for e, v in endings.items() if e.endswith(s))
    return next(fits, None)


def _text(file: Any) -> str | None:
    """What a file of text says; bytes that are no UTF-8 become lone surrogates."""
    if file is None:
        return None
    try:
        content = file.load()["bytes"] if isinstance(file, Held) else file.read_bytes()
    except (OSError, ValueError):
        return None
    return content.decode("utf-8-sig", errors="surrogateescape")


def _check_met(
    sides: Sequence[Wanted], met: Mapping[str, int], report: ReadReport, source: Any
) -> None:
    """Refuse a source without a single file of some side."""
    for side in sides:
        if met.get(side.name):
            continue
        ends = SUFFIXES[side.kind] if side.column is None else (side.column,)
        there = ", ".join(sorted({k[1:] or "no ending" for k in met if k[0] == "*"})[:12])
        lists = [n for n in report.ignored if n.lower().endswith(LISTS)]
        raise ValueError(
            f"No file of the side {side.name!r} in {source}: files of one stem are a sample, and "
            f"of {side.kind} it would end in {', '.join(ends)}; there are {there or 'no files'}."
            + (f" {lists[0]} may be a list: give it as the data itself." if lists else "")
            + (" The sound of a video itself is sound_of." if side.kind == "audio" else "")
        )


__all__ = ["SUFFIXES", "Found", "Wanted", "find_pairs"]
