"""Batches split by their number of tokens: the gradient of one pass, at less memory."""

import contextlib
from collections import Counter
from typing import Any

import pytest
import torch
from test_cached import _assert_close, _gradients, _module
from tiny import METHODS, make_trainer, outcome, sentences, training_lines
from torch import nn

from unlabel.benchmarks.fault_runs import differences
from unlabel.core import Batch
from unlabel.training.micro import by_tokens
from unlabel.training.pretraining import cached_step
from unlabel.training.trainer import Trainer


def batch_of(module, rows: int = 12):
    ids = module.encoder.tokenize(sentences(rows))
    samples = [
        {
            "input_ids": row, "index": i, "ordinal": i,
            "partners": {"positive": ids[i - 1], "negative": ids[i - 2]},
        }
        for i, row in enumerate(ids)
    ]  # fmt: skip
    return module.encoder.collator(seed=3)(samples)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_one_pass(method):
    cached, plain = _module(method, 0.0), _module(method, 0.0)
    views = max(Counter(spec.encoder for spec in cached.objective.views).values())
    parts = by_tokens(batch_of(cached), cached, 60 * views)
    assert len(parts) > 2 and len({len(p) for p in parts}) > 1  # of unequal numbers of rows
    cached_step(
        cached, parts, seed_micro=torch.manual_seed, backward=lambda loss: loss.backward(),
        autocast=contextlib.nullcontext,
    )  # fmt: skip
    plain(batch_of(plain)).loss.backward()
    _assert_close(_gradients(cached), _gradients(plain))


def test_batches_of_one_are_refused_where_a_sample_is_told_from_the_others_of_its_batch(tmp_path):
    lone: dict[str, Any] = {"per_device_train_batch_size": 1, "max_steps": 1}
    for method in ("simcse", "sum", "spread"):
        with pytest.raises(ValueError, match="a batch of one has no others"):
            make_trainer(tmp_path / method, method, **lone)
    assert make_trainer(tmp_path / "mlm", "mlm", **lone)
    assert make_trainer(tmp_path / "hard", "pairs", **lone)  # it has a hard negative of its own
    assert make_trainer(tmp_path / "two", "simcse", **lone, gradient_accumulation_steps=2)


@pytest.mark.parametrize("method", ["simcse", "pairs"])
def test_no_forward_pass_holds_more_tokens_and_every_sample_is_in_one(method):
    module = _module(method, 0.0)
    batch, seen = batch_of(module), []
    module.encoder.model.embeddings.register_forward_hook(
        lambda m, args, out: seen.append(out.shape[0] * out.shape[1])
    )
    parts = by_tokens(batch, module, 150)
    for p in parts:
        module.encode(module.view(p))
    assert max(seen) <= 150 and len(seen) == len(parts)
    assert sorted(torch.cat([p.index for p in parts]).tolist()) == list(range(12))
    for p in parts:
        for i, row in enumerate(p.index.tolist()):
            ids = batch.inputs["input_ids"][row][batch.mask[row]]
            assert torch.equal(p.inputs["input_ids"][i][p.mask[i]], ids)


def test_a_sentence_longer_than_that_goes_alone():
    module = _module("simcse", 0.0)
    assert [len(p) for p in by_tokens(batch_of(module), module, 1)] == [1] * 12


def test_a_batch_that_fits_is_left_as_it_is():
    module = _module("simcse", 0.0)
    batch = batch_of(module)
    assert by_tokens(batch, module, 10_000) == [batch]


def test_lengths_of_parts_are_multiples_of_the_encoders():
    module = _module("pairs", 0.0)
    module.encoder.multiple_of = 8
    for p in by_tokens(batch_of(module), module, 150):
        assert p.mask.shape[1] % 8 == 0
        assert all(x["mask"].shape[1] % 8 == 0 for x in p.partners.values())


def test_samples_of_several_kinds_are_refused():
    module = _module("simcse", 0.0)
    whole = batch_of(module)
    several = Batch({}, whole.mask, whole.index, whole.ordinal, sides={"text": whole})
    with pytest.raises(ValueError, match="set micro_tokens to 0"):
        by_tokens(several, module, 100)


def test_a_run_in_parts_has_the_losses_of_one_in_whole_steps(tmp_path):
    options: dict[str, Any] = {"dropout": 0.0, "max_steps": 5, "save_strategy": "no"}
    whole = make_trainer(tmp_path / "whole", "simcse", **options)
    parts = make_trainer(tmp_path / "parts", "simcse", micro_tokens=40, **options)
    whole.train()
    parts.train()
    losses = [[line["loss"] for line in training_lines(t)] for t in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_resume_is_bitwise_equal(tmp_path):
    options: dict[str, Any] = {"max_steps": 6, "save_steps": 3, "micro_tokens": 60}
    found = []
    for resume in (False, True):
        trainer = make_trainer(tmp_path, "all_state", **options)
        if resume:
            assert trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        else:
            trainer.train()
        found.append(outcome(trainer))
    assert differences(*found) == []


def test_batch_normalisation_and_impossible_numbers_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, "simcse", micro_tokens=64)
    trainer.model.encoder.model.extra = nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match="micro_tokens to 0"):
        Trainer(
            trainer.model, trainer.args, trainer.train_dataset, trainer.model.encoder.collator()
        )
    with pytest.raises(ValueError, match="at least 0"):
        make_trainer(tmp_path, "simcse", micro_tokens=-1)
