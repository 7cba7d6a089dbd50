"""SimCLR and its kin: known answers, what each is of the other, and formulas written out."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_twins import equal, pretraining

from unlabel.core import Encoding
from unlabel.objectives import (
    AlignUniform,
    Debiased,
    Decoupled,
    FlatNCE,
    HardNegatives,
    InstanceContrast,
    InvariantSpread,
)
from unlabel.objectives.contrast import nt_xent
from unlabel.objectives.moments import alignment, uniformity
from unlabel.objectives.spread import spread


def scored(kind, **options) -> tuple[list[torch.Tensor], Any]:
    """Projections in float64, leaves of the graph, and the terms of them."""
    module, batch = pretraining(kind(width=16, **options))
    module.objective.projector = torch.nn.Identity()
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(2, 8, 16, dtype=torch.float64, generator=draw).unbind()
    leaves = [x.clone().requires_grad_() for x in z]
    seen = [Encoding(x, x[:, None], torch.ones(8, 1, dtype=torch.bool)) for x in leaves]
    return leaves, module.score(seen, [], batch).terms


@pytest.mark.parametrize(
    ("kind", "options", "how"),
    [
        (Debiased, {"tau_plus": 0.05}, {"tau_plus": 0.05}),
        (HardNegatives, {"tau_plus": 0.05, "beta": 0.7}, {"tau_plus": 0.05, "beta": 0.7}),
        (Decoupled, {}, {"decoupled": True}),
    ],
)
def test_presets_are_nt_xent_with_their_form(kind, options, how):
    (z0, z1), terms = scored(kind, **options)
    torch.testing.assert_close(terms["contrast"].loss, nt_xent(z0, z1, temperature=0.2, **how))


def test_without_their_numbers_they_are_simclr_and_each_other():
    simclr = scored(InstanceContrast)[1]["contrast"].loss
    debiased = scored(Debiased)[1]["contrast"].loss
    assert torch.equal(scored(Debiased, tau_plus=0.0)[1]["contrast"].loss, simclr)
    assert torch.equal(scored(HardNegatives, beta=0.0)[1]["contrast"].loss, debiased)
    assert debiased != simclr


def test_the_value_of_flat_nce_is_1_and_its_gradient_that_of_info_nce_over_one_minus_p():
    (z0, z1), terms = scored(FlatNCE)
    assert terms["flat"].loss.item() == 1.0 and terms["info_nce"].weight == 0
    each = nt_xent(z0, z1, temperature=0.2, reduction="none")
    torch.testing.assert_close(terms["info_nce"].loss, each.mean().detach())
    weighted = (each / (1 - torch.exp(-each.detach()))).mean()
    flat = torch.autograd.grad(terms["flat"].loss, (z0, z1), retain_graph=True)
    torch.testing.assert_close(flat, torch.autograd.grad(weighted, (z0, z1)))


@pytest.mark.parametrize("kind", [Debiased, HardNegatives, Decoupled, FlatNCE, InvariantSpread])
def test_all_equal_gives_what_the_method_says(kind):
    terms = equal(*pretraining(kind()))
    loss = terms.get("contrast") or terms["info_nce"]
    m = 15
    wanted = {
        Decoupled: math.log(m - 1),
        InvariantSpread: math.log(m) - (m - 1) * math.log(1 - 1 / m),
    }.get(kind, math.log(m))
    assert loss.loss.item() == pytest.approx(wanted, abs=1e-5)
    assert loss.chance == pytest.approx(wanted)


def written_out(z0, z1, index, temperature=0.1):
    """The paper's sums, with a loop over queries."""
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    s, n, ids = z @ z.T / temperature, len(z0), index.repeat(2)
    losses = []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = [j for j in range(2 * n) if ids[j] != ids[i]]
        p = torch.softmax(s[i, [partner, *others]], 0)
        losses.append(-p[0].log() - (1 - p[1:]).log().sum())
    return torch.stack(losses).mean()


