"""The space of a trained joint encoder in use: embed, classify and search files of all sides."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from unlabel.benchmarks.intervals import nearest
from unlabel.embedding import device_of, run_model_folder
from unlabel.heads import load_scale
from unlabel.kinds.pair_sides import Side
from unlabel.kinds.pairs import sides_of_run
from unlabel.modalities.joint import JointEncoder
from unlabel.search.index import Index
from unlabel.search.reading import Embedded, embed_files, grouped, side_for

logger = logging.getLogger(__name__)
_WEIGHED = (".safetensors", ".json")


class Space:
    """A trained joint encoder, whose sides share a space; `load` reads it from a run.

    Attributes:
        folder: of the model.
        home: of its run, or of the model where there is none.
        encoder: a `JointEncoder` in evaluation mode.
        sides: kind of data of each side, by its name.
        options: how each side was read in training.
        scale: what training multiplied cosines with before its softmax, None where not saved.
    """

    def __init__(
        self,
        encoder: JointEncoder,
        folder: str | Path,
        *,
        home: str | Path | None = None,
        batch_size: int = 32,
    ):
        self.encoder, self.folder = encoder.eval(), Path(folder)
        self.home = self.folder if home is None else Path(home)
        self.sides, self.width, self.batch_size = encoder.kinds, encoder.width, batch_size
        self.options, self.scale = _options(self.home, self.sides), load_scale(self.home)

    @classmethod
    def load(cls, run: str | Path, *, device: str | None = None, batch_size: int = 32) -> "Space":
        """The space of a run of pairs, by its output folder or its model's.

        Args:
            run: the folder.
            device: as for torch; a GPU where there is one.
            batch_size: samples a forward pass.

        Raises:
            FileNotFoundError: the folder holds no joint encoder.
        """
        folder = run_model_folder(Path(run)) or Path(run)
        encoder = JointEncoder.from_pretrained(folder, local_files_only=True)
        home = folder.parent if (folder.parent / "run.json").is_file() else Path(run)
        return cls(encoder.to(device_of(device)), folder, home=home, batch_size=batch_size)

    @cached_property
    def weights(self) -> str:
        """A hash of the model's weights and settings."""
        made = hashlib.sha256()
        for place in (self.folder, *(self.folder / name for name in self.sides)):
            for file in sorted(p for p in place.iterdir() if p.suffix in _WEIGHED):
                made.update(str(file.relative_to(self.folder)).encode())
                with file.open("rb") as content:
                    made.update(hashlib.file_digest(content, "sha256").digest())
        return made.hexdigest()

    def side_of(self, path: str | Path) -> str:
        """The side whose encoder sees a file, by its suffix.

        Raises:
            ValueError: none does.
        """
        side = side_for(Path(path), self.sides)
        if side is None:
            raise ValueError(f"{path} fits no side of {self.folder}, which has {self._has()}.")
        return side

    def text_side(self) -> str:
        """The first side of text.

        Raises:
            ValueError: there is none.
        """
        found = next((s for s, kind in self.sides.items() if kind == "text"), None)
        if found is None:
            raise ValueError(
                f"Words need a side of text, but {self.folder} has {self._has()}; ask by an "
                "example (--like FILE)."
            )
        return found

    def embed_files(
        self, side: str, paths: Sequence[str], *, column: str | None = None
    ) -> Embedded:
        """What files hold and its vectors, in order, faults told; see `reading.embed_files`."""
        how: dict[str, Any] = {"options": self.options[side], "batch_size": self.batch_size}
        return embed_files(self.encoder, side, paths, column=column, **how)

    def grouped(self, paths: Sequence[Path], side: str | None = None) -> list[Any]:
        """`(side, files)` for each side, by the files' suffixes; or for one, of those it knows."""
        return list(grouped(paths, self.sides if side is None else {side: self.sides[side]}))

    def embed(self, side: str, items: Sequence[Any]) -> Float32[np.ndarray, "items width"]:
        """Vectors of length 1: of sentences, of files (one each), or of what the encoder takes.

        Raises:
            ValueError: no such side, or a file that cannot be read.
        """
        if side not in self.sides:
            raise ValueError(f"No side {side!r}; {self.folder} has {self._has()}.")
        are_files = all(isinstance(i, (str, Path)) for i in items) and self.sides[side] != "text"
        if not are_files:
            return self.encoder.encode(side, items, batch_size=self.batch_size)
        return np.stack([self.example(path, side)[1] for path in items])

    def example(
        self, path: str | Path, side: str | None = None
    ) -> tuple[dict[str, Any], Float32[np.ndarray, "width"]]:
        """What a file holds, as in `Index.items`, and its vector; the mean of several in one file.

        Raises:
            ValueError: it cannot be read, or no side sees it.
        """
        side = self.side_of(path) if side is None else side
        path = str(Path(path).expanduser().resolve())
        items, vectors = self.embed_files(side, [path])
        if broken := "; ".join(why for why in items["fault"] if why):
            raise ValueError(f"{path}: {broken}.")
        mean = vectors.mean(axis=0)
        return {**items.iloc[0], "side": side}, mean / np.linalg.norm(mean)

    def check_query(self, words: str | None, like: str | Path | None) -> None:
        """Refuse what cannot be asked.

        Raises:
            ValueError: words and an example, or neither; no word; or what no side can take.
        """
        if (words is None) == (like is None):
            raise ValueError("Ask by words or by an example: give one of words and like.")
        if words is not None and not words.strip():
            raise ValueError("The words to look for are empty; say what you look for.")
        if words is not None:
            self.text_side()
        elif not Path(like or "").expanduser().is_file():
            raise ValueError(f"{like} is no file; give one that is like what you look for.")
        else:
            self.side_of(like or "")

    def search(
        self,
        index: Index | str | Path,
        words: str | None = None,
        *,
        like: str | Path | None = None,
        count: int = 12,
        among: str | None = None,
        approximate: bool = False,
    ) -> pd.DataFrame:
        """The nearest of an index to words or to an example: `rank`, `cosine`, and its `items`.

        Args:
            index: made by this model.
            words: to look for, through the side of text.
            like: a file to look for in place of words.
            count: hits at most.
            among: the side to look among; None for all.
            approximate: see `Index.nearest`.

        Raises:
            ValueError: see `check_query`; another model's index; nothing in it.
        """
        index = index if isinstance(index, Index) else Index.open(index)
        index.check(self)
        self.check_query(words, like)
        if count < 1:
            raise ValueError(f"count is the hits at most, 1 or more, but {count} came.")
        query = (
            self.embed(self.text_side(), [words]) if like is None else self.example(like)[1][None]
        )
        rows, cosines = index.nearest(query, count, among=among, approximate=approximate)
        found = rows[0] >= 0  # a graph may find fewer than there are
        hits = index.items.iloc[rows[0][found]].reset_index(drop=True)
        hits.insert(0, "cosine", cosines[0][found])
        hits.insert(0, "rank", np.arange(1, len(hits) + 1))
        return hits

    def classify(
        self,
        vectors: Float32[np.ndarray, "items width"],
        classes: Sequence[str],
        templates: Sequence[str] = ("{}",),
    ) -> pd.DataFrame:
        """The class whose name is nearest: `label`, `cosine`, and `probability` by the scale.

        The vector of a class is the mean over templates of its sentences' unit vectors, scaled to
        length 1; probabilities are the softmax over classes of the cosines times the scale that
        training learned. One class has probability 1.

        Args:
            vectors: of length 1.
            classes: their names.
            templates: sentences with `{}` in the place of the name.

        Raises:
            ValueError: fewer than one class, the same twice, a template without `{}`, or a vector
                that is not finite.

        Reference: Radford et al. 2021 (CLIP), arXiv 2103.00020, section 3.1.4.
        """
        cosines = vectors @ self.class_vectors(classes, templates).T
        if not np.isfinite(cosines).all():
            raise ValueError(
                "The vectors are not all finite, so that no class is nearest; look at the weights."
            )
        best = cosines.argmax(axis=1)
        if tied := int((nearest(cosines).sum(axis=1) > 1).sum()):
            logger.warning(
                "%d of %d are as near to several classes; one of them is taken.", tied, len(best)
            )
        rows = np.arange(len(best))
        found = pd.DataFrame(
            {"label": np.array(classes, object)[best], "cosine": cosines[rows, best]}
        )
        if self.scale is not None:
            logits = self.scale * cosines.astype(np.float64)
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            found["probability"] = 1 / share.sum(axis=1)  # the best logit's own share is 1
        return found

    def class_vectors(
        self, classes: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> Float32[np.ndarray, "classes width"]:
        """A vector of length 1 for each class, see `classify`."""
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"Classes are one or more different names, but {list(classes)} came.")
        if wrong := [t for t in templates if "{}" not in t] or not templates:
            raise ValueError(f"A template has {{}} in the place of the name, but {wrong} came.")
        sentences = [t.replace("{}", name) for name in classes for t in templates]
        each = self.embed(self.text_side(), sentences).reshape(len(classes), len(templates), -1)
        mean = each.mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _has(self) -> str:
        return ", ".join(n if n == k else f"{n} ({k})" for n, k in self.sides.items())


def _options(run: Path, sides: Mapping[str, str]) -> dict[str, Any]:
    """How each side was read in training, or its kind's own way where no run says so."""
    file = run / "run.json"
    about = json.loads(file.read_text()) if file.is_file() else {}
    said = sides_of_run(about)
    own = {name: {"kind": kind, **said.get(name, {})} for name, kind in sides.items()}
    return {name: Side.of(name, given, None).options for name, given in own.items()}


__all__ = ["Space"]
