"""Depth from clips alone: the warp, the distances, and depth learned from two planes."""

import base64
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from tiny_video import FRAMES, make_video, tiny_video

from unlabel.data_pipes.synthetic_planes import draw_planes
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import Monodepth
from unlabel.objectives.reproject import (
    Motion,
    depth_of,
    photometric,
    pinhole,
    smoothness,
    ssim,
    warp,
)
from unlabel.training.pretraining import Pretraining


def pictures(seed=0, rows=2, size=8):
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(seed)).double()


def planes(count=8, size=32, **how):
    made = draw_planes(count, size=size, **how)
    frames = rearrange(torch.from_numpy(made.frames), "b t y x c -> b t c y x").double() / 255
    return frames, torch.from_numpy(made.depth), torch.from_numpy(made.camera)


def shift(a, b):
    """The motion of a camera that only moves, from a to b."""
    return Motion(torch.eye(3).double().expand(len(a), 3, 3), a - b)


def test_no_motion_gives_the_picture_and_the_same_picture_no_distance():
    x = pictures()
    depth = 0.5 + pictures(1)[:, :1]
    none = Motion.of(torch.zeros(2, 6).double())
    seen = warp(x, depth, none, (0.7, 0.9, 0.45, 0.6))
    torch.testing.assert_close(seen, x, rtol=0, atol=1e-13)
    assert photometric(seen, x).abs().max() < 1e-9
    assert photometric(x, x).eq(0).all()


def test_the_warp_is_the_pinhole_formula_pixel_by_pixel():
    x, depth = pictures(2), 1 + pictures(3)[:, :1]
    fx, fy, cx, cy = camera = (0.8, 1.1, 0.45, 0.55)
    motion = Motion.of(torch.tensor([[0.02, -0.1, 0.05, 0.1, -0.05, 0.2]] * 2).double())
    seen = warp(x, depth, motion, camera)
    for row, column in [(3, 4), (1, 6), (5, 2)]:
        z = depth[0, 0, row, column]
        ray = [((column + 0.5) / 8 - cx) / fx, ((row + 0.5) / 8 - cy) / fy, 1.0]
        p = motion.turn[0] @ (z * z.new_tensor(ray)) + motion.shift[0]
        u, v = 8 * (fx * p[0] / p[2] + cx) - 0.5, 8 * (fy * p[1] / p[2] + cy) - 0.5
        expected = 0
        for i in range(8):
            for j in range(8):
                weight = (1 - (u - j).abs()).clamp(min=0) * (1 - (v - i).abs()).clamp(min=0)
                expected = expected + weight * x[0, :, i, j]
        torch.testing.assert_close(seen[0, :, row, column], expected, rtol=1e-12, atol=1e-13)


def test_a_motion_turns_by_its_angle_and_back_undoes_it():
    motion = Motion.of(torch.tensor([[0.0, 0.0, math.pi / 2, 1.0, 2.0, 3.0]]).double())
    right, down = torch.eye(3).double()[:2]
    torch.testing.assert_close(motion.turn[0] @ right, down)
    back = motion.back()
    torch.testing.assert_close(back.turn @ motion.turn, torch.eye(3).double()[None])
    there = motion.turn[0] @ down + motion.shift[0]
    torch.testing.assert_close(back.turn[0] @ there + back.shift[0], down)


