"""Sides of a sample: which views they are, and that every one looks for every other."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_twins import equal, pretraining
from tiny_series import SAMPLES, TinySeries, make_series

from unlabel.core import view
from unlabel.objectives import CMC, DistillSides, SensorContrast
from unlabel.objectives.contrast import contrast
from unlabel.training.pretraining import Pretraining

THREE = (
    {"name": "jitter", "high": 0.3},
    {"name": "scaling"},
    {"name": "plain", "partner": "sensor"},
)


def test_sides_follow_the_augmentation_with_their_own_arguments():
    method = CMC(sides=THREE, augment="crop", args={"crop.sigma": 0.2})
    chained: list[Any] = [{"crop.sigma": 0.2, "jitter.high": 0.3}, {"crop.sigma": 0.2}]
    assert method.views == (
        view("crop+jitter", **chained[0]),
        view("crop+scaling", **chained[1]),
        view("crop", sigma=0.2, partner="sensor"),
    )
    assert method.needs == {"pooled", "sensor"}
    assert [dict(v.args)["part"] for v in CMC().views] == ["l", "ab"]


def test_every_ordered_pair_is_a_contrast_and_all_equal_gives_ln_n_each_way():
    module, batch = pretraining(CMC(sides=THREE, width=8))
    views = module.view(batch)
    encodings = module.encode(views)
    z = [module.objective.projector(e.pooled) for e in encodings]
    terms = module.score(encodings, views, batch).terms
    assert len(terms) == 6 and sum(t.weight for t in terms.values()) == pytest.approx(1)
    for a, b in ((0, 1), (2, 0)):
        wanted = contrast(z[a], z[b], temperature=0.07)
        torch.testing.assert_close(terms[f"{a}_to_{b}"].loss, wanted)
    for term in equal(module, batch).values():
        assert term.loss.item() == pytest.approx(math.log(8), abs=1e-5)


def test_with_a_bank_every_side_looks_among_the_memories_of_all_samples():
    method = CMC(sides=({"name": "plain"}, "sensor"), width=8, bank=True)
    batch: Any = make_series(encoder := TinySeries())
    module: Any = Pretraining(encoder, method, SAMPLES)
    first, second = (bank.rows.clone() for bank in method.banks)
    assert len(first) == SAMPLES and not torch.equal(first, second)
    views = module.view(batch)
    encodings = module.encode(views)
    a, b = (F.normalize(method.projector(e.pooled), dim=1) for e in encodings)
    terms = module.score(encodings, views, batch).terms
    for term, z, memory in ((terms["0_to_1"], a, second), (terms["1_to_0"], b, first)):
        wanted = F.cross_entropy(z @ memory.T / 0.07, batch.index)
        torch.testing.assert_close(term.loss, wanted)
    module.step()
    moved = F.normalize((first[batch.index] + a.detach()) / 2, dim=1)
    torch.testing.assert_close(method.banks[0].rows[batch.index], moved)
    assert torch.equal(method.banks[0].rows[20:], first[20:])
    for bank in method.banks:
        bank.rows.fill_(1.0)
    for term in equal(module, batch).values():
        assert term.loss.item() == pytest.approx(math.log(SAMPLES), abs=1e-5)
        assert term.chance == pytest.approx(math.log(SAMPLES))
    with pytest.raises(ValueError, match="CMC remembers a row for every sample"):
        Pretraining(TinySeries(), CMC(sides=({"name": "plain"}, "sensor"), bank=True))


def test_sensor_contrast_is_cmc_of_two_sensors():
    pair = CMC(sides=({"name": "plain"}, {"name": "plain", "partner": "sensor"}))
    assert SensorContrast().views == pair.views
    assert SensorContrast().needs == pair.needs


def test_sides_that_cannot_be_compared_are_refused():
    for sides in ((), ({"name": "plain"},), ({"name": "jitter"}, {"name": "jitter"})):
        with pytest.raises(ValueError, match="two or more different views, but"):
            CMC(sides=sides)
    with pytest.raises(ValueError, match=r"A side names its view, as .* but \{'part': 'l'\} came"):
        CMC(sides=({"part": "l"}, {"name": "plain"}))


def test_distillation_is_the_squared_distance_of_tokens_and_moves_the_first_side_alone():
    module, batch = pretraining(DistillSides(sides=THREE))
    views = module.view(batch)
    encodings = module.encode(views)
    for e in encodings:
        e.tokens.retain_grad()
    step = module.score(encodings, views, batch)
    first, *others = (e.tokens.detach().double() for e in encodings)
    both = [encodings[0].mask & e.mask for e in encodings[1:]]
    apart = [(first - o)[m].square().mean(1) for o, m in zip(others, both, strict=True)]
    for i, wanted in enumerate(apart, start=1):
        torch.testing.assert_close(step.terms[f"from_{i}"].loss.double(), wanted.mean())
    step.loss.backward()
    wanted = sum(
        m[..., None] * (first - o) / m.sum() / first.shape[2]
        for o, m in zip(others, both, strict=True)
    )
    torch.testing.assert_close(encodings[0].tokens.grad.double(), wanted)
    assert all(e.tokens.grad is None for e in encodings[1:])


def test_sides_that_look_alike_leave_nothing_to_distil():
    module, batch = pretraining(DistillSides(sides=THREE))
    views = module.view(batch)
    first = module.encode(views)[0]
    assert module.score([first] * 3, views, batch).loss.item() == 0
