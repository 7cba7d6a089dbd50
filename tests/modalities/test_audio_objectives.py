"""Objectives that know no modality, on encoders of sound."""

import re
from typing import Any

import pytest
import torch

from unlabel import objectives as o
from unlabel.data_pipes.synthetic_audio import generate_audio
from unlabel.training.pretraining import NEEDS, Pretraining, lacking

pytest.importorskip("torchaudio")

from audio_tools import make_encoder

CROPS: dict[str, Any] = {"prototypes": 8, "width": 8, "hidden": 16, "crops": 2, "frozen": 0}
# The targets of one batch alone move with every step.
MOVING = ("reorder", "moco", "swav", "dino", "ibot")
METHODS = {
    "mae": lambda: o.MAE(ratio=0.5, hidden=16, layers=1, heads=2),
    "masked_values": lambda: o.MaskedValues(),
    "masked_spans": lambda: o.MaskedValues(unit="span", before="jitter"),
    "simclr": lambda: o.InstanceContrast(width=16),
    "barlow": lambda: o.BarlowTwins(width=16),
    "vicreg": lambda: o.VICReg(width=16),
    "cutoff": lambda: o.Cutoff(cut="span", ratio=0.3),
    "time_contrast": lambda: o.TimeContrast(near=1, far=2, width=8),
    "cpc_gru": lambda: o.CPC(steps=2, context="gru", width=16),
    "cpc": lambda: o.CPC(steps=2),
    "cpc_encoder": lambda: o.CPC(steps=2, context="encoder"),
    "reorder": lambda: o.ReorderPrediction(segments=2),
    "moco": lambda: o.MoCo(),
    "swav": lambda: o.SwAV(**CROPS),
    "dino": lambda: o.DINO(**CROPS),
    "ibot": lambda: o.IBOT(**CROPS),
}
CANNOT = {("ast", "cpc_encoder"), ("conv", "mae"), ("ast", "time_contrast")}


@pytest.fixture(scope="module")
def clips():
    return generate_audio(32, seconds=0.5, seed=3)


def steps(kind: str, method: str, clips, count: int) -> tuple[Pretraining, list[float]]:
    module = Pretraining(make_encoder(kind), METHODS[method]()).train()
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    batch = module.encoder.collator(seed=1)([clips[i] for i in range(len(clips))])
    losses = []
    for _ in range(count):
        loss = module(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.step()
        losses.append(loss.item())
    return module, losses


@pytest.mark.parametrize("method", [m for m in METHODS if m not in MOVING])
@pytest.mark.parametrize("kind", ["ast", "conv"])
def test_the_loss_of_one_batch_falls(kind, method, clips):
    if (kind, method) in CANNOT:
        pytest.skip("it refuses, see below")
    _, losses = steps(kind, method, clips, 8)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", MOVING)
@pytest.mark.parametrize("kind", ["ast", "conv"])
def test_the_encoder_gets_a_finite_gradient(kind, method, clips):
    if (kind, method) in CANNOT:
        pytest.skip("it refuses, see below")
    module, _ = steps(kind, method, clips, 1)
    slopes = [p.grad for p in module.encoder.model.parameters() if p.grad is not None]
    assert slopes and all(s.isfinite().all() for s in slopes) and any(s.any() for s in slopes)


@pytest.mark.parametrize(("kind", "method"), sorted(CANNOT))
def test_what_an_encoder_cannot_give_is_refused_by_name(kind, method):
    encoder, objective = make_encoder(kind), METHODS[method]()
    # Time contrast asks for nothing that is missing: a table of positions would solve it.
    why = [NEEDS.get(name, name) for name in lacking(objective, encoder)] + ["without looking"]
    with pytest.raises(ValueError, match=re.escape(why[0])):
        Pretraining(encoder, objective)
