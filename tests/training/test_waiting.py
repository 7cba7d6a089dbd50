"""The share of time that a run waits for data: what is counted, and when it is told."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_trainer

from unlabel.data_pipes.faults import DecodeError
from unlabel.training.waiting import Waiting, waiting_alarm


def test_waiting_is_the_time_from_asking_to_having_over_that_to_the_steps_end():
    now = iter([0.0, 1.0, 4.0, 10.0, 13.0, 14.0, 20.0, 20.0, 22.0])
    waiting = Waiting(clock=lambda: next(now))
    for _ in range(2):  # 1 of 4 seconds, then 3 of 4; the six between them are a checkpoint's
        with waiting.for_batches():
            pass
        waiting.end_step()
    assert waiting.share() == pytest.approx(4 / 8)
    with waiting.for_batches():
        pass
    waiting.end_step()
    assert waiting.share() == 0 and waiting.total == pytest.approx(4 / 10)
    assert waiting.share() == 0


@pytest.mark.parametrize("slow", ["loader", "step"])
def test_a_slow_loader_is_told_and_a_slow_step_is_not(tmp_path, caplog, slow):
    trainer = make_trainer(tmp_path, max_steps=6, logging_steps=2, save_steps=3)
    owner, name = {
        "loader": (trainer, "data_collator"),
        "step": (trainer, "training_step"),
    }[slow]
    quick = getattr(owner, name)

    def late(*args, **kwargs):
        time.sleep(0.2)
        return quick(*args, **kwargs)

    setattr(owner, name, late)
    trainer.train()
    lines = [x["monitor/waiting"] for x in trainer.state.log_history if "monitor/waiting" in x]
    said = caplog.text.count("waiting for data")
    assert len(lines) == 3
    if slow == "loader":
        assert min(lines) > 0.5 and said == 1 and "dataloader_num_workers" in caplog.text
    else:
        assert max(lines) < 1 / 3 and said == 0
    assert min(lines) <= trainer.state.log_history[-1]["waiting"] <= max(lines)


def test_up_to_a_third_of_waiting_is_no_alarm():
    assert waiting_alarm(0.33) is None
    assert "34 % of the training time" in (waiting_alarm(0.34) or "")


class _Bad(torch.utils.data.Dataset):
    def __init__(self, error: Exception):
        self.error, self.lengths = error, np.ones(8, np.int64)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, ordinal: int) -> Any:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
def test_data_gone_bad_is_one_sentence_from_any_worker(tmp_path, workers):
    for error in (DecodeError("a.png", "gone"), ValueError("No window: take a smaller one.")):
        trainer = make_trainer(tmp_path, dataloader_num_workers=workers)
        trainer.train_dataset = _Bad(error)
        with pytest.raises(ValueError) as met:
            trainer.train()
        assert str(met.value) == str(error)
    trainer.train_dataset = _Bad(KeyError("a fault of ours"))
    with pytest.raises(KeyError, match="a fault of ours"):
        trainer.train()
