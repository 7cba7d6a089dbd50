"""Time contrast of clips: one view over its times, two views at the same time."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_video import make_video, tiny_video

from unlabel.core import Encoding, over_time
from unlabel.objectives import MultiViewTimeContrast, TimeContrast
from unlabel.objectives.time_contrast import across, semi_hard
from unlabel.training.pretraining import Pretraining


def pretraining(objective) -> tuple[Any, Any]:
    encoder = tiny_video()
    return Pretraining(encoder, objective).double(), make_video(encoder)


def test_a_clips_times_are_the_means_of_their_tokens():
    module, batch = pretraining(TimeContrast(near=1, far=2, margin=0.3, width=8))
    views = module.view(batch)
    (encoding,) = module.encode(views)
    assert encoding.tokens.shape == (8, 6 * 16, 16)
    loss = module.score([encoding], views, batch).loss
    times, mask = over_time(encoding.tokens, encoding.mask, module.encoder.grid)
    torch.testing.assert_close(times, encoding.tokens.view(8, 6, 16, 16).mean(2))
    flat = Encoding(encoding.pooled, times, mask)
    module.objective.grid = (6,)
    torch.testing.assert_close(module.score([flat], views, batch).loss, loss)


def test_equal_embeddings_give_the_margin_or_ln_of_the_times():
    for objective, wanted in (
        (MultiViewTimeContrast(width=8), 0.2),
        (MultiViewTimeContrast(loss="npairs", width=8), math.log(6)),
    ):
        module, batch = pretraining(objective)
        with torch.no_grad():
            module.objective.projector.weight.zero_()
        term = module(batch).terms["time"]
        assert term.loss.item() == pytest.approx(wanted, abs=1e-9)
        assert term.chance == pytest.approx(wanted)


def test_positives_are_the_same_time_and_negatives_another_of_the_same_clip():
    z = F.normalize(torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(0)), dim=2)
    real = torch.ones(3, 5, dtype=torch.bool)
    real[0, 3:] = False
    positive, negative, is_anchor = across(z, real)
    assert torch.equal(is_anchor, real.repeat(1, 2))
    for i in range(3):
        exists = [t for t in range(10) if real[i, t % 5]]
        for t in exists:
            assert positive[i, t] == (t + 5) % 10
            apart = (z[i] - z[i, t]).norm(dim=1)
            others = [s for s in exists if s % 5 != t % 5]
            hard = [s for s in others if apart[s] > apart[positive[i, t]]]
            pool = sorted(hard or others, key=lambda s: apart[s])
            assert negative[i, t] == (pool[0] if hard else pool[-1])


def test_the_triplet_loss_is_the_formula_on_unit_vectors():
    module, batch = pretraining(MultiViewTimeContrast(width=8, margin=0.5))
    views = module.view(batch)
    encodings = module.encode(views)
    sides = [e.tokens.view(8, 6, 16, 16).mean(2) for e in encodings]
    z = F.normalize(module.objective.projector(torch.cat(sides, 1)), dim=2)
    positive, negative, _ = across(z, torch.ones(8, 6, dtype=torch.bool))
    losses = []
    for i in range(8):
        for t in range(12):
            d = [(z[i, t] - z[i, at[i, t]]).square().sum() for at in (positive, negative)]
            losses.append((d[0] - d[1] + 0.5).clamp(min=0))
    loss = module.score(encodings, views, batch).loss
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_n_pairs_is_cross_entropy_within_each_clip_without_normalising():
    module, batch = pretraining(MultiViewTimeContrast(loss="npairs", width=8, penalty=0.01))
    views = module.view(batch)
    encodings = module.encode(views)
    a, b = (module.objective.projector(e.tokens.view(8, 6, 16, 16).mean(2)) for e in encodings)
    at = torch.arange(6)
    losses = [F.cross_entropy(s, at) for i in range(8) for s in (a[i] @ b[i].T, b[i] @ a[i].T)]
    size = (a.square() + b.square()).sum(2).mean()
    loss = module.score(encodings, views, batch).loss
    torch.testing.assert_close(loss, torch.stack(losses).mean() + 0.01 / 4 * size)


def test_times_that_one_view_lacks_count_nowhere():
    for kind in ("triplet", "npairs"):
        module, batch = pretraining(MultiViewTimeContrast(loss=kind, width=8))
        encodings = module.encode(module.view(batch))
        losses = []
        for fill in (0.0, 5.0):
            gone = torch.zeros(8, 96, dtype=torch.bool)
            gone[:, 64:] = True
            short = Encoding(
                encodings[0].pooled,
                encodings[0].tokens.masked_fill(gone[:, :, None], fill),
                ~gone,
            )
            losses.append(module.score([short, encodings[1]], [], batch).loss)
        assert torch.equal(*losses)
        moved = Encoding(encodings[0].pooled, encodings[0].tokens[:, :64], ~gone[:, :64])
        with pytest.raises(ValueError, match="two views have 4 and 6 times"):
            module.score([moved, encodings[1]], [], batch)


def test_semi_hard_negatives_may_be_left_without_any():
    apart = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    can = torch.zeros(1, 2, 2, dtype=torch.bool)
    assert semi_hard(apart, torch.tensor([[1, 0]]), can).shape == (1, 2)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="give 'triplet' or 'npairs'"):
        MultiViewTimeContrast(loss="pairs")  # type: ignore[arg-type]
    # A transformer over the whole clip knows the time by its positions.
    for objective in (TimeContrast(near=1, far=1), MultiViewTimeContrast()):
        with pytest.raises(ValueError, match="VisualEncoder tells each token where in the clip"):
            Pretraining(tiny_video("tubes"), objective)
    with pytest.raises(ValueError, match="far reaches 6 tokens on, but a view has 6"):
        Pretraining(tiny_video(), TimeContrast(near=1, far=5))
