"""Deep InfoMax: known answers, the bounds written out, and who learns what from the prior."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_twins import pretraining

from unlabel.objectives import DeepInfoMax, blocks
from unlabel.objectives.heads import reverse_gradient
from unlabel.objectives.infomax import mutual_information


def silent(module):
    """The module with a critic and a discriminator that score all pairs 0."""
    heads = [*module.objective.of_vector.values(), module.objective.discriminator]
    with torch.no_grad():
        for head in heads:
            head[-1].weight.zero_()
            head[-1].bias.zero_()
    return module


@pytest.mark.parametrize(("bound", "wanted"), [("jsd", 0.0), ("dv", 0.0), ("nce", math.log(8))])
def test_a_zero_critic_gives_0_or_ln_n_and_a_zero_discriminator_2_ln_2(bound, wanted):
    module, batch = pretraining(DeepInfoMax(bound=bound, width=8))
    terms = silent(module)(batch).terms
    assert {n: t.weight for n, t in terms.items()} == {"global": 0.5, "local": 1.0, "prior": 0.1}
    for name, answer in (("global", wanted), ("local", wanted), ("prior", 2 * math.log(2))):
        assert terms[name].loss.item() == pytest.approx(answer, abs=1e-6)
        assert terms[name].chance == pytest.approx(answer)


def test_the_donsker_varadhan_bound_of_one_sample_alone_is_0():
    module, batch = pretraining(DeepInfoMax(bound="dv", width=8, prior_weight=0.0), rows=1)
    loss = module(batch).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def some(queries=10, keys=6):
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, 5, dtype=torch.float64, generator=draw) for n in (queries, keys))
    own = torch.arange(queries) % keys
    ids = torch.tensor([0, 1, 2, 3, 3, 4])  # keys 3 and 4 are of one sample
    return q.requires_grad_(), k.requires_grad_(), ids[own], ids, own


@pytest.mark.parametrize("bound", ["jsd", "dv", "nce"])
def test_bounds_are_the_formulas_with_their_gradients_also_in_blocks(monkeypatch, bound):
    q, k, query_id, key_id, own = some()
    s, apart = q @ k.T, query_id[:, None] != key_id
    p = s.gather(1, own[:, None])[:, 0]
    each = [row[others] for row, others in zip(s, apart, strict=True)]
    if bound == "jsd":
        of_pairs = torch.stack([F.softplus(row).mean() for row in each])
        wanted = (F.softplus(-p) + of_pairs).mean() - 2 * math.log(2)
    elif bound == "dv":
        wanted = torch.cat(each).exp().mean().log() - p.mean()
    else:
        scores = [torch.cat([x[None], row]) for x, row in zip(p, each, strict=True)]
        wanted = torch.stack([-row.log_softmax(0)[0] for row in scores]).mean()
    slopes = torch.autograd.grad(wanted, (q, k))
    for numbers in (2**24, 30):
        monkeypatch.setattr(blocks, "NUMBERS", numbers)
        got = mutual_information(q, k, query_id, key_id, own, bound=bound)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(torch.autograd.grad(got, (q, k)), slopes)


def test_a_perfect_critic_gives_minus_2_ln_2_under_jsd():
    x = 50 * (2 * torch.eye(3) - 1)
    here = torch.arange(3)
    assert mutual_information(x, torch.eye(3), here, here, here) == pytest.approx(-2 * math.log(2))


def test_padding_is_no_place_and_the_whole_is_the_mean_over_real_places():
    module, _ = pretraining(DeepInfoMax(width=8))
    tokens = torch.randn(2, 3, 8)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    local, sample = module.objective.places("local", tokens, mask)
    assert torch.equal(local, tokens[mask]) and sample.tolist() == [0, 0, 1, 1, 1]
    whole, sample = module.objective.places("global", tokens, mask)
    torch.testing.assert_close(whole[0], tokens[0, :2].mean(0))
    assert sample.tolist() == [0, 1]


def test_the_discriminator_learns_to_tell_and_the_encoder_not_to_be_told():
    module, batch = pretraining(DeepInfoMax(width=8))
    method = module.objective
    pooled = torch.randn(8, 16, requires_grad=True)
    loss = method.told(pooled, batch).sum()
    first = method.discriminator[0].weight
    of_vectors, of_head = torch.autograd.grad(loss, (pooled, first))
    plain = F.softplus(method.discriminator(pooled.sigmoid())).sum()
    torch.testing.assert_close(of_vectors, -torch.autograd.grad(plain, pooled)[0])
    with torch.no_grad():
        first -= 1e-3 * of_head
        assert method.told(pooled, batch).sum() < loss


def test_a_turned_gradient_is_scaled_and_the_numbers_are_the_same():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    y.square().sum().backward()
    assert torch.equal(y, x) and x.grad is not None and x.grad.tolist() == [-1.0, -2.0]


def test_terms_without_weight_have_no_heads_and_bad_arguments_are_refused():
    module, batch = pretraining(DeepInfoMax(global_weight=0.0, prior_weight=0.0, width=8))
    assert list(module(batch).terms) == ["local"] and module.objective.discriminator is None
    with pytest.raises(ValueError, match="bound is 'kl': give 'jsd', 'dv' or 'nce'"):
        DeepInfoMax(bound="kl")  # type: ignore[arg-type]
    bad: list[Any] = [{"local_weight": -1.0}, {"local_weight": 0.0, "global_weight": 0.0}]
    for weights in bad:
        with pytest.raises(ValueError, match="The weights of whole, places and prior are"):
            DeepInfoMax(**weights)
