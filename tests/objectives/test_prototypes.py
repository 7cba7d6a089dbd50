"""Sinkhorn, SwAV, DINO and iBOT: known answers, formulas written out, and state that moves."""

import math
from typing import Any

import pytest
import torch
from tiny_series import PROTOTYPES, SWAV, TinySeries, make_series

from unlabel.core import Encoding
from unlabel.objectives import BYOL, DINO, IBOT, MoCo, MoCoV3, Sum, SwAV
from unlabel.objectives.chains import multi_crop, usual
from unlabel.objectives.sinkhorn import sinkhorn
from unlabel.objectives.state import Centre, Ramp, Teacher, growing
from unlabel.training.pretraining import Pretraining


def made(method, seed: int = 0) -> tuple[Any, Any]:
    module = Pretraining(TinySeries(seed=seed), method).double()
    return module, make_series(module.encoder)


def scored(module, batch, pooled):
    """The terms where each view's pooled vector and tokens are given ones."""
    views = module.view(batch)
    seen = [
        Encoding(p, p[:, None].expand(-1, v.mask.shape[1], -1), v.mask)
        for p, v in zip(pooled, views, strict=True)
    ]
    return module.score(seen, views, batch).terms


def vectors(count: int, rows: int = 8, width: int = 16) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return list(torch.randn(count, rows, width, generator=draw, dtype=torch.float64))


# -- Sinkhorn ----------------------------------------------------------------------------------


