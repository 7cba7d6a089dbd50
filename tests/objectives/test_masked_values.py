"""Masked values: what counts, what does not, and what is refused."""

import pytest
import torch
from tiny_series import TinySeries, make_series

from unlabel.core import Encoding
from unlabel.objectives import MaskedValues
from unlabel.objectives.chains import chain
from unlabel.training.pretraining import Pretraining


def scored(module, batch, tokens, change=None):
    """The loss of given tokens, through an identity head."""
    (seen,) = module.view(batch)
    if change is not None:
        seen.target = change(seen)
    mask = seen.mask
    return module.score([Encoding(tokens.mean(1), tokens, mask)], [seen], batch).loss, seen


@pytest.fixture
def identity():
    """An objective whose tokens are its predictions."""
    encoder = TinySeries(width=4)  # as wide as a token has values
    module = Pretraining(encoder, MaskedValues(unit="patch", ratio=0.5))
    with torch.no_grad():
        module.objective.predictor.weight.copy_(torch.eye(4))
        module.objective.predictor.bias.zero_()
    return module, make_series(encoder)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_a_perfect_prediction_is_0(identity, loss):
    module, batch = identity
    module.objective.loss = loss
    (seen,) = module.view(batch)
    assert seen.is_target.any()
    assert scored(module, batch, seen.target)[0].item() == 0.0


def test_predicting_0_costs_the_mean_square_of_what_was_asked(identity):
    module, batch = identity
    loss, seen = scored(module, batch, torch.zeros(8, 8, 4))
    torch.testing.assert_close(loss, seen.target[seen.is_target].square().mean())


def test_targets_that_were_not_asked_for_do_not_matter(identity):
    module, batch = identity
    tokens = torch.randn(8, 8, 4)
    plain, _ = scored(module, batch, tokens)
    for value in (1e6, float("nan")):
        spoilt, _ = scored(
            module, batch, tokens, lambda v, x=value: v.target.masked_fill(~v.is_target, x)
        )
        assert torch.equal(plain, spoilt)


def test_tokens_of_which_nothing_is_asked_get_no_gradient(identity):
    module, batch = identity
    tokens = torch.randn(8, 8, 4, requires_grad=True)
    loss, seen = scored(module, batch, tokens)
    (slope,) = torch.autograd.grad(loss, tokens)
    assert torch.equal(slope != 0, seen.is_target)


def test_a_batch_of_which_nothing_is_asked_costs_0(identity):
    module, batch = identity
    (seen,) = module.view(batch)
    seen.is_target = torch.zeros_like(seen.is_target)
    tokens = torch.randn(8, 8, 4, requires_grad=True)
    loss = module.score([Encoding(tokens.mean(1), tokens, seen.mask)], [seen], batch).loss
    loss.backward()
    assert loss.item() == 0.0 and not tokens.grad.any()


def test_one_step_of_the_window_is_asked_where_that_is_the_share():
    encoder = TinySeries(channels=1)
    (seen,) = Pretraining(encoder, MaskedValues(unit="step", ratio=1 / 16)).view(
        make_series(encoder, rows=64)
    )
    assert set(seen.is_target.flatten(1).sum(1).tolist()) <= {0, 1}  # 0 where it is missing


def test_the_view_is_asked_for_by_name_and_arguments():
    (spec,) = MaskedValues(
        unit="span", ratio=0.15, before="scaling", after="jitter", args={"jitter.high": 0.5}
    ).views
    assert spec.name == "scaling+mask_values+jitter"
    _, mask, jitter = spec.parts()
    assert dict(jitter.args) == {"high": 0.5}
    assert dict(mask.args) == {"unit": "span", "ratio": 0.15, "mean_length": 3.0}
    (alone,) = MaskedValues().views
    assert dict(alone.args) == {"unit": "patch", "ratio": 0.4, "mean_length": 3.0}


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match=r"between 0 and 1, but 1\.5 came"):
        MaskedValues(ratio=1.5)
    with pytest.raises(ValueError, match=r"'jitter\.high' is no argument of a view in mask_values"):
        MaskedValues(args={"jitter.high": 0.1})


def test_a_chain_drops_empty_parts_and_names_its_arguments():
    assert chain("", "plain", "").name == "plain"
    assert chain("a+b", "", "c", draw=2, args={"b.x": 1}).args == (("b.x", 1),)
    assert chain("a", args={"a.x": 1}).args == (("x", 1),)
    with pytest.raises(ValueError, match=r"write a\.x"):
        chain("a", args={"x": 1})
