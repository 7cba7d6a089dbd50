"""Reorder prediction: chance, and what it asks for."""

import math
from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series

from unlabel.objectives import ReorderPrediction
from unlabel.training.pretraining import Pretraining


@pytest.mark.parametrize("segments", [2, 3, 4])
def test_a_silent_head_gives_ln_of_the_orders(segments):
    encoder = TinySeries()
    module = Pretraining(encoder, ReorderPrediction(segments=segments))
    with torch.no_grad():
        for p in module.objective.classifier.parameters():
            p.zero_()
    term = module(make_series(encoder)).terms["order"]
    assert term.loss.item() == pytest.approx(math.log(math.factorial(segments)), abs=1e-5)
    assert term.chance == pytest.approx(term.loss.item(), abs=1e-5)


def test_the_right_order_costs_nothing():
    encoder = TinySeries(width=6)
    module: Any = Pretraining(encoder, ReorderPrediction(segments=3))
    batch = make_series(encoder, rows=40)
    (seen,) = module.view(batch)
    assert len(seen.target.unique()) == 6
    with torch.no_grad():
        module.objective.classifier.weight.copy_(100 * torch.eye(6))
        module.objective.classifier.bias.zero_()
    (encoding,) = module.encode([seen])
    encoding.pooled = torch.nn.functional.one_hot(seen.target[:, 0], 6).float()
    assert module.score([encoding], [seen], batch).loss.item() == pytest.approx(0.0, abs=1e-6)


def test_the_views_are_asked_for_by_name():
    (spec,) = ReorderPrediction(segments=3, after="jitter", args={"jitter.high": 0.2}).views
    assert spec.name == "reorder+jitter"
    assert dict(spec.parts()[0].args) == {"segments": 3, "ask": True}
    for segments in (1, 6):
        with pytest.raises(ValueError, match=f"segments is 2 to 5.*but {segments} came"):
            ReorderPrediction(segments=segments)
