"""PixContrast and PixPro: which tokens are near, and what they cost."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_video import make_video, tiny_video

from unlabel.core import Encoding, View
from unlabel.objectives import PixContrast, PixPro
from unlabel.objectives.dense import near
from unlabel.training.pretraining import Pretraining

SIZES: dict[str, Any] = {"width": 8, "hidden": 16}


def grid(size: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Places of the cells of a square crop, `(1, size * size, 2, 2)`."""
    step = (high - low) / size
    line = low + step * (torch.arange(size) + 0.5)
    middle = torch.cartesian_prod(line, line)
    return torch.stack([middle, torch.full_like(middle, step)], -1)[None]


def scored(module, pairs, tokens):
    """Terms of an objective for given places and tokens of its four views."""
    masks = [torch.ones(t.shape[:2], dtype=torch.bool) for t in tokens]
    seen = [Encoding(t.mean(1), t, m) for t, m in zip(tokens, masks, strict=True)]
    views = [View({}, m, places=p) for p, m in zip(pairs, masks, strict=True)]
    return module.objective(seen, views, None)


def made(method) -> Any:
    return Pretraining(tiny_video("frames"), method).double()


def test_the_same_crop_is_near_at_its_own_cells_only():
    assert torch.equal(near(grid(4), grid(4), threshold=0.7)[0], torch.eye(16, dtype=torch.bool))


def test_near_is_the_distance_over_the_larger_diagonal():
    a, b = grid(4, 0.0, 0.6), grid(3, 0.1, 0.9)
    wanted = torch.zeros(16, 9, dtype=torch.bool)
    diagonal = max(0.6 / 4, 0.8 / 3) * 2**0.5
    for i in range(16):
        for j in range(9):
            wanted[i, j] = (a[0, i, :, 0] - b[0, j, :, 0]).norm() / diagonal < 0.7
    assert wanted.any() and torch.equal(near(a, b, threshold=0.7)[0], wanted)


def test_disjoint_crops_have_no_near_tokens():
    assert not near(grid(2, 0.0, 0.4), grid(2, 0.6, 1.0), threshold=0.7).any()


def test_tokens_of_a_clip_are_near_at_the_same_time_only():
    time = torch.tensor([0.25, 0.75]).repeat_interleave(4)
    time = torch.stack([time, torch.full((8,), 0.5)], -1)[None, :, None]
    clip = torch.cat([time, grid(2).repeat(1, 2, 1, 1)], 2)
    assert torch.equal(near(clip, clip, threshold=0.7)[0], torch.eye(8, dtype=torch.bool))


def test_the_same_crop_gives_minus_one_a_direction_and_disjoint_crops_nothing():
    module = made(PixPro(**SIZES))
    objective = module.objective
    x = torch.randn(1, 4, 16, dtype=torch.float64).expand(2, -1, -1)
    # A propagation that keeps each token as it is: nothing is like anything else.
    objective.queries = lambda tokens, mask: F.normalize(objective.projector(tokens), dim=-1)
    same = [grid(2).expand(2, -1, -1, -1)] * 4
    terms = scored(module, same, [x] * 4)
    assert sum(t.weight * t.loss.item() for t in terms.values()) == pytest.approx(-2)
    apart = [grid(2, 0, 0.4).expand(2, -1, -1, -1), grid(2, 0.6, 1).expand(2, -1, -1, -1)] * 2
    terms = scored(module, apart, [x] * 4)
    assert [t.loss.item() for t in terms.values()] == [0.0, 0.0]


def test_pixpro_is_the_formula_written_out():
    module = made(PixPro(**SIZES))
    objective = module.objective
    tokens = list(torch.randn(4, 3, 9, 16, dtype=torch.float64))
    places = [grid(3, 0.0, 0.7).expand(3, -1, -1, -1), grid(3, 0.2, 1.0).expand(3, -1, -1, -1)] * 2
    terms = scored(module, places, tokens)
    for name, i, j in (("forth", 0, 1), ("back", 1, 0)):
        total = 0.0
        for b in range(3):
            x = objective.projector(tokens[i][b])
            k = objective.key_projector(tokens[2 + j][b])
            y = torch.zeros_like(x)
            for m in range(9):
                for n in range(9):
                    s = F.cosine_similarity(x[m], x[n], dim=0).clamp(min=0) ** 2
                    y[m] = y[m] + s * objective.propagate(x[n])
            pairs = near(places[i], places[j], threshold=0.7)[b].nonzero().tolist()
            assert pairs
            total += sum(-F.cosine_similarity(y[m], k[n], dim=0) for m, n in pairs) / len(pairs)
        torch.testing.assert_close(terms[name].loss, total / 3)


def test_equal_tokens_of_the_same_crop_give_ln_of_their_number():
    module = made(PixContrast(**SIZES))
    ones = torch.ones(2, 9, 16, dtype=torch.float64)
    for term in scored(module, [grid(3).expand(2, -1, -1, -1)] * 4, [ones] * 4).values():
        assert term.loss.item() == pytest.approx(math.log(9)) and term.weight == 0.5


def test_pixcontrast_is_the_formula_written_out():
    module = made(PixContrast(**SIZES))
    objective = module.objective
    tokens = list(torch.randn(4, 2, 9, 16, dtype=torch.float64))
    places = [grid(3, 0.0, 0.7).expand(2, -1, -1, -1), grid(3, 0.2, 1.0).expand(2, -1, -1, -1)] * 2
    found = scored(module, places, tokens)["back"].loss
    losses = []
    for b in range(2):
        q = F.normalize(objective.projector(tokens[1][b]), dim=1)
        k = F.normalize(objective.key_projector(tokens[2][b]), dim=1)
        e = (q @ k.T / 0.3).exp()
        is_near = near(places[1], places[0], threshold=0.7)[b]
        losses += [
            -(e[m][is_near[m]].sum() / e[m].sum()).log() for m in range(9) if is_near[m].any()
        ]
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_padding_is_compared_with_nothing():
    module, more = made(PixPro(**SIZES)), torch.randn(2, 3, 16, dtype=torch.float64)
    x = torch.randn(2, 4, 16, dtype=torch.float64)
    places = grid(2).expand(2, -1, -1, -1)
    short = scored(module, [places] * 4, [x] * 4)
    mask = torch.arange(7).expand(2, -1) < 4
    tokens = torch.cat([x, more], 1)
    wide = torch.cat([places, places[:, :3]], 1)
    seen = [Encoding(x.mean(1), tokens, mask)] * 4
    long = module.objective(seen, [View({}, mask, places=wide)] * 4, None)
    torch.testing.assert_close(short["forth"].loss, long["forth"].loss)


def test_frames_and_clips_are_near_where_their_crops_overlap():
    for kind in ("frames", "tubes"):
        module = Pretraining(tiny_video(kind), PixPro(**SIZES, augment="crop+flip"))
        views: list[Any] = module.view(make_video(module.encoder))
        is_near = near(views[0].places, views[1].places, threshold=0.7)
        assert is_near.any() and not is_near.all()
        assert torch.equal(views[0].places, views[2].places)


def test_an_encoder_without_places_and_bad_arguments_are_refused(make_encoder):
    with pytest.raises(ValueError, match="PixPro needs tokens that lie somewhere"):
        Pretraining(make_encoder(), PixPro())
    with pytest.raises(ValueError, match="threshold is a distance in cells, above 0, but 0 came"):
        PixContrast(threshold=0)
