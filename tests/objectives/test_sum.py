"""Sums: how their parts weigh, and what each pulls at."""

from typing import Any, cast

import pytest
import torch
from tiny_series import TinySeries, make_series

from unlabel.objectives import InstanceContrast, MaskedValues, Sum
from unlabel.objectives.weighting import GradientShares, Schedule
from unlabel.training.pretraining import Pretraining


def parts():
    return {"a": InstanceContrast(width=8), "b": MaskedValues()}


def made(**options) -> tuple[Any, Any]:
    encoder = TinySeries()
    torch.manual_seed(0)
    return Pretraining(encoder, Sum(parts(), **options)), make_series(encoder, rows=8)


def pulls(module, batch):
    """The length of each part's own gradient at the encoder's outputs, by a pass for each."""
    views = module.view(batch)
    encodings = module.encode(views)
    ends = [x for e in encodings for x in (e.pooled, e.tokens)]
    terms = module.objective(encodings, views, batch)
    found = []
    for name in module.objective.parts:
        theirs = [t.loss * t.weight for key, t in terms.items() if key.startswith(f"{name}/")]
        own = torch.stack(theirs).sum()
        grads = torch.autograd.grad(own, ends, retain_graph=True, allow_unused=True)
        found.append(torch.stack([g.square().sum() for g in grads if g is not None]).sum().sqrt())
    return torch.stack(found)


def test_schedule_is_straight_lines_between_points():
    schedule = Schedule([[(2, 1.0), (6, 3.0), (8, 0.0)], 0.5])
    seen = []
    for _ in range(10):
        seen.append(schedule().tolist())
        schedule.step()
    assert [s[0] for s in seen] == pytest.approx([1, 1, 1, 1.5, 2, 2.5, 3, 1.5, 0, 0])
    assert {s[1] for s in seen} == {0.5}


@pytest.mark.parametrize("points", [[], [(3, 1.0), (2, 1.0)], [(0, 1.0), (0, 2.0)], [(0, -1.0)]])
def test_schedule_refuses_points_that_make_no_line(points):
    with pytest.raises(ValueError, match="each step once and in order"):
        Schedule([points])


def test_scheduled_weight_multiplies_the_terms_of_its_step():
    module, batch = made(weights={"b": [(0, 0.0), (4, 2.0)]})
    for step in range(6):
        terms = module(batch).terms
        assert float(terms["b/value"].weight) == pytest.approx(min(step / 2, 2))
        assert float(terms["a/contrast"].weight) == 1
        module.step()


def test_shares_are_those_of_gradients_taken_one_by_one():
    module, batch = made(weights={"a": 0.3})
    wanted = pulls(module, batch)
    module(batch).loss.backward()
    module.step()
    torch.testing.assert_close(module.objective.pulls.shares(), wanted / wanted.sum())
    figures = module.objective.figures()
    assert figures["share/a"] + figures["share/b"] == pytest.approx(1)
    # Measuring changes no gradient.
    plain, _ = made(weights={"a": 0.3})
    plain.objective.pulls.watched = lambda encodings, part: encodings
    plain(batch).loss.backward()
    for mine, theirs in zip(module.encoder.parameters(), plain.encoder.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_balanced_by_gradient_every_share_is_its_weights_share():
    module, batch = made(weights={"a": 3.0}, balance="gradient")
    before = pulls(module, batch)
    module(batch).loss.backward()
    module.step()
    after = pulls(module, batch)
    torch.testing.assert_close(after / after.sum(), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(after.sum(), before.sum())


def test_learned_uncertainty_settles_where_every_part_costs_its_weight():
    module, batch = made(weights={"a": 2.0}, balance="uncertainty")
    first = module(batch).terms
    assert first["a/contrast"].weight == 2 and first["b/value"].weight == 1
    best = torch.optim.LBFGS([module.objective.log_variance], max_iter=50)

    def closure():
        best.zero_grad()
        loss = module(batch).loss
        loss.backward(inputs=[module.objective.log_variance])
        return loss

    best.step(closure)
    terms = module(batch).terms
    for key, weight in (("a/contrast", 2), ("b/value", 1)):
        term = terms[key]
        torch.testing.assert_close(
            (term.loss * term.weight).detach(), torch.tensor(float(weight)), rtol=1e-3, atol=1e-3
        )


def test_what_no_gradient_reached_has_no_share():
    shares = GradientShares(2)
    shares.begin(torch.ones(2))
    shares.step()
    assert shares.shares().tolist() == [0, 0] and int(shares.steps) == 0


def test_an_unknown_balance_is_refused():
    with pytest.raises(ValueError, match="fixed, uncertainty or gradient"):
        Sum(parts(), balance=cast(Any, "even"))


@pytest.mark.parametrize("name", ["values", "keys", "a.b"])
def test_a_name_that_torch_has_for_itself_is_refused(name):
    with pytest.raises(ValueError, match="cannot be named"):
        Sum({name: InstanceContrast()})
