"""Word vectors: files that other tools read, neighbours, and the mean of a sentence's words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int

from unlabel.files import replacing
from unlabel.words.corpus import split


@dataclass(frozen=True)
class WordVectors:
    """Words with a vector each.

    Attributes:
        names: the words, the most frequent first.
        vectors: one row a word.
        counts: how often each was seen, None where it is not known.
        losses: mean loss of each pass of the training that made them.
    """

    names: list[str]
    vectors: Float[np.ndarray, "words width"]
    counts: Int[np.ndarray, "words"] | None = None
    losses: tuple[float, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "place", {word: i for i, word in enumerate(self.names)})

    def __len__(self) -> int:
        """Number of words."""
        return len(self.names)

    def __getitem__(self, word: str) -> Float[np.ndarray, "width"]:
        """The vector of a word.

        Raises:
            KeyError: the word is not there.
        """
        return self.vectors[self.place[word]]

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]:
        """Mean of the vectors of each text's known words; 0 where it has none."""
        out = np.zeros((len(texts), self.vectors.shape[1]), dtype=np.float32)
        for row, text in enumerate(texts):
            known = [self.place[w] for w in split(text) if w in self.place]
            if known:
                out[row] = self.vectors[known].mean(axis=0)
        return out

    def nearest(self, word: str, count: int = 10) -> list[tuple[str, float]]:
        """The words of the highest cosine with a word, and that cosine."""
        length = np.maximum(np.linalg.norm(self.vectors, axis=1), 1e-12)
        cosine = self.vectors @ self[word] / (length * length[self.place[word]])
        order = [i for i in np.argsort(-cosine) if i != self.place[word]][:count]
        return [(self.names[i], float(cosine[i])) for i in order]

    def save(self, path: str | Path) -> Path:
        """Write the file that word2vec.c writes: binary for `.bin`, else text.

        gensim reads it by `KeyedVectors.load_word2vec_format(path, binary=...)`.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_binary = path.suffix == ".bin"
        with replacing(path) as new, Path(new).open("wb") as file:
            file.write(b"%d %d\n" % self.vectors.shape)
            for name, row in zip(self.names, self.vectors.astype("<f4"), strict=True):
                body = row.tobytes() if is_binary else " ".join(f"{x:.7g}" for x in row).encode()
                file.write(name.encode() + b" " + body + b"\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "WordVectors":
        """Read a file of vectors, text or (`.bin`) binary.

        Raises:
            ValueError: it is no such file, or it ends too early.
        """
        path = Path(path)
        with path.open("rb") as file:
            head = file.readline().split()
            if len(head) != 2 or not all(x.isdigit() for x in head):
                raise ValueError(
                    f"{path} is no file of word vectors: its first line is the number of words and "
                    f"the width, but {b' '.join(head)[:40]!r} came."
                )
            count, width = map(int, head)
            read = _binary if path.suffix == ".bin" else _text
            rows = [read(file, width) for _ in range(count)]
        if any(len(row) != width for _, row in rows):
            raise ValueError(f"{path} has a word without {width} numbers; write it anew.")
        names, vectors = zip(*rows, strict=True)
        return cls(list(names), np.stack(vectors))

    def save_static(self, folder: str | Path) -> Path:
        """Write a folder that `SentenceTransformer(folder)` loads: the mean of the words' vectors.

        A word that is not known has a vector of zeros, which changes no cosine.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        unknown = "[UNK]"
        names = {unknown: 0, **{word: i + 1 for i, word in enumerate(self.names)}}
        tokenizer = Tokenizer(models.WordLevel(names, unk_token=unknown))
        tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
        words = pre_tokenizers.Split(Regex(r"\w+"), "removed", invert=True)
        tokenizer.pre_tokenizer = words  # pyright: ignore[reportAttributeAccessIssue]
        table = np.concatenate([np.zeros((1, self.vectors.shape[1])), self.vectors])
        module = StaticEmbedding(tokenizer, embedding_weights=table.astype(np.float32))
        SentenceTransformer(modules=[module], device="cpu").save(str(folder))
        return Path(folder)


def _text(file: BinaryIO, width: int) -> tuple[str, Float[np.ndarray, "numbers"]]:
    name, *numbers = file.readline().rstrip().split(b" ")
    return name.decode(), np.array(numbers, dtype=np.float32)


def _binary(file: BinaryIO, width: int) -> tuple[str, Float[np.ndarray, "numbers"]]:
    name = bytearray()
    while (letter := file.read(1)) not in (b" ", b""):
        name += letter if letter != b"\n" else b""
    found = file.read(4 * width)
    return name.decode(), np.frombuffer(found[: len(found) // 4 * 4], dtype="<f4")


__all__ = ["WordVectors"]
