"""What a probe reads of a recording: one vector, made of the encoder's vectors of its windows."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

QUARTERS = 4


def quarters(tokens: Float[Tensor, "tokens width"]) -> Float[Tensor, "features"]:
    """Means over four equal parts of the time, side by side; of few tokens parts share some."""
    count = len(tokens)
    ends = [(k * count // QUARTERS, -(-(k + 1) * count // QUARTERS)) for k in range(QUARTERS)]
    return torch.cat([tokens[a:b].mean(0) for a, b in ends])


# Over all tokens of a recording, in the order of their time.
SUMMARIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda tokens: tokens.mean(0),
    "std": lambda tokens: tokens.std(0, correction=0),
    "max": lambda tokens: tokens.amax(0),
    "quarters": quarters,
}
PARTS = ("pooled", *SUMMARIES)


def summary(
    pooled: Float[Tensor, "windows width"],
    tokens: Float[Tensor, "tokens width"] | None,
    parts: Sequence[str],
) -> Float[Tensor, "features"]:
    """The parts of a recording's vector, side by side.

    Args:
        pooled: the encoder's own vector of each window; `pooled` is their mean.
        tokens: of all its windows; None where no part needs them.
        parts: some of `PARTS`.
    """
    found = []
    for part in parts:
        if part == "pooled":
            found.append(pooled.mean(0))
        else:
            assert tokens is not None  # the encoder keeps them where they are asked for
            found.append(SUMMARIES[part](tokens))
    return torch.cat(found)


def check_parts(parts: Sequence[str]) -> None:
    """Refuse no part, and one that there is not.

    Raises:
        ValueError: so it is.
    """
    if not parts or any(part not in PARTS for part in parts):
        raise ValueError(
            f"features is a list of some of {', '.join(PARTS)}, but {list(parts)} came."
        )


__all__ = ["PARTS", "check_parts", "quarters", "summary"]
