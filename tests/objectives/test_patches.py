"""Contrast inside a sample: its own places are the negatives, and no other sample's."""

import math
from typing import Any

import pytest
import torch
from tiny_series import TinySeries, make_series
from tiny_video import make_video, tiny_video

from unlabel.core import Encoding
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import PatchContrast
from unlabel.objectives.patches import patch_nce
from unlabel.training.pretraining import Pretraining


def vectors(seed=0, rows=3, places=6, width=5):
    return torch.randn(rows, places, width, generator=torch.Generator().manual_seed(seed)).double()


def test_equal_places_give_ln_p():
    losses = patch_nce(torch.ones(2, 256, 4), torch.ones(2, 256, 4))
    torch.testing.assert_close(losses, torch.full((512,), math.log(256)))
    mask = torch.arange(8)[None] < torch.tensor([[3], [8]])
    found = patch_nce(torch.ones(2, 8, 4), torch.ones(2, 8, 4), mask)
    expected = torch.tensor([3.0] * 3 + [8.0] * 8).log()
    torch.testing.assert_close(found, expected)


def test_it_is_its_formula():
    q, k = vectors(0), vectors(1)
    mask = torch.rand(3, 6, generator=torch.Generator().manual_seed(2)) < 0.7
    expected = []
    for b in range(3):
        real = [p for p in range(6) if mask[b, p]]
        for p in real:
            s = {o: torch.cosine_similarity(q[b, p], k[b, o], dim=0) / 0.07 for o in real}
            expected.append(-(s[p].exp() / sum(x.exp() for x in s.values())).log())
    torch.testing.assert_close(patch_nce(q, k, mask), torch.stack(expected), rtol=1e-11, atol=1e-12)


def test_other_samples_do_not_matter():
    q, k = vectors(0), vectors(1)
    other = k.clone()
    other[1:] = vectors(7)[1:]
    torch.testing.assert_close(patch_nce(q, k)[:6], patch_nce(q, other)[:6], rtol=0, atol=0)
    assert (
        torch.autograd.functional.jacobian(lambda x: patch_nce(q, x)[:6].sum(), k)[1:].eq(0).all()
    )


def test_equal_tokens_give_ln_p_after_every_block():
    encoder = TinySeries()
    module: Any = Pretraining(encoder, PatchContrast(width=8))
    batch = make_series(encoder)
    views = module.view(batch)
    ones = lambda e: torch.ones_like(e.tokens)  # noqa: E731
    seen = [Encoding(e.pooled, ones(e), e.mask, (ones(e),) * 2) for e in module.encode(views)]
    step = module.score(seen, views, batch)
    assert step.loss.item() == pytest.approx(math.log(8), abs=1e-5)
    chance: Any = step.terms["level_1"].chance
    assert float(chance) == pytest.approx(math.log(8))


def test_as_many_places_as_asked_are_drawn_and_they_exist():
    encoder = tiny_video("frames")
    module = Pretraining(encoder, PatchContrast(places=9, width=8))
    batch = make_video(encoder)
    mask = torch.ones(8, 96, dtype=torch.bool)
    mask[0, 5:] = False
    chosen, exists = module.objective.choose(mask, batch)
    assert chosen.shape == (8, 9) and exists.sum(1).tolist() == [5] + [9] * 7
    assert sorted(chosen[0, :5].tolist()) == list(range(5))
    assert all(len(set(row.tolist())) == 9 for row in chosen)
    assert not torch.equal(chosen[1], chosen[2])


def test_an_encoder_without_layers_is_read_at_its_end():
    small = {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
    encoder = VisualEncoder.from_config({"model_type": "resnet", **small}, frames=1, size=32)
    module = Pretraining(encoder, PatchContrast(width=8))
    terms = module(make_video(encoder, 4)).terms
    assert list(terms) == ["level_1"] and terms["level_1"].weight == 1


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="2 places or more, but 1 came"):
        PatchContrast(places=1)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        PatchContrast(depths=(0.0, 1.0))
