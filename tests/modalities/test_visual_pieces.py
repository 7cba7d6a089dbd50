"""Pieces of pictures: where they lie, what is drawn for them, and how they come together again."""

from typing import Any

import pytest
import torch
from einops import rearrange

from unlabel.core import view
from unlabel.modalities.clip import Clip
from unlabel.modalities.order import distant_orders, orders
from unlabel.modalities.visual import VisualEncoder
from unlabel.modalities.visual_pieces import standardize
from unlabel.objectives.chains import chain


def picture(encoder, side=48, rows=3, columns=None):
    """Random pictures as a batch."""
    generator = torch.Generator().manual_seed(4)
    shape = (rows, 1, side, columns or side, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    made = [{"frames": f.numpy(), "index": i, "ordinal": i} for i, f in enumerate(frames)]
    return encoder.collator(seed=3)(made), rearrange(frames, "b t y x c -> b t c y x") / 255


@pytest.fixture(scope="module")
def encoder():
    config = {"model_type": "vit", "hidden_size": 8, "num_attention_heads": 2, "patch_size": 4}
    config |= {"num_hidden_layers": 1, "intermediate_size": 8}
    return VisualEncoder.from_config(config, frames=1, size=48).eval()


@pytest.mark.parametrize("grid", [2, 3])
def test_pieces_without_gap_are_the_parts_of_the_picture(encoder, grid):
    batch, whole = picture(encoder)
    side = 48 // grid
    for place in range(grid**2):
        made = encoder.clip(batch, view("piece", grid=grid, place=place)).frames
        y, x = side * (place // grid), side * (place % grid)
        torch.testing.assert_close(made, whole[..., y : y + side, x : x + side])


def test_gaps_overlap_and_wide_pictures(encoder):
    batch, whole = picture(encoder, columns=64)
    # 7 x 7 pieces of a quarter, each half over the next: corners and the middle one.
    for place, (y, x) in {0: (0, 8), 6: (0, 44), 24: (18, 26), 48: (36, 44)}.items():
        made = encoder.clip(batch, view("piece", grid=7, gap=-0.5, place=place))
        torch.testing.assert_close(made.frames, whole[..., y : y + 12, x : x + 12])
        top_left = made.corners[:, 0]
        torch.testing.assert_close(top_left, torch.tensor([[y / 48, x / 64]]).expand(3, -1))
    # 3 x 3 pieces, half a piece apart: a quarter of the side each.
    made = encoder.clip(batch, view("piece", gap=0.5, place=8))
    origin, along, down = made.corners.unbind(1)
    torch.testing.assert_close(origin, torch.tensor([[36 / 48, 44 / 64]]).expand(3, -1))
    torch.testing.assert_close(along[:, 1] - origin[:, 1], torch.full((3,), 12 / 64))
    torch.testing.assert_close(down[:, 0] - origin[:, 0], torch.full((3,), 12 / 48))


def test_every_moved_piece_stays_in_the_picture_and_moves_by_itself(encoder):
    batch, _ = picture(encoder, rows=64)
    side, moved = 1 / (3 + 2 * 0.5 + 2 * 0.2), []
    for place in (0, 8):
        spec = view("piece", gap=0.5, jitter=0.2, place=place)
        corners = encoder.clip(batch, spec).corners
        assert corners.min() >= -1e-6 and corners.max() <= 1 + 1e-6
        still = side * (0.2 + 1.5 * (place // 3))
        moved.append((corners[:, 0] - still) / side)
        assert 0.15 < moved[-1].abs().max() <= 0.2 + 1e-5
    assert (moved[0] - moved[1]).abs().max() > 0.2  # one beside another does not move with it
    assert (moved[0][:, 0] - moved[0][:, 1]).abs().max() > 0.1


def test_a_piece_beside_the_middle_is_where_its_class_says(encoder):
    batch, whole = picture(encoder, rows=64)
    made = encoder.clip(batch, view("piece", place="beside"))
    assert sorted(made.target.unique().tolist()) == list(range(8))
    for row, which in enumerate(made.target[:, 0].tolist()):
        number = which + (which >= 4)
        y, x = 16 * (number // 3), 16 * (number % 3)
        torch.testing.assert_close(made.frames[row], whole[row, ..., y : y + 16, x : x + 16])


@pytest.mark.parametrize("grid", [2, 3])
def test_the_order_drawn_restores_the_picture_and_the_first_one_leaves_it(encoder, grid):
    batch, whole = picture(encoder, rows=12)
    count = grid**2
    specs = [view("piece", grid=grid, place=p, orders=4) for p in range(count)]
    made = [encoder.clip(batch, s) for s in specs]
    target = made[0].target
    assert all(torch.equal(m.target, target) for m in made) and len(target.unique()) > 2
    shown = torch.stack([m.frames for m in made], 1)
    table = distant_orders(count, 4)
    restored = torch.empty_like(shown)
    restored.scatter_(1, table[target[:, 0]].view(12, count, 1, 1, 1, 1).expand_as(shown), shown)
    joined = rearrange(restored, "b (y x) t c h w -> b t c (y h) (x w)", y=grid)
    torch.testing.assert_close(joined, whole)
    as_it_was = rearrange(shown, "b (y x) t c h w -> b t c (y h) (x w)", y=grid)
    for row in range(12):
        same = torch.allclose(as_it_was[row], whole[row], atol=1e-5)
        assert same == (int(target[row]) == 0)


@pytest.mark.parametrize(("places", "count", "least"), [(9, 9, 9), (9, 24, 7), (4, 4, 4)])
def test_orders_lie_far_apart(places, count, least):
    table = distant_orders(places, count)
    assert table[0].tolist() == list(range(places))
    assert all(sorted(row) == list(range(places)) for row in table.tolist())
    apart = (table[:, None] != table).sum(2) + places * torch.eye(count, dtype=torch.long)
    assert apart.min() == least
    every = distant_orders(4, 24)
    assert sorted(every.tolist()) == orders(4).tolist()
    for wrong in ((10, 4), (4, 25), (3, 1)):
        with pytest.raises(ValueError, match="Orders that lie far apart are 2 or more"):
            distant_orders(*wrong)


def test_links_after_a_piece_draw_for_it_alone_and_links_before_for_all(encoder):
    batch, _ = picture(encoder, rows=16)
    cut = {"channel_cutoff.ratio": 0.67}
    kept = []
    for place in (0, 1):
        spec = chain("piece+channel_cutoff", args={**cut, "piece.place": place})
        made = encoder.clip(batch, spec).frames
        kept.append(made.flatten(3).std(3)[:, 0] > 1e-6)
        assert (kept[-1].sum(1) == 1).all()
    assert not torch.equal(*kept)
    kept = []
    for place in (0, 1):
        spec = chain("channel_cutoff+piece", args={**cut, "piece.place": place})
        kept.append(encoder.clip(batch, spec).frames.flatten(3).std(3)[:, 0] > 1e-6)
    assert torch.equal(*kept)


def test_half_a_picture_has_the_mean_of_its_quarters(encoder):
    batch, whole = picture(encoder)
    half = encoder.clip(batch, view("piece", grid=1, scale=0.5)).frames
    quarters = [
        encoder.clip(batch, view("piece", grid=2, place=p, scale=0.5)).frames for p in range(4)
    ]
    assert half.shape[3:] == quarters[0].shape[3:] == (24, 24)
    mean = lambda x: x.mean((1, 3, 4))  # noqa: E731
    torch.testing.assert_close(mean(half), torch.stack([mean(q) for q in quarters]).mean(0))
    torch.testing.assert_close(mean(half), mean(whole))


def test_a_montage_taken_apart_is_the_pictures(encoder):
    batch, whole = picture(encoder, rows=6)
    made = encoder.clip(batch, view("tiles+montage"))
    assert made.frames.shape == whole.shape and made.target.shape == (6, 4, 2)
    parts = rearrange(made.frames, "b t c (y h) (x w) -> (b y x) t c h w", y=2, x=2)
    source, number = made.target.flatten(0, 1).unbind(1)
    order = (4 * source + number).argsort()
    assert sorted((4 * source + number).tolist()) == list(range(24))
    back = rearrange(parts[order], "(b y x) t c h w -> b t c (y h) (x w)", y=2, x=2)
    torch.testing.assert_close(back, whole)
    # Most pictures show pieces of several.
    assert (made.target[:, :, 0].amax(1) > made.target[:, :, 0].amin(1)).sum() > 3


def test_pieces_of_a_montage_are_changed_one_by_one(encoder):
    batch, _ = picture(encoder, rows=6)
    spec = chain("tiles+channel_cutoff+montage", args={"channel_cutoff.ratio": 0.67})
    parts = rearrange(encoder.clip(batch, spec).frames, "b t c (y h) (x w) -> b (y x) c t h w", y=2, x=2)  # fmt: skip  # noqa: E501
    kept = parts.flatten(3).std(3) > 1e-6
    assert (kept.sum(2) == 1).all() and not (kept == kept[:, :1]).all()


def test_standardized_samples_have_the_datas_mean_and_deviation(encoder):
    batch, _ = picture(encoder)
    made = encoder.view(batch, chain("piece+standardize", args={"piece.place": 4}))
    values = rearrange(made.inputs["patches"], "b l (c v) -> b c (l v)", c=3)
    torch.testing.assert_close(values.mean(2), torch.zeros(3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(2, correction=0), torch.ones(3, 3), atol=1e-3, rtol=0)
    blank = Clip(torch.full((1, 1, 3, 4, 4), 0.3), torch.ones(1, 1, dtype=torch.bool))
    about = {"mean": torch.full((3,), 0.5), "std": torch.ones(3)}
    same = standardize(blank, batch, view("standardize"), **about).frames
    torch.testing.assert_close(same, torch.full_like(same, 0.5))


def test_a_model_of_one_size_gets_pieces_of_that_size(encoder, monkeypatch):
    batch, _ = picture(encoder)
    assert encoder.clip(batch, view("piece")).frames.shape[3:] == (16, 16)
    monkeypatch.setattr(encoder, "resizes", False)
    assert encoder.clip(batch, view("piece")).frames.shape[3:] == (48, 48)


def test_what_cannot_be_cut_is_refused(encoder):
    batch, _ = picture(encoder)
    args: Any
    for args, said in (
        ({"grid": 0}, "Pieces need a grid of at least 1"),
        ({"gap": -1.0}, "a gap above -1"),
        ({"place": 9}, "place of view 'piece' is 0 to 8 or 'beside', but 9 came"),
        ({"place": "beside", "grid": 2}, "needs an odd grid of 3 or more"),
        ({"orders": 1}, "Orders that lie far apart are 2 or more"),
        ({"size": 3}, "View 'piece' has no size"),
    ):
        with pytest.raises(ValueError, match=said):
            encoder.clip(batch, view("piece", **args))
    with pytest.raises(ValueError, match="put 'tiles' of that grid before it"):
        encoder.clip(batch, view("montage"))
    with pytest.raises(ValueError, match="A montage of 5 x 5 pieces needs pictures of whole"):
        encoder.clip(batch, chain("tiles+montage", args={"tiles.grid": 5, "montage.grid": 5}))
    with pytest.raises(ValueError, match="moves pixels, and some are hidden"):
        encoder.clip(batch, view("mask_values+piece"))
