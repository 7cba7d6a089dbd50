"""The loop itself: what it feeds, what it logs, what it waits for, and how it is launched."""

import json
import math
import os
import subprocess
import sys
import traceback
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import launch, make_trainer, sentences, training_lines
from torch.utils._python_dispatch import TorchDispatchMode

from unlabel.objectives import SimCSE, Sum, SwAV
from unlabel.record import FirstBatch
from unlabel.training.meter import Meter
from unlabel.training.trainer import Trainer


def _watch(trainer: Trainer) -> list[list[int]]:
    """The samples of each optimizer step, as the run goes."""
    seen: list[list[int]] = []
    note = trainer._note

    def watched(step: Any, batches: Any) -> Any:
        seen.append(list(chain.from_iterable(b.index.tolist() for b in batches)))
        return note(step, batches)

    trainer._note = watched
    return seen


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_an_epoch_shows_every_sample_once_and_the_next_one_in_another_order(tmp_path, accumulation):
    trainer = make_trainer(
        tmp_path, "simcse", max_steps=-1, num_train_epochs=2, save_strategy="no",
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    seen = _watch(trainer)
    trainer.train()
    half = len(seen) // 2
    assert len(seen) == 2 * -(-10 // accumulation)
    for epoch in (seen[:half], seen[half:]):
        assert sorted(chain.from_iterable(epoch)) == list(range(40))
    assert seen[:half] != seen[half:]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_log_line_is_the_mean_of_its_steps_term_by_term(tmp_path, accumulation):
    options = {"max_steps": 6, "save_strategy": "no", "gradient_accumulation_steps": accumulation}
    each = make_trainer(tmp_path / "1", "sum", logging_steps=1, **options)
    by_three = make_trainer(tmp_path / "3", "sum", logging_steps=3, **options)
    each.train()
    by_three.train()
    singles, means = training_lines(each), training_lines(by_three)
    assert len(singles) == 6 and len(means) == 2
    names = [k for k in means[0] if k.startswith(("objective/", "loss"))]
    assert len(names) == 6
    for i, line in enumerate(means):
        for name in names:
            mean = sum(s[name] for s in singles[3 * i : 3 * i + 3]) / 3
            assert line[name] == pytest.approx(mean, rel=1e-5), name
        parts = line["objective/simcse/contrast"] + 0.1 * line["objective/mlm/token"]
        parts += sum(line[f"objective/cut/{k}"] for k in ("full", "cut", "consistency"))
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
        # Chance is that of all the candidates of a step, over its micro-batches.
        assert line["chance/simcse/contrast"] == pytest.approx(math.log(4 * accumulation))
        assert 0 <= line["monitor/std"] <= 1.01 and line["monitor/effective_rank"] >= 1
    assert by_three.state.log_history[-1]["train_loss"] == pytest.approx(
        sum(s["loss"] for s in singles) / 6, rel=1e-4
    )


def test_meter_goes_on_from_its_state_as_if_it_had_not_stopped():
    values = torch.randn(6, generator=torch.Generator().manual_seed(0))
    values[1] = torch.nan
    whole, first, second = Meter(), Meter(), Meter()
    for v in values:
        whole.add({"a": v})
    for v in values[:3]:
        first.add({"a": v})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for v in values[3:]:
        second.add({"a": v})
    assert whole.means() == second.means()
    assert whole.means() == {} and first.means()["a"] == pytest.approx(float(values[[0, 2]].mean()))


@pytest.mark.parametrize("stream", [False, True])
def test_the_picture_of_the_first_batch_disturbs_nothing(tmp_path, stream):
    runs = []
    for folder in (tmp_path / "without", tmp_path / "with"):
        folder.mkdir()
        trainer = make_trainer(folder, "all_state", max_steps=5, save_strategy="no", stream=stream)
        if folder.name == "with":
            trainer.add_callback(
                FirstBatch(folder, trainer.model, trainer.train_dataset, trainer.data_collator)
            )
        seen = _watch(trainer)
        trainer.train()
        runs.append((seen, training_lines(trainer)))
    assert runs[0] == runs[1]
    shown = json.loads((tmp_path / "with" / "first_batch.json").read_text())
    assert shown["index"] == runs[0][0][0][: len(shown["index"])]


class _Waits(TorchDispatchMode):
    """Counts by file the places where the host reads a number off the device."""

    def __init__(self):
        super().__init__()
        self.by_file: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(func):
            ours = [f.filename for f in traceback.extract_stack() if "/unlabel/" in f.filename]
            self.by_file[Path(ours[-1]).parent.name] += 1
        return func(*args, **(kwargs or {}))


def test_the_trainer_waits_for_the_device_once_a_step_to_see_the_gradient_norm(tmp_path):
    trainer = make_trainer(tmp_path, "mlm", max_steps=8, save_strategy="no", logging_steps=100)
    with _Waits() as waits:
        trainer.train()
    # One for each step; one for the line and one for the total at the end of the run.
    assert waits.by_file["training"] <= 8 + 3, waits.by_file


def test_a_batch_that_no_samples_fill_is_refused(tmp_path):
    with pytest.raises(ValueError, match="3 samples do not fill one batch of 4"):
        make_trainer(tmp_path, "simcse", rows=3).train()


def test_arguments_below_one_are_refused_by_name(tmp_path):
    for name in ("length_window", "max_skipped"):
        options: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"{name} is at least 1, but 0 came"):
            make_trainer(tmp_path, "simcse", **options)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("label_smoothing_factor", 0.1, "is for models of language"),
        ("neftune_noise_alpha", 0.1, "is for models of language"),
        ("eval_strategy", "steps", "is for an evaluation, .*`unlabel bench` measures"),
        ("load_best_model_at_end", True, "is for an evaluation"),
        ("push_to_hub", True, "would send the trainer's own state, .*`hf upload NAME RUN/model`"),
        ("resume_from_checkpoint", "runs/a", "would not be heeded: `--resume`"),
        ("debug", "underflow_overflow", "is not needed: a step with a NaN is skipped"),
    ],
)
def test_arguments_that_have_no_meaning_here_are_refused_by_name(tmp_path, name, value, why):
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} {why}"):
        make_trainer(tmp_path, "simcse", **options)


