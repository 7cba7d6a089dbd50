"""Three moments: which are in order, how they are drawn, and which cannot be told apart."""

import pytest
import torch

from unlabel.core import Batch, view
from unlabel.modalities.triples import draw_triple, is_told, options

ROWS = 4000


def batch_of(rows: int = ROWS, seed: int = 1) -> Batch:
    index = torch.arange(rows)
    return Batch({}, torch.ones(rows, 1, dtype=torch.bool), index, index, seed)


def drawn(weight, exists=None, **args):
    """The three views' draws: five places, the three shown, and whether they are in order."""
    exists = torch.ones_like(weight, dtype=torch.bool) if exists is None else exists
    parts = [
        draw_triple(
            batch_of(len(weight)),
            view("triple", place=place, **args),
            weight,
            exists,
            place=place,
            negatives=args.get("negatives", 0.75),
        )
        for place in range(3)
    ]
    assert all(torch.equal(p.five, parts[0].five) for p in parts)
    assert all(torch.equal(p.target, parts[0].target) for p in parts)
    return parts[0].five, torch.stack([p.chosen for p in parts], 1), parts[0].target[:, 0]


def test_in_order_is_b_c_d_and_out_of_order_has_a_or_e_between_the_same_ends():
    five, shown, target = drawn(torch.ones(ROWS, 9))
    assert (five.diff(dim=1) > 0).all()
    a, b, c, d, e = five.unbind(1)
    ends = shown[:, [0, 2]].sort(dim=1).values
    assert torch.equal(ends, torch.stack([b, d], 1))
    middle = shown[:, 1]
    assert torch.equal(middle[target == 1], c[target == 1])
    is_out = target == 0
    assert ((middle == a) | (middle == e))[is_out].all()
    assert 0.45 < (middle == a)[is_out].float().mean() < 0.55
    # In order is what lies between its neighbours, in either direction.
    between = (shown[:, 0] - shown[:, 1]).sign() == (shown[:, 1] - shown[:, 2]).sign()
    assert torch.equal(between, target == 1)


def test_a_quarter_is_in_order_and_direction_says_nothing():
    _, shown, target = drawn(torch.ones(ROWS, 9))
    assert target.float().mean() == pytest.approx(0.25, abs=0.02)
    forward = shown[:, 0] < shown[:, 2]
    for kind in (0, 1):
        assert forward[target == kind].float().mean() == pytest.approx(0.5, abs=0.05)
    _, _, target = drawn(torch.ones(ROWS, 9), negatives=0.5)
    assert target.float().mean() == pytest.approx(0.5, abs=0.03)


def test_moments_with_motion_are_drawn_more_often_and_missing_ones_never():
    weight = torch.ones(ROWS, 12)
    weight[:, 6:] = 9.0
    exists = torch.ones(ROWS, 12, dtype=torch.bool)
    exists[:, 10:] = False
    five, _, _ = drawn(weight, exists)
    counts = torch.bincount(five.flatten(), minlength=12) / ROWS
    assert counts[:6].max() < 0.4 and counts[6:10].min() > 0.85
    assert not counts[10:].any()
    # Without any motion all are alike.
    counts = torch.bincount(drawn(torch.zeros(ROWS, 10))[0].flatten(), minlength=10) / ROWS
    assert (counts - 0.5).abs().max() < 0.05


def test_tuples_whose_pictures_look_alike_are_dropped():
    pictures = torch.zeros(3, 5, 4)
    pictures[:, 2] = 0.1  # c is unlike a and e
    pictures[1, 0] = 0.1  # but a looks like c
    pictures[2, 4] = 0.1 + 1e-3
    triple = draw_triple(
        batch_of(3),
        view("triple"),
        torch.ones(3, 5),
        torch.ones(3, 5, dtype=torch.bool),
        place=0,
        negatives=0.75,
    )
    assert is_told(pictures, triple, 1e-4)[:, 0].tolist() == [True, False, False]
    assert not is_told(pictures, triple, 0.02).any()


def test_a_place_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="place of view 'triple' is 0, 1 or 2, but 3 came"):
        options(view("triple", place=3))
    with pytest.raises(ValueError, match="has no places; its arguments: place, negatives, unlike"):
        options(view("triple", places=1))
