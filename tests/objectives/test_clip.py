"""Pairs of kinds of data: known answers, the formulas in float64, and which sides are compared."""

import contextlib
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_joint import TinyJoint, joint
from tiny_series import TinySeries

from unlabel.core import Encoding, view
from unlabel.objectives import CLIP, CMC, DistillSides, SigLIP, Sum
from unlabel.objectives.heads import Temperature
from unlabel.objectives.sigmoid import sigmoid_contrast
from unlabel.training.pretraining import Pretraining, cached_step, why_not

N, D = 6, 5
SIDES = view("plain", partner="wave"), view("plain", partner="sensor")


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.requires_grad_()


def scored(objective, *pooled, index=None) -> dict[str, Any]:
    seen: Any = [Encoding(x, x[:, None], torch.ones(len(x), 1, dtype=torch.bool)) for x in pooled]
    index = torch.arange(len(pooled[0])) if index is None else index
    batch: Any = SimpleNamespace(index=index, same=index)
    return objective(seen, [None] * len(pooled), batch)


def slopes(loss, *of):
    return torch.autograd.grad(loss, of, retain_graph=True)


def written_out(a, b, scale, bias):
    """SigLIP's algorithm 1, with the whole matrix."""
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T * scale + bias
    z = 2 * torch.eye(len(a), dtype=torch.float64) - 1
    return -F.logsigmoid(z * logits).sum() / len(a)


# -- CLIP --------------------------------------------------------------------------------------


def test_clip_of_equal_vectors_is_ln_n_and_that_is_its_chance():
    for term in scored(CLIP(sides=("text", "video")), torch.ones(N, D), torch.ones(N, D)).values():
        assert term.loss.item() == pytest.approx(math.log(N), abs=4e-6)
        assert term.chance == pytest.approx(math.log(N))


def test_clip_is_the_mean_cross_entropy_of_both_ways_with_its_gradients():
    method = CLIP(sides=("text", "video")).double()
    a, b, scale = some(N, D), some(N, D, seed=1), method.temperature.log_scale
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T * scale.exp()
    own = torch.arange(N)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    loss = scored(method, a, b)["text_video"].loss
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    found = slopes(loss, a, b, scale), slopes(wanted, a, b, scale)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [CLIP, SigLIP])
def test_the_same_sample_twice_is_no_negative(kind):
    method = kind(sides=("text", "video"))
    a, b = some(N, D), some(N, D, seed=1)
    same = scored(method, a, b, index=torch.zeros(N, dtype=torch.int64))["text_video"].loss
    rows = zip(a[:, None], b[:, None], strict=True)
    alone = [scored(method, x, y)["text_video"].loss for x, y in rows]
    torch.testing.assert_close(same, torch.stack(alone).mean())
    assert same < scored(method, a, b)["text_video"].loss


def test_a_learned_scale_stops_at_100_and_comes_back():
    temperature: Any = Temperature(0.07, learned=True)
    with torch.no_grad():
        temperature.log_scale.fill_(9.0)
    temperature.step()
    assert temperature.log_scale.item() == pytest.approx(math.log(100))
    assert slopes(temperature(), temperature.log_scale)[0].item() == pytest.approx(-0.01)
    start: Any = Temperature(0.001, learned=True)
    assert start().item() == pytest.approx(0.01)
    fixed = Temperature(0.001)
    fixed.step()
    assert fixed() == 0.001


# -- SigLIP ------------------------------------------------------------------------------------