@pytest.mark.parametrize(
    ("kind", "given", "why"),
    [
        ("warmup_stable_decay", {}, "missing 1 required positional argument: 'num_decay_steps'"),
        ("linear", {"num_cycles": 2}, "got an unexpected keyword argument 'num_cycles'"),
    ],
)
def test_what_a_schedule_lacks_or_does_not_know_is_named(tmp_path, kind, given, why):
    how: dict[str, Any] = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": given}
    trainer = make_trainer(tmp_path, "simcse", max_steps=2, **how)
    with pytest.raises(ValueError, match=f"lr_scheduler_kwargs, for the schedule {kind}: {why}"):
        trainer.train()


@pytest.mark.parametrize(
    "option",
    [
        {"dataloader_drop_last": False},
        {"train_sampling_strategy": "sequential"},
        {"data_seed": 3},
        {"save_strategy": "best", "metric_for_best_model": "loss"},
    ],
)
def test_arguments_that_would_not_be_heeded_are_refused_by_name(
    tmp_path: Path, option: dict[str, Any]
):
    with pytest.raises(ValueError, match=f"{next(iter(option))}.* would "):
        make_trainer(tmp_path, "simcse", **option)


def test_an_alarm_is_raised_once_and_only_for_two_lines_in_a_row(tmp_path, caplog):
    trainer = make_trainer(tmp_path, "moco", max_steps=6, save_strategy="no")
    trainer.train()  # the queue's random start makes the first step easy: no alarm for that
    assert "starves" not in caplog.text
    flat = make_trainer(tmp_path, "mlm", max_steps=6, save_strategy="no", learning_rate=0.0)
    flat.model.encoder.register_forward_hook(
        lambda m, a, e: setattr(e, "pooled", torch.ones_like(e.pooled) + 0 * e.pooled) or e
    )
    flat.train()
    assert caplog.text.count("The encoder has collapsed") == 1


def test_a_large_common_part_of_the_embeddings_is_no_alarm(tmp_path, caplog):
    trainer = make_trainer(tmp_path, "mlm", max_steps=6, save_strategy="no")
    trainer.model.encoder.register_forward_hook(
        lambda m, a, e: setattr(e, "pooled", e.pooled + 20) or e
    )
    trainer.train()
    lines = training_lines(trainer)
    assert max(line["monitor/std"] for line in lines) < 0.1
    assert {line["untrained/std"] for line in lines} == {lines[0]["monitor/std"]}
    assert "collapse" not in caplog.text


