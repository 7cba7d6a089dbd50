import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PatchTSTConfig, PatchTSTModel

from unlabel.core import cat_views, split_encoding, view
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.data_pipes.synthetic_series import generate_series
from unlabel.modalities import MODALITIES
from unlabel.modalities.pooling import pool
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.series_window import mean_and_std
from unlabel.objectives import CATALOGUE, CPC
from unlabel.training.pretraining import Pretraining, lacking

KINDS = ["patchtst", "conv"]


def plain_patchtst(**keys) -> PatchTSTModel:
    torch.manual_seed(0)
    sizes = {
        "context_length": 48,
        "patch_length": 6,
        "patch_stride": 6,
        "d_model": 16,
        "ffn_dim": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "scaling": None,
    }
    return PatchTSTModel(PatchTSTConfig(**{**sizes, **keys})).eval()


# -- the collator -----------------------------------------------------------------------------


def test_the_collator_pads_at_the_left_and_marks_gaps(make_series):
    collate = make_series().collator(seed=5)
    values = [np.array(v, np.float32) for v in ([[1], [np.nan], [3]], [[np.inf], [5]])]
    partners = [{"sensor": {"values": v + 1}} for v in values]
    batch = collate(
        [
            {"values": v, "index": i, "ordinal": 7 + i, "partners": p, "static": np.ones(1) * i}
            for i, (v, p) in enumerate(zip(values, partners, strict=True))
        ]
    )
    assert batch.inputs["values"][..., 0].tolist() == [[1, 0, 3], [0, 0, 5]]
    assert batch.inputs["observed"][..., 0].tolist() == [[True, False, True], [True, False, True]]
    assert batch.mask.tolist() == [[True, True, True], [False, True, True]]
    assert (batch.index.tolist(), batch.ordinal.tolist(), batch.seed) == ([0, 1], [7, 8], 5)
    assert batch.partners["sensor"]["values"][..., 0].tolist() == [[2, 0, 4], [0, 0, 6]]
    assert torch.equal(batch.partners["sensor"]["mask"], batch.mask)
    assert batch.inputs["static"].tolist() == [[0], [1]]
    assert batch.label.tolist() == [-1, -1]


# -- PatchTST by hand -------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{}, {"norm_type": "layernorm"}, {"pre_norm": False}])
def test_a_whole_window_comes_out_as_from_patchtst_itself(make_windows, keys):
    model = plain_patchtst(**keys)
    encoder = SeriesEncoder(model, context=48, norm="none").eval()
    batch = make_windows(encoder, steps=48)
    batch.inputs["values"] -= 50
    out = encoder(encoder.view(batch, view("plain")), want=frozenset({"layers"}))
    own = model(batch.inputs["values"], output_hidden_states=True)
    torch.testing.assert_close(out.tokens, own.last_hidden_state[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(out.layers[0], own.hidden_states[0][:, 0], atol=1e-6, rtol=0)
    assert len(out.layers) == 3


def test_a_shorter_window_takes_the_last_positions_and_hides_its_padding(make_windows):
    model = plain_patchtst(norm_type="layernorm")
    model.encoder.positional_encoder.position_enc.data.normal_()
    encoder = SeriesEncoder(model, context=48, norm="none").eval()
    batch = make_windows(encoder, steps=24)
    out = encoder(encoder.view(batch, view("plain")))
    assert out.mask.tolist() == [[False] * 4 + [True] * 4] * 4
    small = plain_patchtst(norm_type="layernorm", context_length=24)
    state = {k: v for k, v in model.state_dict().items() if "position" not in k}
    small.load_state_dict(state, strict=False)
    table = model.encoder.positional_encoder.position_enc
    small.encoder.positional_encoder.position_enc.data = table[4:].clone()
    own = small(batch.inputs["values"]).last_hidden_state[:, 0]
    torch.testing.assert_close(out.tokens[:, 4:], own, atol=1e-5, rtol=1e-5)
    half = SeriesEncoder(model, context=24, norm="none").eval()
    tokens = half(half.view(batch, view("plain"))).tokens
    torch.testing.assert_close(tokens, own, atol=1e-5, rtol=1e-5)


def test_tokens_can_be_left_out(make_series, make_windows):
    encoder = make_series(norm="none")
    whole = encoder.view(make_windows(encoder), view("plain"))
    hidden = copy.deepcopy(whole)
    keep = [1, 4, 5]
    hidden.mask = torch.zeros_like(whole.mask)
    hidden.mask[:, keep] = True
    few = copy.deepcopy(whole)
    few.inputs = {k: v[:, keep] for k, v in whole.inputs.items()}
    few.mask = whole.mask[:, keep]
    a, b = encoder(hidden).tokens[:, keep], encoder(few).tokens
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"patch_stride": 3}, "overlap"),
        ({"share_embedding": False}, "share_embedding"),
        ({"channel_attention": True}, "channel_attention"),
        ({"use_cls_token": True}, "class token"),
    ],
)
def test_a_patchtst_that_cannot_be_driven_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        SeriesEncoder(plain_patchtst(**keys), context=48)


