"""The same contrastive losses computed by us, as one matrix, and by other libraries."""

import importlib
import importlib.abc
import importlib.util
import math
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel.objectives.contrast import contrast, nt_xent
from unlabel.objectives.sigmoid import sigmoid_contrast

TEMPERATURE, BIAS = 0.1, -10.0
Loss = Callable[[Tensor, Tensor], Tensor]


class Missing(Exception):
    """A peer that is not installed here."""


class _BarePackages(importlib.abc.MetaPathFinder):
    """Finds the packages below one root as bare folders: their `__init__` is not run."""

    def __init__(self, root: str):
        self.root = root

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.split(".")[0] != self.root:
            return None
        found = PathFinder.find_spec(fullname, path)
        if found is None or found.submodule_search_locations is None:
            return found
        bare = ModuleSpec(fullname, None, is_package=True)
        bare.submodule_search_locations = found.submodule_search_locations
        return bare


class _Unused(ModuleType):
    """Stands in for a module that is imported but never called: every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        return type(name, (), {})


def bare_import(name: str) -> Any:
    """Imports one module of a package without running the packages' own `__init__`.

    lightly and open_clip import torchvision there and in helpers, which their losses never call
    and which has no build beside every torch: where it does not import, an empty module stands in
    for it. The loss's own file runs as its authors wrote it.

    Raises:
        Missing: the package is not installed.
    """
    root = name.split(".")[0]
    if importlib.util.find_spec(root) is None:
        raise Missing(f"{root} is not installed")
    try:
        importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError):
        for unused in ("torchvision", "torchvision.ops"):
            sys.modules[unused] = _Unused(unused)
    sys.meta_path.insert(0, _BarePackages(root))
    return importlib.import_module(name)


def _cosines(a: Tensor, b: Tensor, scale: float | Tensor = 1 / TEMPERATURE) -> Tensor:
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T * scale


def full_nt_xent(z0: Tensor, z1: Tensor) -> Tensor:
    """Cross-entropy of the whole 2N x 2N matrix."""
    z = torch.cat([z0, z1])
    logits = _cosines(z, z).fill_diagonal_(-math.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z0)))


def full_clip(z0: Tensor, z1: Tensor, scale: float | Tensor = 1 / TEMPERATURE) -> Tensor:
    """Cross-entropy of the N x N matrix both ways."""
    logits, target = _cosines(z0, z1, scale), torch.arange(len(z0), device=z0.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def full_siglip(
    z0: Tensor, z1: Tensor, scale: float | Tensor = 1 / TEMPERATURE, bias: float | Tensor = BIAS
) -> Tensor:
    """Every entry of the N x N matrix told to be of a pair or not."""
    logits = _cosines(z0, z1, scale) + bias
    sign = 2 * torch.eye(len(z0), dtype=z0.dtype, device=z0.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(z0)


def full_one_way(z0: Tensor, z1: Tensor) -> Tensor:
    """Cross-entropy of the N x N matrix, queries to keys."""
    return F.cross_entropy(_cosines(z0, z1), torch.arange(len(z0), device=z0.device))


def _lightly() -> Loss:
    return bare_import("lightly.loss.ntx_ent_loss").NTXentLoss(temperature=TEMPERATURE)


def _metric_learning() -> Loss:
    try:
        losses = importlib.import_module("pytorch_metric_learning.losses")
    except ImportError as error:
        raise Missing("pytorch-metric-learning is not installed") from error
    loss: Any = losses.SupConLoss(temperature=TEMPERATURE)
    return lambda a, b: loss(torch.cat([a, b]), torch.arange(len(a), device=a.device).repeat(2))


def _open_clip() -> Loss:
    loss = bare_import("open_clip.loss").ClipLoss()
    return lambda a, b: loss(F.normalize(a, dim=1), F.normalize(b, dim=1), 1 / TEMPERATURE)


def _open_siglip() -> Loss:
    loss = bare_import("open_clip.loss").SigLipLoss()
    about = torch.tensor(1 / TEMPERATURE), torch.tensor(BIAS)
    return lambda a, b: loss(F.normalize(a, dim=1), F.normalize(b, dim=1), *about)


def _sentence_transformers() -> Loss:
    try:
        module = importlib.import_module(
            "sentence_transformers.sentence_transformer.losses.cached_multiple_negatives_ranking"
        )
    except ImportError as error:
        raise Missing("sentence-transformers is not installed, or older than 6") from error
    cached: Any = module.CachedMultipleNegativesRankingLoss(
        nn.Sequential(nn.Identity()), scale=1 / TEMPERATURE, mini_batch_size=256
    )

    def loss(a: Tensor, b: Tensor) -> Tensor:
        # It runs its own backward chunk by chunk, which is what keeps its memory small.
        return cached.calculate_loss([[a], [b]], with_backward=True)

    return loss


# task -> method -> how to make the loss. The peers' rows are their authors' code; of
# sentence-transformers the cached loss, in chunks of 256 rows (its default of 32 is slower); of
# pytorch-metric-learning SupConLoss, which with one positive a row is NT-Xent (its NTXentLoss holds
# positives x negatives at once, 34 GB for 1,024 pairs).
METHODS: dict[str, dict[str, Callable[[], Loss]]] = {
    "nt_xent": {
        "unlabel": lambda: lambda a, b: nt_xent(a, b, temperature=TEMPERATURE),
        "full matrix": lambda: full_nt_xent,
        "lightly": _lightly,
        "pytorch-metric-learning": _metric_learning,
    },
    "clip": {
        "unlabel": lambda: lambda a, b: contrast(a, b, temperature=TEMPERATURE, symmetric=True),
        "full matrix": lambda: full_clip,
        "open_clip": _open_clip,
    },
    "siglip": {
        "unlabel": lambda: lambda a, b: sigmoid_contrast(a, b, scale=1 / TEMPERATURE, bias=BIAS),
        "full matrix": lambda: full_siglip,
        "open_clip": _open_siglip,
    },
    "one_way": {
        "unlabel": lambda: lambda a, b: contrast(a, b, temperature=TEMPERATURE),
        "full matrix": lambda: full_one_way,
        "sentence-transformers": _sentence_transformers,
    },
}


def useful_flops(task: str, pairs: int, width: int) -> float:
    """The least that forward and backward must multiply and add without storing the logits.

    NT-Xent: half a product forward, half again backward, one for the gradient, of a 2N x 2N
    matrix. The others: one, one, and two.
    """
    rows = 2 * pairs if task == "nt_xent" else pairs
    return (2 if task == "nt_xent" else 4) * 2.0 * rows * rows * width
