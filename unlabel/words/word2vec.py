"""word2vec: skip-gram and CBOW by negative sampling, vectorised."""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unlabel.data_pipes.text import read_text
from unlabel.words.corpus import Corpus
from unlabel.words.negative import Runs, descend, make_runs
from unlabel.words.vectors import WordVectors

logger = logging.getLogger(__name__)

PORTION = 2**17  # words that are cut into runs at a time
LAST = 1e-4  # share of the rate that is left at the end
WATCH = 50  # steps from one look at the loss to the next
PULL = 4.0  # that a step may add up for one word; far above it vectors overshoot and grow


@dataclass(frozen=True)
class _Settings:
    window: int
    negatives: int
    sample: float
    power: float
    run: int
    seed: int


def train_word2vec(
    texts: Iterable[str],
    *,
    skip_gram: bool = True,
    width: int = 100,
    window: int = 5,
    negatives: int = 5,
    sample: float = 1e-3,
    min_count: int = 5,
    epochs: int = 5,
    lr: float | None = None,
    power: float = 0.75,
    whole_gradient: bool = False,
    run: int = 16,
    block: int = 16,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> WordVectors:
    """Vectors of words from the words around them, by negative sampling.

    A pair costs `-ln s(v u) - k E[ln s(-v u')]`, s the sigmoid, v the vector of a word around and u
    that of the centre, u' a word drawn by frequency to a power; of CBOW v is the mean of the words
    around. At vectors of 0 that is (k + 1) ln 2. How far a window goes is drawn from 1 to `window`.

    It is a trainer of its own, not an objective: there is no encoder to call, only two tables of
    which a step touches some hundred rows, and its speed is that of three matrix products a step.

    Args:
        texts: sentences; windows end where a sentence ends.
        skip_gram: False for CBOW.
        width: of a vector.
        window: words on each side, at most.
        negatives: k.
        sample: frequency above which words are thinned out; 0 keeps all.
        min_count: words that occur less often are left out.
        epochs: passes over the text.
        lr: learning rate at the start, which falls along a line; by default 0.025 for skip-gram,
            0.2 for CBOW, and 0.05 for CBOW with the whole gradient.
        power: of the frequencies that negatives are drawn by.
        whole_gradient: of CBOW: each word takes the whole gradient of the mean, as word2vec.c and
            gensim do, and not its share, as the formula has it.
        run: centres that share their negatives, of which there are as many as centres.
        block: runs of one step, fewer where that would be too many for a small vocabulary; a larger
            one is faster on a GPU, and updates less often.
        seed: of the start and of every draw.
        device: as for torch; by default the processor.
        progress: show a bar.

    Raises:
        ValueError: too few words, or a setting out of its range.

    Reference: Mikolov et al. 2013, arXiv 1310.4546, sections 2.2 and 2.3; CBOW: 1301.3781, section
    3.1; the share of the gradient: Irsoy et al. 2021, arXiv 2012.15332; shared negatives: Ji et al.
    2016, arXiv 1604.04661.
    """
    _refuse(width, window, negatives, epochs, run, block, sample, lr)
    corpus = Corpus.of(texts, min_count=min_count)
    settings = _Settings(window, negatives, sample, power, run, seed)
    rate = lr or (0.025 if skip_gram else 0.05 if whole_gradient else 0.2)
    start = np.random.default_rng(seed).random((len(corpus.names), width), dtype=np.float32)
    pairs = window + 1 if skip_gram else 1  # that a centre has on average
    block = min(block, _most_runs(corpus, settings, pairs * rate))
    inward = torch.from_numpy((2 * start - 1) / width).to(device or "cpu")
    outward, losses = torch.zeros_like(inward), []
    bar = tqdm(total=epochs * len(corpus.ids), unit="word", unit_scale=True, disable=not progress)
    how = {"skip_gram": skip_gram, "whole_gradient": whole_gradient}
    with bar:
        for epoch in range(epochs):
            watched = []
            for at, runs in _portions(corpus, settings, epoch):
                done = (epoch * len(corpus.ids) + at) / (epochs * len(corpus.ids))
                rate_now = rate * max(1 - done, LAST)
                runs = Runs(*(x.to(inward.device) for x in runs))
                watched += _steps(inward, outward, runs, rate_now, block, how)
                bar.update(min(PORTION, len(corpus.ids) - at))
            losses.append(float(torch.stack(watched).mean()) if watched else math.nan)
            if watched and not math.isfinite(losses[-1]):
                raise ValueError(
                    f"The vectors grew without bound in pass {epoch + 1}; take an lr below {rate}."
                )
    vectors = inward.cpu().numpy()
    return WordVectors(corpus.names, vectors, corpus.counts, tuple(losses))


def _refuse(
    width: int,
    window: int,
    negatives: int,
    epochs: int,
    run: int,
    block: int,
    sample: float,
    lr: float | None,
) -> None:
    least = {"width": width, "window": window, "negatives": negatives, "epochs": epochs}
    least |= {"run": run, "block": block}
    for name, value in least.items():
        if value < 1:
            raise ValueError(f"{name} is 1 or more, but {value} came.")
    if not 0 <= sample < 1:
        raise ValueError(f"sample is a frequency of at least 0 and below 1, but {sample} came.")
    if lr is not None and lr <= 0:
        raise ValueError(f"lr is above 0, but {lr} came.")


def _most_runs(corpus: Corpus, settings: _Settings, rate: float) -> int:
    """Runs of a step in which no word is pulled too far by what it was at the start of the step."""
    seen = corpus.counts * corpus.kept(settings.sample)
    noise = np.diff(corpus.noise(settings.power), prepend=0.0)
    share = (settings.negatives + 1) * max(seen.max() / seen.sum(), noise.max())
    return max(1, int(PULL / (rate * settings.run * share)))


def _steps(
    inward: Tensor, outward: Tensor, runs: Runs, rate: float, block: int, how: dict[str, Any]
) -> list[Tensor]:
    """Move the rows of both tables, a block of runs at a time; some of the losses."""
    losses = []
    ins, outs = runs.around, torch.cat([runs.centres, runs.negatives], 1)
    width = inward.shape[1]
    for step, first in enumerate(range(0, len(ins), block)):
        part, watch = runs.part(first, block), step % WATCH == 0
        rows_in = ins[first : first + block].reshape(-1)
        rows_out = outs[first : first + block].reshape(-1)
        made = descend(
            inward.index_select(0, rows_in).view(len(part.around), -1, width),
            outward.index_select(0, rows_out).view(len(part.around), -1, width),
            part,
            with_loss=watch,
            **how,
        )
        inward.index_add_(0, rows_in, made.inward.view(-1, width), alpha=rate)
        outward.index_add_(0, rows_out, made.outward.view(-1, width), alpha=rate)
        if made.loss is not None:
            losses.append(made.loss)
    return losses


def _portions(corpus: Corpus, settings: _Settings, epoch: int) -> Iterator[tuple[int, Runs]]:
    """One pass over the corpus, thinned out and cut into runs, with its place in it."""
    kept = corpus.kept(settings.sample).astype(np.float32)
    noise, window, length = corpus.noise(settings.power), settings.window, settings.run
    for at in range(0, len(corpus.ids), PORTION):
        rng = np.random.default_rng([settings.seed, epoch, at])
        ids, lines = corpus.ids[at : at + PORTION], corpus.lines[at : at + PORTION]
        stays = rng.random(len(ids), dtype=np.float32) < kept[ids]
        ids, lines = ids[stays], lines[stays]
        count = -(-len(ids) // length)
        behind = window + count * length - len(ids)
        drawn = np.searchsorted(noise, rng.random((count, length)), side="right")
        reach = rng.integers(1, window + 1, count * length)
        if not count:
            continue
        yield (
            at,
            make_runs(
                torch.from_numpy(np.pad(ids, (window, behind))),
                torch.from_numpy(np.pad(lines, (window, behind), constant_values=-1)),
                torch.from_numpy(reach),
                torch.from_numpy(drawn.clip(max=len(noise) - 1).astype(np.int32)),
                window=window,
                k=settings.negatives,
            ),
        )


def word2vec(
    data: str | list[str],
    output: str,
    *,
    column: str | None = None,
    limit: int | None = None,
    static: str | None = None,
    skip_gram: bool = True,
    width: int = 100,
    window: int = 5,
    negatives: int = 5,
    sample: float = 1e-3,
    min_count: int = 5,
    epochs: int = 5,
    lr: float | None = None,
    whole_gradient: bool = False,
    seed: int = 0,
    device: str | None = None,
) -> WordVectors:
    """Train word vectors and write them to a file; for the further settings see `train_word2vec`.

    Args:
        data: sentences, as for `read_text`.
        output: file of vectors in word2vec's format: binary for `.bin`, else text.
        column: the column of a table that holds the text.
        limit: sentences read at most.
        static: folder to write a sentence-transformers model of the words' mean to.
        skip_gram: False for CBOW.
        width: of a vector.
        window: words on each side, at most.
        negatives: of a pair.
        sample: frequency above which words are thinned out; 0 keeps all.
        min_count: words that occur less often are left out.
        epochs: passes over the text.
        lr: learning rate at the start.
        whole_gradient: of CBOW, see `train_word2vec`.
        seed: of the start and of every draw.
        device: as for torch; by default the processor.
    """
    source = read_text(data, column=column, limit=limit)
    logger.info("%s", source.report.summary())
    texts = source.columns.values()  # pyright: ignore[reportAttributeAccessIssue]
    vectors = train_word2vec(
        next(iter(texts)),
        skip_gram=skip_gram,
        width=width,
        window=window,
        negatives=negatives,
        sample=sample,
        min_count=min_count,
        epochs=epochs,
        lr=lr,
        whole_gradient=whole_gradient,
        seed=seed,
        device=device,
    )
    path = vectors.save(output)
    losses = ", ".join(f"{loss:.3f}" for loss in vectors.losses)
    logger.info(
        "%d vectors of %d numbers in %s; loss by pass: %s", len(vectors), width, path, losses
    )
    if static is not None:
        vectors.save_static(static)
    return vectors


__all__ = ["train_word2vec", "word2vec"]
