"""The smallest joint encoder: two kinds of data, each with a tower of its own, in one space."""

from dataclasses import replace
from typing import Any

from tiny_series import SAMPLES, TinySeries, make_series
from torch import nn

from unlabel.core import Batch, Encoding, View, ViewSpec
from unlabel.objectives import CLIP, CMC, SigLIP
from unlabel.training.pretraining import Pretraining

JITTERED = {"name": "jitter", "high": 0.5, "partner": "wave"}
JOINT = {
    "clip": lambda: CLIP(),
    "clip_anchor": lambda: CLIP(sides=("sensor", "wave", JITTERED), anchor="sensor"),
    "siglip": lambda: SigLIP(),
    "cmc_joint": lambda: CMC(width=8),
}


class TinyJoint(nn.Module):
    """A wave and what a sensor shows beside it."""

    sides = ("wave", "sensor")

    def __init__(self, *, width: int = 8, seed: int = 0):
        super().__init__()
        self.width, self.usual, self.local = width, "plain", None
        towers = {side: TinySeries(seed=seed + i) for i, side in enumerate(self.sides)}
        towers = {side: TinySeries(seed=seed + i) for i, side in enumerate(self.sides)}
        self.towers = nn.ModuleDict(towers)
        wide = towers["wave"]
        self.projections = nn.ModuleDict({s: nn.Linear(wide.width, width) for s in self.sides})
        self.gives = frozenset({"pooled", "sides", *self.sides})
        self.views, self.context, self.channels = wide.views, wide.context, wide.channels

    def view(self, batch: Batch, spec: ViewSpec) -> View:
        # Not another spec: torch.compile cannot follow how a stream is named.
        side, both = spec.partner or "wave", {"wave": batch.inputs, **batch.partners}
        seen = self.towers[side].view(replace(batch, partners=both), spec)
        return replace(seen, inputs={f"{side}.{k}": x for k, x in seen.inputs.items()})

    def forward(self, view: View, *, want: frozenset[str] = frozenset()) -> Encoding:
        (side,) = {k.partition(".")[0] for k in view.inputs}
        inner = replace(view, inputs={k.partition(".")[2]: x for k, x in view.inputs.items()})
        found = self.towers[side](inner, want=want)
        return replace(found, pooled=self.projections[side](found.pooled))


def joint(objective, rows: int = 8, first: int = 0, seed: int = 0):
    """A method on a joint encoder, and a batch."""
    encoder: Any = TinyJoint(seed=seed)
    return Pretraining(encoder, objective, SAMPLES), make_series(encoder, rows, first)