def test_invariant_spread_is_the_formula_with_its_gradient_also_in_blocks(monkeypatch):
    from unlabel.objectives import blocks

    (z0, z1), terms = scored(InvariantSpread)
    wanted = written_out(z0, z1, torch.arange(8))
    torch.testing.assert_close(terms["contrast"].loss, wanted, rtol=1e-12, atol=0)
    ours = torch.autograd.grad(terms["contrast"].loss, (z0, z1), retain_graph=True)
    torch.testing.assert_close(
        ours, torch.autograd.grad(wanted, (z0, z1), retain_graph=True), rtol=1e-10, atol=1e-12
    )
    monkeypatch.setattr(blocks, "NUMBERS", 50)  # three queries a block
    again = scored(InvariantSpread)
    # A product of other matrices may round its last bit otherwise.
    loss = terms["contrast"].loss
    torch.testing.assert_close(again[1]["contrast"].loss, loss, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(again[1]["contrast"].loss, again[0]), ours)


def test_spread_keeps_far_fewer_numbers_than_it_has_logits(monkeypatch):
    from unlabel.objectives import blocks

    monkeypatch.setattr(blocks, "NUMBERS", 4096)
    x, kept = torch.randn(512, 4, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        loss = spread(x, x, torch.arange(512).roll(1), itself=torch.arange(512))
    assert sum(kept) < 512 * 512 / 4
    loss.backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_a_negative_far_ahead_of_the_positive_costs_what_the_formula_says():
    # Of two candidates 1 - P(negative) is P(positive): twice what the positive costs.
    for gap in (0.5, 0.7, 1.5):
        near, far = (
            torch.tensor([c, (1 - c * c) ** 0.5], dtype=torch.float64) for c in (0.95, 0.95 - gap)
        )
        query = torch.tensor([[1.0, 0.0]], dtype=torch.float64).requires_grad_()
        keys, own = torch.stack([far, near]), torch.tensor([0])
        loss = spread(query, keys, own, temperature=0.02)
        assert loss.item() == pytest.approx(2 * math.log1p(math.exp(gap / 0.02)), rel=1e-12)
        assert torch.autograd.grad(loss, query)[0].isfinite().all()


def test_spread_leaves_out_keys_of_the_same_sample_and_stands_a_negative_that_takes_all():
    z0, z1 = torch.randn(2, 4, 6, dtype=torch.float64)
    index = torch.tensor([0, 0, 1, 2])
    places = torch.arange(8)
    how: Any = {"query_id": index.repeat(2), "key_id": index.repeat(2), "itself": places}
    z = torch.cat([z0, z1])
    got = spread(z, z, places.roll(4), **how)
    torch.testing.assert_close(got, written_out(z0, z1, index))
    x = torch.eye(2)[[0, 0]].clone().requires_grad_()
    keys = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    loss = spread(x, keys, torch.tensor([0, 1]), temperature=0.07)
    loss.backward()
    assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()


def test_alignment_and_uniformity_are_those_of_the_projections():
    (z0, z1), terms = scored(AlignUniform, weight=0.5, alpha=1.0, t=3.0)
    torch.testing.assert_close(terms["alignment"].loss, alignment(z0, z1, alpha=1.0))
    even = (uniformity(z0, t=3.0) + uniformity(z1, t=3.0)) / 2
    torch.testing.assert_close(terms["uniformity"].loss, even)
    assert terms["uniformity"].weight == 0.5


def test_equal_views_of_an_antipodal_pair_give_minus_8():
    module, batch = pretraining(AlignUniform())
    module.objective.projector = torch.nn.Identity()
    encodings = module.encode(module.view(batch))
    for e in encodings:
        e.pooled = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    terms = module.score(encodings, [], batch).terms
    assert sum(t.weight * t.loss.item() for t in terms.values()) == pytest.approx(-8)


def test_a_projector_of_three_layers_is_that_of_simclr_v2():
    module, _ = pretraining(InstanceContrast(width=8, layers=3))
    sizes = [tuple(p.shape) for p in module.objective.projector.parameters() if p.dim() == 2]
    assert sizes == [(16, 16), (16, 16), (8, 16)]


def test_numbers_outside_their_range_are_refused_before_training():
    for kind, options, said in [
        (Debiased, {"tau_plus": 1.0}, "tau_plus is 1.0"),
        (HardNegatives, {"beta": -1.0}, "beta is -1.0"),
        (InvariantSpread, {"temperature": 0.0}, "temperature is 0.0"),
        (InstanceContrast, {"layers": -1}, "0 layers or more, but layers is -1"),
    ]:
        with pytest.raises(ValueError, match=said):
            pretraining(kind(**options))
