"""Text to token ids, once: a whole corpus kept tokenised."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64
from tqdm.auto import tqdm

from unlabel.data_pipes.redraw import ByOrdinal
from unlabel.data_pipes.tokenizer import train_tokenizer
from unlabel.files import fingerprint

__all__ = ["TokenStore", "train_tokenizer"]


class TokenStore(ByOrdinal):
    """A corpus tokenised once: flat ids and offsets, in memory or in a memory-mapped folder.

    An item is asked for by its ordinal in the whole run, `epoch * len(store) + index`, and hands
    the ordinal on, so that its random augmentations differ from epoch to epoch.

    Attributes:
        truncated: share of the sentences that were cut at `max_length`.
        unknown: share of the tokens that are the unknown token.
        partners: name -> store of the same length: positives, hard negatives.

    Args:
        sentences: to tokenise.
        tokenizer: a fast one.
        max_length: tokens at most, special ones included; longer sentences are cut.
        partners: name -> texts that belong to the sentences, one each.
        labels: class of each sentence, -1 for none.
        path: folder to write to; the arrays are then memory-mapped and cost workers nothing.
        progress: show a bar.

    Raises:
        ValueError: nothing to tokenise, a slow tokenizer, partners of another length, or no room
            for a word in `max_length`.
    """

    def __init__(
        self,
        sentences: Sequence[str],
        tokenizer: Any,
        *,
        max_length: int,
        partners: Mapping[str, Sequence[str]] | None = None,
        labels: Int64[np.ndarray, "count"] | None = None,
        path: str | Path | None = None,
        progress: bool = True,
    ):
        _check(sentences, tokenizer, max_length, partners or {})
        self.path = None if path is None else Path(path)
        chunks = _encode(sentences, tokenizer, max_length, progress)
        lengths, self.truncated, self.unknown, flat = _collect(chunks, self.path, tokenizer)
        self._offsets: Int64[np.ndarray, "count+1"] = np.concatenate([[0], np.cumsum(lengths)])
        self._ids: Int32[np.ndarray, "tokens"] = flat
        self.labels = labels
        self.partners = {
            name: TokenStore(
                texts, tokenizer, max_length=max_length, progress=progress,
                path=None if self.path is None else self.path / name,
            )
            for name, texts in (partners or {}).items()
        }  # fmt: skip
        if self.path is not None:
            self._save(self.path)

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """A store that was written before.

        Raises:
            ValueError: when the folder holds no whole store.
        """
        store = cls.__new__(cls)
        store.__setstate__({"path": Path(path)})
        return store

    @property
    def lengths(self) -> Int64[np.ndarray, "count *texts"]:
        """Tokens of each sentence, special ones included; with partners also theirs beside it."""
        own = np.diff(self._offsets)
        beside = [s.lengths for s in self.partners.values()]
        return np.stack([own, *beside], 1) if beside else own

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self._offsets) - 1

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """The sample at place `ordinal` of the run, its partners beside it.

        Raises:
            IndexError: for a negative ordinal.
        """
        if ordinal < 0:
            raise IndexError(f"An ordinal is a place in the run, 0 or more, but came {ordinal}.")
        index = int(ordinal) % len(self)
        sample = {"input_ids": self.ids(index), "index": index, "ordinal": int(ordinal)}
        if self.labels is not None:
            sample["label"] = int(self.labels[index])
        if self.partners:
            sample["partners"] = {name: s.ids(index) for name, s in self.partners.items()}
        return sample

    def ids(self, index: int) -> Int32[np.ndarray, "length"]:
        """Token ids of one sentence."""
        return self._ids[self._offsets[index] : self._offsets[index + 1]]

    @property
    def fingerprint(self) -> str:
        """Tells these sentences, and their partners, apart from others."""
        own = fingerprint(self._offsets, self._ids)
        return "-".join([own, *(store.fingerprint for store in self.partners.values())])

    def summary(self) -> str:
        """One line: sentences, tokens, and what was cut or unknown."""
        return (
            f"{len(self):,} sentences, {len(self._ids):,} tokens, {self.truncated:.1%} cut at the "
            f"length limit, {self.unknown:.2%} of the tokens unknown"
        )

    def _save(self, path: Path) -> None:
        np.save(path / "offsets.npy", self._offsets)
        about = {"truncated": self.truncated, "unknown": self.unknown, "tokens": len(self._ids)}
        about |= {"partners": list(self.partners), "labelled": self.labels is not None}
        if self.labels is not None:
            np.save(path / "labels.npy", self.labels)
        (path / "store.json").write_text(json.dumps(about))  # last: its presence says 'whole'

    def __getstate__(self) -> dict[str, Any]:
        # A worker process that is not forked gets the folder's name, not the corpus.
        return self.__dict__ if self.path is None else {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is None:
            return
        try:
            about = json.loads((self.path / "store.json").read_text())
            self._offsets = np.load(self.path / "offsets.npy")
            labelled = about.get("labelled", False)
            self.labels = np.load(self.path / "labels.npy") if labelled else None
            self._ids = np.memmap(self.path / "ids.int32", np.int32, "r").view(np.ndarray)
            if not self._offsets[-1] == len(self._ids) == about["tokens"]:
                raise ValueError(f"{about['tokens']} ids were written, {len(self._ids)} are there")
        except (OSError, ValueError, LookupError) as e:
            raise ValueError(f"{self.path} holds no whole token store ({e}); write it anew.") from e
        self.truncated, self.unknown = about["truncated"], about["unknown"]
        self.partners = {name: TokenStore.open(self.path / name) for name in about["partners"]}


def _check(
    sentences: Sequence[str], tokenizer: Any, max_length: int, partners: Mapping[str, Sequence[str]]
) -> None:
    if isinstance(sentences, str) or not len(sentences):
        raise ValueError(f"A list of sentences is wanted, but came {sentences!r:.40}.")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} is slow; load it with AutoTokenizer (fast).")
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise ValueError(
            f"max_length={max_length} leaves no room beside {special} special tokens; take more."
        )
    for name, texts in partners.items():
        if len(texts) != len(sentences):
            raise ValueError(
                f"Partner {name!r} has {len(texts)} texts for {len(sentences)} sentences; give one "
                "for each."
            )


def _encode(
    sentences: Sequence[str], tokenizer: Any, max_length: int, progress: bool
) -> Iterator[tuple[list[list[int]], int]]:
    step = 1000
    starts = range(0, len(sentences), step)
    for start in tqdm(starts, "tokenising", unit="k sentences", disable=not progress):
        batch = tokenizer(
            list(sentences[start : start + step]),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        yield batch["input_ids"], sum(bool(e.overflowing) for e in batch.encodings)


def _collect(
    chunks: Iterator[tuple[list[list[int]], int]], path: Path | None, tokenizer: Any
) -> tuple[Int64[np.ndarray, "count"], float, float, Int32[np.ndarray, "tokens"]]:
    lengths, parts, cut, unknown = [], [], 0, 0
    with ExitStack() as stack:
        file = None
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
            (path / "store.json").unlink(missing_ok=True)
            file = stack.enter_context((path / "ids.int32").open("wb"))
        for rows, overflowing in chunks:
            lengths.extend(map(len, rows))
            flat = np.fromiter((i for row in rows for i in row), dtype=np.int32)
            cut += overflowing
            if tokenizer.unk_token_id is not None:
                unknown += int((flat == tokenizer.unk_token_id).sum())
            if file is None:
                parts.append(flat)
            else:
                file.write(flat.tobytes())
    if path is None:
        ids = np.concatenate(parts)
    else:
        ids = np.memmap(path / "ids.int32", np.int32, "r").view(np.ndarray)
    counts = np.array(lengths, dtype=np.int64)
    return counts, cut / len(counts), unknown / max(len(ids), 1), ids
