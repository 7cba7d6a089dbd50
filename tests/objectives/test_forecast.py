"""Forecasting: its head's layout, its known answers, its views."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series

from unlabel.core import Encoding, View
from unlabel.objectives import (
    MLM,
    Backcast,
    Forecast,
    ForecastHead,
    MaskedHistory,
    ShuffledHistory,
    Sum,
)
from unlabel.objectives.forecast import own_values
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


# -- the window's own values ---------------------------------------------------------------------


def window(values, observed=None):
    """A view of patches of 2 steps."""
    values = values.double()
    seen = torch.ones_like(values, dtype=torch.bool) if observed is None else observed
    cut = lambda x: x.reshape(len(x), -1, 2, x.shape[2])  # noqa: E731
    return View({"values": cut(values * seen), "observed": cut(seen)}, torch.ones(len(values), 1))


def test_own_values_are_changes_since_the_newest_value_that_is_seen():
    values = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]]])
    observed = torch.ones_like(values, dtype=torch.bool)
    changes, newest = own_values(window(values))
    assert changes[0].tolist() == [[-7, -70], [-6, -60], [-4, -40], [0, 0]]
    assert newest.tolist() == [[[8, 80]]]
    observed[0, 3, 0] = observed[0, 0, 1] = False
    changes, newest = own_values(window(values, observed))
    assert changes[0].tolist() == [[-3, 0], [-2, -60], [0, -40], [0, 0]]
    assert newest.tolist() == [[[4, 80]]]
    changes, newest = own_values(window(values, torch.zeros_like(observed)))
    assert not changes.any() and not newest.any()


def test_values_come_before_tokens_and_covariates_after_them():
    head = ForecastHead(3, 4, 5, 2, values=6, covariates=1)
    assert head.linear.in_features == 6 * 2 + 3 * 4 + 5
    tokens, mask = torch.randn(7, 3, 4), torch.ones(7, 3, dtype=torch.bool)
    known, values = torch.randn(7, 5, 1), torch.randn(7, 6, 2)
    features = head.features(tokens, mask, known, values)
    wanted = [values.flatten(1), tokens.flatten(1), known.flatten(1)]
    assert torch.equal(features, torch.cat(wanted, dim=1))


@pytest.mark.parametrize("quantiles", [0, 3])
def test_with_the_windows_scale_the_bias_is_in_the_units_of_the_data(quantiles):
    head = ForecastHead(3, 4, 5, 2, values=6, quantiles=quantiles)
    mask, scale = torch.ones(7, 3, dtype=torch.bool), torch.rand(7, 1, 2) + 0.5
    seen = torch.randn(7, 3, 4), mask
    values = torch.randn(7, 6, 2)
    plain, scaled = (head(*seen, values=values, scale=s) for s in (None, scale))
    bias = head.linear.bias.reshape(-1, 5, 2)
    bias = bias if quantiles else bias[0]
    by = scale[:, None] if quantiles else scale
    torch.testing.assert_close((scaled - (plain - bias)) * by, bias.expand_as(scaled))


@pytest.mark.parametrize("quantiles", [(), (0.1, 0.5, 0.9)])
def test_a_head_on_values_without_weights_repeats_the_newest_value(quantiles):
    objective = Forecast(horizon=8, values=True, quantiles=quantiles)
    module, batch = pretraining(objective)
    assert "values" in objective.needs and "values" not in Forecast().needs
    for parameter in objective.head.parameters():
        torch.nn.init.zeros_(parameter)
    (spec,) = objective.views
    seen = module.encoder.view(batch, spec)
    found = objective.predict(module.encoder(seen), seen, batch)
    newest = own_values(seen)[1]
    wanted = newest[:, None].expand_as(found) if quantiles else newest.expand_as(found)
    torch.testing.assert_close(found, wanted)


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
    with pytest.raises(ValueError, match="Forecast needs steps after the window, views of"):
        Pretraining(make_encoder(), Forecast())
    with pytest.raises(ValueError, match="MLM needs a vocabulary, view mask_tokens, which"):
        Pretraining(TinySeries(), MLM())
