"""Many processes are one: the same gradients, the same losses, for every method."""

import math
import os
from typing import Any

import pytest
import torch
from tiny import METHODS, launch, make_trainer, training_lines
from torch import nn
from transformers import TrainerCallback

from unlabel.objectives import MLM
from unlabel.objectives.gather import average_gradients, gather, global_mean, together, world

# 12 samples fill one step, however they are shared out.
ROWS = 12
LOGGED = ("objective", "chance", "loss", "share", "weight", "monitor", "untrained")
GRADIENT_METHODS: dict[str, Any] = {
    **{name: name for name in METHODS},
    "mlm_rare": lambda: MLM(rate=0.03),  # some ranks have no masked token at all
}


class _Gradients(TrainerCallback):
    """Keeps each parameter's gradient as the optimizer gets it."""

    def __init__(self):
        self.kept: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        model = getattr(model, "module", model)
        self.kept = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def _gradients(folder: str, accumulation: int, names: list[str]) -> dict[str, Any]:
    """The first step's gradients, losses and state of each method, with all samples in it."""
    found = {}
    for name in names:
        made = GRADIENT_METHODS[name]
        kept, counts = _Gradients(), []
        trainer = make_trainer(
            f"{folder}/{name}-{accumulation}-{world()[0]}",
            made if isinstance(made, str) else made(),
            dropout=0.0, rows=ROWS, dtype=torch.float64, callbacks=[kept], max_steps=1,
            save_strategy="no", max_grad_norm=0.0, length_window=1,
            gradient_accumulation_steps=accumulation,
            per_device_train_batch_size=ROWS // world_size() // accumulation,
        )  # fmt: skip
        trainer.model.objective.register_forward_hook(
            lambda _m, args, _out, counts=counts: counts.extend(
                int(v.is_target.sum()) for v in args[1] if v.is_target is not None
            )
        )
        trainer.train()
        log = trainer.state.log_history[0]
        buffers = {
            k: v.clone() for k, v in trainer.model.named_buffers() if "queue" in k or "bank" in k
        }
        found[name] = {"grads": kept.kept, "log": log, "targets": counts, "buffers": buffers}
    return found


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """Distance of each gradient, over its own norm or, where that is next to 0, all norms'."""
    assert one.keys() == other.keys()
    whole = torch.cat([g.flatten() for g in one.values()]).norm()
    # A few are 0 but for rounding (a key's bias shifts every logit of a softmax alike).
    return {
        n: float((one[n] - other[n]).norm() / torch.maximum(one[n].norm(), 1e-3 * whole))
        if one[n].numel() > 1
        else float((one[n] - other[n]).abs() / one[n].abs())
        for n in one
    }


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return launch(
        folder, _gradients, folder=str(folder), accumulation=1, names=list(GRADIENT_METHODS)
    ).result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "accumulation", "names"),
    [
        (2, 1, list(GRADIENT_METHODS)),
        (2, 2, list(GRADIENT_METHODS)),
        (1, 3, list(GRADIENT_METHODS)),
        (4, 1, ["all_state", "mlm", "pairs", "bank", "dino", "swav"]),
        (3, 2, ["all_state", "mlm"]),
    ],
)
def test_ranks_and_micro_batches_give_the_one_process_gradient(
    one_process, tmp_path, ranks, accumulation, names
):
    ended = launch(
        tmp_path, _gradients, ranks, folder=str(tmp_path), accumulation=accumulation, names=names
    )
    assert ended.result
    for result in ended.results:
        for name in names:
            got, wanted = result[name], one_process[name]
            apart = _apart(wanted["grads"], got["grads"])
            worst = max(apart, key=apart.__getitem__)
            assert apart[worst] < 1e-12, f"{name}: {worst} is {apart[worst]:.1e} off"
            for key in (k for k in wanted["log"] if k.startswith(LOGGED) and "waiting" not in k):
                assert got["log"][key] == pytest.approx(wanted["log"][key], rel=1e-6), key


@pytest.mark.slow
def test_the_learned_temperature_and_unequal_ranks_are_among_what_was_compared(
    one_process, tmp_path
):
    ended = launch(
        tmp_path, _gradients, 3, folder=str(tmp_path), accumulation=1, names=["mlm", "mlm_rare"]
    )
    assert ended.result
    counts = [r["mlm"]["targets"][0] for r in ended.results]
    assert len(set(counts)) > 1 and sum(counts) == one_process["mlm"]["targets"][0]
    assert 0 in [r["mlm_rare"]["targets"][0] for r in ended.results]
    learned = [n for n in one_process["simcse_learned"]["grads"] if n.endswith("log_scale")]
    assert learned and all(one_process["simcse_learned"]["grads"][n].abs() > 1e-6 for n in learned)


