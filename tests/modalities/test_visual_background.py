"""Backgrounds: what is told to be in front, and what is put behind it."""

from typing import Any

import pytest
import torch

from unlabel.core import Batch, view
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.visual_background import background, foreground

ROWS, TIMES, SIZE, SQUARE = 6, 7, 32, 8


def squares(times: int = TIMES) -> tuple[Batch, Clip, torch.Tensor]:
    """A white square on each sample's own colour, moving if there is time; and where it is."""
    index = torch.arange(ROWS)
    frames = (index[:, None, None, None, None] / 20 + 0.1).repeat(1, times, 3, SIZE, SIZE)
    frames[:, :, 1] *= 0.5
    frames = frames + 0.02 * torch.rand(frames.shape, generator=torch.Generator().manual_seed(0))
    is_front = torch.zeros(ROWS, times, 1, SIZE, SIZE, dtype=torch.bool)
    for t in range(times):
        start = 9 if times == 1 else 3 * t
        is_front[:, t, :, 8 : 8 + SQUARE, start : start + SQUARE] = True
    frames = torch.where(is_front, 1.0, frames)
    mask = torch.ones(ROWS, times, dtype=torch.bool)
    return Batch({"frames": frames}, mask, index, index, seed=2), Clip(frames, mask), is_front


def changed(batch, clip, **args):
    how: dict[str, Any] = {"ratio": 1.0} | args
    return background(
        clip, batch, view("background", **how), cell=Cell(1, 8, 8), dtype=torch.float32
    ).frames


@pytest.mark.parametrize("times", [1, TIMES])
def test_a_square_that_moves_or_differs_from_the_border_is_in_front(times):
    _, clip, is_front = squares(times)
    found, behind = foreground(clip.frames, clip.mask)
    both, either = (found & is_front).sum(), (found | is_front).sum()
    assert both / either > 0.75
    plate = clip.frames[:, :1, :, :1, :1]
    assert (behind - plate).abs().max() < 0.03


@pytest.mark.parametrize("times", [1, TIMES])
@pytest.mark.parametrize("way", ["remove", "random", "swap"])
def test_the_background_changes_and_what_is_in_front_does_not(times, way):
    batch, clip, _ = squares(times)
    front, _ = foreground(clip.frames, clip.mask)
    new = changed(batch, clip, way=way)
    same = (new == clip.frames).all(2, keepdim=True)
    assert same[front].all() and same[~front].float().mean() < 0.01
    assert new.min() >= 0 and new.max() <= 1


def test_removed_leaves_one_grey_for_all_frames():
    batch, clip, _ = squares()
    front, _ = foreground(clip.frames, clip.mask)
    new = changed(batch, clip, way="remove")
    for row in range(ROWS):
        assert new[row][(~front[row]).expand_as(new[row])].unique().numel() == 1


@pytest.mark.parametrize("times", [1, TIMES])
def test_swapped_is_the_background_of_another_sample_whatever_the_order_of_the_batch(times):
    batch, clip, _ = squares(times)
    new = changed(batch, clip)
    plates = clip.frames[:, 0, :, -1, -1]
    got = new[:, 0, :, -1, -1]
    other = torch.cdist(got, plates).argmin(1)
    assert sorted(other.tolist()) == list(range(ROWS)) and (other != torch.arange(ROWS)).all()
    # Another's square does not come along.
    front, _ = foreground(clip.frames, clip.mask)
    assert new.masked_fill(front, 0).max() < 0.5
    turned = Batch({}, batch.mask, batch.index.flip(0), batch.ordinal.flip(0), seed=2)
    again = changed(turned, Clip(clip.frames.flip(0), clip.mask))
    torch.testing.assert_close(again.flip(0), new)


def test_where_all_is_in_front_or_a_sample_is_alone_nothing_changes():
    batch, clip, _ = squares()
    assert torch.equal(changed(batch, clip, unlike=2.0), clip.frames)
    assert torch.equal(changed(batch, clip, ratio=0.0), clip.frames)
    still = Clip(clip.frames[:, :1].expand(-1, TIMES, -1, -1, -1), clip.mask)
    for way in ("remove", "random", "swap"):
        assert torch.equal(changed(batch, still, way=way), still.frames)
    # The next one of a sample that is alone is itself, with its own background behind it.
    one = Batch({}, batch.mask[:1], batch.index[:1], batch.ordinal[:1], seed=2)
    assert torch.equal(changed(one, Clip(clip.frames[:1], clip.mask[:1])), clip.frames[:1])


def test_padding_does_not_count():
    _, clip, _ = squares()
    longer = torch.cat([clip.frames, torch.zeros_like(clip.frames)], 1)
    mask = torch.cat([clip.mask, torch.zeros_like(clip.mask)], 1)
    found, behind = foreground(longer, mask)
    wanted, plate = foreground(clip.frames, clip.mask)
    assert torch.equal(found[:, :TIMES], wanted) and torch.equal(behind, plate)


def test_another_way_is_refused():
    batch, clip, _ = squares()
    with pytest.raises(ValueError, match="one of remove, random, swap, but 'blur' came"):
        changed(batch, clip, way="blur")
