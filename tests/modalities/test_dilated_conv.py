import pytest
import torch
from transformers import AutoConfig, AutoModel

from unlabel.modalities.dilated_conv import DilatedConvConfig, DilatedConvModel


def tiny(**sizes) -> DilatedConvModel:
    torch.manual_seed(0)
    keys = {"hidden_size": 8, "output_size": 5, "num_hidden_layers": 3, "num_input_channels": 2}
    return DilatedConvModel(DilatedConvConfig(**{**keys, **sizes})).double().eval()


def test_sizes_default_to_those_of_the_paper():
    config = DilatedConvConfig()
    sizes = (config.hidden_size, config.output_size, config.num_hidden_layers, config.dropout)
    assert sizes == (64, 320, 10, 0.1)


def test_a_step_sees_itself_and_earlier_steps_as_far_as_the_receptive_field():
    model = tiny()
    field = model.config.receptive_field
    assert field == 1 + 2 * 2 * (1 + 2 + 4)
    x = torch.randn(1, 60, 2, dtype=torch.float64, requires_grad=True)
    out = model(x).last_hidden_state[0, 40]
    (grad,) = torch.autograd.grad(out.sum(), x)
    reached = (grad[0].abs().sum(1) > 0).nonzero()[:, 0].tolist()
    assert reached == list(range(40 - field + 1, 41))


def test_a_changed_step_leaves_every_earlier_output_as_it_was():
    model = tiny()
    x = torch.randn(3, 50, 2, dtype=torch.float64)
    y = x.clone()
    y[:, 20:] += 5
    before, after = model(x).last_hidden_state, model(y).last_hidden_state
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20], after[:, 20])


def test_padding_on_the_left_changes_nothing_whatever_stands_there():
    model = tiny()
    x = torch.randn(3, 30, 2, dtype=torch.float64)
    padded = torch.cat([torch.full((3, 9, 2), 7.0, dtype=torch.float64), x], 1)
    observed = torch.ones_like(padded, dtype=torch.bool)
    observed[:, :5] = False
    mask = torch.arange(39).expand(3, -1) >= 9
    alone = model(x, past_observed_mask=observed[:, 9:]).last_hidden_state
    out = model(padded, past_observed_mask=observed, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(out[:, 9:], alone, atol=1e-12, rtol=0)


def test_a_missing_value_differs_from_an_observed_zero():
    model = tiny()
    x = torch.zeros(1, 10, 2, dtype=torch.float64)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[0, 4] = False
    apart = model(x, past_observed_mask=observed).last_hidden_state - model(x).last_hidden_state
    assert (apart[0, :4] == 0).all() and (apart[0, 4] != 0).any()


def test_cut_steps_and_columns_are_zero_after_the_input_projection():
    model = tiny()
    keep, columns = torch.ones(2, 10, dtype=torch.bool), torch.ones(2, 8, dtype=torch.bool)
    keep[0, 3], columns[1, 6] = False, False
    x = torch.randn(2, 10, 2, dtype=torch.float64)
    embedded = model(x, None, keep, columns, output_hidden_states=True).hidden_states[0]
    assert (embedded[0, 3] == 0).all() and (embedded[1, :, 6] == 0).all()
    assert (embedded != 0).sum() == 2 * 10 * 8 - 8 - 10


def test_hidden_states_are_the_projection_and_every_block():
    out = tiny()(torch.randn(2, 7, 2, dtype=torch.float64), output_hidden_states=True)
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, 7, 8)] * 4
    assert out.last_hidden_state.shape == (2, 7, 5)


def test_dropout_makes_two_passes_differ_in_training_only():
    model = tiny(dropout=0.3)
    x = torch.randn(2, 7, 2, dtype=torch.float64)
    assert torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)
    model.train()
    assert not torch.equal(model(x).last_hidden_state, model(x).last_hidden_state)


def test_weights_start_by_fan_in_and_loading_spares_them(tmp_path):
    model = DilatedConvModel(DilatedConvConfig(hidden_size=64, num_hidden_layers=1))
    bound = (64 * 3) ** -0.5
    weight = model.blocks[0].first.weight
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    model.save_pretrained(tmp_path)
    torch.manual_seed(9)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, DilatedConvModel)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_automodel_knows_the_type(tmp_path):
    config = AutoConfig.for_model("dilated_conv", hidden_size=8, num_hidden_layers=2)
    assert isinstance(AutoModel.from_config(config), DilatedConvModel)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()


def test_gradients_match_finite_differences():
    model = tiny(num_hidden_layers=1, hidden_size=3, output_size=2)
    x = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: model(v).last_hidden_state, x)
