"""CPC of pictures: what is seen from where, chance, and the formula written out."""

import math
from typing import Any

import pytest
import torch
from tiny_video import make_video, tiny_video

from unlabel.core import cat_batches
from unlabel.objectives import CPCv2
from unlabel.objectives.grid import FromAbove
from unlabel.training.pretraining import Pretraining


def made(rows=4, **options) -> tuple[Any, Any]:
    encoder = tiny_video("frames")
    torch.manual_seed(0)
    objective = CPCv2(**{"grid": 4, "ahead": (1, 3), "width": 8, "hidden": 8, **options})
    return Pretraining(encoder, objective).double(), make_video(encoder, rows)


def test_a_place_sees_its_own_row_and_those_above_and_none_below():
    torch.manual_seed(0)
    network = FromAbove(6, 8, 5).double()
    x = torch.randn(1, 6, 7, 7, dtype=torch.float64, requires_grad=True)
    for row, column in ((0, 3), (3, 0), (5, 6)):
        (grad,) = torch.autograd.grad(network(x)[0, :, row, column].sum(), x)
        reached = grad[0].abs().sum(0).sum(1) > 0
        assert not reached[row + 1 :].any() and reached[max(0, row - 5) : row + 1].all()


def test_zero_predictions_give_ln_of_the_pieces_of_the_batch():
    module, batch = made()
    with torch.no_grad():
        for p in module.objective.predict.parameters():
            p.zero_()
    term = module(batch).terms["below"]
    assert term.loss.item() == pytest.approx(math.log(4 * 16), rel=1e-12)
    assert term.chance == pytest.approx(math.log(4 * 16))


def test_the_loss_is_the_formula():
    module, batch = made(scale=3.0)
    encodings = module.encode(module.view(batch))
    o = module.objective
    z = o.norm(torch.stack([e.pooled for e in encodings], 1)).view(4, 4, 4, -1)
    c, t = o.summary(z), o.target(z).flatten(0, 2)
    means = []
    for k, predict in zip(o.ahead, o.predict, strict=True):
        losses = []
        for b in range(4):
            for i in range(4 - k):
                for j in range(4):
                    logits = 3.0 * t @ predict(c[b, i, j])
                    losses.append(logits.logsumexp(0) - logits[16 * b + 4 * (i + k) + j])
        means.append(torch.stack(losses).mean())
    assert module(batch).loss.item() == pytest.approx(torch.stack(means).mean().item(), rel=1e-12)


def test_no_gradient_reaches_rows_below_through_the_context():
    module, batch = made()
    encodings = module.encode(module.view(batch))
    z = torch.stack([e.pooled for e in encodings], 1).view(4, 4, 4, -1).detach().requires_grad_()
    (grad,) = torch.autograd.grad(module.objective.summary(z)[:, 1].sum(), z)
    assert grad[:, :2].any() and not grad[:, 2:].any()


def test_the_same_sample_twice_is_no_negative():
    module, batch = made(rows=1, scale=0.0)
    twice = module(cat_batches([batch, batch]))
    # The positive's double is left out of 2 x 16 pieces.
    assert twice.loss.item() == pytest.approx(math.log(31), rel=1e-12)


def test_all_pieces_go_through_the_encoder_in_one_call():
    module, batch = made(rows=2)
    calls = []
    module.encoder.driver.register_forward_hook(lambda m, args, out: calls.append(len(out.mask)))
    module(batch)
    assert calls == [32]


@pytest.mark.parametrize("wrong", [{"ahead": ()}, {"ahead": (0,)}, {"grid": 3}, {"overlap": 1.0}])
def test_rows_that_are_not_there_are_refused(wrong):
    with pytest.raises(ValueError, match="ahead is rows below, from 1 to"):
        CPCv2(**{"ahead": (3,), **wrong})
