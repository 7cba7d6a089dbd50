"""Two players: neither's gradient reaches the other, and what each method says of a sample."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_series import TinySeries, make_series
from tiny_video import make_video, tiny_video

from unlabel.core import normal
from unlabel.objectives import AdversarialAutoencoder, BiGAN, ContextEncoder
from unlabel.objectives.adversarial import _PRIOR
from unlabel.objectives.heads import mlp
from unlabel.objectives.players import play, unmoved
from unlabel.training.pretraining import Pretraining

SMALL: dict[str, Any] = {"hidden": 8, "heads": 2}


def gradients(loss, params):
    return torch.autograd.grad(loss, list(params), retain_graph=True, allow_unused=True)


def players(seed=0):
    torch.manual_seed(seed)
    maker, judge = mlp(3, 8, 4).double(), mlp(4, 8, 1).double()
    return maker, judge, torch.randn(6, 3).double(), torch.randn(6, 4).double()


def test_the_judge_learns_from_its_own_loss_alone_and_the_maker_from_its_own():
    maker, judge, noise, real = players()
    told, fooled = play(judge, (real,), (maker(noise),))
    assert all(g is None for g in gradients(told.sum(), maker.parameters()))
    assert all(g is None for g in gradients(fooled.sum(), judge.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients(told.sum(), judge.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients(fooled.sum(), maker.parameters()))


def test_one_pass_gives_the_gradients_of_two_passes_with_an_optimizer_each():
    maker, judge, noise, real = players()
    made = maker(noise)
    sum(x.sum() for x in play(judge, (real,), (made,))).backward()
    one = [p.grad.clone() for p in [*maker.parameters(), *judge.parameters()]]
    of_judge = -torch.log(torch.sigmoid(judge(real))) - torch.log(
        1 - torch.sigmoid(judge(maker(noise).detach()))
    )
    of_maker = -torch.log(torch.sigmoid(judge(maker(noise))))
    two = gradients(of_maker.sum(), maker.parameters())
    two += gradients(of_judge.sum(), judge.parameters())
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_judge_that_knows_nothing_costs_two_ln_2_and_the_maker_ln_2():
    maker, judge, noise, real = players()
    for p in judge.parameters():
        p.data.zero_()
    told, fooled = play(judge, (real,), (maker(noise),))
    assert told.mean().item() == pytest.approx(2 * math.log(2))
    assert fooled.mean().item() == pytest.approx(math.log(2))
    both = play(judge, (real,), (maker(noise),), both=True)[1]
    assert both.mean().item() == pytest.approx(2 * math.log(2))


def test_an_unmoved_module_keeps_its_buffers_and_says_the_same():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).eval()
    x = torch.randn(5, 3)
    assert torch.equal(unmoved(module, x), module(x))
    assert all(p.requires_grad for p in module.parameters())


def made_context_encoder(**more: Any) -> Any:
    encoder = TinySeries()
    module = Pretraining(encoder, ContextEncoder(unit="span", **SMALL, **more))
    return module, make_series(encoder)


def test_context_encoders_players_do_not_leak():
    module, batch = made_context_encoder()
    terms = module(batch).terms
    judge = list(module.objective.discriminator.parameters())
    others = [*module.encoder.parameters(), *module.objective.predictor.parameters()]
    assert all(g is None for g in gradients(terms["told"].loss, others))
    for name in ("value", "fooled"):
        assert all(g is None for g in gradients(terms[name].loss, judge))
        assert all(g is not None for g in gradients(terms[name].loss, others))
    assert terms["value"].weight == 0.999 and terms["fooled"].weight == 0.001


class Fixed(torch.nn.Module):
    """Predicts what it is told."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, tokens):
        return self.values


def test_a_perfect_fill_costs_nothing_and_the_judge_cannot_tell():
    module, batch = made_context_encoder()
    views = module.view(batch)
    module.objective.predictor = Fixed(views[0].target)
    terms = module.score(module.encode(views), views, batch).terms
    assert terms["value"].loss.item() == 0
    # The same samples come as real and as made: softplus(-d) + softplus(d) is 2 ln 2 at least.
    assert terms["told"].loss.item() >= 2 * math.log(2)


def test_what_was_not_hidden_does_not_count():
    module, batch = made_context_encoder()
    (view,) = module.view(batch)
    assert view.is_target is not None and view.target is not None
    encodings = module.encode([view])
    other = replace(view, target=torch.where(view.is_target, view.target, 7.0))
    for name, term in module.score(encodings, [view], batch).terms.items():
        assert torch.equal(module.score(encodings, [other], batch).terms[name].loss, term.loss)


def test_the_middle_of_pictures_is_hidden():
    video = tiny_video("frames")
    module = Pretraining(video, ContextEncoder(**SMALL))
    (view,) = module.view(make_video(video, 2))
    hidden = view.is_target.any(2).view(2, 6, 4, 4)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1:3, 1:3] = True
    assert torch.equal(hidden, expected.expand(2, 6, -1, -1))


