"""Flows as encoders and as priors: exact likelihoods, and what they refuse."""

import contextlib
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from tiny_series import TinySeries, make_series
from tiny_video import make_video, tiny_video
from torch import nn
from transformers import AutoModel

from unlabel.core import Batch, ViewSpec, view
from unlabel.modalities.coupling_flow import CouplingFlowConfig, CouplingFlowModel
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import VAE, Flow, FlowPrior, InstanceContrast, NextStep
from unlabel.training.pretraining import Pretraining, cached_step

CONFIG = {"model_type": "coupling_flow", "hidden_size": 16, "num_hidden_layers": 3}


def series_flow(**settings) -> SeriesEncoder:
    torch.manual_seed(0)
    keys: dict[str, Any] = {"context": 16, "channels": 2, **settings}
    return SeriesEncoder.from_config({**CONFIG, "patch_size": 4}, **keys)


def windows(rows=8):
    batch = make_series(TinySeries(), rows)
    batch.inputs["observed"] = torch.ones_like(batch.inputs["observed"])
    return batch


def stir(module, std=0.1):
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module


def test_an_identity_costs_what_the_standard_normal_does():
    module, batch = Pretraining(series_flow(), Flow(before="")), windows()
    (seen,) = module.view(batch)
    x = seen.inputs["values"]
    expected = (math.log(2 * math.pi) + x.square().mean()) / 2
    step = module(batch)
    torch.testing.assert_close(step.loss, expected)
    torch.testing.assert_close(step.terms["bits"].loss, expected / math.log(2))


def test_the_likelihood_is_that_of_change_of_variables():
    encoder = stir(series_flow()).double()
    module, batch = Pretraining(encoder, Flow(before="")), windows(2)
    (seen,) = module.view(batch)
    x = seen.inputs["values"].double().flatten(1)
    shape = (1, encoder.length, encoder.token_values)
    to_noise = lambda v: encoder.model(v.view(shape)).hidden_states[-1].flatten()  # noqa: E731
    nats = 0.0
    for row in x:
        z, jacobian = to_noise(row), torch.autograd.functional.jacobian(to_noise, row)
        base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
        nats = nats - (base + jacobian.slogdet().logabsdet)
    found = module.score(module.encode([seen]), [seen], batch).loss
    torch.testing.assert_close(found, (nats / x.numel()).float(), check_dtype=False)


def test_windows_with_gaps_have_no_likelihood_and_do_not_count():
    module, batch = Pretraining(stir(series_flow()), Flow(before="")), windows(4)
    batch.inputs["observed"][1:3, 5] = False
    whole = module(batch).loss
    some = torch.tensor([0, 3])
    batch.inputs = {k: x[some] for k, x in batch.inputs.items()}
    batch.mask, batch.index, batch.ordinal = (
        x[some] for x in (batch.mask, batch.index, batch.ordinal)
    )
    batch.label = None
    torch.testing.assert_close(module(batch).loss, whole)
    batch.inputs["observed"][:, 3] = False
    assert module(batch).loss == 0


def test_dequantized_values_stay_within_half_a_width():
    encoder, batch = series_flow(norm="none"), windows()
    plain, noised = (encoder.view(batch, view(n)) for n in ("plain", "dequantize"))
    apart = (noised.inputs["values"] - plain.inputs["values"]).flatten(1, 2)
    std = plain.inputs["values"].flatten(1, 2).std(1, unbiased=False)
    assert (apart.abs().amax(1) < 0.025 * std + 1e-6).all() and apart.abs().max() > 0
    clips = tiny_video("flow")
    clip = clips.clip(make_video(clips), ViewSpec("dequantize")).frames
    levels = (clip * 256).floor()
    raw = clips.clip(make_video(clips), ViewSpec("plain")).frames * 255
    torch.testing.assert_close(levels, raw.round())
    assert clip.min() >= 0 and clip.max() < 1


@pytest.mark.parametrize("kind", ["series", "frames", "video"])
def test_a_saved_flow_loads_with_equal_outputs(tmp_path, kind):
    if kind == "series":
        encoder: Any = stir(series_flow())
        batch = windows()
    else:
        times = 1 if kind == "frames" else 4
        config = {**CONFIG, "patch_size": 4}
        encoder = stir(VisualEncoder.from_config(config, frames=times, size=8))
        batch = make_video(encoder)
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path, local_files_only=True)
    seen = encoder.view(batch, view("plain"))
    torch.testing.assert_close(again(seen).likelihood, encoder(seen).likelihood)
    model = AutoModel.from_pretrained(tmp_path)
    assert isinstance(model, CouplingFlowModel)
    inputs = seen.inputs["patches"] if kind != "series" else seen.inputs["values"].flatten(2)
    torch.testing.assert_close(model(inputs).log_prob, encoder(seen).likelihood)
    torch.testing.assert_close(
        model.inverse(model(inputs).hidden_states[-1]), inputs, rtol=1e-3, atol=1e-3
    )


