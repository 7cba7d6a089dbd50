from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from kornia.color import rgb_to_lab
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
)

from unlabel.core import view
from unlabel.modalities.clip import Cell, Clip
from unlabel.modalities.order import orders, segment_order
from unlabel.modalities.visual_colors import jitter
from unlabel.modalities.visual_fit import cells, middle, pick, resize
from unlabel.modalities.visual_geometry import boxes, cut_box
from unlabel.modalities.visual_masks import block_order
from unlabel.modalities.visual_views import VIEWS
from unlabel.objectives.chains import chain

RANDOM = [
    view("crop"),
    view("crop", frames=4),
    view("flip"),
    view("rotate", ask=True),
    view("blur", ratio=1.0),
    view("jitter"),
    view("gray", ratio=0.5),
    view("solarize", ratio=0.5),
    view("channel_cutoff"),
    view("lab", part="ab"),
    view("colors"),
    view("mask_values", unit="patch"),
    view("mask_values", unit="tube", drop=True),
    view("mask_values", unit="frame", ratio=0.5),
    view("mask_values", unit="block"),
    view("mask_values", unit="square", side=16, drop=True),
    view("mask_values+hog", **{"hog.scales": (0.5, 2)}),  # pyright: ignore[reportArgumentType]
    view("token_cutoff"),
    view("span_cutoff", ratio=0.3),
    view("feature_cutoff"),
    view("reverse", ratio=0.5, ask=True),
    view("reorder", ask=True),
    view("frames", count=4, stride=2),
    view("speed", ask=True),
    view("background", way="random", ratio=1.0),
    view("piece", place="beside", gap=0.5, jitter=0.1),
    view("crop+piece+jitter+standardize", **{"piece.orders": 4}),  # pyright: ignore[reportArgumentType]
    chain("background+crop+flip+jitter", args={"background.way": "remove"}),
    view("crop+flip+jitter+mask_values+gray"),
]
IDENTITIES = [
    view("flip", ratio=0.0),
    view("jitter", strength=0.0),
    view("jitter", ratio=0.0),
    view("gray", ratio=0.0),
    view("blur", ratio=0.0),
    view("solarize", ratio=0.0),
    view("channel_cutoff", ratio=0.0),
    view("reverse", ratio=0.0),
    view("frames"),
    view("speed", speeds=(1,)),
    view("speed", speeds=(1,), count=8),
    view("mask_values", ratio=0.0),
    view("mask_values", unit="block", ratio=0.0, drop=True),
    view("token_cutoff", ratio=0.0),
    view("span_cutoff", ratio=0.0),
    view("feature_cutoff", ratio=0.0),
    view("background", ratio=0.0),
    view("background", unlike=2.0, ratio=1.0),  # all is in front
]


def inputs(made, row=None):
    return {k: v if row is None else v[row] for k, v in made.inputs.items()}


@pytest.mark.parametrize("spec", RANDOM, ids=str)
@pytest.mark.parametrize("kind", ["videomae", "r2plus1d"])
def test_a_sample_gets_the_same_view_in_another_batch(make_visual, make_clips, spec, kind):
    encoder = make_visual(kind)
    if {p.name for p in spec.parts()} - encoder.views:
        return
    lengths = [8, 12, 8, 12, 12]
    together = encoder.view(make_clips(encoder, lengths=lengths), spec)
    # Batches of 12 frames and of 8.
    for row in (2, 4):
        alone = encoder.view(make_clips(encoder, lengths=lengths[row : row + 1], first=row), spec)
        for key, x in alone.inputs.items():
            # A batch of longer samples may leave room for more frames.
            count = min(x.shape[1], together.inputs[key].shape[1])
            torch.testing.assert_close(x[0, :count], together.inputs[key][row, :count])
            assert (together.inputs[key][row, count:] == 0).all() or key == "positions"
        if alone.target is not None:
            torch.testing.assert_close(alone.target[0], together.target[row])
            assert (alone.is_target[0] == together.is_target[row]).all()


# `motion` and `flow` show what is given, see test_visual_motion; `montage` wants `tiles`.
@pytest.mark.parametrize("name", sorted(set(VIEWS) - {"motion", "flow", "montage"}))
def test_two_draws_differ_and_one_draw_repeats(make_visual, make_clips, name):
    encoder = make_visual()
    batch = make_clips(encoder, 8, lengths=[12] * 8)
    a, b, again = (encoder.view(batch, view(name, draw)) for draw in (0, 1, 0))
    differ = any(
        x is not None and not torch.equal(x, y)
        for x, y in (
            (a.inputs["patches"], b.inputs["patches"]),
            (a.keep_positions, b.keep_positions),
            (a.keep_features, b.keep_features),
            (a.is_target, b.is_target),
        )
    )
    alike = ("plain", "whole", "lab", "colors", "hog", "reverse", "span_cutoff", "standardize")
    alike += ("pixels",)
    assert differ == (name not in alike)
    assert torch.equal(a.inputs["patches"], again.inputs["patches"])


