"""A run goes on with another batch, or on another number of ranks, and no sample is lost."""

import itertools
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import launch, make_trainer, training_lines

from unlabel.kinds.series import SeriesOptions
from unlabel.kinds.text import TextOptions
from unlabel.objectives.gather import world
from unlabel.pretrain import _keep_batch, train
from unlabel.training.arguments import TrainingArguments

ROWS = 50
BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
CONV = {"model_type": "dilated_conv", "hidden_size": 8, "output_size": 8, "num_hidden_layers": 1}
TINY: dict[str, Any] = {
    "text": TextOptions(vocabulary=60, config=BERT, streaming=True),
    "series": SeriesOptions(context=8, config=CONV, streaming=True),
}


def _run(
    folder: Path | str,
    size: int,
    steps: int,
    resume: bool = False,
    shards: list[int] | None = None,
    **options: Any,
) -> dict:
    """Train; what this rank fetched in each step, by ordinal, and the log."""
    trainer = make_trainer(
        folder, "simcse_learned", dropout=0.0, rows=ROWS, per_device_train_batch_size=size,
        max_steps=steps, save_steps=6, learning_rate=1e-3, lr_scheduler_type="constant",
        **options,
    )  # fmt: skip
    collate, fetched = trainer.data_collator, []
    trainer.train_dataset.shards = shards

    def noted(samples: Any) -> Any:
        fetched.append([s["ordinal"] for s in samples])
        return collate(samples)

    trainer.data_collator = noted
    trainer.train(resume_from_checkpoint=resume)
    return {"fetched": fetched, "log": training_lines(trainer), "rank": world()[0]}


def _together(results: list[dict]) -> list[list[int]]:
    """Each step's samples, of all ranks."""
    each = [r["fetched"] for r in results]
    return [sorted(itertools.chain(*parts)) for parts in zip(*each, strict=True)]


def _exactly_once(before: list[list[int]], after: list[list[int]]) -> None:
    got = list(itertools.chain(*before, *after))
    whole = len(got) // ROWS * ROWS
    assert len(got) == len(set(got)) and set(range(whole)) <= set(got) and whole >= 2 * ROWS


