"""New samples: what each method draws is what its own density says, exactly."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_series import TinySeries

from unlabel.core import View, normal, stream_of
from unlabel.core import view as named
from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import (
    VAE,
    AdversarialAutoencoder,
    Autoencoder,
    BiGAN,
    Flow,
    FlowPrior,
    MaskedValues,
    NextStep,
    Sum,
)
from unlabel.objectives.likelihood import gaussian_nll
from unlabel.training.pretraining import Pretraining

PATCHES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
CAUSAL: dict[str, Any] = {
    "patchtst": lambda: SeriesEncoder.from_config(
        {"d_model": 8, "num_attention_heads": 2, "patch_length": 4}, context=16, causal=True
    ),
    "dilated_conv": lambda: SeriesEncoder.from_config(
        {"model_type": "dilated_conv", "hidden_size": 8, "num_hidden_layers": 2},
        context=16,
        channels=2,
    ),
    "vit": lambda: VisualEncoder.from_config(
        {"model_type": "vit", "intermediate_size": 8, **PATCHES}, frames=1, size=8, causal=True
    ),
    "videomae": lambda: VisualEncoder.from_config(
        {"model_type": "videomae", "intermediate_size": 8, **PATCHES},
        frames=4,
        size=8,
        causal=True,
    ),
    "wave_conv": lambda: AudioEncoder.from_config(
        {"model_type": "wave_conv", "hidden_size": 8}, rate=1000, seconds=1.0
    ),
}
FLOW = {"model_type": "coupling_flow", "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 3}
FLOWS: dict[str, Any] = {
    "series": lambda: SeriesEncoder.from_config(FLOW, context=16, channels=2),
    "video": lambda: VisualEncoder.from_config(FLOW, frames=4, size=8),
}


def made(encoder, method) -> Any:
    return Pretraining(encoder, method).double().eval()


def causal(kind, **how) -> Any:
    torch.manual_seed(0)
    module = made(CAUSAL[kind](), NextStep(**how))
    with torch.no_grad():
        module.objective.start.normal_()
    return module


def noise_of(encoder, count, seed):
    width = encoder.length * encoder.token_values
    found = normal(seed, torch.arange(count), stream_of("sample"), width).double()
    return found.view(count, encoder.length, encoder.token_values)


@pytest.mark.parametrize("kind", CAUSAL)
def test_under_its_own_conditionals_a_draw_is_the_noise_it_was_made_of(kind):
    module = causal(kind)
    encoder, method = module.encoder, module.objective
    drawn = method.drawn(encoder, 3, seed=5)
    mean, log_variance = method.predict(encoder(encoder.of_values(drawn)), encoder.length)
    noise = noise_of(encoder, 3, 5)
    torch.testing.assert_close((drawn - mean) / (log_variance / 2).exp(), noise)
    density = torch.distributions.Normal(torch.zeros(()).double(), 1.0).log_prob(noise)
    nats = gaussian_nll(mean, drawn, log_variance).view_as(noise)
    torch.testing.assert_close(nats, log_variance / 2 - density)


def test_the_first_step_has_the_distribution_of_the_start():
    module = causal("dilated_conv")
    first = module.objective.drawn(module.encoder, 4000)[:, 0]
    mean, log_variance = module.objective.predictor(module.objective.start).chunk(2)
    torch.testing.assert_close(first.mean(0), mean, atol=0.06, rtol=0)
    torch.testing.assert_close(first.std(0), (log_variance / 2).exp(), atol=0.06, rtol=0)


def test_without_noise_a_draw_is_prediction_after_prediction():
    module = causal("dilated_conv")
    encoder, method = module.encoder, module.objective
    drawn = method.drawn(encoder, 2, temperature=0.0)
    known = method.predictor(method.start).chunk(2)[0][None, None]
    while known.shape[1] < encoder.length:
        # Of what is known alone: there is no later step that could be looked at.
        token = encoder(encoder.of_values(known)).tokens[:, -1:]
        known = torch.cat([known, method.predictor(token).chunk(2, 2)[0]], 1)
    torch.testing.assert_close(drawn, known.expand(2, -1, -1))


def test_draws_of_a_trained_first_order_autoregression_have_its_coefficient():
    coefficient, steps = 0.8, 32
    torch.manual_seed(0)
    config = {"model_type": "dilated_conv", "hidden_size": 16, "num_hidden_layers": 1}
    config |= {"output_size": 16}
    encoder = SeriesEncoder.from_config(config, context=steps, norm="none", dropout=0.0)
    module: Any = Pretraining(encoder, NextStep())
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for step in range(250):
        noise = normal(step, torch.arange(64), 0, steps)
        values = [noise[:, 0]]
        for t in range(1, steps):
            values.append(coefficient * values[-1] + math.sqrt(1 - coefficient**2) * noise[:, t])
        x = torch.stack(values, 1)[:, :, None]
        seen: View = encoder.of_values(x)
        seen.target, seen.is_target = x, torch.ones_like(x, dtype=torch.bool)
        module.objective([encoder(seen)], [seen], None)["value"].loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    drawn = module.objective.drawn(encoder.eval(), 500)[:, :, 0]
    past, now = drawn[:, :-1], drawn[:, 1:]
    assert float((past * now).sum() / past.square().sum()) == pytest.approx(coefficient, abs=0.04)
    assert float(drawn[:, -8:].std()) == pytest.approx(1, abs=0.12)
    assert abs(float(drawn.mean())) < 0.1


@pytest.mark.parametrize("kind", FLOWS)
def test_what_a_flow_draws_it_turns_into_the_noise_again(kind):
    torch.manual_seed(0)
    module = made(FLOWS[kind](), Flow())
    with torch.no_grad():
        for p in module.encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    encoder = module.encoder
    drawn = module.objective.drawn(encoder, 5, seed=2, temperature=0.7)
    out = encoder.model(drawn)
    torch.testing.assert_close(out.hidden_states[-1], 0.7 * noise_of(encoder, 5, 2))
    torch.testing.assert_close(encoder(encoder.of_values(drawn)).likelihood, out.log_prob)


def test_a_flow_of_known_mean_and_deviation_draws_them():
    encoder = FLOWS["series"]()
    with torch.no_grad():
        encoder.model.flow.mixings[0].log_scale.fill_(math.log(2))
        encoder.model.flow.mixings[0].bias.fill_(1.0)  # z = 2 x + 1
    drawn = Flow().drawn(encoder, 400)
    assert float(drawn.mean()) == pytest.approx(-0.5, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


CODED = {
    "vae": lambda: VAE(width=3, hidden=8),
    "flow_prior": lambda: FlowPrior(width=4, hidden=8, steps=2),
    "adversarial": lambda: AdversarialAutoencoder(width=3, hidden=8),
    "bigan": lambda: BiGAN(width=3, hidden=8, heads=2),
}


@pytest.mark.parametrize("kind", CODED)
def test_no_draw_depends_on_the_others_and_no_noise_gives_one_sample(kind):
    torch.manual_seed(0)
    module = made(TinySeries(), CODED[kind]())
    draw = lambda *args, **how: module.objective.drawn(module.encoder, *args, **how)  # noqa: E731
    one = draw(4, seed=1)
    torch.testing.assert_close(one, draw(9, seed=1)[:4])
    assert not torch.allclose(one, draw(4, seed=2)) and not torch.allclose(one[0], one[1])
    still = draw(3, temperature=0.0)
    torch.testing.assert_close(still, still[:1].expand(3, -1, -1))


def test_what_has_no_density_draws_nothing_and_a_sum_what_its_first_part_draws():
    module = made(TinySeries(), Autoencoder(hidden=8))
    assert module.objective.drawn(module.encoder, 2) is None
    assert causal("vit", loss="mse").objective.drawn(CAUSAL["vit"](), 2) is None
    module = made(TinySeries(), Sum({"a": MaskedValues(), "b": VAE(width=3), "c": VAE(width=3)}))
    drawn = module.objective.drawn(module.encoder, 2, seed=3)
    assert torch.equal(drawn, module.objective.parts["b"].drawn(module.encoder, 2, seed=3))


def test_covariates_that_no_draw_has_are_asked_for():
    encoder: Any = SeriesEncoder.from_config(
        {"d_model": 8, "num_attention_heads": 2, "patch_length": 4},
        context=16,
        causal=True,
        covariates=1,
    )
    module = Pretraining(encoder, NextStep())
    with pytest.raises(ValueError, match="made for covariates or static values, which windows"):
        module.objective.drawn(encoder, 2)


def whole(kind) -> tuple[Any, View, Any]:
    """An encoder, what it sees of whole samples, and the samples."""
    rng = np.random.default_rng(0)
    if kind in ("patchtst", "dilated_conv"):
        encoder = CAUSAL[kind]()
        encoder.norm = "none"
        values = rng.normal(size=(3, 16, encoder.channels)).astype(np.float32)
        samples = [{"values": x, "observed": np.ones(x.shape, dtype=bool)} for x in values]
    elif kind in ("vit", "videomae", "resnet"):
        config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1]}
        encoder = (
            VisualEncoder.from_config(config, frames=1, size=8)
            if kind == "resnet"
            else CAUSAL[kind]()
        )
        values = rng.integers(0, 256, (3, encoder.frames, 8, 8, 3)).astype(np.uint8)
        samples = [{"frames": x} for x in values]
        values = values[:, 0] if encoder.frames == 1 else values
    else:
        ast = {"num_mel_bins": 16, "patch_size": 4, **PATCHES}
        how = {"rate": 1000, "seconds": 0.64, "norm": "fixed", "mean": 0.2, "std": 0.5}
        encoder = AudioEncoder.from_config(
            {"model_type": "wave_conv", "hidden_size": 8} if kind == "wave_conv" else ast, **how
        )
        values = rng.uniform(-1, 1, (3, encoder.layout.samples)).astype(np.float32)
        samples = [{"waveform": x} for x in values]
    return encoder, encoder.view(encoder.collator()(samples), named("whole")), values


@pytest.mark.parametrize(
    "kind", ["patchtst", "dilated_conv", "vit", "videomae", "resnet", "wave_conv", "ast"]
)
def test_values_are_seen_as_their_samples_are_and_come_back_in_the_datas_units(kind):
    encoder, seen, samples = whole(kind)
    again = encoder.of_values(seen.target)
    assert torch.equal(again.mask, seen.mask)
    assert again.inputs.keys() == seen.inputs.keys()
    for name, x in seen.inputs.items():
        torch.testing.assert_close(again.inputs[name], x, rtol=1e-5, atol=1e-6)
    found = encoder.restored(seen.target)
    if kind == "ast":
        samples = encoder.mel(torch.from_numpy(samples)).numpy()
    if samples.dtype == np.uint8:
        assert found.dtype == np.uint8 and (found == samples).all()
    else:
        np.testing.assert_allclose(found, samples, rtol=1e-4, atol=1e-4)
