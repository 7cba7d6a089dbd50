"""Reorder prediction: chance, and what it asks for."""

import math
from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series
from tiny_video import clip_of, make_video, tiny_video

from unlabel.core import Encoding, uniform, view
from unlabel.modalities.series import SeriesEncoder
from unlabel.objectives import ReorderPrediction, RotationPrediction, ShuffleAndLearn, Sum
from unlabel.objectives.pretext import segment_means
from unlabel.training.pretraining import Pretraining


@pytest.mark.parametrize("segments", [2, 3, 4])
def test_a_silent_head_gives_ln_of_the_orders(segments):
    encoder = TinySeries()
    module = Pretraining(encoder, ReorderPrediction(segments=segments))
    with torch.no_grad():
        for p in module.objective.classifier.parameters():
            p.zero_()
    term = module(make_series(encoder)).terms["order"]
    assert term.loss.item() == pytest.approx(math.log(math.factorial(segments)), abs=1e-5)
    assert term.chance == pytest.approx(term.loss.item(), abs=1e-5)


def test_the_right_order_costs_nothing():
    encoder = TinySeries(width=6)
    module: Any = Pretraining(encoder, ReorderPrediction(segments=3))
    batch = make_series(encoder, rows=40)
    (seen,) = module.view(batch)
    assert len(seen.target.unique()) == 6
    with torch.no_grad():
        module.objective.classifier.weight.copy_(100 * torch.eye(6))
        module.objective.classifier.bias.zero_()
    (encoding,) = module.encode([seen])
    encoding.pooled = torch.nn.functional.one_hot(seen.target[:, 0], 6).float()
    assert module.score([encoding], [seen], batch).loss.item() == pytest.approx(0.0, abs=1e-6)


def test_the_views_are_asked_for_by_name():
    (spec,) = ReorderPrediction(segments=3, after="jitter", args={"jitter.high": 0.2}).views
    assert spec.name == "reorder+jitter"
    assert dict(spec.parts()[0].args) == {"segments": 3, "ask": True}
    for segments in (1, 6):
        with pytest.raises(ValueError, match=f"segments is 2 to 5.*but {segments} came"):
            ReorderPrediction(segments=segments)


# -- of clips ----------------------------------------------------------------------------------


def silent(objective, kind="frames", rows=8) -> tuple[Any, Any]:
    """A module whose head knows nothing, and a batch."""
    encoder = tiny_video(kind)
    module = Pretraining(encoder, objective)
    with torch.no_grad():
        for p in module.objective.classifier.parameters():
            p.zero_()
    return module, make_video(encoder, rows)


def test_a_silent_head_gives_ln_4_turns_and_ln_2_orders():
    for objective, name, wanted in (
        (RotationPrediction(), "turn", math.log(4)),
        (ReorderPrediction(segments=3), "order", math.log(6)),
    ):
        module, batch = silent(objective)
        term = module(batch).terms[name]
        assert term.loss.item() == pytest.approx(wanted, abs=1e-5)
        assert term.chance == pytest.approx(wanted)
    # Each class counts for a half; how many of each were drawn is the batch's chance.
    module, batch = silent(ShuffleAndLearn(), rows=64)
    term = module(batch).terms["order"]
    seen = module.view(batch)[0]
    share = seen.target[seen.is_target].float()
    weight = (share * 2 + (1 - share) / 1.5).mean().item()
    assert term.loss.item() == pytest.approx(weight * math.log(2), abs=1e-5)
    assert term.chance == pytest.approx(math.log(2))


def test_all_frames_of_a_clip_are_turned_by_the_drawn_quarter_turns():
    module, batch = silent(RotationPrediction(), rows=16)
    seen, plain = module.view(batch)[0], module.encoder.view(batch, view("plain"))
    assert len(seen.target.unique()) == 4
    for row in range(16):
        frames = plain.inputs["frames"][row].rot90(int(seen.target[row, 0]), (2, 3))
        assert torch.equal(seen.inputs["frames"][row], frames)


def test_the_order_of_frames_seen_alone_is_read_off_one_vector_a_segment():
    times = torch.randn(2, 7, 3)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    found = segment_means(times, mask, 2)
    torch.testing.assert_close(found[0, 1], times[0, 4:].mean(0))
    torch.testing.assert_close(found[1, 0], times[1, :2].mean(0))
    torch.testing.assert_close(found[1, 1], times[1, 2:4].mean(0))
    module, batch = silent(ReorderPrediction(segments=3))
    assert module.objective.classifier.in_features == 3 * 16
    assert "tokens" in module.objective.needs
    whole = Pretraining(tiny_video("tubes"), ReorderPrediction(segments=3))
    assert whole.objective.classifier.in_features == 16
    # The mean over the frames is the same in every order.
    one, other = (module.encoder.view(batch, view("reorder", d)) for d in (0, 1))
    with torch.no_grad():
        pooled = [module.encode([v])[0].pooled for v in (one, other)]
    assert not torch.equal(one.inputs["frames"], other.inputs["frames"])
    torch.testing.assert_close(*pooled, atol=1e-5, rtol=1e-4)


