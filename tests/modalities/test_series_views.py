import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from unlabel.core import view
from unlabel.modalities.order import orders, reversed_steps, segment_order
from unlabel.modalities.series_augment import causal_filter
from unlabel.modalities.series_masks import random_spans
from unlabel.modalities.series_order import inverse, permute
from unlabel.modalities.series_views import VIEWS
from unlabel.modalities.series_window import mean_and_std

CONTEXT, HORIZON, PATCH = 48, 12, 6
KINDS = ["patchtst", "conv"]
# A setting of every view that leaves the series as it is.
NOTHING: dict[str, dict[str, Any]] = {
    "plain": {},
    "whole": {},
    "dequantize": {"share": 0.0},
    "mask_values": {"ratio": 0.0},
    "hide": {"ratio": 0.0},
    "shuffle": {"share": 0.0},
    "reverse": {"ratio": 0.0},
    "random_conv": {"blend": 0.0},
    "jitter": {"low": 0.0, "high": 0.0},
    "scaling": {"sigma": 0.0},
    "frequency_mask": {"ratio": 0.0},
    "frequency_mix": {"ratio": 0.0},
    "derivative": {"order": 0},
    "token_cutoff": {"ratio": 0.0},
    "span_cutoff": {"ratio": 0.0},
    "channel_cutoff": {"ratio": 0.0},
    "feature_cutoff": {"ratio": 0.0},
    "crop": {"ratio": 0.0},
    "overlap": {"ratio": 0.0},
}
# One that changes it visibly.
STRONG: dict[str, dict[str, Any]] = {
    "dequantize": {"share": 0.9},
    "mask_values": {"ratio": 0.4},
    "hide": {"ratio": 0.4, "mean_length": 4},
    "shuffle": {"length": 12, "stride": 4, "share": 0.7},
    "reorder": {"segments": 4},
    "reverse": {},
    "random_conv": {"blend": 0.7},
    "jitter": {"low": 0.3, "high": 0.5},
    "scaling": {"sigma": 0.5},
    "frequency_mask": {"ratio": 0.4},
    "frequency_mix": {"ratio": 0.4},
    "derivative": {},
    "spectrum": {},
    "token_cutoff": {"ratio": 0.4},
    "span_cutoff": {"ratio": 0.4},
    "channel_cutoff": {"ratio": 0.4},
    "feature_cutoff": {"ratio": 0.4},
    "crop": {"ratio": 0.4},
    "overlap": {"ratio": 0.4},
    "triple": {"place": 1},
}
# A PatchTST sees one channel, of which none can be cut off.
BOTH = [(k, n) for k in KINDS for n in STRONG if (k, n) != ("patchtst", "channel_cutoff")]
UNITS = ["step", "span", "patch", "channel"]


def chain(*links: tuple[str, dict[str, Any]], draw: int = 0):
    """A view of several links with their arguments."""
    if len(links) == 1:
        return view(links[0][0], draw, **links[0][1])
    args = {f"{name}.{k}": v for name, own in links for k, v in own.items()}
    return view("+".join(name for name, _ in links), draw, **args)


def test_every_view_is_tested_here():
    assert set(STRONG) | {"plain", "whole", "future", "past"} == set(VIEWS)
    assert set(NOTHING) | {"future", "past", "reorder", "spectrum", "triple"} == set(VIEWS)


# -- every view -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_asked_for_is_the_identity(make_series, make_windows, kind, name):
    encoder = make_series(kind).double()
    batch = make_windows(encoder, gaps=True)
    whole = encoder(encoder.view(batch, view("plain")))
    other = encoder(encoder.view(batch, view(name, **NOTHING[name])))
    assert torch.equal(other.tokens, whole.tokens)


@pytest.mark.parametrize("name", STRONG)
def test_a_view_changes_what_the_encoder_gives(make_series, make_windows, name):
    encoder = make_series("conv", channels=3, norm="none").double()
    batch = make_windows(encoder, gaps=True)
    whole = encoder(encoder.view(batch, view("plain"))).tokens
    once, again = (
        encoder(encoder.view(batch, view(name, d, **STRONG[name]))).tokens for d in (0, 1)
    )
    # One order in 24 is the one there was, so not every row need change.
    assert (whole - once).abs().amax((1, 2)).gt(1e-6).sum() >= 3
    if name not in ("overlap", "reverse", "derivative", "spectrum"):  # nothing is drawn
        assert not torch.equal(once, again)


