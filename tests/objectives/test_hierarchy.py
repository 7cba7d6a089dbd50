"""Hierarchical contrast against its formula, pair by pair."""

import math

import pytest
import torch

from unlabel.objectives.hierarchy import hierarchical_chance, hierarchical_contrast


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair_loss(z, i, j):
    """`-ln exp(z_i . z_j) / sum_{k != i} exp(z_i . z_k)` of the rows of z."""
    others = [z[i] @ z[k] for k in range(len(z)) if k != i]
    return torch.stack(others).logsumexp(0) - z[i] @ z[j]


def naive(z1, z2):
    """Equations 1 and 2 at every level, one pair at a time."""
    batch, steps = z1.shape[:2]
    instance, temporal, levels = 0.0, 0.0, 0
    while True:
        for t in range(steps):
            both = torch.cat([z1[:, t], z2[:, t]])
            for i in range(2 * batch):
                instance += pair_loss(both, i, (i + batch) % (2 * batch)) / (2 * batch * steps)
        for i in range(batch if steps > 1 else 0):
            both = torch.cat([z1[i], z2[i]])
            for t in range(2 * steps):
                temporal += pair_loss(both, t, (t + steps) % (2 * steps)) / (2 * batch * steps)
        levels += 1
        if steps == 1:
            return instance / levels, temporal / levels
        steps //= 2
        z1, z2 = (
            torch.stack([z[:, 2 * t : 2 * t + 2].amax(1) for t in range(steps)], 1)
            for z in (z1, z2)
        )


@pytest.mark.parametrize(("batch", "steps"), [(3, 8), (2, 5), (4, 1), (1, 6)])
def test_both_terms_and_their_gradients_are_the_formulas(batch, steps):
    z1, z2 = some(batch, steps, 4).requires_grad_(), some(batch, steps, 4, seed=1).requires_grad_()
    terms = hierarchical_contrast(z1, z2)
    for name, expected in zip(("instance", "temporal"), naive(z1, z2), strict=True):
        if not isinstance(expected, torch.Tensor):  # no pair at all
            assert terms[name].item() == expected
            continue
        torch.testing.assert_close(terms[name], expected, rtol=1e-12, atol=1e-12)
        ours, theirs = (
            torch.autograd.grad(x, (z1, z2), retain_graph=True) for x in (terms[name], expected)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("batch", "steps", "levels"), [(6, 8, [8, 4, 2, 1]), (5, 7, [7, 3, 1])])
def test_all_equal_gives_the_logarithms_of_the_candidates(batch, steps, levels):
    z = torch.ones(batch, steps, 3, dtype=torch.float64)
    terms = hierarchical_contrast(z, z)
    over_time = sum(math.log(2 * m - 1) for m in levels) / len(levels)
    assert terms["instance"].item() == pytest.approx(math.log(2 * batch - 1), abs=1e-12)
    assert terms["temporal"].item() == pytest.approx(over_time, abs=1e-12)
    chance = hierarchical_chance(batch, steps)
    assert chance == pytest.approx({"instance": math.log(2 * batch - 1), "temporal": over_time})


def test_steps_that_do_not_exist_are_in_no_pair():
    """As the formula over those that do: here two samples of four steps, and one of none."""
    z1, z2 = some(3, 8, 4), some(3, 8, 4, seed=1)
    mask = torch.tensor([[False] * 4 + [True] * 4] * 2 + [[False] * 8])
    far = ~mask[:, :, None]
    found = []
    for fill in (0.0, 50.0):
        one, other = (z.masked_fill(far, fill).requires_grad_() for z in (z1, z2))
        terms = hierarchical_contrast(one, other, mask)
        slopes = torch.autograd.grad(terms["instance"] + terms["temporal"], (one, other))
        assert all((x[~mask] == 0).all() and x.isfinite().all() for x in slopes)
        found.append((terms, [x[mask] for x in slopes]))
    torch.testing.assert_close(found[0], found[1])
    whole = hierarchical_contrast(z1[:2, 4:], z2[:2, 4:])
    # The last of four levels is the third of three once more, with nothing to contrast in time.
    last = hierarchical_contrast(*(z[:2, 4:].amax(1, keepdim=True) for z in (z1, z2)))
    terms = found[0][0]
    torch.testing.assert_close(4 * terms["instance"], 3 * whole["instance"] + last["instance"])
    # There are two steps at the third level, of which one exists, and costs nothing.
    torch.testing.assert_close(4 * terms["temporal"], 3 * whole["temporal"])


def test_one_sample_has_no_other_to_contrast_with():
    z = some(1, 4, 3)
    assert hierarchical_contrast(z, z)["instance"].item() == pytest.approx(0.0, abs=1e-12)


def test_gradient_is_exact_in_float64():
    z1, z2 = some(3, 5, 2).requires_grad_(), some(3, 5, 2, seed=1).requires_grad_()
    both = lambda a, b: torch.stack(list(hierarchical_contrast(a, b).values())).sum()  # noqa: E731
    assert torch.autograd.gradcheck(both, (z1, z2))


def test_bfloat16_under_autocast_gives_the_float32_loss():
    z1, z2 = some(3, 5, 4).bfloat16(), some(3, 5, 4, seed=1).bfloat16()
    plain = hierarchical_contrast(z1.float(), z2.float())
    with torch.autocast("cpu", torch.bfloat16):
        terms = hierarchical_contrast(z1, z2)
    torch.testing.assert_close(terms, plain, rtol=1e-6, atol=0)


def test_large_inner_products_do_not_overflow():
    z = 100 * some(3, 4, 8)
    assert all(x.isfinite() for x in hierarchical_contrast(z, z).values())


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match="differ in shape"):
        hierarchical_contrast(some(2, 3, 4), some(2, 4, 4))
    with pytest.raises(ValueError, match="holds no steps to contrast"):
        hierarchical_contrast(some(2, 0, 4), some(2, 0, 4))