@pytest.mark.parametrize("spec", IDENTITIES, ids=str)
def test_a_view_that_changes_nothing_is_the_plain_one(make_visual, make_clips, spec):
    encoder = make_visual()
    batch = make_clips(encoder, 3)
    plain, made = encoder.view(batch, view("plain")), encoder.view(batch, spec)
    torch.testing.assert_close(made.inputs, plain.inputs, rtol=0, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(encoder(made).pooled, encoder(plain).pooled)
    assert made.is_target is None or not made.is_target.any()


def test_plain_resizes_the_shorter_side_and_takes_the_middle():
    frames = torch.rand(2, 3, 3, 64, 96)
    made = resize(frames, 32)
    flat = rearrange(frames, "b t c y x -> (b t) c y x")
    wanted = F.interpolate(flat, size=(32, 48), mode="bilinear", antialias=True)[..., 8:40]
    torch.testing.assert_close(made, wanted.unflatten(0, (2, 3)))
    assert torch.equal(resize(frames, 64), frames[..., 16:80])
    mask = torch.arange(10)[None] < torch.tensor([[10], [3]])
    assert middle(mask, 4).tolist() == [[3, 4, 5, 6], [0, 1, 2, 3]]


def test_short_clips_repeat_the_last_frame_as_padding():
    clip = Clip(torch.arange(4.0).view(1, 4, 1, 1, 1), torch.tensor([[True, True, True, False]]))
    made = pick(clip, torch.tensor([[1, 2, 3, 4]]))
    assert made.frames.flatten().tolist() == [1, 2, 2, 2]
    assert made.mask.tolist() == [[True, True, False, False]]


def test_a_whole_box_is_the_picture_and_a_half_box_its_corner():
    frames = torch.rand(2, 3, 3, 16, 16)
    whole = torch.tensor([[0.0, 0, 1, 1]]).expand(2, -1)
    torch.testing.assert_close(cut_box(frames, whole, 16), frames)
    corner = torch.tensor([[-0.5, 0.5, 0.5, 0.5]]).expand(2, -1)
    torch.testing.assert_close(cut_box(frames, corner, 8), frames[..., :8, 8:])


def test_boxes_lie_inside_and_have_the_share_they_should():
    box = boxes(torch.rand(4000, 4), (60, 80), low=0.2, high=0.5, aspect=4 / 3)
    y, x, height, width = box.T
    assert ((y.abs() + height <= 1 + 1e-5) & (x.abs() + width <= 1 + 1e-5)).all()
    area, aspect = height * width, (width * 80) / (height * 60)
    assert area.min() > 0.199 and area.max() < 0.501 and (area.mean() - 0.35).abs() < 0.01
    assert 0.74 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.34


def test_a_crop_cuts_one_box_from_all_frames(make_visual):
    encoder = make_visual()
    frames = torch.randint(0, 255, (3, 1, 3, 40, 48), dtype=torch.uint8).expand(-1, 8, -1, -1, -1)
    samples = [
        {"frames": f.permute(0, 2, 3, 1).numpy(), "index": i, "ordinal": i}
        for i, f in enumerate(frames)
    ]
    made = encoder.clip(encoder.collator()(samples), view("crop+flip+jitter+blur+rotate"))
    torch.testing.assert_close(made.frames, made.frames[:, :1].expand(-1, 8, -1, -1, -1))
    assert not torch.allclose(made.frames[0], made.frames[1])


def test_jitter_is_kornias_brightness_contrast_and_saturation(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, 2)
    frames = 0.4 + 0.2 * torch.rand(2, 8, 3, 16, 16)
    clip = Clip(frames, batch.mask)
    about = {"cell": Cell(2, 8, 8)}
    for name, adjust in (
        ("brightness", adjust_brightness_accumulative),
        ("contrast", adjust_contrast_with_mean_subtraction),
        ("saturation", adjust_saturation_with_gray_subtraction),
    ):
        off: dict[str, Any] = {
            n: 0.0 for n in ("brightness", "contrast", "saturation", "hue") if n != name
        }
        made = jitter(clip, batch, view("jitter", ratio=1.0, **off), **about)
        # One tall picture a clip, so that kornia's mean is the clip's.
        tall = rearrange(frames, "b t c y x -> b c (t y) x")
        factor = _factor(tall, made, adjust)
        wanted = rearrange(adjust(tall, factor), "b c (t y) x -> b t c y x", t=8)
        torch.testing.assert_close(made.frames, wanted, atol=2e-3, rtol=0)
        assert (factor - 1).abs().max() > 0.05


def _factor(tall, made, adjust):
    """The factor that explains what came out, each clip its own."""
    tries = torch.linspace(0.6, 1.4, 801)
    out = rearrange(made.frames, "b t c y x -> b c (t y) x")
    errors = torch.stack(
        [(adjust(tall, f.expand(2)) - out).square().mean((1, 2, 3)) for f in tries]
    )
    return tries[errors.argmin(0)]


def test_hue_keeps_luma_and_a_full_turn_keeps_all(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, 4)
    frames = 0.4 + 0.2 * torch.rand(4, 8, 3, 16, 16)
    clip, about = Clip(frames, batch.mask), {"cell": Cell(2, 8, 8)}
    only: dict[str, Any] = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "ratio": 1.0}
    made = jitter(clip, batch, view("jitter", hue=0.5, **only), **about).frames
    luma = torch.tensor([0.299, 0.587, 0.114])
    both = [torch.einsum("c,btcyx->btyx", luma, x) for x in (made, frames)]
    torch.testing.assert_close(*both, atol=1e-3, rtol=0)
    assert (made - frames).abs().amax((1, 2, 3, 4)).min() > 0.01


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("unit", ["patch", "tube", "frame", "block"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.7])
def test_masks_hide_an_exact_share(make_visual, make_clips, unit, ratio, drop):
    encoder = make_visual()
    made = encoder.view(
        make_clips(encoder, 5), view("mask_values", unit=unit, ratio=ratio, drop=drop)
    )
    hidden = made.is_target.all(2)
    assert (made.is_target.any(2) == hidden).all()
    units = {"patch": 64, "frame": 4}.get(unit, 16)
    count = int(units * ratio) * 64 // units
    assert (hidden.sum(1) == count).all()
    by_time = hidden.unflatten(1, (4, 16))
    if unit in ("tube", "block"):
        assert (by_time == by_time[:, :1]).all()
    if unit == "frame":
        assert (by_time == by_time[:, :, :1]).all()
    assert len({tuple(row.tolist()) for row in hidden}) > 1
    if drop:
        assert made.inputs["patches"].shape[1] == 64 - count and made.mask.all()
        assert not hidden.gather(1, made.inputs["positions"]).any()
    else:
        assert (made.inputs["patches"][hidden] == 0).all()


