"""Masks of the middle, and of one run: an exact share, where it should lie."""

import pytest
import torch

from unlabel.modalities.series_masks import one_run
from unlabel.modalities.visual_masks import from_centre


def test_a_run_lies_among_what_exists_wherever_the_padding_is():
    can = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    middle = one_run(0.5, can, torch.tensor([2, 2]))
    assert middle.nonzero().tolist() == [[0, 4], [0, 5], [1, 1], [1, 2]]
    first = one_run(torch.zeros(2, 1), can, torch.tensor([3, 1]))
    assert first.nonzero().tolist() == [[0, 2], [0, 3], [0, 4], [1, 0]]
    last = one_run(torch.full((2, 1), 0.9999), can, torch.tensor([3, 1]))
    assert last.nonzero().tolist() == [[0, 5], [0, 6], [0, 7], [1, 3]]


def test_runs_start_everywhere_alike():
    start = torch.rand(6000, 1, generator=torch.Generator().manual_seed(0))
    can = torch.ones(6000, 5, dtype=torch.bool)
    found = one_run(start, can, torch.full((6000,), 2)).int().argmax(1).bincount(minlength=4)
    assert (found.float() / 6000 - 0.25).abs().max() < 0.03


@pytest.mark.parametrize("side", [4, 5, 8])
def test_what_lies_nearest_to_the_centre_is_a_square(side):
    away = from_centre(side, side)
    half = side // 2 if side % 2 == 0 else 3
    near = away.flatten().argsort(stable=True)[: half * half]
    rows, columns = near // side, near % side
    first = (side - half) // 2
    for places in (rows, columns):
        assert places.min() == first and places.max() == first + half - 1
