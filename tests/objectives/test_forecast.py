"""Forecasting: its head's layout, its known answers, its views."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series

from unlabel.core import Encoding
from unlabel.objectives import (
    MLM,
    Backcast,
    Forecast,
    ForecastHead,
    MaskedHistory,
    ShuffledHistory,
    Sum,
)
from unlabel.training.pretraining import Pretraining


def pretraining(objective, **encoder) -> tuple[Any, Any]:
    made = TinySeries(**encoder)
    return Pretraining(made, objective), make_series(made)


# -- head --------------------------------------------------------------------------------------


def test_the_heads_weight_reads_length_width_and_writes_horizon_channels():
    head = ForecastHead(3, 4, 5, 2)
    assert head.linear.weight.shape == (5 * 2, 3 * 4)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.zero_()
        head.linear.weight[1 * 2 + 1, 2 * 4 + 3] = 1.0  # step 1, channel 1 from token 2, number 3
    tokens = torch.randn(6, 3, 4)
    out = head(tokens, torch.ones(6, 3, dtype=torch.bool))
    assert out.shape == (6, 5, 2)
    assert torch.equal(out[:, 1, 1], tokens[:, 2, 3])
    assert out.count_nonzero() == 6


def test_quantiles_come_before_horizon_and_channels():
    head = ForecastHead(3, 4, 5, 2, quantiles=3)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.arange(30.0))
    out = head(torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    assert out.shape == (1, 3, 5, 2)
    assert torch.equal(out[0], torch.arange(30.0).view(3, 5, 2))


def test_a_closed_form_regression_set_from_outside_is_what_the_head_computes():
    head = ForecastHead(3, 4, 5).double()
    tokens = torch.randn(40, 3, 4, dtype=torch.float64)
    mask = torch.ones(40, 3, dtype=torch.bool)
    answer = torch.randn(12, 5, dtype=torch.float64)
    features = head.features(tokens, mask)
    solved = torch.linalg.lstsq(features, features @ answer).solution
    with torch.no_grad():
        head.linear.weight.copy_(solved.T)
        head.linear.bias.zero_()
    torch.testing.assert_close(head(tokens, mask)[..., 0], tokens.flatten(1) @ answer)


def test_a_short_window_is_the_newest_tokens_and_padding_counts_as_0():
    head = ForecastHead(4, 2, 3)
    tokens = torch.randn(5, 2, 2)
    short = head(tokens, torch.ones(5, 2, dtype=torch.bool))
    padded = torch.cat([torch.full((5, 2, 2), 9.0), tokens], 1)
    mask = torch.tensor([[False, False, True, True]]).expand(5, -1)
    assert torch.equal(short, head(padded, mask))
    with pytest.raises(ValueError, match="made for 4 tokens, but 5 came"):
        head(torch.randn(1, 5, 2), torch.ones(1, 5, dtype=torch.bool))


# -- loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantiles", [(), (0.1, 0.5, 0.9)])
@pytest.mark.parametrize("kind", [Forecast, Backcast])
def test_a_perfect_forecast_is_0(kind, quantiles):
    module, batch = pretraining(kind(horizon=8, quantiles=quantiles), width=2, patch=1)
    (seen,) = module.view(batch)
    linear = module.objective.head.linear
    with torch.no_grad():  # the tokens hold the future: each step is read off one of them
        linear.bias.zero_()
        linear.weight.copy_(torch.eye(16, 32).repeat(max(len(quantiles), 1), 1))
    tokens = torch.cat([seen.target, torch.zeros(8, 8, 2)], 1)
    loss = module.score([Encoding(tokens[:, 0], tokens, seen.mask)], [seen], batch).loss
    assert loss.item() == pytest.approx(0.0, abs=1e-7)


def test_a_future_that_was_not_observed_does_not_matter():
    module, batch = pretraining(Forecast(horizon=8))
    (seen,) = module.view(batch)
    encodings = module.encode([seen])
    plain = module.score(encodings, [seen], batch).loss
    assert not seen.is_target.all()
    seen.target = seen.target.masked_fill(~seen.is_target, float("nan"))
    assert torch.equal(module.score(encodings, [seen], batch).loss, plain)


def test_what_the_encoder_sees_does_not_depend_on_the_future():
    module, batch = pretraining(Forecast(horizon=8, after="jitter"))
    (before,) = module.view(batch)
    batch.inputs["values"][:, 16:] += 5.0
    (after,) = module.view(batch)
    assert torch.equal(before.inputs["values"], after.inputs["values"])
    assert not torch.equal(before.target, after.target)


def test_a_quantile_forecast_with_one_median_is_half_the_absolute_error():
    made = {}
    for name, objective in {
        "median": Forecast(horizon=8, quantiles=(0.5,)),
        "l1": Forecast(horizon=8, loss="l1"),
    }.items():
        module, batch = pretraining(objective)
        torch.manual_seed(0)
        for p in objective.head.parameters():
            torch.nn.init.normal_(p)
        made[name] = module(batch).loss
    torch.testing.assert_close(made["median"], made["l1"] / 2)


@pytest.mark.parametrize("options", [{}, {"loss": "l1"}, {"quantiles": (0.2, 0.8)}])
def test_a_weight_multiplies_the_error_of_its_samples_targets(options):
    module, batch = pretraining(Forecast(horizon=8, **options))
    (seen,) = module.view(batch)
    encodings = module.encode([seen])

    def loss(weight, where=None):
        kept = seen.is_target if where is None else seen.is_target & where[:, None, None]
        one = replace(seen, weight=weight, is_target=kept)
        return module.score(encodings, [one], batch).loss

    ones = torch.ones(8, 1, 2)
    torch.testing.assert_close(loss(ones), loss(None))
    torch.testing.assert_close(loss(3 * ones), 3 * loss(None))
    first = torch.arange(8) < 1
    alone = first[:, None, None].float() * ones
    counted = seen.is_target[first].sum() / seen.is_target.sum()
    torch.testing.assert_close(loss(alone), loss(None, first) * counted)
    everywhere = replace(seen, weight=ones, is_target=None)
    plain = replace(seen, is_target=torch.ones_like(seen.is_target))
    torch.testing.assert_close(
        module.score(encodings, [everywhere], batch).loss,
        module.score(encodings, [plain], batch).loss,
    )


def test_weighing_asks_for_the_power_of_the_scale_that_its_loss_grows_with():
    power = lambda **how: dict(Forecast(weigh=True, **how).views[0].args)["weigh"]  # noqa: E731
    assert [power(), power(loss="huber"), power(loss="l1"), power(quantiles=(0.5,))] == [2, 2, 1, 1]
    assert "weigh" not in dict(Forecast().views[0].args)


# -- views -------------------------------------------------------------------------------------


def names(objective):
    (spec,) = objective.views
    return spec.name, {p.name: dict(p.args) for p in spec.parts()}


def test_each_entry_asks_for_its_chain():
    assert names(Forecast(horizon=4)) == ("future", {"future": {"horizon": 4}})
    chained = Forecast(
        horizon=4, before="random_conv", after="jitter+token_cutoff", args={"jitter.high": 0.5}
    )
    assert names(chained)[0] == "random_conv+future+jitter+token_cutoff"
    assert names(chained)[1]["jitter"] == {"high": 0.5}
    masked = names(MaskedHistory(horizon=4, ratio=0.2, after="reorder"))
    assert masked[0] == "future+hide+reorder"
    assert masked[1]["hide"] == {"ratio": 0.2, "mean_length": 12.0}
    assert names(ShuffledHistory(unit="step"))[0] == "future+shuffle"
    assert names(ShuffledHistory(together=True, before="scaling"))[0] == "scaling+shuffle+future"
    assert names(Backcast(horizon=4)) == ("past", {"past": {"horizon": 4}})


def test_the_horizon_of_a_sum_is_the_longest_and_each_part_predicts_its_own():
    both = Sum({"near": Forecast(horizon=3), "far": Forecast(horizon=8), "back": Backcast()})
    assert both.horizon == 96
    module, batch = pretraining(Sum({"near": Forecast(horizon=3), "far": Forecast(horizon=8)}))
    near, far = module.view(batch)
    assert near.target.shape[1] == 3 and far.target.shape[1] == 8
    assert torch.equal(near.target, far.target[:, :3])


def test_the_backcasts_head_is_its_own():
    module, _ = pretraining(Sum({"ahead": Forecast(horizon=8), "back": Backcast(horizon=8)}))
    heads = {id(p) for n, p in module.named_parameters() if "head" in n}
    assert len(heads) == 4


def test_refusals_say_what_to_do(make_encoder):
    with pytest.raises(ValueError, match="number of steps to predict, but 0 came"):
        Forecast(horizon=0)
    with pytest.raises(ValueError, match="give levels between 0 and 1"):
        Forecast(quantiles=[50])
    with pytest.raises(ValueError, match=r"'hide\.ratio' is no argument of a view in future"):
        Forecast(args={"hide.ratio": 0.1})
    with pytest.raises(ValueError, match=r"from 0 to below 1, but 1\.0 came"):
        MaskedHistory(ratio=1.0)
    with pytest.raises(ValueError, match="Forecast needs future, length, view future of"):
        Pretraining(make_encoder(), Forecast())
    with pytest.raises(ValueError, match="MLM needs table, token_ids, view mask_tokens of"):
        Pretraining(TinySeries(), MLM())
