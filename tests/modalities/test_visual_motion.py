"""Three moments of a clip, and the descriptor of its optical flow."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from unlabel.core import Batch, view
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.visual_motion import (
    flow,
    flow_descriptor,
    motion,
    motion_of,
    thumbnails,
    triple,
)

ROWS, TIMES, SIZE = 6, 12, 32


def ramp(rows: int = ROWS, times: int = TIMES, still: bool = False) -> tuple[Batch, Clip]:
    """Clips whose frame t has the grey value 20 t, or t = 3 throughout."""
    t = torch.full((times,), 3) if still else torch.arange(times)
    frames = (20 * t)[None, :, None, None, None].expand(rows, -1, 3, SIZE, SIZE).to(torch.uint8)
    index = torch.arange(rows)
    mask = torch.ones(rows, times, dtype=torch.bool)
    return Batch({"frames": frames}, mask, index, index, seed=2), Clip(frames, mask)


def shown(batch: Batch, clip: Clip, frames: int = 1, **args) -> list[Any]:
    cell = Cell(frames, 8, 8)
    return [triple(clip, batch, view("triple", place=p, **args), cell=cell) for p in range(3)]


def test_the_three_views_show_three_moments_and_agree_on_the_target():
    batch, clip = ramp(rows=64)
    views = shown(batch, clip)
    times = torch.cat([v.frames[:, :, 0, 0, 0].long() // 20 for v in views], 1)
    assert torch.equal(times, torch.cat([v.picked for v in views], 1))
    assert all(torch.equal(v.target, views[0].target) for v in views)
    assert all(v.frames.shape == (64, 1, 3, SIZE, SIZE) and v.mask.all() for v in views)
    steps = times.diff(dim=1).sign()
    assert torch.equal((steps[:, 0] == steps[:, 1]).long(), views[0].target[:, 0])
    assert views[0].is_target.all() and 0 < views[0].target.sum() < 64


def test_a_moment_is_as_long_as_a_token_needs_and_two_never_overlap():
    batch, clip = ramp(rows=64)
    views = shown(batch, clip, frames=2)
    picked = torch.stack([v.picked for v in views], 1)
    assert picked.shape == (64, 3, 2)
    assert (picked[:, :, 0] % 2 == 0).all() and (picked.diff(dim=2) == 1).all()
    assert (picked[:, :, 0].sort(dim=1).values.diff(dim=1) >= 2).all()
    with pytest.raises(ValueError, match="five moments of 3 frames each, but the clips have 12"):
        shown(batch, clip, frames=3)


def test_a_static_clip_and_one_of_four_frames_have_no_target():
    batch, clip = ramp(still=True)
    assert not shown(batch, clip)[0].is_target.any()
    assert shown(batch, clip, unlike=-1.0)[0].is_target.all()
    batch, clip = ramp()
    clip.mask[0, 4:] = False
    clip.mask[1, 5:] = False
    found = shown(batch, clip)
    assert found[0].is_target[:, 0].tolist() == [False] + [True] * (ROWS - 1)
    assert max(int(v.picked[1].max()) for v in found) < 5


@pytest.mark.parametrize("kind", ["videomae", "r2plus1d"])
def test_a_sample_gets_the_same_moments_in_another_batch(make_visual, make_clips, kind):
    encoder, lengths = make_visual(kind), [20, 26, 22, 26]
    for place in range(3):
        spec = view("triple", place=place)
        together = encoder.view(make_clips(encoder, lengths=lengths), spec)
        for row in range(4):
            batch = make_clips(encoder, lengths=lengths[row : row + 1], first=row)
            alone = encoder.view(batch, spec)
            for key, x in alone.inputs.items():
                torch.testing.assert_close(x[0], together.inputs[key][row])
            assert torch.equal(alone.target[0], together.target[row])
            assert torch.equal(alone.is_target[0], together.is_target[row])


def test_motion_leaves_the_clip_as_it_is(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, 3)
    flow = torch.randn(3, 7, 2, 4, 4).half()
    batch.partners["flow"] = {"flow": flow, "mask": torch.ones(3, 7, dtype=torch.bool)}
    plain, made = (encoder.view(batch, view(name)) for name in ("plain", "motion"))
    torch.testing.assert_close(made.inputs, plain.inputs)
    assert made.target.shape == (3, 1, 2 * 2 * 8) and made.target.dtype == torch.float32


def test_motion_is_the_difference_of_neighbours_or_the_flow_of_the_data():
    batch, clip = ramp()
    clip.frames = clip.frames.clone()
    clip.frames[:, :6] = 0
    clip.frames[:, 6:] = 100  # all motion is between frames 5 and 6
    small = thumbnails(clip.frames)
    assert small.shape == (ROWS, TIMES, 3 * 16 * 16)
    found = motion_of(small, clip.mask, batch, view("triple"))
    assert (found > 0)[0].nonzero()[:, 0].tolist() == [5, 6]
    shorter = clip.mask.clone()
    shorter[:, 6:] = False
    assert not motion_of(small, shorter, batch, view("triple")).any()
    flow = torch.zeros(ROWS, TIMES - 1, 2, 4, 4, dtype=torch.float16)
    flow[:, 2, 0], flow[:, 2, 1] = 3.0, 4.0
    mask = torch.ones(ROWS, TIMES - 1, dtype=torch.bool)
    batch.partners["flow"] = {"flow": flow, "mask": mask}
    found = motion_of(small, clip.mask, batch, view("triple"))
    assert found.shape == (ROWS, TIMES) and found[0].tolist() == [0.0, 0.0, 5.0] + [0.0] * 9


def test_the_descriptor_says_where_and_whereto():
    flow = torch.zeros(1, 3, 2, 4, 4)
    flow[0, :, 0, :2, :2] = 4.0  # to the right, in the first area
    flow[0, :, 1, 2:, 2:] = 9.0  # down, in the last
    mask = torch.ones(1, 3, dtype=torch.bool)
    found = flow_descriptor(flow, mask, directions=4, areas=2).view(4, 4)
    wanted = torch.zeros(4, 4)
    wanted[0, 0], wanted[3, 1] = 2.0, 3.0
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
    # Between two directions, each has its share; padding does not count.
    turn = math.pi / 4
    flow[0, :, 0], flow[0, :, 1] = math.cos(turn), math.sin(turn)
    mask[0, 1:] = False
    flow[0, 1:] = 99.0
    found = flow_descriptor(flow, mask, directions=4, areas=1)[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 0.0, 0.0]).sqrt())


def test_turning_the_flow_moves_the_descriptor_along_and_no_flow_is_0():
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(5, 4, 2, 6, 6, generator=generator)
    mask = torch.ones(5, 4, dtype=torch.bool)
    found = flow_descriptor(flow, mask, directions=8, areas=1)
    x, y = flow.unbind(2)
    turned = flow_descriptor(torch.stack([-y, x], 2), mask, directions=8, areas=1)
    torch.testing.assert_close(turned, found.roll(2, dims=1), atol=1e-4, rtol=1e-4)
    assert not flow_descriptor(flow * 0, mask, directions=8, areas=2).any()


def test_data_without_flow_is_refused_by_name():
    batch, clip = ramp()
    with pytest.raises(ValueError, match="its partner 'flow', but the data's partners are: none"):
        motion(clip, batch, view("motion"))


def test_flow_is_shown_as_colours_and_must_come_first():
    batch, clip = ramp(rows=2)
    moved = torch.zeros(2, TIMES - 1, 2, 4, 4, dtype=torch.float16)
    moved[0, :, 0], moved[0, :, 1] = 4.0, -8.0
    batch.partners["flow"] = {"flow": moved, "mask": torch.ones(2, TIMES - 1, dtype=torch.bool)}
    made = flow(clip, batch, view("flow"), dtype=torch.float32)
    assert made.frames.shape == (2, TIMES - 1, 3, 4, 4) and made.mask.all()
    assert made.frames[0, 0, :, 0, 0].tolist() == [0.75, 0.0, 1.0]
    assert made.frames[1, 0, :, 0, 0].tolist() == [0.5, 0.5, 0.0]
    with pytest.raises(ValueError, match="View 'flow' shows the flow of all frames as stored"):
        flow(replace(clip, is_sized=True), batch, view("flow"), dtype=torch.float32)
    batch.partners.clear()
    with pytest.raises(ValueError, match="View 'flow' needs the optical flow of each sample"):
        flow(clip, batch, view("flow"), dtype=torch.float32)
