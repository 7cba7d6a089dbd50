"""Objectives of several crops on the encoders of series, pictures and clips."""

from typing import Any

import pytest
import torch

from unlabel import objectives as o
from unlabel.training.pretraining import Pretraining

CROPS: dict[str, Any] = {"prototypes": 8, "width": 8, "hidden": 16, "crops": 2, "frozen": 0}
METHODS = {
    "swav": lambda: o.SwAV(**CROPS),
    "dino": lambda: o.DINO(**CROPS),
    "ibot": lambda: o.IBOT(**CROPS),
    "pix_contrast": lambda: o.PixContrast(width=8, hidden=16),
    "pix_pro": lambda: o.PixPro(width=8, hidden=16),
}
CLIPS = {"vit": 1, "convnext": 1, "videomae": 8, "r2plus1d": 8}


def check(module, batch):
    step = module.train()(batch)
    step.loss.backward()
    assert step.loss.isfinite()
    slopes = [p.grad for p in module.encoder.parameters() if p.grad is not None]
    assert all(s.isfinite().all() for s in slopes) and any(s.any() for s in slopes)
    module.step()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CLIPS)
def test_encoders_of_pictures_and_clips_get_a_gradient(kind, method, make_visual, make_clips):
    encoder = make_visual(kind, frames=CLIPS[kind], size=64)
    check(Pretraining(encoder, METHODS[method]()), make_clips(encoder, 6, lengths=[8] * 6))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["patchtst", "conv"])
def test_encoders_of_series_get_a_gradient(kind, method, make_series, make_windows):
    encoder = make_series(kind, channels=1 if kind == "patchtst" else 2)
    check(Pretraining(encoder, METHODS[method]()), make_windows(encoder, 6, gaps=True, short=True))


def test_local_crops_go_through_the_encoder_apart_from_whole_ones(make_visual, make_clips):
    encoder = make_visual("vit", frames=1, size=64)
    module, calls = Pretraining(encoder, o.DINO(**CROPS)), []
    encoder.driver.register_forward_hook(lambda m, args, out: calls.append(out.mask.shape))
    module(make_clips(encoder, 4))
    assert calls == [(8, 64), (8, 9)]  # two whole views of 8 x 8 cells, two local ones of 3 x 3


def test_crops_without_a_place_in_common_cost_pixpro_nothing(make_visual, make_clips):
    encoder = make_visual("vit", frames=1)
    module = Pretraining(encoder, o.PixPro(width=8, hidden=16))
    batch = make_clips(encoder, 4)
    views: list[Any] = module.view(batch)
    views[1].places = views[3].places = views[1].places + 5
    terms = module.score(module.encode(views), views, batch).terms
    assert [t.loss.item() for t in terms.values()] == [0.0, 0.0]
    assert torch.isfinite(module(batch).loss)
