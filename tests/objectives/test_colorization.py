"""Colourisation: chance, a right answer, weights, and that no colour leaks into the input."""

import math
from typing import Any

import pytest
import torch
from tiny_video import clip_of, make_video, tiny_video

from unlabel.objectives import Colorization, VideoColorization
from unlabel.objectives.colors import REACH, color_bins, copied, rarity, soften
from unlabel.training.pretraining import Pretraining


def pretraining(objective, kind="frames", rows=8) -> tuple[Any, Any]:
    encoder = tiny_video(kind)
    return Pretraining(encoder, objective), make_video(encoder, rows)


def silence(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()


# -- pictures ----------------------------------------------------------------------------------


def test_equal_scores_give_ln_313_where_nothing_was_counted_or_all_weigh_alike():
    for even in (0.5, 1.0):
        module, batch = pretraining(Colorization(even=even), "tubes")
        silence(module.objective.predictor)
        if even == 1.0:  # whatever was seen
            module.objective.seen.total += torch.rand(313)
        term = module(batch).terms["color"]
        assert term.loss.item() == pytest.approx(math.log(313), abs=1e-4)
        assert term.chance == pytest.approx(math.log(313))


def test_the_loss_is_the_weighted_cross_entropy_with_soft_bins():
    module, batch = pretraining(Colorization(), "tubes")
    prior = torch.rand(313, dtype=torch.float64)
    module.objective.seen.total += prior
    views = module.view(batch)
    encodings = module.encode(views)
    aim = soften(views[0].target * REACH, color_bins())
    weight = rarity(prior / prior.sum())[aim.argmax(-1)]
    ce = -(aim * module.objective.predictor(encodings[0].tokens).log_softmax(-1)).sum(-1)
    loss = module.score(encodings, views, batch).loss
    torch.testing.assert_close(loss, (ce * weight).mean().float(), rtol=1e-5, atol=1e-6)


def test_bins_are_counted_in_step_alone():
    module, batch = pretraining(Colorization(), "tubes")
    module(batch)
    assert not module.objective.seen.total.any()
    module.step()
    total = module.objective.seen.total
    assert total.sum().item() == pytest.approx(8 * module.encoder.length, rel=1e-5)
    assert (total > 0).sum() > 3
    other, _ = pretraining(Colorization(), "tubes")
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.objective.seen.total, total)


def test_the_encoder_sees_no_colour_and_the_target_nothing_else():
    kornia = pytest.importorskip("kornia.color")
    module, batch = pretraining(Colorization(), "tubes", rows=2)
    rgb = batch.inputs["frames"].float() / 255
    lab = kornia.rgb_to_lab(rgb.flatten(0, 1))
    # The same lightness with other colours; rounding to whole numbers would change it a little.
    lab[:, 0], lab[:, 1:] = lab[:, 0].clamp(45, 55), lab[:, 1:].clamp(-8, 8)
    both = []
    for sign in (1, -1):
        lab[:, 1:] *= sign
        batch.inputs["frames"] = kornia.lab_to_rgb(lab).unflatten(0, rgb.shape[:2])
        both.append(module.view(batch)[0])
    one, other = both
    torch.testing.assert_close(one.inputs["patches"], other.inputs["patches"], atol=2e-2, rtol=0)
    torch.testing.assert_close(one.target, -other.target, atol=2e-3, rtol=0)
    assert one.target.abs().max() > 0.02


def test_decode_reads_colours_off_tokens():
    module, _ = pretraining(Colorization())
    with torch.no_grad():
        module.objective.predictor.weight.zero_()
        module.objective.predictor.bias.copy_(100 * torch.eye(313)[7])
        found = module.objective.decode(torch.randn(2, 5, 16))
    torch.testing.assert_close(found, color_bins()[7].expand(2, 5, 2))


# -- clips -------------------------------------------------------------------------------------


def fitted(objective, rows=8) -> tuple[Any, Any]:
    """A module after one step, so that its clusters tell colours apart."""
    module, batch = pretraining(objective, rows=rows)
    module(batch)
    module.step()
    assert module.objective.clusters.fits == 1
    return module, batch