def test_a_causal_patchtst_needs_layer_norm():
    with pytest.raises(ValueError, match="layernorm"):
        SeriesEncoder(plain_patchtst(), context=48, causal=True)
    SeriesEncoder(plain_patchtst(norm_type="layernorm"), context=48, causal=True)


# -- what every kind keeps --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_causal_token_knows_no_later_step(make_series, make_windows, kind):
    causal = {"causal": True} if kind == "patchtst" else {}
    encoder = make_series(kind, norm="none", **causal)
    assert "causal" in encoder.gives
    batch = make_windows(encoder)
    before = encoder(encoder.view(batch, view("plain"))).tokens
    batch.inputs["values"][:, 30:] += 9
    after = encoder(encoder.view(batch, view("plain"))).tokens
    token = 30 // encoder.patch
    assert torch.equal(before[:, :token], after[:, :token])
    assert not torch.equal(before[:, token], after[:, token])


def test_a_two_way_patchtst_does_not_claim_to_be_causal(make_series):
    assert "causal" not in make_series().gives
    assert "visible_only" in make_series().gives and "visible_only" not in make_series("conv").gives
    assert {"causal", "visible_only", "future"} <= MODALITIES["series"].gives


def test_layers_of_a_convolution_are_as_wide_as_its_blocks_and_tokens_as_its_output(make_windows):
    encoder = SeriesEncoder.from_config({"model_type": "dilated_conv"}, context=48)
    out = encoder(encoder.view(make_windows(encoder), view("plain")), want=frozenset({"layers"}))
    assert [x.shape[2] for x in out.layers] == [encoder.layer_width] * 11 == [64] * 11
    assert out.tokens.shape[2] == encoder.width == 320


def test_every_method_for_series_can_be_built_on_one_of_its_encoders(make_series):
    encoders = [make_series("conv"), make_series(), make_series(causal=True), make_series("flow")]
    for name, method in CATALOGUE.items():
        if lacking(method(), MODALITIES["series"]):
            continue  # what `unlabel list --modality series` refuses
        fitting = [e for e in encoders if not lacking(method(), e)]
        assert fitting, name
        for encoder in fitting:
            Pretraining(encoder, method(), 64, 3)


@pytest.mark.parametrize("context", ["encoder", "gru"])
def test_cpc_learns_on_the_default_convolution(context):
    torch.manual_seed(0)
    store = SeriesStore(generate_series(1, 2000, channels=1, seed=0), context=48)
    encoder = SeriesEncoder.from_config({"model_type": "dilated_conv"}, context=48)
    module = Pretraining(encoder, CPC(context=context))
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    losses = []
    for first in range(0, 240, 8):
        rows = [store[37 * i % len(store)] for i in range(first, first + 8)]
        step = module(encoder.collator()(rows))
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(step.loss.item())
    assert np.mean(losses[-5:]) < min(np.mean(losses[:5]), step.terms["ahead"].chance) - 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["standard", "last", "none"])
