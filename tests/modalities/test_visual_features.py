"""Histograms of oriented gradients: by hand, by another library, and as a target."""

import math
from typing import Any

import pytest
import torch

from unlabel.core import view
from unlabel.modalities.clip import Cell
from unlabel.modalities.visual_features import gradient_sums, hog, hog_values


def by_hand(pictures: torch.Tensor, cell: tuple[int, int], bins: int = 9) -> torch.Tensor:
    """The definition, pixel by pixel in float64."""
    batch, channels, rows, columns = pictures.shape
    found = torch.zeros(batch, rows // cell[0], columns // cell[1], channels, bins).double()
    for b in range(batch):
        for c in range(channels):
            x = pictures[b, c].double().tolist()
            for i in range(rows):
                for j in range(columns):
                    down = x[i + 1][j] - x[i - 1][j] if 0 < i < rows - 1 else 0.0
                    across = x[i][j + 1] - x[i][j - 1] if 0 < j < columns - 1 else 0.0
                    degrees = math.degrees(math.atan2(down, across)) % 180
                    which = min(int(degrees / (180 / bins)), bins - 1)
                    place = (b, i // cell[0], j // cell[1], c, which)
                    found[place] += math.hypot(down, across) / (cell[0] * cell[1])
    return (found / (found.square().sum(-1, keepdim=True) + 1e-10).sqrt()).flatten(3)


@pytest.mark.parametrize("cell", [(4, 4), (8, 2), (1, 1)])
def test_histograms_are_the_definitions(cell):
    pictures = torch.rand(2, 3, 16, 8, dtype=torch.float64)
    torch.testing.assert_close(hog(pictures, cell), by_hand(pictures, cell), rtol=0, atol=1e-12)


def test_histograms_of_bytes_are_the_definitions_in_float32():
    # Of whole numbers, gradients lie on the borders of bins: along a row or a column.
    pictures = torch.randint(0, 4, (3, 3, 16, 16), dtype=torch.uint8)
    made = hog(pictures.float() / 255, (4, 4))
    wanted = by_hand(pictures.double() / 255, (4, 4)).float()
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-4)


def test_histograms_are_those_of_scikit_image():
    feature = pytest.importorskip("skimage.feature")
    pictures = torch.rand(2, 1, 32, 24, dtype=torch.float64)
    how: dict[str, Any] = {"orientations": 9, "pixels_per_cell": (8, 8), "block_norm": "L2"}
    for picture in pictures:
        wanted = feature.hog(picture[0].numpy(), cells_per_block=(1, 1), **how)
        made = hog(picture[None], (8, 8)).flatten().numpy()
        assert abs(made - wanted).max() < 1e-6  # its sums are float32


def test_a_flat_picture_gives_0_and_a_ramp_one_bin():
    assert not hog(torch.full((1, 3, 8, 8), 0.3), (4, 4)).any()
    steps = torch.arange(16.0).expand(1, 1, 16, 16)
    across, down = hog(steps, (8, 8)), hog(steps.transpose(2, 3), (8, 8))
    back = hog(-steps, (8, 8))
    one = torch.eye(9)
    for made, which in ((across, 0), (down, 4), (back, 0)):
        torch.testing.assert_close(made, one[which].expand_as(made))


def test_a_brighter_or_weaker_picture_has_the_same_histograms():
    picture = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    again = hog(0.5 * picture + 0.2, (8, 8))
    torch.testing.assert_close(again, hog(picture, (8, 8)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("kind", "frames"), [("vit", 1), ("videomae", 4)])
def test_targets_are_histograms_of_each_scale(make_visual, make_clips, kind, frames):
    encoder = make_visual(kind, frames=frames)
    batch = make_clips(encoder, 3)
    scales = (0.5, 1.0, 2.0, 8.0)
    seen = encoder.view(batch, view("hog", scales=scales))
    parts = seen.target.split([encoder.target_values(view("hog", scales=(s,))) for s in scales], -1)
    assert seen.is_target.all() and seen.target.shape[:2] == (3, encoder.length)
    pixels = encoder.clip(batch, view("plain")).frames
    times, rows, columns = encoder.grid
    if frames > 1:
        return  # of several frames a token, see the next test
    side = encoder.cell.rows
    half = hog(pixels[:, 0], (side // 2, side // 2)).unflatten(1, (rows, 2)).unflatten(3, (-1, 2))
    half = half.movedim(2, 3).flatten(3).flatten(1, 2)
    torch.testing.assert_close(parts[0], half)
    whole = hog(pixels[:, 0], (side, side))
    torch.testing.assert_close(parts[1], whole.flatten(1, 2))
    twice = hog(pixels[:, 0], (2 * side, 2 * side))
    twice = twice.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(parts[2], twice.flatten(1, 2))
    all_of_it = hog(pixels[:, 0], (rows * side, columns * side))
    torch.testing.assert_close(parts[3].unique(dim=1), all_of_it.flatten(1, 2), rtol=0, atol=1e-5)
    assert times == 1


def test_frames_of_one_token_have_one_histogram(make_visual, make_clips):
    encoder = make_visual("videomae", frames=4)
    batch = make_clips(encoder, 2)
    seen = encoder.view(batch, view("hog"))
    pixels = encoder.clip(batch, view("plain")).frames
    side, (times, rows, columns) = encoder.cell.rows, encoder.grid
    sums = torch.stack([gradient_sums(x, (side, side)) for x in pixels.unbind(1)], 1)
    mean = sums.unflatten(1, (times, encoder.cell.frames)).mean(2)
    wanted = mean / (mean.square().sum(3, keepdim=True) + 1e-10).sqrt()
    wanted = wanted.flatten(2, 3).permute(0, 1, 3, 4, 2).reshape(2, times * rows * columns, -1)
    torch.testing.assert_close(seen.target, wanted)


def test_only_hidden_cells_are_asked_and_later_links_change_nothing(make_visual, make_clips):
    encoder = make_visual("vit", frames=1)
    batch = make_clips(encoder, 4)
    mask: dict[str, Any] = {"mask_values.ratio": 0.5}
    seen = encoder.view(batch, view("mask_values+hog", **mask))
    hidden = encoder.view(batch, view("mask_values", ratio=0.5))
    assert torch.equal(seen.is_target[:, :, 0].any(1), hidden.is_target[:, :, 0].any(1))
    assert not seen.target[~seen.is_target].any()
    mask["jitter.ratio"] = 1.0
    after = encoder.view(batch, view("mask_values+hog+jitter", **mask))
    assert torch.equal(after.target, seen.target)


def test_refusals_say_what_would_work(make_visual, make_clips):
    encoder = make_visual("vit", frames=1)
    batch = make_clips(encoder, 2)
    for scales in ((3,), (1 / 64,), ()):
        with pytest.raises(ValueError, match="powers of two of the token's side"):
            encoder.view(batch, view("hog", scales=scales))
    with pytest.raises(ValueError, match="'gray' makes no features"):
        encoder.target_values(view("gray"))
    with pytest.raises(ValueError, match="no whole cells of 5 x 5"):
        hog(torch.zeros(1, 3, 16, 16), (5, 5))
    assert hog_values(view("hog", scales=(0.25, 2)), Cell(2, 8, 8), 3) == 27 * 17