@pytest.mark.parametrize(("kind", "name"), [kn for kn in BOTH if kn[1] != "frequency_mix"])
def test_a_sample_draws_the_same_in_every_batch(make_series, make_windows, kind, name):
    channels = 1 if kind == "patchtst" else 3
    encoder = make_series(kind, channels=channels).double()
    links = [chain((name, STRONG[name]))]
    if name not in ("mask_values", "overlap"):
        links.append(chain(("future", {"horizon": HORIZON}), (name, STRONG[name])))
    for spec in links:
        four = encoder.view(make_windows(encoder, gaps=True), spec)
        for i in range(4):
            one = encoder.view(make_windows(encoder, 1, gaps=True, first=i), spec)
            for field in ("is_target", "target", "keep_positions", "keep_features", "mask"):
                alone, together = getattr(one, field), getattr(four, field)
                assert (alone is None) == (together is None)
                if alone is not None:
                    torch.testing.assert_close(alone[0], together[i], atol=1e-9, rtol=0)
            torch.testing.assert_close(
                one.inputs["values"][0], four.inputs["values"][i], atol=1e-9, rtol=0
            )


@pytest.mark.parametrize(
    "name", [n for n in STRONG if n not in ("frequency_mix", "channel_cutoff")]
)
def test_a_short_sample_is_the_same_beside_longer_ones(make_series, make_windows, name):
    encoder = make_series().double()
    spec = view(name, **STRONG[name])
    many = encoder.view(make_windows(encoder, steps=CONTEXT, short=True), spec)
    one = encoder.view(make_windows(encoder, 1, steps=CONTEXT, short=True, first=1), spec)
    assert not one.mask.all() or name == "spectrum"  # of all frequencies
    torch.testing.assert_close(one.inputs["values"][0], many.inputs["values"][1])
    torch.testing.assert_close(encoder(one).pooled[0], encoder(many).pooled[1])


def test_unknown_arguments_and_shares_are_refused(make_series, make_windows):
    encoder = make_series()
    batch = make_windows(encoder)
    for spec, message in (
        (view("jitter", sigma=3), "has no sigma; its arguments: low, high"),
        (view("crop", ratio=1.5), "share from 0 to 1"),
        (view("mask_values", ratio=1.0), "must be below 1"),
        (view("mask_values", unit="word"), "no unit 'word'"),
        (view("mask_values", unit="channel"), "each sample has one"),
        (view("channel_cutoff"), "each sample has one"),
        (view("shuffle", unit="patch"), "no unit 'patch'"),
        (view("reorder", segments=9), "2 to 5 segments"),
        (view("jitter", low=0.0), "0 < low"),
        (view("overlap", side="top"), "left or right"),
        (view("derivative", order=-1), "order of 0 or more"),
        (view("triple", place=3), "is 0, 1 or 2, but 3 came"),
        (view("triple", segments=9), "five of 9 segments of whole tokens, but a window has 8"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.view(batch, spec)


# -- nothing leaks ----------------------------------------------------------------------------


def outputs(encoder, batch, spec):
    """Everything the encoder gives for a view, and the window behind it."""
    window = encoder.window(batch, spec)
    seen = encoder.finish(window)
    out = encoder(seen)
    return torch.cat([out.tokens.flatten(1), out.pooled], 1), window


def check_no_leak(encoder, batch, spec, is_secret):
    """Neither gradient nor any change of secret values reaches what the encoder gives."""
    values = batch.inputs["values"]
    batch.inputs["values"] = values.clone().requires_grad_()
    out, _ = outputs(encoder, batch, spec)
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad((out * weights).sum(), batch.inputs["values"])
    assert is_secret.any() and (grad[is_secret] == 0).all()
    assert (grad[~is_secret & batch.inputs["observed"]] != 0).any()
    # A gradient does not see thresholds, ranks and signs; a large change does.
    noise = torch.randn(
        values.shape, dtype=values.dtype, generator=torch.Generator().manual_seed(2)
    )
    batch.inputs["values"] = torch.where(is_secret, values * 7 + 1e3 * noise, values)
    assert torch.equal(outputs(encoder, batch, spec)[0], out)


AFTER_MASK = [
    "plain", "random_conv", "jitter", "scaling", "frequency_mask", "derivative", "token_cutoff",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "unit"), [*(("conv", u) for u in UNITS), *(("patchtst", u) for u in UNITS[:-1])]
)
@pytest.mark.parametrize("after", AFTER_MASK)
def test_hidden_values_reach_no_output(make_series, make_windows, kind, unit, after):
    channels = 1 if kind == "patchtst" else 3
    encoder = make_series(kind, channels=channels).double()
    batch = make_windows(encoder, gaps=True, steps=CONTEXT)
    spec = chain(
        ("mask_values", {"ratio": 0.4, "unit": unit}),
        (after, STRONG.get(after, {})),
    )
    # A derivative hides steps after those that the mask hid, and shows them in the next one.
    hidden = encoder.window(batch, spec).is_asked
    check_no_leak(encoder, batch, spec, hidden)


@pytest.mark.parametrize("norm", ["standard", "last", "none"])
def test_hidden_values_reach_no_output_whatever_the_norm(make_series, make_windows, norm):
    encoder = make_series(norm=norm).double()
    batch = make_windows(encoder, gaps=True, steps=CONTEXT)
    for spec in (
        view("mask_values", ratio=0.5),
        view("hide", ratio=0.5),
        chain(("mask_values", {"unit": "step"}), ("shuffle", STRONG["shuffle"])),
    ):
        hidden = encoder.window(batch, spec).is_hidden
        check_no_leak(encoder, batch, spec, hidden)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["future", "past"])
