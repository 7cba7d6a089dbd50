import torch

from unlabel.training.keep_best import KeepBest


def test_an_error_that_is_no_number_is_never_the_best():
    module = torch.nn.Linear(1, 1)
    errors = iter([float("nan"), 2.0, float("nan"), 1.0, float("nan")])
    keep = KeepBest(module, lambda: next(errors), every=1)
    for step in range(5):
        with torch.no_grad():
            module.weight.fill_(step)
        keep._look(step)
    assert (keep.best, keep.best_step, keep.weights["weight"].item()) == (1.0, 3, 3.0)
