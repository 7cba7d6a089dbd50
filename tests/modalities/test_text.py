import json

import numpy as np
import pytest
import torch

from unlabel.core import cat_views, split_encoding, view
from unlabel.modalities.pooling import pool
from unlabel.modalities.text import TextEncoder
from unlabel.modalities.text_folder import sentence_transformer
from unlabel.objectives import SimCSE
from unlabel.training.pretraining import Pretraining


def test_saved_encoder_gives_equal_embeddings_with_its_pooling(make_encoder, sentences, tmp_path):
    for pooling in ("cls", "mean", "first_last"):
        encoder = make_encoder(pooling=pooling)
        encoder.save_pretrained(tmp_path / pooling)
        again = TextEncoder.from_pretrained(tmp_path / pooling)
        assert again.pooling == pooling and again.max_length == 32
        np.testing.assert_array_equal(again.encode(sentences), encoder.encode(sentences))


def test_embeddings_do_not_depend_on_batch_size_or_order(make_encoder, sentences):
    encoder = make_encoder()
    whole = encoder.encode(sentences, batch_size=16)
    single = encoder.encode(sentences, batch_size=1)
    np.testing.assert_allclose(whole, single, atol=1e-5)
    backwards = encoder.encode(sentences[::-1], batch_size=5)[::-1]
    np.testing.assert_allclose(whole, backwards, atol=1e-5)
    with pytest.raises(ValueError, match="at least 1, but -1"):
        encoder.encode(sentences, batch_size=-1)


def test_encode_leaves_training_mode_as_it_was(make_encoder, sentences):
    encoder = make_encoder()
    encoder.train()
    first, second = encoder.encode(sentences), encoder.encode(sentences)
    assert encoder.training
    np.testing.assert_array_equal(first, second)


def test_a_loaded_encoder_evaluates_and_trains_under_an_objective(
    make_encoder, make_batch, sentences, tmp_path
):
    make_encoder(dropout=0.5).save_pretrained(tmp_path)
    encoder = TextEncoder.from_pretrained(tmp_path)
    encoder.encode(sentences)
    assert not any(part.training for part in encoder.modules())
    module, batch = Pretraining(encoder, SimCSE()), make_batch(encoder)
    assert all(part.training for part in module.modules())
    assert module(batch).loss != module(batch).loss  # two views of a sample differ by dropout


def test_samples_that_do_not_say_which_they_are_are_encoded_but_not_trained_on(
    make_encoder, sentences
):
    encoder = make_encoder()
    samples = [{"input_ids": ids} for ids in encoder.tokenize(sentences)]
    bare = encoder.collator()(samples)
    assert len(encoder(encoder.view(bare, view("plain"))).pooled) == len(sentences)
    with pytest.raises(ValueError, match="came without index and ordinal"):
        Pretraining(encoder, SimCSE())(bare.to("cpu"))
    placed = [{**s, "index": i} for i, s in enumerate(samples)]
    with pytest.raises(ValueError, match="came without ordinal, so"):
        Pretraining(encoder, SimCSE())(encoder.collator()(placed))


def test_one_call_for_several_views_equals_one_call_each(make_encoder, make_batch):
    encoder = make_encoder().eval()
    batch = make_batch(encoder)
    specs = [view("plain"), view("token_cutoff", 1, ratio=0.3), view("mask_tokens", rate=0.4)]
    views = [encoder.view(batch, s) for s in specs]
    together = split_encoding(encoder(cat_views(views)), [8, 8, 8])
    for one, encoding in zip(views, together, strict=True):
        torch.testing.assert_close(encoder(one).pooled, encoding.pooled, atol=1e-5, rtol=1e-5)


def test_padding_does_not_change_a_pooled_vector():
    tokens, mask = torch.randn(1, 4, 3), torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(pool(tokens, mask, "mean"), tokens[:, :2].mean(1))
    assert pool(tokens, torch.zeros(1, 4).bool(), "mean").isfinite().all()


def test_first_last_averages_the_first_block_not_the_embedding_layer():
    layers = tuple(torch.full((1, 2, 1), float(i)) for i in (100, 1, 2, 3))
    pooled = pool(layers[-1], torch.ones(1, 2).bool(), "first_last", layers)
    assert pooled.item() == 2.0


def test_dropout_is_set_everywhere_or_nowhere(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path)
    quiet = TextEncoder.from_pretrained(tmp_path, dropout=0.0)
    assert {m.p for m in quiet.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    with pytest.raises(ValueError, match=r"below 1, but 1\.5"):
        TextEncoder.from_pretrained(tmp_path, dropout=1.5)


def test_dropout_reaches_the_layers_of_a_new_encoder(tokenizer):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    new = TextEncoder.from_config(sizes, tokenizer, dropout=0.25)
    assert {m.p for m in new.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_errors_name_what_came_and_what_would_do(make_encoder, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="'median' is not one of cls, mean, first_last"):
        make_encoder(pooling="median")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        TextEncoder.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hiden_size: no such key"):
        TextEncoder.from_config({"hiden_size": 3}, tokenizer)
    with pytest.raises(ValueError, match="one string came"):
        make_encoder().encode("a sentence")
    for wrong, shown in ((None, "None"), (float("nan"), "nan"), ("\udcff", r"'\\udcff'")):
        with pytest.raises(ValueError, match=f"Sentence 1 is {shown}, which is no text"):
            make_encoder().encode(["a sentence", wrong])


def test_no_sentence_outgrows_the_positions_that_a_model_keeps_for_words(tokenizer):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "roberta", "max_position_embeddings": 20, **sizes}
    encoder = TextEncoder.from_config(config, tokenizer, max_length=600)
    assert encoder.max_length == 20 - 1 - tokenizer.pad_token_id
    assert np.isfinite(encoder.encode(["a long sentence of words " * 9])).all()


def test_folder_that_does_not_say_how_long_is_read_as_long_as_the_model_can(tokenizer, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = TextEncoder.from_config({**sizes, "intermediate_size": 8}, tokenizer)
    encoder.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert TextEncoder.from_pretrained(tmp_path).max_length == 512


@pytest.mark.parametrize(
    ("pooling", "said", "left"),
    [
        ({"pooling_mode_cls_token": True}, "cls", None),
        ({"pooling_mode": "mean", "include_prompt": True}, "mean", None),
        ({"pooling_mode_max_tokens": True}, None, "max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None, "cls, mean"),
        ({"pooling_mode": "lasttoken"}, None, "lasttoken"),
    ],
)
def test_what_a_sentence_transformers_folder_has_and_an_encoder_has_not_is_named(
    tmp_path, caplog, pooling, said, left
):
    parts = ["Transformer", "Pooling", *(["Dense"] if left else [])]
    listed = [{"type": f"x.{name}", "path": f"{i}_{name}"} for i, name in enumerate(parts)]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert sentence_transformer(tmp_path).get("pooling") == said
    assert (f"without Dense and its pooling ({left})" in caplog.text) == (left is not None)


def test_no_sentences_give_an_empty_matrix(make_encoder):
    assert make_encoder().encode([]).shape == (0, 32)


def test_settings_file_is_plain_json(make_encoder, tmp_path):
    make_encoder(pooling="cls").save_pretrained(tmp_path)
    said = json.loads((tmp_path / "unlabel.json").read_text())
    assert said == {"modality": "text", "pooling": "cls", "max_length": 32}