@pytest.mark.parametrize(
    "before", ["plain", "jitter", "scaling", "random_conv", "hide", "derivative", "spectrum"]
)
def test_the_future_reaches_no_output(make_series, make_windows, kind, split, before):
    encoder = make_series(kind, channels=1 if kind == "patchtst" else 2).double()
    batch = make_windows(encoder, gaps=True)
    spec = chain((before, STRONG.get(before, {})), (split, {"horizon": HORIZON}))
    is_secret = torch.zeros_like(batch.inputs["observed"])
    if split == "future":
        is_secret[:, CONTEXT:] = True
    else:
        is_secret[:, :HORIZON] = True
    check_no_leak(encoder, batch, spec, is_secret)


@pytest.mark.parametrize("after", [n for n in STRONG if n not in ("channel_cutoff", "overlap")])
def test_the_future_reaches_no_output_through_a_later_link(make_series, make_windows, after):
    encoder = make_series().double()
    batch = make_windows(encoder, gaps=True)
    spec = chain(("future", {"horizon": HORIZON}), (after, STRONG[after]))
    is_secret = torch.zeros_like(batch.inputs["observed"])
    is_secret[:, CONTEXT:] = True
    check_no_leak(encoder, batch, spec, is_secret)


@pytest.mark.parametrize("name", ["plain", "random_conv", "shuffle"])
def test_an_unsplit_window_ends_at_the_context(make_series, make_windows, name):
    encoder = make_series().double()
    batch = make_windows(encoder)
    is_secret = torch.zeros_like(batch.inputs["observed"])
    is_secret[:, CONTEXT:] = True
    check_no_leak(encoder, batch, view(name, **STRONG.get(name, {})), is_secret)


# -- masks ------------------------------------------------------------------------------------


def test_masks_hide_an_exact_share_and_ask_for_what_was_observed(make_series, make_windows):
    encoder = make_series("conv", channels=4)
    batch = make_windows(encoder, gaps=True, steps=CONTEXT)
    for unit, ratio, count in (("step", 0.25, 12), ("step", 0.001, 1), ("channel", 0.5, 2)):
        window = encoder.window(batch, view("mask_values", unit=unit, ratio=ratio))
        axis = 2 if unit == "channel" else 1
        assert (window.is_hidden.sum(axis) == count).all()
        seen = encoder.finish(window)
        is_target = seen.is_target.reshape(4, CONTEXT, 4)
        assert torch.equal(is_target, window.is_hidden & batch.inputs["observed"])
        assert not (seen.inputs["observed"][:, :, 0] & window.is_hidden).any()


def test_patches_are_hidden_as_a_whole_and_targets_follow_the_tokens(make_series, make_windows):
    encoder = make_series(norm="none")
    batch = make_windows(encoder, steps=CONTEXT)
    seen = encoder.view(batch, view("mask_values", ratio=0.5))
    assert seen.is_target.shape == (4, 8, PATCH)
    assert torch.equal(seen.is_target.all(2), seen.is_target.any(2))
    assert (seen.is_target.all(2).sum(1) == 4).all()
    raw = batch.inputs["values"].reshape(4, 8, PATCH)
    assert torch.equal(seen.target, torch.where(seen.is_target, raw, 0))
    assert torch.equal(seen.inputs["values"][..., 0], torch.where(seen.is_target, 0, raw))


def test_channels_hide_apart_or_together(make_series, make_windows):
    encoder = make_series("conv", channels=3)
    batch = make_windows(encoder)
    for unit in ("step", "span", "patch"):
        apart, together = (
            encoder.window(batch, view("mask_values", unit=unit, together=t)).is_hidden
            for t in (False, True)
        )
        assert torch.equal(together.all(2), together.any(2))
        assert not torch.equal(apart.all(2), apart.any(2))


