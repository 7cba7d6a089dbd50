"""Labelled files for probes: where they are, what they show, and which are held out together."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int64
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.sources import load_hub
from unlabel.data_pipes.video_list import Entry
from unlabel.data_pipes.videos import look_into
from unlabel.files import files_in

logger = logging.getLogger(__name__)

Fold = tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "test"]]
# A value for each file: a list, an array or a column of a table.
Column = Any
Make = Callable[..., "Labelled"]  # `labelled`, or what leaves broken files out before it
FOLDS = 5
MOST_LEFT_OUT = 12  # groups at most that are left out one by one; more make folds
NAMES = {
    "path": ("path", "file", "filename", "file_name", "video", "audio", "clip"),
    "label": ("label", "class", "action", "category"),
    "group": ("group", "subject", "speaker", "person", "scene", "source"),
    "split": ("split", "part", "subset"),
    "fold": ("fold",),
}
ALONE = "No groups were given: clips of one person or scene may lie in both train and test parts."


@dataclass(frozen=True)
class Labelled:
    """Files (or what else a reader takes), each with its class, and the splits to probe by.

    Attributes:
        name: in tables.
        sources: what the reader takes.
        label: class of each.
        folds: rows to fit on and rows to test, for each fold; no group is in both.
        split: the folds in words.
        group: what is held out together, such as the person seen; None where it is not known.
        note: what a reader of the scores must know.
        neighbours: of the nearest-neighbour probe.
    """

    name: str
    sources: tuple[Any, ...]
    label: np.ndarray
    folds: tuple[Fold, ...] = field(repr=False)
    split: str
    group: np.ndarray | None = None
    note: str = ""
    neighbours: int = 5

    def __len__(self) -> int:
        """Number of files."""
        return len(self.sources)

    @property
    def tested(self) -> Int64[np.ndarray, "tested"]:
        """Rows that are tested, in the order of the folds."""
        return np.concatenate([test for _, test in self.folds])


def set_folder(name: str, kind: str, folder: str | Path | None) -> Path:
    """Where a named set lies: in the folder asked for, else in `$UNLABEL_DATA/<kind>`.

    Raises:
        FileNotFoundError: it is not there.
    """
    shared = os.environ.get("UNLABEL_DATA")
    place = (Path(folder) if folder is not None else Path(shared or "") / kind) / name
    if (folder is None and not shared) or not place.is_dir():
        raise FileNotFoundError(
            f"There is no set {name} at {place}; give the folder that has it, or set UNLABEL_DATA "
            f"to one that has it under {kind}/."
        )
    return place


def labelled(
    name: str,
    sources: Sequence[Any],
    label: Column,
    *,
    group: Column | None = None,
    split: Column | None = None,
    fold: Column | None = None,
    seed: int = 0,
    **about: Any,
) -> Labelled:
    """Files with the strictest split that is known of them.

    Their own train and test parts; or their own folds; or one group left out at a time, with more
    than 12 groups five folds of whole groups; or, with a note, five folds. A note tells of groups
    that its own parts or folds do not keep together.

    Args:
        name: in tables.
        sources: what the reader takes.
        label: class of each.
        group: what is to be held out together.
        split: `train` or `test` (`val`, `validation` and `dev` are left out).
        fold: number of each one's fold.
        seed: of folds that are drawn.
        about: `note` and `neighbours` of `Labelled`.

    Raises:
        ValueError: no file, one class, or a split without both parts.
    """
    classes = np.asarray(label, dtype=str)
    if len(classes) < 2 or len(np.unique(classes)) < 2:
        raise ValueError(
            f"{name} has {len(classes)} labelled files of {len(np.unique(classes))} classes; a "
            "probe needs two classes at least."
        )
    groups = None if group is None else np.asarray(group, dtype=str)
    if split is not None:
        folds, words = _given(name, np.char.lower(np.asarray(split, str))), "own train and test"
    elif fold is not None:
        folds, words = _left_out(np.asarray(fold, str)), "own folds"
    elif groups is not None and len(np.unique(groups)) <= MOST_LEFT_OUT:
        folds, words = _left_out(groups), "leave one group out"
    elif groups is not None:
        cut = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        folds, words = tuple(cut.split(classes, classes, groups)), f"{FOLDS} grouped folds"
    else:
        cut = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        folds, words = tuple(cut.split(classes, classes)), f"{FOLDS} folds"
        about["note"] = " ".join(filter(None, (f"{name}: {ALONE}", about.get("note"))))
    if groups is not None and (both := _in_both(groups, folds)):
        said = f"{name}: {len(both)} group(s) ({both[0]}, ...) in both parts of its {words}."
        about["note"] = " ".join(filter(None, (said, about.get("note"))))
    return Labelled(name, tuple(sources), classes, folds, words, groups, **about)


def _in_both(groups: np.ndarray, folds: Sequence[Fold]) -> list[str]:
    shared = [np.intersect1d(groups[train], groups[test]) for train, test in folds]
    return np.unique(np.concatenate(shared)).tolist()


def _given(name: str, split: np.ndarray) -> tuple[Fold, ...]:
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    if not (len(train) and len(test)):
        raise ValueError(
            f"{name} has a split, but of its rows {len(train)} say 'train' and {len(test)} 'test'."
        )
    return ((train, test),)


def _left_out(groups: np.ndarray) -> tuple[Fold, ...]:
    return tuple(LeaveOneGroupOut().split(groups, groups=groups))


def apart(asked: Sequence[str], data: Sequence[Labelled]) -> list[Labelled]:
    """Sets that would have the same name in tables take what they were asked for by.

    Args:
        asked: paths or names.
        data: the set of each.
    """
    often = Counter(one.name for one in data)
    pairs = zip(asked, data, strict=True)
    return [replace(one, name=name) if often[one.name] > 1 else one for name, one in pairs]


def read_labelled(
    source: Any,
    suffixes: Sequence[str],
    *,
    what: Literal["recording", "video"] | None = None,
    seed: int = 0,
) -> Labelled:
    """Labelled files that a folder, a list or `datasets` names.

    Args:
        source: a folder of class folders (or of `train` and `test` with class folders in each); a
            CSV list, or a folder with `labels.csv`, with columns `path`, `label` and, where known,
            `split`, `fold` or `group` (or `subject`, `speaker`, `scene`); `hf:name[:config
            [:split]]`; a `datasets` object, or a dict of its splits.
        suffixes: of the files in class folders.
        what: they are: each is decoded once, and broken ones are left out, counted and named, as
            in training; None leaves them unopened.
        seed: of folds that are drawn.

    Raises:
        FileNotFoundError: no such file or folder, or a list names a file that is not there.
        ValueError: no labelled file in it, no usable one, no column of paths or labels, or a row
            without one.
    """
    make = labelled if what is None else partial(_whole, what=what)
    make = partial(make, seed=seed)
    if isinstance(source, str) and source.startswith("hf:"):
        return _of_datasets(source.removeprefix("hf:"), {"": load_hub(source)}, make)
    if isinstance(source, Mapping):
        return _of_datasets("data set", source, make)
    if not isinstance(source, (str, Path)):
        return _of_datasets("data set", {"": source}, make)
    path = Path(source).expanduser()
    if path.is_dir():
        table = path / "labels.csv"
        return (
            _of_table(table, path.name, make)
            if table.is_file()
            else _of_folders(path, suffixes, make)
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no folder of class folders and no CSV list.")
    return _of_table(path, path.stem, make)


def _whole(
    name: str, sources: Sequence[Any], label: Column, *, what: str, seed: int, **columns: Column
) -> Labelled:
    """`labelled` of the files that can be decoded."""
    entries = [Entry(_name(s, i), s, row={"place": i}) for i, s in enumerate(sources)]
    report = ReadReport()
    good = look_into(entries, report, what=what, kind="sound" if what == "recording" else None)
    places = [item.row["place"] for item in good]
    note = ""
    if report.broken:
        named = "; ".join(f"{f} ({why})" for f, why in list(report.broken.items())[:3])
        lost = len(sources) - len(places)
        note = f"{name}: {lost} of {len(sources)} files are broken and left out: {named}."
        logger.warning(note)
    kept = {key: [column[i] for i in places] for key, column in columns.items()}
    files, classes = ([column[i] for i in places] for column in (sources, label))
    return labelled(name, files, classes, seed=seed, note=note, **kept)


def _name(source: Any, place: int) -> str:
    path = source.get("path") if isinstance(source, Mapping) else source
    return str(path or f"row {place}")


def _of_table(path: Path, name: str, make: Make) -> Labelled:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a class may be called None
    found = {k: next((n for n in names if n in table), None) for k, names in NAMES.items()}
    for wanted in ("path", "label"):
        if found[wanted] is None:
            raise ValueError(
                f"{path} has columns {', '.join(table.columns)}; one of "
                f"{', '.join(NAMES[wanted])} is wanted for the {wanted}."
            )
    for column in filter(None, (found[k] for k in found if k != "split")):
        if len(rows := np.flatnonzero(table[column] == "")):
            raise ValueError(
                f"{path}: {len(rows)} rows have no {column}, the first of them line {rows[0] + 2}; "
                "fill it in, or leave the rows out."
            )
    files = [path.parent / p for p in table[found["path"]]]
    if lost := [p for p in files if not p.exists()]:
        raise FileNotFoundError(f"{path} names {lost[0]}, and {len(lost)} in all are not there.")
    extra = {k: table[c].tolist() for k in ("group", "split", "fold") if (c := found[k])}
    return make(name, files, table[found["label"]].tolist(), **extra)


def _of_folders(path: Path, suffixes: Sequence[str], make: Make) -> Labelled:
    files = [p for p in files_in(path) if p.suffix.lower() in suffixes]
    parts = [p.relative_to(path).parts for p in files]
    if any(len(p) < 2 for p in parts) or not files:
        raise ValueError(
            f"{path} has {len(files)} files, {sum(len(p) < 2 for p in parts)} of them in no class "
            "folder; put each class in a folder of its own, or write labels.csv."
        )
    if {p[0].lower() for p in parts} >= {"train", "test"} and all(len(p) > 2 for p in parts):
        return make(path.name, files, [p[1] for p in parts], split=[p[0] for p in parts])
    return make(path.name, files, [p[0] for p in parts])


def _of_datasets(name: str, splits: Mapping[str, Any], make: Make) -> Labelled:
    """Rows of `datasets` objects, their files left undecoded."""
    import datasets

    kinds = (datasets.Video, datasets.Audio, datasets.Image)
    sources, labels, where = [], [], []
    for split, rows in splits.items():
        features = rows.features or {}
        column = next((k for k, v in features.items() if isinstance(v, kinds)), None)
        target = next((k for k, v in features.items() if isinstance(v, datasets.ClassLabel)), None)
        target = target or next((n for n in NAMES["label"] if n in features), None)
        if column is None or target is None:
            raise ValueError(
                f"{name} has columns {', '.join(features)}; a Video or Audio and a ClassLabel are "
                "wanted."
            )
        kind = features[target]
        for row in rows.cast_column(column, type(features[column])(decode=False)):
            sources.append(row[column])
            value = row[target]
            labels.append(kind.int2str(value) if isinstance(kind, datasets.ClassLabel) else value)
            where.append(split)
    parted = {"split": where} if {"train", "test"} <= set(splits) else {}
    return make(name, sources, labels, **parted)


__all__ = ["Labelled", "apart", "labelled", "read_labelled", "set_folder"]
