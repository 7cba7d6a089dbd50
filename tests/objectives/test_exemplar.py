"""Exemplars: chance, the hardest pairs, and classes that are the samples."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_series import SAMPLES, TinySeries, make_series

from unlabel.objectives import Exemplar
from unlabel.objectives import blocks as blocks_of
from unlabel.objectives.exemplar import batch_hard
from unlabel.training.pretraining import Pretraining


def made(rows=8, **options) -> tuple[Any, Any]:
    encoder = TinySeries()
    module = Pretraining(encoder, Exemplar(**options), SAMPLES).double()
    return module, make_series(encoder, rows)


def test_coincident_points_give_ln_2():
    losses = batch_hard(torch.ones(6, 3), torch.tensor([0, 0, 1, 1, 2, 2]))
    torch.testing.assert_close(losses, torch.full((6,), math.log(2)))


def test_each_view_is_compared_with_the_farthest_of_its_own_and_the_closest_other(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(12, 4, generator=generator, dtype=torch.float64), dim=1)
    index = torch.tensor([3, 1, 2, 7] * 3)
    wanted = []
    for a in range(12):
        apart = [float((z[a] - z[b]).norm()) for b in range(12)]
        far = max(apart[b] for b in range(12) if b != a and index[b] == index[a])
        near = min(apart[b] for b in range(12) if index[b] != index[a])
        wanted.append(math.log1p(math.exp(far - near)))
    wanted = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(batch_hard(z, index), wanted, rtol=1e-12, atol=0)
    monkeypatch.setattr(blocks_of, "NUMBERS", 30)  # blocks of two rows
    torch.testing.assert_close(batch_hard(z, index), wanted, rtol=1e-12, atol=0)


def test_a_view_without_another_of_its_sample_or_of_others_is_left_out():
    z = F.normalize(torch.randn(3, 4), dim=1)
    assert len(batch_hard(z, torch.tensor([0, 0, 5]))) == 2
    assert len(batch_hard(z, torch.tensor([4, 4, 4]))) == 0


def test_a_layer_of_zeros_gives_ln_of_the_samples_and_the_loss_is_cross_entropy():
    module, batch = made(loss="classes", copies=2)
    pooled = torch.cat([e.pooled for e in module.encode(module.view(batch))])
    with torch.no_grad():
        module.objective.centres.mul_(300)
    target = batch.index.repeat(2)
    wanted = F.cross_entropy(pooled @ module.objective.centres.T, target)
    torch.testing.assert_close(module(batch).loss, wanted, rtol=1e-10, atol=0)
    with torch.no_grad():
        module.objective.centres.zero_()
    term = module(batch).terms["exemplar"]
    assert term.loss.item() == pytest.approx(math.log(SAMPLES), rel=1e-12)
    assert term.chance == pytest.approx(math.log(SAMPLES))


def test_refusals_say_what_would_work():
    wrong: Any
    for wrong in ({"loss": "hinge"}, {"copies": 1}):
        with pytest.raises(ValueError, match="give 'triplet' or 'classes', and at least 2 views"):
            Exemplar(**wrong)
    with pytest.raises(ValueError, match="leave loss at 'triplet'"):
        Pretraining(TinySeries(), Exemplar(loss="classes"))