def test_an_encoder_that_was_loaded_for_use_is_trained_with_its_dropout(tmp_path):
    losses = []
    for loaded in (True, False):
        trainer = make_trainer(tmp_path / str(loaded), "simcse", max_steps=3, save_strategy="no")
        if loaded:
            trainer.model.encoder.eval()  # as `from_pretrained` leaves it
        trainer.train()
        losses.append([line["loss"] for line in training_lines(trainer)])
        assert all(m.training for m in trainer.model.modules())
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("method", ["all_state", "mlm"])
def test_bf16_trains_to_a_lower_finite_loss(tmp_path, method, accumulation):
    trainer = make_trainer(
        tmp_path, method, max_steps=40, save_strategy="no", bf16=True, dropout=0.0,
        learning_rate=3e-3, gradient_accumulation_steps=accumulation, monitor_rows=0,
    )  # fmt: skip
    trainer.train()
    losses = torch.tensor([line["loss"] for line in training_lines(trainer)])
    # MoCo's own loss rises from its random queue first: the first ten steps are left out.
    assert losses.isfinite().all() and trainer.skipped == 0
    assert losses[-10:].mean() < losses[10:20].mean()
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_bf16_is_what_layers_compute_in_whether_a_step_is_one_pass_or_several(
    tmp_path, accumulation
):
    trainer = make_trainer(
        tmp_path, max_steps=1, save_strategy="no", bf16=True,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    seen = set()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, given, made: seen.add(made.dtype))
    trainer.train()
    assert seen == {torch.bfloat16}


def test_a_process_trains_on_one_gpu_however_many_there_are(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="no")
    trainer.args._n_gpu = 4  # as transformers counts them where torchrun did not start the run
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 4
    trainer.train()
    assert trainer.model_wrapped is trainer.model


def _compiled_losses(folder: str, **options: Any) -> list[float]:
    trainer = make_trainer(folder, "sum", max_steps=6, dropout=0.0, save_steps=3, **options)
    trainer.train()
    return [line["loss"] for line in training_lines(trainer)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_blocks_that_are_computed_again_give_the_losses_of_the_plain_run(tmp_path, accumulation):
    options = {"max_steps": 4, "gradient_accumulation_steps": accumulation}
    lines = []
    for again in (False, True):
        folder = tmp_path / str(again)
        trainer = make_trainer(folder, "all_state", gradient_checkpointing=again, **options)
        trainer.train()
        assert trainer.model.encoder.model.is_gradient_checkpointing is again
        lines.append([{k: v for k, v in x.items() if "loss" in k} for x in training_lines(trainer)])
    assert lines[0] == lines[1] and len(lines[0]) == 4


@pytest.mark.slow
def test_torch_compile_gives_the_losses_of_the_plain_run(tmp_path):
    plain = _compiled_losses(str(tmp_path / "plain"))
    # In a process of its own: the compiler's warnings are no errors there.
    compiled = launch(
        tmp_path, _compiled_losses, folder=str(tmp_path / "compiled"), torch_compile=True,
        torch_compile_backend="aot_eager",
    ).result  # fmt: skip
    assert compiled == pytest.approx(plain, rel=1e-4)


def _cli(folder: Path, *extra: str) -> list[str]:
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    options = {
        "data": str(folder / "notes.txt"), "objective": "simcse", "text.vocabulary": 100,
        "text.config": json.dumps({**config, "intermediate_size": 32}),
        "training.output_dir": str(folder / "run"), "training.max_steps": 6,
        "training.save_steps": 3, "training.logging_steps": 1, "training.use_cpu": "true",
        "training.per_device_train_batch_size": 8,
    }  # fmt: skip
    words = chain.from_iterable((f"--{k}", str(v)) for k, v in options.items())
    return ["-m", "unlabel.cli", "train", *words, *extra]


@pytest.mark.slow
def test_the_command_line_under_torchrun_trains_two_ranks_and_saves_one_run(tmp_path):
    (tmp_path / "notes.txt").write_text("\n".join(sentences(200)))
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *_cli(tmp_path)],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["result"]["finished"] and run["result"]["steps"] == 6
    log = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    # Both ranks' sentences are each other's negatives.
    assert log[0]["chance/contrast"] == pytest.approx(math.log(16), rel=1e-6)


def test_a_run_that_ends_before_its_method_has_settled_says_so(tmp_path, caplog):
    small: dict[str, Any] = {"prototypes": 5, "width": 8, "hidden": 16, "crops": 2}
    for frozen, steps in ((2, 2), (2, 3)):
        caplog.clear()
        method = Sum({"own": SwAV(**small, frozen=frozen), "simcse": SimCSE()})
        how: dict[str, Any] = {"max_steps": steps, "save_strategy": "no"}
        make_trainer(tmp_path / str(steps), method, **how).train()
        said = f"ends after {steps} steps, and SwAV settles in its first {frozen} (frozen)"
        assert (said in caplog.text) == (steps <= frozen)
    assert "settles" not in caplog.text