@pytest.mark.parametrize("steps", [48, 64, 80])  # a context, and longer than one
def test_a_row_is_the_same_alone_and_in_any_batch(make_series, make_windows, kind, norm, steps):
    encoder = make_series(kind, norm=norm).double()
    four = make_windows(encoder, 4, steps=steps, gaps=True, short=True)
    together = encoder(encoder.view(four, view("plain"))).pooled
    for i in range(4):
        one = make_windows(encoder, 1, steps=steps, gaps=True, short=True, first=i)
        alone = encoder(encoder.view(one, view("plain"))).pooled
        assert one.mask.shape[1] == steps - (15 + i) * (i % 2)
        torch.testing.assert_close(alone[0], together[i], atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_that_is_not_observed_reaches_nothing(make_series, make_windows, kind):
    encoder = make_series(kind)
    clean, dirty = (make_windows(encoder, gaps=True) for _ in range(2))
    values = dirty.inputs["values"]
    dirty.inputs["values"] = torch.where(dirty.inputs["observed"], values, torch.nan)
    assert dirty.inputs["values"].isnan().any()
    for name in ("plain", "random_conv", "shuffle", "frequency_mask", "jitter"):
        a, b = (encoder(encoder.view(x, view(name))).tokens for x in (clean, dirty))
        assert torch.equal(a, b) and a.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["standard", "last"])
def test_constant_and_empty_windows_stay_small_and_finite(make_series, make_windows, kind, norm):
    encoder = make_series(kind, norm=norm)
    batch = make_windows(encoder)
    batch.inputs["values"][0] = 5e6
    batch.inputs["values"][1] = 0
    batch.inputs["observed"][2] = False
    batch.mask[3] = False
    for name in ("plain", "mask_values", "random_conv", "jitter", "frequency_mix", "reorder"):
        seen = encoder.view(batch, view(name))
        assert seen.inputs["values"][:2].abs().max() < 10
        out = encoder(seen)
        assert out.tokens.isfinite().all() and out.pooled.isfinite().all()
    seen = encoder.view(batch, view("future", horizon=12))
    assert seen.target.abs().max() < 1e3
    assert not seen.is_target[2].any()


def test_the_scale_of_a_constant_channel_is_its_size():
    values = torch.tensor([[3.0, 0.0, 1.0], [3.0, 0.0, 5.0]])[None].double()
    mean, scale = mean_and_std(values, torch.ones_like(values, dtype=torch.bool))
    assert mean[0, 0].tolist() == [3, 0, 3]
    assert scale[0, 0].tolist() == [3, 1, 2]


def test_standard_norm_gives_mean_0_and_std_1_and_leads_back(make_series, make_windows):
    encoder = make_series("conv", channels=2).double()
    batch = make_windows(encoder, gaps=True)
    window = encoder.window(batch, view("future", horizon=12))
    raw = window.values.clone(), window.future.clone()
    seen = encoder.finish(window)
    values, observed = (seen.inputs[k][:, :, 0] for k in ("values", "observed"))
    count = observed.sum(1)
    assert (values.sum(1) / count).abs().max() < 1e-5
    assert ((values.square().sum(1) / count) - 1).abs().max() < 1e-4
    back = values * window.scale + window.loc
    torch.testing.assert_close(back[observed], raw[0][observed], atol=1e-4, rtol=0)
    future = seen.target * window.scale + window.loc
    torch.testing.assert_close(future, raw[1], atol=1e-4, rtol=0)


