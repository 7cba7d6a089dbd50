"""What a run leaves of itself: its log."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import make_trainer
from unlabel.record import LogFile


def _logged(run: Path, resume: bool = False) -> list[dict[str, Any]]:
    """Train twelve steps, and read the log's lines of steps without their timings."""
    log = LogFile(run)
    log.kept = 3
    trainer = make_trainer(run, callbacks=[log], save_total_limit=None)
    trainer.train(resume_from_checkpoint=resume)
    assert len(trainer.state.log_history) == 3
    lines = [json.loads(x) for x in log.path.read_text().splitlines()]
    return [{k: v for k, v in x.items() if k != "monitor/waiting"} for x in lines if "loss" in x]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, _logged(run)


def test_the_log_is_whole_in_its_file_and_short_in_memory_and_in_checkpoints(whole):
    run, lines = whole
    assert [x["step"] for x in lines] == list(range(1, 13))
    state = json.loads((run / "checkpoint-8" / "trainer_state.json").read_text())
    assert [x["step"] for x in state["log_history"]] == [6, 7, 8]


@pytest.mark.parametrize(
    ("harm", "lost"),
    [
        (lambda lines: lines, 0),
        (lambda lines: [*lines[:9], '{"loss": 1.0, "st'], 0),  # killed in the middle of a line
        (lambda lines: ["[1]\n", '{"step": "x"}\n', *lines], 0),
        (lambda lines: lines[:6], 0),  # the last never reached the disk: the checkpoint has them
        (lambda lines: [], 5),  # all are gone: what the checkpoint has remains
    ],
)
def test_a_resumed_run_goes_on_in_the_log_where_its_checkpoint_stands(whole, tmp_path, harm, lost):
    run, lines = whole
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-12")
    log = tmp_path / "run" / "log.jsonl"
    log.write_text("".join(harm(log.read_text().splitlines(keepends=True))))
    assert _logged(tmp_path / "run", resume=True) == lines[lost:]
