"""Many ranks' `contrast` is one process's, whether keys are gathered or go round the ring."""

import os
from typing import Any

import pytest
import torch
from tiny import launch  # pyright: ignore[reportMissingImports]

from unlabel.objectives import ring
from unlabel.objectives.contrast import contrast, nt_xent
from unlabel.objectives.gather import average_gradients, global_mean, world

N, D = 12, 5
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without ids": {"query_id": None, "key_id": None},
    "both": {"symmetric": True},
    "hard": {"tau_plus": 0.1, "beta": 1.0},
    "both, hard": {"symmetric": True, "tau_plus": 0.1, "beta": 0.5},
    "flat": {"flat": True},
    "decoupled, cold": {"decoupled": True, "cold": True},
    "both, inner products": {"symmetric": True, "normalize": False},
}


def _vectors(first: int, count: int) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    whole = torch.randn(3, N, D, generator=make, dtype=torch.float64)
    return list(whole[:, first : first + count])


def _of(name: str, given: list[torch.Tensor], index: torch.Tensor) -> torch.Tensor:
    """One loss a query; the last of what is given is the logarithm of the temperature."""
    q, k, own, learned = given
    temperature = learned.exp()
    if name == "views":
        ids, place = index.repeat(2), torch.arange(2 * len(q)).roll(len(q))
        return contrast(torch.cat([q, k]), positive=place, temperature=temperature, query_id=ids,
                        across=True, reduction="none")  # fmt: skip
    if name == "vectors":
        return contrast(q, k, own, temperature=temperature, across=True, reduction="none")
    if name == "turned":
        place = torch.arange(len(q)).flip(0)
        return contrast(q, k.flip(0), place, temperature=temperature, symmetric=True, across=True,
                        reduction="none")  # fmt: skip
    form: dict[str, Any] = {"query_id": index, "key_id": index} | FORMS[name]
    temperature = temperature * (0.02 if form.pop("cold", False) else 1)
    return contrast(q, k, temperature=temperature, across=True, reduction="none", **form)


def _found(many: int) -> dict[str, list[torch.Tensor]]:
    """Each form's loss, its gradients of this rank's vectors, and the temperature's, averaged.

    And how many keys were held at once.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
    sums, held = ring.log_sum_exp_of_negatives, [0]
    ring.log_sum_exp_of_negatives = lambda x, y, *z, **o: held.append(len(y)) or sums(x, y, *z, **o)
    ring.MANY = many
    rank, size = world()
    share, found = N // size, {}
    index = (torch.arange(N) % 10)[rank * share : (rank + 1) * share]  # two samples twice
    for name in [*FORMS, "views", "vectors", "turned"]:
        given = [x.requires_grad_() for x in _vectors(rank * share, share)]
        learned = torch.nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
        loss = global_mean(_of(name, [*given, learned], index))
        loss.backward()
        average_gradients([learned])
        slopes = [torch.zeros_like(x) if x.grad is None else x.grad / size for x in given]
        found[name] = [loss.detach(), learned.grad, *slopes]
    q, k, _ = (x.requires_grad_() for x in _vectors(rank * share, share))
    with torch.no_grad():
        k[1] += torch.nan if rank == size - 1 else 0
    loss = contrast(q, k, across=True)
    loss.backward()
    ring.log_sum_exp_of_negatives = sums
    found["held"] = [torch.tensor(max(held))]
    found["nan"] = [loss.isnan(), q.grad.isnan().any(), k.grad.isnan().any()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("many", [0, 2**60], ids=["ring", "gathered"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_the_loss_and_all_gradients_of_one_process(tmp_path, ranks, many):
    one, ended = _found(many), launch(tmp_path, _found, ranks, many=many)
    assert ended.result
    for result in ended.results:
        assert all(bool(x) for x in result.pop("nan"))
        assert int(result.pop("held")[0]) == 2 * N // (1 if many else ranks)  # the two views' keys
    for name in ended.results[0]:
        loss, of_temperature, *slopes = one[name]
        parts = [r[name] for r in ended.results]
        torch.testing.assert_close(sum(p[0] for p in parts) / ranks, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(parts[0][1], of_temperature, rtol=1e-9, atol=1e-12)
        for place, slope in enumerate(slopes, start=2):
            whole = torch.cat([p[place] for p in parts])
            assert (whole - slope).norm() <= 1e-12 * max(float(slope.norm()), 1.0), name


def test_on_one_rank_across_changes_nothing():
    q, k, _ = _vectors(0, N)
    assert torch.equal(contrast(q, k, across=True), contrast(q, k))
    place = torch.arange(2 * N).roll(N)
    views = contrast(torch.cat([q, k]), positive=place, across=True)
    assert torch.equal(views, nt_xent(q, k))