def test_rows_sum_to_one_and_columns_to_n_over_k():
    scores = torch.rand(24, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = sinkhorn(scores, eps=0.2, iterations=500)
    torch.testing.assert_close(found.sum(1), torch.ones(24).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        found.sum(0), torch.full((5,), 24 / 5, dtype=torch.float64), rtol=0, atol=1e-10
    )


def test_three_iterations_are_the_scalings_written_out():
    scores = torch.rand(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / 4
        q = q / q.sum(0, keepdim=True) / 10
    torch.testing.assert_close(sinkhorn(scores), (q * 10).T, rtol=1e-12, atol=1e-14)


def test_equal_scores_give_equal_shares_and_huge_ones_stay_finite():
    even = sinkhorn(torch.zeros(6, 3))
    torch.testing.assert_close(even, torch.full((6, 3), 1 / 3))
    assert sinkhorn(torch.eye(4) * 1e4).isfinite().all()


def test_rows_that_do_not_count_change_nothing_for_the_others():
    scores = torch.rand(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    counts = torch.arange(9) < 6
    torch.testing.assert_close(sinkhorn(scores, is_counted=counts)[:6], sinkhorn(scores[:6]))


def test_sinkhorn_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="eps > 0 and at least one iteration"):
        sinkhorn(torch.zeros(2, 2), eps=0)


# -- known answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SwAV(**SWAV), DINO(**PROTOTYPES), IBOT(**PROTOTYPES)])
def test_equal_prototypes_give_ln_k(method):
    module, batch = made(method)
    with torch.no_grad():
        module.objective.projector.prototypes.copy_(torch.ones(6, 8))
        if not isinstance(method, SwAV):
            module.objective.key_projector.module.prototypes.copy_(torch.ones(6, 8))
    for term in module(batch).terms.values():
        assert term.loss.item() == pytest.approx(math.log(6), abs=1e-12)
        assert term.chance == pytest.approx(math.log(6))


def test_swav_is_the_swapped_cross_entropy_written_out():
    module, batch = made(SwAV(**SWAV))
    pooled = vectors(4)
    head = module.objective.projector
    z = [torch.nn.functional.normalize(head.mlp(x), dim=1) for x in pooled]
    c = torch.nn.functional.normalize(head.prototypes, dim=1)
    wanted, pairs = 0.0, 0
    for i in range(2):
        q = sinkhorn((z[i] @ c.T).detach())
        for j in range(4):
            if j != i:
                wanted, pairs = (
                    wanted - (q * (z[j] @ c.T / 0.1).log_softmax(1)).sum(1).mean(),
                    pairs + 1,
                )
    found = scored(module, batch, pooled)["swap"].loss
    torch.testing.assert_close(found, wanted / pairs)


def test_prototypes_learn_nothing_while_they_are_frozen():
    module, batch = made(SwAV(**{**SWAV, "frozen": 1}))
    module(batch).loss.backward()
    assert not module.objective.projector.prototypes.grad.any()
    assert module.objective.projector.mlp[0].weight.grad.any()
    module.step()
    module(batch).loss.backward()
    assert module.objective.projector.prototypes.grad.any()


def test_the_queue_is_used_after_its_steps_and_only_where_it_is_filled():
    module, batch = made(SwAV(**SWAV, queue=12, queue_after=2))
    objective, scores = module.objective, torch.rand(8, 6, dtype=torch.float64)
    for step in range(3):
        alone = sinkhorn(scores)
        assert torch.allclose(objective.assign(0, scores), alone) == (step < 2)
        module(batch)
        module.step()
    assert [int((q.index >= 0).sum()) for q in objective.queues] == [12, 12]
    queue = objective.queues[0]
    with_queue = torch.cat([scores, objective.projector.score(queue.rows)])
    torch.testing.assert_close(objective.assign(0, scores), sinkhorn(with_queue)[:8])


def test_dino_is_the_formula_and_its_centre_moves_only_in_step():
    module, batch = made(DINO(**PROTOTYPES))
    objective, pooled = module.objective, vectors(6)
    objective.centre.value.copy_(torch.rand(6))
    student = [objective.projector(x) for x in pooled[:4]]
    teacher = [objective.key_projector(x) for x in pooled[4:]]
    before = objective.centre.value.clone()
    wanted = []
    for i, t in enumerate(teacher):
        q = ((t - before) / 0.04).softmax(1)
        wanted += [
            -(q * (s / 0.1).log_softmax(1)).sum(1).mean() for j, s in enumerate(student) if j != i
        ]
    found = scored(module, batch, pooled)["distil"].loss
    torch.testing.assert_close(found, torch.stack(wanted).mean())
    assert torch.equal(objective.centre.value, before)
    module.step()
    mean = torch.cat(teacher).mean(0)
    torch.testing.assert_close(objective.centre.value, 0.9 * before + 0.1 * mean)
    module.step()
    torch.testing.assert_close(objective.centre.value, 0.9 * before + 0.1 * mean)


def test_dinos_teacher_sees_the_whole_crops_alone():
    views = DINO(crops=3).views
    assert [v.encoder for v in views] == ["online"] * 5 + ["teacher"] * 2
    assert [v.name for v in views] == ["usual"] * 2 + ["local"] * 3 + ["usual"] * 2
    assert [v.stream for v in views[:2]] == [v.stream for v in views[-2:]]


def test_dino_at_its_teacher_learns_when_the_targets_stay():
    module, batch = made(DINO(**PROTOTYPES))
    module(batch)
    module.step()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        loss = module(batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_ibot_that_hides_nothing_is_dino():
    torch.manual_seed(1)
    dino, batch = made(DINO(**PROTOTYPES, augment="crop+jitter"))
    ibot, _ = made(IBOT(**PROTOTYPES, augment="crop+jitter", ratio=0.0))
    ibot.load_state_dict(dino.state_dict(), strict=False)
    one, other = dino(batch).terms, ibot(batch).terms
    torch.testing.assert_close(one["distil"].loss, other["distil"].loss, rtol=0, atol=1e-12)
    assert other["token"].loss.item() == 0.0


def test_ibots_token_term_is_the_formula_and_its_teacher_sees_the_whole_crop():
    module, batch = made(IBOT(**PROTOTYPES, ratio=0.3))
    objective = module.objective
    objective.token_centre.value.copy_(torch.rand(6))
    views = module.view(batch)
    for student, teacher in zip(views[:2], views[-2:], strict=True):
        hidden = student.is_target.any(2)
        assert hidden.any() and not hidden.all() and not teacher.is_target.any()
    encodings = module.encode(views)
    wanted = []
    for i in range(2):
        hidden = views[i].is_target.any(2)
        s = (objective.projector(encodings[i].tokens) / 0.1).log_softmax(2)
        t = objective.key_projector(encodings[i - 2].tokens)
        q = ((t - objective.token_centre.value) / 0.04).softmax(2)
        rows = -(q * s).sum(2)
        wanted += [rows[b][hidden[b]].mean() for b in range(len(rows)) if hidden[b].any()]
    found = module.score(encodings, views, batch).terms["token"].loss
    torch.testing.assert_close(found, torch.stack(wanted).mean())
    before = objective.token_centre.value.clone()
    real = torch.cat([e.tokens[e.mask] for e in encodings[-2:]])
    mean = objective.key_projector(real).mean(0)
    module.step()
    torch.testing.assert_close(objective.token_centre.value, 0.9 * before + 0.1 * mean)


# -- views and momentum ------------------------------------------------------------------------


def test_local_views_are_those_of_the_encoder_and_none_where_it_has_none():
    encoder: Any = TinySeries()
    specs = multi_crop("usual", None, count=2)
    found = [usual(s, encoder) for s in specs]
    assert [f.name for f in found] == ["crop+jitter"] * 4
    assert [dict(f.args) for f in found] == [{}, {}, {"crop.sigma": 0.5}, {"crop.sigma": 0.5}]
    assert len({f.stream for f in found}) == 4
    encoder.local = None
    module = Pretraining(encoder, DINO(**PROTOTYPES))
    assert len(module.objective.views) == 4
    assert module(make_series(encoder)).loss.isfinite()


def test_arguments_of_local_views_are_told_apart():
    whole, _, local = multi_crop(
        "crop+jitter", {"crop.low": 0.5, "local.crop.low": 0.1}, local="crop", count=1
    )
    assert dict(whole.args) == {"crop.low": 0.5} and dict(local.args) == {"low": 0.1}
    with pytest.raises(ValueError, match="0 or more, but -1 came"):
        multi_crop("crop", None, count=-1)


def test_a_momentum_grows_along_a_cosine_and_goes_on_after_a_resume():
    online = torch.nn.Linear(1, 1)
    both: list[Any] = [Teacher(online, momentum=growing(0.8, 4)) for _ in range(2)]
    one, other = both
    ramp = growing(0.8, 4)
    assert isinstance(ramp, Ramp)
    for made_steps in range(5):
        wanted = 1 - 0.2 * (math.cos(math.pi * made_steps / 4) + 1) / 2
        assert float(ramp.at(torch.tensor(made_steps))) == pytest.approx(wanted)
    with torch.no_grad():
        one.module.weight.zero_()
        online.weight.fill_(1.0)
    one.step()
    assert one.module.weight.item() == pytest.approx(0.2)
    one.step()
    other.load_state_dict(one.state_dict())
    for teacher in (one, other):
        teacher.step()
    assert torch.equal(one.module.weight, other.module.weight) and int(other.steps) == 3
    for _ in range(3):
        one.step()
    still = one.module.weight.clone()
    one.step()
    assert torch.equal(one.module.weight, still)
    assert growing(0.8, None) == 0.8
    with pytest.raises(ValueError, match="share from 0 to 1"):
        growing(1.5, None)


def test_pretrainings_teacher_takes_the_growing_momentum():
    module: Any = Pretraining(TinySeries(), DINO(**PROTOTYPES, momentum_steps=7))
    assert module.teacher is not None and module.teacher.momentum == Ramp(0.9, 1.0, 7, True)
    module.step()
    assert int(module.teacher.steps) == int(module.objective.key_projector.steps) == 1
    with pytest.raises(ValueError, match="different teachers"):
        Sum({"a": DINO(momentum_steps=7), "b": MoCo()})


def test_a_ramp_without_steps_is_at_its_end_and_a_line_is_a_line():
    assert float(Ramp(0.04, 0.07, 0).at(torch.tensor(0))) == pytest.approx(0.07)
    line = Ramp(0.04, 0.07, 10)
    assert [float(line.at(torch.tensor(n))) for n in (0, 5, 10, 99)] == pytest.approx(
        [0.04, 0.055, 0.07, 0.07]
    )


def test_a_centre_takes_what_it_holds_once():
    centre = Centre(2, momentum=0.5)
    centre.put(torch.tensor([2.0, 4.0]))
    assert not centre.value.any()
    centre.step()
    centre.step()
    assert centre.value.tolist() == [1.0, 2.0]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="share to hide, below 1, but 1 came"):
        IBOT(ratio=1)
    with pytest.raises(ValueError, match="share from 0 to 1"):
        DINO(momentum=2)
    assert BYOL().teacher_momentum == 0.996
    for start, method in ((0.996, BYOL), (0.99, MoCoV3)):
        assert method(momentum_steps=5).teacher_momentum == Ramp(start, 1.0, 5, is_cosine=True)