def test_a_sum_needs_what_its_built_parts_need():
    parts = Sum({"order": ReorderPrediction(), "turn": RotationPrediction()})
    assert "tokens" in Pretraining(tiny_video(), parts).objective.needs


def test_a_head_that_knows_the_order_costs_nothing_and_turning_round_changes_nothing():
    module, batch = silent(ShuffleAndLearn(negatives=0.5), rows=32)
    views = module.view(batch)
    seen = views[0]
    sure = torch.where(seen.target[:, 0] == 1, 50.0, -50.0)
    module.objective.classifier = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.objective.classifier.weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        module.objective.classifier.bias.zero_()
    told = Encoding(sure[:, None], sure[:, None, None], torch.ones(32, 1).bool())
    encodings = [told] * 3
    assert module.score(encodings, views, batch).loss.item() == pytest.approx(0.0, abs=1e-6)
    assert seen.is_target.any() and 0 < seen.target.sum() < 32
    # (d, c, b) is in order as (b, c, d) is: the class depends on the middle one alone.
    picked = torch.cat(
        [module.encoder.clip(batch, spec).picked for spec in module.objective.views], 1
    )
    middle = (picked[:, 0] - picked[:, 1]).sign() == (picked[:, 1] - picked[:, 2]).sign()
    assert torch.equal(middle.long(), seen.target[:, 0])
    assert len((picked[:, 0] - picked[:, 2]).sign().unique()) == 2


def test_a_static_clip_cannot_beat_ln_2_and_is_left_out():
    # Alike pictures give one pair of logits for all samples, so the best is a constant.
    objective = ShuffleAndLearn(args={"triple.unlike": -1.0})
    encoder = tiny_video()
    module: Any = Pretraining(encoder, objective)
    clip = clip_of(1)
    clip["frames"][:] = clip["frames"][0]
    samples = [{**clip, "index": i, "ordinal": i} for i in range(2000)]
    batch = encoder.collator()(samples)
    batch.partners = {}
    views = [encoder.view(batch, spec) for spec in objective.views]
    assert torch.equal(views[0].inputs["frames"], views[1].inputs["frames"])
    losses = []
    for lean in torch.linspace(-1.5, 1.5, 31):
        with torch.no_grad():
            objective.classifier.weight.zero_()
            objective.classifier.bias.copy_(torch.tensor([-lean / 2, lean / 2]))
            pooled = [
                Encoding(torch.ones(2000, 16), torch.ones(2000, 1, 16), v.mask) for v in views
            ]
            losses.append(module.score(pooled, views, batch).loss.item())
    assert min(losses) == pytest.approx(math.log(2), abs=0.02)
    strict: Any = Pretraining(encoder, ShuffleAndLearn())
    term = strict(encoder.collator()(samples[:8])).terms["order"]
    assert term.loss.item() == 0.0


def test_segments_of_a_series_are_put_in_order_too():
    # Waves whose height grows with time: their order can be told from any segment.
    torch.manual_seed(0)
    encoder = SeriesEncoder.from_config(
        {
            "model_type": "dilated_conv",
            "hidden_size": 16,
            "output_size": 16,
            "num_hidden_layers": 3,
        },
        context=40,
        norm="none",
    )
    steps = torch.arange(40.0)
    module: Any = Pretraining(encoder, ShuffleAndLearn(negatives=0.5))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for epoch in range(60):
        phase = uniform(0, torch.arange(32) + 32 * epoch, 1, 1) * 6.3
        values = torch.sin(steps + phase)[:, :, None] * 0.2 + (steps / 20 - 1)[:, None]
        rows = [
            {"values": v.numpy(), "index": i, "ordinal": i + 32 * epoch}
            for i, v in enumerate(values)
        ]
        batch = encoder.collator()(rows)
        assert all(v.is_target.all() for v in module.view(batch)) or epoch
        loss = module(batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_share_or_an_argument_that_is_none_is_refused():
    with pytest.raises(ValueError, match="negatives is a share between 0 and 1, but 1 came"):
        ShuffleAndLearn(negatives=1)
    with pytest.raises(ValueError, match=r"'flip\.x' is no argument"):
        RotationPrediction(args={"flip.x": 1})
