"""Next token, permutation and next sentence: what each prediction sees, known answers, loading."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from unlabel.core import View, view
from unlabel.modalities.text import TextEncoder
from unlabel.objectives import MLM, NextSentence, NextToken, PermutationLM, Sum
from unlabel.training.pretraining import Pretraining


def dependence(encoder, seen, row=0):
    """By output place and input place: how much a token's vector depends on another's input."""
    table = encoder.model.get_input_embeddings()
    given = table(seen.inputs["input_ids"][row : row + 1]).detach().requires_grad_()
    rest = {k: v[row : row + 1] for k, v in seen.inputs.items() if k != "input_ids"}
    attention = encoder._attention(seen)[row : row + 1]
    out = encoder.model(inputs_embeds=given, attention_mask=attention, **rest).last_hidden_state
    length = out.shape[1]
    found = torch.zeros(length, length)
    for i in range(length):
        # Not the plain sum: layer norm makes that the same for any input.
        (grad,) = torch.autograd.grad((out[0, i] ** 3).sum(), given, retain_graph=True)
        found[i] = grad[0].abs().sum(-1)
    return found


def test_the_jacobian_of_next_token_is_strictly_lower_triangular(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0).eval()
    seen = encoder.view(make_batch(encoder), view("causal"))
    count = int(seen.mask[0].sum())
    depends = dependence(encoder, seen)[:count, :count]
    # Place i asks for token i + 1, so that its own token and all before count as the past.
    assert (depends.triu(1) == 0).all() and (depends.tril() > 0).sum() == count * (count + 1) / 2
    assert torch.equal(seen.target[:, :-1], seen.inputs["input_ids"][:, 1:])
    assert torch.equal(seen.is_target[:, :-1], seen.mask[:, 1:]) and not seen.is_target[:, -1].any()


def test_next_token_is_the_formula_written_out(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, NextToken()).double()
    batch = make_batch(encoder, rows=3)
    losses = []
    for ids, mask in zip(batch.inputs["input_ids"], batch.mask, strict=True):
        words = ids[mask]
        for t in range(1, len(words)):
            # The past alone, without any mask: its last place has seen all of it.
            past = View({"input_ids": words[None, :t]}, torch.ones(1, t, dtype=torch.bool))
            past.attend = torch.ones(1, t, t, dtype=torch.bool).tril()
            found = encoder(past, want=frozenset({"table"}))
            logits = module.objective.predictor(found.tokens[:, -1], found.table)
            losses.append(F.cross_entropy(logits, words[t : t + 1]))
    loss = module(batch).terms["token"].loss
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-9, atol=1e-12)


def test_next_token_with_a_silent_head_gives_ln_v(make_encoder, make_batch):
    encoder = make_encoder()
    for method in (NextToken(), PermutationLM()):
        module = Pretraining(encoder, method)
        module.objective.predictor.norm.weight.data.zero_()
        term = module(make_batch(encoder)).terms["token"]
        assert term.loss.item() == pytest.approx(math.log(encoder.table_size[0]), abs=1e-5)


def test_from_left_to_right_the_contents_are_those_of_next_token(make_encoder, make_batch):
    encoder = make_encoder(dropout=0.0).eval().double()
    batch = make_batch(encoder)
    forward = encoder.view(batch, view("permutation", order="forward", share=1.0))
    causal = encoder.view(batch, view("causal"))
    real, length = batch.mask, batch.mask.shape[1]
    contents = encoder(forward).tokens[:, :length][real]
    torch.testing.assert_close(contents, encoder(causal).tokens[real], rtol=0, atol=1e-12)
    count = int(real[0].sum())
    depends = dependence(encoder, forward)[length : length + count, :count]
    assert (depends.triu() == 0).all() and (depends.tril(-1) > 0).sum() == count * (count - 1) / 2


def test_a_query_depends_on_what_comes_before_it_in_the_order_and_never_on_its_token(
    make_encoder, make_batch
):
    encoder = make_encoder(dropout=0.0).eval()
    batch = make_batch(encoder)
    seen = encoder.view(batch, view("permutation", share=1.0))
    count, length = int(batch.mask[0].sum()), batch.mask.shape[1]
    depends = dependence(encoder, seen)[length : length + count, :count] > 0
    assert not depends.diagonal().any()
    before = depends.sum(1)
    # The two special tokens come first; then one more token is known at each step.
    words = [i for i in range(count) if seen.is_target[0, length + i]]
    assert sorted(before[words].tolist()) == list(range(2, count))
    assert words != sorted(words, key=lambda i: int(before[i]))
    contents = dependence(encoder, seen)[:length, length:]
    assert (contents == 0).all()


def test_the_last_share_of_the_order_is_asked_for(make_encoder, make_batch):
    encoder = make_encoder()
    batch = make_batch(encoder)
    seen = encoder.view(batch, view("permutation", share=0.25))
    words = encoder.vocabulary.is_word(batch.inputs["input_ids"], batch.mask).sum(1)
    assert torch.equal(seen.is_target.sum(1), (words * 0.25).ceil().long())
    bad: Any
    for bad in ({"share": 0.0}, {"order": "backward"}):
        with pytest.raises(ValueError, match="share"):
            PermutationLM(**bad)


# -- pairs of sentences ---------------------------------------------------------------------------


def test_a_pair_is_two_sentences_in_one_row_with_segments(make_encoder, make_batch):
    encoder = make_encoder()
    batch = make_batch(encoder, rows=12, partners=True)
    seen = encoder.view(batch, view("next_sentence"))
    assert 0 < seen.label.sum() < 12
    for i in range(12):
        name = "positive" if seen.label[i] else "negative"
        partner = batch.partners[name]
        one = batch.inputs["input_ids"][i][batch.mask[i]].tolist()
        two = partner["input_ids"][i][partner["mask"][i]].tolist()[1:]
        ids = seen.inputs["input_ids"][i][seen.mask[i]].tolist()
        types = seen.inputs["token_type_ids"][i][seen.mask[i]].tolist()
        room = encoder.max_length
        assert len(ids) == min(room, len(one) + len(two)) and ids[-1] == two[-1]
        first = types.index(1)
        assert sum(types) == len(ids) - first and ids[first - 1] == one[-1]
        if len(one) + len(two) <= room:
            assert ids == one + two
        else:
            kept = min(len(one), max(room // 2, room - len(two)))
            assert ids[:first] == [*one[: kept - 1], one[-1]]
            assert ids[first:] == [*two[: room - kept - 1], two[-1]]


def test_next_sentence_with_a_silent_head_gives_ln_2(make_encoder, make_batch):
    encoder = make_encoder()
    module = Pretraining(encoder, NextSentence())
    module.objective.classifier[2].weight.data.zero_()
    term = module(make_batch(encoder, partners=True)).terms["next"]
    assert term.loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_data_without_partners_is_refused_in_one_sentence(make_encoder, make_batch):
    module = Pretraining(make_encoder(), NextSentence())
    with pytest.raises(ValueError, match="read documents"):
        module(make_batch(module.encoder))


def test_masked_modelling_and_next_sentence_share_one_view_and_load_in_automodel(
    tmp_path, make_encoder, make_batch
):
    how = {"mask_tokens.rate": 0.3, "mask_tokens.whole_word": False}
    parts = {
        "mlm": MLM(rate=0.3, before="next_sentence"),
        "nsp": NextSentence(after="mask_tokens", args=how),
    }
    encoder = make_encoder(dropout=0.0)
    module = Pretraining(encoder, Sum(parts))
    assert len(module.objective.views) == 1
    batch = make_batch(encoder, partners=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(3):
        module(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    encoder.eval().save_pretrained(tmp_path)
    model, report = AutoModel.from_pretrained(
        str(tmp_path), add_pooling_layer=False, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    seen = encoder.view(batch, view("next_sentence"))
    got = model.eval()(**seen.inputs, attention_mask=seen.mask.long()).last_hidden_state
    torch.testing.assert_close(got, encoder(seen).tokens)


def test_an_encoder_without_segments_gets_none(make_encoder, make_batch):
    encoder = make_encoder(type_vocab_size=1)
    seen = encoder.view(make_batch(encoder, partners=True), view("next_sentence"))
    assert "token_type_ids" not in seen.inputs
    assert isinstance(encoder, TextEncoder) and encoder(seen).pooled.isfinite().all()


@pytest.mark.parametrize("whole", [False, True])
def test_whole_words_are_masked_together(make_encoder, make_batch, whole):
    encoder = make_encoder()
    batch = make_batch(encoder)
    chosen = encoder.view(batch, view("choose_tokens", rate=0.4, whole_word=whole)).is_target
    starts = encoder.vocabulary.starts_word[batch.inputs["input_ids"]]
    inside = ~starts[:, 1:] & batch.mask[:, 1:]
    torn = (inside & (chosen[:, 1:] != chosen[:, :-1])).any()
    assert bool(torn) is not whole


def test_drawn_tokens_are_as_frequent_as_the_model_says_and_stop_at_the_end(make_encoder):
    encoder = make_encoder(dropout=0.0).eval()
    encoder.grid = (4,)  # places; of sentences with a beginning, and maybe an end
    method = NextToken()
    method.build(encoder)
    begin, end, pad = encoder.frame
    # All but five tokens are out of the question; those left depend on what comes before.
    kept = [end, 10, 11, 12, 13]
    method.predictor.bias.data.fill_(-1e4)[kept] = 0.0
    method.predictor.norm.weight.data.fill_(8.0)
    ids = method.drawn(encoder, 4000, seed=1)
    assert torch.equal(ids[:8], method.drawn(encoder, 8, seed=1))
    assert not torch.equal(ids[:8], method.drawn(encoder, 8, seed=2))
    assert (ids[:, 0] == begin).all() and set(ids.unique().tolist()) == {begin, pad, *kept}
    is_over = (ids == end).cumsum(1) > 0
    assert torch.equal(ids[:, 1:] == pad, is_over[:, :-1])

    def says(past):
        seen = View({"input_ids": past}, torch.ones_like(past, dtype=torch.bool))
        seen.attend = torch.ones(1, past.shape[1], past.shape[1], dtype=torch.bool).tril()
        found = encoder(seen, want=frozenset({"table"}))
        return method.predictor(found.tokens[0, -1:], found.table)[0]

    for past in ([begin], [begin, 11], [begin, 13]):
        rows = ids[(ids[:, : len(past)] == torch.tensor(past)).all(1)]
        assert len(rows) > 300  # so that a share's error is about 0.03
        chances = says(torch.tensor([past])).softmax(0)[kept]
        shares = torch.stack([(rows[:, len(past)] == k).float().mean() for k in kept])
        torch.testing.assert_close(shares, chances, rtol=0, atol=0.06)
    likeliest = method.drawn(encoder, 2, temperature=0.0)
    assert torch.equal(likeliest[0], likeliest[1])
    assert likeliest[0, 1] == says(torch.tensor([[begin]])).argmax()