def test_samples_of_an_identity_are_noise_and_repeat_by_seed():
    model = CouplingFlowModel(CouplingFlowConfig(length=4, values=6))
    one = model.sample(200, seed=1)
    assert one.shape == (200, 4, 6) and torch.equal(one, model.sample(200, seed=1))
    assert abs(one.std() - 1) < 0.05
    torch.testing.assert_close(model.sample(200, seed=1, temperature=0.5), one / 2)


def test_a_flow_trains_other_methods_too():
    module = Pretraining(series_flow(), InstanceContrast(width=8, augment="jitter"))
    module(windows()).loss.backward()
    assert module.encoder.model.flow.mixings[0].upper.grad.any()


def test_refusals_say_what_would_work():
    with pytest.raises(ValueError, match="Flow needs an invertible encoder"):
        Pretraining(TinySeries(), Flow(before=""))
    with pytest.raises(ValueError, match="no room for covariates"):
        series_flow(covariates=1)
    with pytest.raises(ValueError, match="takes 4 tokens of 8 numbers"):
        SeriesEncoder(series_flow().model, context=20, channels=2)
    with pytest.raises(ValueError, match="takes 8 tokens of 48 numbers, but a view is 4 of 48"):
        model = CouplingFlowModel(CouplingFlowConfig(length=8, values=48, patch_size=4))
        VisualEncoder(model, frames=1, size=8)
    encoder = tiny_video("flow")
    with pytest.raises(ValueError, match="takes whole samples"):
        encoder.model(torch.zeros(1, 3, 48))
    with pytest.raises(ValueError, match="needs view token_cutoff"):
        Pretraining(series_flow(), InstanceContrast(width=8, augment="token_cutoff"))
    with pytest.raises(ValueError, match="no encoder of series"):
        series_flow(causal=True)


@pytest.mark.parametrize("method", [Flow(before=""), FlowPrior(width=4, hidden=8, steps=2)])
def test_micro_batches_give_the_whole_batches_gradient(method):
    encoder = stir(series_flow()).double()
    module, batch = Pretraining(encoder, method).double(), windows(12)

    def rows(first, last):
        cut = lambda x: x[first:last]  # noqa: E731
        own = {k: cut(v) for k, v in batch.inputs.items()}
        index = cut(batch.index)
        return Batch(own, cut(batch.mask), index, index, seed=batch.seed)

    def gradient(step):
        module.zero_grad()
        step()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        return torch.cat([g.flatten() for g in grads])

    whole = gradient(lambda: module(rows(0, 12)).loss.backward())
    parts = [rows(0, 3), rows(3, 8), rows(8, 12)]
    how = {"seed_micro": torch.manual_seed, "autocast": contextlib.nullcontext}
    cached = gradient(lambda: cached_step(module, parts, backward=lambda x: x.backward(), **how))
    assert (cached - whole).norm() < 1e-12 * whole.norm()


# -- bits of 8-bit pixels ----------------------------------------------------------------------