@pytest.mark.parametrize("size", [3, 5, 16])
def test_resumed_with_another_batch_every_sample_left_comes_once(tmp_path, size):
    before = _run(tmp_path, 8, 6)["fetched"]
    after = _run(tmp_path, size, 6 + 80 // size, resume=True)["fetched"]
    assert all(len(b) == size for b in after)  # what was skipped was never fetched
    _exactly_once(before, after)


def test_samples_in_shards_are_read_few_shards_at_a_time_and_resumed_among_them(tmp_path):
    how: dict[str, Any] = {"shards": [10] * 5, "shard_window": 2, "length_window": 1}
    before = _run(tmp_path, 10, 6, **how)["fetched"]
    shards = [{o % ROWS // 10 for o in batch} for batch in before[:5]]
    # Batches within a window of two shards are shuffled, too, but the windows are as they come.
    assert len(shards[4]) == 1 and len(set.union(*shards)) == 5
    assert len(shards[0] | shards[1]) == len(shards[2] | shards[3]) == 2
    after = _run(tmp_path, 5, 20, resume=True, **how)["fetched"]
    _exactly_once(before, after)
    assert len({o % ROWS // 10 for batch in [before[5], *after[:2]] for o in batch}) == 2


def test_resumed_in_the_middle_of_a_step_of_micro_batches_nothing_is_lost(tmp_path):
    before = _run(tmp_path, 4, 6, gradient_accumulation_steps=2)["fetched"]
    after = _run(tmp_path, 4, 20, resume=True)["fetched"]  # no micro-batches any more
    _exactly_once(before, after)


def test_resumed_where_it_stood_it_sees_what_the_uninterrupted_run_does(tmp_path):
    whole = _run(tmp_path / "whole", 8, 14)["fetched"]
    before = _run(tmp_path / "parts", 8, 6)["fetched"]
    assert before + _run(tmp_path / "parts", 8, 14, resume=True)["fetched"] == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "others"), [((2, 4), (1, 8)), ((1, 8), (2, 4)), ((2, 4), (3, 3))]
)
def test_resumed_on_another_number_of_ranks(tmp_path, ranks, others):
    launched = lambda n, **how: launch(tmp_path / f"{n}", _run, n, **how)  # noqa: E731
    first = launched(ranks[0], folder=str(tmp_path / "run"), size=ranks[1], steps=6)
    assert first.result
    more = {"folder": str(tmp_path / "run"), "size": others[1], "steps": 14, "resume": True}
    second = launched(others[0], **more)
    assert second.result
    before, after = _together(first.results), _together(second.results)
    _exactly_once(before, after)
    if others[0] * others[1] == 8:  # the same batches as ever: the same losses, too
        straight = _run(tmp_path / "straight", 8, 14)
        assert before + after == [sorted(b) for b in straight["fetched"]]
        for mine, theirs in zip(second.result["log"], straight["log"], strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_a_run_keeps_its_batch_on_another_number_of_processes(tmp_path, caplog):
    before = {"training": {"per_device_train_batch_size": 8}, "processes": 4, "samples": 100}
    for asked, processes, given in ((8, 2, 16), (16, 2, 16), (8, 8, 4), (8, 3, 11), (8, 64, 1)):
        args: Any = SimpleNamespace(per_device_train_batch_size=asked, world_size=processes)
        with caplog.at_level(logging.WARNING):
            assert _keep_batch(before, args, tmp_path) == {"per_device_train_batch_size": 8}
        assert args.per_device_train_batch_size == given
    assert "11 samples a step on each, 33 together, not 32" in caplog.text
    for asked, processes in ((8, 4), (5, 4), (5, 2)):  # unchanged, or refused as another recipe
        args = SimpleNamespace(per_device_train_batch_size=asked, world_size=processes)
        assert _keep_batch(before, args, tmp_path) == {"per_device_train_batch_size": asked}
    args = SimpleNamespace(per_device_train_batch_size=8, world_size=3)
    with pytest.raises(ValueError, match="32 samples of a stream a step, which 3 processes"):
        _keep_batch(before | {"samples": None}, args, tmp_path)


def _train(kind: Any, data: Path, run: Path, options: Any, steps: int, *, resume: bool) -> None:
    args = TrainingArguments(
        output_dir=str(run), max_steps=steps, save_steps=2, per_device_train_batch_size=4,
        use_cpu=True, report_to="none",
    )  # fmt: skip
    given: Any = {kind: options}
    train(
        objective="simcse" if kind == "text" else "ts2vec", data=str(data), modality=kind,
        training=args, resume=resume, **given,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "series"])
def test_data_of_as_many_samples_and_another_content_is_refused(tmp_path, kind):
    rows, options = [f"{(i * i) % 7},{i}" for i in range(40)], replace(TINY[kind], streaming=False)
    file = tmp_path / ("a.csv" if kind == "series" else "a.txt")

    def go(rows: list[str], steps: int, resume: bool) -> None:
        file.write_text("\n".join(["x,y"] * (kind == "series") + rows))
        _train(kind, file, tmp_path / "run", options, steps, resume=resume)

    go(rows, 2, False)
    go(rows, 4, True)
    with pytest.raises(ValueError, match="begun with another content of its data"):
        go([*rows[1:], rows[0]], 6, True)


@pytest.mark.parametrize("kind", ["text", "series"])
def test_a_stream_whose_files_changed_is_refused_for_its_places_are_others(tmp_path, kind):
    data, run, options = tmp_path / "data", tmp_path / "run", TINY[kind]
    data.mkdir()
    for i in range(3):
        rows = "\n".join(f"{(i + 3 * k) % 7},{k}" for k in range(40))
        name, lines = ("a.csv", f"x,y\n{rows}") if kind == "series" else ("a.txt", rows)
        (data / f"{i}{name}").write_text(lines)

    def go(steps: int, resume: bool) -> None:
        _train(kind, data, run, options, steps, resume=resume)

    go(2, False)
    go(4, True)
    about = json.loads((run / "run.json").read_text())
    assert about["bytes"] == sum(p.stat().st_size for p in data.iterdir())
    next(data.iterdir()).unlink()
    with pytest.raises(ValueError, match="begun with another size of its files"):
        go(6, True)
    # A run of an earlier version did not write it down.
    (run / "run.json").write_text(json.dumps({**about, "bytes": None}))
    go(6, True)
