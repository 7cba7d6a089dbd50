"""Many processes are one, for every method: losses, gradients, and all that the steps leave."""

import os
from typing import Any

import pytest
import torch
from tiny import METHODS as TEXT  # pyright: ignore[reportMissingImports]
from tiny import launch, make_encoder, sentences  # pyright: ignore[reportMissingImports]
from tiny_joint import JOINT, joint
from tiny_series import SAMPLES, SERIES, TinySeries, make_series
from tiny_video import MIXED, VIDEO, make_video, tiny_video

from unlabel.data_pipes.tokens import TokenStore
from unlabel.objectives import CATALOGUE
from unlabel.objectives.clusters import Clusters
from unlabel.objectives.gather import average_gradients, world
from unlabel.training.pretraining import Pretraining

ROWS, STEPS, RATE = 12, 2, 0.02
NAMES = [f"{kind}/{name}" for kind, made in (
    ("text", TEXT), ("series", SERIES), ("joint", JOINT), ("video", VIDEO)
) for name in made]  # fmt: skip
# What cannot be one process's, and why; its ranks are alike all the same.
UNEQUAL = {f"video/{name}": "its views are mixed of the samples of a rank" for name in MIXED}


def test_every_method_of_the_catalogue_is_compared():
    made = [make() for make in [*TEXT.values(), *SERIES.values(), *JOINT.values()]]
    made += [make() for make, _ in VIDEO.values()]
    assert set(CATALOGUE.values()) <= {type(m) for m in made}


def _made(name: str) -> tuple[Pretraining, Any]:
    """A method on its encoder, and what makes its batch of `rows` samples from `first` on."""
    kind, _, name = name.partition("/")
    if kind == "text":
        text, said = make_encoder(dropout=0.0), sentences(SAMPLES)
        partners = {"positive": said[1:] + said[:1], "negative": said[2:] + said[:2]}
        store = TokenStore(said, text.tokenizer, max_length=32, partners=partners, progress=False)
        collate = text.collator(seed=3)
        return Pretraining(text, TEXT[name](), SAMPLES), lambda rows, first: collate(
            [store[i] for i in range(first, first + rows)]
        )
    if kind == "series":
        series = TinySeries()
        module = Pretraining(series, SERIES[name](), SAMPLES)
        return module, lambda rows, first: make_series(series, rows, first)
    if kind == "joint":
        module, _ = joint(JOINT[name]())
        return module, lambda rows, first: make_series(module.encoder, rows, first)
    make, shape = VIDEO[name]
    video = tiny_video(shape)
    module = Pretraining(video, make())
    for part in module.modules():
        if isinstance(part, Clusters):  # before a fit, no cluster is told from another
            start = torch.randn(part.centres.shape, generator=torch.Generator().manual_seed(1))
            part.centres.copy_(start / 5)
    return module, lambda rows, first: make_video(video, rows, first)


def _train(names: list[str]) -> dict[str, Any]:
    """Each method's losses, first gradients and last state, this rank with its share of samples."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
    rank, size = world()
    share, found = ROWS // size, {}
    for name in names:
        module, batch_of = _made(name)
        module = module.double()
        learned: list[Any] = [p for p in module.parameters() if p.requires_grad]
        losses, grads = [], []
        for i in range(STEPS):
            step = module(batch_of(share, i * ROWS + rank * share))
            step.loss.backward()
            average_gradients(learned)
            losses.append(step.loss.detach())
            given = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
            grads.append(torch.cat([g.flatten() for g in given]))
            with torch.no_grad():
                torch._foreach_add_(learned, given, alpha=-RATE)
            module.zero_grad()
            module.step()
        state = {k: v.clone() for k, v in module.state_dict().items()}
        found[name] = {"loss": torch.stack(losses), "grads": grads, "state": state}
    return found


def _as_one(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state with the rows of each queue in the order of their samples."""
    made = dict(state)
    for key in [k for k in state if k.endswith("queue.index")]:
        order, rows = state[key].argsort(stable=True), f"{key.removesuffix('index')}rows"
        made |= {key: state[key][order], rows: state[rows][order]}
    return made


def _differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], off: float) -> list:
    """Names of what differs by more than `off` beside what is there."""
    assert one.keys() == other.keys()
    near = {"rtol": off, "atol": off / 100, "equal_nan": True}
    return [k for k in one if not torch.allclose(one[k], other[k].to(one[k]), **near)]


@pytest.fixture(scope="module")
def one_process():
    return _train(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_go_the_way_of_one_process(one_process, tmp_path, ranks):
    ended = launch(tmp_path, _train, ranks, names=NAMES)
    assert ended.result
    wrong = {}
    for name, wanted in one_process.items():
        first, *others = (result[name] for result in ended.results)
        for other in others:
            wrong[name, "of the ranks"] = _differing(first["state"], other["state"], 0.0)
        if name in UNEQUAL:
            continue
        loss = torch.stack([result[name]["loss"] for result in ended.results]).mean(0)
        wrong[name, "loss"] = (
            [] if torch.allclose(loss, wanted["loss"], rtol=1e-9, atol=0) else [loss]
        )
        apart = [
            (got - grad).norm() / grad.norm()
            for got, grad in zip(first["grads"], wanted["grads"], strict=True)
        ]
        wrong[name, "gradients"] = [x for x in apart if not x < 1e-9]
        now, then = _as_one(first["state"]), _as_one(wanted["state"])
        wrong[name, "state"] = _differing(then, now, 1e-8)
    assert not {k: v for k, v in wrong.items() if v}
