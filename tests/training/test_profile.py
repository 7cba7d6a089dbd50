"""Where the time of a step goes: every part is named, and they make up the step."""

import json
import time

import pytest
import torch
from tiny import make_trainer, outcome
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from unlabel.benchmarks.fault_runs import differences
from unlabel.training.profile import PARTS, WARM_UP, times


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


def test_a_devices_time_is_told_by_the_part_that_launched_its_work():
    def event(name, start, end, *, on=DeviceType.CPU, thread=1, marked=False):
        return FunctionEvent(
            id=0, name=name, thread=thread, start_us=start, end_us=end, use_device="cuda",
            device_type=on, is_user_annotation=marked, stack=[], sequence_nr=-1,
        )  # fmt: skip

    forward, again = event("aten::mm", 20, 30), event("aten::mm", 220, 230, thread=2)
    forward.append_kernel("gemm", 0, 400)
    again.append_kernel("gemm", 0, 800)  # the thread of the gradients launches it
    spans = [("unlabel:step", 0, 2000), ("unlabel:encode", 10, 100), ("unlabel:backward", 200, 300)]
    here = [event(*span, marked=True) for span in spans]
    there = [
        event("unlabel:step", 40, 1900, on=DeviceType.CUDA, thread=7, marked=True),
        event("unlabel:encode", 40, 440, on=DeviceType.CUDA, thread=7, marked=True),
        event("gemm", 40, 440, on=DeviceType.CUDA, thread=7),
        event("gemm", 450, 1250, on=DeviceType.CUDA, thread=7),
    ]
    events = EventList([*here, forward, again, *there], use_device="cuda")
    events._build_tree()
    found = times(events, 2)
    assert found["step"] == {"cpu": 1.0, "device": 0.6}
    parts = {name: of["device"] for name, of in found["parts"].items()}
    assert parts == pytest.approx({"encode": 0.2, "backward": 0.4, "trainer": 0.0})
    assert found["parts"]["encode"]["cpu"] == pytest.approx(0.045)
    assert found["operators"] == {"aten::mm": {"cpu": 0.01, "device": 0.6}}
