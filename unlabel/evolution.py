"""Evolution of the weights of several losses: which candidates to try next."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Weights = tuple[float, ...]  # from 0 to 1, the largest 1, in hundredths


def scaled(numbers: Sequence[float] | np.ndarray) -> Weights | None:
    """Numbers as weights: below 0 is 0, the largest is 1; None where none is above 0.

    Only ratios count for an optimiser that knows no scale, such as Adam.
    """
    found = np.clip(np.asarray(numbers, dtype=np.float64), 0, None)
    if not found.max() > 0:
        return None
    return tuple(float(x) for x in np.round(found / found.max(), 2))


def first_generation(
    parts: int, size: int, *, seed: int, own: Sequence[Weights] = ()
) -> list[Weights]:
    """All alike, each alone, some of one's own, and random ones up to `size`."""
    alone = [tuple(float(i == j) for j in range(parts)) for i in range(parts)]
    named = list(dict.fromkeys([(1.0,) * parts, *alone, *own]))
    rng = np.random.default_rng([seed, 0])
    return _filled(named, (rng.uniform(size=parts) for _ in range(100 * size)), size)


def next_generation(
    fitness: Mapping[Weights, float],
    size: int,
    *,
    seed: int,
    generation: int,
    survivors: int = 4,
    step: float = 0.2,
) -> list[Weights]:
    """Children of the best so far: (mu + lambda) evolution.

    Each takes every weight from one of two survivors, drawn anew for each, and adds normal noise.
    What was tried already is not tried again; fewer than `size` come where nothing else is left.

    Args:
        fitness: of all candidates so far; more is better.
        size: lambda.
        seed: of all draws, with the generation.
        generation: from 1.
        survivors: mu.
        step: standard deviation of the noise.

    Reference: Piergiovanni et al. 2020, arXiv 2002.12177, section 3.2, evolves them likewise (and
    by CMA-ES); (mu + lambda): Beyer & Schwefel 2002.
    """
    best = sorted(fitness, key=lambda w: (-fitness[w], w))[:survivors]
    rng = np.random.default_rng([seed, generation])

    def children() -> Iterator[np.ndarray]:
        for _ in range(100 * size):
            pair = np.array(best)[rng.integers(len(best), size=2)]
            mixed = np.where(rng.random(pair.shape[1]) < 0.5, *pair)
            yield mixed + rng.normal(scale=step, size=len(mixed))

    return _filled([], children(), size, tried=fitness)


def _filled(
    found: list[Weights], more: Iterator[np.ndarray], size: int, tried: Mapping[Weights, float] = {}
) -> list[Weights]:
    """Up to `size` different weights."""
    for numbers in more:
        if len(found) >= size:
            break
        weights = scaled(numbers)
        if weights is not None and weights not in found and weights not in tried:
            found.append(weights)
    return found


__all__ = ["Weights", "first_generation", "next_generation", "scaled"]
