"""A run's training log: means of the terms, chance levels, monitors, and warnings said once."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from unlabel.objectives import Term
from unlabel.objectives.gather import gather, world
from unlabel.training import monitors
from unlabel.training.meter import Meter
from unlabel.training.pretraining import Pretraining, Step
from unlabel.training.waiting import waiting_alarm

logger = logging.getLogger(__name__)


class Journal:
    """What a trainer remembers of its steps until the next line of its log.

    Attributes:
        last: the newest step, without its graph.

    Args:
        rows: embeddings of all ranks together that a monitor looks at; 0 turns the monitors off.
    """

    def __init__(self, rows: int):
        self.rows = rows
        self.last: Step | None = None
        self._meter = Meter()
        self._untrained: dict[str, float] = {}  # what the monitors saw before the first step
        self._suspected: set[str] = set()
        self._said: set[str] = set()

    def note(self, step: Step, *, first: bool) -> Step:
        """Remember a step; the `first` one of a run is looked at for comparison."""
        terms = {name: _detached(t) for name, t in step.terms.items()}
        self.last = Step(step.loss.detach(), terms, step.pooled)
        if first and self.rows:
            self._untrained = self._figures(step)
        losses = {f"objective/{n}": t.loss for n, t in terms.items()}
        self._meter.add({"loss": self.last.loss} | losses)
        return self.last

    def line(self, module: Pretraining, waiting: float) -> dict[str, float]:
        """Means since the last line, chance levels and the objective's figures; of every rank.

        Args:
            module: what is trained.
            waiting: share of the time that passed in waiting for data.
        """
        assert self.last is not None
        found = self._meter.means()
        for name, term in self.last.terms.items():
            if term.chance is not None:
                found[f"chance/{name}"] = float(term.chance)
        return found | module.objective.figures() | {"monitor/waiting": waiting}

    def look(self, module: Pretraining, line: dict[str, float], at: int) -> dict[str, float]:
        """The monitors' figures for a line, on every rank alike.

        What is wrong in two lines in a row is said once, by the first rank.
        """
        assert self.last is not None
        found, sentences = {}, [waiting_alarm(line["monitor/waiting"])]
        if self.rows:
            figures = self._figures(self.last)
            if figures and module.teacher is not None:
                figures["teacher"] = module.teacher.present
            found = {f"monitor/{k}": v for k, v in figures.items() if k != "rows"}
            compared = ("std", "effective_rank")
            found |= {f"untrained/{k}": v for k, v in self._untrained.items() if k in compared}
            terms = {n: (line[f"objective/{n}"], line.get(f"chance/{n}")) for n in self.last.terms}
            width = self.last.pooled[0].shape[1]
            sentences = [*monitors.alarms(figures, terms, width, self._untrained), *sentences]
        if world()[0] == 0:
            self._warn([s for s in sentences if s], at)
        return found

    def state_dict(self) -> dict[str, Any]:
        """What goes on in a resumed run, as plain numbers."""
        return {"meter": self._meter.state_dict(), "untrained": self._untrained}

    def load_state_dict(self, kept: dict[str, Any], own: bool) -> None:
        """Go on from `state_dict()`; with that of another rank (not `own`), without its sums."""
        self._meter.load_state_dict(kept["meter"] if own else {})
        self._untrained = kept.get("untrained", {})

    def _figures(self, step: Step) -> dict[str, float]:
        """What the monitors see in as many rows of each rank; every rank must call it."""
        size = world()[1]
        share = -(-self.rows // size) if size > 1 else None
        return monitors.look([gather(z[:share]) for z in step.pooled], self.rows)

    def _warn(self, sentences: Sequence[str], at: int) -> None:
        before, self._suspected = self._suspected, set()
        for sentence in sentences:
            kind = re.sub(r"[\d.]+(e[+-]\d+)?", "", sentence)  # the same but for its figures
            self._suspected.add(kind)
            # One line may be a start (MoCo's queue is random then, loader and cache begin empty);
            # two in a row are a finding.
            if kind in before and kind not in self._said:
                logger.warning("Step %d. %s", at, sentence)
                self._said.add(kind)


def _detached(term: Term) -> Term:
    weight = term.weight.detach() if isinstance(term.weight, Tensor) else term.weight
    return term._replace(loss=term.loss.detach(), weight=weight)


__all__ = ["Journal"]
