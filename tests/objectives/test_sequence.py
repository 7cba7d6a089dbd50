"""What is next, what is near: index sets, known answers, and nothing from the future."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_series import TinySeries, make_series
from tiny_video import make_video, tiny_video

from unlabel.core import Encoding, uniform
from unlabel.objectives import CPC, HierarchicalContrast, TimeContrast
from unlabel.objectives.time_contrast import near_and_far
from unlabel.training.pretraining import Pretraining


def pretraining(objective, **encoder) -> tuple[Any, Any]:
    made = TinySeries(**encoder)
    return Pretraining(made, objective), make_series(made)


# -- CPC ---------------------------------------------------------------------------------------


def test_silent_predictions_give_ln_of_the_candidates_at_every_step():
    module, batch = pretraining(CPC(steps=3))
    with torch.no_grad():
        for w in module.objective.ahead:
            w.weight.zero_()
    term = module(batch).terms["ahead"]
    expected = sum(math.log(8 * (8 - k)) for k in (1, 2, 3)) / 3  # 8 samples, 8 tokens
    assert term.loss.item() == pytest.approx(expected, abs=1e-5)
    assert term.chance == pytest.approx(expected)


def test_the_loss_is_the_formula_over_all_times_and_sequences():
    module, batch = pretraining(CPC(steps=2))
    module = module.double()
    views = module.view(batch)
    (encoding,) = module.encode(views)
    z, c = encoding.layers[0], encoding.tokens
    losses = []
    for k, w in enumerate(module.objective.ahead, start=1):
        keys, query = z[:, k:].flatten(0, 1), w(c[:, :-k]).flatten(0, 1)
        logits = query @ keys.T
        losses.append(F.cross_entropy(logits, torch.arange(len(logits))))
    loss = module.score([encoding], views, batch).loss
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("context", ["encoder", "gru"])
def test_no_gradient_reaches_a_context_from_what_comes_after_it(context):
    module, batch = pretraining(CPC(steps=2, context=context, width=8))
    (seen,) = module.view(batch)
    values = seen.inputs["values"].requires_grad_()
    (encoding,) = module.encode([seen])
    c = module.objective.summary(encoding)
    (slope,) = torch.autograd.grad(c[:, 4].sum(), values)
    assert slope[:, :5].abs().sum() > 0
    assert not slope[:, 5:].any()


def test_a_gru_begins_with_the_first_step_that_exists():
    module, batch = pretraining(CPC(steps=2, context="gru", width=8))
    (encoding,) = module.encode(module.view(batch))
    z, mask = encoding.layers[0], encoding.mask.clone()
    mask[:4, :3] = False
    rest = Encoding(encoding.pooled, encoding.tokens[:, 3:], mask[:, 3:], (z[:, 3:],))
    alone = module.objective.summary(rest)
    padded = module.objective.summary(
        Encoding(encoding.pooled, encoding.tokens, mask, (z.masked_fill(~mask[..., None], 9.0),))
    )
    torch.testing.assert_close(padded[:4, 3:], alone[:4])
    whole = module.objective.summary(encoding)
    torch.testing.assert_close(padded[4:], whole[4:])


def test_tokens_that_do_not_exist_are_neither_asked_nor_candidates():
    module, batch = pretraining(CPC(steps=2))
    (seen,) = module.view(batch)
    (encoding,) = module.encode([seen])
    mask = encoding.mask.clone()
    mask[:3, :5] = False
    losses = []
    for fill in (0.0, 7.0):
        empty = ~mask[:, :, None]
        short = Encoding(
            encoding.pooled,
            encoding.tokens.masked_fill(empty, fill),
            mask,
            tuple(x.masked_fill(empty, fill) for x in encoding.layers),
        )
        term = module.score([short], [seen], batch).terms["ahead"]
        losses.append(term.loss)
    assert torch.equal(*losses)
    candidates = [5 * (8 - k) + 3 * (3 - k) for k in (1, 2)]
    assert term.chance == pytest.approx(sum(math.log(n) for n in candidates) / 2)


def test_a_batch_without_any_pair_costs_0():
    module, batch = pretraining(CPC(steps=2))
    views = module.view(batch)
    (encoding,) = module.encode(views)
    encoding.mask = torch.zeros_like(encoding.mask)
    loss = module.score([encoding], views, batch).loss
    loss.backward()
    assert loss.item() == 0.0


def test_an_encoder_that_sees_ahead_is_refused_but_for_a_context_of_its_own():
    encoder = TinySeries(causal=False)
    with pytest.raises(ValueError, match="CPC needs an encoder that sees the past alone"):
        Pretraining(encoder, CPC(steps=2, context="encoder"))
    for context in ("gru", None):
        module: Any = Pretraining(encoder, CPC(steps=2, context=context))
        assert module.objective.gru is not None and module.objective.needs == {"layers"}
    causal: Any = Pretraining(TinySeries(), CPC(steps=2))
    assert causal.objective.gru is None and causal.objective.needs == {"tokens", "layers"}


def test_cpc_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="how many tokens ahead are found, but 0 came"):
        CPC(steps=0)
    with pytest.raises(ValueError, match="give 'encoder' or 'gru'"):
        CPC(context="lstm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps reaches 8 tokens on, but a view has 8"):
        Pretraining(TinySeries(), CPC(steps=8))


# -- CPC of clips ------------------------------------------------------------------------------


def of_clips(objective, kind) -> tuple[Any, Any]:
    encoder = tiny_video(kind)
    return Pretraining(encoder, objective), make_video(encoder)


@pytest.mark.parametrize(("kind", "times"), [("frames", 6), ("tubes", 3)])
def test_silent_predictions_of_clips_give_ln_of_the_candidates(kind, times):
    module, batch = of_clips(CPC(steps=2, width=8), kind)
    with torch.no_grad():
        for w in module.objective.ahead:
            w.weight.zero_()
    term = module(batch).terms["ahead"]
    expected = sum(math.log(8 * (times - k)) for k in (1, 2)) / 2
    assert term.loss.item() == pytest.approx(expected, abs=1e-5)


def test_frames_seen_alone_are_targets_as_they_are_and_others_before_they_are_mixed():
    module, batch = of_clips(CPC(steps=2, width=8), "frames")
    (encoding,) = module.encode(module.view(batch))
    z, mask = module.objective.states(encoding)
    torch.testing.assert_close(z, encoding.tokens.view(8, 6, 16, 16).mean(2))
    assert mask.shape == (8, 6) and module.objective.needs == {"tokens"}
    module, batch = of_clips(CPC(steps=1, width=8), "tubes")
    (encoding,) = module.encode(module.view(batch))
    z, _ = module.objective.states(encoding)
    torch.testing.assert_close(z, encoding.layers[0].view(8, 3, 16, 16).mean(2))
    assert module.objective.needs == {"layers"}


@pytest.mark.parametrize("kind", ["frames", "tubes"])
def test_no_gradient_reaches_a_clips_context_from_later_frames(kind):
    module, batch = of_clips(CPC(steps=1, width=8), kind)
    (seen,) = module.view(batch)
    name = "frames" if kind == "frames" else "patches"
    values = seen.inputs[name].requires_grad_()
    (encoding,) = module.encode([seen])
    c = module.objective.summary(encoding)
    (slope,) = torch.autograd.grad(c[:, 1].sum(), values)
    by_time = slope.flatten(1).unflatten(1, (c.shape[1], -1))
    assert by_time[:, :2].abs().sum() > 0 and not by_time[:, 2:].any()


def test_a_layer_that_the_encoder_does_not_give_is_refused():
    encoder = tiny_video()
    encoder.gives -= {"layers"}
    with pytest.raises(ValueError, match="target_layer is 1, but VisualEncoder gives its last"):
        Pretraining(encoder, CPC(steps=2, target_layer=1))


# -- time contrast -----------------------------------------------------------------------------


@pytest.mark.parametrize(("near", "far"), [(1, 1), (2, 4), (6, 12)])
def test_near_and_far_are_disjoint_and_leave_out_the_token_itself(near, far):
    is_near, is_far = near_and_far(40, near, far)
    assert not (is_near & is_far).any()
    assert not is_near.diagonal().any() and not is_far.diagonal().any()
    assert torch.equal(is_near, is_near.T) and torch.equal(is_far, is_far.T)
    assert is_near[20].sum() == 2 * near and is_far[20].sum() == 39 - 2 * far


def test_equal_embeddings_give_the_margin():
    module, batch = pretraining(TimeContrast(near=1, far=2, margin=0.3))
    with torch.no_grad():
        module.objective.projector.weight.zero_()
    term = module(batch).terms["time"]
    assert term.loss.item() == pytest.approx(0.3, abs=1e-7)
    assert term.chance == 0.3


def test_negatives_are_semi_hard_and_positives_near():
    module, batch = pretraining(TimeContrast(near=2, far=3))
    (encoding,) = module.encode(module.view(batch))
    z = F.normalize(torch.randn(8, 8, 4, generator=torch.Generator().manual_seed(0)), dim=2)
    positive, negative, is_anchor = module.objective.triplets(z, encoding.mask, batch)
    assert is_anchor.all()
    fallbacks = 0
    for i in range(8):
        for t in range(8):
            p, n = int(positive[i, t]), int(negative[i, t])
            assert 0 < abs(p - t) <= 2 and abs(n - t) > 3
            apart = (z[i] - z[i, t]).norm(dim=1)
            far = [s for s in range(8) if abs(s - t) > 3]
            hard = [s for s in far if apart[s] > apart[p]]
            fallbacks += not hard
            assert n == (
                min(hard, key=lambda s: apart[s]) if hard else max(far, key=lambda s: apart[s])
            )
    assert 0 < fallbacks < 64


def test_tokens_that_do_not_exist_are_in_no_triplet():
    module, batch = pretraining(TimeContrast(near=1, far=2))
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[:, :3] = False
    mask[0, :6] = False  # two tokens are left: no negative
    positive, negative, is_anchor = module.objective.triplets(torch.randn(8, 8, 4), mask, batch)
    assert not is_anchor[0].any() and not (is_anchor & ~mask).any()
    assert positive[is_anchor].min() >= 3 and negative[is_anchor].min() >= 3


def test_the_draw_of_positives_belongs_to_the_sample():
    module, batch = pretraining(TimeContrast(near=2, far=4))
    z, mask = torch.randn(8, 8, 4), torch.ones(8, 8, dtype=torch.bool)
    draw = module.objective.triplets(z, mask, batch)[0]
    batch.ordinal = batch.ordinal.flip(0)
    assert torch.equal(module.objective.triplets(z.flip(0), mask, batch)[0], draw.flip(0))
    batch.seed += 1
    assert not torch.equal(module.objective.triplets(z.flip(0), mask, batch)[0], draw.flip(0))
    assert uniform(1, batch.ordinal, 2, 3).shape == (8, 3)


def test_time_contrast_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="1 <= near <= far"):
        TimeContrast(near=3, far=2)
    with pytest.raises(ValueError, match="far reaches 10 tokens on, but a view has 8"):
        Pretraining(TinySeries(), TimeContrast(far=9))


# -- TS2Vec ------------------------------------------------------------------------------------


def test_the_two_crops_overlap_and_what_is_compared_is_the_same_steps():
    module, batch = pretraining(HierarchicalContrast(mask=0.0))
    left, right = module.view(batch)

    def at(seen):
        return seen.inputs["observed"].flatten(2).take_along_dim(seen.target[:, :, None], 1)

    assert torch.equal(at(left), at(right))
    assert not torch.equal(left.inputs["observed"], right.inputs["observed"])


def test_the_two_crops_are_two_sides_of_a_pair_and_cut_by_two_draws():
    left, right = HierarchicalContrast().views
    assert left.name == right.name == "overlap+token_cutoff"
    assert [dict(s.parts()[0].args)["side"] for s in (left, right)] == ["left", "right"]
    assert left.parts()[-1].stream != right.parts()[-1].stream
    module, batch = pretraining(HierarchicalContrast())
    one, other = (v.keep_positions for v in module.view(batch))
    assert not torch.equal(one, other)


def test_equal_tokens_give_ts2vecs_known_answer():
    module, batch = pretraining(HierarchicalContrast(alpha=0.25))
    views = module.view(batch)
    same = [Encoding(torch.ones(8, 4), torch.ones(8, 6, 4), v.mask) for v in views]
    terms = module.score(same, views, batch).terms  # 8 samples share 4 tokens
    assert terms["instance"].loss.item() == pytest.approx(math.log(15), abs=1e-5)
    temporal = (math.log(7) + math.log(3)) / 3
    assert terms["temporal"].loss.item() == pytest.approx(temporal, abs=1e-5)
    assert (terms["instance"].weight, terms["temporal"].weight) == (0.25, 0.75)
    for term in terms.values():
        assert term.chance == pytest.approx(term.loss.item(), abs=1e-5)
    with pytest.raises(ValueError, match="share between 0 and 1"):
        HierarchicalContrast(alpha=2.0)
