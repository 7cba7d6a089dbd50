"""BYOL and SimSiam: what they have in common, and where no gradient flows."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_series import TinySeries, make_series

from unlabel.core import Encoding
from unlabel.objectives import BYOL, MoCoV3, SimSiam
from unlabel.training.pretraining import Pretraining

SIZES = {"width": 8, "hidden": 8, "augment": "jitter"}


def scored(module, pooled):
    """The terms for given pooled vectors, one for each view."""
    seen = [Encoding(p, p[:, None], torch.ones(len(p), 1, dtype=torch.bool)) for p in pooled]
    return module.objective(seen, [], make_series(module.encoder))


def pair(seed: int = 0):
    """BYOL and SimSiam of one encoder and the same heads, the teacher a copy."""
    torch.manual_seed(seed)
    byol, simsiam = (Pretraining(TinySeries(), m(**SIZES)).double() for m in (BYOL, SimSiam))
    byol.objective.projector = simsiam.objective.projector
    byol.objective.predictor = simsiam.objective.predictor
    byol.objective.key_projector.module.load_state_dict(simsiam.objective.projector.state_dict())
    return byol, simsiam


def test_byol_is_two_plus_twice_simsiam_where_teacher_and_student_agree():
    byol, simsiam = pair()
    a, b = torch.randn(2, 8, 16, dtype=torch.float64)
    one, other = scored(byol, [a, b, a, b]), scored(simsiam, [a, b])
    for name in ("forth", "back"):
        torch.testing.assert_close(one[name].loss, 2 + 2 * other[name].loss)
    assert -1 <= other["forth"].loss <= 1


def test_both_directions_are_the_formula():
    _, simsiam = pair()
    a, b = torch.randn(2, 8, 16, dtype=torch.float64)
    z0, z1 = (simsiam.objective.projector(x) for x in (a, b))
    p0, p1 = (simsiam.objective.predictor(z) for z in (z0, z1))
    terms = scored(simsiam, [a, b])
    for name, p, z in (("forth", p0, z1), ("back", p1, z0)):
        wanted = -F.cosine_similarity(p, z, dim=1).mean()
        torch.testing.assert_close(terms[name].loss, wanted)
        assert terms[name].weight == 0.5


def test_no_gradient_flows_through_a_target():
    byol, simsiam = pair()
    a, b = (torch.randn(8, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scored(simsiam, [a, b])["forth"].loss.backward()
    assert a.grad is not None and a.grad.abs().sum() > 0 and b.grad is None
    # The whole gradient is that with the projections given.
    z1 = simsiam.objective.projector(b).detach()
    p0 = simsiam.objective.predictor(simsiam.objective.projector(a))
    (wanted,) = torch.autograd.grad(-F.cosine_similarity(p0, z1, dim=1).mean(), a)
    torch.testing.assert_close(a.grad, wanted)
    scored(byol, [a, b, a, b])["forth"].loss.backward()
    assert all(p.grad is None for p in byol.objective.key_projector.parameters())


def test_byols_teacher_sees_the_same_two_views_and_follows_in_step():
    objective = BYOL(**SIZES, momentum=0.9)
    online, teacher = objective.views[:2], objective.views[2:]
    assert [v.encoder for v in objective.views] == ["online"] * 2 + ["teacher"] * 2
    assert [v.stream for v in online] == [v.stream for v in teacher]
    module = Pretraining(TinySeries(), objective)
    weight = module.objective.key_projector.module[0].weight
    before = weight.clone()
    with torch.no_grad():
        module.objective.projector[0].weight += 1
    module.step()
    torch.testing.assert_close(weight, before + 0.1, atol=1e-6, rtol=0)


def test_equal_vectors_and_a_predictor_that_keeps_them_cost_nothing():
    byol, simsiam = pair()
    for module in (byol, simsiam):
        module.objective.predictor = torch.nn.Identity()
    a = torch.randn(8, 16, dtype=torch.float64)
    assert scored(byol, [a] * 4)["forth"].loss.item() == pytest.approx(0.0, abs=1e-12)
    assert scored(simsiam, [a] * 2)["forth"].loss.item() == pytest.approx(-1.0, abs=1e-12)


def test_moco_v3_is_two_temperatures_times_info_nce_of_predictions_and_keys():
    module = Pretraining(TinySeries(), MoCoV3(temperature=0.3, **SIZES)).double()
    a, b, c, d = torch.randn(4, 8, 16, dtype=torch.float64)
    method = module.objective
    terms = scored(module, [a, b, c, d])
    for name, online, key in (("forth", a, d), ("back", b, c)):
        p = F.normalize(method.predictor(method.projector(online)), dim=1)
        k = F.normalize(method.key_projector(key), dim=1)
        wanted = 2 * 0.3 * F.cross_entropy(p @ k.T / 0.3, torch.arange(8))
        torch.testing.assert_close(terms[name].loss, wanted)
        assert terms[name].weight == 1.0


def test_moco_v3_of_equal_vectors_is_two_temperatures_times_ln_n_each():
    module = Pretraining(TinySeries(), MoCoV3(**SIZES))
    terms = scored(module, torch.ones(4, 8, 16))
    for term in terms.values():
        assert term.loss.item() == pytest.approx(0.4 * math.log(8), abs=1e-5)
        assert term.chance == pytest.approx(0.4 * math.log(8))
