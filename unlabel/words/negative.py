"""Negative sampling for runs of words at once: all scores of a run are one matrix product.

A run is L centres in a row and the words around them. Its centres share one draw of K negatives,
each of which stands for k/K of the k negatives that every pair has: the same expected gradient as
k draws a pair, and the scores of a run become a matrix. A negative that is the centre itself
does not count for it; the others then stand for it too.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Runs(NamedTuple):
    """Runs of words with their windows.

    Attributes:
        around: words of a run, its centres in the middle, `(runs, L + 2 window)`.
        centres: `(runs, L)`.
        negatives: `(runs, K)`.
        pairs: True where a word around is in the window of a centre, `(runs, L, L + 2 window)`.
        push: how much each negative counts for each centre, rows of sum k, `(runs, L, K)`.
    """

    around: Int[Tensor, "runs around"]
    centres: Int[Tensor, "runs centres"]
    negatives: Int[Tensor, "runs negatives"]
    pairs: Bool[Tensor, "runs centres around"]
    push: Float[Tensor, "runs centres negatives"]

    def part(self, first: int, count: int) -> "Runs":
        """Some of the runs."""
        return Runs(*(x[first : first + count] for x in self))


def make_runs(
    ids: Int[Tensor, "padded"],
    lines: Int[Tensor, "padded"],
    reach: Int[Tensor, "tokens"],
    negatives: Int[Tensor, "runs negatives"],
    *,
    window: int,
    k: int,
    dtype: torch.dtype = torch.float32,
) -> Runs:
    """Cut a row of words into runs.

    Args:
        ids: the words, with `window` words of no line before and behind.
        lines: the line of each; windows end where a line ends, and line -1 has no words.
        reach: how far the window of each centre goes, 1 to `window`.
        negatives: of each run; there are as many centres a run as the number of runs says.
        window: the farthest reach.
        k: negatives of a pair.
        dtype: of the weights.
    """
    length = len(reach) // len(negatives)
    around = ids.unfold(0, length + 2 * window, length)
    line = lines.unfold(0, length + 2 * window, length)
    middle = slice(window, window + length)
    centres, own = around[:, middle], line[:, middle]
    places = torch.arange(length + 2 * window, device=ids.device)
    apart = (places[None] - places[middle, None]).abs()
    pairs = (apart <= reach.view(-1, length, 1)) & (apart > 0)
    pairs &= (line[:, None, :] == own[:, :, None]) & (own >= 0)[:, :, None]
    other = (negatives[:, None, :] != centres[:, :, None]).to(dtype)
    push = other * (k / other.sum(-1, keepdim=True).clamp(min=1))
    return Runs(around, centres, negatives, pairs, push)


class Change(NamedTuple):
    """What a step does to the rows it used: the negative gradient, and the loss where asked.

    Attributes:
        inward: for the words around, `(runs, L + 2 window, width)`.
        outward: for the centres and then the negatives, `(runs, L + K, width)`.
        loss: mean over the pairs (skip-gram) or centres (CBOW), None where not asked for.
    """

    inward: Float[Tensor, "runs around width"]
    outward: Float[Tensor, "runs outputs width"]
    loss: Float[Tensor, ""] | None


def descend(
    inward: Float[Tensor, "runs around width"],
    outward: Float[Tensor, "runs outputs width"],
    runs: Runs,
    *,
    skip_gram: bool,
    whole_gradient: bool = False,
    with_loss: bool = False,
) -> Change:
    """The negative gradient of the summed loss of all pairs by the vectors of the runs.

    Skip-gram: each word around a centre predicts the centre. CBOW: their mean does.

    Args:
        inward: input vectors of `runs.around`.
        outward: output vectors of `runs.centres` and then of `runs.negatives`.
        runs: who is a pair with whom.
        skip_gram: False for CBOW.
        whole_gradient: of CBOW: each word takes the mean's whole gradient, as word2vec.c and
            gensim do, not its share.
        with_loss: compute the loss too.
    """
    pairs = runs.pairs.to(inward.dtype)
    if skip_gram:
        query, pull = inward, pairs.transpose(1, 2)
        push = pull @ runs.push
    else:
        mean = pairs / pairs.sum(-1, keepdim=True).clamp(min=1)
        query, has = mean @ inward, runs.pairs.any(-1).to(inward.dtype)
        pull, push = torch.diag_embed(has), runs.push * has[:, :, None]
    scores = query @ outward.transpose(1, 2)
    count = pull.shape[2]
    force = scores.sigmoid().neg_()
    force[:, :, :count] += 1
    force[:, :, :count] *= pull
    force[:, :, count:] *= push
    change = force @ outward
    if not skip_gram:
        change = (pairs if whole_gradient else mean).transpose(1, 2) @ change
    loss = None
    if with_loss:
        cost = (pull * F.softplus(-scores[:, :, :count])).sum()
        cost = cost + (push * F.softplus(scores[:, :, count:])).sum()
        loss = cost / pull.sum().clamp(min=1)
    return Change(change, force.transpose(1, 2) @ query, loss)


__all__ = ["Change", "Runs", "descend", "make_runs"]
