"""The alarm of collapse: known answers for encoders that have collapsed, and that look alike."""

import pytest
import torch
from torch import Tensor

from unlabel.training.monitors import alarms, effective_rank, embedding_std, look

ROWS, WIDTH = 256, 64


def _noise(scale: float = 1.0, rows: int = ROWS, width: int = WIDTH) -> Tensor:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def _said(z: Tensor, untrained: Tensor | None = None) -> list[str]:
    before = None if untrained is None else look([untrained], ROWS)
    return alarms(look([z], ROWS), {}, z.shape[1], before)


def test_effective_rank_counts_equal_axes_and_no_common_part():
    axes = torch.cat([torch.eye(4, 8), -torch.eye(4, 8)])
    assert effective_rank(axes) == pytest.approx(4)
    assert effective_rank(axes + 100) == pytest.approx(4, rel=1e-4)
    assert effective_rank(torch.ones(8, 8)) == pytest.approx(1)


def test_spread_is_small_for_a_large_common_part():
    # Unit vectors that differ by 1 in 25, as a network with a last ReLU gives them untrained.
    assert embedding_std(_noise() + 25) == pytest.approx(1 / 25, rel=0.05)


@pytest.mark.parametrize("known", [False, True])
def test_a_large_common_part_is_no_collapse(known):
    z = _noise() + 25
    assert _said(z, z if known else None) == []
    assert _said(z, 2 * z.flip(0) + 25 if known else None) == []


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_equal_up_to_rounding_are_a_collapse_and_their_full_rank_no_excuse(known, dtype):
    one = _noise(rows=1).expand(ROWS, WIDTH)
    z = (one * (1 + _noise(1e-5))).to(dtype).float()
    z = z * (1 + _noise(torch.finfo(dtype).eps / 4))
    assert effective_rank(z) > WIDTH / 2
    (sentence,) = _said(z, _noise() if known else None)
    assert sentence.startswith("The encoder has collapsed")


def test_what_dropout_leaves_of_a_spread_is_a_collapse_where_the_start_is_known():
    z = _noise() + 25
    (sentence,) = _said(z, _noise() + 2)
    assert sentence.startswith("The encoder has collapsed") and "before training" in sentence


def test_dead_dimensions_are_a_collapse_unless_they_were_dead_before():
    alive, dead = _noise(), _noise()
    dead[:, 2:] = 0
    (sentence,) = _said(dead, alive)
    assert "dimensional collapse" in sentence and _said(dead) == [sentence]
    assert _said(dead, dead) == []
    assert _said(dead + 4, alive + 4)


def test_agreement_with_a_teacher_is_no_leak_and_a_quick_one_is_named():
    figures, solved = look([_noise()], ROWS), {"forth": (1e-4, 2.0)}
    (leak,) = alarms(figures, solved, WIDTH)
    assert "targets leak" in leak
    assert alarms(figures | {"teacher": 0.99}, solved, WIDTH) == []
    shrunk = figures | {"teacher": 0.5, "std": 0.2}
    (quick,) = alarms(shrunk, solved, WIDTH, {"std": 1.0})
    assert "the teacher follows within about 2 steps" in quick