@pytest.mark.parametrize(("ratio", "mean"), [(0.15, 3), (0.5, 3), (0.3, 12), (0.9, 2)])
def test_spans_have_their_share_and_mean_length(ratio, mean):
    draws = torch.rand(400, 2001, generator=torch.Generator().manual_seed(0))
    inside = random_spans(draws, ratio=ratio, mean_length=mean)
    assert inside.float().mean().item() == pytest.approx(ratio, abs=0.01)
    begins = (inside[:, 1:] & ~inside[:, :-1]).sum() + inside[:, 0].sum()
    length = (inside.sum() / begins).item()
    assert length == pytest.approx(max(mean, ratio / (1 - ratio)), rel=0.03)


def test_a_hidden_channel_is_to_be_predicted_in_units_of_its_own(make_series, make_windows):
    encoder = make_series("conv", channels=3).double()
    batch = make_windows(encoder, steps=CONTEXT)
    seen = encoder.view(batch, view("mask_values", unit="channel", ratio=0.34))
    target = seen.target[seen.is_target].reshape(4, CONTEXT)
    assert target.mean(1).abs().max() < 1e-6
    torch.testing.assert_close(target.std(1, correction=0), torch.ones(4).double())


def test_hidden_spans_are_not_asked_for(make_series, make_windows):
    encoder = make_series()
    batch = make_windows(encoder)
    assert encoder.view(batch, view("hide", ratio=0.5)).target is None
    seen = encoder.view(batch, chain(("hide", {}), ("future", {"horizon": HORIZON})))
    assert seen.target.shape == (4, HORIZON, 1) and seen.is_target.all()


# -- future and past --------------------------------------------------------------------------


def test_the_future_is_what_follows_in_units_of_the_history(make_series, make_windows):
    encoder = make_series().double()
    batch = make_windows(encoder, gaps=True)
    batch.inputs["observed"][1, CONTEXT + 3] = False
    seen = encoder.view(batch, view("future", horizon=HORIZON))
    values, observed = batch.inputs["values"], batch.inputs["observed"]
    mean, std = mean_and_std(values[:, :CONTEXT], observed[:, :CONTEXT])
    expected = (values[:, CONTEXT:] - mean) / std
    assert torch.equal(seen.is_target, observed[:, CONTEXT:])
    torch.testing.assert_close(seen.target[seen.is_target], expected[seen.is_target])


def test_the_past_is_the_future_of_the_window_turned_round(make_series, make_windows):
    encoder = make_series("conv", channels=2).double()
    batch = make_windows(encoder, gaps=True)
    turned = make_windows(encoder, gaps=True)
    turned.inputs = {k: v.flip(1) for k, v in turned.inputs.items()}
    past = encoder.view(batch, view("past", horizon=HORIZON))
    future = encoder.view(turned, view("future", horizon=HORIZON))
    assert torch.equal(past.target, future.target)
    for key, value in past.inputs.items():
        assert torch.equal(value, future.inputs[key])


def test_a_short_sample_gives_its_last_steps_as_future(make_series, make_windows):
    encoder = make_series(norm="none")
    batch = make_windows(encoder, steps=40)
    seen = encoder.view(batch, view("future", horizon=10))
    assert torch.equal(seen.target, batch.inputs["values"][:, 30:])
    assert seen.mask.sum(1).tolist() == [5] * 4
    shown = seen.inputs["values"].reshape(4, CONTEXT)[:, -30:]
    assert torch.equal(shown, batch.inputs["values"][:, :30, 0])


# -- order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [48, 47, 5])
def test_reordering_and_its_inverse_are_the_identity(steps):
    mask = torch.arange(50)[None] >= 50 - steps
    for count in (2, 3, 4, 5):
        table = orders(count)
        index = segment_order(mask.expand(len(table), -1), table)
        x = torch.arange(50).expand(len(table), -1)
        there = x.gather(1, index)
        assert torch.equal(there.gather(1, inverse(index)), x)
        assert torch.equal(index[0], torch.arange(50))
        assert torch.equal(there[:, : 50 - steps], x[:, : 50 - steps])


def test_segments_come_in_the_order_asked_for():
    order = torch.tensor([[2, 0, 1]])
    index = segment_order(torch.ones(1, 7, dtype=torch.bool), order)
    # Segments of 2, 2 and 3 steps: 01, 23, 456.
    assert index.tolist() == [[4, 5, 6, 0, 1, 2, 3]]


