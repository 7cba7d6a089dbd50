"""Tracked patches and clusters of flow: chance, negatives, and what a constant flow says."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_video import make_video, tiny_video

from unlabel.core import cat_batches
from unlabel.objectives import MotionClustering, Sum, Tracking
from unlabel.training.pretraining import Pretraining


def pretraining(objective, rows=8) -> tuple[Any, Any]:
    encoder = tiny_video()
    return Pretraining(encoder, objective), make_video(encoder, rows)


# -- tracking ----------------------------------------------------------------------------------


def test_coincident_patches_give_the_margin():
    module, batch = pretraining(Tracking(width=8))
    with torch.no_grad():
        module.objective.projector[2].weight.zero_()
    term = module(batch).terms["track"]
    assert term.loss.item() == pytest.approx(0.5, abs=1e-6)
    assert term.chance == 0.5


def test_the_closest_negatives_come_after_the_random_steps():
    module, batch = pretraining(Tracking(width=8, negatives=3, random_steps=2))
    apart = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    hard = (apart + 9 * torch.eye(8)).sort(dim=1).values[:, :3]
    for step in range(4):
        found, is_other = module.objective.pick(apart, batch)
        assert is_other.all() and found.shape == (8, 3)
        assert torch.equal(found, hard) == (step >= 2)
        module.step()
    assert module.state_dict()["objective.clock.steps"] == 4


def test_the_count_of_steps_runs_inside_a_sum_too():
    module, _ = pretraining(Sum({"t": Tracking(width=8)}))
    module.step()
    assert module.objective.parts["t"].clock.steps == 1


def test_the_loss_is_the_formula_with_cosines():
    module, batch = pretraining(Tracking(width=8, negatives=7, random_steps=0))
    views = module.view(batch)
    encodings = module.encode(views)
    first, last = (module.objective.projector(e.pooled) for e in encodings)
    cos = F.cosine_similarity(first[:, None], last[None], dim=2)
    losses = [
        (cos[i, j] - cos[i, i] + 0.5).clamp(min=0) for i in range(8) for j in range(8) if i != j
    ]
    loss = module.score(encodings, views, batch).loss
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_the_same_track_twice_is_no_negative_and_one_track_has_none():
    module, batch = pretraining(Tracking(width=8, negatives=20), rows=4)
    partners = batch.partners
    twice = cat_batches([batch, batch])
    twice.partners = {n: {k: torch.cat([v, v]) for k, v in p.items()} for n, p in partners.items()}
    torch.testing.assert_close(module(twice).loss, module(batch).loss)
    alone, one = pretraining(Tracking(width=8), rows=1)
    assert alone(one).loss.item() == 0.0


def test_random_negatives_belong_to_the_pair_of_samples():
    module, batch = pretraining(Tracking(width=8, negatives=2))
    apart = torch.arange(64.0).view(8, 8)
    found, _ = module.objective.pick(apart, batch)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    batch.index, batch.ordinal = batch.index[order], batch.ordinal[order]
    again, _ = module.objective.pick(apart[order][:, order], batch)
    assert torch.equal(again, found[order])
    batch.ordinal = batch.ordinal + 8  # the next epoch
    assert not torch.equal(module.objective.pick(apart[order][:, order], batch)[0], again)


# -- motion clusters ---------------------------------------------------------------------------


def test_a_silent_head_gives_ln_k():
    module, batch = pretraining(MotionClustering(clusters=3))
    with torch.no_grad():
        module.objective.classifier.weight.zero_()
        module.objective.classifier.bias.zero_()
    for _ in range(2):
        term = module(batch).terms["cluster"]
        assert term.loss.item() == pytest.approx(math.log(3), abs=1e-5)
        module.step()
    assert term.chance == pytest.approx(math.log(3))


def test_constant_flow_tells_nothing_so_chance_is_the_least():
    module, batch = pretraining(MotionClustering(clusters=3))
    batch.partners["flow"]["flow"][:] = torch.tensor([1.5, -0.5])[:, None, None]
    for _ in range(3):
        module(batch)
        module.step()
    (seen,) = module.view(batch)
    even = module.objective.clusters.assign(seen.target[:, 0])
    torch.testing.assert_close(even, torch.full((8, 3), 1 / 3))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for _ in range(15):
        loss = module(batch).loss
        assert loss.item() >= math.log(3) - 1e-5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_clips_that_move_alike_are_one_class_whatever_they_look_like():
    module, batch = pretraining(MotionClustering(clusters=2), rows=8)
    flow = batch.partners["flow"]["flow"]
    flow[:4], flow[4:] = (
        torch.tensor([2.0, 0.0])[:, None, None],
        torch.tensor([0.0, -3.0])[:, None, None],
    )
    module(batch)
    module.step()
    (seen,) = module.view(batch)
    found = module.objective.clusters.assign(seen.target[:, 0]).argmax(1)
    assert len(found[:4].unique()) == len(found[4:].unique()) == 1 and found[0] != found[7]


def test_clusters_are_fitted_again_every_so_many_steps():
    module, batch = pretraining(MotionClustering(clusters=2, every=3))
    fits = []
    for _ in range(7):
        module(batch)
        module.step()
        fits.append(int(module.objective.clusters.fits))
    assert fits == [1, 1, 2, 2, 2, 3, 3]


def test_the_descriptors_size_follows_its_arguments():
    args = {"motion.areas": 3, "motion.directions": 4}
    module, batch = pretraining(MotionClustering(clusters=2, args=args))
    (seen,) = module.view(batch)
    assert seen.target.shape == (8, 1, 36) == (8, 1, module.objective.clusters.rows.shape[1])
    assert module(batch).loss.isfinite()


def test_refusals_say_what_is_missing():
    module, batch = pretraining(MotionClustering(clusters=2))
    del batch.partners["flow"]
    with pytest.raises(ValueError, match="needs the optical flow of each sample"):
        module(batch)
    module, batch = pretraining(Tracking())
    del batch.partners["tracked"]
    with pytest.raises(ValueError, match="wants the frames of a 'tracked'"):
        module(batch)
    with pytest.raises(ValueError, match="clusters is 2 or more, but 1 came"):
        MotionClustering(clusters=1)
    with pytest.raises(ValueError, match="negatives is how many each sample has, but 0 came"):
        Tracking(negatives=0)
