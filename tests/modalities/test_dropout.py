import pytest
import torch
from torch import nn

from unlabel.modalities.dropout import Dropout, replace_dropout


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


def test_every_layer_is_replaced_and_the_state_is_the_same():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.GELU(), nn.Dropout(0.2)))
    keys = list(model.state_dict())
    replace_dropout(model)
    assert type(model[1][1]) is Dropout and model[1][1].p == 0.2
    assert list(model.state_dict()) == keys