def test_distances_are_their_formulas():
    x, y = pictures(4), pictures(5)
    window = lambda a: a[0, 1, 2:5, 3:6]  # noqa: E731
    a, b = window(x), window(y)
    cov = ((a - a.mean()) * (b - b.mean())).mean()
    top = (2 * a.mean() * b.mean() + 1e-4) * (2 * cov + 9e-4)
    var = a.var(correction=0) + b.var(correction=0)
    expected = top / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (var + 9e-4))
    torch.testing.assert_close(ssim(x, y)[0, 1, 3, 4], expected, rtol=1e-12, atol=1e-13)
    by_hand = 0.85 * ((1 - ssim(x, y)) / 2).clamp(0, 1) + 0.15 * (x - y).abs()
    torch.testing.assert_close(photometric(x, y), by_hand.mean(1))
    d = pictures(6)[:, :1]
    scaled, found = d / d.mean((2, 3), keepdim=True), 0.0
    for i in range(8):
        for j in range(7):
            edge = (x[0, :, i, j + 1] - x[0, :, i, j]).abs().mean()
            other = (x[0, :, j + 1, i] - x[0, :, j, i]).abs().mean()
            found += (scaled[0, 0, i, j + 1] - scaled[0, 0, i, j]).abs() * torch.exp(-edge) / 56
            found += (scaled[0, 0, j + 1, i] - scaled[0, 0, j, i]).abs() * torch.exp(-other) / 56
    torch.testing.assert_close(smoothness(d, x)[0], found, rtol=1e-6, atol=1e-9)


def test_constant_disparity_is_smooth_and_its_scale_does_not_matter():
    x, d = pictures(), pictures(1)[:, :1]
    assert smoothness(torch.full_like(d, 0.3), x).eq(0).all()
    torch.testing.assert_close(smoothness(d, x), smoothness(3 * d, x), rtol=1e-6, atol=0)


def test_depth_goes_from_far_to_near():
    ends = depth_of(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), 0.1, 100)
    torch.testing.assert_close(ends.flatten(), torch.tensor([100.0, 0.1]))
    fx, fy, *_ = pinhole(90, (10, 20))
    assert (fx, fy) == pytest.approx((0.5, 1.0))


def test_true_depth_and_motion_show_a_frame_from_its_neighbour():
    frames, depth, camera = planes()
    seen = warp(
        frames[:, 0], depth[:, 1:2], shift(camera[:, 1], camera[:, 0]), pinhole(60, (32, 32))
    )
    right = photometric(seen, frames[:, 1]).mean()
    # What is left is hidden behind the board, or lies past the edge.
    assert right < 0.3 * photometric(frames[:, 0], frames[:, 1]).mean()
    wrong = warp(
        frames[:, 0], depth[:, 1:2], shift(camera[:, 0], camera[:, 1]), pinhole(60, (32, 32))
    )
    assert photometric(wrong, frames[:, 1]).mean() > 3 * right


def made(**how) -> Any:
    return Pretraining(tiny_video("frames"), Monodepth(scales=2, hidden=16, **how)).double()


def test_a_clip_that_stands_still_gives_0_and_no_motion_the_chance_level():
    module = made()
    batch = make_video(module.encoder)
    torch.nn.init.zeros_(module.objective.motion.leave.weight)
    torch.nn.init.zeros_(module.objective.motion.leave.bias)
    term = module(batch).terms["photometric"]
    torch.testing.assert_close(term.loss.detach(), term.chance, rtol=1e-9, atol=1e-12)
    batch.inputs["frames"] = batch.inputs["frames"][:, :1].expand(-1, 12, -1, -1, -1)
    assert made()(batch).terms["photometric"].loss.item() == 0


def test_the_terms_are_their_formula():
    module = made(smooth=0.1, field=50.0)
    batch, method = make_video(module.encoder, 3), module.objective
    views = module.view(batch)
    (encoding,) = module.encode(views)
    first, frame, last = views[0].target.unbind(1)
    before, now, after = method.on_grid(encoding.tokens, 3).unbind(1)
    moved = [(first, method.motion(before, now).back()), (last, method.motion(now, after))]
    per_scale, smooth = [], []
    for s, disparity in enumerate(method.decoder(now, (16, 16))):
        whole = torch.nn.functional.interpolate(disparity, size=(16, 16), mode="bilinear")
        depth = depth_of(whole, 0.1, 100)
        options = [photometric(x, frame) for x in (first, last)]
        options += [photometric(warp(x, depth, m, pinhole(50, (16, 16))), frame) for x, m in moved]
        per_scale.append(torch.stack(options).amin(0).mean())
        small = torch.nn.functional.avg_pool2d(frame, 2**s)
        smooth.append(smoothness(disparity, small).mean() / 2**s)
    step = module.score([encoding], views, batch)
    expected = torch.stack(per_scale).mean()
    torch.testing.assert_close(step.terms["photometric"].loss, expected, rtol=1e-11, atol=0)
    expected = expected + 0.1 * torch.stack(smooth).mean()
    torch.testing.assert_close(step.loss, expected, rtol=1e-11, atol=0)


