"""Runs that were made to fail, and what the trainer says of them; beside each, one that is well."""

import functools

import pytest
import tiny
import torch
from tiny import make_trainer, sentences

from unlabel.objectives import BYOL, MLM, SimCSE, VICReg, bootstrap
from unlabel.objectives.kernels import regress

pytestmark = pytest.mark.slow

SAYS = {
    "collapsed": "The encoder has collapsed",
    "few dimensions": "dimensional collapse",
    "starving": "the gradient starves",
    "false negatives": "false negatives",
    "teacher": "the teacher follows",
    "leak": "targets leak",
}


def said(caplog, folder, objective, *, prepare=None, **options):
    """What a run's log says, by the names above."""
    caplog.clear()
    how = {"save_strategy": "no", "max_steps": 60, "logging_steps": 10}
    how |= {"per_device_train_batch_size": 16, "rows": 64}
    trainer = make_trainer(folder, objective, **(how | options))
    if prepare is not None:
        prepare(trainer.model)
    trainer.train()
    return {name for name, sentence in SAYS.items() if sentence in caplog.text}


def test_agreement_alone_collapses(tmp_path, caplog):
    alone = VICReg(width=8, variance=0.0, covariance=0.0)
    assert "collapsed" in said(caplog, tmp_path / "a", alone, learning_rate=3e-2)
    assert said(caplog, tmp_path / "b", VICReg(width=8), learning_rate=3e-3) == set()


def test_an_encoder_that_keeps_one_direction_fills_few_dimensions(tmp_path, caplog):
    def one_direction(model):
        # What is left of the pooled vectors beside their mean is one number.
        axis = torch.nn.functional.normalize(torch.tensor([1.0, -1.0] * 8), dim=0)
        wane = {"step": 0}

        def hook(module, arguments, encoding):
            wane["step"] += 1
            keep = 0.8 ** wane["step"]
            along = (encoding.pooled @ axis)[:, None] * axis
            encoding.pooled = along - along.mean(0) + keep * (encoding.pooled - along)
            return encoding

        model.encoder.register_forward_hook(hook)

    assert "few dimensions" in said(caplog, tmp_path, MLM(), prepare=one_direction)


def test_a_temperature_too_low_starves(tmp_path, caplog):
    low = {"dropout": 0.01, "learning_rate": 1e-3}
    assert said(caplog, tmp_path / "a", SimCSE(temperature=0.002), **low) == {"starving"}
    assert said(caplog, tmp_path / "b", SimCSE(temperature=0.1), **low) == set()


def test_doubles_in_the_data_are_false_negatives(tmp_path, caplog, monkeypatch):
    assert said(caplog, tmp_path / "a", SimCSE(temperature=0.1)) == set()
    few = sentences(8)
    monkeypatch.setattr(
        tiny, "sentences", lambda count, seed=0: (few * count)[:count] if count == 64 else few
    )
    assert said(caplog, tmp_path / "b", SimCSE(temperature=0.1)) == {"false negatives"}


def test_a_teacher_that_follows_at_once_is_named(tmp_path, caplog):
    fast, slow = (BYOL(momentum=m, width=8, hidden=16) for m in (0.0, 0.99))
    assert "teacher" in said(caplog, tmp_path / "a", fast, learning_rate=3e-2)
    assert "teacher" not in said(caplog, tmp_path / "b", slow, learning_rate=1e-3)


def test_a_mask_that_hides_nothing_is_a_leak(tmp_path, caplog):
    def show_all(model):
        made = model.encoder.view

        def view(batch, spec):
            seen = made(batch, spec)
            seen.inputs["input_ids"] = torch.where(
                seen.is_target, seen.target, seen.inputs["input_ids"]
            )
            return seen

        model.encoder.view = view

    how = {"learning_rate": 2e-2, "max_steps": 120, "dropout": 0.0}
    assert said(caplog, tmp_path / "a", MLM(rate=0.5), prepare=show_all, **how) == {"leak"}
    assert said(caplog, tmp_path / "b", MLM(rate=0.5), **how) == set()


@pytest.fixture(autouse=True)
def _hear(caplog):
    caplog.set_level("WARNING")


def test_byol_collapses_without_its_stopped_gradient(tmp_path, caplog, monkeypatch):
    def no_stop(model):
        method = model.objective

        def pairs(encodings):
            z0, z1 = (method.projector(e.pooled) for e in encodings[:2])
            return {"forth": (z0, z1), "back": (z1, z0)}

        method.pairs = pairs

    how = {"learning_rate": 3e-3, "max_steps": 150, "lr_scheduler_type": "constant"}
    whole, bare = (BYOL(momentum=0.99, width=8, hidden=16) for _ in range(2))
    assert said(caplog, tmp_path / "a", whole, **how) == set()
    apart = functools.partial(regress, metric="cosine", reduction="mean")
    monkeypatch.setattr(bootstrap, "_apart", apart)
    assert said(caplog, tmp_path / "b", bare, prepare=no_stop, **how) == {"collapsed"}
