"""Generative models of values: known answers, and the formulas written out."""

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tiny_series import TinySeries, make_series
from tiny_video import make_video

from unlabel.core import Encoding, normal, stream_of, view
from unlabel.couplings import standard_log_prob
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import VAE, Autoencoder, NextStep
from unlabel.objectives.generative import VectorDecoder
from unlabel.objectives.likelihood import gaussian_nll
from unlabel.training.pretraining import Pretraining


def made(method, **sizes) -> tuple[Any, Any]:
    torch.manual_seed(0)
    encoder = TinySeries(**sizes).double()
    return Pretraining(encoder, method).double(), make_series(encoder)


def gave(module, batch):
    views = module.view(batch)
    return views[0], module.encode(views)[0]


# -- kernels -----------------------------------------------------------------------------------


def test_the_nll_of_the_true_gaussian_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, x, v = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    expected = -torch.distributions.Normal(mean, (v / 2).exp()).log_prob(x)
    torch.testing.assert_close(gaussian_nll(mean, x, v), expected.flatten())
    mask = x > 0
    torch.testing.assert_close(gaussian_nll(mean, x, v, mask), expected[mask])


def test_a_repeated_value_has_a_bounded_density():
    zero = torch.zeros(1)
    assert gaussian_nll(zero, zero, torch.tensor(-1e4)) == pytest.approx(
        math.log(2 * math.pi) / 2 + math.log(1e-3), abs=1e-5
    )


