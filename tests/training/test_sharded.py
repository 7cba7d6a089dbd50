"""Shards are the same run: FSDP2 goes the way of DDP, and either goes on from the other's files."""

import json
import shutil
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from tiny import launch, make_trainer, sentences, training_lines

from unlabel.benchmarks.fault_runs import differences
from unlabel.kinds.text import TextOptions
from unlabel.objectives import Electra, MoCo, Sum
from unlabel.pretrain import train
from unlabel.training import restore
from unlabel.training.arguments import TrainingArguments

# A queue and a teacher, a bank, a centre, a learned temperature, a table tied to a head.
METHODS = ["all_state", "bank", "dino", "mlm"]
SHARDS: dict[str, Any] = {"fsdp": True, "fsdp_config": {"version": 2}}


def _shard_here() -> None:
    """Let accelerate shard on CPUs: it leaves whole copies there, though torch can shard them."""
    begin = AcceleratorState.__init__

    def begun(state: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        begin(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = begun


def _run(folder: str, methods: list[str], sharded: bool, resume: bool = False) -> dict[str, Any]:
    found = {}
    _shard_here()
    for method in methods:
        trainer = make_trainer(
            f"{folder}/{method}", method, max_steps=6, save_steps=3, **(SHARDS if sharded else {})
        )
        trainer.train(resume_from_checkpoint=resume)
        kept = {"state": trainer.whole_state(), "log": training_lines(trainer)}
        kept["optimizer"] = restore.whole(trainer.optimizer.state_dict())["state"]
        kept["share"] = sum(_local(p) for p in trainer.model.parameters())
        found[method] = kept
        AcceleratorState._reset_state()
    return found


def _accumulated(folder: str, sharded: bool) -> dict[str, Any]:
    """Twelve samples of a rank in three micro-batches that share their negatives."""
    _shard_here()
    found = {}
    for method in (*METHODS, "electra"):
        options: dict[str, Any] = {"gradient_accumulation_steps": 3, "max_steps": 3}
        options |= SHARDS if sharded else {}
        trainer = make_trainer(f"{folder}/{method}", method, rows=80, **options)
        trainer.train()
        found[method] = {"state": trainer.whole_state(), "log": training_lines(trainer)}
        AcceleratorState._reset_state()
    if sharded:
        with pytest.raises(ValueError, match=r"unlike numbers of parts.*set micro_tokens to 0"):
            make_trainer(folder, "simcse", micro_tokens=64, **SHARDS)
    return found


def _local(parameter: torch.Tensor) -> int:
    local = getattr(parameter, "to_local", lambda: parameter)()
    return local.numel()


def _close(one: Any, other: Any, at: str = "") -> None:
    """The same but for the order in which a sum over shards is taken."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for key in one:
            _close(one[key], other[key], f"{at}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), at
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            _close(a, b, f"{at}/{i}")
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6, msg=lambda m: f"{at}: {m}")
    else:
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6), at


@pytest.mark.slow
def test_shards_go_the_way_of_whole_copies_and_either_resumes_the_other(tmp_path):
    given: dict[str, Any] = {"methods": METHODS}
    whole = launch(tmp_path / "1", _run, 2, folder=str(tmp_path / "ddp"), sharded=False, **given)
    parts = launch(tmp_path / "2", _run, 2, folder=str(tmp_path / "fsdp"), sharded=True, **given)
    assert whole.result and parts.result
    for method in METHODS:
        one, two = (r[method] for r in parts.results)
        assert differences(one["state"], two["state"]) == []
        # Each rank holds its share of the parameters, the optimizer's moments alike.
        assert one["share"] + two["share"] < 1.1 * whole.result[method]["share"]
        for key in ("state", "optimizer"):
            _close(parts.result[method][key], whole.result[method][key], f"{method}/{key}")
        _close(parts.result[method]["log"], whole.result[method]["log"], method)
    for source, sharded in (("fsdp", True), ("fsdp", False), ("ddp", True)):
        folder = tmp_path / f"{source}-{sharded}"
        for method in METHODS:
            first = f"{method}/checkpoint-3"
            shutil.copytree(tmp_path / source / first, folder / first)
        again = launch(
            tmp_path / "3", _run, 2, folder=str(folder), sharded=sharded, resume=True, **given
        )
        same = parts if source == "fsdp" else whole
        for method in METHODS:
            if (source == "fsdp") == sharded:  # the same run: to the bit
                assert differences(same.result[method], again.result[method]) == []
            for key in ("state", "optimizer", "log"):
                _close(again.result[method][key], same.result[method][key], method)


@pytest.mark.slow
def test_shards_share_the_negatives_of_micro_batches_as_whole_copies_do(tmp_path):
    whole, parts = (
        launch(tmp_path / name, _accumulated, 2, folder=str(tmp_path / name), sharded=sharded)
        for name, sharded in (("ddp", False), ("fsdp", True))
    )
    assert whole.result and parts.result
    _close(parts.result, whole.result)


def _command(folder: str) -> None:
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    _shard_here()
    args = TrainingArguments(
        output_dir=f"{folder}/run", max_steps=4, save_steps=2, per_device_train_batch_size=4,
        use_cpu=True, ddp_backend="gloo", report_to="none", disable_tqdm=True, **SHARDS,
    )  # fmt: skip
    options = TextOptions(config={**config, "intermediate_size": 32}, vocabulary=80)
    # The generator makes a view, which the first batch shows.
    parts = {"moco": MoCo(queue=24, width=8), "electra": Electra(layers=1, heads=2)}
    train(objective=Sum(parts), data=f"{folder}/notes.txt", text=options, training=args)


@pytest.mark.slow
def test_the_command_saves_a_whole_encoder_of_a_sharded_run(tmp_path):
    from unlabel.modalities.text import TextEncoder

    (tmp_path / "notes.txt").write_text("\n".join(sentences(60)))
    assert set(launch(tmp_path / "1", _command, 2, folder=str(tmp_path)).codes) == {0}
    made = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert made["finished"] and made["steps"] == 4
    saved = TextEncoder.from_pretrained(tmp_path / "run" / "model").model.state_dict()
    kept = restore.safetensors.torch.load_file(
        tmp_path / "run" / "checkpoint-4" / "model.safetensors"
    )
    ours = {k: v for k, v in saved.items() if f"encoder.model.{k}" in kept}
    assert ours and all(torch.equal(v, kept[f"encoder.model.{k}"]) for k, v in ours.items())
