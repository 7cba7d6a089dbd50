"""A step whose gradient is not finite leaves no trace, is counted, and says whose fault it was."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import METHODS, launch, make_trainer, outcome
from transformers import TrainerCallback

from unlabel.benchmarks.fault_runs import differences
from unlabel.training import monitors
from unlabel.training.trainer import Diverged, Trainer


def poison(
    trainer: Trainer, steps: set[int], value: float = math.nan, row: int | slice = 1
) -> None:
    """The encoder gives `value` for one sample in these steps (counted from 0)."""

    def spoil(module: Any, args: Any, encoding: Any) -> Any:
        if trainer.state.global_step in steps:
            spoiled = torch.zeros(len(encoding.pooled), 1)
            spoiled[row] = value
            encoding.pooled = encoding.pooled + spoiled
            encoding.tokens = encoding.tokens + spoiled[:, :, None]
        return encoding

    trainer.model.encoder.register_forward_hook(spoil)


class _States(TrainerCallback):
    """What the model and the optimizer hold after each step."""

    def __init__(self):
        self.kept: list[dict[str, Any]] = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        moments = {
            i: {k: v.clone() for k, v in s.items()}
            for i, s in enumerate(optimizer.state_dict()["state"].values())
        }
        model = getattr(model, "module", model)
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        self.kept.append({"weights": weights, "moments": moments})


def _train(folder: str, bad: dict[str, Any], method: str = "all_state", **options: Any) -> dict:
    states = _States()
    trainer = make_trainer(folder, method, callbacks=[states], save_strategy="no", **options)
    rank = trainer.args.process_index
    if "rank" not in bad or bad["rank"] == rank:
        poison(trainer, bad["steps"], bad.get("value", math.nan))
    trainer.train()
    return {**outcome(trainer), "states": states.kept, "log": trainer.state.log_history}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_leaves_weights_moments_queue_and_teacher_bitwise_unchanged(
    tmp_path, accumulation, value, caplog
):
    bad = {"steps": {3}, "value": value}
    made = _train(str(tmp_path), bad, max_steps=6, gradient_accumulation_steps=accumulation)
    states = made["states"]
    assert differences(states[2], states[3]) == []
    for before, after in ((1, 2), (3, 4)):
        changed = "\n".join(differences(states[before], states[after]))
        assert all(part in changed for part in ("queue.rows", "teacher", "log_scale", "moments"))
    assert made["skipped"] == 1
    lines = [line for line in made["log"] if "loss" in line]
    assert [line["skipped"] for line in lines] == [0, 0, 0, 1, 1, 1]
    assert [math.isfinite(line["loss"]) for line in lines] == [True] * 3 + [False] + [True] * 2
    assert "Step 4 skipped" in caplog.text and "simcse/contrast" in caplog.text


def test_a_bad_step_is_left_out_of_the_means_and_never_spoils_those_after_it(tmp_path):
    made = _train(str(tmp_path), {"steps": {1}}, "simcse", max_steps=6, logging_steps=3)
    lines = [line for line in made["log"] if "loss" in line]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert all(line["loss"] == line["objective/contrast"] for line in lines)
    assert math.isfinite(made["log"][-1]["train_loss"])


def test_the_warning_names_the_sample_that_was_bad(tmp_path, caplog):
    trainer = make_trainer(tmp_path, "simcse", save_strategy="no", max_steps=3, dropout=0.0)
    seen: list[int] = []

    def note(module: Any, args: Any) -> None:
        seen.append(int(args[0].index[1]))

    poison(trainer, {1}, row=1)
    trainer.model.register_forward_pre_hook(note)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert f"terms: contrast; samples: [{seen[1]}]" in caplog.text


def test_a_gradient_that_overflows_behind_a_finite_loss_is_skipped_too(tmp_path, caplog):
    trainer = make_trainer(tmp_path, "mlm", save_strategy="no", max_steps=3)
    weight = next(trainer.model.encoder.parameters())
    weight.register_hook(lambda g: g * math.inf if trainer.state.global_step == 1 else g)
    trainer.train()
    assert trainer.skipped == 1 and "all finite, the gradient overflowed" in caplog.text
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_max_skipped_bad_steps_in_a_row_end_the_run_and_fewer_do_not(tmp_path):
    with pytest.raises(Diverged, match="3 steps in a row"):
        _train(str(tmp_path / "a"), {"steps": {4, 5, 6}}, "simcse", max_skipped=3)
    made = _train(str(tmp_path / "b"), {"steps": {2, 3, 5, 6}}, "simcse", max_skipped=3)
    assert made["skipped"] == 4 and made["step"] == 12


def test_skips_are_counted_on_across_a_resume(tmp_path):
    def run(folder: Path, resume: bool) -> dict:
        trainer = make_trainer(folder, "simcse", max_steps=8, logging_steps=8)
        poison(trainer, {1, 3, 6})
        trainer.train(resume_from_checkpoint=resume)
        return outcome(trainer)

    whole = run(tmp_path, False)
    assert whole["skipped"] == 3
    (tmp_path / "checkpoint-8" / "manifest.json").unlink()
    assert differences(whole, run(tmp_path, True)) == []


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_bad_sample_on_one_rank_makes_both_skip_and_stay_equal(tmp_path, accumulation):
    ended = launch(
        tmp_path, _train, 2, folder=str(tmp_path), bad={"steps": {2, 4}, "rank": 1},
        max_steps=6, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    assert ended.result["skipped"] == 2
    one, other = ended.results
    assert differences(one["states"], other["states"]) == []
    assert differences(one["states"][1], one["states"][2]) == []
    assert differences(one["states"][2], one["states"][3]) != []


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_that_are_not_finite_are_skipped_in_every_method(tmp_path, method):
    trainer = make_trainer(tmp_path, method, save_strategy="no", max_steps=3)
    poison(trainer, {1}, row=slice(0, 4))  # MLM may have no target in a single sentence
    trainer.train()
    assert trainer.skipped == 1 and trainer.state.global_step == 3
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_monitors_leave_out_embeddings_that_are_not_finite():
    z, other = torch.randn(8, 4), torch.randn(8, 4)
    z[0], other[3, 1] = math.nan, math.inf
    kept = [i for i in range(8) if i not in (0, 3)]
    assert monitors.look((z, other), 8) == monitors.look((z[kept], other[kept]), 8)
    assert monitors.look((torch.full((8, 4), math.nan),), 8) == {}
