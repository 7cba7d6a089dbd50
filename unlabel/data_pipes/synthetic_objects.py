"""One object that moves, as numbers: what its picture, its sound, its words and its sensors share.

A sample is a shape, a colour, a motion and a pace. One phase runs, and the motion says what it
moves: place, angle or size. A fifth of the combinations of shape, colour and motion is held out:
no two of the three foretell the third there, since every two of them are seen together in training.
"""

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from unlabel.data_pipes.synthetic_scenes import COLORS as FEWER_COLORS
from unlabel.data_pipes.synthetic_scenes import SHAPES, TEXTURES

Split = Literal["train", "test"]

COLORS = {**FEWER_COLORS, "cyan": (60, 205, 215), "pink": (250, 150, 190)}
# Whole cycles a second, at a medium pace.
MOTIONS = {
    "slide": 1.0, "rise": 1.0, "circle": 1.0, "spin": 0.5, "pulse": 1.0, "bounce": 1.2,
    "swing": 0.9, "shake": 2.5,
}  # fmt: skip
PACES = {"slow": (0.6, 0.75), "medium": (0.95, 1.15), "fast": (1.5, 1.75)}  # times that
TURNING = ("circle", "spin")  # clockwise or anticlockwise
_ROD = 0.3  # of a pendulum, in widths of the frame
_SWAY = 0.11  # cycles to either side
_PARTS = 5  # one in so many combinations is held out


