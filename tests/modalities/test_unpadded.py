"""Unpadded text equals padded text: vectors and gradients, for every model that allows it."""

import copy
import inspect
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from unlabel.core import cat_views, view
from unlabel.modalities import unpadded
from unlabel.modalities.text import TextEncoder
from unlabel.objectives import Cutoff, MoCo, Pairs, SimCSE, Sum
from unlabel.training.pretraining import Pretraining

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}
MODELS = {
    "bert": SIZES,
    "roberta": SIZES,
    "electra": {**SIZES, "embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "modernbert": {
        **SIZES,
        "local_attention": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        **dict.fromkeys(("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 1),
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 48},
}
BIASED = ("deberta-v2", "mpnet")
needs_varlen = pytest.mark.skipif(unpadded.VARLEN is None, reason="torch is older than that")


@pytest.fixture
def make(tokenizer):
    """Makes a tiny encoder in float64; the same weights padded and unpadded."""

    def make(kind: str, *, dropout: float = 0.0, **settings):
        torch.manual_seed(0)
        config = {"model_type": kind, **MODELS.get(kind, SIZES)}
        encoder = TextEncoder.from_config(
            config, tokenizer, dropout=dropout, max_length=32, **settings
        )
        return encoder.double().eval()

    return make


def both(make, kind, **settings):
    return make(kind, **settings), make(kind, unpadded=True, **settings)


def seen(encoder, batch):
    """Sentences, their partners of other lengths, cut ones, and cropped ones, as one view."""
    specs = [view("plain"), view("plain", partner="positive"), view("crop", low=0.3, high=0.7)]
    if encoder._cuts:
        specs += [view("token_cutoff", ratio=0.3), view("feature_cutoff", ratio=0.3)]
    return cat_views([encoder.view(batch, s) for s in specs])


def gradients(module):
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pooling", ["mean", "cls", "first_last"])
@pytest.mark.parametrize("kind", MODELS)
def test_vectors_and_gradients_equal_the_padded_ones(make, make_batch, kind, pooling):
    found = []
    for encoder in both(make, kind, pooling=pooling):
        batch = make_batch(encoder, partners=True)
        out = encoder(seen(encoder, batch), want=frozenset({"layers"}))
        assert out.layers is not None
        real = [x[out.mask] for x in (out.tokens, *out.layers)]
        weight = torch.randn(out.pooled.shape, generator=torch.Generator().manual_seed(1))
        loss = (out.pooled * weight).sum() + sum(x.pow(3).sum() for x in real)
        loss.backward()
        found.append(([out.pooled, *real], gradients(encoder)))
    (padded, wanted), (row, got) = found
    for a, b in zip(row, padded, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    assert got.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(got[name], grad, atol=1e-10 * (1 + grad.norm()), rtol=1e-10)


def _by_sentence(query, key, value, ends, ends_k, longest, longest_k, **options):
    """What a GPU's attention of sentences in a row does, one sentence after the other."""
    bound = inspect.signature(unpadded.VARLEN).bind(
        query, key, value, ends, ends_k, longest, longest_k, **options
    )
    assert ends.dtype == torch.int32 and bound.arguments["window_size"] in ((-1, -1), (-1, 0))
    counts = ends.diff().tolist()
    assert sum(counts) == len(query) and max(counts) <= longest and torch.equal(ends, ends_k)
    found = [
        F.scaled_dot_product_attention(
            *(x.transpose(0, 1) for x in parts),
            is_causal=options["window_size"] == (-1, 0),
            scale=options["scale"], enable_gqa=options["enable_gqa"],
        ).transpose(0, 1)
        for parts in zip(*(x.split(counts) for x in (query, key, value)), strict=True)
    ]  # fmt: skip
    return torch.cat(found)


@needs_varlen
@pytest.mark.parametrize("kind", MODELS)
def test_a_gpus_attention_is_given_the_sentences_ends_and_the_models_own_options(
    make, make_batch, kind, monkeypatch
):
    padded, row = both(make, kind)
    called = []
    monkeypatch.setattr(unpadded, "_varlen", lambda query: called.append(1) or _by_sentence)
    batch = make_batch(padded, partners=True)
    wanted, found = (encoder(seen(encoder, batch)) for encoder in (padded, row))
    assert called
    torch.testing.assert_close(found.pooled, wanted.pooled, atol=1e-10, rtol=1e-10)


@needs_varlen
def test_a_gpus_attention_is_taken_where_its_kernels_take_the_numbers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def query(width, dtype=torch.bfloat16, is_cuda=True) -> Any:
        shape = torch.Size([1, 2, 5, width])
        return SimpleNamespace(is_cuda=is_cuda, dtype=dtype, device=None, shape=shape)

    assert unpadded._varlen(query(64)) is unpadded.VARLEN
    for other in (query(12), query(264), query(64, torch.float32), query(64, is_cuda=False)):
        assert unpadded._varlen(other) is None


def test_the_model_sees_no_padding_and_padding_comes_back_as_zeros(make, make_batch):
    encoder = make("bert", unpadded=True)
    batch, rows = make_batch(encoder), []
    encoder.model.embeddings.register_forward_hook(lambda m, args, out: rows.append(out.shape))
    out = encoder(encoder.view(batch, view("plain")))
    assert rows == [(1, int(batch.mask.sum()), 32)] and not batch.mask.all()
    assert out.tokens.shape[:2] == batch.mask.shape and not out.tokens[~batch.mask].any()


@pytest.mark.parametrize("kind", BIASED)
def test_a_model_whose_attention_follows_no_row_is_refused_by_name(make, kind):
    make(kind)
    with pytest.raises(ValueError, match=r"Model does not run unpadded \(.*leave out unpadded"):
        make(kind, unpadded=True)


def test_permutations_go_padded(make, make_batch):
    one, other = both(make, "bert")
    batch = make_batch(one)
    made = one.view(batch, view("plain"))
    length = made.mask.shape[1]
    made.attend = made.mask[:, None, :] & torch.ones(length, length).tril().bool()
    torch.testing.assert_close(other(made).tokens[made.mask], one(made).tokens[made.mask])


@pytest.mark.parametrize(
    "objective",
    [
        lambda: MoCo(queue=24, width=16),
        lambda: Sum({"cut": Cutoff(cut="span", ratio=0.3), "pairs": Pairs(negative=True)}),
    ],
)
def test_objectives_have_equal_gradients_and_teachers_run_unpadded(make, make_batch, objective):
    found = []
    for encoder in both(make, "bert"):
        torch.manual_seed(1)
        module = Pretraining(encoder, objective(), 8).double().eval()
        module(make_batch(encoder, partners=True)).loss.backward()
        if module.teacher is not None:
            kept = [m for m in module.teacher.modules() if isinstance(m, TextEncoder)]
            assert [m.first_position for m in kept] == [encoder.first_position]
        found.append(gradients(module))
    wanted, got = found
    assert got.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(got[name], grad, atol=1e-10, rtol=1e-8)


def test_training_with_dropout_lowers_the_loss(make, make_batch):
    module = Pretraining(make("bert", dropout=0.1, unpadded=True), SimCSE(), 8).double().train()
    batch = make_batch(module.encoder, rows=16)
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=3e-3), []
    for _ in range(15):
        optimizer.zero_grad()
        loss = module(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_checkpointed_blocks_have_equal_gradients(make, make_batch):
    found = []
    for encoder in both(make, "bert"):
        if encoder.first_position is not None:
            encoder.model.gradient_checkpointing_enable({"use_reentrant": False})
        encoder.train()(encoder.view(make_batch(encoder), view("plain"))).pooled.sum().backward()
        found.append(gradients(encoder))
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, atol=1e-10, rtol=1e-10)


def test_embeddings_are_those_of_the_padded_way_and_nothing_of_it_is_saved(
    make, sentences, tmp_path
):
    one, other = both(make, "roberta")
    assert other.first_position == 1  # the padding's id is 0
    assert abs(one.encode(sentences) - copy.deepcopy(other).encode(sentences)).max() < 1e-6
    other.save_pretrained(tmp_path)
    assert "unpadded" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "unlabel.json").read_text()) == one.settings
    again = TextEncoder.from_pretrained(tmp_path, unpadded=True)
    assert again.first_position == 1 and one.first_position is None
    assert abs(again.encode(sentences) - one.encode(sentences)).max() < 1e-5
