"""Which videos there are: folders of classes, lists, globs, data sets and things in memory."""

import glob
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from unlabel.data_pipes.cells import cells_of, held_columns
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.formats import UNREADABLE, delimiter_of, kind_of, open_text
from unlabel.data_pipes.held import Held, Row
from unlabel.data_pipes.labels import said_in
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.shards import is_shard, members_of, shards_of
from unlabel.data_pipes.sources import find_files
from unlabel.data_pipes.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_OWN = ("path", "label", "start", "end", "view")


@dataclass
class Entry:
    """One video of a source, not yet looked into.

    Attributes:
        name: for messages and tables.
        source: what `read_clip` takes, or `Held`.
        label: name of its class, None for none.
        start: seconds at which the part that counts begins.
        end: seconds at which it ends, None for the end.
        view: which camera, "" for a lone one.
        row: further columns of the list.
    """

    name: str
    source: Any
    label: str | None = None
    start: float = 0.0
    end: float | None = None
    view: str = ""
    row: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        # Bytes of a file's name that are no UTF-8 can neither be printed nor written to a table.
        self.name = self.name.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a list; None takes the plain name where the list has it."""

    path: str | None = None
    label: str | None = None
    start: str | None = None
    end: str | None = None
    view: str | None = None

    def find(self, given: Sequence[str], name: str) -> dict[str, str]:
        """Our word -> the list's column.

        Raises:
            ValueError: a named column is not there, or there is none of paths.
        """
        found = {}
        for word in _OWN:
            column = getattr(self, word)
            if column is not None and column not in given:
                has = ", ".join(map(str, given))
                raise ValueError(f"{name} has no column {column!r}; it has {has}.")
            if column is not None or word in given:
                found[word] = column or word
        return found


def list_media(
    source: Any, suffixes: Sequence[str], columns: Columns, report: ReadReport
) -> list[Entry]:
    """The entries of any source; files of other kinds are told to the report.

    Args:
        source: see `read_videos`.
        suffixes: of the files wanted.
        columns: of lists.
        report: takes the ignored files.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a source of no known kind, or a list without paths.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        source = load_whole(source)
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if kind_of(path, LISTS):
            lists = [path] if path.exists() else sorted(map(Path, glob.glob(str(path))))  # noqa: PTH207
            return [e for one in lists or [path] for e in _of_list(one, columns)]
        return _of_files(source, suffixes, report)
    if isinstance(source, pd.DataFrame):
        return list(_of_frame(source, Path(), "the table", columns))
    if rows := _rows_of(source):
        return list(_of_frame(pd.DataFrame(rows), Path(), "the list", columns))
    if hasattr(source, "cast_column"):
        return _of_dataset(source, columns)
    if hasattr(source, "__array__") or isinstance(source, (bytes, Mapping)):
        source = list(source) if getattr(source, "ndim", 0) == 5 else [source]
    if not isinstance(source, Sequence) or not len(source):
        raise ValueError(
            f"Cannot list videos of {type(source).__name__}; give a folder, a glob, a .csv, .jsonl "
            "or .parquet list, a list of paths, a table, a datasets.Dataset or uint8 frames."
        )
    entries: list[Entry] = []
    for place, item in enumerate(source):
        if isinstance(item, (str, Path)):
            entries += _of_files(item, suffixes, report)
        elif isinstance(item, Entry):
            entries.append(item)
        else:
            named = item.get("path") if isinstance(item, Mapping) else None
            entries.append(Entry(str(named or f"item {place}"), item))
    return entries


def _rows_of(source: Any) -> list[Mapping[str, Any]]:
    """Rows of a table that came as dicts; a dict of `bytes` or an `array` is a file by itself."""
    items = [source] if isinstance(source, Mapping) else source
    if not isinstance(items, Sequence) or not all(isinstance(i, Mapping) for i in items):
        return []
    return [] if any("bytes" in i or "array" in i for i in items) else list(items)


