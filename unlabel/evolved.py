"""What a search of weights found: every candidate, as a table and as a picture."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from unlabel.candidates import wide_console
from unlabel.evolution import Weights
from unlabel.fitness import MEASURES, Kind

SHOWN = 10  # candidates in the table, beside those that any sum is held against


@dataclass(frozen=True)
class Candidate:
    """Weights and how they did.

    Attributes:
        weights: in the order of the losses.
        generation: from 0.
        fitness: mean over seeds (and starts of k-means); more is better.
        sizes: of Zipf's clusters, the largest first; of the first seed and start.
        seconds: of training.
        failed: why it has no encoder; its fitness is that of vectors that are all one.
    """

    weights: Weights
    generation: int
    fitness: float
    sizes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    failed: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return named(self.weights)


@dataclass(frozen=True)
class Evolved:
    """All candidates of a search, in the order in which they were tried.

    Attributes:
        parts: names of the losses.
        candidates: see `Candidate`.
        measure: what their fitness is.
    """

    parts: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    measure: Kind = "zipf"

    @property
    def best(self) -> Candidate:
        """The fittest; of several the one that came first."""
        return max(self.candidates, key=lambda c: c.fitness)

    @property
    def weights(self) -> dict[str, float]:
        """The best weights, by the name of the loss."""
        return dict(zip(self.parts, self.best.weights, strict=True))

    @property
    def undecided(self) -> str:
        """A sentence where several candidates are the fittest; else nothing."""
        first = sum(c.fitness == self.best.fitness for c in self.candidates)
        if first == 1:
            return ""
        return (
            f"{first} of {len(self.candidates)} candidates are equally fit, so fitness does not "
            "choose among them and the first is taken; try the other --fitness, or more --samples."
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the schema of `evolve.json`."""
        tried = [{"name": c.name, **asdict(c)} for c in self.candidates]
        best = {"weights": self.weights, "fitness": self.best.fitness}
        return {**best, "measure": self.measure, "candidates": tried}

    def print(self) -> None:
        """The table: the best, and where equal weights and each loss alone stand."""
        measure = MEASURES[self.measure]
        table = Table(title=f"Weights by {measure.title}, best first", title_justify="left")
        for column in ("place", "candidate", *self.parts, "fitness", "generation", "seconds"):
            table.add_column(column, justify="left" if column == "candidate" else "right")
        order = sorted(self.candidates, key=lambda c: -c.fitness)
        for place, c in enumerate(order, start=1):
            said = "equal weights" if len(set(c.weights)) == 1 else ""
            said = f"{self.parts[c.weights.index(1)]} alone" if sum(c.weights) == 1 else said
            if place <= SHOWN or said:
                own = [f"{w:.2f}" for w in c.weights]
                about = [f"{c.fitness:.4f}", str(c.generation), f"{c.seconds:.0f}"]
                table.add_row(str(place), said or c.name, *own, *about)
        console = wide_console()
        console.print(table)
        for c in self.candidates:
            if c.failed:
                console.print(f"{c.name}: no encoder. {c.failed}", markup=False)
        console.print(
            f"Fitness is {measure.said}. It knows no task, and of many candidates the best is "
            "partly luck: hold the weights against equal ones under a probe (`unlabel bench`) "
            "before you trust them.",
            markup=False,
        )
        if self.undecided:
            console.print(self.undecided, markup=False)


def named(weights: Weights) -> str:
    """The folder of a candidate."""
    return "w-" + "-".join(f"{w:.2f}" for w in weights)


def picture(found: Evolved, path: str | Path) -> Path:
    """Draw fitness over the generations, and the weights of the best so far."""
    from matplotlib.figure import Figure

    generations = range(1 + max(c.generation for c in found.candidates))
    best = [
        max((c for c in found.candidates if c.generation <= g), key=lambda c: c.fitness)
        for g in generations
    ]
    figure = Figure(figsize=(6.4, 5.2), dpi=120)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot([c.generation for c in found.candidates], [c.fitness for c in found.candidates],
               "o", color="0.6", markersize=4, label="candidates")  # fmt: skip
    above.plot(generations, [c.fitness for c in best], "-o", markersize=5, label="best so far")
    equal = [c.fitness for c in found.candidates if len(set(c.weights)) == 1]
    for fitness in equal:
        above.axhline(fitness, color="0.3", linewidth=1, linestyle=":", label="equal weights")
    above.set_ylabel(f"fitness: {MEASURES[found.measure].title}")
    for i, part in enumerate(found.parts):
        (line,) = below.plot(generations, [c.weights[i] for c in best], "-o", label=part)
        tried = [(c.generation, c.weights[i]) for c in found.candidates]
        below.plot(*zip(*tried, strict=True), "o", color=line.get_color(), alpha=0.25, markersize=4)
    below.set_ylabel("weight")
    below.set_xlabel("generation")
    below.set_xticks(list(generations))
    for axis in (above, below):
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        axis.tick_params(labelsize=8)
    figure.savefig(path, bbox_inches="tight")
    return Path(path)


__all__ = ["Candidate", "Evolved", "named", "picture"]
