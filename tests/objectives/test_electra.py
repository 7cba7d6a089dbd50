"""ELECTRA and TSDAE: known answers, gradients that stay apart, and loading the result."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from unlabel.core import Encoding, view
from unlabel.export import export
from unlabel.objectives import MLM, TSDAE, Electra, Sum
from unlabel.training.pretraining import Pretraining

SMALL = {"rate": 0.4, "size": 0.5, "layers": 1, "heads": 2}


def electra(make_encoder, **config):
    return Pretraining(make_encoder(dropout=0.0, **config), Electra(**SMALL))


def test_a_detector_that_knows_nothing_gives_ln_2(make_encoder, make_batch):
    module = electra(make_encoder)
    terms = module(make_batch(module.encoder)).terms
    assert terms["replaced"].loss.item() == pytest.approx(math.log(2), abs=0.1)
    module.objective.detector[2].weight.data.zero_()
    module.objective.generator.predictor.norm.weight.data.zero_()
    terms = module(make_batch(module.encoder)).terms
    assert terms["replaced"].loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert terms["replaced"].weight == 50
    assert terms["token"].loss.item() == pytest.approx(math.log(module.encoder.table_size[0]))


def test_the_generators_gradient_never_comes_from_the_detector(make_encoder, make_batch):
    module = electra(make_encoder)
    terms = module(make_batch(module.encoder)).terms
    terms["replaced"].loss.backward(retain_graph=True)
    assert all(p.grad is None for p in module.objective.generator.parameters())
    assert all(p.grad.any() for p in module.objective.detector.parameters())
    module.zero_grad()
    terms["token"].loss.backward()
    assert all(p.grad is None for p in module.encoder.parameters())
    assert all(p.grad is not None for p in module.objective.generator.parameters())


def test_a_drawn_token_that_is_the_original_counts_as_original(make_encoder, make_batch):
    module = electra(make_encoder)
    batch = make_batch(module.encoder)
    seen: Any = module.view(batch)[0]
    filled, ids = seen.inputs["input_ids"], seen.target
    assert torch.equal(filled[~seen.is_target], ids[~seen.is_target])
    filled[seen.is_target] = ids[seen.is_target]  # a generator that is always right
    tokens = torch.randn(*ids.shape, module.encoder.width)
    step = module.score([Encoding(tokens[:, 0], tokens, seen.mask)], [seen], batch)
    logits = module.objective.detector(tokens)[seen.mask]
    wanted = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
    torch.testing.assert_close(step.terms["replaced"].loss, wanted)


def test_draws_follow_the_generators_chances(make_encoder, make_batch):
    module = electra(make_encoder)
    batch = make_batch(module.encoder)
    module.objective.generator.predictor.bias.data[5:7] = 20.0  # two tokens, one chance each
    seen: Any = module.view(batch)[0]
    drawn = seen.inputs["input_ids"][seen.is_target]
    assert ((drawn == 5) | (drawn == 6)).all() and 0.2 < (drawn == 5).float().mean() < 0.8
    again = module.view(batch)[0].inputs["input_ids"]
    assert torch.equal(again, seen.inputs["input_ids"])
    batch.ordinal = batch.ordinal + 1000
    assert not torch.equal(module.view(batch)[0].inputs["input_ids"], again)


def test_in_a_sum_the_other_parts_see_their_views_as_they_were(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, Sum({"electra": Electra(**SMALL), "mlm": MLM(rate=0.4)}))
    batch = make_batch(encoder)
    alone = Pretraining(encoder, MLM(rate=0.4)).view(batch)[0]
    torch.testing.assert_close(module.view(batch)[1].inputs, alone.inputs)
    twice = Sum({"a": Electra(**SMALL), "b": Electra(**SMALL)})
    with pytest.raises(ValueError, match="b rewrites the view"):
        Pretraining(encoder, twice).view(batch)


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_the_detector_loads_in_automodel(tmp_path, make_encoder, make_batch, kind):
    module = electra(make_encoder, model_type=kind)
    encoder, batch = module.encoder, make_batch(module.encoder)
    module(batch).loss.backward()
    torch.optim.AdamW(module.parameters(), lr=1e-3).step()
    encoder.eval().save_pretrained(tmp_path)
    model, report = AutoModel.from_pretrained(str(tmp_path), output_loading_info=True)
    assert not report["unexpected_keys"]
    assert all("pooler" in key for key in report["missing_keys"])
    seen = encoder.view(batch, view("plain"))
    got = model.eval()(**seen.inputs, attention_mask=seen.mask.long()).last_hidden_state
    torch.testing.assert_close(got, encoder(seen).tokens)


# -- TSDAE ----------------------------------------------------------------------------------------


def test_words_are_deleted_whole_and_the_rest_keeps_its_order(make_encoder, make_batch):
    encoder = make_encoder()
    batch = make_batch(encoder, rows=16)
    seen = encoder.view(batch, view("delete_tokens", ratio=0.6))
    ids, special = batch.inputs["input_ids"], encoder.vocabulary.special_ids
    shares = []
    for whole, real, left, kept in zip(
        ids, batch.mask, seen.inputs["input_ids"], seen.mask, strict=True
    ):
        whole, left = whole[real].tolist(), left[kept].tolist()
        rest = iter(whole)
        assert all(token in rest for token in left)  # a part of it in its order
        assert left[0] == whole[0] and left[-1] == whole[-1] and len(left) > 2
        words = [t for t in whole if t not in special]
        shares.append(1 - (len(left) - 2) / len(words))
    assert 0.4 < sum(shares) / len(shares) < 0.8
    nearly = encoder.view(batch, view("delete_tokens", ratio=0.999))
    assert (nearly.mask.sum(1) > 2).all()
    none = encoder.view(batch, view("delete_tokens", ratio=0.0))
    assert torch.equal(none.inputs["input_ids"], ids) and torch.equal(none.mask, batch.mask)


def test_the_decoder_sees_the_pooled_vector_and_the_tokens_before(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, TSDAE(layers=2, heads=2)).double()
    decoder = module.objective.decoder
    ids = make_batch(encoder, rows=1).inputs["input_ids"][:, :6]
    table = torch.randn(encoder.table_size, dtype=torch.float64)
    pooled = torch.randn(1, encoder.width, dtype=torch.float64, requires_grad=True)
    out = decoder(pooled, ids, table)
    for place in range(6):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 7) % len(table)
        differs = (decoder(pooled, other, table) != out).any(-1)[0]
        assert differs.tolist() == [i >= place for i in range(6)]
        (grad,) = torch.autograd.grad(out[0, place].square().sum(), pooled, retain_graph=True)
        assert grad.any()


def test_tsdae_with_a_silent_head_gives_ln_v_and_a_perfect_one_0(make_encoder, make_batch):
    encoder = make_encoder()
    module = Pretraining(encoder, TSDAE(layers=1, heads=2))
    batch = make_batch(encoder)
    module.objective.predictor.norm.weight.data.zero_()
    term = module(batch).terms["token"]
    assert term.loss.item() == pytest.approx(math.log(encoder.table_size[0]), abs=1e-5)
    seen: Any = module.view(batch)[0]
    answers = seen.target[:, 1:][batch.mask[:, 1:]]
    module.objective.predictor.forward = lambda x, table: 99.0 * F.one_hot(answers, len(table))
    assert module(batch).terms["token"].loss.item() == pytest.approx(0, abs=1e-6)


def test_a_width_that_heads_cannot_share_is_refused(make_encoder):
    with pytest.raises(ValueError, match="cannot be shared by 5 heads"):
        Pretraining(make_encoder(), TSDAE(heads=5))
    bad: Any
    for bad in ({"ratio": 1.0}, {"ratio": -0.1}):
        with pytest.raises(ValueError, match="ratio"):
            TSDAE(**bad)
    for bad in ({"layers": 0}, {"heads": 0}):
        with pytest.raises(ValueError, match="layers and heads are 1 or more"):
            TSDAE(**bad)
    with pytest.raises(ValueError, match="above 0"):
        Electra(size=0.0)


def test_tsdae_exports_to_sentence_transformers(tmp_path, make_encoder, make_batch, sentences):
    from sentence_transformers import SentenceTransformer

    encoder = make_encoder(pooling="cls")
    module = Pretraining(encoder, TSDAE(layers=1, heads=2))
    module(make_batch(encoder)).loss.backward()
    torch.optim.AdamW(module.parameters(), lr=1e-3).step()
    encoder.save_pretrained(tmp_path / "model")
    folder = export(tmp_path / "model", tmp_path / "st")
    loaded = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found = torch.from_numpy(loaded.encode(sentences))
    torch.testing.assert_close(found, torch.from_numpy(encoder.encode(sentences)))
