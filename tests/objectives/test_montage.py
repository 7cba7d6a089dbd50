"""Jigsaw clustering: supervised contrast, places, and what the encoder must divide into."""

import math
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import launch  # pyright: ignore[reportMissingImports]
from tiny_video import make_video, tiny_video

from unlabel.core import Encoding, cat_batches, cat_encodings, cat_views
from unlabel.objectives import JigsawClustering
from unlabel.objectives.gather import world
from unlabel.training.pretraining import Pretraining


def made(kind="frames", rows=6, **options) -> tuple[Any, Any]:
    encoder = tiny_video(kind)
    module = Pretraining(encoder, JigsawClustering(**{"width": 8, **options})).double()
    return module, make_video(encoder, rows)


def test_equal_vectors_and_a_silent_head_give_chance():
    module, batch = made()
    views = module.view(batch)
    count, width = views[0].mask.shape[1] * 16, module.encoder.width
    with torch.no_grad():
        for p in module.objective.classifier.parameters():
            p.zero_()
    tokens = torch.ones(6, count, width, dtype=torch.float64)
    mask = torch.ones(6, count, dtype=torch.bool)
    terms = module.score([Encoding(tokens[:, 0], tokens, mask)], views, batch).terms
    for name, wanted in (("cluster", math.log(4 * 6 - 1)), ("place", math.log(4))):
        assert terms[name].loss.item() == pytest.approx(wanted, rel=1e-9), name
        assert terms[name].chance == pytest.approx(wanted), name


@pytest.mark.parametrize("kind", ["frames", "tubes"])
def test_each_place_has_its_own_tokens_and_target(kind):
    """A token says which piece of which picture it shows: clusters and places are solved."""
    module, batch = made(kind, width=32, temperature=0.05)
    views = module.view(batch)
    times, rows, columns = module.encoder.grid
    source, place = views[0].target.unbind(2)
    by_place = (4 * source + place).view(6, 1, 2, 1, 2, 1)
    lie = by_place.expand(-1, times, 2, rows // 2, 2, columns // 2).reshape(6, -1)
    tokens = F.one_hot(lie, 24).double()
    encoding = Encoding(tokens[:, 0], tokens, torch.ones(lie.shape, dtype=torch.bool))
    solved = module.objective
    solved.projector, solved.classifier = torch.nn.Linear(24, 6), torch.nn.Linear(24, 4)
    with torch.no_grad():
        for head, of in ((solved.projector, 4), (solved.classifier, 1)):
            number = torch.arange(24) // 4 if of == 4 else torch.arange(24) % 4
            head.weight.copy_(50 * F.one_hot(number).T)
            head.bias.zero_()
    terms = module.double().score([encoding], views, batch).terms
    assert terms["place"].loss.item() == pytest.approx(0.0, abs=1e-9)
    # Three of its own are as close as can be, and the other 20 are nowhere near.
    assert terms["cluster"].loss.item() == pytest.approx(math.log(3), abs=1e-6)


def _cluster(first: list[int]) -> torch.Tensor:
    """The loss of the clusters, this rank with three pictures from its own first one on."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
    rank, size = world()
    module, _ = made()
    batches = [make_video(module.encoder, 3, f) for f in (first if size == 1 else [first[rank]])]
    views = [module.view(b) for b in batches]  # mixed of three pictures, however many ranks
    seen = [cat_encodings(e) for e in zip(*map(module.encode, views), strict=True)]
    together = [cat_views(v) for v in zip(*views, strict=True)]
    return module.score(seen, together, cat_batches(batches)).terms["cluster"].loss.detach()


@pytest.mark.slow
def test_pictures_of_two_ranks_are_not_taken_for_one(tmp_path):
    """The second rank's pictures come as many places before the first's as a rank has pictures."""
    one = _cluster([3, 0])
    ended = launch(tmp_path, _cluster, 2, first=[3, 0])
    assert ended.result is not None
    torch.testing.assert_close(sum(ended.results) / 2, one)


def test_an_odd_grid_and_a_wrong_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap is a share of a piece's side"):
        JigsawClustering(overlap=1.0)
    encoder = tiny_video()
    encoder.grid = (6, 3, 3)
    with pytest.raises(ValueError, match="lie in 3 rows and 3 columns"):
        Pretraining(encoder, JigsawClustering())
