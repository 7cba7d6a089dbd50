"""What can be said of a frozen encoder without labels, from samples and their views alone."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unlabel.core import Batch, ViewSpec
from unlabel.objectives.chains import chain
from unlabel.objectives.moments import alignment, effective_rank, uniformity

# Figure -> whether more of it is taken for better.
FIGURES = {"effective rank": True, "views found": True, "alignment": False, "uniformity": False}


def label_free(
    encoder: Any,
    store: Any,
    views: Sequence[ViewSpec],
    *,
    samples: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, float]:
    """Figures of an encoder on samples of data, best ones that it was not trained on.

    `effective rank` is RankMe's about the mean, of the vectors as they are. `views found` is how
    often (x100) a sample's second view is the nearest of all second views to its first, a pretext
    that is the same for every objective. `alignment` is the mean squared distance of the two
    views' unit vectors and `uniformity` the log of the mean `exp(-2 d^2)` over pairs of samples.

    Args:
        encoder: a modality's adapter.
        store: samples by place, with a length.
        views: two draws of a view.
        samples: how many are looked at, evenly spread over the store.
        batch_size: samples a forward pass.
        seed: of the views.
        device: to compute on.

    Raises:
        ValueError: fewer than two samples, or vectors that are not finite.

    Reference: Garrido et al. 2023 (RankMe), arXiv 2210.02885; Wang & Isola 2020, arXiv 2005.10242,
    section 4.
    """
    how: dict[str, Any] = {"samples": samples, "batch_size": batch_size, "seed": seed}
    plain, one, two = vectors(encoder, store, [ViewSpec("plain"), *views], device=device, **how)
    if not plain.isfinite().all():
        raise ValueError("The encoder gives vectors that are not finite: its training diverged.")
    return {
        "effective rank": float(effective_rank(plain)),
        "views found": views_found(one, two),
        "alignment": float(alignment(F.normalize(one, dim=1), F.normalize(two, dim=1))),
        "uniformity": float(uniformity(F.normalize(plain, dim=1))),
    }


def usual_views(adapter: Any, views: str | None = None) -> list[ViewSpec]:
    """Two draws of a view that is the same for every objective.

    Args:
        adapter: a modality's adapter or its class.
        views: the view, joined by `+`; default the usual one of the kind of data (of text a token
            cutoff, as dropout is off when figures are taken).
    """
    named = views or ("token_cutoff" if adapter.usual == "plain" else adapter.usual)
    return [chain(named, draw=draw) for draw in (0, 1)]


def views_found(one: Float[Tensor, "rows width"], two: Float[Tensor, "rows width"]) -> float:
    """How often (x100) a row of the second is the nearest, by cosine, to its row of the first."""
    found = (F.normalize(one, dim=1) @ F.normalize(two, dim=1).T).argmax(1)
    return 100 * float((found == torch.arange(len(one), device=one.device)).float().mean())


def vectors(
    encoder: Any,
    store: Any,
    views: Sequence[ViewSpec],
    *,
    samples: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> list[Tensor]:
    """The vectors of samples in each of several views, `(samples, width)`; see `label_free`.

    Raises:
        ValueError: fewer than two samples.
    """
    count = min(samples, len(store))
    if count < 2:
        raise ValueError(f"{count} sample came: figures without labels need at least two.")
    places = np.unique(np.linspace(0, len(store) - 1, count).astype(int)).tolist()
    was_training = encoder.training
    encoder.eval().to(device)
    parts: list[list[Tensor]] = [[] for _ in views]
    try:
        with torch.inference_mode():
            for batch in _batches(store, encoder.collator(seed=seed), places, batch_size):
                for found, spec in zip(parts, views, strict=True):
                    found.append(encoder(encoder.view(batch.to(device), spec)).pooled.float())
    finally:
        encoder.train(was_training)
    return [torch.cat(part) for part in parts]


def _batches(store: Any, collate: Any, places: Sequence[int], size: int) -> Iterator[Batch]:
    for start in range(0, len(places), size):
        yield collate([store[place] for place in places[start : start + size]])


__all__ = ["FIGURES", "label_free", "usual_views", "vectors", "views_found"]