@pytest.mark.parametrize("drop", [False, True])
def test_squares_are_hidden_as_a_whole_at_all_times(make_visual, make_clips, drop):
    encoder = make_visual()
    spec = view("mask_values", unit="square", side=16, ratio=0.6, drop=drop)
    made = encoder.view(make_clips(encoder, 5), spec)
    # Cells of a clip: 4 times, 2 x 2 squares of 2 x 2 cells each.
    squares = made.is_target.all(2).unflatten(1, (4, 2, 2, 2, 2)).transpose(3, 4).flatten(4)
    assert torch.equal(squares.any(4), squares.all(4))
    hidden = squares.all(4).flatten(2)
    assert (hidden == hidden[:, :1]).all() and (hidden.sum(2) == 2).all()
    assert made.inputs["patches"].shape[1] == (32 if drop else 64)


def test_masks_hide_only_cells_that_exist(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, lengths=[8, 5])
    for unit in ("patch", "tube", "frame", "block"):
        made = encoder.view(batch, view("mask_values", unit=unit, ratio=0.5, drop=True))
        assert made.is_target[1, :48].any() and not made.is_target[1, 48:].any()
        kept = int(made.mask[1].sum())
        assert kept == 48 - int(made.is_target[1].any(1).sum())
        assert made.mask[1, :kept].all()


def test_blocks_fall_one_after_another_until_the_picture_is_covered():
    order = block_order(torch.rand(50, 256), 8, 8, 0.15).long() // 64
    first = order == 0
    rows, columns = first.any(2).sum(1), first.any(1).sum(1)
    assert (first.flatten(1).sum(1) == rows * columns).all()  # a rectangle
    assert ((rows * columns >= 6) & (rows * columns <= 15)).all()
    assert (order < 64).float().mean() > 0.95


