"""Sentences as numbers of words: splitting, the vocabulary, sub-sampling and noise."""

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

WORD = r"(?u)\b\w+\b"
_FIND = re.compile(WORD).findall


def split(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation."""
    return _FIND(text.lower())


@dataclass(frozen=True)
class Corpus:
    """A text as numbers of its words, the most frequent word first.

    Attributes:
        names: the words.
        counts: how often each occurs.
        ids: the words in the order of the text, those that are too rare left out.
        lines: which text each stands in.
    """

    names: list[str]
    counts: Int[np.ndarray, "words"]
    ids: Int[np.ndarray, "tokens"]
    lines: Int[np.ndarray, "tokens"]

    @classmethod
    def of(cls, texts: Iterable[str], *, min_count: int = 5) -> "Corpus":
        """Read texts once; words that occur less than `min_count` times are left out.

        Raises:
            ValueError: a single string, or fewer than two words are frequent enough.
        """
        if isinstance(texts, str):
            raise ValueError("A list of sentences is wanted, but one string came; wrap it in [ ].")
        place: defaultdict[str, int] = defaultdict()
        place.default_factory = place.__len__
        flat, lengths = array("i"), array("i")
        for text in texts:
            known = [place[word] for word in split(text)]
            flat.extend(known)
            lengths.append(len(known))
        first = np.frombuffer(flat, dtype=np.int32) if flat else np.zeros(0, np.int32)
        counts, names = np.bincount(first, minlength=len(place)), np.array(list(place))
        order = np.lexsort((names, -counts))[: (counts >= min_count).sum()]
        if len(order) < 2:
            raise ValueError(
                f"{len(order)} words occur {min_count} times or more; give more text, or lower "
                "min_count."
            )
        number = np.full(len(place), -1, dtype=np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        ids = number[first]
        lines = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        return cls(names[order].tolist(), counts[order], ids[ids >= 0], lines[ids >= 0])

    def kept(self, sample: float) -> Float[np.ndarray, "words"]:
        """Chance that an occurrence of each word is kept: `sqrt(sample/f) + sample/f`, at most 1.

        Args:
            sample: frequency above which words are thinned out; 0 keeps all.
        """
        if not sample:
            return np.ones(len(self.counts))
        relative = sample / (self.counts / self.counts.sum())
        return np.minimum(1.0, np.sqrt(relative) + relative)

    def noise(self, power: float = 0.75) -> Float[np.ndarray, "words"]:
        """Cumulative distribution that negatives are drawn from: frequency to a power."""
        weight = self.counts.astype(np.float64) ** power
        return np.cumsum(weight) / weight.sum()


__all__ = ["WORD", "Corpus", "split"]
