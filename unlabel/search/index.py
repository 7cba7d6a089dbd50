"""An index: a folder with a vector for each thing that files hold, and the files it came from."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32
from tqdm import tqdm

from unlabel.files import identity, write_json
from unlabel.search.nearest import Found, Graph, exact
from unlabel.search.reading import Embedded
from unlabel.vector_files import save_vectors, vector_table

_ABOUT, _WHOLE, _PARTS = "index.json", "vectors.parquet", "part-*.parquet"
_KEY = ["path", "side"]
CHUNK = 256  # files embedded between two writes: what an interruption may cost


@dataclass
class Update:
    """What an update of an index did, in files.

    Attributes:
        new: embedded for the first time.
        changed: embedded again.
        kept: as they were.
        gone: no longer there, and out of the index.
        broken: file -> why it has no vector.
    """

    new: int = 0
    changed: int = 0
    kept: int = 0
    gone: int = 0
    broken: dict[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """One line."""
        parts = [f"{self.new:,} new", f"{self.changed:,} changed", f"{self.kept:,} unchanged"]
        parts += [f"{self.gone:,} gone"] if self.gone else []
        parts += [f"{len(self.broken):,} of all broken"] if self.broken else []
        return ", ".join(parts)


class Index:
    """Vectors of files in the space of one model; `open` reads a folder, `begin` makes one.

    Attributes:
        folder: where it lies.
        about: the `model` that embedded it, a hash of its `weights`, and `width`.
        items: what the vectors are of, a row each: `path`, `side`, and as for `Embedded`.
        vectors: of length 1, `(items, width)`.
        broken: rows of files without a vector, with their `fault`.
    """

    items: pd.DataFrame
    broken: pd.DataFrame
    vectors: Float32[np.ndarray, "items width"]

    def __init__(self, folder: str | Path, about: Mapping[str, Any]):
        self.folder, self.about = Path(folder), dict(about)
        self._read()

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """An index that is there.

        Raises:
            ValueError: none is.
        """
        file = Path(folder) / _ABOUT
        if not file.is_file():
            raise ValueError(f"{folder} is no index; make one with `unlabel index RUN DATA`.")
        return cls(folder, json.loads(file.read_text()))

    @classmethod
    def begin(cls, folder: str | Path, space: Any) -> "Index":
        """The index of a folder, made where there is none.

        Raises:
            ValueError: another model made it, or other files lie there.
        """
        folder = Path(folder)
        if (folder / _ABOUT).is_file():
            index = cls.open(folder)
            index.check(space)
            return index
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds other files; give a new folder for the index.")
        about = {"model": str(space.folder.resolve()), "weights": space.weights}
        write_json(folder / _ABOUT, {**about, "width": space.width})
        return cls.open(folder)

    def check(self, space: Any) -> None:
        """Refuse a model that did not make it.

        Raises:
            ValueError: the weights differ.
        """
        if self.about["weights"] != space.weights:
            raise ValueError(
                f"{self.folder} was made by other weights (those of {self.about['model']} as they "
                f"were) than {space.folder} has now; make a new index with `unlabel index`."
            )

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self.items)

    def update(
        self,
        space: Any,
        paths: Sequence[Path],
        *,
        side: str | None = None,
        column: str | None = None,
        chunk: int = CHUNK,
        progress: bool = False,
    ) -> Update:
        """Embed what is new or changed, and forget what is gone; files not named here stay.

        Every `chunk` files are written down, so that an interrupted update goes on from there. What
        is broken is not tried again, unless it is changed or a text of another column.

        Args:
            space: that of the model which made the index.
            paths: of the files.
            side: whose encoder is to see them; None goes by their suffixes.
            column: of tables that hold texts; None leaves those that are embedded as they are.
            chunk: files embedded between two writes.
            progress: show a bar.
        """
        known = pd.concat([self.items, self.broken]).drop_duplicates(_KEY).set_index(_KEY)
        states = zip(known["size"], known["changed"], known["column"], strict=True)
        known = dict(zip(known.index, states, strict=True))
        found = list(space.grouped(paths, side))
        done, todo = Update(), []
        for name, files in found:
            said = column if space.sides[name] == "text" else None
            states = {f: (*identity(Path(f)), said or "") for f in files}
            # A column that is not named is the one of before.
            parts = slice(2 if said is None else 3)
            changed = [f for f in files if known.get((f, name), ())[parts] != states[f][parts]]
            again = sum((f, name) in known for f in changed)
            done.changed += again
            done.new += len(changed) - again
            done.kept += len(files) - len(changed)
            parts = (changed[i : i + chunk] for i in range(0, len(changed), chunk))
            todo += [(name, {f: states[f] for f in part}) for part in parts]
        count = sum(len(states) for _, states in todo)
        with tqdm(total=count, unit=" files", desc="index", disable=not progress) as bar:
            for name, states in todo:
                self._write(name, space.embed_files(name, list(states), column=column), states)
                bar.update(len(states))
        self._read()
        known = {*self.items["path"], *self.broken["path"]}
        gone = [path for path in known if not Path(path).exists()]
        done.gone = len(gone)
        if todo or gone:
            self._merge(gone)
        named = [f for _, files in found for f in files]
        own = self.broken[self.broken["path"].isin(named)]
        done.broken = dict(zip(own["path"], own["fault"], strict=True))
        return done

    def nearest(
        self,
        queries: Float32[np.ndarray, "queries width"],
        count: int,
        *,
        among: str | None = None,
        approximate: bool = False,
    ) -> Found:
        """Rows of `items` nearest to unit vectors, `(queries, count)`, and their cosines.

        Args:
            queries: of length 1.
            count: rows for each at most.
            among: the side to look among; None for all.
            approximate: by a graph that FAISS makes at first use and keeps.

        Raises:
            ValueError: nothing to find.
            ImportError: FAISS is missing.
        """
        rows = np.arange(len(self))
        if among is not None:
            rows = np.flatnonzero(self.items["side"] == among)
        if not len(rows):
            has = ", ".join(sorted(set(self.items["side"]))) or "nothing"
            raise ValueError(f"{self.folder} holds no {among or 'file'} to find, but {has}.")
        count = min(count, len(rows))
        if approximate:
            return Graph(self.vectors, self._graph()).nearest(queries, count, rows)
        places, cosines = exact(queries, self.vectors[rows], count)
        return rows[places], cosines

    # -- files ------------------------------------------------------------------------------------

    def _graph(self) -> Path:
        """Where the graph of these vectors is kept; those of earlier ones are removed."""
        file = self.folder / f"graph-{zlib.crc32(repr(self._states).encode()):08x}.faiss"
        for old in self.folder.glob("graph-*.faiss"):
            if old != file:
                old.unlink()
        return file

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(_PARTS))

    def _write(self, side: str, made: Embedded, states: Mapping[str, tuple[int, int, str]]) -> None:
        items = made.items.assign(side=side)
        told = zip(*(states[p] for p in items["path"]), strict=True)
        items["size"], items["changed"], items["column"] = told
        last = int(self._parts()[-1].stem.split("-")[1]) if self._parts() else 0
        self._save(self.folder / f"part-{last + 1:06d}.parquet", items, made.vectors)

    def _save(self, file: Path, items: pd.DataFrame, vectors: np.ndarray) -> None:
        beside = pa.Table.from_pandas(items, preserve_index=False)
        save_vectors(file, vector_table(beside, vectors))

    def _merge(self, gone: Sequence[str]) -> None:
        """One file of all parts, without what is gone."""
        stays = ~self.items["path"].isin(gone).to_numpy()
        broken = self.broken[~self.broken["path"].isin(gone)]
        parts = self._parts()
        whole: Any = pd.concat([self.items[stays], broken])
        blank = np.zeros((len(broken), self.vectors.shape[1]), np.float32)
        vectors = np.concatenate([self.vectors[stays], blank])
        self._save(self.folder / _WHOLE, whole, vectors)
        for part in parts:
            part.unlink()
        self._read()

    def _read(self) -> None:
        """Take all parts together; of a file that several tell of, the last one counts."""
        whole = self.folder / _WHOLE
        files = [*([whole] if whole.is_file() else []), *self._parts()]
        self._states = [(f.name, *identity(f)) for f in files]
        tables = [pq.read_table(f) for f in files]
        width = int(self.about["width"])
        vectors = [
            t["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width) for t in tables
        ]
        frames = [
            t.drop_columns("embedding").to_pandas().assign(part=i) for i, t in enumerate(tables)
        ]
        every = pd.concat([_nothing(), *frames], ignore_index=True) if frames else _nothing()
        every["column"] = every["column"].fillna("")  # an index of before columns were noted
        found = np.concatenate(vectors) if vectors else np.zeros((0, width), np.float32)
        counts = every["part"] == every.groupby(_KEY)["part"].transform("max")
        good = (counts & (every["fault"] == "")).to_numpy()
        bad = (counts & (every["fault"] != "")).to_numpy()
        every = every.drop(columns="part")
        self.items, self.vectors = every[good].reset_index(drop=True), found[good]
        self.broken = every[bad].reset_index(drop=True)


def _nothing() -> pd.DataFrame:
    kinds = {"path": str, "row": int, "text": str, "frames": int, "rate": float, "fault": str}
    kinds |= {"side": str, "size": int, "changed": int, "column": str, "part": int}
    return pd.DataFrame({k: pd.Series(dtype=v) for k, v in kinds.items()})


__all__ = ["CHUNK", "Index", "Update"]