def test_the_order_is_the_class_and_every_class_is_drawn(make_series, make_windows):
    encoder = make_series(norm="none")
    batch = make_windows(encoder, rows=64, steps=CONTEXT)
    seen = encoder.view(batch, view("reorder", segments=3, ask=True))
    assert seen.target.shape == (64, 1) and seen.is_target.all()
    assert set(seen.target[:, 0].tolist()) == set(range(6))
    pieces = batch.inputs["values"].reshape(64, 3, 16)
    table = list(itertools.permutations(range(3)))
    for i in range(64):
        expected = pieces[i, list(table[seen.target[i, 0]])].flatten()
        assert torch.equal(seen.inputs["values"][i].flatten(), expected)


def test_all_channels_move_together(make_series, make_windows):
    encoder = make_series("conv", channels=2, norm="none")
    batch = make_windows(encoder, steps=CONTEXT)
    batch.inputs["values"][..., 1] = batch.inputs["values"][..., 0] + 1
    for spec in (view("reorder"), view("shuffle", unit="step"), view("reverse")):
        values = encoder.view(batch, spec).inputs["values"][:, :, 0]
        torch.testing.assert_close(values[..., 1], values[..., 0] + 1)
        first = values[..., 0].sort(1).values
        assert torch.equal(first, batch.inputs["values"][..., 0].sort(1).values)


def test_a_clock_keeps_its_place_when_the_order_is_asked_for(make_series, make_windows):
    encoder = make_series("conv", covariates=1)
    batch = make_windows(encoder, steps=CONTEXT)
    batch.inputs["covariates"] = torch.arange(48.0)[None, :, None].repeat(4, 1, 1)
    asked, moved = (
        encoder.view(batch, view("reorder", segments=5, ask=a)).inputs["covariates"].flatten(1)
        for a in (True, False)
    )
    assert torch.equal(asked, torch.arange(48.0).expand(4, -1))
    assert not torch.equal(moved, asked)


def test_a_permutation_moves_only_what_it_can():
    can = torch.tensor([[True, False, True, True, False]]).repeat(200, 1)
    index = permute(can, torch.rand(200, 5, generator=torch.Generator().manual_seed(0)))
    assert (index[:, [1, 4]] == torch.tensor([1, 4])).all()
    assert {tuple(r) for r in index[:, [0, 2, 3]].tolist()} == set(
        itertools.permutations([0, 2, 3])
    )


def test_reversing_leaves_padding_where_it_is():
    mask = torch.tensor([[False, True, True, True], [True] * 4])
    assert reversed_steps(mask).tolist() == [[0, 3, 2, 1], [3, 2, 1, 0]]


def test_shuffled_runs_that_do_not_overlap_are_moved_and_not_mixed(make_series, make_windows):
    encoder = make_series("conv", norm="none").double()
    batch = make_windows(encoder, steps=CONTEXT)
    spec = view("shuffle", length=12, stride=12, share=1.0)
    out = encoder.view(batch, spec).inputs["values"].reshape(4, 4, 12)
    raw = batch.inputs["values"].reshape(4, 4, 12)
    for i in range(4):
        found = [(out[i, j] - raw[i]).abs().amax(1).argmin().item() for j in range(4)]
        assert sorted(found) == [0, 1, 2, 3]
        torch.testing.assert_close(out[i], raw[i, found])


def test_shuffling_moves_the_runs_of_least_variance(make_series, make_windows):
    encoder = make_series("conv", norm="none").double()
    batch = make_windows(encoder, steps=CONTEXT)
    values = batch.inputs["values"]
    values[:, :12], values[:, 24:36] = values[:, :12] * 100, values[:, 24:36] * 100
    out = encoder.view(batch, view("shuffle", length=12, stride=12, share=0.5))
    shown = out.inputs["values"][:, :, 0]
    for steps in (slice(0, 12), slice(24, 36)):
        torch.testing.assert_close(shown[:, steps], values[:, steps])


# -- filters, noise, scale, frequencies -------------------------------------------------------


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("blend", [0.3, 0.5, 1.0])
def test_a_random_filter_keeps_mean_and_std_of_what_is_observed(
    make_series, make_windows, gaps, blend
):
    encoder = make_series("conv", channels=3, norm="none").double()
    batch = make_windows(encoder, rows=16, gaps=False, steps=CONTEXT)
    if gaps:
        batch.inputs["observed"][:, 5:9, 0] = False
    window = encoder.window(batch, view("random_conv", blend=blend))
    before = mean_and_std(batch.inputs["values"], window.observed)
    after = mean_and_std(window.values, window.observed)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_one_filter_serves_history_and_future(make_series, make_windows):
    encoder = make_series("conv", norm="none").double()
    batch = make_windows(encoder)
    # A linear filter of x and of 2x + 3 differ by the same map, over history and future.
    spec = chain(("random_conv", {"blend": 1.0}), ("future", {"horizon": HORIZON}))
    first = encoder.window(batch, spec)
    batch.inputs["values"] = batch.inputs["values"] * 2 + 3
    second = encoder.window(batch, spec)
    torch.testing.assert_close(second.values, first.values * 2 + 3)
    torch.testing.assert_close(second.future, first.future * 2 + 3)


