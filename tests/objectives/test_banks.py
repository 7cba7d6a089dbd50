"""Memories of all samples: known answers, formulas written out, what stays from step to step."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_twins import equal
from tiny_series import TinySeries, make_series

from unlabel.core import uniform
from unlabel.objectives import InstDisc, LocalAggregation, Sum, banks, blocks
from unlabel.objectives.state import Bank, Fixed
from unlabel.training.pretraining import Pretraining

N = 12


def made(method, samples=N) -> tuple[Any, Any]:
    torch.manual_seed(0)
    module = Pretraining(TinySeries(), method, samples).double()
    return module, make_series(module.encoder)


def alike(module):
    """Every memory is the vector that the projection of equal encodings is."""
    z = module.objective.projector(torch.ones(1, 16).double())
    module.objective.bank.rows.copy_(F.normalize(z, dim=1).detach().expand(N, -1))


def projected(module, batch):
    (encoding,) = module.encode(module.view(batch))
    return F.normalize(module.objective.projector(encoding.pooled), dim=1)


@pytest.mark.parametrize("loss", ["softmax", "nce"])
def test_even_probabilities_give_what_the_method_says(loss):
    module, batch = made(InstDisc(loss=loss, noise=50))
    alike(module)
    term = equal(module.float(), batch)["instance"]
    wanted = math.log(N) if loss == "softmax" else math.log(51) + 50 * math.log(51 / 50)
    assert term.loss.item() == pytest.approx(wanted, rel=1e-5)
    assert term.chance == pytest.approx(wanted)


def test_softmax_is_cross_entropy_over_the_whole_bank():
    module, batch = made(InstDisc(width=8))
    logits = projected(module, batch) @ module.objective.bank.rows.T / 0.07
    torch.testing.assert_close(module(batch).loss, F.cross_entropy(logits, batch.index))


def test_nce_is_the_formula_with_its_gradient_also_in_blocks(monkeypatch):
    module, batch = made(InstDisc(loss="nce", noise=30, width=8))
    loss = module(batch).loss
    z, rows = projected(module, batch), module.objective.bank.rows
    noise = (uniform(batch.seed, batch.ordinal, banks._NOISE, 30).double() * N).long()
    scores = z @ rows.T / 0.07
    of_noise = scores.gather(1, noise)
    big_z = N * of_noise.detach().exp().mean()
    p, q = scores.gather(1, batch.index[:, None])[:, 0].exp() / big_z, of_noise.exp() / big_z
    h, g = p / (p + 30 / N), q / (q + 30 / N)
    wanted = (-h.log() - (1 - g).log().sum(1)).mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=0)
    weight = module.objective.projector[0].weight
    (slope,) = torch.autograd.grad(wanted, weight)
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], slope)
    monkeypatch.setattr(blocks, "NUMBERS", 1000)  # four samples a block
    again = module(batch).loss
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(torch.autograd.grad(again, weight)[0], slope)


def test_z_is_settled_by_the_first_step_and_survives_the_state():
    module, batch = made(InstDisc(loss="nce", noise=30, width=8))
    assert module.objective.log_z.value.isnan()
    module(batch)
    module.step()
    settled = module.objective.log_z.value.clone()
    assert settled.isfinite()
    with torch.no_grad():
        module.objective.projector[0].weight.mul_(3)
    module(batch)
    module.step()
    assert torch.equal(module.objective.log_z.value, settled)
    other, _ = made(InstDisc(loss="nce", noise=30, width=8))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(batch).loss, module(batch).loss)


def test_a_number_is_fixed_by_the_first_step_alone():
    fixed = Fixed()
    fixed.step()
    assert fixed.value.isnan() and fixed(torch.tensor(2.0)) == 2
    fixed.step()
    assert fixed(torch.tensor(3.0)) == 2


def test_the_bank_moves_in_step_by_the_momentum():
    module, batch = made(InstDisc(width=8, momentum=0.5))
    z, before = projected(module, batch).detach(), module.objective.bank.rows.clone()
    module(batch)
    assert torch.equal(module.objective.bank.rows, before)
    module.step()
    wanted = F.normalize((z + before[:8]) / 2, dim=1)
    torch.testing.assert_close(module.objective.bank.rows[:8], wanted)
    assert torch.equal(module.objective.bank.rows[8:], before[8:])


def test_of_a_sample_that_came_twice_the_last_row_counts():
    bank = Bank(4, 2, momentum=0.0)
    bank.put(torch.eye(2)[[0, 1, 1, 0]], torch.tensor([3, 3, 0, 3]))
    bank.step()
    assert bank.rows[3].tolist() == [1, 0] and bank.rows[0].tolist() == [0, 1]


# -- local aggregation --------------------------------------------------------------------------


def aggregation(labels, **options):
    how: dict[str, Any] = {"width": 8, "clusters": 2, "clusterings": len(labels)} | options
    module, batch = made(LocalAggregation(**how))
    module.objective.groups.labels.copy_(torch.as_tensor(labels))
    return module, batch


def test_one_cluster_gives_0():
    module, batch = aggregation([[0] * N], neighbours=7)
    assert module(batch).loss.item() == 0.0


def test_singletons_are_the_softmax_of_instance_discrimination():
    module, batch = aggregation([list(range(N))])
    other, _ = made(InstDisc(width=8))
    other.load_state_dict(module.state_dict(), strict=False)
    torch.testing.assert_close(module(batch).loss, other(batch).loss)
    fresh, _ = made(LocalAggregation(width=8))
    torch.testing.assert_close(fresh(batch).loss, other(batch).loss)


@pytest.mark.parametrize("numbers", [2**24, 60])
def test_local_aggregation_is_the_formula(monkeypatch, numbers):
    monkeypatch.setattr(blocks, "NUMBERS", numbers)
    labels = torch.stack([torch.arange(N) % 4, torch.arange(N) // 5])
    module, batch = aggregation(labels, neighbours=6)
    logits = projected(module, batch) @ module.objective.bank.rows.T / 0.07
    losses = []
    for i, row in zip(batch.index.tolist(), logits, strict=True):
        others = [j for j in row.argsort(descending=True).tolist() if j != i]
        background = [i, *others[:5]]
        close = [j for j in background if (labels[:, j] == labels[:, i]).any()]
        losses.append(row[background].logsumexp(0) - row[close].logsumexp(0))
    wanted, loss = torch.stack(losses).mean(), module(batch).loss
    torch.testing.assert_close(loss, wanted)
    weight = module.objective.projector[0].weight
    slopes = [torch.autograd.grad(x, weight)[0] for x in (loss, wanted)]
    torch.testing.assert_close(*slopes)


def test_clusterings_are_fitted_after_so_many_passes_and_come_with_the_state():
    module, batch = made(LocalAggregation(width=8, clusters=3, clusterings=2, every=1.2))
    groups, fitted = module.objective.groups, []
    for _ in range(4):  # of 8 samples; a fit is due after 15
        module(batch)
        module.step()
        module.step()
        fitted.append(int(groups.fits))
    assert fitted == [0, 2, 2, 4]
    assert all(row.unique().numel() == 3 for row in groups.labels)
    assert not torch.equal(*groups.labels)
    other, _ = made(LocalAggregation(width=8, clusters=3, clusterings=2, every=1.2))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(batch).loss, module(batch).loss)


def test_a_stream_and_numbers_that_cannot_be_are_refused():
    for kind in (InstDisc, LocalAggregation):
        with pytest.raises(ValueError, match=f"{kind.__name__} remembers a row for every sample"):
            Pretraining(TinySeries(), Sum({"a": kind()}))
    with pytest.raises(ValueError, match="loss is 'x' and noise 4096"):
        InstDisc(loss="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="clusters is 13, neighbours 4096 and clusterings 3"):
        made(LocalAggregation(clusters=13))
