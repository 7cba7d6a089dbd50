"""Vectors of a source as a folder of files: made by many processes, continued where they stopped.

The rows of the source (texts, files, series) are cut into parts by their place. Each part is a
Parquet file that is there whole or not at all, so what is there is what is done: a process that
was killed, or all of them, are started again and make what is missing. The folder is a data set
as pyarrow, pandas and `datasets` read them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from unlabel.files import flush, lock, replacing, write_json
from unlabel.vector_files import check_suffix, write_npy

_MANIFEST, _END = "_manifest.json", "_end.json"  # readers of data sets pass over such names
_ROWS = {"text": 16_384, "series": 4_096}  # of the source in a part; of files there are 256


@dataclass
class Parts:
    """Which parts of the vectors of a source a process makes, and which are made.

    Attributes:
        folder: that they lie in.
        number: of this process, from 0.
        of: how many processes there are.
        size: rows of the source in a part; None goes by the kind of data.
        model: folder or name of what makes them; None takes that of what is embedded with.
        options: how else they are made.
    """

    folder: Path
    number: int = 0
    of: int = 1
    size: int | None = None
    model: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    _wanted: dict[int, bool] = field(default_factory=dict)

    @classmethod
    def told(
        cls, output: str, part: str | None, size: int | None, model: Any = None, **options: Any
    ) -> "Parts | None":
        """The parts of an output that is a folder, None for a file that one process writes.

        Args:
            output: a folder, or a file of vectors.
            part: `i/n`, the i-th process of n from 0 on; None asks torchrun's environment.
            size: rows of the source in a part.
            model: see `Parts`.
            options: likewise.

        Raises:
            ValueError: no such part, or several processes that write one file.
        """
        if part is None:
            number, of = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1)))
        else:
            one, slash, all_of = part.partition("/")
            if not (slash and one.isdecimal() and all_of.isdecimal() and int(one) < int(all_of)):
                raise ValueError(f"part is i/n, such as 0/4 to 3/4, but {part!r} came.")
            number, of = int(one), int(all_of)
        if Path(output).suffix:
            if part is not None or of > 1 or size is not None:
                raise ValueError(
                    f"Parts are files in a folder, but --output {output} is one file; give a name "
                    "without ending, and --join for one file of all of them in the end."
                )
            return None
        if size is not None and size < 1:
            raise ValueError(f"A part has 1 row of the source or more, but {size} came.")
        return cls(Path(output), number, of, size, model, options)

    def begin(self, kind: str, model: Any, source: Any, **options: Any) -> int:
        """Write down what the vectors are of, or see that it is what was written down before.

        Returns:
            Rows of the source in a part.

        Raises:
            ValueError: the folder holds vectors of something else.
        """
        self.size = self.size or _ROWS.get(kind, 256)
        model, options = self.model or model, {**self.options, **options}
        about = {"model": _weights_of(model), "source": _sizes_of(source), "rows": self.size}
        about |= {"kind": kind, "options": {k: v for k, v in options.items() if v is not None}}
        about = json.loads(json.dumps(about, default=str))
        path = self.folder / _MANIFEST
        if not path.exists():
            write_json(path, about)
        before = json.loads(path.read_text())
        if other := [k for k in about if before.get(k) != about[k]]:
            raise ValueError(
                f"{self.folder} holds vectors of another {', '.join(other)}: {before}. Continue "
                "with the same, or give another --output."
            )
        return self.size

    def wants(self, part: int) -> bool:
        """Whether this process has a part still to make."""
        if part not in self._wanted:
            mine = part % self.of == self.number
            self._wanted[part] = mine and not self._is_done(part)
        return self._wanted[part]

    def wants_any(self, start: int, stop: int) -> bool:
        """Whether any of these rows of the source lies in a part that it has still to make."""
        assert self.size is not None
        return any(map(self.wants, range(start // self.size, -(-stop // self.size))))

    @contextmanager
    def writing(self, part: int) -> Iterator[Path]:
        """A place to write a part to; when the block ends well, it is done."""
        path = self._path(part)
        for left in self.folder.glob(f".{path.name}.*.partial"):
            if _is_left(left):
                left.unlink(missing_ok=True)
        with replacing(path) as partial, partial.open("wb") as mine:
            lock(mine.fileno())
            yield partial
            flush(partial)
        flush(self.folder)

    def fill(self, rows: int, table: Callable[[range], pa.Table | None]) -> str:
        """Make the parts that this process has still to make, and say what is there.

        Args:
            rows: of the source.
            table: vectors of some of them, which fit into memory; None for none.
        """
        assert self.size is not None
        for part, start in enumerate(range(0, rows, self.size)):
            span = range(start, min(start + self.size, rows))
            if self.wants(part) and (made := table(span)) is not None:
                with self.writing(part) as partial:
                    pq.write_table(made, partial)
        return f"{self.end(rows)} in {self.folder}"

    def end(self, rows: int) -> str:
        """Note how many rows the source has, and say what is there.

        Parts of this process that were never written have no row that could be embedded.
        """
        assert self.size is not None
        count = -(-rows // self.size)
        for part in range(self.number, count, self.of):
            if not self._is_done(part):
                self._empty(part).touch()
        write_json(self.folder / _END, {"rows": rows, "parts": count})
        return self.there()

    @property
    def is_over(self) -> bool:
        """Whether a process came to the end of the source, and this one has nothing left to do."""
        count = self._count()
        return count is not None and not any(map(self.wants, range(self.number, count, self.of)))

    def there(self) -> str:
        """How many of the parts are done, in words."""
        count = self._count() or 0
        done = sum(self._is_done(part) for part in range(count))
        return f"{done:,} of {count:,} parts are there"

    def join(self, output: str | Path) -> str:
        """Write all parts in one file, in order; returns one line of what was written.

        Raises:
            ValueError: a part is missing, or the file is of another kind.
        """
        check_suffix(output)
        count = self._count()
        missing = [p for p in range(count or 0) if not self._is_done(p)]
        if count is None or missing:
            raise ValueError(
                f"{self.folder} lacks {len(missing) if missing else 'the last'} part(s) still: let "
                "every process come to its end, then join."
            )
        paths = [path for p in range(count) if (path := self._path(p)).exists()]
        if not paths:
            raise ValueError(f"{self.folder} holds no vector: no row could be embedded.")
        schema = pa.unify_schemas([pq.read_schema(path) for path in paths])
        batches = (
            b
            for path in paths
            for b in ds.dataset(path, schema=schema, format="parquet").to_batches()
        )
        with replacing(Path(output)) as partial:
            write = _join_npy if Path(output).suffix == ".npy" else _join_parquet
            rows = write(partial, batches, schema)
        width = schema.field("embedding").type.list_size
        return f"{rows:,} vectors of width {width} in {output}"

    def _count(self) -> int | None:
        """How many parts there are in all; None while no process has come to the end."""
        end = self.folder / _END
        return json.loads(end.read_text())["parts"] if end.exists() else None

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:08d}.parquet"

    def _empty(self, part: int) -> Path:
        """Stands for a part without a vector, of which no width is known."""
        return self.folder / f"_{self._path(part).stem}.empty"

    def _is_done(self, part: int) -> bool:
        return self._path(part).exists() or self._empty(part).exists()


def _join_parquet(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _join_npy(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    width = schema.field("embedding").type.list_size
    columns = (b.column("embedding").flatten().to_numpy(zero_copy_only=False) for b in batches)
    return write_npy(path, (([], [], np.reshape(c, (-1, width))) for c in columns if len(c)))[0]


def _is_left(partial: Path) -> bool:
    """Whether nobody writes to it any more; who was started twice may make the same part."""
    try:
        with partial.open("rb+") as file:
            return lock(file.fileno()) is not False
    except FileNotFoundError:
        return False


def _weights_of(model: Any) -> Mapping[str, str] | str:
    """What the weights of a folder are, file by file; of what is no folder, its name."""
    folder = Path(model) if isinstance(model, (str, Path)) else None
    if folder is None or not folder.is_dir():
        return str(getattr(model, "name", model))
    safe, found = set(folder.rglob("*.safetensors")), {}
    beside = {path.parent for path in safe}  # where those are, nobody reads the older kind
    older = {path for path in folder.rglob("*.bin") if path.parent not in beside}
    for path in sorted(safe | older):
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _sizes_of(source: Any) -> Any:
    """What a source is called, and how large its files are."""
    if not isinstance(source, (str, Path)):
        return type(source).__name__
    paths = [Path(p) for p in glob(str(Path(source).expanduser()))]  # noqa: PTH207
    files = [f for p in paths for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    return [str(source), len(files), sum(f.stat().st_size for f in files)]


__all__ = ["Parts"]
