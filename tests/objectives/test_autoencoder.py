"""Masked autoencoding: the encoder sees the visible tokens only, the loss the others."""

from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series
from torch import nn

from unlabel.core import view
from unlabel.modalities.series import SeriesEncoder
from unlabel.objectives import MAE
from unlabel.objectives.autoencoder import MaskedDecoder, by_token
from unlabel.objectives.heads import AttentionLayer
from unlabel.training.pretraining import Pretraining


def pretraining(normalize=True) -> tuple[Any, Any]:
    encoder = TinySeries(patch=4)
    mae = MAE(ratio=0.5, normalize=normalize, hidden=16, layers=1, heads=2)
    module = Pretraining(encoder, mae)
    batch = make_series(encoder)
    batch.inputs["observed"] = torch.ones_like(batch.inputs["observed"])
    return module, batch


def silence(module):
    with torch.no_grad():
        for p in module.objective.decoder.leave.parameters():
            p.zero_()


def test_predicting_0_for_scaled_tokens_costs_p_minus_1_over_p():
    module, batch = pretraining()
    silence(module)
    assert module(batch).loss.item() == pytest.approx(7 / 8, abs=1e-4)  # 4 steps, 2 channels


def test_predicting_0_without_scaling_costs_the_mean_square():
    module, batch = pretraining(normalize=False)
    silence(module)
    (seen,) = module.view(batch)
    expected = seen.target[seen.is_target].square().mean()
    torch.testing.assert_close(module(batch).loss, expected)


def test_the_encoder_is_given_the_visible_tokens_alone():
    module, batch = pretraining()
    (seen,) = module.view(batch)
    assert seen.mask.shape == (8, 2) and seen.target.shape == (8, 4, 8)
    hidden = seen.is_target.all(2)
    visible = torch.zeros_like(hidden).scatter(1, seen.inputs["positions"], True)
    assert torch.equal(visible, ~hidden)


def test_values_of_visible_tokens_are_no_targets():
    module, batch = pretraining()
    (seen,) = module.view(batch)
    encodings = module.encode([seen])
    plain = module.score(encodings, [seen], batch).loss
    seen.target = seen.target.masked_fill(~seen.is_target, 1e6)
    assert torch.equal(module.score(encodings, [seen], batch).loss, plain)


def test_each_token_is_put_at_its_place_and_padding_nowhere():
    decoder = MaskedDecoder(4, 3, 3, hidden=8, layers=1, heads=2)
    tokens = torch.randn(1, 2, 3)
    mask, positions = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1, 3]])
    seen = []
    decoder.blocks.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder(tokens, mask, positions)
    entered = decoder.enter(tokens) + decoder.places[[1, 3]]
    torch.testing.assert_close(seen[0][:, [1, 3]], entered)
    empty = (decoder.missing + decoder.places[[0, 2]])[None]
    torch.testing.assert_close(seen[0][:, [0, 2]], empty)
    padded = torch.cat([torch.full((1, 1, 3), 9.0), tokens], 1)
    mask = torch.tensor([[False, True, True]])
    out = decoder(padded, mask, torch.tensor([[1, 1, 3]]))
    torch.testing.assert_close(out, decoder(tokens, mask[:, 1:], positions))


def test_by_token_scales_what_counts_and_leaves_the_rest_0():
    values = torch.randn(3, 4, 6, dtype=torch.float64) * 5 + 2
    whole = by_token(values, torch.ones_like(values, dtype=torch.bool))
    torch.testing.assert_close(whole.mean(-1), torch.zeros(3, 4).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(whole.var(-1), torch.ones(3, 4).double(), atol=1e-4, rtol=0)
    part = torch.tensor([True, True, False, True, False, False]).expand_as(values)
    scaled = by_token(values, part)
    assert not scaled[~part].any()
    three = by_token(values[..., [0, 1, 3]], torch.ones(3, 4, 3, dtype=torch.bool))
    torch.testing.assert_close(scaled[..., [0, 1, 3]], three)
    assert not by_token(values, torch.zeros_like(part)).any()


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match="between 0 and 1, but 1 came"):
        MAE(ratio=1)
    with pytest.raises(ValueError, match="3 heads cannot share a width of 64"):
        MAE(heads=3)
    with pytest.raises(ValueError, match="0 heads cannot share a width of 64"):
        MAE(heads=0)
    with pytest.raises(ValueError, match="1 layer or more, but layers is 0"):
        MAE(layers=0)
    encoder = TinySeries()
    encoder.gives -= {"visible_only"}
    with pytest.raises(ValueError, match="MAE needs an encoder that leaves hidden tokens out"):
        Pretraining(encoder, MAE())


def test_a_patch_encoder_of_series_never_sees_a_hidden_patch():
    sizes = {"patch_length": 2, "d_model": 16, "num_attention_heads": 2, "ffn_dim": 16}
    torch.manual_seed(0)
    encoder = SeriesEncoder.from_config(sizes, context=16, dropout=0.0, norm="none").eval()
    module: Any = Pretraining(encoder, MAE(ratio=0.5, hidden=16, layers=1, heads=2))
    batch = make_series(TinySeries(channels=1))
    (seen,) = module.view(batch)
    assert seen.mask.shape == (8, 4) and seen.is_target.shape == (8, 8, 2)
    hidden = torch.ones(8, 8, dtype=torch.bool).scatter(1, seen.inputs["positions"], False)
    assert torch.equal(seen.is_target.any(2), hidden & seen.is_target.any(2))
    (before,) = module.encode([seen])
    noise = hidden.repeat_interleave(2, 1)[:, :, None] * 5.0
    batch.inputs["values"][:, :16] += noise * batch.inputs["observed"][:, :16]
    (again,) = module.view(batch)
    assert torch.equal(module.encode([again])[0].tokens, before.tokens)
    assert not torch.equal(again.target, seen.target)


def test_a_short_sample_keeps_its_visible_patches_and_padding_is_masked():
    sizes = {"patch_length": 2, "d_model": 16, "num_attention_heads": 2, "ffn_dim": 16}
    encoder = SeriesEncoder.from_config(sizes, context=16, dropout=0.0)
    module: Any = Pretraining(encoder, MAE(ratio=0.5, hidden=16, layers=1, heads=2))
    batch = make_series(TinySeries(channels=1))
    batch.mask[0, :18] = False  # three patches are left, one of them hidden
    (seen,) = module.view(batch)
    assert seen.mask.sum(1).tolist() == [2] + [4] * 7
    assert seen.inputs["positions"][0][seen.mask[0]].min() >= 5
    assert module(batch).loss.isfinite()
    with pytest.raises(ValueError, match="Only whole patches can be dropped, but unit is 'step'"):
        encoder.view(batch, view("mask_values", unit="step", drop=True))


@pytest.mark.parametrize("masks", ["", "keys", "causal", "both"])
def test_a_layer_of_a_decoder_is_torchs_own(masks):
    torch.manual_seed(0)
    ours = AttentionLayer(12, 3).double()
    torchs = nn.TransformerEncoderLayer(
        12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True
    ).double()
    torchs.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, torchs):
        torch.manual_seed(1)
        x = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
        how: dict[str, Any] = {}
        if masks in ("keys", "both"):
            how["src_key_padding_mask"] = torch.arange(5)[None] >= torch.tensor([[5], [3]])
        if masks in ("causal", "both"):
            how["src_mask"] = torch.ones(5, 5, dtype=torch.bool).triu(1)
        y = layer(x, **how)
        y[:, :3].square().sum().backward()
        found.append([y[:, :3], x.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