def test_targets_are_what_the_models_own_convolution_sees(make_visual, make_clips):
    for kind, frames in (("videomae", 8), ("vit", 1)):
        encoder = make_visual(kind, frames=frames)
        batch = make_clips(encoder, 2)
        made = encoder.view(batch, view("mask_values", ratio=0.5))
        plain = encoder.view(batch, view("plain"))
        whole = torch.where(made.is_target, made.target, made.inputs["patches"])
        torch.testing.assert_close(whole, plain.inputs["patches"])
        clip = encoder.clip(batch, view("plain"))
        scaled = (clip.frames - encoder.mean[:, None, None]) / encoder.std[:, None, None]
        projection = encoder.model.embeddings.patch_embeddings.projection
        pictures = scaled.transpose(1, 2) if frames > 1 else scaled[:, 0]
        wanted = projection(pictures).flatten(2).transpose(1, 2)
        found = F.linear(whole, projection.weight.flatten(1), projection.bias)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_reversing_twice_and_undoing_an_order_are_the_identity(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, lengths=[8, 7, 5])
    plain = encoder.clip(batch, view("plain")).frames
    twice = encoder.clip(batch, view("reverse+reverse")).frames
    assert torch.equal(twice, plain)
    once = encoder.clip(batch, view("reverse")).frames
    assert torch.equal(once[1, :7], plain[1, :7].flip(0)) and torch.equal(once[1, 7], plain[1, 7])
    made = encoder.clip(batch, view("reorder", ask=True))
    index = segment_order(batch.mask, orders(3)[made.target[:, 0]])
    back = made.frames.gather(1, index.argsort(1)[..., None, None, None].expand_as(plain))
    assert torch.equal(back, plain)


def test_the_order_asked_for_is_the_order_of_the_segments(make_visual, make_clips):
    encoder = make_visual(frames=6, size=16)
    batch = make_clips(encoder, 64)
    plain = encoder.clip(batch, view("plain")).frames
    made = encoder.clip(batch, view("reorder", ask=True))
    assert set(made.target[:, 0].tolist()) == set(range(6))
    for row, rank in enumerate(made.target[:, 0].tolist()):
        first, second, third = orders(3)[rank].tolist()
        order = [2 * first, 2 * first + 1, 2 * second, 2 * second + 1, 2 * third, 2 * third + 1]
        assert torch.equal(made.frames[row], plain[row, order])


def test_turns_asked_for_are_the_turns_made(make_visual, make_clips):
    encoder = make_visual(frames=2)
    batch = make_clips(encoder, 16)
    plain = encoder.clip(batch, view("plain")).frames
    made = encoder.clip(batch, view("rotate", ask=True))
    assert set(made.target[:, 0].tolist()) == {0, 1, 2, 3}
    for row, turns in enumerate(made.target[:, 0].tolist()):
        assert torch.equal(made.frames[row], plain[row].rot90(turns, (2, 3)))


def test_speeds_asked_for_are_the_steps_between_frames(make_visual, make_clips):
    encoder = make_visual()
    made = encoder.clip(make_clips(encoder, lengths=[16] * 32), view("speed", ask=True))
    assert made.frames.shape[1] == 4
    steps = made.picked.diff(dim=1)
    assert (steps == made.target + 1).all() and set(made.target[:, 0].tolist()) == {0, 1}
    assert made.picked.min() == 0 and 8 < made.picked.max() <= 15


def test_frames_are_as_many_and_as_far_apart_as_asked(make_visual, make_clips):
    encoder = make_visual("resnet")
    batch = make_clips(encoder, lengths=[20] * 40)
    made = encoder.clip(batch, view("frames", count=3, stride=4))
    assert made.frames.shape[1] == 3 and (made.picked.diff(dim=1) == 4).all()
    assert made.picked[:, 0].min() == 0 and made.picked[:, 0].max() == 11
    first = encoder.clip(batch, view("frames", count=3, stride=4, place="first"))
    assert first.picked.unique().tolist() == [0, 4, 8]
    center = encoder.clip(batch, view("frames", count=2, place="middle"))
    assert center.picked.unique().tolist() == [9, 10]


def test_colours_asked_for_are_labs_mean_of_each_cell(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, lengths=[8, 5])
    plain = encoder.clip(batch, view("plain")).frames
    made = encoder.view(batch, view("colors"))
    lab = rgb_to_lab(plain.flatten(0, 1)).unflatten(0, (2, 8))[:, :, 1:] / 110
    wanted = rearrange(cells(lab, Cell(2, 8, 8)), "b l (c p) -> b l p c", c=2).mean(2)
    torch.testing.assert_close(made.target, wanted, atol=1e-5, rtol=1e-5)
    assert made.target.abs().max() > 0.1
    assert made.is_target.all(2).sum(1).tolist() == [64, 48]
    light = encoder.clip(batch, view("colors")).frames
    assert torch.equal(light[:, :, 0], light[:, :, 2])


