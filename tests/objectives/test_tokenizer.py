"""BEiT: codes of what is hidden, and the tokenizer that makes them."""

import math
from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series
from tiny_video import make_video, tiny_video

from unlabel.core import uniform
from unlabel.objectives import BEiT
from unlabel.objectives.state import Settled
from unlabel.objectives.tokenizer import Tokenizer
from unlabel.training.pretraining import Pretraining


def made(kind: str = "tubes", **how: Any) -> tuple[Any, Any]:
    encoder = tiny_video(kind)
    how = {"codes": 16, "hidden": 16, "unit": "block", **how}
    return Pretraining(encoder, BEiT(**how)), make_video(encoder)


@pytest.mark.parametrize("codes", [16, 8192])
def test_equal_scores_give_ln_of_the_codebook(codes):
    module, batch = made(codes=codes)
    with torch.no_grad():
        module.objective.predictor.weight.zero_()
        module.objective.predictor.bias.zero_()
    term = module(batch).terms["code"]
    assert term.loss.item() == pytest.approx(math.log(codes), abs=1e-5)
    assert term.chance == pytest.approx(math.log(codes))


def test_at_init_the_loss_is_about_ln_of_the_codebook():
    module, batch = made(codes=512)
    assert module(batch).terms["code"].loss.item() == pytest.approx(math.log(512), abs=0.6)


def test_terms_are_the_formulas():
    module, batch = made(settle=10)
    module = module.double()
    for _ in range(3):
        module.objective.step()
    (seen,) = module.view(batch)
    (encoding,) = module.encode([seen])
    beit, chosen = module.objective, seen.is_target.any(2)
    values = seen.target[chosen]
    log_p = beit.predictor(encoding.tokens)[chosen].log_softmax(1)
    logits = beit.tokenizer.encode(values)
    code = logits.argmax(1)  # the copy is alike: no step was made
    expected = -sum(row[k] for row, k in zip(log_p, code, strict=True)) / len(code)
    terms = module(batch).terms
    torch.testing.assert_close(terms["code"].loss, expected, rtol=1e-10, atol=0)
    draws = uniform(batch.seed, batch.ordinal, beit.stream, chosen.shape[1] * 16)
    noise = -(-draws.unflatten(1, (-1, 16))[chosen].double().clamp(min=1e-12).log()).log()
    sample = ((logits + noise) / (1 / 16) ** 0.3).softmax(1)
    restored = (beit.tokenizer.decode(sample @ beit.tokenizer.table) - values).square().mean()
    torch.testing.assert_close(terms["restored"].loss, restored, rtol=1e-7, atol=0)
    q = logits.softmax(1)
    even = (q * (q * 16).log()).sum(1).mean()
    torch.testing.assert_close(terms["even"].loss, even, rtol=1e-6, atol=0)


def test_the_tokenizers_loss_reaches_no_encoder_and_the_encoders_no_tokenizer():
    module, batch = made()
    terms, beit = module(batch).terms, module.objective
    own, theirs = list(beit.tokenizer.parameters()), list(module.encoder.parameters())
    grads = torch.autograd.grad(terms["code"].loss, own, allow_unused=True, retain_graph=True)
    assert all(g is None for g in grads)
    for name in ("restored", "even"):
        loss = terms[name].loss
        grads = torch.autograd.grad(loss, theirs, allow_unused=True, retain_graph=True)
        assert all(g is None for g in grads)
    grads = torch.autograd.grad(terms["restored"].loss, own)
    assert all(g.isfinite().all() and g.any() for g in grads)


def test_targets_that_were_not_asked_for_do_not_matter():
    module, batch = made()
    (seen,) = module.view(batch)
    encodings = module.encode([seen])
    plain = module.score(encodings, [seen], batch).loss
    seen.target = seen.target.masked_fill(~seen.is_target, float("nan"))
    assert torch.equal(module.score(encodings, [seen], batch).loss, plain)


def test_codes_settle_and_then_stay():
    module, batch = made(settle=3)
    beit = module.objective
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    tables = []
    for step in range(6):
        terms = module(batch).terms
        assert (terms["restored"].loss > 0) == (step < 3)
        sum(t.loss for t in terms.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        module.step()
        tables.append(beit.teacher.module.table.clone())
        assert torch.equal(tables[-1], beit.tokenizer.table) == (step < 3)
    assert not torch.equal(tables[1], tables[2])
    assert torch.equal(tables[2], tables[3]) and torch.equal(tables[3], tables[5])


def test_a_settled_copy_goes_on_after_a_round_trip():
    online = torch.nn.Linear(2, 2)
    copy = Settled(online, until=2)
    copy.step()
    again: Any = Settled(torch.nn.Linear(2, 2), until=2)
    again.load_state_dict(copy.state_dict())
    assert bool(again.follows)
    again.step()
    assert not bool(again.follows)
    kept = again.module.weight.clone()
    again.step()
    assert torch.equal(again.module.weight, kept)


def test_a_tokenizer_learns_to_tell_cells_apart():
    torch.manual_seed(0)
    kinds = torch.randn(4, 12)
    tokenizer = Tokenizer(12, 32, hidden=32)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    for step in range(200):
        values = kinds[torch.randint(0, 4, (64,))]
        noise = -torch.empty(64, 32).exponential_().log()
        back, logits = tokenizer(values, noise, torch.tensor((1 / 16) ** (step / 200)))
        q = logits.softmax(1)
        even = (q * (q * 32).log()).sum(1).mean()
        ((back - values).square().mean() + 0.03 * even).backward()
        optimizer.step()
        optimizer.zero_grad()
    codes = tokenizer.encode(kinds).argmax(1)
    assert len(codes.unique()) == 4
    assert (tokenizer.decode(tokenizer.table[codes]) - kinds).square().mean() < 0.1


def test_pictures_are_made_of_the_codes():
    module, batch = made()
    views = module.view(batch)
    (filled,) = module.objective.filled(module.encode(views), views)
    assert filled.target.shape == views[0].target.shape and filled.target.isfinite().all()
    tokenizer = module.objective.teacher.module
    known = tokenizer.decode(tokenizer.table)
    assert (
        torch.cdist(filled.target.flatten(0, 1).double(), known.double()).min(1).values.max() < 1e-4
    )


def test_series_with_gaps_have_codes_too():
    encoder = TinySeries()
    module: Any = Pretraining(encoder, BEiT(codes=8, hidden=16))
    batch = make_series(encoder)
    batch.inputs["observed"][:, 3:9] = False
    assert module(batch).loss.isfinite()


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match="how many a hidden token may have, but 1 came"):
        BEiT(codes=1)
    with pytest.raises(ValueError, match="between 0 and 1, but 0 came"):
        BEiT(ratio=0)
