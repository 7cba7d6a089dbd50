"""Where the time of a step goes: every part is named, and they make up the step."""

import json
import time

import pytest
import torch
from tiny import make_trainer, outcome

from unlabel.benchmarks.fault_runs import differences
from unlabel.training.profile import PARTS, WARM_UP


def _profiled(folder, **options):
    trainer = make_trainer(folder, "moco", profile_steps=3, max_steps=WARM_UP + 4, **options)
    return trainer


def test_the_parts_make_up_the_step_and_a_slow_one_is_seen(tmp_path):
    trainer = _profiled(tmp_path)
    quick, many = trainer.model.objective.forward, torch.ones(1000, 1000)

    def late(*args):
        time.sleep(0.05)
        many.mm(many)
        return quick(*args)

    trainer.model.objective.forward = late
    trainer.train()
    found = json.loads((tmp_path / "profile.json").read_text())
    parts = {name: of["cpu"] for name, of in found["parts"].items()}
    assert parts.keys() == {*PARTS, "trainer"} and min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(found["step"]["cpu"], rel=1e-6)
    assert parts["loss"] >= 50 and max(parts, key=parts.__getitem__) == "loss"
    operators = {name: of["cpu"] for name, of in found["operators"].items()}
    assert found["steps"] == 3 and max(operators, key=operators.__getitem__) == "aten::mm"


def test_micro_batches_are_told_apart_likewise(tmp_path):
    _profiled(tmp_path, gradient_accumulation_steps=2).train()
    found = json.loads((tmp_path / "profile.json").read_text())
    assert {"views", "encode", "loss", "backward"} <= found["parts"].keys()


def test_a_profile_changes_nothing(tmp_path):
    watched = _profiled(tmp_path / "watched")
    plain = make_trainer(tmp_path / "plain", "moco", max_steps=WARM_UP + 4)
    for trainer in (watched, plain):
        trainer.train()
    assert not differences(outcome(watched), outcome(plain))
    assert not (tmp_path / "plain" / "profile.json").exists()


def test_too_short_a_run_says_that_there_is_no_profile(tmp_path, caplog):
    make_trainer(tmp_path, profile_steps=20, max_steps=8).train()
    assert "No profile: it takes 25 steps" in caplog.text and "made 8" in caplog.text
    assert not (tmp_path / "profile.json").exists()