def test_a_filter_sees_no_later_step():
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    visible = torch.rand(2, 20, 3) > 0.2
    weights = torch.randn(2, 3, 5, dtype=torch.float64)
    y = x.clone()
    y[:, 11:] += 9
    a, b = causal_filter(x, visible, weights), causal_filter(y, visible, weights)
    assert torch.equal(a[:, :11], b[:, :11]) and not torch.equal(a[:, 11:], b[:, 11:])


def test_a_filter_is_the_sum_it_says_and_scales_up_over_gaps():
    x = torch.tensor([[1.0, 2.0, 4.0]])[:, :, None]
    weights = torch.tensor([[[3.0, -1.0]]])  # of this step and the one before
    everything = torch.ones_like(x, dtype=torch.bool)
    out = causal_filter(x, everything, weights)[0, :, 0]
    assert out.tolist() == [3 * 1 * 4 / 3, 3 * 2 - 1, 3 * 4 - 2]
    gap = everything.clone()
    gap[0, 1] = False
    out = causal_filter(x, gap, weights)[0, :, 0]
    assert out.tolist() == [4, -1 * 4 / 1, 3 * 4 * 4 / 3]


def test_noise_is_in_units_of_the_windows_own_std(make_series, make_windows):
    encoder = make_series("conv", norm="none").double()
    batch = make_windows(encoder, rows=200, steps=CONTEXT)
    batch.inputs["values"][100:] *= 1000
    window = encoder.window(batch, view("jitter", low=0.2, high=0.2))
    _, std = mean_and_std(batch.inputs["values"], batch.inputs["observed"])
    noise = (window.values - batch.inputs["values"]) / std
    assert noise[:100].std().item() == pytest.approx(0.2, rel=0.03)
    assert noise[100:].std().item() == pytest.approx(0.2, rel=0.03)
    wide = encoder.window(batch, view("jitter", low=0.01, high=0.5))
    sigma = ((wide.values - batch.inputs["values"]) / std).std(1)[:, 0].log()
    assert sigma.mean().item() == pytest.approx((torch.tensor([0.01, 0.5]).log()).mean(), abs=0.25)


def test_noise_after_the_split_leaves_the_future_clean(make_series, make_windows):
    encoder = make_series(norm="none")
    batch = make_windows(encoder)
    clean = encoder.view(batch, view("future", horizon=HORIZON))
    noised = encoder.view(batch, chain(("future", {"horizon": HORIZON}), ("jitter", {})))
    assert torch.equal(clean.target, noised.target)
    assert not torch.equal(clean.inputs["values"], noised.inputs["values"])


def test_scaling_multiplies_each_channel_by_a_factor_about_1(make_series, make_windows):
    encoder = make_series("conv", channels=2, norm="none").double()
    batch = make_windows(encoder, rows=400, steps=CONTEXT)
    window = encoder.window(batch, view("scaling", sigma=0.1))
    factor = window.values / batch.inputs["values"]
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert factor.mean().item() == pytest.approx(1, abs=0.02)
    assert factor[:, 0].std().item() == pytest.approx(0.1, rel=0.1)


def test_masked_frequencies_are_gone_and_the_others_stay(make_series, make_windows):
    encoder = make_series("conv", norm="none").double()
    batch = make_windows(encoder, steps=CONTEXT)
    window = encoder.window(batch, view("frequency_mask", ratio=0.25))
    before, after = (
        torch.fft.rfft(x[..., 0], dim=1) for x in (batch.inputs["values"], window.values)
    )
    gone = after.abs() < 1e-9 * before.abs().amax(1, keepdim=True)
    assert gone.sum(1).tolist() == [6] * 4 and not gone[:, 0].any()
    torch.testing.assert_close(after[~gone], before[~gone])


def test_mixed_frequencies_come_from_the_next_sample(make_series, make_windows):
    encoder = make_series("conv", norm="none").double()
    batch = make_windows(encoder, steps=CONTEXT)
    window = encoder.window(batch, view("frequency_mix", ratio=1.0))
    mean, std = mean_and_std(batch.inputs["values"], batch.inputs["observed"])
    alone = ((batch.inputs["values"] - mean) / std).roll(-1, 0)
    torch.testing.assert_close((window.values - mean) / std, alone)


