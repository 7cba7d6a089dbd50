from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from unlabel.modalities.wave_conv import WaveConvConfig, WaveConvModel


def make(**config) -> WaveConvModel:
    torch.manual_seed(0)
    return WaveConvModel(WaveConvConfig(**{"hidden_size": 8, **config})).double().eval()


def reach(model: WaveConvModel, token: int, layer: int, tokens: int = 8) -> tuple[int, int]:
    """First and last sample that a token depends on."""
    hop = model.config.hop
    x = torch.randn(1, tokens * hop, dtype=torch.float64, requires_grad=True)
    states = model(x, output_hidden_states=True).hidden_states
    (slope,) = torch.autograd.grad(states[layer][0, token].sum(), x)
    places = slope[0].nonzero()[:, 0]
    return int(places.min()), int(places.max())


def test_defaults_are_those_of_cpc():
    config = WaveConvConfig()
    assert (config.hop, config.receptive_field, config.hidden_size) == (160, 465, 256)


def test_a_causal_token_depends_on_its_samples_and_as_far_back_as_the_receptive_field():
    assert reach(make(), token=4, layer=0) == (5 * 160 - 465, 5 * 160 - 1)


def test_the_field_of_other_tokens_lies_around_their_middle():
    first, last = reach(make(causal=False), token=4, layer=0)
    assert last - first + 1 == 465 and abs((first + last) / 2 - (4.5 * 160 - 0.5)) <= 1


def test_the_gru_knows_all_that_came_before_and_nothing_later():
    assert reach(make(), token=4, layer=1) == (0, 5 * 160 - 1)


def test_without_a_gru_there_is_one_layer():
    out = make(context_layers=0)(torch.randn(2, 320).double(), output_hidden_states=True)
    assert len(out.hidden_states) == 1
    assert out.hidden_states[0] is out.last_hidden_state


@pytest.mark.parametrize("causal", [True, False])
def test_a_padded_sound_gives_what_it_gives_alone(causal):
    model, x = make(causal=causal), torch.randn(2, 960).double()
    alone = model(x[:, :480]).last_hidden_state
    padded = torch.cat([x[:, :480], torch.zeros_like(x[:, 480:])], 1)
    mask = (torch.arange(6) < 3).expand(2, -1)
    found = model(padded, attention_mask=mask).last_hidden_state[:, :3]
    torch.testing.assert_close(found, alone, atol=1e-12, rtol=0)


def test_samples_over_a_whole_token_are_left_out():
    model, x = make(), torch.randn(1, 500).double()
    torch.testing.assert_close(model(x).last_hidden_state, model(x[:, :480]).last_hidden_state)


def test_one_layer_is_convolution_norm_and_relu():
    layer: Any = make(causal=False).layers[0]
    x = torch.randn(1, 1, 40).double()
    y = torch.nn.functional.conv1d(torch.nn.functional.pad(x, (3, 2)), layer.conv.weight, stride=5)
    expected = (
        (y - y.mean(1, keepdim=True)) / (y.var(1, False, keepdim=True) + 1e-5).sqrt()
    ).relu()
    torch.testing.assert_close(layer(x), expected)


def test_cut_tokens_and_features_are_zero_after_the_convolutions():
    model, x = make(), torch.randn(1, 480).double()
    keep = torch.tensor([[True, False, True]])
    columns = torch.arange(8)[None] != 5
    states = model(x, keep, columns, output_hidden_states=True).hidden_states
    assert not states[0][0, 1].any() and not states[0][0, :, 5].any() and states[0][0, 2].any()


def test_a_saved_model_loads_by_automodel_with_equal_outputs(tmp_path):
    model, x = make(conv_stride=[4, 2], conv_kernel=[8, 4]).float(), torch.randn(2, 64)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).hop == 8
    torch.testing.assert_close(again(x).last_hidden_state, model(x).last_hidden_state)


def test_a_stride_without_a_kernel_as_long_is_refused():
    with pytest.raises(ValueError, match="needs a kernel at least as long"):
        WaveConvConfig(conv_stride=(5, 4), conv_kernel=(10, 3))