def by_pattern(entries: Sequence[Entry], pattern: str | None) -> None:
    """What file names say: named groups become columns, and the group `label` the class.

    Args:
        entries: changed in place.
        pattern: regular expression found in the file's name, such as
            `"v_(?P<label>[A-Za-z]+)_g(?P<group>[0-9]+)"`; None says nothing.

    Raises:
        ValueError: no regular expression, one without named groups, or a name that does not fit.
    """
    if pattern is None:
        return
    try:
        names = re.compile(pattern)
    except re.error as e:
        raise ValueError(f"pattern={pattern!r} is no regular expression ({e}).") from e
    if not names.groupindex:
        raise ValueError(f"pattern={pattern!r} has no named group, such as (?P<label>[a-z]+).")
    for entry in entries:
        if not (found := names.search(Path(entry.name).name)):
            raise ValueError(f"{entry.name}: its name does not fit pattern={pattern!r}.")
        said = {k: v for k, v in found.groupdict().items() if v is not None}
        entry.label = said.pop("label", entry.label)
        entry.row |= said


def _of_files(source: str | Path, suffixes: Sequence[str], report: ReadReport) -> list[Entry]:
    path = Path(source).expanduser()
    shards = shards_of(path) if is_shard(path) else sorted(path.glob("*.tar") if source else ())
    if shards:
        return [e for shard in shards for e in _of_shard(shard, suffixes, report)]
    if path.is_file():
        return [Entry(str(path), path)]
    pictures_wanted = set(IMAGE_SUFFIXES) <= set(suffixes)
    sound_wanted = set(suffixes).isdisjoint(VIDEO_SUFFIXES)
    what = "media" if pictures_wanted else "sound" if sound_wanted else "video"
    try:
        files = find_files([source], suffixes, what)
    except FileNotFoundError as e:
        if what != "video":
            raise
        try:
            return _of_picture_folders(path)
        except FileNotFoundError:
            raise e from None
    report.ignored += files.ignored
    return _labelled(files.paths, path)


def _of_shard(shard: Path, suffixes: Sequence[str], report: ReadReport) -> list[Entry]:
    """The media in a tar, one a stem (up to its first dot), of which a `.cls` names the class."""
    entries: dict[str, Entry] = {}
    labels: dict[str, str] = {}
    for member in members_of(shard, report):
        folder, slash, name = member.name.rpartition("/")
        stem = folder + slash + name.partition(".")[0]
        if name.lower().endswith(tuple(suffixes)):
            if entries.setdefault(stem, Entry(str(member), member)).source is not member:
                report.note("same_stem", str(member))
        elif name.lower().endswith(".cls"):
            labels[stem] = member.load()["bytes"].decode("utf-8", "replace").strip()
        else:
            report.ignored.append(str(member))
    return [replace(entry, label=labels.get(stem)) for stem, entry in entries.items()]


def _of_picture_folders(path: Path) -> list[Entry]:
    """Each folder of pictures is one video."""
    pictures = find_files([path], IMAGE_SUFFIXES, "video")
    folders = list(dict.fromkeys(p.parent for p in pictures.paths))
    return [Entry(str(path), path)] if folders == [path] else _labelled(folders, path)


def _labelled(paths: Sequence[Path], base: Path) -> list[Entry]:
    """Classes are the folders right under the source, where all files lie in such folders."""
    parts = [p.relative_to(base).parts if p.is_relative_to(base) else (p.name,) for p in paths]
    labelled = base.is_dir() and all(len(p) > 1 for p in parts)
    return [
        Entry(str(path), path, part[0] if labelled else None)
        for path, part in zip(paths, parts, strict=True)
    ]


def _of_list(path: Path, columns: Columns) -> Iterator[Entry]:
    """The rows of a list, whose media may lie in the list itself."""
    held = held_columns(path, None if columns.path is None else [columns.path])
    if not held:
        return _of_frame(_read_list(path), path.parent, str(path), columns)
    others = [name for name in pq.read_schema(path).names if name not in held_columns(path)]
    if columns.path is None and "path" in others:
        return _of_frame(pd.read_parquet(path, columns=others), path.parent, str(path), columns)
    frame = pd.read_parquet(path, columns=others)
    frame[held[0]] = pd.Series(list(cells_of(path, held[0])), dtype=object)
    return _of_frame(frame, path.parent, str(path), replace(columns, path=held[0]))


