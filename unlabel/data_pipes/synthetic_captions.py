"""Sentences about one object that moves: many wordings of its shape, colour, motion and pace."""

import numpy as np

# The plain word comes first, and is as frequent as all others together.
COLOR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "amber"),
    "yellow": ("yellow", "gold"),
    "green": ("green", "emerald"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
    "pink": ("pink", "rose"),
}
SHAPE_WORDS = {
    "square": ("square", "box"),
    "triangle": ("triangle", "three-cornered shape"),
    "cross": ("cross", "plus sign"),
    "bar": ("bar", "rod"),
    "half disc": ("half disc", "semicircle", "half moon"),
}
# What it does, and what it is doing.
MOTION_WORDS = {
    "slide": (
        ("slides from side to side", "sliding from side to side"),
        ("glides left and right", "gliding left and right"),
        ("moves back and forth", "moving back and forth"),
    ),
    "rise": (
        ("moves up and down", "moving up and down"),
        ("rises and sinks", "rising and sinking"),
        ("floats up and down", "floating up and down"),
    ),
    "circle": (
        ("moves in a circle", "moving in a circle"),
        ("goes round and round", "going round and round"),
        ("travels along a ring", "travelling along a ring"),
    ),
    "spin": (
        ("spins on the spot", "spinning on the spot"),
        ("rotates", "rotating"),
        ("turns about its own centre", "turning about its own centre"),
    ),
    "pulse": (
        ("grows and shrinks", "growing and shrinking"),
        ("pulses", "pulsing"),
        ("swells and shrinks again", "swelling and shrinking again"),
    ),
    "bounce": (
        ("bounces", "bouncing"),
        ("hops", "hopping"),
        ("bounces like a ball", "bouncing like a ball"),
    ),
    "swing": (
        ("swings like a pendulum", "swinging like a pendulum"),
        ("swings to and fro", "swinging to and fro"),
        ("sways", "swaying"),
    ),
    "shake": (("shakes", "shaking"), ("trembles", "trembling"), ("shivers", "shivering")),
}
PACE_WORDS = {
    "slow": ("slowly", "at a slow pace", "unhurriedly"),
    "medium": ("", "", "steadily", "at a steady pace"),
    "fast": ("quickly", "at high speed", "rapidly"),
}
DIRECTION_WORDS = {
    "": ("",),
    "clockwise": ("clockwise",),
    "anticlockwise": ("anticlockwise", "counterclockwise"),
}
# {a} and {the}: the object with its article; {does}, {doing}: the motion and its direction.
TEMPLATES = (
    "{a} {does} {pace}",
    "{a} {doing} {pace}",
    "{pace} {a} {does}",
    "there is {a} that {does} {pace}",
    "we see {a} {doing} {pace}",
    "{doing} {pace}: {a}",
    "in this clip {a} {does} {pace}",
    "{the} {does} {pace}",
    "a {shape}, {color}, {does} {pace}",
    "what {does} {pace} is {a}",
    "{pace} {doing}, {a} is all there is to see",
    "a {shape} in {color} {does} {pace}",
)


def write_caption(
    random: np.random.Generator, *, shape: str, color: str, motion: str, pace: str, direction: str
) -> str:
    """A sentence that says all five.

    Args:
        random: draws the wording.
        shape: one of `SHAPE_WORDS`.
        color: one of `COLOR_WORDS`.
        motion: one of `MOTION_WORDS`.
        pace: one of `PACE_WORDS`.
        direction: one of `DIRECTION_WORDS`.
    """
    pick = lambda words: words[int(random.integers(len(words)))]  # noqa: E731
    often = lambda words: words[0] if random.random() < 0.5 else pick(words)  # noqa: E731
    shape, color = often(SHAPE_WORDS[shape]), often(COLOR_WORDS[color])
    way, thing = pick(DIRECTION_WORDS[direction]), f"{color} {shape}"
    does, doing = (f"{words} {way}" for words in pick(MOTION_WORDS[motion]))
    words = {
        "a": f"{'an' if color[0] in 'aeiou' else 'a'} {thing}", "the": f"the {thing}",
        "shape": shape, "color": color, "does": does, "doing": doing,
        "pace": pick(PACE_WORDS[pace]),
    }  # fmt: skip
    sentence = " ".join(pick(TEMPLATES).format(**words).split())
    sentence = sentence.replace(" :", ":").replace(" ,", ",")
    return sentence[0].upper() + sentence[1:] + "."


__all__ = ["COLOR_WORDS", "DIRECTION_WORDS", "MOTION_WORDS", "PACE_WORDS", "SHAPE_WORDS",
           "write_caption"]  # fmt: skip