def test_last_norm_subtracts_the_newest_value_that_is_seen(make_series, make_windows):
    encoder = make_series("conv", norm="last")
    batch = make_windows(encoder, steps=48)
    batch.inputs["observed"][0, -3:] = False
    window = encoder.window(batch, view("plain"))
    encoder.finish(window)
    assert window.loc[0, 0, 0] == batch.inputs["values"][0, -4, 0]
    assert torch.equal(window.loc[1:, 0], batch.inputs["values"][1:, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_covariates_and_static_values_reach_the_embedding(make_series, make_windows, kind):
    encoder = make_series(kind, covariates=2, static=3)
    batch = make_windows(encoder, steps=48)
    batch.inputs["covariates"] = torch.randn(4, 48, 2)
    batch.inputs["static"] = torch.randn(4, 3)
    first = encoder(encoder.view(batch, view("plain"))).pooled
    for name in ("covariates", "static"):
        changed = copy.deepcopy(batch)
        changed.inputs[name] = changed.inputs[name] + 1
        assert not torch.allclose(encoder(encoder.view(changed, view("plain"))).pooled, first)
    with pytest.raises(ValueError, match="2 covariates, but the samples have 0"):
        encoder.view(make_windows(encoder), view("plain"))


def test_cutting_zeroes_tokens_and_columns_after_projection_and_position(make_series, make_windows):
    encoder = make_series()
    seen = encoder.view(make_windows(encoder), view("plain"))
    seen.keep_positions = torch.ones(4, 8, dtype=torch.bool)
    seen.keep_positions[1, 3] = False
    seen.keep_features = torch.ones(4, 16, dtype=torch.bool)
    seen.keep_features[2, 5] = False
    embedded = encoder(seen, want=frozenset({"layers"})).layers[0]
    assert (embedded[1, 3] == 0).all() and (embedded[2, :, 5] == 0).all()
    assert (embedded[0] != 0).all()


@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
def test_pooling_is_over_real_tokens(pooling):
    tokens = torch.tensor([[[9.0], [1.0], [3.0], [7.0]], [[9.0], [1.0], [3.0], [7.0]]])
    mask = torch.tensor([[False, True, True, False], [False] * 4])
    out = pool(tokens, mask, pooling)
    assert out[0].item() == {"mean": 2, "last": 3, "max": 3}[pooling]
    assert out[1].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_several_views_in_one_call_equal_single_calls(make_series, make_windows, kind):
    encoder = make_series(kind).double()
    batch = make_windows(encoder, gaps=True)
    views = [
        encoder.view(batch, view(n)) for n in ("plain", "token_cutoff", "crop", "feature_cutoff")
    ]
    parts = split_encoding(encoder(cat_views(views)), [4] * 4)
    for seen, part in zip(views, parts, strict=True):
        torch.testing.assert_close(part.pooled, encoder(seen).pooled, atol=1e-10, rtol=0)


def test_a_deep_copy_has_an_attention_mask_of_its_own(make_series, make_windows):
    encoder = make_series()
    batch = make_windows(encoder, steps=30)
    seen = encoder.view(batch, view("plain"))
    expected = encoder(seen).tokens
    assert torch.equal(copy.deepcopy(encoder)(seen).tokens, expected)


def test_the_sensor_partner_is_viewed_like_the_sample(make_series, make_windows):
    encoder = make_series()
    batch, other = make_windows(encoder), make_windows(encoder, first=4)
    batch.partners["sensor"] = {**other.inputs, "mask": other.mask}
    a = encoder(encoder.view(batch, view("plain", partner="sensor"))).pooled
    assert torch.equal(a, encoder(encoder.view(other, view("plain"))).pooled)
    with pytest.raises(ValueError, match="'sensor' beside each sample"):
        encoder.view(other, view("plain", partner="sensor"))


def test_wrong_data_and_names_are_refused_in_a_sentence(make_series, make_windows):
    encoder = make_series()
    batch = make_windows(encoder)
    with pytest.raises(ValueError, match="no view 'blur'"):
        encoder.view(batch, view("plain+blur"))
    with pytest.raises(ValueError, match="samples have 60 steps"):
        encoder.view(batch, view("future", horizon=60))
    with pytest.raises(ValueError, match="in 2 links"):
        twice: dict[str, Any] = {"future.horizon": 3, "past.horizon": 3}
        encoder.view(batch, view("future+past", **twice))
    three = make_windows(make_series("conv", channels=3))
    with pytest.raises(ValueError, match="3 channels, but the encoder takes 1"):
        encoder.view(three, view("plain"))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"pooling": "cls"}, "pooling 'cls'"),
        ({"norm": "max"}, "norm 'max'"),
        ({"channels": 2}, "one channel at a time"),
    ]
    for settings, message in refused:
        with pytest.raises(ValueError, match=message):
            SeriesEncoder(plain_patchtst(), context=48, **settings)
    with pytest.raises(ValueError, match="places for 1 to 8"):
        SeriesEncoder(plain_patchtst(), context=60)
    with pytest.raises(ValueError, match="no such key"):
        SeriesEncoder.from_config({"hidden": 3}, context=48)


