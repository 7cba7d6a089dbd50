"""A stop signal to any rank: all ranks save and end at the same step, and the run goes on later."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny import launch, make_trainer, outcome
from transformers import TrainerCallback

from unlabel.benchmarks.fault_runs import differences
from unlabel.training import checkpoint
from unlabel.training.stop import StopSignal


class _Signal(TrainerCallback):
    """Sends this process a signal in the middle of a step (counted from 0)."""

    def __init__(self, step: int, number: int = signal.SIGTERM):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def _run(folder: str, resume: bool = False, stop: dict | None = None, **options: Any) -> dict:
    trainer = make_trainer(folder, "all_state", max_steps=8, save_steps=100, **options)
    if stop is not None and trainer.args.process_index == stop["rank"]:
        trainer.add_callback(_Signal(stop["step"], stop.get("number", signal.SIGTERM)))
    trainer.train(resume_from_checkpoint=resume)
    return outcome(trainer)


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_ends_and_the_resumed_run_is_bitwise_equal(tmp_path, step, number, caplog):
    whole = _run(str(tmp_path / "whole"))
    stopped = _run(str(tmp_path / "run"), stop={"rank": 0, "step": step, "number": number})
    assert stopped["step"] == step + 1 and "Asked to stop" in caplog.text
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "run")] == [f"checkpoint-{step + 1}"]
    assert differences(whole, _run(str(tmp_path / "run"), resume=True)) == []


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("step", [0, 3])
def test_a_signal_to_one_of_two_ranks_stops_both_at_the_same_step(tmp_path, step, accumulation):
    options = {"gradient_accumulation_steps": accumulation}
    whole = launch(tmp_path / "1", _run, 2, folder=str(tmp_path / "whole"), **options)
    folder, stop = str(tmp_path / "run"), {"rank": 1, "step": step}
    stopped = launch(tmp_path / "2", _run, 2, folder=folder, stop=stop, **options)
    assert stopped.result["step"] == stopped.results[1]["step"] == step + 1
    again = launch(tmp_path / "3", _run, 2, folder=folder, resume=True, **options)
    assert again.result
    assert differences(whole.results[0], again.results[0]) == []
    # Rank 0 keeps the log; the state is the same on both.
    one, other = ({**r, "log": None} for r in (whole.results[1], again.results[1]))
    assert differences(one, other) == []


def test_a_second_ctrl_c_means_now():
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        os.kill(os.getpid(), signal.SIGINT)


def test_the_signals_go_back_to_whoever_had_them_even_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_training_works_and_nothing_is_heard(tmp_path: Path):
    made: list[dict] = []
    thread = threading.Thread(target=lambda: made.append(_run(str(tmp_path))))
    thread.start()
    thread.join(60)
    assert made[0]["step"] == 8
