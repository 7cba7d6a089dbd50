"""Where tokens lie in their sample, whatever moved them, and the small views of each modality."""

from typing import Any

import pytest
import torch

from unlabel.core import Batch, cat_views, view


def gradient_clip(encoder, frames: int = 1, size: int = 96) -> Batch:
    """Pictures whose red grows from top to bottom, green from left to right, blue in time."""
    line = (torch.arange(size) + 0.5) / size
    pictures = torch.zeros(6, frames, 3, size, size)
    pictures[:, :, 0] = line[:, None]
    pictures[:, :, 1] = line
    pictures[:, :, 2] = ((torch.arange(frames) + 0.5) / frames)[:, None, None]
    index = torch.arange(6)
    mask = torch.ones(6, frames, dtype=torch.bool)
    return Batch({"frames": pictures}, mask, index, index, seed=5)


CHAINS = ["plain", "crop", "crop+flip", "rotate", "crop+rotate+flip"]


@pytest.mark.parametrize("name", CHAINS)
def test_places_of_pictures_are_where_their_colours_come_from(make_visual, name):
    encoder = make_visual("vit", frames=1, mean=(0, 0, 0), std=(1, 1, 1))
    seen = encoder.view(gradient_clip(encoder), view(name))
    cells = seen.inputs["patches"].unflatten(2, (3, -1))
    torch.testing.assert_close(seen.places[..., 0], cells[:, :, :2].mean(3), atol=4e-3, rtol=0)
    spread = cells[:, :, :2].amax(3) - cells[:, :, :2].amin(3)
    side = encoder.cell.rows
    wanted = seen.places[..., 1] * (side - 1) / side
    torch.testing.assert_close(wanted, spread, atol=8e-3, rtol=0)


@pytest.mark.parametrize("name", ["crop+flip", "frames+reverse", "frames+crop"])
def test_places_of_clips_have_their_time_first(make_visual, name):
    encoder = make_visual("videomae", mean=(0, 0, 0), std=(1, 1, 1))
    args: Any = {"frames.count": 8, "frames.stride": 2} if name.startswith("frames") else {}
    seen = encoder.view(gradient_clip(encoder, frames=20), view(name, **args))
    cells = seen.inputs["patches"].unflatten(2, (3, -1)).mean(3)
    assert seen.places.shape[2:] == (3, 2)
    torch.testing.assert_close(seen.places[..., 0], cells[..., [2, 0, 1]], atol=4e-3, rtol=0)


def test_pictures_that_are_not_square_keep_their_middle(make_visual):
    encoder = make_visual("vit", frames=1, mean=(0, 0, 0), std=(1, 1, 1))
    batch = gradient_clip(encoder)
    batch.inputs["frames"] = batch.inputs["frames"][:, :, :, :48]  # the upper half
    seen = encoder.view(batch, view("plain"))
    cells = seen.inputs["patches"].unflatten(2, (3, -1)).mean(3)
    wanted = cells[..., :2] * torch.tensor([2.0, 1.0])  # shares of what is left
    torch.testing.assert_close(seen.places[..., 0], wanted, atol=4e-3, rtol=0)


@pytest.mark.parametrize("name", ["plain", "crop", "crop+reverse", "jitter+crop"])
def test_places_of_series_are_where_their_steps_come_from(make_series, name):
    encoder = make_series("conv", channels=1, norm="none")
    steps = torch.arange(48.0)[None, :, None].expand(4, -1, -1)
    index, mask = torch.arange(4), torch.ones(4, 48, dtype=torch.bool)
    inputs = {"values": steps, "observed": torch.ones(4, 48, 1, dtype=torch.bool)}
    args: Any = {"jitter.low": 0.0, "jitter.high": 0.0} if "jitter" in name else {}
    seen = encoder.view(Batch(inputs, mask, index, index, seed=1), view(name, **args))
    values = seen.inputs["values"][:, :, 0, 0]
    found = seen.places[:, :, 0, 0] * 48 - 0.5
    torch.testing.assert_close(found[seen.mask], values[seen.mask], atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.places[..., 1], torch.full_like(seen.places[..., 1], 1 / 48))


def test_places_of_views_are_put_together(make_visual):
    encoder = make_visual("vit", frames=1)
    one = encoder.view(gradient_clip(encoder), view("crop"))
    assert cat_views([one, one]).places.shape == (12, *one.places.shape[1:])


@pytest.mark.parametrize(
    ("kind", "frames", "size"),
    [("vit", 1, 16), ("videomae", 8, 16), ("r2plus1d", 8, 16), ("convnext", 1, 32)],
)
def test_local_crops_of_clips_are_smaller_where_the_model_takes_them(
    make_visual, make_clips, kind, frames, size
):
    encoder = make_visual(kind, frames=frames)
    seen = encoder.view(make_clips(encoder), encoder.local)
    own = dict(encoder.local.args)["crop.size"]
    cells = (own // encoder.cell.rows) * (own // encoder.cell.columns)
    assert seen.places.shape[1] == cells * (frames // encoder.cell.frames)
    assert own <= size and encoder(seen).pooled.isfinite().all()
    area = seen.places[:, :, -2:, 1].prod(2).sum(1) / (frames // encoder.cell.frames)
    assert (area < 0.31).all()


def test_a_model_of_one_size_sees_small_crops_at_that_size(make_visual, make_clips, monkeypatch):
    from unlabel.modalities import visual_drivers

    driver = make_visual("convnext", frames=1, size=64).driver
    assert visual_drivers.local_size(driver, 224) == 96
    forward = driver.model.forward

    def strict(pixel_values, **more):
        if pixel_values.shape[2] != 224:
            raise ValueError("one size only")
        return forward(pixel_values=pixel_values, **more)

    monkeypatch.setattr(driver.model, "forward", strict)
    assert visual_drivers.local_size(driver, 224) == 224


def test_local_crops_of_series_are_short(make_series, make_windows):
    encoder = make_series("patchtst")
    seen = encoder.view(make_windows(encoder), encoder.local)
    assert (seen.mask.sum(1) == 2).all()  # of 8 tokens, 80 % rounded down are gone
