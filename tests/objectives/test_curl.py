"""CURL: a bilinear product of queries with keys of a moving average."""

import math
from typing import Any

import pytest
import torch
from tiny_video import make_video, tiny_video

from unlabel.objectives import CURL
from unlabel.training.pretraining import Pretraining

PAPERS = {"crop.low": 0.7056, "crop.high": 0.7056, "crop.aspect": 1.0}


@pytest.fixture
def module() -> Any:
    return Pretraining(tiny_video("tubes"), CURL(width=6, args=PAPERS)).double()


def test_a_product_of_zeros_gives_ln_n(module):
    torch.nn.init.zeros_(module.objective.bilinear)
    term = module(make_video(module.encoder, rows=5)).terms["contrast"]
    assert term.loss.item() == pytest.approx(math.log(5), abs=1e-12)
    assert term.chance == pytest.approx(math.log(5))


def test_it_is_its_formula(module):
    batch = make_video(module.encoder, rows=6)
    with torch.no_grad():  # the moving average is not where its model is
        for p in [*module.teacher.parameters(), *module.objective.key_projector.parameters()]:
            p += torch.randn_like(p) / 9
    views = module.view(batch)
    method = module.objective
    q = method.projector(module.encoder(views[0]).pooled)
    k = method.key_projector(module.teacher(views[1]).pooled)
    logits = torch.einsum("id,de,je->ij", q, method.bilinear, k)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(6))
    torch.testing.assert_close(module(batch).loss, expected, rtol=1e-11, atol=1e-12)


def test_the_product_starts_evenly_from_0_to_1(module):
    start = module.objective.bilinear
    assert 0 <= start.min() < 0.2 and 0.8 < start.max() <= 1


def test_crops_of_a_stack_are_one_for_all_its_frames_and_two_for_a_sample(module):
    batch = make_video(module.encoder, rows=2)
    batch.inputs["frames"] = batch.inputs["frames"][:, :1].expand(-1, 12, -1, -1, -1)
    one, other = (module.encoder.clip(batch, spec).frames for spec in module.objective.views)
    torch.testing.assert_close(one[:, 0], one[:, -1])
    assert (one - other).abs().amax((1, 2, 3, 4)).gt(0.01).all()


def test_an_argument_of_no_view_is_refused():
    with pytest.raises(ValueError, match=r"crop\.low"):
        CURL(augment="jitter", args=PAPERS)
