"""The sets of the STS benchmark: what each one is, and reading it from a file or the Hub."""

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

HEADER = ("subset", "score", "sentence1", "sentence2")


@dataclass(frozen=True)
class STSSet:
    """Where a set comes from.

    Attributes:
        files: local files without their ending, read one after the other.
        pairs: rows of the published set; another count is named in the result's note.
        has_subsets: True where averages over its subsets are a published setting.
        hub: data set and split on the Hugging Face Hub, None where the Hub's copy is another set.
    """

    files: tuple[str, ...]
    pairs: int
    has_subsets: bool = False
    hub: tuple[str, str] | None = None


SETS = {
    "sts12": STSSet(("sts12",), 3108, True, ("mteb/sts12-sts", "test")),
    "sts13": STSSet(("sts13",), 1500, True, ("mteb/sts13-sts", "test")),
    "sts14": STSSet(("sts14",), 3750, True, ("mteb/sts14-sts", "test")),
    "sts15": STSSet(("sts15",), 3000, True, ("mteb/sts15-sts", "test")),
    "sts16": STSSet(("sts16",), 1186, True, ("mteb/sts16-sts", "test")),
    "stsb_test": STSSet(("stsb_test",), 1379, False, ("mteb/stsbenchmark-sts", "test")),
    "stsb_dev": STSSet(("stsb_dev",), 1500, False, ("mteb/stsbenchmark-sts", "validation")),
    # The Hub's mteb/sickr-sts has no splits: it is the 9,927 pairs, not the 4,927 of the test.
    "sickr_test": STSSet(("sickr_test",), 4927),
    "sickr_all": STSSet(
        ("sickr_train", "sickr_dev", "sickr_test"), 9927, False, ("mteb/sickr-sts", "test")
    ),
}
SEVEN = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb_test", "sickr_test")


@dataclass(frozen=True)
class STSPairs:
    """The rows of a set.

    Attributes:
        subset: name of the subset each pair belongs to.
        score: how alike people found the two sentences.
        first: one sentence of each pair.
        second: the other one.
    """

    subset: list[str]
    score: Float[np.ndarray, "pairs"]
    first: list[str]
    second: list[str]


def _row(line: bytes, place: str) -> tuple[str, float, str, str]:
    try:
        cells = line.decode("utf-8").split("\t")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8 ({error.reason}); convert the file.") from None
    if len(cells) != len(HEADER):
        raise ValueError(
            f"{place}: {len(cells)} tab-separated cells instead of 4 ({', '.join(HEADER)}); "
            "cells are split on tabs only, quotes mean nothing."
        )
    subset, score, first, second = cells
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{place}: the score {score!r} is not a number.")
    if not first.strip() or not second.strip():
        raise ValueError(f"{place}: one of the two sentences is empty; remove the row.")
    return subset, value, first, second


def read_sts_file(path: str | Path) -> list[tuple[str, float, str, str]]:
    """Rows `(subset, score, sentence1, sentence2)` of a `.tsv` or `.tsv.gz`.

    Cells are split on tabs only: the published files hold lone quotes that are no quoting.

    Raises:
        ValueError: a row or the file is broken; the message names `file:line`.
    """
    path = Path(path)
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: broken gzip file ({error}); fetch it again.") from None
    lines = [line.rstrip(b"\r") for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    header = tuple(lines[0].decode("utf-8", "replace").split("\t"))
    if header != HEADER:
        raise ValueError(
            f"{path}:1: the header is {header}, expected the tab-separated columns {HEADER}."
        )
    while lines and not lines[-1]:  # the newline at the end of the file
        lines.pop()
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines[1:], 2)]
    if not rows:
        raise ValueError(f"{path}: no pairs after the header.")
    return rows


def _find(folder: Path, stem: str) -> Path | None:
    return next((p for e in (".tsv.gz", ".tsv") if (p := folder / f"{stem}{e}").is_file()), None)


def _read_hub(name: str) -> list[tuple[str, float, str, str]]:
    source = SETS[name].hub
    if source is None:
        raise ValueError(
            f"{name!r} is not on the Hub as published (its copy there is 'sickr_all', another "
            "set): pass folder=, or leave it out of sets=."
        )
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(source[0], split=source[1])
    except Exception as error:  # offline, moved or gated: all end in the same advice
        raise ValueError(
            f"Could not load {source[0]!r} from the Hub ({type(error).__name__}: {error}). "
            "Without a network pass folder= with the .tsv[.gz] files, or set UNLABEL_DATA to a "
            "folder that has them under sts/."
        ) from error
    return [("", float(r["score"]), r["sentence1"], r["sentence2"]) for r in rows]


def sts_folder(folder: str | Path | None) -> Path | None:
    """The folder asked for, else `$UNLABEL_DATA/sts` where it exists, else None: the Hub.

    Raises:
        FileNotFoundError: a folder was named and is not there.
    """
    if folder is not None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is no folder; it should hold sts12.tsv[.gz] etc.")
        return Path(folder)
    shared = os.environ.get("UNLABEL_DATA")
    return Path(shared) / "sts" if shared and (Path(shared) / "sts").is_dir() else None


def load_sts(name: str, folder: str | Path | None = None) -> STSPairs:
    """One set: a name of `SETS`, or of your own `name.tsv[.gz]` in the folder.

    Args:
        name: of the set.
        folder: where the files are, see `sts_folder`; None and no shared folder: the Hub.

    Raises:
        ValueError: no such set or file, or a broken row.
    """
    place = sts_folder(folder)
    if place is None and name in SETS:
        rows = _read_hub(name)
    else:
        stems = SETS[name].files if name in SETS else (name,)
        paths = [_find(place, stem) if place else None for stem in stems]
        if None in paths:
            there = sorted(p.name for p in place.glob("*.tsv*")) if place else []
            raise ValueError(
                f"No set {name!r}: expected one of {', '.join(SETS)}, or a file {name}.tsv[.gz] "
                f"in {place or 'folder='}, which has {', '.join(there) or 'none'}."
            )
        rows = [row for path in paths if path for row in read_sts_file(path)]
    subset, score, first, second = (list(column) for column in zip(*rows, strict=True))
    return STSPairs(subset, np.asarray(score, dtype=np.float64), first, second)
