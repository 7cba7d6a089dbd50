"""Supervised contrast: the formula, its likeness to NT-Xent and SimCLR, and ranks."""

import math
import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import launch  # pyright: ignore[reportMissingImports]
from tiny_series import TinySeries, make_series

from unlabel.objectives import InstanceContrast, SupCon
from unlabel.objectives.contrast import nt_xent
from unlabel.objectives.gather import average_gradients, global_mean, world
from unlabel.objectives.supervised import supervised_contrast
from unlabel.training.pretraining import Pretraining


def random(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_two_rows_a_label_are_nt_xent():
    z = random(10, 4)
    losses = supervised_contrast(z, torch.arange(5).repeat(2), temperature=0.07)
    wanted = nt_xent(z[:5], z[5:], temperature=0.07)
    torch.testing.assert_close(losses.mean(), wanted, rtol=1e-12, atol=0)


def test_it_is_the_formula_with_its_gradient_and_leaves_out_who_is_alone():
    z = random(9, 5).requires_grad_()
    label = torch.tensor([7, 2, 7, 7, -3, 2, 0, 0, 7])
    unit, wanted = F.normalize(z, dim=1), []
    logits = unit @ unit.T / 0.2
    for i in range(9):
        rest = torch.cat([logits[i, :i], logits[i, i + 1 :]]).logsumexp(0)
        own = [p for p in range(9) if label[p] == label[i] and p != i]
        wanted += [sum(rest - logits[i, p] for p in own) / len(own)] if own else []
    got = supervised_contrast(z, label, temperature=0.2)
    torch.testing.assert_close(got, torch.stack(wanted), rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(torch.stack(wanted).sum(), z, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(got.sum(), z)[0], slope, rtol=1e-10, atol=1e-12)
    equal = supervised_contrast(torch.ones(12, 5), torch.arange(12) // 4, temperature=0.2)
    torch.testing.assert_close(equal.mean(), torch.tensor(math.log(11)))


def test_without_labels_it_is_simclr_and_labels_draw_a_class_together():
    encoder = TinySeries()
    batch = make_series(encoder, 6)
    torch.manual_seed(0)
    own = Pretraining(encoder, SupCon(width=8, temperature=0.2)).double()
    other = Pretraining(encoder, InstanceContrast(width=8, temperature=0.2)).double()
    other.objective.load_state_dict(own.objective.state_dict())
    own.eval()
    other.eval()
    bare = replace(batch, label=torch.full_like(batch.index, -1))
    torch.testing.assert_close(own(bare).loss, other(bare).loss, rtol=1e-10, atol=0)
    told = own(replace(batch, label=torch.tensor([0, 0, 0, 1, 1, -1]))).loss
    assert not torch.isclose(told, own(bare).loss)


def _gradient() -> dict[str, torch.Tensor]:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
    rank, size = world()
    z, share = random(6, 4, 5), 6 // size
    weight = torch.nn.Parameter(torch.eye(5, dtype=torch.float64))
    own = z[rank * share : (rank + 1) * share] @ weight
    label = (torch.arange(own.shape[0] * 4) + rank * share * 4) // 4
    losses = supervised_contrast(own.flatten(0, 1), label % 4, temperature=0.2)
    loss = global_mean(losses)
    loss.backward()
    average_gradients([weight])
    assert weight.grad is not None
    return {"loss": loss.detach(), "grad": weight.grad}


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one_process(tmp_path):
    one = _gradient()
    ended = launch(tmp_path, _gradient, 2)
    assert ended.result
    torch.testing.assert_close(ended.results[0]["grad"], one["grad"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(sum(r["loss"] for r in ended.results) / 2, one["loss"])