def test_lightness_and_colour_share_no_channel(make_visual, make_clips):
    encoder = make_visual("resnet", frames=1)
    batch = make_clips(encoder, 3)
    light = encoder.clip(batch, view("lab", part="l")).frames
    colour = encoder.clip(batch, view("lab", part="ab")).frames
    assert torch.equal(light[:, :, 0], light[:, :, 1]) and (colour[:, :, 2] == 0.5).all()


def test_a_cut_off_channel_is_blank(make_visual, make_clips):
    encoder = make_visual("resnet")
    made = encoder.view(make_clips(encoder, 8), view("channel_cutoff")).inputs["frames"]
    blank = (made.abs() < 1e-6).all(1).flatten(2).all(2)
    assert (blank.sum(1) == 1).all() and blank.any(0).all()


def test_links_after_a_mask_change_no_target(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, 4)
    before = encoder.view(batch, view("mask_values"))
    # The same draw of the mask: the first link of a chain.
    args: dict[str, Any] = {"jitter.ratio": 1.0}
    chained = encoder.view(batch, view("mask_values+jitter+solarize+gray", **args))
    assert torch.equal(before.is_target, chained.is_target)
    torch.testing.assert_close(before.target, chained.target)
    seen = ~before.is_target
    assert not torch.allclose(before.inputs["patches"][seen], chained.inputs["patches"][seen])


def test_contrast_after_a_mask_owes_nothing_to_what_is_hidden(make_visual, make_clips):
    encoder = make_visual()
    spec = view("mask_values+jitter", **{"jitter.ratio": 1.0, "mask_values.unit": "tube"})
    # The size of the data is the encoder's, so that cells are pixels of the data.
    small = make_clips(encoder, 4, height=32, width=32)
    hidden = encoder.clip(small, spec).is_hidden
    hidden = hidden.repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = make_clips(encoder, 4, height=32, width=32)
    changed.inputs["frames"] = torch.where(hidden[:, :, None], 255, changed.inputs["frames"])
    a, b = encoder.view(small, spec), encoder.view(changed, spec)
    torch.testing.assert_close(a.inputs, b.inputs)
    assert not torch.equal(small.inputs["frames"], changed.inputs["frames"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (view("mask_values", unit="cube"), "no unit 'cube'"),
        (view("mask_values", ratio=1.0), "would hide all 64 units"),
        (view("mask_values", unit="square"), "would hide all 1 units"),
        (view("mask_values", unit="square", side=24), "Squares of 24 pixels do not divide"),
        (view("mask_values", ratio=1.5), "share from 0 to 1"),
        (view("mask_values+flip"), "put it before the mask"),
        (view("mask_values+blur"), "put it before the mask"),
        (view("crop", low=0.0), "crop needs 0 < low"),
        (view("crop", size=20), "no whole cells"),
        (view("jitter", sigma=1), "has no sigma"),
        (view("reorder", segments=9), "2 to 5 segments"),
        (view("frames", stride=0), "at least 1"),
        (view("speed", speeds=(1, 9)), "two frames of the fastest"),
        (view("triple"), "five moments of 2 frames each"),
        (view("lab", part="x"), "l or ab"),
        (view("random_conv"), "no view 'random_conv'"),
        (view("plain", partner="view"), "wants the frames of a 'view'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(make_visual, make_clips, spec, message):
    encoder = make_visual()
    with pytest.raises(ValueError, match=message):
        encoder.view(make_clips(encoder, 2), spec)


def test_hidden_colors_of_a_share_of_the_samples_alone(make_visual, make_clips):
    encoder = make_visual()
    batch = make_clips(encoder, 8)
    plain, gray = encoder.clip(batch, view("plain")), encoder.clip(batch, view("colors"))
    shown = encoder.clip(batch, view("colors", hide=0.0))
    assert torch.equal(shown.frames, plain.frames) and torch.equal(shown.target, gray.target)
    some = encoder.clip(batch, view("colors", hide=0.5)).frames
    each = [[torch.equal(s, x) for s, x in zip(some, f.frames, strict=True)] for f in (plain, gray)]
    assert all(a != b for a, b in zip(*each, strict=True))
