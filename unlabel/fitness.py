"""How fit the encoder of a candidate of `unlabel evolve` is, measured without labels."""

from typing import Any, Literal, NamedTuple

from unlabel.benchmarks.label_free import usual_views, vectors, views_found
from unlabel.benchmarks.zipf import cluster_sizes, worst_fitness, zipf_fitness
from unlabel.core import ViewSpec

Kind = Literal["zipf", "views"]


class Measure(NamedTuple):
    """What goes by a name.

    Attributes:
        title: for tables, pictures and recipes.
        said: what its number is.
    """

    title: str
    said: str


MEASURES: dict[Kind, Measure] = {
    "zipf": Measure("Zipf's law", "-KL of the sizes of clusters from it, at best 0"),
    "views": Measure(
        "views found",
        "how often (x100) a sample's second view is the nearest to its first, at best 100",
    ),
}


def fitness_of(
    kind: Kind, encoder: Any, store: Any, *, clusters: int, samples: int, seed: int, device: str
) -> dict[str, Any]:
    """The number, `fitness`; of `zipf` the mean over starts of k-means, with `sizes` of the first.

    Vectors that are not finite tell nothing apart: they are as fit as if all were one.

    Args:
        kind: what is measured.
        encoder: a modality's adapter.
        store: samples by place, with a length.
        clusters: k, of `zipf`.
        samples: how many are looked at.
        seed: of views and of k-means.
        device: to compute on.
    """
    how: dict[str, Any] = {"samples": samples, "seed": seed, "device": device}
    specs = usual_views(encoder) if kind == "views" else [ViewSpec("plain")]
    rows = vectors(encoder, store, specs, **how)
    if not all(r.isfinite().all() for r in rows):
        return {"fitness": worst(kind, clusters)}
    if kind == "views":
        return {"fitness": views_found(*rows)}
    sizes = cluster_sizes(rows[0], clusters, seed=seed)
    return {"fitness": sum(map(zipf_fitness, sizes)) / len(sizes), "sizes": sizes[0]}


def worst(kind: Kind, clusters: int) -> float:
    """Of vectors that are all one."""
    return worst_fitness(clusters) if kind == "zipf" else 0.0


__all__ = ["MEASURES", "Kind", "Measure", "fitness_of", "worst"]