def shown(make_series, make_windows, values, spec):
    """What a view shows of one channel, in raw units, and where the encoder sees it."""
    encoder = make_series("conv", norm="none").double()
    batch = make_windows(encoder, 1, steps=CONTEXT)
    batch.inputs["values"] = values[None, :, None]
    batch.inputs["observed"] = ~values.isnan()[None, :, None]
    window = encoder.window(batch, spec)
    return window.values[0, :, 0], window.visible[0, :, 0]


def test_the_derivative_of_a_line_is_its_slope_and_starts_afresh_after_a_gap(
    make_series, make_windows
):
    t = torch.arange(CONTEXT, dtype=torch.float64)
    line = 2.5 * t - 7
    found, seen = shown(make_series, make_windows, line, view("derivative"))
    assert len(found) == CONTEXT and seen.tolist() == [False] + [True] * (CONTEXT - 1)
    torch.testing.assert_close(found[seen], torch.full_like(t[1:], 2.5))
    line[10:13] = torch.nan
    _, seen = shown(make_series, make_windows, line, view("derivative"))
    assert (~seen).nonzero().ravel().tolist() == [0, 10, 11, 12, 13]
    found, seen = shown(make_series, make_windows, t**2, view("derivative", order=2))
    assert seen.sum() == CONTEXT - 2
    torch.testing.assert_close(found[seen], torch.full_like(found[seen], 2.0))


@pytest.mark.parametrize("period", [4, 6, 12, 24])
def test_the_spectrum_of_a_sine_peaks_at_its_frequency_with_its_amplitude(
    make_series, make_windows, period
):
    t = torch.arange(CONTEXT, dtype=torch.float64)
    wave = 5 + 3 * torch.sin(2 * torch.pi * t / period + 0.3)
    found, seen = shown(make_series, make_windows, wave, view("spectrum"))
    assert seen.all() and len(found) == CONTEXT
    assert int(found.argmax()) == 2 * CONTEXT // period
    torch.testing.assert_close(found.max(), found.new_tensor(3.0))
    assert found[0] == pytest.approx(0, abs=1e-9)  # the level is no frequency
    wave[5:9] = torch.nan
    found, seen = shown(make_series, make_windows, wave, view("spectrum"))
    assert seen.all() and int(found.argmax()) == 2 * CONTEXT // period


def test_the_spectrum_leaves_a_later_future_alone(make_series, make_windows):
    encoder = make_series("conv", norm="none").double()
    batch = make_windows(encoder)
    made, raw = (
        encoder.window(batch, chain((name, {}), ("future", {"horizon": HORIZON})))
        for name in ("spectrum", "plain")
    )
    assert torch.equal(made.future, raw.future) and not torch.equal(made.values, raw.values)


# -- cutoffs and crops ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["token_cutoff", "span_cutoff"])
def test_cutoffs_take_the_exact_share_of_tokens(make_series, make_windows, name):
    encoder = make_series()
    batch = make_windows(encoder, rows=16, steps=CONTEXT, short=True)
    seen = encoder.view(batch, view(name, ratio=0.4))
    cut = ~seen.keep_positions
    assert torch.equal(cut.sum(1), (seen.mask.sum(1) * 0.4).long())
    assert not (cut & ~seen.mask).any()
    if name == "span_cutoff":
        assert ((cut[:, 1:] & ~cut[:, :-1]).sum(1) + cut[:, 0].long() == 1).all()


