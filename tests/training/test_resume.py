"""A run that was interrupted, however and wherever, ends as the one that was not, bit by bit."""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import launch, make_trainer, outcome, sentences
from transformers import TrainerCallback, TrainerState

from unlabel.benchmarks.fault_runs import differences
from unlabel.data_pipes import marks, text
from unlabel.record import FirstBatch
from unlabel.training import checkpoint
from unlabel.training.trainer import MARKS


def run(folder: Path | str, resume: Any = False, method: str = "all_state", **options: Any) -> dict:
    """Train and give back all that the run leaves behind."""
    trainer = make_trainer(folder, method, **options)
    trainer.train(resume_from_checkpoint=resume)
    return outcome(trainer)


def only(source: Path, step: int, folder: Path) -> Path:
    """A run folder that holds one of another's checkpoints."""
    shutil.copytree(source / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


# -- every save point -----------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro_batches": {"gradient_accumulation_steps": 2},
    "workers": {"dataloader_num_workers": 2},
    "stream": {"stream": True},
    "stream_workers": {"stream": True, "dataloader_num_workers": 2},
    "stream_micro_batches": {"stream": True, "gradient_accumulation_steps": 2},
    # 10 steps of an epoch take 5 of 2 micro-batches; 9 batches leave one alone at its end.
    "uneven_epoch": {"gradient_accumulation_steps": 2, "rows": 36},
    "mlm": {"method": "mlm"},
    "bf16": {"bf16": True},
    "factored": {"optim": "adafactor"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_resume_from_every_save_point_is_bitwise_equal(tmp_path, kind):
    # Saves lie within an epoch, on its end (10) and in the next; log windows span them.
    options = {"max_steps": 13, "save_steps": 5, "logging_steps": 3, "save_total_limit": None}
    options |= KINDS[kind]
    whole = run(tmp_path / "whole", **options)
    assert whole["step"] == 13 and len(whole["log"]) == 4
    for step in (5, 10):
        folder = only(tmp_path / "whole", step, tmp_path / f"from-{step}")
        assert differences(whole, run(folder, True, **options)) == [], f"from step {step}"


def test_a_stream_of_a_file_is_entered_where_it_was_left(tmp_path, monkeypatch, caplog):
    for module in (marks, text):
        monkeypatch.setattr(module, "EVERY", 8)
    path = tmp_path / "said.txt"
    path.write_text("\n".join(f"{said} {i}" for i, said in enumerate(sentences(60))))
    options = {"stream": path, "max_steps": 16, "save_steps": 8}
    whole = run(tmp_path / "whole", **options)
    folder = only(tmp_path / "whole", 8, tmp_path / "resumed")
    shutil.copy(tmp_path / "whole" / MARKS, folder)
    with caplog.at_level("INFO"):
        assert differences(whole, run(folder, True, **options)) == []
    # Windows are 12 records: the one of step 9 begins at record 24.
    assert "0 records of the stream read again" in caplog.text


def test_resume_in_one_process_is_bitwise_equal(tmp_path):
    whole = run(tmp_path / "whole", max_steps=6, save_steps=3)
    folder = only(tmp_path / "whole", 3, tmp_path / "resumed")
    assert differences(whole, run(folder, True, max_steps=6, save_steps=3)) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(0, 2), (2, 0)])
def test_the_number_of_loader_workers_may_change_on_the_way(tmp_path, workers):
    before, after = ({"dataloader_num_workers": w, "save_steps": 6} for w in workers)
    whole = run(tmp_path / "whole", **before)
    folder = only(tmp_path / "whole", 6, tmp_path / "resumed")
    assert differences(whole, run(folder, True, **after)) == []


def test_a_stream_whose_workers_stay_goes_on_where_it_was_without_its_first_batch(
    tmp_path,
):
    losses = []
    for folder in (tmp_path / "whole", tmp_path / "resumed"):
        resume = folder.name == "resumed"
        if resume:
            only(tmp_path / "whole", 3, folder)  # and no first_batch.json
        trainer = make_trainer(
            folder, stream=True, max_steps=6, save_steps=3,
            dataloader_num_workers=1, dataloader_persistent_workers=True,
        )  # fmt: skip
        trainer.add_callback(
            FirstBatch(folder, trainer.model, trainer.train_dataset, trainer.data_collator)
        )
        trainer.train(resume_from_checkpoint=resume)
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == losses[1]


def test_resume_of_a_finished_run_makes_no_step_more(tmp_path):
    whole = run(tmp_path, max_steps=3)
    assert differences(whole, run(tmp_path, True, max_steps=3)) == []


def test_differences_sees_one_flipped_bit(tmp_path):
    made = run(tmp_path, method="simcse", max_steps=2)
    other = {**made, "weights": {k: v.clone() for k, v in made["weights"].items()}}
    first = next(iter(other["weights"].values()))
    first.view(torch.int32).flatten()[0] ^= 1
    assert len(differences(made, other)) == 1 and differences(made, made) == []


# -- crashes while saving -------------------------------------------------------------------------


class Crash(BaseException):
    """Stands for the process's end: nothing between it and the test may catch it."""


def _around(real: Callable, name: str, happens: Callable[[str], None]) -> Callable:
    def patched(*args: Any, **kwargs: Any) -> Any:
        happens(f"save: {name}")
        return real(*args, **kwargs)

    return patched


def _operations(monkeypatch: Any, happens: Callable[[str], None]) -> None:
    """Call `happens(name)` before everything that a save does to the disk."""
    places = [
        (safetensors.torch, "save_file"), (torch, "save"), (TrainerState, "save_to_json"),
        (Path, "write_text"), (os, "fsync"), (Path, "rename"), (shutil, "rmtree"),
    ]  # fmt: skip
    for owner, name in places:
        monkeypatch.setattr(owner, name, _around(getattr(owner, name), name, happens))


