"""A corpus every Python machine has: the documentation inside the installed packages.

Source files are parsed, never imported. Each docstring becomes a summary (its first sentence), a
description (the prose before its sections) and further sentences (from notes and parameters).
"""

import functools
import gc
import hashlib
import importlib.metadata
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from unlabel.data_pipes import docstring_sources, prose
from unlabel.data_pipes.docstring_sources import docstrings_of, find_roots, source_files
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.text import TextData

logger = logging.getLogger(__name__)

_HELD_OUT = 5  # one object in so many is held out, of those with a summary and a description


@dataclass(frozen=True)
class Doc:
    """One object's documentation, cleaned.

    Attributes:
        name: package, module and qualified name.
        summary: its first sentence; empty if there is no clean one.
        description: the sentences of prose after it, before any section.
        rest: sentences of its sections.
    """

    name: str
    summary: str
    description: list[str]
    rest: list[str]

    @property
    def sentences(self) -> list[str]:
        """All sentences in order."""
        return [s for s in (self.summary, *self.description, *self.rest) if s]


def docstring_corpus(
    packages: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
) -> TextData:
    """Sentences to train on, in a fixed order, none repeated, none of `docstring_pairs`' objects.

    Args:
        packages: names to take instead of all known ones that are installed (`stdlib` is Python's
            own library).
        limit: take so many sentences, spread evenly over the corpus.
        cache: folder for the cleaned text; None takes the user's cache folder.
        progress: show a bar on the first call, which takes up to a minute.

    Returns:
        Sentences of 5 to 50 words; `report.counts` states packages, files, docstrings, sentences.

    Raises:
        ValueError: a named package is not installed.
    """
    docs, counts = load_docs(packages, cache=cache, progress=progress)
    report = ReadReport(files=sorted({d.name.partition(".")[0] for d in docs}), counts=counts)
    held_out = {_key(s) for d in docs if _is_held_out(d) for s in d.sentences}
    seen: set[str] = set()
    sentences = []
    for doc in docs:
        for sentence in doc.sentences:
            key = _key(sentence)
            report.lines += 1
            problem = "held_out" if key in held_out else "repeated" if key in seen else None
            if problem:
                report.drop(problem, doc.name, [sentence])
            else:
                seen.add(key)
                sentences.append(sentence)
    if limit is not None and limit < len(sentences):
        report.dropped["over_limit"] = len(sentences) - limit
        sentences = [sentences[i * len(sentences) // limit] for i in range(limit)]
    report.kept = counts["sentences"] = len(sentences)
    return TextData({"text": sentences}, report)


def docstring_pairs(
    packages: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
) -> tuple[list[str], list[str]]:
    """Check data without labels: the summary of an object, and the description that belongs to it.

    The objects are held out by a hash of their name, one in five of those with both parts, so
    another package moves none of them. Left out are summaries and descriptions that several
    objects share, and descriptions that contain their summary.

    Args:
        packages: as in `docstring_corpus`.
        limit: take so many pairs, spread evenly.
        cache: as in `docstring_corpus`.
        progress: as in `docstring_corpus`.

    Returns:
        Summaries, and descriptions of one to three sentences, in the same order.
    """
    docs, _ = load_docs(packages, cache=cache, progress=progress)
    pairs = [(d.summary, " ".join(d.description[:3])) for d in docs if _is_held_out(d)]
    shared = Counter(_key(text) for pair in pairs for text in pair)
    pairs = [
        (summary, description)
        for summary, description in pairs
        if shared[_key(summary)] == shared[_key(description)] == 1
        and _key(summary) not in _key(description)
    ]
    if limit is not None and limit < len(pairs):
        pairs = [pairs[i * len(pairs) // limit] for i in range(limit)]
    return [s for s, _ in pairs], [d for _, d in pairs]


def load_docs(
    packages: Sequence[str] | None = None,
    *,
    cache: str | Path | None = None,
    progress: bool = False,
) -> tuple[list[Doc], dict[str, int]]:
    """All cleaned docstrings and their counts, from the cache where it is up to date.

    Raises:
        ValueError: a named package is not installed.
    """
    roots = find_roots(packages)
    path = _cache_path(roots, cache)
    try:
        table = pq.read_table(path)
        docs = [Doc(**row) for row in table.to_pylist()]
        counts = {k.decode(): int(v) for k, v in table.schema.metadata.items()}
        if docs and {"packages", "files", "docstrings"} <= counts.keys():
            return docs, counts
    except FileNotFoundError:
        pass
    except Exception as e:  # whatever is wrong with a cache, it can be built anew
        logger.warning("The cache %s is unreadable (%s) and is built anew.", path, e)
    docs, counts = _build(roots, progress)
    _write(path, docs, counts)
    return docs, counts


def _key(sentence: str) -> str:
    # What differs only in case, spaces or punctuation is the same sentence.
    return re.sub(r"[\W_]+", "", sentence.casefold())


def _is_held_out(doc: Doc) -> bool:
    if not (doc.summary and doc.description):
        return False
    digest = hashlib.blake2b(doc.name.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % _HELD_OUT == 0


def _cache_path(roots: dict[str, Path], cache: str | Path | None) -> Path:
    owners = importlib.metadata.packages_distributions()
    known = {n: importlib.metadata.version(owners[n][0]) for n in roots if n in owners}
    code = b"".join(
        Path(f).read_bytes() for f in (__file__, prose.__file__, docstring_sources.__file__)
    )
    content = repr((sys.version_info[:3], sorted(roots), sorted(known.items()))).encode() + code
    key = hashlib.blake2b(content, digest_size=8).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "unlabel" if cache is None else Path(cache)
    return folder / f"docstrings-{key}.parquet"


def _write(path: Path, docs: list[Doc], counts: dict[str, int]) -> None:
    table = pa.Table.from_pylist([vars(d) for d in docs])
    table = table.replace_schema_metadata({k: str(v) for k, v in counts.items()})
    half = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, half, compression="zstd")
        half.replace(path)
    except OSError as e:
        logger.warning("The corpus is not cached (%s); the next run reads the sources again.", e)


@contextmanager
def _no_collection() -> Iterator[None]:
    # Syntax trees are millions of small objects without cycles: looking for cycles among them
    # takes as long as parsing.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _build(roots: dict[str, Path], progress: bool) -> tuple[list[Doc], dict[str, int]]:
    files = [(name, root, f) for name, root in roots.items() for f in source_files(root)]
    docs: list[Doc] = []
    found = 0
    clean = functools.cache(prose.sentences_of)  # many docstrings are copies
    with _no_collection():
        for name, root, file in tqdm(files, "reading docstrings", disable=not progress):
            module = ".".join((name, *file.relative_to(root).with_suffix("").parts))
            for qualname, text in docstrings_of(file):
                found += 1
                summary, description, rest = clean(text)
                if summary or description or rest:
                    docs.append(Doc(f"{module}.{qualname}", summary, description, rest))
    return docs, {"packages": len(roots), "files": len(files), "docstrings": found}
