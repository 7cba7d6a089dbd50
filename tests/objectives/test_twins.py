"""Two views of one sample: known answers, and which views are asked for."""

import math
from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series

from unlabel.core import Encoding, view
from unlabel.objectives import (
    AlignUniform,
    BarlowTwins,
    InstanceContrast,
    MoCo,
    SensorContrast,
    VICReg,
)
from unlabel.objectives.contrast import nt_xent
from unlabel.training.pretraining import Pretraining


def pretraining(objective, rows=8, **encoder) -> tuple[Any, Any]:
    made = TinySeries(**encoder)
    return Pretraining(made, objective), make_series(made, rows)


def equal(module, batch):
    """The terms of encodings that are all the same vector."""
    views = module.view(batch)
    ones = lambda v: Encoding(  # noqa: E731
        torch.ones(len(v.mask), 16), torch.ones(*v.mask.shape, 16), v.mask
    )
    return module.score([ones(v) for v in views], views, batch).terms


def test_all_equal_gives_ln_of_the_candidates():
    terms = equal(*pretraining(InstanceContrast()))
    assert terms["contrast"].loss.item() == pytest.approx(math.log(15), abs=1e-5)
    assert terms["contrast"].chance == pytest.approx(math.log(15))
    terms = equal(*pretraining(SensorContrast()))
    assert sum(t.weight * t.loss.item() for t in terms.values()) == pytest.approx(math.log(8))
    assert all(t.chance == pytest.approx(math.log(8)) for t in terms.values())


def test_simclr_is_nt_xent_of_the_projections():
    module, batch = pretraining(InstanceContrast(width=8))
    views = module.view(batch)
    encodings = module.encode(views)
    z0, z1 = (module.objective.projector(e.pooled) for e in encodings)
    loss = module.score(encodings, views, batch).loss
    torch.testing.assert_close(loss, nt_xent(z0, z1, temperature=0.2))


def test_the_same_sample_twice_in_a_batch_is_no_negative_of_itself():
    module, batch = pretraining(InstanceContrast(width=8))
    batch.index = torch.zeros_like(batch.index)
    assert module(batch).loss.item() == 0.0


def test_two_draws_of_one_chain_are_two_views():
    module, batch = pretraining(InstanceContrast(augment="crop+jitter", args={"jitter.high": 0.5}))
    assert [s.name for s in module.objective.views] == ["crop+jitter"] * 2
    first, second = module.view(batch)
    assert not torch.equal(first.inputs["values"], second.inputs["values"])


def test_moco_draws_the_views_named_twice():
    module, batch = pretraining(MoCo(queue=8, width=8, augment="jitter", args={"jitter.high": 0.5}))
    query, key = module.objective.views
    assert query == view("jitter", 0, high=0.5) and key == view(
        "jitter", 1, encoder="teacher", high=0.5
    )
    first, second = module.view(batch)
    assert not torch.equal(first.inputs["values"], second.inputs["values"])
    assert module(batch).loss.isfinite()


def test_the_partner_is_another_sensor_at_the_same_time():
    module, batch = pretraining(SensorContrast(augment="jitter+scaling", args={"jitter.high": 0.0}))
    own, other = module.objective.views
    assert (own.partner, other.partner) == (None, "sensor")
    assert own.name == other.name and own.args == other.args
    batch.partners = {}
    with pytest.raises(KeyError):
        module.view(batch)


def test_sensor_contrast_is_the_mean_of_both_directions():
    module, batch = pretraining(SensorContrast(width=8))
    views = module.view(batch)
    encodings = module.encode(views)
    there = module.score(encodings, views, batch)
    back = module.score(encodings[::-1], views, batch)
    assert there.terms["0_to_1"].loss == back.terms["1_to_0"].loss
    torch.testing.assert_close(there.loss, back.loss)


def test_barlow_twins_of_equal_decorrelated_views_is_0():
    module, batch = pretraining(BarlowTwins())
    module.objective.projector = torch.nn.Identity()
    views = module.view(batch)
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]]).repeat(2, 1)
    same = [Encoding(signs, signs[:, None], v.mask) for v in views]
    assert module.score(same, views, batch).loss.item() == pytest.approx(0.0, abs=1e-6)


def test_vicreg_of_constant_views_is_24_75():
    terms = equal(*pretraining(VICReg()))
    loss = sum(t.weight * t.loss.item() for t in terms.values())
    assert loss == pytest.approx(24.75, abs=1e-4)
    assert {n: t.weight for n, t in terms.items()} == {
        "invariance": 25.0,
        "variance": 25.0,
        "covariance": 1.0,
    }


def test_an_argument_of_a_view_that_is_not_there_is_refused():
    for kind in (InstanceContrast, SensorContrast, BarlowTwins, VICReg, MoCo):
        with pytest.raises(ValueError, match=r"'hide\.ratio' is no argument of a view in jitter"):
            kind(augment="jitter", args={"hide.ratio": 0.1})


def test_what_to_write_is_said_where_the_usual_views_are_to_have_arguments():
    said = "to give arguments to the views that 'usual' stands for, name them"
    for augment in ("usual", "usual+jitter"):
        with pytest.raises(ValueError, match=said):
            InstanceContrast(augment=augment, args={"crop.ratio": 0.3})
    given = InstanceContrast(augment="usual+hide", args={"hide.ratio": 0.3})
    module, _ = pretraining(given)
    assert module.objective.views[0].name == "crop+jitter+hide"


def test_an_exponent_and_a_sharpness_are_above_0():
    wrong: Any
    for wrong in ({"alpha": 0.0}, {"t": -1.0}):
        with pytest.raises(ValueError, match="alpha and t are above 0"):
            AlignUniform(**wrong)
