from typing import Any, cast

import pytest
import torch

from unlabel.core import view
from unlabel.modalities.text import TextEncoder
from unlabel.modalities.text_views import Vocabulary

CUTS = ["token_cutoff", "span_cutoff", "feature_cutoff"]


def test_ratio_zero_is_the_identity(make_encoder, make_batch):
    encoder = make_encoder().eval()
    batch = make_batch(encoder)
    whole = encoder(encoder.view(batch, view("plain")))
    for name in CUTS:
        cut = encoder(encoder.view(batch, view(name, ratio=0.0)))
        torch.testing.assert_close(cut.tokens, whole.tokens, atol=0, rtol=0)


@pytest.mark.parametrize("name", sorted(TextEncoder.views))
def test_a_misspelt_argument_is_refused(make_encoder, make_batch, name):
    encoder = make_encoder()
    with pytest.raises(ValueError, match=f"View '{name}' has no ratoi; its arguments: "):
        encoder.view(make_batch(encoder, partners=True), view(name, ratoi=0.3))


def test_a_crop_keeps_one_run_of_words_and_hides_the_rest(make_encoder, make_batch):
    encoder = make_encoder().eval()
    batch = make_batch(encoder, rows=16)
    ids = batch.inputs["input_ids"]
    is_word = encoder.vocabulary.is_word(ids, batch.mask)
    seen = encoder.view(batch, view("crop", low=0.3, high=0.6))
    kept = seen.mask & is_word
    share = kept.sum(1) / is_word.sum(1)
    assert (kept.sum(1) >= 1).all() and (share <= 0.6).all() and share.std() > 0
    place = is_word.cumsum(1).masked_fill(~kept, 0)
    first = is_word.cumsum(1).masked_fill(~kept, 999).amin(1)
    assert torch.equal(place.amax(1) - first + 1, kept.sum(1))
    assert torch.equal(seen.mask & ~is_word, batch.mask & ~is_word)
    before = encoder(seen)
    seen.inputs = {"input_ids": torch.where(seen.mask, ids, 77)}
    torch.testing.assert_close(encoder(seen).pooled, before.pooled, atol=0, rtol=0)
    whole = encoder.view(batch, view("crop", low=1.0))
    assert torch.equal(whole.mask, batch.mask)
    with pytest.raises(ValueError, match=r"crop needs 0 < low <= high <= 1, but 0.9 and 0.5 came"):
        encoder.view(batch, view("crop", low=0.9, high=0.5))


def test_rate_zero_masks_nothing(make_encoder, make_batch):
    encoder = make_encoder()
    batch = make_batch(encoder)
    seen = encoder.view(batch, view("mask_tokens", rate=0.0))
    assert not seen.is_target.any()
    assert torch.equal(seen.inputs["input_ids"], batch.inputs["input_ids"])