def test_the_standard_normal_density_integrates_to_one():
    line = torch.linspace(-8, 8, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    total = standard_log_prob(grid).exp().sum() * (line[1] - line[0]) ** 2
    assert total == pytest.approx(1, abs=1e-9)


# -- autoencoder -------------------------------------------------------------------------------


class Perfect(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, vector):
        return self.answer


@pytest.mark.parametrize("after", ["", "jitter"])
def test_a_perfect_decoder_costs_nothing(after):
    module, batch = made(Autoencoder(hidden=8, after=after))
    (seen,) = module.view(batch)
    module.objective.decoder = Perfect(seen.target)
    assert module(batch).loss == 0


def test_a_silent_decoder_costs_the_mean_square():
    module, batch = made(Autoencoder(hidden=8))
    (seen,) = module.view(batch)
    module.objective.decoder = Perfect(torch.zeros_like(seen.target))
    expected = seen.target[seen.is_target].square().mean()
    torch.testing.assert_close(module(batch).loss, expected)


def test_the_decoder_reads_the_pooled_vector_alone():
    module, batch = made(Autoencoder(hidden=8))
    seen, encoding = gave(module, batch)
    other = Encoding(encoding.pooled, torch.randn_like(encoding.tokens), encoding.mask)
    one, two = (module.score([e], [seen], batch).loss for e in (encoding, other))
    assert torch.equal(one, two)


def test_what_the_noise_did_is_taken_back():
    module, batch = made(Autoencoder(hidden=8, after="jitter", args={"jitter.high": 2.0}))
    (seen,) = module.view(batch)
    values = seen.inputs["values"].flatten(2)
    assert not torch.allclose(values[seen.is_target], seen.target[seen.is_target], atol=0.1)


def test_a_decoder_can_learn_a_batch_by_heart():
    torch.manual_seed(0)
    decoder, code = VectorDecoder(8, 6, 2, hidden=32), torch.randn(8, 8)
    aim = torch.randn(8, 6, 2)
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
    for _ in range(400):
        loss = (decoder(code) - aim).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-2


# -- VAE ---------------------------------------------------------------------------------------


def test_the_elbo_is_the_formula():
    module, batch = made(VAE(width=3, hidden=8, beta=0.7))
    method = module.objective
    with torch.no_grad():
        method.log_variance.fill_(-0.3)
    seen, encoding = gave(module, batch)
    mean, log_variance = method.posterior(encoding.pooled).chunk(2, 1)
    noise = normal(batch.seed, batch.ordinal, stream_of("code"), 3).double()
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    p = torch.distributions.Normal(torch.zeros(()).double(), 1.0)
    out = torch.distributions.Normal(
        method.decoder(mean + (log_variance / 2).exp() * noise), math.exp(-0.15)
    )
    count = seen.is_target.sum()
    value = -(out.log_prob(seen.target) * seen.is_target).sum() / count
    kl = torch.distributions.kl_divergence(q, p).sum() / count
    step = module(batch)
    torch.testing.assert_close(step.loss, value + 0.7 * kl)
    torch.testing.assert_close(step.terms["bits"].loss, (value + kl) / math.log(2))


def test_a_posterior_of_mean_1_costs_half_the_width():
    module, batch = made(VAE(width=6, hidden=8))
    with torch.no_grad():
        for p in module.objective.posterior.parameters():
            p.zero_()
        module.objective.posterior.bias[:6] = 1
    (seen,) = module.view(batch)
    values = seen.is_target.sum() / len(seen.mask)
    assert (module(batch).terms["kl"].loss * values).item() == pytest.approx(3)


def test_beta_zero_and_deviation_one_are_the_square_and_a_constant():
    module, batch = made(VAE(width=3, hidden=8, beta=0.0, deviation=1.0))
    (seen,) = module.view(batch)
    module.objective.decoder = Perfect(torch.zeros_like(seen.target, dtype=torch.float64))
    half = seen.target[seen.is_target].square().mean().double() / 2
    torch.testing.assert_close(module(batch).loss, half + math.log(2 * math.pi) / 2)


def test_samples_are_decoded_from_the_prior_and_repeat_by_seed():
    module, _ = made(VAE(width=3, hidden=8))
    method = module.objective
    one = method.drawn(module.encoder, 4, seed=1)
    assert one.shape == (4, module.encoder.length, module.encoder.token_values)
    assert torch.equal(one, method.drawn(module.encoder, 4, seed=1))
    assert not torch.equal(one, method.drawn(module.encoder, 4, seed=2))
    noise = normal(1, torch.arange(4), stream_of("sample"), 3).double()
    torch.testing.assert_close(one, method.decoder(noise))


def test_a_trained_vae_samples_the_mean_and_spread_of_the_data():
    # Samples are constants: what is decoded must be as wide as they are.
    torch.manual_seed(0)
    encoder = TinySeries(channels=1)
    module = Pretraining(encoder, VAE(width=2, hidden=32, deviation=0.5))
    level = torch.randn(64, 1)
    seen_by = lambda x: Encoding(  # noqa: E731
        x.expand(-1, 16), x[:, :, None].expand(-1, 8, 16), torch.ones(64, 8, dtype=torch.bool)
    )
    batch = make_series(encoder, 64)
    (seen,) = module.view(batch)
    seen.target = level[:, :, None].expand(-1, 8, 2)
    seen.is_target = torch.ones(64, 8, 2, dtype=torch.bool)
    optimizer = torch.optim.Adam(module.objective.parameters(), 1e-2)
    for step in range(500):
        batch.ordinal = batch.index + 64 * step
        loss = module.score([seen_by(level)], [seen], batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = module.objective.drawn(cast(Any, encoder), 500).mean((1, 2))
    assert abs(drawn.mean() - level.mean()) < 0.3
    assert 0.6 < drawn.std() / level.std() < 1.4


@pytest.mark.parametrize("wrong", [{"beta": -1.0}, {"deviation": 0.0}])
def test_a_vae_refuses_what_is_no_density(wrong):
    with pytest.raises(ValueError, match="beta is 0 or more and a deviation above 0"):
        VAE(**wrong)


# -- autoregression ----------------------------------------------------------------------------


def causal_encoder(kind):
    config = {"model_type": "dilated_conv", "hidden_size": 8, "num_hidden_layers": 2}
    if kind == "patchtst":
        config = {"d_model": 8, "num_attention_heads": 2, "patch_length": 4}
    torch.manual_seed(0)
    return SeriesEncoder.from_config(
        config, context=16, dropout=0.0, norm="none", causal=kind == "patchtst"
    ).double()


@pytest.mark.parametrize("kind", ["patchtst", "conv"])
def test_the_jacobian_of_the_means_is_strictly_lower_triangular_in_tokens(kind):
    encoder = causal_encoder(kind)
    module = Pretraining(encoder, NextStep()).double()
    batch = make_series(TinySeries(channels=1), 1)
    batch.inputs["observed"] = torch.ones_like(batch.inputs["observed"])

    def means(values):
        batch.inputs["values"] = values
        seen, encoding = gave(module, batch)
        return module.objective.predict(encoding, seen.target.shape[1])[0]

    values = batch.inputs["values"].double()[:, :16]
    batch.mask = batch.mask[:, :16]
    batch.inputs["observed"] = batch.inputs["observed"][:, :16]
    jacobian = torch.autograd.functional.jacobian(means, values)
    steps = encoder.patch
    by_token = jacobian.reshape(encoder.length, -1, encoder.length, steps).abs().amax((1, 3))
    assert (by_token.triu() == 0).all()
    below = by_token.tril(-1)
    assert (below.diagonal(-1) > 0).all()


def test_the_first_token_is_predicted_from_nothing():
    module, batch = made(NextStep())
    seen, encoding = gave(module, batch)
    mean, _ = module.objective.predict(encoding, seen.target.shape[1])
    assert (mean[:, 0] == mean[0, 0]).all() and not torch.equal(mean[0, 1], mean[1, 1])


def test_the_likelihood_is_the_product_of_the_conditionals():
    module, batch = made(NextStep())
    method = module.objective
    seen, encoding = gave(module, batch)
    total, count = 0.0, 0
    for row in range(len(seen.mask)):
        for place in range(seen.target.shape[1]):
            known = encoding.tokens[row, place - 1] if place else method.start
            mean, log_variance = method.predictor(known).chunk(2)
            log_p = torch.distributions.Normal(mean, (log_variance / 2).exp())
            there = seen.is_target[row, place]
            total = total - log_p.log_prob(seen.target[row, place])[there].sum()
            count += int(there.sum())
    step = module(batch)
    torch.testing.assert_close(step.loss, total / count)
    torch.testing.assert_close(step.terms["bits"].loss, total / count / math.log(2))


def test_a_silent_head_costs_what_the_standard_normal_does():
    module, batch = made(NextStep())
    with torch.no_grad():
        for p in module.objective.predictor.parameters():
            p.zero_()
    (seen,) = module.view(batch)
    square = seen.target[seen.is_target].double().square().mean()
    expected = (math.log(2 * math.pi) + square) / 2
    torch.testing.assert_close(module(batch).loss, expected)


def test_an_encoder_that_sees_the_future_is_refused():
    with pytest.raises(ValueError, match="NextStep needs an encoder that sees the past alone"):
        Pretraining(TinySeries(causal=False), NextStep())
    with pytest.raises(ValueError, match="loss is 'cosine'"):
        NextStep(loss="cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Autoencoder(hidden=8), VAE(width=3, hidden=8), NextStep()])
def test_the_report_is_given_what_was_rebuilt(method):
    module, batch = made(method)
    views = module.view(batch)
    encodings = module.encode(views)
    (found,) = method.filled(encodings, views)
    assert found.target.shape == views[0].target.shape
    assert not torch.equal(found.target, views[0].target)
    assert view("whole") == method.views[0]


@pytest.mark.parametrize(("kind", "frames"), [("vit", 1), ("videomae", 4)])
def test_the_jacobian_of_patches_is_strictly_lower_triangular_in_raster_order(kind, frames):
    torch.manual_seed(0)
    config = {"model_type": kind, "hidden_size": 8, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "intermediate_size": 8, "patch_size": 4}
    encoder = VisualEncoder.from_config(config, frames=frames, size=8, causal=True, dropout=0.0)
    module = Pretraining(encoder, NextStep(loss="mse")).double()
    batch = make_video(encoder, 1)
    (seen,) = module.view(batch)

    def means(patches):
        given = replace(seen, inputs={**seen.inputs, "patches": patches})
        return module.objective.predict(encoder(given), encoder.length)[0]

    jacobian: Any = torch.autograd.functional.jacobian(means, seen.inputs["patches"].double())
    by_token = jacobian[0, :, :, 0].abs().amax((1, 3))
    assert (by_token.triu() == 0).all() and (by_token.tril(-1).diagonal(-1) > 0).all()


def test_what_has_no_order_of_patches_cannot_be_causal():
    with pytest.raises(ValueError, match="has no order of patches to be causal in"):
        VisualEncoder.from_config({"model_type": "vit"}, frames=4, size=32, causal=True)
    with pytest.raises(ValueError, match="A causal class token sees no patch"):
        VisualEncoder.from_config(
            {"model_type": "vit"}, frames=1, size=32, causal=True, pooling="cls"
        )