# -- save and load ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_bfloat16_see_series_of_any_level(make_series, make_windows, make_walks, kind):
    encoder = make_series(kind)
    walks = 1000 + make_walks(3, 60, 1)
    for options in ({}, {"per_step": True}):
        exact = encoder.encode(walks, **options)
        rough = copy.deepcopy(encoder).bfloat16().encode(walks, **options)
        assert np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()
    seen = encoder.view(make_windows(encoder, gaps=True), view("plain"))
    assert encoder.bfloat16()(seen).pooled.isfinite().all()


def test_what_a_masked_array_masks_is_missing(make_series, make_walks):
    encoder, walk = make_series(), make_walks(1, 60, 1)[0]
    masked = np.ma.masked_where(np.arange(60)[:, None] == 50, walk)
    gap = np.where(np.arange(60)[:, None] == 50, np.nan, walk)
    np.testing.assert_array_equal(encoder.encode(masked), encoder.encode(gap))
    for source in (masked, [masked]):
        np.testing.assert_array_equal(read_series(source)[0].values, gap.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_give_the_same_outputs_bit_for_bit(make_series, make_windows, tmp_path, kind):
    channels = 1 if kind == "patchtst" else 3
    encoder = make_series(kind, channels=channels, static=2, norm="last", pooling="max")
    batch = make_windows(encoder, gaps=True)
    batch.inputs["static"] = torch.randn(4, 2)
    encoder.save_pretrained(tmp_path)
    again = SeriesEncoder.from_pretrained(tmp_path)
    assert not any(part.training for part in again.modules())
    assert again.settings == encoder.settings
    assert json.loads((tmp_path / "unlabel.json").read_text())["modality"] == "series"
    a, b = (e(e.view(batch, view("plain"))) for e in (encoder, again))
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.pooled, b.pooled)
    assert SeriesEncoder.from_pretrained(tmp_path, pooling="last").pooling == "last"


def test_a_plain_patchtst_folder_loads(make_windows, tmp_path):
    model = plain_patchtst()
    model.save_pretrained(tmp_path)
    encoder = SeriesEncoder.from_pretrained(tmp_path, norm="none").eval()
    batch = make_windows(encoder, steps=48)
    out = encoder(encoder.view(batch, view("plain"))).tokens
    own = model(batch.inputs["values"]).last_hidden_state[:, 0]
    torch.testing.assert_close(out, own, atol=1e-6, rtol=1e-6)


def test_a_plain_convolution_folder_asks_for_the_context(make_series, tmp_path):
    make_series("conv", channels=3).model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give context="):
        SeriesEncoder.from_pretrained(tmp_path)
    assert SeriesEncoder.from_pretrained(tmp_path, context=20).channels == 3
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        SeriesEncoder.from_pretrained(tmp_path.parent)


