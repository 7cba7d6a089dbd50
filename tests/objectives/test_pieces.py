"""Pretext tasks on pieces: chance, the formulas written out, and what they refuse."""

import math
from typing import Any

import pytest
import torch
from tiny_video import make_video, tiny_video

from unlabel.core import Encoding
from unlabel.objectives import ContextPrediction, Counting, Jigsaw, Sum
from unlabel.training.pretraining import Pretraining


def made(objective, kind="frames", rows=8, samples=None) -> tuple[Any, Any]:
    encoder = tiny_video(kind)
    return Pretraining(encoder, objective, samples), make_video(encoder, rows)


def encodings(module, views, pooled):
    """Encodings with these vectors, as if the encoder had made them."""
    seen = [torch.zeros(*v.mask.shape, module.encoder.width, dtype=p.dtype) for v, p in zip(views, pooled, strict=True)]  # fmt: skip  # noqa: E501
    return [Encoding(p, t, v.mask) for p, t, v in zip(pooled, seen, views, strict=True)]


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        (lambda: ContextPrediction(hidden=8), math.log(8)),
        (lambda: Jigsaw(orders=20, hidden=8), math.log(20)),
        (lambda: Jigsaw(orders=24, grid=2, hidden=8), math.log(24)),
    ],
)
def test_a_silent_head_gives_ln_of_the_classes(objective, wanted):
    module, batch = made(objective())
    with torch.no_grad():
        for p in module.objective.classifier[-1].parameters():
            p.zero_()
    term = module(batch).terms["place"]
    assert term.loss.item() == pytest.approx(wanted, abs=1e-6)
    assert term.chance == pytest.approx(wanted)


@pytest.mark.parametrize("objective", [ContextPrediction, Jigsaw])
def test_the_class_is_the_one_that_the_view_drew(objective):
    module, batch = made(objective(hidden=8, **({"orders": 8} if objective is Jigsaw else {})))
    views = module.view(batch)
    classes = module.objective.places
    target = views[-1].target[:, 0]
    pooled = [torch.zeros(8, 16) for _ in views]
    pooled[-1] = torch.nn.functional.one_hot(target, 16).float()
    module.objective.classifier = torch.nn.Linear(16 * len(views), classes, bias=False)
    with torch.no_grad():
        module.objective.classifier.weight.zero_()
        module.objective.classifier.weight[:, -16:] = 100 * torch.eye(classes, 16)
    step = module.score(encodings(module, views, pooled), views, batch)
    assert step.loss.item() == pytest.approx(0.0, abs=1e-6)


def test_all_pieces_go_through_the_encoder_in_one_call():
    module, batch = made(Jigsaw(orders=5, hidden=8), rows=4)
    calls = []
    module.encoder.driver.register_forward_hook(lambda m, args, out: calls.append(len(out.mask)))
    module(batch)
    assert calls == [36]


def test_sums_share_their_pieces():
    both = Sum({"a": Jigsaw(orders=5, hidden=8), "b": Jigsaw(orders=5, hidden=16)})
    assert len(made(both)[0].objective.views) == 9


def test_arguments_of_views_reach_them():
    first, other = ContextPrediction(before="flip", after="jitter", args={"jitter.hue": 0}).views
    assert (first.name, other.name) == ("flip+piece+jitter",) * 2
    assert dict(other.parts()[1].args) == {"place": "beside", "gap": 0.5, "jitter": 0.073}
    assert dict(Jigsaw(args={"gray.ratio": 0.9}).views[0].parts()[1].args) == {"ratio": 0.9}
    with pytest.raises(ValueError, match="no argument of a view in piece"):
        ContextPrediction(after="", args={"channel_cutoff.ratio": 0.5})
    wrong: Any
    for wrong in ({"grid": 4}, {"orders": 25, "grid": 2}, {"orders": 1}):
        with pytest.raises(ValueError, match="A puzzle has a grid of 2 or 3"):
            Jigsaw(**wrong)


def test_text_and_series_are_refused(make_encoder):
    for objective in (ContextPrediction(), Jigsaw(), Counting()):
        with pytest.raises(ValueError, match="needs view"):
            Pretraining(make_encoder(), objective)


# -- counting ----------------------------------------------------------------------------------


def counted(pooled, margin=10.0, index=None):
    """The terms where phi is what the encoder gives."""
    objective = Counting(margin=margin, width=16, before="")
    module, batch = made(objective, rows=len(pooled[0]))
    if index is not None:
        batch.index, batch.ordinal = index, index
    module.objective.counter = torch.nn.Identity()
    views = module.view(batch)
    return module.score(encodings(module, views, pooled), views, batch).terms


def test_phi_of_zero_gives_the_margin():
    terms = counted([torch.zeros(4, 3)] * 5)
    assert terms["pair"].loss.item() == 0.0
    assert terms["contrast"].loss.item() == terms["contrast"].chance == 10.0


def test_what_adds_up_over_areas_has_no_pair_term():
    encoder = tiny_video()
    batch = make_video(encoder, 6)
    module: Any = Pretraining(encoder, Counting(before=""))
    views = module.view(batch)
    # The mean of a view's pixels, times its share of the picture.
    shares = [1.0, *[0.25] * 4]
    pooled = [s * v.inputs["frames"].double().mean((1, 3, 4)) for s, v in zip(shares, views, strict=True)]  # fmt: skip  # noqa: E501
    terms = counted(pooled)
    assert terms["pair"].loss.item() == pytest.approx(0.0, abs=1e-12)
    assert terms["contrast"].loss.item() > 1.0


def test_counting_is_the_formula():
    generator = torch.Generator().manual_seed(1)
    whole, *parts = torch.rand(5, 6, 3, generator=generator, dtype=torch.float64)
    index = torch.tensor([4, 0, 9, 2, 7, 5])
    terms = counted([whole, *parts], margin=10.5, index=index)
    after = {0: 2, 2: 4, 4: 5, 5: 7, 7: 9, 9: 0}
    pair, pushed = 0.0, 0.0
    for i in range(6):
        total = sum(p[i] for p in parts)
        other = whole[index.tolist().index(after[int(index[i])])]
        pair += float((whole[i] - total).pow(2).sum()) / 6
        pushed += max(0.0, 10.5 - float((other - total).pow(2).sum())) / 6
    assert terms["pair"].loss.item() == pytest.approx(pair, rel=1e-12)
    assert terms["contrast"].loss.item() == pytest.approx(pushed, rel=1e-12)
    assert pushed > 0


def test_a_sample_alone_or_twice_has_no_other():
    one = [torch.ones(1, 3)] * 5
    assert counted(one)["contrast"].loss.item() == 0.0
    twice = counted([torch.zeros(3, 3)] * 5, index=torch.tensor([1, 1, 1]))
    assert twice["contrast"].loss.item() == 0.0
    wrong: Any
    for wrong in ({"margin": 0.0}, {"width": 0}):
        with pytest.raises(ValueError, match="margin and width are above 0"):
            Counting(**wrong)