def test_tokens_that_autocast_made_narrower_show_motion_too():
    config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1]}
    torch.manual_seed(0)
    encoder = VisualEncoder.from_config(config, size=16, frames=FRAMES)
    module = Pretraining(encoder, Monodepth(scales=1, hidden=16))
    losses = []
    for on in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            losses.append(module(make_video(encoder)).loss)
    losses[1].backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=0)
    assert all(p.grad is not None for p in module.objective.motion.parameters())


def test_a_clip_of_fewer_than_three_frames_does_not_count():
    module = made()
    batch = make_video(module.encoder, 4)
    whole = module(batch).loss
    batch.mask[1, 2:] = False
    assert module(batch).loss.isfinite() and not torch.equal(module(batch).loss, whole)
    batch.mask[:, 2:] = False
    assert module(batch).loss.item() == 0


def test_intrinsics_stand_for_the_field_and_the_frames_stay_where_colours_change():
    fx = 0.5 / math.tan(math.radians(30))
    one, other = made(), made(intrinsics=(fx, fx, 0.5, 0.5))
    other.load_state_dict(one.state_dict())
    batch = make_video(one.encoder)
    torch.testing.assert_close(one(batch).loss, other(batch).loss)
    plain, changed = (m.view(batch)[0] for m in (one, made(after="jitter")))
    assert torch.equal(plain.target, changed.target)
    assert not torch.equal(plain.inputs["frames"], changed.inputs["frames"])


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"field": 180.0}, "below 180 degrees"),
        ({"near": 2.0, "far": 1.0}, "near 2.0, far 1.0"),
        ({"scales": 0}, "0 scales"),
        ({"intrinsics": (0.5, 0.5)}, "fx, fy, cx and cy"),
        ({"args": {"jitter.high": 1}}, "jitter"),
    ],
)
def test_bad_arguments_are_refused(how, match):
    with pytest.raises(ValueError, match=match):
        Monodepth(**how)


def test_an_encoder_that_mixes_frames_is_refused():
    with pytest.raises(ValueError, match="frames that are encoded one by one"):
        Pretraining(tiny_video("tubes"), Monodepth())


def test_the_report_shows_what_is_near_bright():
    module = made().eval()
    batch = make_video(module.encoder, 3)
    views = module.view(batch)
    encodings = module.encode(views)
    with torch.no_grad():
        (found,) = module.objective.filled(encodings, views)
    depth = module.objective.depth(encodings[0], 3, (16, 16)).detach().flatten(1)
    grey = found.target[:, :, 0].flatten(1)
    assert found.target.shape == views[0].target.shape
    assert (found.target == found.target[:, :, :1]).all()
    torch.testing.assert_close(grey.amin(1), torch.zeros(3).to(grey))
    torch.testing.assert_close(grey.amax(1), torch.ones(3).to(grey))
    rows = torch.arange(3)
    torch.testing.assert_close(depth[rows, grey.argmax(1)], depth.amin(1))
    torch.testing.assert_close(depth[rows, grey.argmin(1)], depth.amax(1))
    (shown,) = module.encoder.show(found, 1)["clips"]
    picture = Image.open(io.BytesIO(base64.b64decode(shown["asked"])))
    strip = rearrange(grey[0].unflatten(0, (3, 16, 16)), "t y x -> y (t x)")
    expected = (255 * strip.float()).round().to(torch.uint8)
    assert np.array_equal(np.asarray(picture)[..., 1], expected.numpy())
