import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from unlabel.core import view
from unlabel.modalities.text import TextEncoder
from unlabel.objectives import MLM
from unlabel.training.pretraining import Pretraining

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
KINDS = [
    (BertForMaskedLM, BertConfig, {**SIZES, "intermediate_size": 64}),
    (RobertaForMaskedLM, RobertaConfig, {**SIZES, "intermediate_size": 64, "pad_token_id": 0}),
    (DistilBertForMaskedLM, DistilBertConfig, {"dim": 32, "n_layers": 1, "n_heads": 2}),
]


@pytest.mark.parametrize(("kind", "config", "sizes"), KINDS, ids=["bert", "roberta", "distilbert"])
def test_mlm_goes_on_with_the_head_a_pretrained_model_was_saved_with(
    kind, config, sizes, make_encoder, make_batch, tmp_path
):
    tokenizer = make_encoder().tokenizer
    model = kind(config(vocab_size=len(tokenizer), **sizes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))  # biases and norms begin at 0 and 1
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder.from_pretrained(tmp_path, max_length=32)
    module = Pretraining(encoder, MLM(rate=0.5)).eval()
    batch = make_batch(encoder)
    seen = encoder.view(batch, view("mask_tokens", rate=0.5, whole_word=False))
    logits = model(**seen.inputs, attention_mask=seen.mask.long()).logits
    assert seen.target is not None and seen.is_target is not None
    theirs = torch.nn.functional.cross_entropy(logits[seen.is_target], seen.target[seen.is_target])
    torch.testing.assert_close(module(batch).loss, theirs, atol=1e-5, rtol=1e-5)


def test_an_encoder_without_a_saved_head_starts_a_new_one(make_encoder, tmp_path):
    encoder = make_encoder()
    assert encoder.token_head() is None
    encoder.save_pretrained(tmp_path)
    assert TextEncoder.from_pretrained(tmp_path).token_head() is None
