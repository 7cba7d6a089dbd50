"""A GPU's kernels against float64, one JSON line; on a CPU through Triton's interpreter.

Run as a process of its own: TRITON_INTERPRET must be set before Triton is imported.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unlabel.objectives import fused, logsumexp
from unlabel.objectives.contrast import contrast, nt_xent
from unlabel.objectives.tried import works

DEVICE = sys.argv[1]
N, D = 33, 20  # neither a multiple of a block


def rows(seed: int, n: int = N, d: int = D) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def near(n: int, d: int, noise: float) -> tuple[Tensor, Tensor]:
    """Two views of clustered samples: all share a mean as long as what tells them apart."""
    z = rows(2, n, d) + rows(3, 1, d)
    return z + noise * rows(4, n, d), z + noise * rows(5, n, d)


here = torch.arange(N, device=DEVICE)
ids: dict[str, Any] = {"query_id": here % 7, "key_id": here % 7}
apart = torch.stack([here % 7, here], 1)
pair, partner = (rows(0), rows(0) + 0.7 * rows(1)), torch.arange(N - 1, -1, -1, device=DEVICE)

CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "diagonal": (contrast, pair),
    "places among more keys": (
        lambda q, k: contrast(q, k, here * 2 % 41, itself=here),
        (rows(0), rows(1, 41)),
    ),
    "vectors": (lambda q, k, own: contrast(q, k, own), (rows(0), rows(1, 41), rows(2))),
    "both": (lambda q, k: contrast(q, k, partner, symmetric=True), pair),
    "both, ids": (lambda q, k: contrast(q, k, symmetric=True, **ids), pair),
    "both, ids that lie apart": (
        lambda q, k: contrast(q, k, symmetric=True, query_id=apart[:, 0], key_id=apart[:, 0]),
        pair,
    ),
    "triangle": (nt_xent, pair),
    "triangle, cold": (lambda a, b: nt_xent(a, b, temperature=0.02), near(24, 48, 0.3)),
    "both, cold": (
        lambda q, k: contrast(q, k, temperature=0.02, symmetric=True),
        near(24, 48, 0.3),
    ),
    "each row's own shift": (lambda a, b: nt_xent(a, b, temperature=0.003), pair),
    "large norms": (lambda q, k: contrast(q, k, normalize=False, temperature=0.02), pair),
    "wide": (contrast, (rows(0, 9, 72), rows(1, 9, 72))),
    "debiased": (lambda a, b: nt_xent(a, b, tau_plus=0.1, temperature=0.5), pair),
    "hard": (lambda a, b: nt_xent(a, b, beta=1.0, tau_plus=0.1, temperature=0.5), pair),
    "flat": (lambda q, k: contrast(q, k, flat=True), pair),
    "decoupled": (lambda q, k: contrast(q, k, decoupled=True), pair),
}


def found(form: Callable[..., Tensor], inputs: tuple[Tensor, ...], dtype: torch.dtype) -> list:
    given = [x.to(DEVICE, dtype).requires_grad_() for x in inputs]
    loss = form(*given)
    return [loss.detach().double(), *(g.double() for g in torch.autograd.grad(loss, given))]


def errors(form: Callable[..., Tensor], inputs: tuple[Tensor, ...], dtype: torch.dtype) -> float:
    """The largest, of the loss and of each gradient, relative to float64 of the same numbers."""
    same = tuple(x.to(dtype) for x in inputs)
    pairs = zip(*(found(form, same, kind) for kind in (torch.float64, dtype)), strict=True)
    return max(float((b - a).norm() / a.norm()) for a, b in pairs)


def main() -> None:
    used: list[Any] = []
    kernels = fused.ExpSums.forward
    fused.ExpSums.forward = staticmethod(lambda *x: used.append(1) or kernels(*x))
    torch.backends.cuda.matmul.allow_tf32 = True
    if DEVICE == "cpu":
        logsumexp._kernels = lambda like: fused if like.dtype == torch.float32 else None
        fused.shape_for = lambda like: fused.Shape(16, 16, 16, 4, 1)
        fused.TILE = 48, 32
    result = {}
    for name, case in CASES.items():
        before = len(used)
        result[name] = [errors(*case, torch.float32), errors(*case, torch.bfloat16)]
        assert len(used) >= before + 2, f"{name} did not use the kernels"
    bad = rows(0)
    bad[1, 2] = torch.nan
    loss, *slopes = found(contrast, (bad, rows(1)), torch.float32)
    result["nan"] = bool(loss.isnan()) and not any(bool(x.isfinite().all()) for x in slopes)
    once, again = (found(nt_xent, pair, torch.bfloat16) for _ in range(2))
    result["repeats"] = all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    result["works"] = works(fused.ExpSums, torch.device(DEVICE))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