def test_sigmoid_contrast_of_orthogonal_vectors_without_a_bias_is_n_ln_2():
    x = torch.eye(2 * N, dtype=torch.float64)
    loss = sigmoid_contrast(x[:N], x[N:], scale=1.0, bias=0.0)
    assert loss.item() == pytest.approx(N * math.log(2), rel=1e-14)


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (1.0, 0.0), (100.0, 3.0)])
def test_siglip_of_equal_vectors_is_its_closed_form(scale, bias):
    x = torch.ones(N, D, dtype=torch.float64)
    method = SigLIP(sides=("text", "video"), scale=scale, bias=bias).double()
    term = scored(method, x, x)["text_video"]
    sigmoid = torch.tensor([scale + bias], dtype=torch.float64)
    wanted = F.softplus(-sigmoid) + (N - 1) * F.softplus(sigmoid)
    assert term.loss.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_no_loss_that_is_the_same_for_all_pairs_is_below_the_chance_of_siglip():
    x = torch.ones(N, D)
    chance = scored(SigLIP(sides=("text", "video")), x, x)["text_video"].chance
    best = sigmoid_contrast(x, x, scale=1.0, bias=-1.0 - math.log(N - 1))
    assert best.item() == pytest.approx(chance, rel=1e-6)
    for bias in (-1.2, -0.8):
        assert sigmoid_contrast(x, x, scale=1.0, bias=bias - math.log(N - 1)) > chance


@pytest.mark.parametrize("tile", [None, (2, 4), (1, 1)])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, 3.0)])
def test_siglip_is_the_formula_with_its_gradients(tile, scale, bias):
    a, b = some(N, D), some(N, D, seed=1)
    t, offset = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (scale, bias))
    loss = sigmoid_contrast(a, b, scale=t, bias=offset, tile=tile)
    wanted = written_out(a, b, t, offset)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    found = slopes(loss, a, b, t, offset), slopes(wanted, a, b, t, offset)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_sigmoid_contrast_has_the_numerical_gradient_for_more_keys_than_queries():
    a, b, at = some(3, D), some(N, D, seed=1), torch.tensor([4, 0, 5])
    t, offset = some(seed=2).abs().detach().requires_grad_(), some(seed=3)

    def loss(*x):
        return sigmoid_contrast(
            x[0], x[1], at, scale=x[2], bias=x[3], tile=(2, 4), reduction="none"
        )

    assert torch.autograd.gradcheck(loss, (a, b, t, offset))
    rows = loss(a, b, t, offset)
    shares = [
        sigmoid_contrast(a[i : i + 1], b, at[i : i + 1], scale=t, bias=offset) for i in range(3)
    ]
    torch.testing.assert_close(rows, torch.stack(shares))