def noisy(encoder, rows, seed=0):
    """Pixels of which each level is as likely as another."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (rows, encoder.frames, 8, 8, 3)).astype(np.uint8)
    samples = [{"frames": x, "index": i, "ordinal": i} for i, x in enumerate(pixels)]
    return pixels, encoder.collator(seed=seed)(samples)


def frame_flow():
    torch.manual_seed(0)
    std = (0.3, 0.2, 0.25)
    return VisualEncoder.from_config({**CONFIG, "patch_size": 4}, frames=1, size=8, std=std)


def test_bits_of_an_identity_are_those_of_the_pixels_computed_one_by_one():
    encoder = frame_flow()
    module = Pretraining(encoder, Flow())
    pixels, batch = noisy(encoder, 5)
    spread = encoder.clip(batch, view("dequantize")).frames.double()
    v = 256 * spread.permute(0, 1, 3, 4, 2).numpy()  # levels with their noise
    assert (np.floor(v) == pixels).all()
    mean, std = (x.double().numpy() for x in (encoder.mean, encoder.std))
    # The density of v in [0, 256) that is normal in (v / 256 - mean) / std.
    density = scipy.stats.norm.pdf(v, loc=256 * mean, scale=256 * std)
    found = module(batch).terms["bits"].loss
    assert found.item() == pytest.approx(-np.log2(density).mean(), abs=1e-5)


def test_no_flow_needs_less_than_8_bits_for_pixels_of_equally_likely_levels():
    encoder = frame_flow()
    module = Pretraining(encoder, Flow())
    _, held_out = noisy(encoder, 400, seed=99)
    first = module(held_out).terms["bits"].loss.item()
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    for step in range(60):
        module(noisy(encoder, 64, seed=step)[1]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = module(held_out).terms["bits"].loss.item()
    # A normal density of the deviation of uniform pixels, 73.9, needs 8.25.
    assert 8 < after < 8.3 < first


@pytest.mark.parametrize("make", [VAE, NextStep])
def test_other_methods_give_bits_of_pixels_where_those_are_made_continuous(make):
    config = {"model_type": "vit", "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2}
    encoder = VisualEncoder.from_config(config, frames=1, size=8, causal=True)
    _, batch = noisy(encoder, 4)
    for before, more in (("", 0.0), ("dequantize", encoder.level_bits)):
        terms = Pretraining(encoder, make(before=before))(batch).terms
        nats = sum(float(t.loss.detach()) for name, t in terms.items() if name != "bits")
        expected = nats / math.log(2) + more
        assert terms["bits"].loss.item() == pytest.approx(expected, abs=1e-4)
    usual = VisualEncoder.from_config(config, frames=1, size=8).level_bits
    assert usual == pytest.approx(5.85, abs=0.01)


def test_resized_pixels_have_levels_again_before_they_are_spread():
    encoder = frame_flow()
    frames = np.random.default_rng(0).integers(0, 256, (1, 13, 13, 3)).astype(np.uint8)
    batch = encoder.collator()([{"frames": frames}])
    resized = encoder.clip(batch, view("plain")).frames * 255
    assert not torch.equal(resized, resized.round())
    levels = (encoder.clip(batch, view("dequantize")).frames * 256).floor()
    torch.testing.assert_close(levels, resized.round())


# -- a flow as the prior of a code -------------------------------------------------------------


def made(method):
    torch.manual_seed(0)
    return Pretraining(TinySeries(), method), windows()


def test_the_identity_flow_is_the_gaussian_prior():
    prior, batch = made(FlowPrior(width=6, hidden=16, steps=3))
    gaussian, _ = made(VAE(width=6, hidden=16))
    gaussian.load_state_dict(prior.state_dict(), strict=False)
    one, other = (m(batch).terms for m in (prior, gaussian))
    for name, term in other.items():
        torch.testing.assert_close(one[name].loss, term.loss)
    torch.testing.assert_close(*(m.objective.drawn(m.encoder, 3) for m in (prior, gaussian)))


def test_the_divergence_is_that_of_one_draw():
    method = made(FlowPrior(width=6, hidden=16, steps=3))[0].objective
    stir(method.flow)
    mean, log_variance = torch.randn(2, 8, 6)
    code = mean + (log_variance / 2).exp() * torch.randn(8, 6)
    found = method.divergence(mean, log_variance, code)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    p = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    gain = method.flow.log_prob(code[:, None]) - p.log_prob(code).sum(1)
    expected = torch.distributions.kl_divergence(q, p).sum(1) - gain
    torch.testing.assert_close(found, expected)


def test_a_learned_prior_fits_codes_that_are_no_gaussian():
    torch.manual_seed(0)
    method = FlowPrior(width=2, hidden=32, steps=4)
    encoder: Any = TinySeries()
    method.build(encoder)
    code = torch.randn(512, 2).sign() * 2 + 0.1 * torch.randn(512, 2)  # four points
    mean, log_variance = code, torch.full_like(code, -6.0)
    optimizer = torch.optim.Adam(method.flow.parameters(), 5e-3)
    losses = []
    for _ in range(150):
        loss = method.divergence(mean, log_variance, code).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < losses[0] - 3  # so narrow a density is left again by single steps


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"width": 1}])
def test_a_prior_without_room_for_a_flow_is_refused(wrong):
    with pytest.raises(ValueError, match="at least two numbers of a code"):
        FlowPrior(**wrong)
