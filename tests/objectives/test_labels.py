"""Labels in the batch: what methods make of them, and of samples that have none."""

import math
from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series
from tiny_video import make_video, tiny_video

from unlabel.modalities import MODALITIES
from unlabel.objectives import S4L, SLA, InstanceContrast, RotationPrediction, Supervised
from unlabel.training.pretraining import Pretraining, why_not


def silent(*heads):
    with torch.no_grad():
        for head in heads:
            head.weight.zero_()
            head.bias.zero_()


def of_series(make: Any, **more: Any) -> Any:
    encoder = TinySeries()
    torch.manual_seed(5)
    return Pretraining(encoder, make(), **more).double(), make_series(encoder)


def test_a_weight_of_zero_is_supervised_gradients_included():
    def found(make):
        module, batch = of_series(make)
        step = module(batch)
        step.loss.backward()
        return step.loss.detach(), [p.grad for p in module.parameters()]

    alone, grads = found(lambda: Supervised(classes=3))
    loss, same = found(lambda: S4L(weight=0, classes=3))
    assert torch.equal(alone, loss)
    assert all(torch.equal(a, b) for a, b in zip(grads, same, strict=True))


def test_heads_that_know_nothing_cost_ln_c_and_the_weighted_ln_4():
    encoder = tiny_video("tubes")
    objective = S4L(pretext=RotationPrediction(), weight=0.7, classes=3)
    module = Pretraining(encoder, objective)
    silent(*(part.classifier for part in objective.parts.values()))
    step = module(make_video(encoder))
    assert step.loss.item() == pytest.approx(math.log(3) + 0.7 * math.log(4), abs=1e-5)
    assert step.terms["supervised/label"].chance == pytest.approx(math.log(3))


def test_samples_without_a_class_count_in_the_pretext_alone():
    module, batch = of_series(lambda: S4L(pretext=InstanceContrast(width=8), classes=3))
    views = module.view(batch)
    encodings = module.encode(views)
    terms = module.score(encodings, views, batch).terms
    place = module.objective.views.index(module.objective.parts["supervised"].views[0])
    seen = batch.label >= 0
    logits = module.objective.parts["supervised"].classifier(encodings[place].pooled)[seen]
    expected = -logits.log_softmax(1)[torch.arange(int(seen.sum())), batch.label[seen]].mean()
    torch.testing.assert_close(terms["supervised/label"].loss, expected, rtol=1e-12, atol=0)
    batch.label = torch.full_like(batch.label, -1)
    without = module.score(encodings, views, batch).terms
    assert without["supervised/label"].loss.item() == 0
    torch.testing.assert_close(
        without["pretext/contrast"].loss, terms["pretext/contrast"].loss, rtol=0, atol=0
    )


def test_silent_heads_of_sla_cost_ln_c_m_and_ln_c():
    encoder = tiny_video("frames")
    module = Pretraining(encoder, SLA(classes=3))
    silent(module.objective.joint, module.objective.single)
    step = module(make_video(encoder))
    assert step.loss.item() == pytest.approx(math.log(3 * 4) + math.log(3), abs=1e-5)
    assert step.terms["joint"].chance == pytest.approx(math.log(12))


def test_sla_of_one_view_distils_the_joint_head_itself():
    encoder = TinySeries()
    encoder.turned = encoder.turned[:1]
    module = Pretraining(encoder, SLA(classes=3)).double()
    module.objective.joint.load_state_dict(module.objective.single.state_dict())
    terms = module(make_series(encoder)).terms
    assert terms["distilled"].loss.item() == pytest.approx(0, abs=1e-12)
    assert terms["joint"].loss.item() == pytest.approx(terms["single"].loss.item(), rel=1e-12)


def test_sla_is_its_formula():
    module, batch = of_series(lambda: SLA(classes=3, temperature=2.0))
    views = module.view(batch)
    encodings = module.encode(views)
    method, terms = module.objective, module.score(encodings, views, batch).terms
    told, alone, apart = [], [], []
    for i, y in enumerate(batch.label.tolist()):
        if y < 0:
            continue
        joint = [method.joint(e.pooled[i]) for e in encodings]
        told += [-z.log_softmax(0)[y * 2 + j] for j, z in enumerate(joint)]
        single = method.single(encodings[0].pooled[i])
        alone.append(-single.log_softmax(0)[y])
        mean = torch.stack(
            [torch.stack([z[c * 2 + j] for c in range(3)]) for j, z in enumerate(joint)]
        ).mean(0)
        p, q = (mean / 2).softmax(0), (single / 2).softmax(0)
        apart.append(4 * (p * (p / q).log()).sum())
    for name, values in (("joint", told), ("single", alone), ("distilled", apart)):
        torch.testing.assert_close(
            terms[name].loss, torch.stack(values).mean(), rtol=1e-11, atol=1e-13
        )


def test_what_is_distilled_teaches_the_single_head_alone():
    module, batch = of_series(lambda: SLA(classes=3))
    loss = module(batch).terms["distilled"].loss
    method = module.objective
    assert torch.autograd.grad(loss, method.joint.weight, retain_graph=True, allow_unused=True) == (
        None,
    )
    assert torch.autograd.grad(loss, method.single.weight)[0].abs().sum() > 0


def test_the_views_are_those_that_can_be_told_apart():
    clips, series = SLA(classes=2), SLA(classes=2)
    Pretraining(tiny_video("frames"), clips)
    assert [dict(v.args) for v in clips.views] == [{"turns": turns} for turns in range(4)]
    Pretraining(TinySeries(), series)
    assert [v.name for v in series.views] == ["plain", "reverse"]
    assert why_not(SLA(), MODALITIES["text"]).startswith("needs views that can be told apart")


def test_turned_pictures_are_turned():
    encoder = tiny_video("frames")
    batch = make_video(encoder, 2)
    clips = [encoder.clip(batch, spec).frames for spec in encoder.turned]
    assert all(torch.equal(clips[j], clips[0].rot90(j, (3, 4))) for j in range(4))


def test_the_number_of_classes_comes_with_the_data_unless_it_is_given():
    assert of_series(S4L, classes=5)[0].objective.parts["supervised"].classifier.out_features == 5
    given = of_series(lambda: SLA(classes=4), classes=5)[0].objective
    assert given.single.out_features == 4
    for make in (S4L, SLA):
        with pytest.raises(ValueError, match="labels of at least two classes, but the data has no"):
            of_series(make)
    with pytest.raises(ValueError, match="the data has 1 class"):
        of_series(SLA, classes=1)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="pretext is 0 or more, but -1 came"):
        S4L(weight=-1)
    with pytest.raises(ValueError, match="A temperature is above 0, but 0 came"):
        SLA(temperature=0)