@pytest.mark.parametrize("kind", KINDS)
def test_one_knob_sets_dropout(make_series, make_windows, kind):
    def twice(encoder):
        seen = encoder.view(make_windows(encoder), view("plain"))
        return encoder.train()(seen).pooled, encoder(seen).pooled

    assert torch.equal(*twice(make_series(kind, dropout=0.0)))
    assert not torch.equal(*twice(make_series(kind, dropout=0.3)))


# -- encode -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_encode_equals_the_pooled_view_of_the_last_steps(
    make_series, make_windows, make_walks, kind
):
    encoder = make_series(kind)
    values = make_walks(5, 70, 1)
    samples = [{"values": v[-48:], "index": 0, "ordinal": 0} for v in values]
    expected = encoder(encoder.view(encoder.collator()(samples), view("plain"))).pooled
    found = encoder.train().encode(values, batch_size=2)
    assert encoder.training
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(values[3]), found[3], atol=1e-6)
    short = encoder.encode(values[:, -20:])
    assert short.shape == found.shape and np.isfinite(short).all()


def test_several_channels_are_an_axis_for_an_encoder_of_one(make_series, make_walks):
    encoder = make_series()
    values = make_walks(2, 60, 3)
    found = encoder.encode(values)
    assert found.shape == (2, 3, 16)
    np.testing.assert_allclose(found[:, 1], encoder.encode(values[:, :, 1:2]), atol=1e-6)
    assert encoder.encode(values[0], per_step=True, stride=7).shape == (60, 3, 16)
    with pytest.raises(ValueError, match="3 channels, but the encoder takes 2"):
        make_series("conv", channels=2).encode(values)
    with pytest.raises(ValueError, match=r"values\[:, None\]"):
        encoder.encode(values[0, :, 0])


def sliding(encoder, values: np.ndarray) -> np.ndarray:
    """Every step by the window that ends there, one at a time."""
    size = encoder.context
    return np.stack(
        [encoder.encode(values[max(0, t + 1 - size) : t + 1]) for t in range(len(values))]
    )


def test_one_pass_of_a_convolution_equals_sliding_windows(make_series, make_walks, monkeypatch):
    encoder = make_series("conv", channels=2, norm="none", pooling="last").double()
    assert encoder.model.config.receptive_field <= encoder.context
    values = make_walks(1, 130, 2)[0]
    values[20:24] = np.nan
    expected = sliding(encoder, values)
    np.testing.assert_allclose(encoder.encode(values, per_step=True), expected, atol=1e-6)
    monkeypatch.setattr("unlabel.modalities.series_encode._CHUNK", 33)
    np.testing.assert_allclose(encoder.encode(values, per_step=True), expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["standard", "last"])
def test_blocks_of_one_step_equal_sliding_windows_that_are_normalised(
    make_series, make_walks, norm
):
    encoder = make_series("conv", channels=2, norm=norm, pooling="last").double()
    values = make_walks(1, 90, 2)[0]
    found = encoder.encode(values, per_step=True, stride=1)
    np.testing.assert_allclose(found, sliding(encoder, values), atol=1e-6)


def test_sliding_patches_are_the_newest_window(make_series, make_walks):
    encoder = make_series().double()
    values = make_walks(1, 80, 1)[0]
    expected = sliding(encoder, values)
    found = encoder.encode(values, per_step=True, stride=1, batch_size=16)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    every = encoder.encode(values, per_step=True, stride=7)
    np.testing.assert_allclose(every, expected[np.arange(80) // 7 * 7], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["standard", "last", "none"])
@pytest.mark.parametrize("stride", [None, 1, 10])
def test_no_step_knows_a_later_one(make_series, make_walks, kind, norm, stride):
    encoder = make_series(kind, norm=norm)
    values = make_walks(1, 100, 1)[0]
    other = values.copy()
    other[61:] = other[61:] * 100 + 1000
    a, b = (encoder.encode(v, per_step=True, stride=stride) for v in (values, other))
    assert np.array_equal(a[:61], b[:61])
    assert not np.array_equal(a[61:], b[61:])