CRASHING: dict[str, Any] = {
    "method": "moco",
    "max_steps": 4,
    "save_steps": 2,
    "save_total_limit": 1,
    "rows": 20,
}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, **{**CRASHING, "save_total_limit": None})


def _from_two(whole_run: tuple[Path, dict], folder: Path) -> Path:
    return only(whole_run[0], 2, folder)


def _count(whole_run: tuple[Path, dict], folder: Path, monkeypatch: Any) -> list[str]:
    seen: list[str] = []
    with monkeypatch.context() as patch:
        _operations(patch, seen.append)
        run(_from_two(whole_run, folder), True, **CRASHING)
    return seen


@pytest.mark.slow
def test_a_crash_at_any_operation_of_a_save_costs_nothing_but_time(
    whole_run, tmp_path, monkeypatch
):
    operations = _count(whole_run, tmp_path / "count", monkeypatch)
    done = {"fsync", "rename", "save_file", "save", "write_text", "rmtree"}
    assert {f"save: {name}" for name in done} <= set(operations)
    for number, name in enumerate(operations):
        folder, seen = _from_two(whole_run, tmp_path / str(number)), []

        def happens(_: str, seen: list[str] = seen, number: int = number) -> None:
            seen.append(_)
            if len(seen) == number + 1:
                raise Crash

        with monkeypatch.context() as patch:
            _operations(patch, happens)
            with pytest.raises(Crash):
                run(folder, True, **CRASHING)
        whole = [c for c in checkpoint.checkpoints(folder) if checkpoint.fault(c) is None]
        assert whole == checkpoint.checkpoints(folder) != [], f"{number}: {name}"
        again = run(folder, True, **CRASHING)
        assert differences(whole_run[1], again) == [], f"{number}: {name}"
        left = {p.name for p in folder.iterdir()}
        assert "checkpoint-4" in left <= {"checkpoint-2", "checkpoint-4"}, f"{number}: {name}"


def _damages() -> Iterator[tuple[str, Callable[[Path], None]]]:
    def truncate(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def empty(path: Path) -> None:
        path.write_bytes(b"")

    yield from {"truncated": truncate, "flipped": flip, "empty": empty, "gone": Path.unlink}.items()


@pytest.mark.slow
def test_any_damage_to_any_file_of_the_newest_checkpoint_falls_back_to_the_one_before(
    whole_run, tmp_path, caplog
):
    names = sorted(p.name for p in (whole_run[0] / "checkpoint-4").iterdir())
    assert names == [
        "counters-0.json", "manifest.json", "model.safetensors", "optimizer.pt", "scheduler.pt",
        "trainer_state.json",
    ]  # fmt: skip
    for name in names:
        for kind, damage in _damages():
            folder = only(whole_run[0], 4, _from_two(whole_run, tmp_path / f"{name}-{kind}"))
            damage(folder / "checkpoint-4" / name)
            caplog.clear()
            again = run(folder, True, **CRASHING)
            assert differences(whole_run[1], again) == [], f"{name} {kind}"
            assert "Passing over" in caplog.text
            assert checkpoint.fault(folder / "checkpoint-4") is None


def test_a_whole_checkpoint_is_never_deleted_for_a_damaged_later_one(whole_run, tmp_path):
    folder = only(whole_run[0], 4, _from_two(whole_run, tmp_path))
    (folder / "checkpoint-4" / "optimizer.pt").write_bytes(b"")
    options: dict[str, Any] = {**CRASHING, "max_steps": 3, "save_steps": 1}
    run(folder, True, **options)
    # Step 3 was written while the damaged step 4 lay there, and one is kept: the good one.
    assert [p.name for p in checkpoint.checkpoints(folder)] == ["checkpoint-3"]


# -- SIGKILL --------------------------------------------------------------------------------------


class _Kill(TrainerCallback):
    """SIGKILL at the n-th of the things that happen in a run, in steps and in saves."""

    def __init__(self, after: int):
        self.left = after

    def happens(self, name: str) -> None:
        self.left -= 1
        if self.left == 0:
            with Path(self.note).open("a") as f:
                f.write(f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    note = ""

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.happens("step begin")

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.happens("backward done")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.happens("step end")


def _killed_run(folder: str, after: int, options: dict[str, Any]) -> dict:
    kill = _Kill(after)
    kill.note = f"{folder}-kills.txt"
    if after:
        _operations(pytest.MonkeyPatch(), kill.happens)
    return run(folder, True, callbacks=[kill] if after else None, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "micro_batches"])
def test_sigkill_at_random_moments_leaves_no_trace_in_the_end(tmp_path, kind):
    options: dict[str, Any] = {"max_steps": 16, "save_steps": 3, "logging_steps": 2} | KINDS[kind]
    whole = launch(
        tmp_path / "1", _killed_run, folder=str(tmp_path / "whole"), after=0, options=options
    ).result
    draw, folder, ended = random.Random(5), tmp_path / "killed", None
    for _ in range(60):
        ended = launch(
            tmp_path / "2", _killed_run, folder=str(folder), after=draw.randint(1, 60),
            options=options,
        )  # fmt: skip
        if ended.codes == [0]:
            break
        assert ended.codes == [-signal.SIGKILL], ended.errors
    assert ended is not None and differences(whole, ended.result) == []
    kills = Path(f"{folder}-kills.txt").read_text().splitlines()
    in_saves = [k for k in kills if k.startswith("save: ")]
    assert len(kills) >= 5 and len(in_saves) >= 3, kills
