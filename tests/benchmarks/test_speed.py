"""All speed benchmarks by one command, and what the trainer costs."""

import json
import subprocess
from pathlib import Path

import pytest

from unlabel.benchmarks import speed as module
from unlabel.benchmarks.overhead import overhead
from unlabel.benchmarks.speed import speed


def test_the_trainer_and_the_bare_loop_make_the_same_steps(tmp_path):
    (row,) = overhead(kinds=["series"], steps=2, rounds=1, output=str(tmp_path / "rows.json"))
    assert json.loads((tmp_path / "rows.json").read_text()) == [row]
    assert row["ratio"]["median"] == row["trainer_ms"] / row["bare_ms"] > 0
    ((found,),) = [row["losses"]]
    # The log's line is of all ten steps and more before it; both fall alike from one start.
    assert found["trainer"] == pytest.approx(found["bare"], rel=0.2)
    with pytest.raises(ValueError, match="no kind 'smell'"):
        overhead(kinds=["smell"])


def _fake(words, figures):
    name, file = words[0], Path(words[-1])
    if name not in figures:
        return f"{name} was not there (python -m unlabel.benchmarks.{name})"
    file.write_text(json.dumps(figures[name]))
    return ""


def test_a_task_that_fails_is_told_and_the_others_are_shown(tmp_path, capsys, monkeypatch):
    loss = {"task": "nt_xent", "pairs": 64, "width": 8}
    rows = [
        {**loss, "method": m, "wall_seconds": s[0], "repeats": s, "peak_bytes": b}
        for m, s, b in (("unlabel", [1.0, 1.5], 10.0), ("matrix", [3.0, 4.0], 50.0))
    ]
    missing = {**loss, "method": "lightly", "note": "not installed"}
    ratio = {"median": 2.0, "low": 0.5, "high": 4.0}
    figures = {
        "contrast": {"speed": [*rows, missing], "setting": {"device": "cpu"}},
        "overhead": [{"kind": "text", "method": "simcse", "batch": 4, "ratio": ratio,
                      "bare_ms": 1.0, "trainer_ms": 2.0}],
    }  # fmt: skip
    monkeypatch.setattr(module, "_run", lambda words, device: _fake(words, figures))
    found = speed(output=str(tmp_path), tasks=["loss", "trainer", "video", "decode"])
    first, second = found["ratios"]
    assert (first["peer"], first["ratio"], first["memory"]) == ("matrix", 3.0, 5.0)
    assert (first["low"], first["high"]) == (2.0, 4.0)
    # A bare loop takes half of the trainer's time: we are at 0.5 of it.
    assert (second["peer"], second["ratio"]) == ("a bare loop", 0.5)
    assert (second["low"], second["high"]) == (0.25, 2.0)
    assert found["notes"][0].startswith("video: video_step was not there")
    assert "give --videos" in found["notes"][1] and "give --videos" in capsys.readouterr().out
    assert json.loads((tmp_path / "speed.json").read_text()) == found
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_an_unknown_task_is_refused_and_a_failing_process_says_how_to_repeat_it(tmp_path):
    with pytest.raises(ValueError, match=r"no task 'sound'; the tasks are loss, text, trainer"):
        speed(output=str(tmp_path), tasks=["sound"])
    said = module._run(["video_step", "--steps", "0"], "cpu")
    assert "steps is at least 1" in said
    assert said.endswith("(python -m unlabel.benchmarks.video_step --steps 0)")


def test_on_the_cpu_no_task_sees_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    seen = []

    def run(command, env, **_):
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    assert [module._run(["overhead"], device) for device in ("cpu", "cuda")] == ["", ""]
    assert seen == ["", "3"]
