"""Many processes are one, for the methods that text does not run through its own trainer."""

import os
from typing import Any

import pytest
import torch
from tiny import METHODS as TEXT  # pyright: ignore[reportMissingImports]
from tiny import launch  # pyright: ignore[reportMissingImports]
from tiny_joint import JOINT, joint
from tiny_series import SAMPLES, SERIES, TinySeries, make_series
from tiny_video import MIXED, VIDEO, make_video, tiny_video

from unlabel.objectives import CATALOGUE
from unlabel.objectives.clusters import Clusters
from unlabel.objectives.gather import average_gradients, world
from unlabel.training.pretraining import Pretraining

ROWS = 12


def test_every_method_of_the_catalogue_is_compared_here_or_in_training():
    made = [make() for make in [*TEXT.values(), *SERIES.values(), *JOINT.values()]]
    made += [make() for make, _ in VIDEO.values()]
    assert set(CATALOGUE.values()) <= {type(m) for m in made}


def _made(name: str, rows: int, first: int) -> tuple[Any, Any]:
    if name in JOINT:
        module, batch = joint(JOINT[name](), rows, first)
        return module.double(), batch
    if name in SERIES:
        encoder = TinySeries()
        module = Pretraining(encoder, SERIES[name](), SAMPLES).double()
        return module, make_series(encoder, rows, first)
    make, kind = VIDEO[name]
    video = tiny_video(kind)
    module = Pretraining(video, make()).double()
    for part in module.modules():
        if isinstance(part, Clusters):  # before a fit, no cluster is told from another
            start = torch.randn(part.centres.shape, generator=torch.Generator().manual_seed(1))
            part.centres.copy_(start / 5)
    return module, make_video(video, rows, first)


def _gradients(names: list[str]) -> dict[str, Any]:
    """Each method's loss and gradient for this rank's share of the samples, averaged over ranks."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
    rank, size = world()
    share, found = ROWS // size, {}
    for name in names:
        module, batch = _made(name, share, rank * share)
        step = module(batch)
        step.loss.backward()
        average_gradients(module.parameters())
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
        found[name] = {
            "grads": torch.cat([g.flatten() for g in grads]),
            "loss": step.loss.detach(),
        }
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_give_the_one_process_gradient(tmp_path, ranks):
    names = [name for name in [*SERIES, *JOINT, *VIDEO] if name not in MIXED]
    one = _gradients(names)
    ended = launch(tmp_path, _gradients, ranks, names=names)
    assert ended.result
    for name in names:
        loss = sum(float(r[name]["loss"]) for r in ended.results) / ranks
        assert loss == pytest.approx(float(one[name]["loss"]), rel=1e-9), name
        got, wanted = ended.results[0][name]["grads"], one[name]["grads"]
        assert (got - wanted).norm() < 1e-9 * wanted.norm(), name