def test_half_precision_and_autocast_give_the_float32_loss():
    a, b = (some(N, D, seed=s).detach().bfloat16().requires_grad_() for s in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        loss = sigmoid_contrast(a, b, scale=10.0, bias=-10.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, sigmoid_contrast(a.float(), b.float(), scale=10.0, bias=-10.0))
    assert slopes(loss, a)[0].dtype == torch.bfloat16


def test_what_is_not_finite_shows_in_loss_and_gradient():
    a, b = (some(N, D, seed=s).detach() for s in (0, 1))
    a[1, 2] = math.nan
    a.requires_grad_()
    b.requires_grad_()
    loss = sigmoid_contrast(a, b, scale=10.0, bias=-10.0)
    assert loss.isnan() and not slopes(loss, b)[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale is 0.0: give a positive number"),
        ({"scale": torch.ones(2)}, "scale has shape"),
        ({"bias": torch.ones(2)}, "bias has shape"),
        ({"reduction": "sum"}, "reduction is 'sum'"),
        ({"query_id": torch.arange(N)}, "give both"),
        ({"positive": torch.full((N,), N)}, "numbered 0 to 5"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(options, message):
    given = {"scale": 1.0, "bias": 0.0} | options
    with pytest.raises(ValueError, match=message):
        sigmoid_contrast(some(N, D), some(N, D, seed=1), **given)
    with pytest.raises(ValueError, match="A scale is above 0, but"):
        SigLIP(scale=0.0)


@pytest.mark.parametrize("kind", [CLIP, SigLIP])
def test_micro_batches_that_share_their_negatives_give_the_gradient_of_the_whole(kind):
    found = []
    for sizes in ((8,), (3, 5)):
        module, _ = joint(kind())
        module, starts = module.double(), [0, *sizes[:-1]]
        cached_step(
            module,
            [joint(kind(), n, first)[1] for n, first in zip(sizes, starts, strict=True)],
            seed_micro=torch.manual_seed,
            backward=lambda loss: loss.backward(),
            autocast=contextlib.nullcontext,
        )
        found.append({name: p.grad for name, p in module.named_parameters()})
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    learned = [g for name, g in found[0].items() if name.startswith("objective")]
    assert learned and all(abs(g) > 1e-6 for g in learned)


# -- which sides -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CLIP, SigLIP])
def test_without_named_sides_all_of_the_encoder_are_compared(kind):
    module, batch = joint(kind())
    assert module.objective.views == (
        view("plain", partner="wave"),
        view("plain", partner="sensor"),
    )
    assert list(module(batch).terms) == ["wave_sensor"]
    assert kind().views == ()


def test_three_sides_are_three_pairs_or_two_with_an_anchor():
    sides, vectors = ("text", "video", "audio"), [some(N, D, seed=i) for i in range(3)]
    every = scored(CLIP(sides=sides), *vectors)
    assert list(every) == ["text_video", "text_audio", "video_audio"]
    assert sum(t.weight for t in every.values()) == pytest.approx(1)
    bound = scored(CLIP(sides=sides, anchor="video"), *vectors)
    assert {k: t.weight for k, t in bound.items()} == {"video_text": 0.5, "video_audio": 0.5}
    torch.testing.assert_close(bound["video_text"].loss, every["text_video"].loss)


def test_a_side_may_be_shown_twice_and_is_then_named_by_its_views_too():
    cut = {"name": "token_cutoff", "ratio": 0.1, "partner": "text"}
    method = CLIP(sides=("text", cut, "video"), anchor="video")
    assert method.names() == ["text_plain", "text_token_cutoff", "video"]
    assert method.views[1] == view("token_cutoff", ratio=0.1, partner="text")
    assert method.needs == {"pooled", "sides", "text", "video"}


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="anchor is 'audio', but the sides are text, video"):
        CLIP(sides=("text", "video"), anchor="audio")
    with pytest.raises(ValueError, match="anchor is 'audio', but the sides are wave, sensor"):
        Pretraining(TinyJoint(), SigLIP(anchor="audio"))
    with pytest.raises(ValueError, match="two or more different views, but"):
        CLIP(sides=("text", "text"))
    with pytest.raises(ValueError, match="CLIP needs text, which"):
        Pretraining(TinyJoint(), CLIP(sides=("text", "wave")))
    with pytest.raises(ValueError, match="SigLIP needs another kind of data beside each sample"):
        Pretraining(TinySeries(), SigLIP())
    assert why_not(CLIP(), TinySeries()) == "needs another kind of data beside each sample"


def test_other_methods_of_sides_take_those_of_a_joint_encoder_too():
    parts = {"clip": CLIP(), "cmc": CMC(width=4), "distil": DistillSides()}
    module, batch = joint(Sum(parts))
    assert module.objective.views == SIDES
    assert module.objective.needs == {"pooled", "sides", "wave", "sensor"}
    step = module(batch)
    a, b = step.pooled
    wanted = (a - b).square().mean()
    torch.testing.assert_close(step.terms["distil/from_1"].loss, wanted)
    named = CMC(sides=("wave", {"name": "jitter", "partner": "wave"}))
    assert joint(named)[0].objective.views[1].name == "jitter"


def test_distillation_between_towers_moves_the_first_side_alone():
    module, batch = joint(DistillSides())
    module(batch).loss.backward()
    towers = module.encoder.projections
    assert towers["wave"].weight.grad.abs().sum() > 0
    assert towers["sensor"].weight.grad is None or not towers["sensor"].weight.grad.any()
