"""Checkpoints are whole or not there: full disks, wrong files, files that must not be opened."""

import errno
import json
import os
import pickle
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import launch, make_trainer, outcome

from unlabel.benchmarks.fault_runs import differences
from unlabel.training import checkpoint
from unlabel.training.checkpoint import DiskFull


def _staged(run: Path, step: int, content: bytes = b"x") -> Path:
    folder = checkpoint.staging(run) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def _commit(run: Path, step: int, content: bytes = b"x") -> Path:
    final = run / f"checkpoint-{step}"
    checkpoint.commit(_staged(run, step, content), final)
    return final


def test_what_is_committed_is_whole_and_newest_by_number(tmp_path):
    for step in (8, 100, 20):
        _commit(tmp_path, step)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == [
        f"checkpoint-{n}" for n in (100, 20, 8)
    ]
    assert checkpoint.newest_valid(tmp_path) == tmp_path / "checkpoint-100"


@pytest.mark.parametrize("manifest", ["", "{}", "[]", "null", '{"model.safetensors": ', '"text"'])
def test_a_manifest_that_says_nothing_is_a_fault(tmp_path, manifest):
    folder = _commit(tmp_path, 1)
    assert checkpoint.fault(folder) is None
    (folder / checkpoint.MANIFEST).write_text(manifest)
    assert "manifest" in str(checkpoint.fault(folder))
    assert checkpoint.newest_valid(tmp_path) is None