@pytest.mark.slow
def test_two_ranks_remember_the_same_keys_as_one_process(one_process, tmp_path):
    ended = launch(tmp_path, _gradients, 2, folder=str(tmp_path), accumulation=1, names=["moco"])
    assert ended.result
    for result in ended.results:
        got, wanted = result["moco"]["buffers"], one_process["moco"]["buffers"]
        order, other = got["objective.queue.index"].sort(), wanted["objective.queue.index"].sort()
        assert torch.equal(order.values, other.values)
        rows = got["objective.queue.rows"][order.indices][-ROWS:]
        same = wanted["objective.queue.rows"][other.indices][-ROWS:]
        torch.testing.assert_close(rows, same, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_every_rank_has_the_bank_of_one_process(one_process, tmp_path):
    ended = launch(tmp_path, _gradients, 2, folder=str(tmp_path), accumulation=1, names=["bank"])
    assert ended.result
    wanted = one_process["bank"]["buffers"]["objective.bank.rows"]
    rows = [r["bank"]["buffers"]["objective.bank.rows"] for r in ended.results]
    assert torch.equal(*rows)
    torch.testing.assert_close(rows[0], wanted, rtol=1e-12, atol=1e-12)


def _losses(folder: str, size: int, method: str, dropout: float = 0.0, **options) -> list[dict]:
    trainer = make_trainer(
        folder, method, dropout=dropout, per_device_train_batch_size=size, max_steps=20,
        save_strategy="no", **options,
    )  # fmt: skip
    trainer.train()
    return training_lines(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simcse_learned", "sum", "moco"])
def test_two_ranks_of_four_go_the_way_of_one_rank_of_eight(tmp_path, method):
    one = launch(tmp_path / "1", _losses, folder=str(tmp_path), size=8, method=method).result
    two = launch(tmp_path / "2", _losses, 2, folder=str(tmp_path), size=4, method=method).result
    assert len(one) == len(two) == 20
    for a, b in zip(one, two, strict=True):
        for key in (k for k in a if k.startswith(("objective", "chance"))):
            assert b[key] == pytest.approx(a[key], rel=1e-6, abs=1e-6), (a["step"], key)


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tmp_path):
    runs = [
        _losses(str(tmp_path / str(i)), 4, "all_state", 0.1, seed=seed)
        for i, seed in enumerate((7, 7, 8))
    ]
    assert runs[0] == runs[1]
    assert all(a["loss"] != b["loss"] for a, b in zip(runs[0], runs[2], strict=True))


# -- the parts -----------------------------------------------------------------------------------


class _Scaled(nn.Module):
    """A pure loss of rows: each rank's share of the mean over all of exp(-x_i . x_j)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4, dtype=torch.float64))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        made = rows * self.weight
        return global_mean((-made @ gather(made).T).exp().sum(1))


def _parts() -> dict[str, Any]:
    rank, size = _join()
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = _Scaled()
    module(rows.chunk(size)[rank]).backward()
    average_gradients(module.parameters(), bucket=1)
    uneven = global_mean(torch.arange(1.0 + rank))
    nothing = global_mean(torch.zeros(0))
    gathered = gather(torch.full((2,), rank))
    return {
        "grad": module.weight.grad, "uneven": uneven, "nothing": nothing, "gathered": gathered
    }  # fmt: skip


def _join() -> tuple[int, int]:
    if world_size() > 1:
        torch.distributed.init_process_group("gloo")
    return world()


@pytest.mark.slow
def test_gather_and_mean_give_the_one_process_gradient(tmp_path):
    one = _parts()
    for ranks in (2, 3):
        ended = launch(tmp_path, _parts, ranks)
        torch.testing.assert_close(ended.result["grad"], one["grad"], rtol=1e-13, atol=0)
        values = [float(i) for r in range(ranks) for i in range(r + 1)]
        mean = sum(float(r["uneven"]) for r in ended.results) / ranks
        assert mean == pytest.approx(sum(values) / len(values), rel=1e-6)
        assert all(r["nothing"] == 0 for r in ended.results)
        assert ended.result["gathered"].tolist() == [r for r in range(ranks) for _ in range(2)]


def _one_fails() -> str:
    rank, _ = _join()

    def part():
        if rank == 1:
            raise OSError("no room")

    try:
        together(part, torch.device("cpu"))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "went on"


@pytest.mark.slow
def test_what_fails_on_one_rank_raises_on_all(tmp_path):
    ended = launch(tmp_path, _one_fails, 2)
    assert ended.result == "RuntimeError: Another rank failed here; its message says why."
    assert ended.results[1] == "OSError: no room"


def test_mean_of_one_process_is_the_plain_mean_and_0_of_nothing():
    x = torch.randn(5)
    assert global_mean(x) == x.sum() / 5
    assert global_mean(torch.zeros(0)) == 0
    assert math.isnan(global_mean(torch.tensor([1.0, math.nan])))
