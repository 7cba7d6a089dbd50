import dataclasses

import pytest
import torch

from unlabel.benchmarks.fault_runs import MODALITIES, STEPS, differences
from unlabel.benchmarks.fault_trials import FAULTS, Result
from unlabel.benchmarks.faults import draw, faults
from unlabel.benchmarks.steady import slope


def test_a_campaign_draws_each_fault_as_often_and_is_the_same_for_a_seed():
    drawn = list(draw(40, 3, tuple(FAULTS), MODALITIES, (1, 2)))
    assert drawn == list(draw(40, 3, tuple(FAULTS), MODALITIES, (1, 2)))
    assert drawn != list(draw(40, 4, tuple(FAULTS), MODALITIES, (1, 2)))
    assert all(sum(t.fault == fault for t in drawn) == 4 for fault in FAULTS)
    assert {t.modality for t in drawn} == {*MODALITIES} and {t.ranks for t in drawn} == {1, 2}
    assert all(t.ranks > 1 for t in drawn if t.fault == "rank")
    assert all(t.workers for t in drawn if t.fault == "worker")
    assert all(-1 <= t.step < STEPS for t in drawn)


def test_an_unknown_fault_is_refused_by_name():
    with pytest.raises(ValueError, match="No flood here; there are kill, "):
        faults(kinds=["flood"])


def test_differences_takes_nan_for_nan_and_tells_one_bit():
    one = {"a": [torch.zeros(2), float("nan")], "b": 1}
    other = {"a": [torch.zeros(2), float("nan")], "b": 1}
    assert differences(one, other) == []
    other["a"][0].view(torch.int32)[1] ^= 1
    assert differences(one, other) == ["/a/0: tensors differ"]
    assert differences(one, {"a": one["a"]}) == [": ['b']"]


# What tests/training does not break: the right to write, a worker, the data, the clock.
@pytest.mark.slow
def test_broken_runs_of_the_command_come_back_whole(tmp_path, capsys):
    kinds = ["read-only", "worker", "shard", "clock"]
    found = faults(
        trials=4, seed=1, kinds=kinds, modalities=["text", "audio"], ranks=[1],
        output=str(tmp_path / "faults.json"),
    )  # fmt: skip
    assert [r.trial.fault for r in found] == kinds and not any(r.wrong for r in found), found
    said = capsys.readouterr().out
    assert "4 broken runs, 0 that did not come back whole" in said.replace("\n", " ")
    assert dataclasses.is_dataclass(Result) and (tmp_path / "faults.json").stat().st_size > 500


def test_the_slope_of_memory_is_that_of_a_line_after_the_warm_up():
    steps = range(500, 50_001, 500)
    line = [100 + 0.002 * s if s >= 5000 else 10.0 for s in steps]
    rise, half = slope(list(steps), line)
    assert rise == pytest.approx(20, rel=1e-6) and half == pytest.approx(0, abs=1e-6)
