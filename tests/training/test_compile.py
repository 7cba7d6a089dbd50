"""torch.compile beside batches of other lengths: one more compilation, and no more."""

from collections.abc import Iterator

import pytest
import torch
from tiny import make_encoder, make_trainer, sentences
from torch._dynamo.testing import CompileCounter

from unlabel.core import Batch
from unlabel.objectives import SimCSE
from unlabel.training.pretraining import Pretraining

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was compiled before does not count."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batches_of(encoder, lengths: int = 8) -> list[Batch]:
    """Batches of 4 sentences, each of another length."""
    ids = sorted(encoder.tokenize(sentences(200)), key=len)
    each = sorted({len(i) for i in ids})[:lengths]
    assert len(each) == lengths
    rows = [[i for i in ids if len(i) <= n][-4:] for n in each]
    samples = [
        [{"input_ids": r, "index": k, "ordinal": k} for k, r in enumerate(row)] for row in rows
    ]
    return [encoder.collator(seed=1)(s) for s in samples]


def graphs(encoder) -> list[int]:
    """Graphs compiled until the end of each batch."""
    module, count = Pretraining(encoder, SimCSE(), 200).train(), CompileCounter()
    # As accelerate does it: shapes are taken as fixed until they change.
    compiled, found = torch.compile(module, backend=count), []
    for batch in batches_of(encoder):
        compiled(batch).loss.backward()
        found.append(count.frame_count)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("unpadded", [False, True])
def test_the_second_length_is_compiled_for_and_no_other(unpadded):
    encoder = make_encoder(0.1)
    if unpadded:
        from unlabel.modalities.unpadded import unpad

        unpad(encoder)
    found = graphs(encoder)
    assert 0 < found[0] < found[1] <= 2 * found[0]
    assert len(set(found[1:])) == 1


def test_one_length_is_compiled_for_once():
    encoder = make_encoder(0.1)
    encoder.multiple_of = encoder.max_length
    assert len(set(graphs(encoder))) == 1


def test_the_mode_of_cuda_graphs_reaches_the_compiler(tmp_path, monkeypatch):
    for name in ("BACKEND", "MODE", "USE_FULLGRAPH", "USE_DYNAMIC"):
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "")
    for name in ("BACKEND", "MODE", "USE_FULLGRAPH", "USE_DYNAMIC"):
        monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}")
    trainer = make_trainer(tmp_path, "simcse", torch_compile_mode="reduce-overhead")
    assert trainer.args.torch_compile
    assert trainer.accelerator.state.dynamo_plugin.mode == "reduce-overhead"
