"""Labels of a data set: what a field says, and the share of them that training is to see."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64

__all__ = ["kept_labels", "said_in"]


def said_in(field: Any) -> str | None:
    """What a field of a table says, its white space in order; None where it is empty or missing."""
    if pd.api.types.is_scalar(field) and pd.isna(field):
        return None
    return " ".join(str(field).split()) or None


def kept_labels(
    labels: Int64[np.ndarray, "count"], share: float, *, seed: int = 0
) -> Int64[np.ndarray, "count"]:
    """The labels of a share of each class, at least of one member; -1 for all others.

    Args:
        labels: -1 for none.
        share: from 0 (none) to 1 (all).
        seed: of the draw.

    Raises:
        ValueError: no share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"labels is the share of labels to keep, from 0 to 1, but {share} came.")
    if not share:
        return np.full_like(labels, -1)
    order = np.random.default_rng(seed).permutation(len(labels))
    # Members of a class, in the order of the draw: the place of each among its own.
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, first, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(first, count)
    keeps = place < np.repeat(np.maximum(1, np.round(share * count)), count)
    kept = np.full_like(labels, -1)
    kept[by_class[keeps]] = labels[by_class[keeps]]
    return kept
