"""Micro-batches that share negatives: the whole batch's gradient, one micro-batch's memory."""

import contextlib
from itertools import pairwise

import pytest
import torch
from tiny import METHODS, make_encoder, make_trainer, sentences
from torch import nn
from transformers import TrainerCallback

from unlabel.core import cat_batches, cat_encodings, cat_views
from unlabel.training.pretraining import Pretraining, cached_step
from unlabel.training.trainer import Trainer


def _module(method: str, dropout: float, seed: int = 0) -> Pretraining:
    torch.manual_seed(seed)
    return Pretraining(make_encoder(dropout), METHODS[method](), 12).double()


def _micro(module: Pretraining, sizes=(3, 5, 4)) -> list:
    """Micro-batches of different sizes and lengths, each sample with its partners."""
    ids = module.encoder.tokenize(sentences(sum(sizes)))
    samples = [
        {
            "input_ids": row, "index": i, "ordinal": i,
            "partners": {"positive": ids[i - 1], "negative": ids[i - 2]},
        }
        for i, row in enumerate(ids)
    ]  # fmt: skip
    collate, starts = module.encoder.collator(seed=3), [sum(sizes[:i]) for i in range(len(sizes))]
    return [collate(samples[s : s + n]) for s, n in zip(starts, sizes, strict=True)]


def _cached(module: Pretraining, batches: list) -> dict[str, torch.Tensor]:
    cached_step(
        module,
        batches,
        seed_micro=torch.manual_seed,
        backward=lambda loss: loss.backward(),
        autocast=contextlib.nullcontext,
    )
    return _gradients(module)


def _gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def _assert_close(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    whole = torch.cat([g.flatten() for g in wanted.values()]).norm()
    for name, grad in wanted.items():
        apart = (got[name] - grad).norm() / torch.maximum(grad.norm(), 1e-3 * whole)
        assert apart < 1e-12, f"{name} is {apart:.1e} off"


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_whole_batch_without_dropout(method):
    cached, plain = _module(method, 0.0), _module(method, 0.0)
    batches = _micro(cached)
    got = _cached(cached, batches)
    # The whole batch at once, its partners too: made anew from the samples.
    plain(_micro(plain, (12,))[0]).loss.backward()
    _assert_close(got, _gradients(plain))


@pytest.mark.parametrize("method", ["all_state", "mlm", "pairs"])
def test_dropout_is_replayed_as_if_every_micro_batch_had_kept_its_graph(method):
    cached, kept = _module(method, 0.3), _module(method, 0.3)
    got = _cached(cached, _micro(cached))
    batches = _micro(kept)
    views, found = [kept.view(b) for b in batches], []
    for i, seen in enumerate(views):
        torch.manual_seed(i)
        found.append(kept.encode(seen))
    torch.manual_seed(len(batches))
    kept.score(
        [cat_encodings(parts) for parts in zip(*found, strict=True)],
        [cat_views(parts) for parts in zip(*views, strict=True)],
        cat_batches(batches),
    ).loss.backward()
    _assert_close(got, _gradients(kept))


def test_another_replay_of_dropout_gives_another_gradient():
    one, other = _module("simcse", 0.3), _module("simcse", 0.3)
    a = _cached(one, _micro(one))
    torch.manual_seed(99)
    cached_step(
        other, _micro(other), seed_micro=lambda i: torch.manual_seed(50 + i),
        backward=lambda loss: loss.backward(), autocast=contextlib.nullcontext,
    )  # fmt: skip
    assert any(not torch.allclose(a[n], g) for n, g in _gradients(other).items())


def test_no_more_than_one_micro_batch_goes_through_the_encoder_with_a_graph():
    module = _module("all_state", 0.1)
    rows, kept = [], []
    module.encoder.model.register_forward_hook(
        lambda m, args, kwargs, out: rows.append(
            (out.last_hidden_state.requires_grad, len(out.last_hidden_state))
        ),
        with_kwargs=True,
    )
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        _cached(module, _micro(module, (4, 4, 4)))
    with_graph = [n for has_graph, n in rows if has_graph]
    # Two views (plain twice, span once) of 4 samples for the online encoder: 12 rows, not 36.
    assert with_graph == [12, 12, 12]
    assert [n for has_graph, n in rows if not has_graph].count(12) == 3


def test_memory_that_is_saved_for_backward_does_not_grow_with_the_number_of_micro_batches():
    def most(count: int) -> int:
        module, alive = _module("simcse", 0.1), {"now": 0, "most": 0}
        names = [*[4] * count]

        class Held:
            def __init__(self, x: torch.Tensor):
                self.x = x
                alive["now"] += x.numel()
                alive["most"] = max(alive["most"], alive["now"])

            def __del__(self):
                alive["now"] -= self.x.numel()

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.x):
            _cached(module, _micro(module, names))
        return alive["most"]

    assert most(8) < 1.3 * most(2)


def test_tokens_that_no_objective_reads_are_not_kept():
    module, seen = _module("simcse", 0.0), []
    module.objective.register_forward_pre_hook(lambda m, args: seen.extend(args[0]))
    _cached(module, _micro(module))
    assert [e.tokens.numel() for e in seen] == [0, 0] and all(len(e.pooled) == 12 for e in seen)


def test_an_encoder_with_batch_normalisation_is_refused_for_micro_batches(tmp_path):
    trainer = make_trainer(tmp_path, "simcse")
    trainer.model.encoder.model.extra = nn.BatchNorm1d(4)
    trainer.args.gradient_accumulation_steps = 2
    with pytest.raises(ValueError, match="Set gradient_accumulation_steps to 1"):
        Trainer(
            trainer.model, trainer.args, trainer.train_dataset, trainer.model.encoder.collator()
        )


class _Moves(TrainerCallback):
    """Counts how often queue and teacher moved, by what they hold after each optimizer step."""

    def __init__(self):
        self.positions: list[int] = []
        self.teachers: list[torch.Tensor] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.positions.append(int(model.objective.queue.position))
        self.teachers.append(next(model.teacher.parameters()).clone())


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_queue_and_teacher_move_once_for_every_optimizer_step(tmp_path, accumulation):
    moves = _Moves()
    trainer = make_trainer(
        tmp_path, "moco", callbacks=[moves], max_steps=4, save_strategy="no", rows=48,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    calls: list[int] = []
    assert trainer.model.teacher is not None
    move = trainer.model.teacher.step
    trainer.model.teacher.step = lambda: calls.append(1) or move()
    trainer.train()
    rows = 4 * accumulation
    assert moves.positions == [rows * (i + 1) % 24 for i in range(4)]
    assert len(calls) == 4
    assert all(not torch.equal(a, b) for a, b in pairwise(moves.teachers))