def test_feature_cutoff_cuts_columns_of_the_embedding(make_series, make_windows):
    for kind, width in (("patchtst", 16), ("conv", 12)):
        encoder = make_series(kind)
        seen = encoder.view(make_windows(encoder), view("feature_cutoff", ratio=0.5))
        assert (seen.keep_features.sum(1) == width // 2).all()
        assert len({tuple(r) for r in seen.keep_features.tolist()}) > 1


def test_channel_cutoff_hides_channels_of_the_history_only(make_series, make_windows):
    encoder = make_series("conv", channels=4)
    batch = make_windows(encoder)
    spec = chain(("channel_cutoff", {}), ("future", {"horizon": HORIZON}))
    seen = encoder.view(batch, spec)
    shown = seen.inputs["observed"][:, :, 0]
    assert (shown.any(1).sum(1) == 3).all() and torch.equal(shown.any(1), shown.all(1))
    assert seen.is_target.all()


def test_a_crop_is_a_shorter_window_at_the_end(make_series, make_windows):
    encoder = make_series(norm="none").double()
    batch = make_windows(encoder, rows=16, steps=CONTEXT)
    seen = encoder.view(batch, view("crop", ratio=0.5))
    assert torch.equal(seen.mask, torch.tensor([False] * 4 + [True] * 4).expand(16, -1))
    raw = batch.inputs["values"].reshape(16, 8, PATCH)
    starts = set()
    for i in range(16):
        shown = seen.inputs["values"][i, 4:, :, 0]
        (start,) = (s for s in range(5) if torch.equal(raw[i, s : s + 4], shown))
        starts.add(start)
    assert len(starts) > 2
    assert (seen.inputs["values"][:, :4] == 0).all()


def test_of_a_sample_without_a_step_of_history_a_crop_keeps_nothing(make_series, make_windows):
    encoder = make_series()
    batch = make_windows(encoder, rows=4, steps=CONTEXT)
    batch.mask[1] = False
    seen = encoder.view(batch, view("crop", ratio=0.5))
    assert seen.mask.sum(1).tolist() == [4, 0, 4, 4]
    assert encoder(seen).pooled.isfinite().all()


def test_the_two_sides_of_an_overlap_share_the_tokens_they_name(make_series, make_windows):
    encoder = make_series(norm="none").double()
    batch = make_windows(encoder, rows=32, steps=CONTEXT)
    left, right = (
        encoder.view(batch, view("overlap", d, side=s, ratio=0.5))
        for d, s in enumerate(("left", "right"))
    )
    assert left.target.shape == right.target.shape == (32, 4)
    assert left.is_target.all() and right.is_target.all()
    shared = [
        x.inputs["values"].gather(1, x.target[:, :, None, None].expand(-1, -1, PATCH, 1))
        for x in (left, right)
    ]
    assert torch.equal(*shared)
    assert len({tuple(r) for r in right.target.tolist()}) > 2
    # Each side has tokens of its own too, in some samples.
    assert (left.mask.sum(1) > 4).any() and (right.mask.sum(1) > 4).any()
    assert not torch.equal(left.inputs["values"], right.inputs["values"])


def test_nothing_outside_its_crop_reaches_an_output(make_series, make_windows):
    encoder = make_series().double()
    batch = make_windows(encoder, steps=CONTEXT)
    for spec in (view("crop", ratio=0.5), view("overlap", side="left", ratio=0.5)):
        batch.inputs["values"] = torch.arange(1.0, 49).double().repeat(4, 1)[..., None]
        window = encoder.window(batch, spec)
        inside = torch.zeros(4, 49, dtype=torch.bool)
        inside.scatter_(1, torch.where(window.mask, window.values[..., 0], 0).long(), True)
        batch.inputs["values"] = torch.randn(4, 48, 1, dtype=torch.float64)
        check_no_leak(encoder, batch, spec, ~inside[:, 1:, None])


# -- dtypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*STRONG, "plain", "whole", "future", "past"])
def test_views_keep_the_dtype_of_the_data(make_series, make_windows, name):
    args = STRONG.get(name, {"horizon": HORIZON} if name in ("future", "past") else {})
    for dtype in (torch.float32, torch.float64):
        encoder = make_series("conv", channels=3).to(dtype)
        seen = encoder.view(make_windows(encoder, gaps=True), view(name, **args))
        assert seen.inputs["values"].dtype == dtype
        if seen.target is not None and seen.target.is_floating_point():
            assert seen.target.dtype == dtype
        assert encoder(seen).pooled.dtype == dtype


# -- devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_views_and_encoder_stay_on_the_device_and_read_no_value_back(
    make_series, make_windows, kind
):
    # Tensors without data: a mixed device or a value read to Python would raise.
    encoder = make_series(kind, channels=1 if kind == "patchtst" else 3).to("meta")
    batch = make_windows(encoder, gaps=True).to("meta")
    for name in VIEWS:
        if (name, kind) == ("channel_cutoff", "patchtst"):
            continue
        args = STRONG.get(name, {"horizon": HORIZON} if name in ("future", "past") else {})
        seen = encoder.view(batch, view(name, **args))
        assert encoder(seen).pooled.device.type == "meta"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_views_and_encoder_compile_as_one_graph(make_series, make_windows, kind):
    encoder = make_series(kind)
    batch = make_windows(encoder, gaps=True)
    for spec in (view("mask_values", unit="span"), view("random_conv")):

        def run(inputs, mask, spec=spec):
            seen = encoder.view(replace(batch, inputs=inputs, mask=mask), spec)
            return encoder(seen).tokens

        torch._dynamo.reset()
        compiled = torch.compile(run, backend="eager", fullgraph=True)
        found = compiled(batch.inputs, batch.mask)
        torch.testing.assert_close(found, run(batch.inputs, batch.mask))
