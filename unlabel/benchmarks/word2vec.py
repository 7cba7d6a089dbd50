"""How fast and how good are our word vectors beside gensim's?

    python -m unlabel.benchmarks.word2vec --data sentences.txt.gz

Both train on the same words with the same settings, one thread each, in turn. Seconds are those of
training alone, from split sentences on for gensim and from text on for ours; words are those of the
vocabulary, times the passes. Quality is the STS score of the mean of a sentence's vectors.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from unlabel.benchmarks.commands import run_command
from unlabel.benchmarks.sts import evaluate_sts
from unlabel.data_pipes.text import read_text
from unlabel.words.corpus import split
from unlabel.words.vectors import WordVectors
from unlabel.words.word2vec import train_word2vec


@dataclass(frozen=True)
class Side:
    """What one training gave.

    Attributes:
        name: of the side and its settings.
        words: trained on, all passes together.
        seconds: of the clock.
        cpu_seconds: of the process.
        score: on STS-B dev, x100.
    """

    name: str
    words: int
    seconds: float
    cpu_seconds: float
    score: float

    @property
    def rate(self) -> float:
        """Words a CPU second."""
        return self.words / self.cpu_seconds


def word2vec(
    *,
    data: str,
    sentences: int = 100_000,
    width: int = 200,
    epochs: int = 5,
    sample: float = 1e-4,
    seed: int = 1,
    sts: str | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """Train side by side, print the table, and return all figures.

    Args:
        data: sentences, as for `read_text`; the first ones are taken.
        sentences: how many at most.
        width: of the vectors.
        epochs: passes.
        sample: frequency above which words are thinned out.
        seed: of start and draws.
        sts: folder of the STS files; default `$UNLABEL_DATA/sts`.
        output: JSON file for all figures.

    Raises:
        RuntimeError: gensim is not installed.
    """
    texts = read_text(data, limit=sentences).columns["text"]
    torch.set_num_threads(1)
    shared = {"window": 5, "min_count": 5, "sample": sample, "seed": seed, "epochs": epochs}
    sides = []
    for skip_gram, k in ((True, 5), (False, 10)):
        named = "skip-gram" if skip_gram else "CBOW"
        ours = {"skip_gram": skip_gram, "width": width, "negatives": k, **shared}
        sides += [_gensim(named, texts, ours, sts), _ours(named, texts, ours, sts)]
        if not skip_gram:
            whole = {**ours, "whole_gradient": True}
            sides.append(_ours(f"{named}, whole gradient", texts, whole, sts))
    result = {
        "sentences": len(texts),
        "settings": {"width": width, **shared},
        "sides": [{**asdict(side), "rate": side.rate} for side in sides],
        "versions": {p: version(p) for p in ("torch", "gensim")},
    }
    Console().print(_table(sides, len(texts)))
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
    return result


def _ours(name: str, texts: list[str], settings: dict[str, Any], sts: str | None) -> Side:
    return _timed(
        f"unlabel {name}", lambda: train_word2vec(texts, progress=False, **settings), settings, sts
    )


def _gensim(name: str, texts: list[str], settings: dict[str, Any], sts: str | None) -> Side:
    try:
        from gensim.models import Word2Vec  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise RuntimeError("The peer is gensim: pip install 'unlabel[peers]'.") from None
    own = {key: settings[key] for key in ("window", "min_count", "sample", "seed")}
    is_skip_gram = settings["skip_gram"]
    model: Any = Word2Vec(
        vector_size=settings["width"],
        sg=int(is_skip_gram),
        negative=settings["negatives"],
        alpha=0.025 if is_skip_gram else 0.05,
        workers=1,
        **own,
    )
    lines = [split(text) for text in texts]
    model.build_vocab(lines)
    epochs, count = settings["epochs"], len(lines)

    def train() -> WordVectors:
        model.train(lines, total_examples=count, epochs=epochs)
        names = list(model.wv.key_to_index)
        counts = [model.wv.get_vecattr(word, "count") for word in names]
        return WordVectors(names, model.wv.vectors, torch.tensor(counts).numpy())

    return _timed(f"gensim {name}", train, settings, sts)


def _timed(
    name: str, train: Callable[[], WordVectors], settings: dict[str, Any], sts: str | None
) -> Side:
    clock, cpu = time.perf_counter(), time.process_time()
    vectors = train()
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
    assert vectors.counts is not None  # both sides count
    found = evaluate_sts(vectors, sts, sets=["stsb_dev"], bootstrap=0)
    score = found.encoders[0].scores["stsb_dev"].score
    return Side(name, int(vectors.counts.sum()) * settings["epochs"], seconds, cpu_seconds, score)


def _table(sides: Sequence[Side], sentences: int) -> Table:
    title = f"word2vec, {sentences:,} sentences, one thread"
    table = Table(title=title, title_justify="left")
    for heading in ("", "words / CPU s", "ratio", "words / s", "ratio", "STS-B dev"):
        table.add_column(heading, justify="right" if heading else "left")
    peer = sides[0]
    for side in sides:
        peer = side if side.name.startswith("gensim") else peer
        wall, peers = side.words / side.seconds, peer.words / peer.seconds
        cells = [f"{side.rate:,.0f}", f"{side.rate / peer.rate:.2f}"]
        cells += [f"{wall:,.0f}", f"{wall / peers:.2f}", f"{side.score:.2f}"]
        table.add_row(side.name, *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options of `word2vec` from the command line."""
    run_command(word2vec, arguments)


if __name__ == "__main__":
    main()