def test_context_encoder_is_its_formula():
    module, batch = made_context_encoder(adversarial=0.25)
    module.double()
    (view,) = module.view(batch)
    encodings = module.encode([view])
    terms = module.score(encodings, [view], batch)
    pred = module.objective.predictor(encodings[0].tokens)
    hidden, target = view.is_target, view.target.double()
    rec = ((pred - target)[hidden] ** 2).mean()
    judge = module.objective.discriminator
    of_real, of_made = judge(target * hidden), judge(pred * hidden)
    made, told = F.softplus(-of_made).mean(), (F.softplus(-of_real) + F.softplus(of_made)).mean()
    torch.testing.assert_close(terms.loss, 0.75 * rec + 0.25 * made + told, rtol=1e-12, atol=0)


def made(objective: Any) -> Any:
    encoder = TinySeries()
    torch.manual_seed(3)
    module, batch = Pretraining(encoder, objective).double(), make_series(encoder)
    views = module.view(batch)
    noise = normal(batch.seed, batch.ordinal, _PRIOR, objective.width).double()
    return module, batch, views, module.encode(views), noise


def test_adversarial_autoencoder_is_its_formula_and_does_not_leak():
    module, batch, views, encodings, noise = made(AdversarialAutoencoder(width=4, weight=0.3))
    method = module.objective
    step = module.score(encodings, views, batch)
    code = method.code(encodings[0].pooled)
    asked, target = views[0].is_target, views[0].target
    value = (method.decoder(code) - target)[asked].square().mean()
    of_noise, of_code = method.discriminator(noise), method.discriminator(code)
    fooled = F.softplus(-of_code).mean()
    told = (F.softplus(-of_noise) + F.softplus(of_code)).mean()
    torch.testing.assert_close(step.loss, value + 0.3 * fooled + told, rtol=1e-12, atol=0)
    judge, decoder = method.discriminator.parameters(), list(method.decoder.parameters())
    assert all(g is None for g in gradients(step.terms["fooled"].loss, [*judge, *decoder]))
    others = [*module.encoder.parameters(), *method.code.parameters(), *decoder]
    assert all(g is None for g in gradients(step.terms["told"].loss, others))


def test_a_perfect_decoder_costs_nothing():
    module, batch, views, encodings, _ = made(AdversarialAutoencoder(width=4))
    module.objective.decoder = Fixed(views[0].target.double())
    assert module.score(encodings, views, batch).terms["value"].loss.item() == 0


def test_codes_move_to_where_the_noise_is():
    encoder = TinySeries()
    module: Any = Pretraining(encoder, AdversarialAutoencoder(width=2, hidden=32))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, betas=(0.5, 0.99))
    with torch.no_grad():
        module.objective.code.bias += 4.0
    for step in range(200):
        module(make_series(encoder, rows=32, first=32 * step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval()
    code = module.objective.code(module(make_series(encoder, rows=256)).pooled[0])
    assert code.mean(0).abs().max() < 2
    assert module.objective.drawn(module.encoder, 3).shape == (3, 8, 4)


def test_bigan_is_its_formula_and_does_not_leak():
    module, batch, views, encodings, noise = made(BiGAN(width=4, hidden=8, heads=2))
    method = module.objective
    step = module.score(encodings, views, batch)
    code, judge = method.code(encodings[0].pooled), method.discriminator
    asked, target = views[0].is_target, views[0].target.double()
    real, fake = judge(target * asked, code), judge(method.decoder(noise) * asked, noise)
    told = (F.softplus(-real) + F.softplus(fake)).mean()
    fooled = (F.softplus(real) + F.softplus(-fake)).mean()
    torch.testing.assert_close(step.loss, told + fooled, rtol=1e-12, atol=0)
    makers = [*module.encoder.parameters(), *method.code.parameters()]
    makers += list(method.decoder.parameters())
    assert all(g is None for g in gradients(step.terms["told"].loss, makers))
    assert all(g is None for g in gradients(step.terms["fooled"].loss, judge.parameters()))
    assert all(g is not None for g in gradients(step.terms["fooled"].loss, makers))
    assert not step.terms["rebuilt"].loss.requires_grad and step.terms["rebuilt"].weight == 0


def test_a_judge_of_pairs_that_knows_nothing_costs_both_sides_2_ln_2():
    module, batch, views, encodings, _ = made(BiGAN(width=4, hidden=8, heads=2))
    for p in module.objective.discriminator.leave.parameters():
        p.data.zero_()
    terms = module.score(encodings, views, batch).terms
    assert terms["told"].loss.item() == pytest.approx(2 * math.log(2))
    assert terms["fooled"].loss.item() == pytest.approx(2 * math.log(2))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="second player is 0 or more, but -1 came"):
        AdversarialAutoencoder(weight=-1)
    with pytest.raises(ValueError, match="3 heads cannot share a width of 128"):
        BiGAN(heads=3)
    with pytest.raises(ValueError, match="adversarial is a share from 0 to 1, but 2 came"):
        ContextEncoder(adversarial=2)
    with pytest.raises(ValueError, match="5 heads cannot share a width of 64"):
        ContextEncoder(heads=5)
