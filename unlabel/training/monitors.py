"""Smoke alarms of self-supervision, computed from a batch of embeddings while training."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unlabel.objectives.moments import alignment, effective_rank, uniformity

FLAT = 0.003  # std: what differs is rounding, in bf16 0.001 to 0.002
SMALL = 0.1  # std: small, though a network with a large common part may begin so
FEW, ONE = 0.05, 1.5  # of the rank that there could be; a rank that is hardly above one
CLOSE = 0.8  # cosine about the mean: two views that the encoder takes for the same thing
DOUBLES = 0.25  # share of samples with another one as close as their own second view
QUICK = 50  # steps over which a teacher that follows too fast averages, at most


@torch.no_grad()
def embedding_std(z: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """Mean over features of the std of unit embeddings, times sqrt(width).

    1 for embeddings spread evenly over the sphere, 0 when all are equal (Chen & He 2021, 4.1).
    """
    unit = F.normalize(z.float(), dim=1)
    return unit.std(0, correction=0).mean() * z.shape[1] ** 0.5


def look(pooled: Sequence[Float[Tensor, "batch width"]], rows: int) -> dict[str, float]:
    """Figures of a batch: std, effective rank, uniformity; with two views also alignment, doubles.

    Doubles is the share of samples that are close to their own second view and to another sample's
    no less: what a contrastive loss pushes apart though it is the same. Samples whose embedding is
    not finite are left out; without two others there are no figures.

    Args:
        pooled: embeddings of the batch's views, same samples in the same order.
        rows: samples looked at.
    """
    finite = torch.stack([z.isfinite().all(1) for z in pooled]).all(0)
    views = [z[finite][:rows].float() for z in pooled]
    if len(views[0]) < 2:
        return {}
    z, n = F.normalize(views[0], dim=1), len(views[0])
    figures = {
        "std": embedding_std(z),
        "effective_rank": effective_rank(views[0]),
        "uniformity": uniformity(z),
    }
    if len(views) > 1:
        figures["alignment"] = alignment(z, F.normalize(views[1], dim=1))
        figures["doubles"] = _doubles(views[0], views[1])
    # One transfer from the device for all of them.
    values = torch.stack([torch.as_tensor(v, device=z.device) for v in figures.values()]).tolist()
    return dict(zip(figures, values, strict=True)) | {"rows": float(n)}


def alarms(
    figures: Mapping[str, float],
    terms: Mapping[str, tuple[float, float | None]],
    width: int,
    untrained: Mapping[str, float] | None = None,
) -> list[str]:
    """Plain warnings for what the figures show, each with the usual remedy.

    Args:
        figures: from `look`, and `teacher`, the moving average's momentum, where there is one.
        terms: name -> (loss, chance level) since the last look.
        width: of the embeddings.
        untrained: from `look` before the first step, where it is known: small spread and few
            dimensions are a collapse only where training made them smaller.
    """
    collapsed = _collapse(figures, width, untrained or {})
    said = list(collapsed)
    said += _teacher(figures, untrained or {})
    if figures.get("doubles", 0.0) > DOUBLES and any("contrast" in name for name in terms):
        said.append(
            f"{figures['doubles']:.0%} of the batch have another sample as close as their own "
            "second view: false negatives, which the contrast pushes apart though alike. Remove "
            "duplicates, take fewer samples of one file in a batch (clips, overlapping windows), "
            "or correct for them (--objective debiased)."
        )
    for name, (loss, chance) in terms.items():
        if chance is None:
            continue
        # What collapsed, or follows a teacher, agrees with itself: no leak is needed for that.
        is_given = "teacher" not in figures and not collapsed and "contrast" not in name
        if is_given and loss < 0.01 * chance:
            said.append(
                f"{name} is solved next to perfectly: {loss:.1e}, where knowing nothing gives "
                f"{chance:.2f}. Either the targets leak into what the encoder sees, or the task is "
                "too easy to teach anything. Hide larger pieces or more of them, and put views "
                "that mix neighbours behind the mask."
            )
        if "contrast" in name and loss < 1e-3 * chance:
            said.append(
                f"{name} is {loss:.1e}, next to nothing beside its chance level {chance:.2f}: the "
                "negatives no longer push, so the gradient starves. Raise the temperature, use "
                "stronger views (more dropout or cutoff), or larger batches."
            )
    return said


@torch.no_grad()
def _doubles(
    one: Float[Tensor, "batch width"], two: Float[Tensor, "batch width"]
) -> Float[Tensor, ""]:
    mean = torch.cat([one, two]).mean(0)
    cosines = F.normalize(one - mean, dim=1) @ F.normalize(two - mean, dim=1).T
    own = cosines.diagonal()
    other = cosines.clone().fill_diagonal_(-1.0).amax(1)
    return ((own > CLOSE) & (other >= own)).float().mean()


def _teacher(figures: Mapping[str, float], untrained: Mapping[str, float]) -> list[str]:
    momentum = figures.get("teacher")
    shrinks = any(
        figures.get(key, 1.0) < untrained.get(key, 0.0) / 2 for key in ("std", "effective_rank")
    )
    if momentum is None or not shrinks or 1 / max(1 - momentum, 1e-9) > QUICK:
        return []
    return [
        f"The embeddings shrink while the teacher follows within about {1 / (1 - momentum):.0f} "
        f"steps (momentum {momentum}): it agrees with whatever the encoder does. Raise its "
        "momentum towards 0.99 or more, or lower the learning rate."
    ]


def _collapse(
    figures: Mapping[str, float], width: int, untrained: Mapping[str, float]
) -> list[str]:
    ceiling = min(width, figures.get("rows", width + 1) - 1)
    std, rank = figures.get("std", 1.0), figures.get("effective_rank", ceiling)
    # Where the start is not known, spread tells nothing above the level of rounding.
    if std < max(FLAT, min(SMALL, untrained.get("std", 0.0) / 3)):
        began = f", {untrained['std']:.3f} before training" if "std" in untrained else ""
        return [
            f"The encoder has collapsed: all embeddings are nearly equal (std {std:.3f}, 1 is "
            f"spread evenly{began}). Lower the learning rate, or check that the objective has "
            "negatives, a predictor or a variance term."
        ]
    if rank < min(max(FEW * ceiling, ONE), untrained.get("effective_rank", ceiling) / 2):
        return [
            f"The embeddings fill few dimensions (effective rank {rank:.1f} of {ceiling:.0f}): "
            "dimensional collapse. Use stronger or more varied views, a wider projector, or "
            "larger batches."
        ]
    return []