def test_committing_over_an_old_checkpoint_replaces_it_whole(tmp_path):
    _commit(tmp_path, 1, b"old")
    (tmp_path / "checkpoint-1" / "left over").write_text("")
    folder = _commit(tmp_path, 1, b"new")
    assert sorted(p.name for p in folder.iterdir()) == [checkpoint.MANIFEST, "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"new"


def test_rotation_keeps_the_newest_and_drops_those_of_a_course_that_was_left(tmp_path):
    for step in (1, 2, 3, 9):
        _commit(tmp_path, step)
    checkpoint.rotate(tmp_path, None, tmp_path / "checkpoint-3")
    assert len(checkpoint.checkpoints(tmp_path)) == 4
    checkpoint.rotate(tmp_path, 2, tmp_path / "checkpoint-3")
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-2"]


def test_a_named_checkpoint_that_is_damaged_is_refused_by_name(tmp_path):
    trainer = make_trainer(tmp_path, "simcse", max_steps=2, save_steps=2)
    trainer.train()
    (tmp_path / "checkpoint-2" / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2: scheduler.pt is missing"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    with pytest.raises(ValueError, match=r"nowhere: its manifest cannot be read"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "nowhere"))


def test_resume_without_any_checkpoint_starts_from_the_beginning_and_says_so(tmp_path, caplog):
    trainer = make_trainer(tmp_path, "simcse", max_steps=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2 and "No whole checkpoint" in caplog.text


def test_a_checkpoint_of_weights_alone_is_refused_in_one_sentence(tmp_path):
    make_trainer(tmp_path, max_steps=4, save_only_model=True).train()
    with pytest.raises(ValueError, match="holds weights alone"):
        make_trainer(tmp_path, max_steps=8).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_objective_is_refused_in_one_sentence(tmp_path):
    make_trainer(tmp_path, "simcse", max_steps=2).train()
    with pytest.raises(ValueError, match="does not fit this encoder and objective"):
        make_trainer(tmp_path, "mlm", max_steps=4).train(resume_from_checkpoint=True)


# -- files that must not be opened ----------------------------------------------------------------


class _Evil:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _sign_anew(folder: Path) -> None:
    """As an attacker would: the manifest fits the changed file."""
    names = json.loads((folder / checkpoint.MANIFEST).read_text())
    manifest = {name: checkpoint._digest(folder / name) for name in names}
    (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("how", ["torch", "pickle"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_a_pickle_in_a_checkpoint_is_refused_and_never_executed(tmp_path, name, how):
    make_trainer(tmp_path / "run", "simcse", max_steps=2).train()
    folder, mark = tmp_path / "run" / "checkpoint-2", tmp_path / "executed"
    evil = {"state": _Evil(str(mark))}
    if how == "torch":
        torch.save(evil, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(evil, protocol=2))
    _sign_anew(folder)
    with pytest.raises(ValueError, match="holds more than numbers"):
        make_trainer(tmp_path / "run", "simcse", max_steps=4).train(resume_from_checkpoint=True)
    assert not mark.exists()


def test_a_pickle_in_place_of_the_weights_is_refused_and_never_executed(tmp_path):
    make_trainer(tmp_path / "run", "simcse", max_steps=2).train()
    folder, mark = tmp_path / "run" / "checkpoint-2", tmp_path / "executed"
    torch.save(_Evil(str(mark)), folder / "model.safetensors")
    _sign_anew(folder)
    with pytest.raises(ValueError, match=r"model.safetensors does not fit"):
        make_trainer(tmp_path / "run", "simcse", max_steps=4).train(resume_from_checkpoint=True)
    assert not mark.exists()


def _refusal(run: Path) -> str:
    with pytest.raises(ValueError) as said:
        make_trainer(run, "simcse", max_steps=4).train(resume_from_checkpoint=True)
    assert "\n" not in str(said.value)
    return str(said.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished")
    make_trainer(run, "simcse", max_steps=2).train()
    return run


def _huge(folder: Path) -> None:
    """A moment of 10 billion numbers, in a view of one."""
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"] = torch.zeros(1, dtype=torch.float64).expand(10**10)
    torch.save(state, folder / "optimizer.pt")


def _beyond(folder: Path) -> None:
    """A tensor that ends behind the file."""
    content = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + size])
    name = next(n for n in head if n != "__metadata__")
    head[name] |= {"shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}
    said = json.dumps(head).encode()
    new = len(said).to_bytes(8, "little") + said + content[8 + size :]
    (folder / "model.safetensors").write_bytes(new)


def _header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def _packed(folder: Path) -> None:
    """A gigabyte of zeros in a file of one megabyte."""
    with zipfile.ZipFile(folder / "optimizer.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(2**24))


def _rewrite(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "huge moment": (_huge, "optimizer.pt is no state of this optimizer"),
    "huge weights": (_beyond, "model.safetensors does not fit"),
    "huge header": (_header, "model.safetensors does not fit"),
    "packed": (_packed, "optimizer.pt holds more than numbers"),
    "state": (_rewrite("trainer_state.json", '{"global_step": "x"}'), "is no record of a run"),
    "state's keys": (_rewrite("trainer_state.json", '{"__class__": 1}'), "is no record of a run"),
    "counters": (_rewrite("counters-0.json", "[]"), "counters-0.json is no record of a run"),
    "scaler": (lambda f: torch.save(_Evil(str(f / "ran")), f / "scaler.pt"), "more than numbers"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_checkpoint_is_refused_in_one_sentence(finished, tmp_path, kind):
    run, (spoil, said) = tmp_path / "run", HOSTILE[kind]
    shutil.copytree(finished, run)
    spoil(run / "checkpoint-2")
    _sign_anew(run / "checkpoint-2")
    assert said in _refusal(run)
    assert not (run / "checkpoint-2" / "ran").exists()


@pytest.mark.parametrize("name", ["../outside", "{}/outside", "inside/../../outside", "link"])
def test_a_manifest_cannot_name_what_lies_outside(tmp_path, name):
    folder = _commit(tmp_path, 1)
    (tmp_path / "outside").write_text("x")
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "inside").mkdir()
    digest = checkpoint._digest(tmp_path / "outside")
    manifest = {name.format(tmp_path): digest}
    (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    assert "lies outside of it" in str(checkpoint.fault(folder))


def test_a_checkpoint_holds_no_file_that_only_pickle_could_read(tmp_path):
    make_trainer(tmp_path, "all_state", max_steps=2).train()
    for path in (tmp_path / "checkpoint-2").glob("*.pt"):
        torch.load(path, weights_only=True)
    assert not [p for p in (tmp_path / "checkpoint-2").iterdir() if p.suffix in (".bin", ".pth")]


# -- a full disk ----------------------------------------------------------------------------------


def _full(folder: str, limit: int, ranks: list[int], resume: bool = False) -> dict[str, Any]:
    """Train with files of at most `limit` bytes from the second save on."""
    trainer = make_trainer(folder, "moco", max_steps=6, save_steps=2)
    save, saved = trainer._save_checkpoint, []

    def limited(*args: Any, **kwargs: Any) -> None:
        saved.append(1)
        if limit and len(saved) == 2 and trainer.args.process_index in ranks:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save(*args, **kwargs)
        finally:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )

    trainer._save_checkpoint = limited
    try:
        trainer.train(resume_from_checkpoint=resume)
    except (DiskFull, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return outcome(trainer)


@pytest.mark.slow
# The limits make, in turn, the counters, the weights and the optimizer's moments not fit.
@pytest.mark.parametrize("limit", [10, 5_000, 50_000])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_is_one_sentence_and_costs_no_checkpoint(tmp_path, limit, ranks):
    folder = tmp_path / "run"
    whole = launch(
        tmp_path / "1", _full, ranks, folder=str(tmp_path / "whole"), limit=0, ranks=[0]
    ).result
    ended = launch(tmp_path / "2", _full, ranks, folder=str(folder), limit=limit, ranks=[0])
    said = ended.result["error"]
    assert said.startswith("DiskFull: The disk is full: checkpoint-4 could not be written")
    assert "The last good checkpoint is checkpoint-2" in said and "\n" not in said
    if ranks == 2:
        assert "Another rank failed" in ended.results[1]["error"]
    assert [p.name for p in folder.iterdir()] == ["checkpoint-2"]
    assert checkpoint.fault(folder / "checkpoint-2") is None
    again = launch(
        tmp_path / "3", _full, ranks, folder=str(folder), limit=0, ranks=[0], resume=True
    ).result
    assert differences(whole, again) == []


def test_a_real_full_file_system_is_a_full_disk(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError) as caught, Path("/dev/full").open("w") as f:
        f.write("x")
    said = checkpoint.explain(caught.value, tmp_path, 7)
    assert isinstance(said, DiskFull) and "checkpoint-7" in str(said)
    other = OSError(errno.EIO, "no")
    assert checkpoint.explain(other, tmp_path, 7) is other
    assert shutil.disk_usage(tmp_path).total


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_nobody_may_write_to_is_one_sentence(tmp_path, number):
    _commit(tmp_path, 3)
    said = checkpoint.explain(OSError(number, os.strerror(number)), tmp_path, 7)
    assert isinstance(said, PermissionError)
    assert str(said).startswith("The folder is closed: checkpoint-7 could not be written")
    assert os.strerror(number) in str(said) and "checkpoint-3; make it writable" in str(said)
