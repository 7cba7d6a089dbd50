"""`unlabel index`, `unlabel search` and `unlabel classify`: a joint encoder used on files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from unlabel.candidates import wide_console
from unlabel.checks import check_above_0
from unlabel.data_pipes.sources import find_files
from unlabel.files import replacing
from unlabel.search.index import Index
from unlabel.search.page import write_page
from unlabel.search.reading import suffixes_of
from unlabel.search.space import Space

INDEX = "index"  # folder of a run's index
_NAMED = 10  # broken files that are named


def index(
    model: str,
    data: str,
    *,
    output: str | None = None,
    side: str | None = None,
    column: str | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> None:
    """Embed files of all kinds that a joint encoder knows, to find them by `unlabel search`.

    Run it again to bring the index up to date: what is new or changed is embedded, what is gone
    leaves, and files of other folders stay. An interrupted run goes on where it stopped.

    Args:
        model: output folder of a run with --modality pairs, or its model's folder.
        data: a folder (searched to the bottom), a file or a glob.
        output: folder of the index; default `index` in the run's folder.
        side: whose encoder is to see the files; default told by each file's suffix. Tables are
            series, unless a side of text is named here.
        column: of a table that holds texts.
        batch_size: samples a forward pass.
        device: as for torch; a GPU where there is one.
    """
    check_above_0(batch_size=batch_size)
    space = Space.load(model, device=device, batch_size=batch_size)
    update(space, Path(output) if output else space.home / INDEX, data, side=side, column=column)


def update(
    space: Space, folder: Path, data: str, *, side: str | None = None, column: str | None = None
) -> Index:
    """Bring the index in a folder up to date, and say what was done."""
    paths = _files(space, data, side)
    made = Index.begin(folder, space)
    done = made.update(space, paths, side=side, column=column, progress=True)
    print(f"{folder}: {done.summary()}; {len(made):,} vectors of width {space.width}.")
    _name_broken(done.broken)
    return made


def search(
    model: str,
    *,
    words: str | None = None,
    like: str | None = None,
    data: str | None = None,
    index: str | None = None,
    count: int = 12,
    page: str | None = None,
    among: str | None = None,
    approximate: bool = False,
    device: str | None = None,
) -> None:
    """Find files by words, or by an example of any kind, in the space of a joint encoder.

    `unlabel search RUN "a red circle" --data FOLDER --page found.html`, or
    `unlabel search RUN --like clip.mp4`. The files of --data are embedded first, where they are
    new or changed; without it what was indexed before is searched.

    Args:
        model: output folder of a run with --modality pairs, or its model's folder.
        words: to look for, through the side of text.
        like: a file to look for in place of words.
        data: a folder (searched to the bottom), a file or a glob to index first; see
            `unlabel index` for more ways.
        index: folder of the index; default `index` in the run's folder.
        count: hits at most.
        page: HTML file to write with a picture of every hit; it needs nothing beside itself.
        among: the side to look among: vectors of different sides differ in their level.
        approximate: by a graph of FAISS, made at first use, for millions of vectors.
        device: as for torch; a GPU where there is one.
    """
    space = Space.load(model, device=device)
    space.check_query(words, like)
    folder = Path(index) if index else space.home / INDEX
    opened = Index.open(folder) if data is None else update(space, folder, data)
    hits = space.search(opened, words, like=like, count=count, among=among, approximate=approximate)
    _show(hits, words or f"like {like}")
    if page is not None:
        query = None if like is None else space.example(like)[0]
        searched = sum(among in (None, side) for side in opened.items["side"])
        write_page(page, space, hits, count=searched, words=words, like=query)
        print(f"{page}: a picture of every hit.")


def classify(
    model: str,
    data: str,
    output: str = "labels.csv",
    *,
    classes: list[str],
    template: list[str] | str = "{}",
    side: str | None = None,
    column: str | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> None:
    """Name the class of files without training on any: the one whose name is nearest.

    `unlabel classify RUN clips --classes '[circle, square]' --template 'a {} that moves'`.

    Args:
        model: output folder of a run with --modality pairs, or its model's folder.
        data: a folder (searched to the bottom), a file, a glob, or an index.
        output: table to write, `.csv` or `.parquet`: path, label, its cosine, and its probability
            where the run kept the scale that it learned.
        classes: their names.
        template: sentence with `{}` in the place of the name, or a list of several.
        side: whose encoder is to see the files; default told by each file's suffix.
        column: of a table that holds texts.
        batch_size: samples a forward pass.
        device: as for torch; a GPU where there is one.
    """
    check_above_0(batch_size=batch_size)
    path = Path(output)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{output}: labels are written as .csv or .parquet; choose one.")
    space = Space.load(model, device=device, batch_size=batch_size)
    templates = [template] if isinstance(template, str) else template
    space.class_vectors(classes, templates)  # refused before anything is embedded
    items, vectors, broken = _embedded(space, data, side, column)
    found = pd.concat([items, space.classify(vectors, classes, templates)], axis=1)
    with replacing(path) as partial:
        (found.to_parquet if path.suffix == ".parquet" else found.to_csv)(partial, index=False)
    counts = found["label"].value_counts()
    said = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    print(f"{output}: {len(found):,} classified, {said}.")
    _name_broken(broken)


def _embedded(
    space: Space, data: str, side: str | None, column: str | None
) -> tuple[Any, np.ndarray, dict[str, str]]:
    """Paths (and rows, where files hold several things), vectors, and broken files."""
    if (Path(data) / "index.json").is_file():
        made = Index.open(data)
        made.check(space)
        items, vectors, broken = made.items, made.vectors, {}
    else:
        groups = space.grouped(_files(space, data, side), side)
        parts = [space.embed_files(name, files, column=column) for name, files in groups]
        every = pd.concat([p.items for p in parts], ignore_index=True)
        good = (every["fault"] == "").to_numpy()
        items = every[good].reset_index(drop=True)
        vectors = np.concatenate([p.vectors for p in parts])[good]
        broken = dict(zip(every["path"][~good], every["fault"][~good], strict=True))
    if not len(items):
        _name_broken(broken)
        raise ValueError(f"Nothing to classify in {data}: {len(broken):,} files are broken.")
    lone = len(set(items["path"])) == len(items) and not items["row"].to_numpy().any()
    return items[["path"]] if lone else items[["path", "row"]], vectors, broken


def _files(space: Space, data: str, side: str | None) -> tuple[Path, ...]:
    """Files of a source that the sides know.

    Raises:
        FileNotFoundError: there are none.
    """
    if side is not None and side not in space.sides:
        raise ValueError(f"No side {side!r}; {space.folder} has {', '.join(space.sides)}.")
    kinds = space.sides.values() if side is None else [space.sides[side]]
    return find_files([data], suffixes_of(kinds), "a " + " or ".join(dict.fromkeys(kinds))).paths


def _name_broken(broken: dict[str, str]) -> None:
    for path, why in list(broken.items())[:_NAMED]:
        print(f"  broken: {path}: {why.removeprefix(f'{path}: ')}")
    if len(broken) > _NAMED:
        print(f"  and {len(broken) - _NAMED:,} more")


def _show(hits: pd.DataFrame, asked: str) -> None:
    table = Table(title=asked, title_justify="left")
    for heading in ("rank", "cosine", "side", "file"):
        table.add_column(heading, justify="right" if heading in ("rank", "cosine") else "left")
    for hit in hits.to_dict("records"):
        about = f": {hit['text']}" if hit["text"] else ""
        cells = str(hit["rank"]), f"{hit['cosine']:.3f}", hit["side"], f"{hit['path']}{about}"
        table.add_row(*cells)
    wide_console().print(table)


__all__ = ["classify", "index", "search"]
