"""Colour kernels: bins, soft targets, weights, the annealed mean, and copying."""

import math

import pytest
import torch

from unlabel.objectives.colors import annealed_mean, color_bins, copied, rarity, soften


def screen_colors(levels: int = 33) -> torch.Tensor:
    """a and b of evenly spaced colours of sRGB."""
    kornia = pytest.importorskip("kornia.color")
    level = torch.linspace(0, 1, levels)
    rgb = torch.cartesian_prod(level, level, level).T[None, :, :, None]
    return kornia.rgb_to_lab(rgb)[0, 1:, :, 0].T


def test_there_are_313_bins_and_every_colour_lies_by_one():
    bins = color_bins()
    assert bins.shape == (313, 2) and len(bins.unique(dim=0)) == 313
    assert torch.equal(bins % 10, torch.zeros_like(bins))
    colors = screen_colors()
    apart = torch.cdist(colors, bins)
    assert apart.min(1).values.max() <= math.sqrt(50) + 1e-3
    # None is left of which no colour is near.
    assert apart.min(0).values.max() < 16


def test_soft_targets_are_gaussian_shares_of_the_five_nearest_bins():
    bins = color_bins().double()
    colors = screen_colors(9).double() * 0.9
    found = soften(colors, bins)
    for i in range(0, len(colors), 97):
        apart = (bins - colors[i]).norm(dim=1)
        nearest = apart.sort().indices[:5]
        share = torch.exp(-apart[nearest].square() / 50)
        wanted = torch.zeros(313).double().scatter(0, nearest, share / share.sum())
        torch.testing.assert_close(found[i], wanted)
    alone = soften(bins[:3], bins, sigma=0.5)
    assert torch.equal(alone.argmax(1), torch.arange(3)) and alone.max(1).values.min() > 0.999


def test_weights_have_mean_one_and_l_1_weighs_all_alike():
    prior = torch.rand(313, generator=torch.Generator().manual_seed(0)).double()
    prior /= prior.sum()
    assert torch.equal(rarity(prior, even=1.0), torch.ones(313).double())
    weight = rarity(prior)
    assert (prior * weight).sum().item() == pytest.approx(1.0)
    by_hand = 1 / (0.5 * prior + 0.5 / 313)
    torch.testing.assert_close(weight / weight[0], by_hand / by_hand[0])
    assert weight[prior.argmin()] == weight.max()


def test_the_annealed_mean_is_the_mean_at_1_and_the_likeliest_bin_at_0():
    bins = color_bins().double()
    logits = torch.randn(4, 313, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(
        annealed_mean(logits, bins, temperature=1.0), logits.softmax(1) @ bins
    )
    torch.testing.assert_close(
        annealed_mean(logits, bins, temperature=1e-5), bins[logits.argmax(1)]
    )
    share = logits.softmax(1)
    by_hand = torch.exp(share.log() / 0.38)
    by_hand = (by_hand / by_hand.sum(1, keepdim=True)) @ bins
    torch.testing.assert_close(annealed_mean(logits, bins), by_hand)


def test_one_softmax_over_all_places_and_zero_features_copy_the_mean():
    values = torch.eye(4).double()[torch.randint(4, (2, 6), generator=torch.manual_seed(0))]
    zero = torch.zeros(2, 3, 5).double()
    found = copied(zero, torch.zeros(2, 6, 5).double(), values)
    torch.testing.assert_close(found, values.mean(1, keepdim=True).expand(-1, 3, -1))
    query, keys = torch.randn(2, 3, 5).double(), torch.randn(2, 6, 5).double()
    found = copied(query, keys, values, temperature=0.5)
    share = torch.einsum("bpd,brd->bpr", query, keys).mul(2).softmax(-1)
    torch.testing.assert_close(found, share @ values)
    torch.testing.assert_close(found.sum(2), torch.ones(2, 3).double())


def test_a_place_that_does_not_exist_is_not_copied():
    values = torch.eye(3)[None]
    mask = torch.tensor([[True, False, True]])
    found = copied(torch.zeros(1, 1, 2), torch.zeros(1, 3, 2), values, mask)
    assert found[0, 0].tolist() == [0.5, 0.0, 0.5]


def test_gradients_are_the_numerical_ones():
    query, keys = (torch.randn(2, n, 3).double().requires_grad_() for n in (2, 4))
    values = torch.rand(2, 4, 3).double()
    mask = torch.tensor([[True] * 4, [True, True, False, True]])
    run = lambda q, k: copied(q, k, values, mask, temperature=0.7).clamp(min=1e-9).log()  # noqa: E731
    assert torch.autograd.gradcheck(run, (query, keys))
    logits = torch.randn(2, 313).double().requires_grad_()
    bins = color_bins().double()
    assert torch.autograd.gradcheck(lambda x: annealed_mean(x, bins), (logits,), fast_mode=True)
