"""Flows: inverses, determinants and densities against autograd and a grid."""

import math

import pytest
import torch
from torch import nn

from unlabel.couplings import CouplingFlow, Mixing, alternate, standard_log_prob

SHAPES = [(4, 3), (6, 1), (1, 5), (2, 1), (1, 2)]


def flow_of(length, values, steps=4, seed=0, spread=0.2):
    torch.manual_seed(seed)
    flow = CouplingFlow(length, values, steps=steps, hidden=16).double()
    for p in flow.parameters():  # it starts as the identity, of which there is nothing to see
        nn.init.normal_(p, std=spread)
    return flow


@pytest.mark.parametrize("shape", SHAPES)
def test_the_inverse_undoes_the_flow(shape):
    flow = flow_of(*shape)
    x = torch.randn(7, *shape, dtype=torch.float64)
    found = flow(x)
    assert not torch.allclose(found.latents[-1], x, atol=0.1)
    torch.testing.assert_close(flow.inverse(found.latents[-1]), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow(flow.inverse(x)).latents[-1], x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_log_determinant_is_autograds(shape):
    flow = flow_of(*shape)
    x = torch.randn(3, *shape, dtype=torch.float64)
    found = flow(x)
    for row in range(3):
        of = lambda v: flow(v.view(1, *shape)).latents[-1].flatten()  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(of, x[row].flatten())
        torch.testing.assert_close(
            found.log_det[row], jacobian.slogdet().logabsdet, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
def test_the_density_integrates_to_one(shape):
    flow = flow_of(*shape, steps=4, spread=0.2)
    line = torch.linspace(-14, 14, 500, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = flow.log_prob(grid.view(-1, *shape)).exp().sum() * (line[1] - line[0]) ** 2
    assert total == pytest.approx(1, abs=1e-4)


def test_a_new_flow_is_the_identity_with_the_density_of_the_standard_normal():
    flow = CouplingFlow(3, 4, steps=3, hidden=8)
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(flow(x).latents[-1], x)
    assert (flow(x).log_det == 0).all()
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum((1, 2))
    torch.testing.assert_close(flow.log_prob(x), normal)
    torch.testing.assert_close(standard_log_prob(x), normal)


def test_a_mixing_of_known_factors_has_their_determinant():
    mix = Mixing(3)
    with torch.no_grad():
        mix.log_scale.copy_(torch.tensor([0.1, 0.2, 0.3]))
        mix.lower.fill_(5.0)
        mix.upper.fill_(7.0)
    x = torch.randn(2, 4, 3)
    y, log_det = mix(x)
    assert log_det.item() == pytest.approx(4 * 0.6, rel=1e-5)
    torch.testing.assert_close(mix.inverse(y), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_is_moved_by_some_step_and_held_back_by_another(shape):
    masks = torch.stack([alternate(*shape, step) for step in range(4)])
    assert masks.any(0).all() and not masks.all(0).any()
    assert all(m.any() and not m.all() for m in masks)


def test_a_flow_learns_a_ring_better_than_a_gaussian_can():
    torch.manual_seed(0)
    flow = CouplingFlow(1, 2, steps=6, hidden=32)
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    draw = lambda n: (  # noqa: E731
        lambda a: torch.stack([a.cos(), a.sin()], 1)[:, None] * 2 + 0.2 * torch.randn(n, 1, 2)
    )(2 * math.pi * torch.rand(n))
    for _ in range(400):
        loss = -flow.log_prob(draw(256)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        test = draw(2000)
        found = -flow.log_prob(test).mean()
        gaussian = math.log(2 * math.pi) + test.var().log() + 1
        radius = flow.inverse(torch.randn(2000, 1, 2)).norm(dim=2)
    assert found < gaussian - 0.5
    assert abs(radius.median() - 2) < 0.2


@pytest.mark.parametrize("wrong", [(1, 1, 2), (2, 2, 0)])
def test_what_cannot_be_coupled_is_refused(wrong):
    length, values, steps = wrong
    with pytest.raises(ValueError, match="at least two numbers in at least one step"):
        CouplingFlow(length, values, steps=steps, hidden=4)


def test_autocast_leaves_the_density_in_float32():
    flow = CouplingFlow(3, 4, steps=2, hidden=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = flow.log_prob(torch.randn(2, 3, 4).bfloat16())
    assert found.dtype == torch.float32