@dataclass(frozen=True)
class Objects:
    """What samples show, a row each.

    Attributes:
        shape: place in `SHAPES`.
        color: place in `COLORS`.
        motion: place in `MOTIONS`.
        pace: place in `PACES`.
        way: 1 clockwise, -1 anticlockwise; 1 where the motion has neither.
        rate: cycles a second.
        start: the phase at time 0, in cycles.
        home: middle of the motion, `(x, y)` in widths of the frame.
        reach: how far it leads, in widths of the frame.
        radius: of the object, likewise.
        tilt: of it, in cycles.
        light: how much its light varies, how often a second, and from which phase on.
        texture: place in `TEXTURES`.
        seed: of what else is drawn for the sample.
    """

    shape: Int64[np.ndarray, "count"]
    color: Int64[np.ndarray, "count"]
    motion: Int64[np.ndarray, "count"]
    pace: Int64[np.ndarray, "count"]
    way: Int64[np.ndarray, "count"]
    rate: Float[np.ndarray, "count"]
    start: Float[np.ndarray, "count"]
    home: Float[np.ndarray, "count 2"]
    reach: Float[np.ndarray, "count"]
    radius: Float[np.ndarray, "count"]
    tilt: Float[np.ndarray, "count"]
    light: Float[np.ndarray, "count 3"]
    texture: Int64[np.ndarray, "count"]
    seed: Int64[np.ndarray, "count"]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.shape)

    def rows(self, rows: slice) -> "Objects":
        """Some of the samples."""
        return Objects(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def phase(self, times: Float[np.ndarray, "times"]) -> Float[np.ndarray, "count times"]:
        """The phase at times in seconds, in cycles."""
        return self.start[:, None] + self.rate[:, None] * times

    def brightness(self, times: Float[np.ndarray, "times"]) -> Float[np.ndarray, "count times"]:
        """Of the light, about 1."""
        much, often, phase = self.light.T[..., None]
        return 1 + much * np.sin(2 * np.pi * (often * times + phase))

    def names(self, row: int) -> dict[str, str]:
        """`shape`, `color`, `motion`, `pace` and `direction` of a sample."""
        motion = list(MOTIONS)[self.motion[row]]
        direction = "clockwise" if self.way[row] > 0 else "anticlockwise"
        return {
            "shape": SHAPES[self.shape[row]],
            "color": list(COLORS)[self.color[row]],
            "motion": motion,
            "pace": list(PACES)[self.pace[row]],
            "direction": direction if motion in TURNING else "",
        }


class States(NamedTuple):
    """Where objects are over time.

    Attributes:
        x: of the middle, to the right, in widths of the frame.
        y: of the middle, down.
        radius: in widths of the frame.
        angle: in cycles, clockwise; it runs on after a whole turn.
    """

    x: Float[np.ndarray, "count times"]
    y: Float[np.ndarray, "count times"]
    radius: Float[np.ndarray, "count times"]
    angle: Float[np.ndarray, "count times"]


def combinations(split: Split) -> Int64[np.ndarray, "combinations 3"]:
    """Places of shape, colour and motion of every combination that belongs to a split.

    Every pair of colour and motion lacks one shape in training, and every shape lacks it equally
    often.
    """
    sizes = len(SHAPES), len(COLORS), len(MOTIONS)
    shape, color, motion = (part.ravel() for part in np.indices(sizes))
    is_held_out = (shape + color + 2 * motion) % _PARTS == 0
    own = is_held_out if split == "test" else ~is_held_out
    return np.stack([shape, color, motion], axis=1)[own]


def draw_objects(count: int, *, split: Split = "train", seed: int = 0) -> Objects:
    """Draw samples: every combination of the split once, then every one again at another pace.

    Args:
        count: of samples.
        split: whose combinations are drawn.
        seed: of everything drawn; the same arguments give the same samples on every machine.

    Raises:
        ValueError: no sample asked for.
    """
    if count < 1:
        raise ValueError(f"count is at least 1, but {count} came.")
    random = np.random.default_rng([seed, 0x0B7EC7, split == "test"])
    parts = combinations(split)
    rounds = -(-count // len(parts))
    picked = np.concatenate([random.permutation(len(parts)) for _ in range(rounds)])[:count]
    number = np.arange(count) // len(parts)
    pace = (random.integers(0, len(PACES), len(parts))[picked] + number) % len(PACES)
    shape, color, motion = parts[picked].T
    low, high = np.array(list(PACES.values()))[pace].T
    turns = np.isin(motion, [list(MOTIONS).index(m) for m in TURNING])
    return Objects(
        shape=shape,
        color=color,
        motion=motion,
        pace=pace,
        way=np.where(turns, random.choice([-1, 1], count), 1),
        rate=np.array(list(MOTIONS.values()))[motion] * random.uniform(low, high),
        start=random.random(count),
        home=random.uniform(0.45, 0.55, (count, 2)),
        reach=random.uniform(0.18, 0.24, count),
        radius=random.uniform(0.14, 0.2, count),
        tilt=random.uniform(-0.03, 0.03, count),
        light=random.uniform([0.08, 0.25, 0], [0.2, 0.6, 1], (count, 3)),
        texture=random.integers(0, len(TEXTURES), count),
        seed=random.integers(0, 2**31, count),
    )


def states(objects: Objects, times: Float[np.ndarray, "times"]) -> States:
    """Where objects are at times in seconds.

    With the phase p, the wave s = sin(2 pi p), the reach r and what stands as drawn:

    - `slide`: x = home + r s; `rise`: y = home + r s
    - `circle`: (x, y) = home + r (cos, sin)(2 pi way p)
    - `spin`: angle = tilt + way p
    - `pulse`: radius (1 + 0.4 s)
    - `bounce`: y = home + r - 8 r h (1 - h), with the share h of a hop that is over
    - `swing`: a pendulum of length 0.3 at 0.11 s cycles, and the object leans with it
    - `shake`: x = home + r s / 5, and the angle trembles with it

    Args:
        objects: what moves.
        times: seconds.
    """
    phase = objects.phase(times)
    turn = 2 * np.pi * objects.way[:, None] * phase
    wave, reach = np.sin(2 * np.pi * phase), objects.reach[:, None]
    x, y = (np.repeat(objects.home[:, k, None], len(times), 1) for k in (0, 1))
    radius, angle = (np.repeat(v[:, None], len(times), 1) for v in (objects.radius, objects.tilt))
    own = {name: (objects.motion == k)[:, None] for k, name in enumerate(MOTIONS)}
    sway, hop = 2 * np.pi * _SWAY * wave, phase % 1
    x += own["slide"] * reach * wave + own["circle"] * reach * np.cos(turn)
    x += own["swing"] * _ROD * np.sin(sway) + own["shake"] * reach * wave / 5
    y += own["rise"] * reach * wave + own["circle"] * reach * np.sin(turn)
    y += own["bounce"] * reach * (1 - 8 * hop * (1 - hop))
    y -= own["swing"] * _ROD * (1 - np.cos(sway))
    radius *= 1 + 0.4 * own["pulse"] * wave
    angle += own["spin"] * objects.way[:, None] * phase
    angle += own["shake"] * 0.02 * wave - own["swing"] * _SWAY * wave
    return States(x, y, radius, angle)


__all__ = ["COLORS", "MOTIONS", "PACES", "SHAPES", "Objects", "Split", "States", "combinations",
           "draw_objects", "states"]  # fmt: skip
