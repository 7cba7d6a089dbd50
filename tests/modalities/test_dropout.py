from typing import Any

import pytest
import torch
from torch import nn
from transformers import PatchTSTConfig, PatchTSTModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from unlabel.modalities.dropout import Dropout, attend, replace_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_p_and_the_mean_stays_one(p):
    torch.manual_seed(0)
    n = 400_003  # no multiple of four
    y = Dropout(p)(torch.ones(n))
    share = (y == 0).double().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5 + 2**-16
    assert abs(y.double().mean().item() - 1) < 5 * (p / (1 - p) / n) ** 0.5
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=2e-4)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).double()
    for lag in (1, 2, 3, 4, 8):
        apart = torch.corrcoef(torch.stack([dropped[lag:], dropped[:-lag]]))[0, 1]
        assert abs(apart) < 5 / 400_000**0.5


def test_the_same_seed_drops_the_same_and_the_gradient_is_the_mask():
    layer = Dropout(0.3)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    made = []
    for _ in range(2):
        torch.manual_seed(4)
        made.append(layer(x))
    assert torch.equal(*made)
    (gradient,) = torch.autograd.grad(made[0].sum(), x)
    torch.testing.assert_close(gradient * x, made[0])
    assert not torch.equal(made[0], layer(x))


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_ends_are_torchs(p, expected):
    assert torch.equal(Dropout(p)(torch.ones(50)), torch.full((50,), expected))


def test_evaluation_and_empty_inputs_pass_through():
    x = torch.randn(9)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def model_of(**config: Any) -> PatchTSTModel:
    sizes = {"d_model": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 16}
    made = PatchTSTConfig(context_length=48, patch_length=6, patch_stride=6, **sizes, **config)
    return PatchTSTModel(made)


def test_every_layer_is_replaced_and_the_state_is_the_same():
    model = model_of(ff_dropout=0.2)
    keys = list(model.state_dict())
    replace_dropout(model)
    found = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert found and {type(m) for m in found} == {Dropout}
    assert 0.2 in {m.p for m in found}
    assert list(model.state_dict()) == keys


def test_the_attention_is_no_part_of_what_is_saved_and_another_choice_stays(tmp_path):
    model = model_of()
    replace_dropout(model)
    assert model.config._attn_implementation == "unlabel_sdpa"
    model.save_pretrained(tmp_path)
    assert "unlabel" not in (tmp_path / "config.json").read_text()
    assert PatchTSTModel.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    chosen = model_of(attn_implementation="eager")
    replace_dropout(chosen)
    assert chosen.config._attn_implementation == "eager"


@pytest.mark.parametrize("masked", [False, True])
def test_attention_drops_weights_and_is_sdpa_otherwise(masked):
    torch.manual_seed(0)
    q, k = torch.randn(2, 50, 4, 16, 8, dtype=torch.float64, requires_grad=True).unbind(0)
    # The values are such that what comes out is the weights.
    v = torch.eye(16, dtype=torch.float64).expand(50, 4, 16, 16)
    mask = torch.zeros(50, 1, 1, 16, dtype=torch.float64)
    mask[:, :, :, :5] = torch.finfo(torch.float64).min
    module: Any = nn.Module()
    module.is_causal = False
    about: Any = (module, q, k, v, mask if masked else None)
    plain, _ = attend(*about)
    expected, _ = sdpa_attention_forward(*about)
    torch.testing.assert_close(plain, expected, atol=0, rtol=0)
    torch.testing.assert_close(attend(*about, scaling=0.1)[0], expected_of(*about[1:], 0.1))
    dropped, _ = attend(*about, dropout=0.25)
    ratio = (dropped / plain)[..., 5 if masked else 0 :].flatten()
    gone = ratio < 0.5
    kept = torch.full_like(ratio[~gone], 1 / 0.75)
    torch.testing.assert_close(ratio[~gone], kept, rtol=1e-4, atol=0)
    assert abs(gone.double().mean().item() - 0.25) < 5 * (0.25 * 0.75 / len(gone)) ** 0.5
    module.is_causal = True
    if not masked:  # as sdpa has it
        assert not attend(*about, dropout=0.25)[0].transpose(1, 2).triu(1).any()
    slopes = torch.autograd.grad(dropped.square().sum(), [q, k])
    assert all(s.isfinite().all() and s.abs().sum() > 0 for s in slopes)


def expected_of(q, k, v, mask, scaling):
    scores = q @ k.transpose(2, 3) * scaling
    return ((scores if mask is None else scores + mask).softmax(3) @ v).transpose(1, 2)