def test_zero_features_cost_what_the_references_histogram_says():
    module, batch = fitted(VideoColorization(references=2, clusters=4, floor=1e-9))
    silence(module.objective.projector)
    (seen,) = module.view(batch)
    ids = module.objective.clusters.assign(seen.target)
    past, now = ids[:, :32], ids[:, 32:]
    histogram = past.mean(1, keepdim=True)
    wanted = -(now * histogram.clamp(min=1e-30).log()).sum(2).mean()
    assert (now * histogram).sum(2).min() > 0
    torch.testing.assert_close(module(batch).loss, wanted)


def test_a_copy_from_the_right_place_costs_nothing():
    objective = VideoColorization(references=2, clusters=4, floor=1e-9)
    module, batch = fitted(objective)
    (seen,) = module.view(batch)
    (encoding,) = module.encode([seen])
    ids = objective.clusters.assign(seen.target)
    # Features that are the colour itself find a place of that colour and no other.
    encoding.tokens = 30 * ids
    objective.projector = torch.nn.Identity()
    assert module.score([encoding], [seen], batch).loss.item() == pytest.approx(0.0, abs=1e-5)


def test_no_colour_of_the_last_frame_reaches_what_is_copied(monkeypatch):
    module, batch = fitted(VideoColorization(references=2, clusters=4))
    copies, losses = [], []

    def recorded(*args, **kwargs):
        copies.append(copied(*args, **kwargs))
        return copies[-1]

    monkeypatch.setattr("unlabel.objectives.colorization.copied", recorded)
    for shift in (0.0, 0.5):
        (seen,) = module.view(batch)
        seen.target[:, 32:] += shift
        losses.append(module.score(module.encode([seen]), [seen], batch).loss)
    assert torch.equal(*copies) and not torch.equal(*losses)
    # Grey frames in: all three channels are the lightness.
    std, mean = (getattr(module.encoder, n)[:, None, None] for n in ("std", "mean"))
    grey = seen.inputs["frames"] * std + mean
    torch.testing.assert_close(grey, grey[:, :, :1].expand_as(grey), atol=1e-5, rtol=0)


def test_a_colour_that_no_reference_has_costs_no_more_than_the_floor_allows():
    objective = VideoColorization(references=1, clusters=4, floor=0.01)
    module, batch = fitted(objective)
    (seen,) = module.view(batch)
    (encoding,) = module.encode([seen])
    centres = objective.clusters.centres
    seen.target[:, :16], seen.target[:, 16:] = centres[0], centres[1]
    loss = module.score([encoding], [seen], batch).loss
    assert loss.item() == pytest.approx(math.log(4 / 0.01), abs=1e-3)


def test_until_the_clusters_are_fitted_the_loss_is_ln_of_them_and_they_are_saved():
    module, batch = pretraining(VideoColorization(clusters=16))
    assert module(batch).loss.item() == pytest.approx(math.log(16), abs=1e-4)
    module.step()
    again, _ = pretraining(VideoColorization(clusters=16))
    again.load_state_dict(module.state_dict())
    assert torch.equal(again.objective.clusters.centres, module.objective.clusters.centres)
    for _ in range(10):
        module(batch)
        module.step()
    assert module.objective.clusters.fits == 8


def test_padding_is_neither_copied_from_nor_coloured():
    module, _ = fitted(VideoColorization(references=3, clusters=4))
    samples = [clip_of(i) for i in range(4)]
    samples[0]["frames"] = samples[0]["frames"][:2]
    for sample in samples:
        sample["partners"] = {}
    batch = module.encoder.collator()(samples)
    (seen,) = module.view(batch)
    assert not seen.is_target[0, 32:].any()
    loss = module(batch).loss
    assert loss.isfinite()
    kept = module.encoder.collator()(samples[1:])
    torch.testing.assert_close(module(kept).loss, loss)


def test_refusals_say_what_is_needed():
    with pytest.raises(
        ValueError, match="VideoColorization needs frames that are encoded one by one"
    ):
        pretraining(VideoColorization(), "tubes")
    with pytest.raises(ValueError, match="even is a share from 0 to 1, but 2 came"):
        Colorization(even=2)
    with pytest.raises(ValueError, match="neighbours is 1 to 313 bins and sigma above 0, but 0"):
        Colorization(neighbours=0)
    with pytest.raises(ValueError, match="clusters is 2 or more, but 1 came"):
        VideoColorization(clusters=1)
    with pytest.raises(ValueError, match="references is how many frames are copied from, not 0"):
        VideoColorization(references=0)
    with pytest.raises(ValueError, match="floor is a share between 0 and 1, but 0 came"):
        VideoColorization(floor=0)
