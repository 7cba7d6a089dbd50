from typing import Any

import pytest
import torch
from torch import nn

from unlabel.objectives.heads import layer_norm_mlp, mlp
from unlabel.objectives.state import Bank, Centre, Queue, Ramp, Teacher


def test_queue_keeps_the_latest_rows_and_loses_nothing_when_a_batch_wraps():
    queue = Queue(10, 2)
    for start in (0, 4, 8):
        rows = torch.arange(start, start + 4.0)[:, None].expand(-1, 2)
        queue.put(rows, torch.arange(start, start + 4))
        queue.step()
    assert sorted(queue.index.tolist()) == list(range(2, 12))
    assert torch.equal(queue.rows[:, 0], queue.index.float())


def test_queue_moves_only_in_step_and_once():
    queue = Queue(4, 2)
    before = queue.rows.clone()
    queue.put(torch.ones(2, 2), torch.tensor([5, 6]))
    assert torch.equal(queue.rows, before)
    queue.step()
    queue.step()
    assert queue.index.tolist() == [5, 6, -1, -1] and queue.position.item() == 2


def test_a_batch_larger_than_the_queue_leaves_its_last_rows():
    queue = Queue(3, 1)
    queue.put(torch.arange(5.0)[:, None], torch.arange(5))
    queue.step()
    assert sorted(queue.index.tolist()) == [2, 3, 4]


def test_queue_state_round_trip_continues_alike():
    one, other = Queue(6, 2), Queue(6, 2, seed=3)
    one.put(torch.ones(4, 2), torch.arange(4))
    one.step()
    other.load_state_dict(one.state_dict())
    for queue in (one, other):
        queue.put(torch.zeros(4, 2), torch.arange(4, 8))
        queue.step()
    assert torch.equal(one.rows, other.rows) and torch.equal(one.index, other.index)


def test_bank_blends_with_momentum_and_keeps_unit_rows():
    bank = Bank(4, 2, momentum=0.5)
    bank.rows.copy_(torch.tensor([[1.0, 0.0]]).expand(4, -1))
    bank.put(torch.tensor([[0.0, 1.0]]), torch.tensor([2]))
    bank.step()
    half = 0.5**0.5
    torch.testing.assert_close(bank.rows[2], torch.tensor([half, half]))
    assert torch.equal(bank.rows[0], torch.tensor([1.0, 0.0]))


def _pair(momentum):
    online = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    teacher = Teacher(online, momentum=momentum)
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.0)
        online(torch.randn(8, 3))
    return online, teacher


def test_momentum_one_freezes_and_zero_copies():
    for momentum in (0.0, 1.0):
        online, teacher = _pair(momentum)
        before = [p.clone() for p in teacher.module.parameters()]
        teacher.step()
        wanted = online.parameters() if momentum == 0 else before
        for p, q in zip(teacher.module.parameters(), wanted, strict=True):
            torch.testing.assert_close(p, q.detach(), atol=1e-7, rtol=0)


def test_teacher_is_a_copy_without_gradient_whose_buffers_follow():
    online, teacher = _pair(0.9)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert {id(p) for p in teacher.parameters()}.isdisjoint(id(p) for p in online.parameters())
    teacher.step()
    assert torch.equal(
        dict(teacher.module.named_buffers())["1.running_mean"],
        dict(online.named_buffers())["1.running_mean"],
    )
    assert not teacher(torch.randn(4, 3)).requires_grad


def test_a_teacher_whose_weights_are_too_coarse_for_its_steps_says_so_once(caplog):
    online = nn.Linear(4, 4)
    for dtype, momentum, said in (
        (torch.float32, 0.9999, 0),
        (torch.bfloat16, 0.99, 0),
        (torch.bfloat16, 1.0, 0),
        (torch.bfloat16, 0.999, 1),
    ):
        caplog.clear()
        teacher = Teacher(online, momentum=momentum)
        online.to(dtype)
        teacher.to(dtype)
        teacher.step()
        teacher.step()
        assert caplog.text.count("hardly moves") == said
        online.float()


def test_what_the_teacher_follows_is_not_saved_with_it():
    _, teacher = _pair(0.9)
    assert all(k.startswith("module.") for k in teacher.state_dict())


def test_mlp_has_the_sizes_asked_for():
    head = mlp(4, 8, 2, batch_norm=True)
    assert head(torch.randn(5, 4)).shape == (5, 2)
    assert [type(m).__name__ for m in head] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_a_momentum_that_is_no_share_and_a_width_that_is_none_are_refused():
    made: Any
    for made in (lambda m: Bank(4, 2, momentum=m), lambda m: Centre(4, momentum=m)):
        for wrong in (-0.1, 1.5):
            with pytest.raises(ValueError, match=f"share from 0 to 1, but {wrong} came"):
                made(wrong)
    for wrong in (1.5, Ramp(0.9, 1.5, 10)):
        with pytest.raises(ValueError, match=r"share from 0 to 1, but 1\.5 came"):
            Teacher(nn.Linear(1, 1), momentum=wrong)
    for made in (mlp, layer_norm_mlp):
        with pytest.raises(ValueError, match="1 or more, but 4, 0, 2 came"):
            made(4, 0, 2)