def test_feature_cutoff_knows_embeddings_narrower_than_the_blocks(make_encoder, make_batch):
    config = {
        "model_type": "electra", "embedding_size": 12, "hidden_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    encoder = TextEncoder.from_config(config, make_encoder().tokenizer, max_length=32)
    seen = encoder.view(make_batch(encoder), view("feature_cutoff", ratio=0.25))
    assert (seen.keep_features.sum(1) == 9).all()
    assert encoder(seen).pooled.shape == (len(seen.mask), 24)


@pytest.mark.parametrize("name", ["token_cutoff", "span_cutoff"])
def test_a_cut_token_leaks_nothing(make_encoder, make_batch, name):
    encoder = make_encoder().eval()
    batch = make_batch(encoder)
    spec = view(name, ratio=0.4)
    seen = encoder.view(batch, spec)
    before = encoder(seen)
    seen.inputs = {"input_ids": torch.where(seen.keep_positions, seen.inputs["input_ids"], 77)}
    after = encoder(seen)
    torch.testing.assert_close(after.pooled, before.pooled, atol=0, rtol=0)
    torch.testing.assert_close(after.tokens[seen.mask], before.tokens[seen.mask], atol=0, rtol=0)


def test_cutoff_zeroes_token_position_and_segment_vectors_together(make_encoder, make_batch):
    encoder = make_encoder().eval()
    batch = make_batch(encoder)
    seen = encoder.view(batch, view("token_cutoff", ratio=0.4))
    caught = []
    encoder.model.encoder.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    encoder(seen)
    assert (caught[0][~seen.keep_positions] == 0).all()
    assert (caught[0][seen.keep_positions] != 0).any(1).all()


def test_a_gpt2_is_cut_before_its_first_block_and_others_say_that_they_are_not(tokenizer):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    gpt = TextEncoder.from_config({"model_type": "gpt2", **sizes}, tokenizer, max_length=16).eval()
    ids = gpt.tokenize(["one cat sat on a mat while the rain fell", "two dogs ran to the sea"])
    samples = [{"input_ids": x, "index": i, "ordinal": i} for i, x in enumerate(ids)]
    batch = gpt.collator()(samples)
    seen = gpt.view(batch, view("token_cutoff", ratio=0.4))
    assert seen.keep_positions is not None
    caught = []
    cast(Any, gpt.model).h[0].register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    gpt(seen)
    assert (caught[0][~seen.keep_positions] == 0).all() and not seen.keep_positions.all()
    assert (caught[0][seen.keep_positions] != 0).any(1).all()
    del gpt.model.drop
    other = TextEncoder(gpt.model, tokenizer, max_length=16)
    with pytest.raises(ValueError, match="GPT2Model has no module of embeddings"):
        other(seen)


@pytest.mark.parametrize("name", ["token_cutoff", "span_cutoff"])
def test_cutoff_takes_the_exact_share_of_words_and_spares_special_tokens(
    make_encoder, make_batch, name
):
    encoder = make_encoder()
    batch = make_batch(encoder, rows=16)
    is_word = encoder.vocabulary.is_word(batch.inputs["input_ids"], batch.mask)
    seen = encoder.view(batch, view(name, ratio=0.3))
    is_cut = batch.mask & ~seen.keep_positions
    assert torch.equal(is_cut.sum(1), (is_word.sum(1) * 0.3).long())
    assert not (is_cut & ~is_word).any()
    if name == "span_cutoff":
        runs = (is_cut[:, 1:] & ~is_cut[:, :-1]).sum(1)
        assert torch.equal(runs, (is_cut.sum(1) > 0).long())


def test_what_two_cutoffs_of_a_chain_cut_is_zeroed_by_both(make_encoder, make_batch):
    encoder = make_encoder()
    batch = make_batch(encoder)
    how: dict[str, Any] = {"token_cutoff.ratio": 0.5, "span_cutoff.ratio": 0.3}
    seen = encoder.view(batch, view("token_cutoff+span_cutoff", **how))
    assert torch.equal(seen.keep_positions & batch.mask, seen.mask)


def test_feature_cutoff_cuts_the_same_columns_in_every_token(make_encoder, make_batch):
    encoder = make_encoder()
    seen = encoder.view(make_batch(encoder), view("feature_cutoff", ratio=0.25))
    assert (seen.keep_features.sum(1) == 24).all()
    assert len({tuple(row) for row in seen.keep_features.tolist()}) > 1


def test_two_draws_differ_and_the_same_draw_repeats_in_another_batch(make_encoder, make_batch):
    encoder = make_encoder()
    eight, four = make_batch(encoder, rows=8), make_batch(encoder, rows=4)
    for name in ("token_cutoff", "mask_tokens"):
        args: dict[str, Any] = {"token_cutoff": {"ratio": 0.4}, "mask_tokens": {"rate": 0.4}}[name]
        field = {"token_cutoff": "keep_positions", "mask_tokens": "is_target"}[name]
        one, other = (getattr(encoder.view(eight, view(name, d, **args)), field) for d in (0, 1))
        assert not torch.equal(one, other)
        again = getattr(encoder.view(four, view(name, 0, **args)), field)
        length = again.shape[1]
        assert torch.equal(again, one[:4, :length])


def test_masking_follows_80_10_10_and_spares_special_tokens(make_encoder, make_batch):
    encoder = make_encoder()
    mask_id = encoder.vocabulary.mask_id
    masked = kept = chosen = words = 0
    for seed in range(60):
        batch = make_batch(encoder, rows=16, seed=seed)
        seen = encoder.view(batch, view("mask_tokens", rate=0.15))
        ids = batch.inputs["input_ids"]
        is_word = encoder.vocabulary.is_word(ids, batch.mask)
        assert not (seen.is_target & ~is_word).any()
        now = seen.inputs["input_ids"]
        assert torch.equal(now[~seen.is_target], ids[~seen.is_target])
        words += int(is_word.sum())
        chosen += int(seen.is_target.sum())
        masked += int((now[seen.is_target] == mask_id).sum())
        kept += int((now[seen.is_target] == ids[seen.is_target]).sum())
    assert chosen / words == pytest.approx(0.15, abs=0.01)
    assert masked / chosen == pytest.approx(0.80, abs=0.03)
    assert kept / chosen == pytest.approx(0.10, abs=0.03)


def test_whole_words_are_chosen_together(make_encoder, make_batch):
    encoder = make_encoder()
    starts = encoder.vocabulary.starts_word
    pieces = 0
    for seed in range(10):
        batch = make_batch(encoder, rows=16, seed=seed)
        seen = encoder.view(batch, view("mask_tokens", rate=0.4, whole_word=True))
        ids = batch.inputs["input_ids"]
        continues = ~starts[ids] & batch.mask
        before = torch.roll(seen.is_target, 1, dims=1)
        assert torch.equal(seen.is_target[continues], before[continues])
        pieces += int(continues.sum())
    assert pieces > 50


def test_word_starts_are_read_off_byte_level_vocabularies():
    class Fake:
        all_special_ids = (0,)
        mask_token_id = 0

        def __len__(self):
            return 4

        def convert_ids_to_tokens(self, ids):
            return ["<s>", "Ġthe", "se", "▁so"]

    assert Vocabulary.of(cast(Any, Fake())).starts_word.tolist() == [False, True, False, True]


def test_bad_requests_are_refused_by_name(make_encoder, make_batch):
    encoder = make_encoder()
    batch = make_batch(encoder)
    with pytest.raises(ValueError, match="Text has no view 'rotate'; it has"):
        encoder.view(batch, view("rotate"))
    with pytest.raises(ValueError, match="ratio is a share of at least 0 and below 1"):
        encoder.view(batch, view("token_cutoff", ratio=1.0))
    with pytest.raises(ValueError, match="wants a 'positive' sentence beside each sample"):
        encoder.view(batch, view("plain", partner="positive"))
