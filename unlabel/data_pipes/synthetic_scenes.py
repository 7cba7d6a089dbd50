"""Scenes of two shapes that move, turn, grow, shrink, bounce or collide, as numbers.

What a clip shows at a moment is a function of phases on circles, `(x, y, spin, size, apart, hop)`,
all drawn uniformly; an action is which phase runs, and which way, while the others stand. A uniform
phase that runs stays uniform, so that at every moment a frame has the same distribution under
every action: nothing but the change from frame to frame tells which one it is.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

ACTIONS = ("move", "turn", "grow", "shrink", "bounce", "collide")
SHAPES = ("square", "triangle", "cross", "bar", "half disc")
COLORS = {
    "red": (214, 45, 52),
    "orange": (240, 140, 30),
    "yellow": (238, 214, 60),
    "green": (52, 160, 70),
    "blue": (48, 98, 210),
    "purple": (140, 62, 175),
}
TEXTURES = ("clouds", "stripes", "checks", "waves")
PHASES = ("x", "y", "spin", "size", "apart", "hop")
SMALL, LARGE = 0.08, 0.17  # radius, in widths of the frame
FAR = 0.46  # of the centres at most: on a frame whose edges meet, half is as far as it goes
HOP = 0.22  # height of a hop
# Cycles a second of the phase that an action runs: once across, once around, once grown in about
# two seconds; two to four hops, and at least one collision in that time.
RATES = {
    "move": (0.3, 0.6),
    "turn": (0.3, 0.6),
    "grow": (0.4, 0.7),
    "shrink": (0.4, 0.7),
    "bounce": (1.0, 2.0),
    "collide": (0.55, 1.0),
}
_WAYS = {
    "move": (("left", "x", -1), ("right", "x", 1), ("up", "y", -1), ("down", "y", 1)),
    "turn": (("clockwise", "spin", 1), ("anticlockwise", "spin", -1)),
    "grow": (("", "size", 1),),
    "shrink": (("", "size", -1),),
    "bounce": (("", "hop", 1),),
    "collide": (("", "apart", 1),),
}
_VERBS = {"bounce": "bounce up and down", "collide": "collide and recoil"}


@dataclass(frozen=True)
class Scenes:
    """What clips show, a row each.

    Attributes:
        action: place in `ACTIONS`.
        direction: `left`, `right`, `up`, `down`, `clockwise`, `anticlockwise`, or nothing.
        start: the phases at time 0, in the order of `PHASES`, in cycles.
        rate: cycles a second of each phase.
        axis: angle from the first shape to the second, in cycles.
        angle: of each shape before it turns, in cycles.
        share: size of each shape beside what the phase says, 0.8 to 1.
        shape: place in `SHAPES` of each of the two.
        color: place in `COLORS` of each of the two; they differ.
        texture: place in `TEXTURES`.
        seed: of what else is drawn for the clip (the texture, the sound).
    """

    action: Int64[np.ndarray, "clips"]
    direction: tuple[str, ...]
    start: Float[np.ndarray, "clips phases"]
    rate: Float[np.ndarray, "clips phases"]
    axis: Float[np.ndarray, "clips"]
    angle: Float[np.ndarray, "clips 2"]
    share: Float[np.ndarray, "clips 2"]
    shape: Int64[np.ndarray, "clips 2"]
    color: Int64[np.ndarray, "clips 2"]
    texture: Int64[np.ndarray, "clips"]
    seed: Int64[np.ndarray, "clips"]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.action)

    def rows(self, rows: slice) -> "Scenes":
        """Some of the clips."""
        return Scenes(**{k: v[rows] for k, v in self.__dict__.items()})

    def phases(self, times: Float[np.ndarray, "times"]) -> Float[np.ndarray, "clips times phases"]:
        """The phases at times in seconds, in cycles."""
        return self.start[:, None] + self.rate[:, None] * times[:, None]

    def caption(self, row: int) -> str:
        """A sentence that says what the clip shows."""
        names = list(COLORS)
        first, second = (
            f"a {names[c]} {SHAPES[s]}"
            for c, s in zip(self.color[row], self.shape[row], strict=True)
        )
        action = ACTIONS[self.action[row]]
        verb = " ".join(filter(None, (_VERBS.get(action, action), self.direction[row])))
        sentence = f"{first} and {second} {verb} over {TEXTURES[self.texture[row]]}"
        return sentence.replace("a orange", "an orange").capitalize() + "."


def draw_scenes(count: int, *, seed: int = 0) -> Scenes:
    """Draw scenes; the actions take turns, so that there are as many of each.

    Args:
        count: of clips.
        seed: of everything drawn; the same arguments give the same scenes on every machine.

    Raises:
        ValueError: no clip asked for.
    """
    if count < 1:
        raise ValueError(f"count is at least 1, but {count} came.")
    random = np.random.default_rng([seed, 0x5CE7E])
    action = random.permutation(np.arange(count) % len(ACTIONS))
    low, high = np.array([RATES[a] for a in ACTIONS])[action].T
    speed = random.uniform(low, high)
    names, phase, sign = _ways(action, random.integers(0, 4, count))
    rate = np.zeros((count, len(PHASES)))
    rate[np.arange(count), phase] = speed * sign
    color = random.integers(0, len(COLORS), (count, 2))
    color[:, 1] = (color[:, 0] + random.integers(1, len(COLORS), count)) % len(COLORS)
    return Scenes(
        action=action,
        direction=names,
        start=random.random((count, len(PHASES))),
        rate=rate,
        axis=random.random(count),
        angle=random.random((count, 2)),
        share=random.uniform(0.8, 1.0, (count, 2)),
        shape=random.integers(0, len(SHAPES), (count, 2)),
        color=color,
        texture=random.integers(0, len(TEXTURES), count),
        seed=random.integers(0, 2**31, count),
    )


def _ways(
    action: Int64[np.ndarray, "clips"], drawn: Int64[np.ndarray, "clips"]
) -> tuple[tuple[str, ...], Int64[np.ndarray, "clips"], Int64[np.ndarray, "clips"]]:
    ways = [
        _WAYS[ACTIONS[a]][d % len(_WAYS[ACTIONS[a]])] for a, d in zip(action, drawn, strict=True)
    ]
    names, phase, sign = zip(*ways, strict=True)
    return names, np.array([PHASES.index(p) for p in phase]), np.array(sign)


def radii(
    scenes: Scenes, phases: Float[np.ndarray, "clips times phases"]
) -> Float[np.ndarray, "clips times 2"]:
    """Radius of each shape, in widths of the frame: it grows with its phase and begins anew."""
    size = SMALL + (LARGE - SMALL) * (phases[..., 3] % 1)
    return size[..., None] * scenes.share[:, None]


def places(
    scenes: Scenes, phases: Float[np.ndarray, "clips times phases"]
) -> Float[np.ndarray, "clips times 2 2"]:
    """`(x, y)` of each shape, in widths of the frame, whose edges meet: 1 is where 0 is."""
    hop = phases[..., 5] % 1
    middle = phases[..., :2] - np.stack([np.zeros_like(hop), HOP * 4 * hop * (1 - hop)], -1)
    contact = radii(scenes, phases).sum(-1)
    apart = contact + (FAR - contact) * np.abs(np.sin(np.pi * phases[..., 4]))
    turn = 2 * np.pi * scenes.axis
    half = 0.5 * apart[..., None] * np.stack([np.cos(turn), np.sin(turn)], -1)[:, None]
    return np.stack([middle - half, middle + half], axis=2) % 1


def angles(
    scenes: Scenes, phases: Float[np.ndarray, "clips times phases"]
) -> Float[np.ndarray, "clips times 2"]:
    """Angle of each shape in radians; on a screen, whose y points down, it grows clockwise."""
    return 2 * np.pi * (scenes.angle[:, None] + phases[..., 2:3])


__all__ = ["ACTIONS", "COLORS", "PHASES", "SHAPES", "TEXTURES", "Scenes", "angles", "draw_scenes",
           "places", "radii"]  # fmt: skip