def _read_list(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such list.")
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        with open_text(path, None, errors="strict") as file:
            if kind_of(path, LISTS) in (".jsonl", ".ndjson"):
                return pd.DataFrame([json.loads(line) for line in file if line.strip()])
            first = file.readline()
            separator = "\t" if kind_of(path, LISTS) == ".tsv" else delimiter_of(first)
            file.seek(0)
            # Names such as 007 stay text; start and end are numbers below.
            about: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # more fields than names
                return pd.read_csv(file, sep=separator, **about)
    except (*UNREADABLE, ValueError, pd.errors.ParserWarning) as e:
        raise ValueError(f"{path} cannot be read as a list: {str(e).strip()}.") from e


def _of_frame(frame: pd.DataFrame, base: Path, name: str, columns: Columns) -> Iterator[Entry]:
    found = columns.find(list(frame.columns), name)
    if "path" not in found:
        has = ", ".join(map(str, frame.columns))
        raise ValueError(f"{name} has no column 'path' (it has {has}); name it by path_column=.")
    others = [c for c in frame.columns if c not in found.values()]
    for number, record in enumerate(frame.to_dict("records"), start=2):
        value = record[found["path"]]
        path = value if isinstance(value, Held) else base / str(value)
        if said_in(value) is None:  # else the folder itself
            path = DecodeError(f"{name}, line {number}", "it names no file")
        take = lambda word: record.get(found.get(word, ""), "")  # noqa: B023, E731
        yield Entry(
            name=path.path if isinstance(path, DecodeError) else str(path),
            source=path,
            label=said_in(take("label")),
            start=_seconds(take("start"), name, number) or 0.0,
            end=_seconds(take("end"), name, number),
            view=said_in(take("view")) or "",
            row={str(c): record[c] for c in others},
        )


def _seconds(value: Any, name: str, line: int) -> float | None:
    text = said_in(value)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ValueError(f"{name}, line {line}: {text!r} is no number of seconds.") from None


def _of_dataset(dataset: Any, columns: Columns) -> list[Entry]:
    import datasets

    features = dataset.features
    kinds = (datasets.Video, datasets.Image, datasets.Audio)
    media = [n for n, f in features.items() if isinstance(f, kinds)]
    column = columns.path or (media[0] if media else "path" if "path" in features else None)
    if column is None or column not in features:
        has = ", ".join(features)
        raise ValueError(f"The data set has no column of videos (it has {has}); name path_column=.")
    if column in media:
        dataset = dataset.cast_column(column, type(features[column])(decode=False))
    if columns.view is not None:
        raise ValueError("Views are told apart in a table; give a list or DataFrame of the files.")
    told = columns.find(list(features), "The data set")
    times = {w: list(dataset[told[w]]) for w in ("start", "end") if w in told}
    label = told.get("label")
    names = getattr(features.get(label), "names", None) if label else None
    values = list(dataset[label]) if label else [None] * len(dataset)
    if names:
        values = [names[v] if v is not None and v >= 0 else None for v in values]
    part = lambda word, i: _seconds(times[word][i], "The data set", i) if word in times else None  # noqa: E731
    return [
        Entry(
            f"row {i}", Row(dataset, i, column), said_in(v), part("start", i) or 0.0, part("end", i)
        )
        for i, v in enumerate(values)
    ]


def load_whole(name: str) -> Any:
    """The data set that `hf:name[:config[:split]]` names, whole: a stream has no random access.

    Raises:
        ValueError: when it cannot be loaded.
    """
    import datasets

    path, config, split = [*name.removeprefix("hf:").split(":"), "", ""][:3]
    try:
        return datasets.load_dataset(path, config or None, split=split or "train")
    except Exception as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ValueError(
            f"datasets cannot load {name!r} ({reason}); write hf:name:config:split, or give a "
            "local folder."
        ) from e


__all__ = ["Columns", "Entry", "by_pattern", "list_media", "load_whole"]
