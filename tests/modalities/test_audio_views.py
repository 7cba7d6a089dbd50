import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

from unlabel.core import view
from unlabel.modalities.audio_views import VIEWS
from unlabel.objectives.chains import chain

pytest.importorskip("torchaudio")

from audio_tools import RATE, batch_of, make_encoder, sounds

KINDS = ["ast", "conv"]
CHAINS = [
    view("plain"),
    view("whole"),
    view("whole+jitter"),
    view("crop", low=0.3, high=0.9),
    view("jitter"),
    view("scaling", sigma=0.5),
    view("polarity"),
    view("speed", low=0.7, high=1.4),
    view("equalize"),
    view("reverse", ratio=0.5),
    view("reorder", segments=4),
    view("frequency_mask"),
    view("span_cutoff", ratio=0.3),
    view("token_cutoff", ratio=0.3),
    view("feature_cutoff", ratio=0.3),
    view("mask_values", ratio=0.5),
    view("mask_values", unit="span", ratio=0.5),
    view("mask_values", unit="time", ratio=0.5),
    view("crop+jitter+frequency_mask+span_cutoff"),
    view("crop+speed+equalize+span_cutoff"),
]
OF_SPECTROGRAMS = view("frequency_warp+frequency_mask")


def content(seen):
    """All tensors of a view, by name."""
    own = {k: getattr(seen, k) for k in ("mask", "target", "is_target", "keep_positions")}
    own["keep_features"] = seen.keep_features
    return {**seen.inputs, **{k: v for k, v in own.items() if v is not None}}


def values_of(seen):
    return seen.inputs["patches" if "patches" in seen.inputs else "waveform"]


# -- every view ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spec"),
    [*itertools.product(KINDS, CHAINS), ("ast", OF_SPECTROGRAMS)],
    ids=lambda s: s if isinstance(s, str) else f"{s.name}-{dict(s.args)}",
)
def test_a_view_of_a_sample_is_the_same_in_every_batch(kind, spec):
    encoder = make_encoder(kind).double()
    clips = [*sounds(2, 4000), *sounds(1, 2500, first=2), *sounds(1, 7000, first=3)]
    as_one = lambda rows: encoder.view(  # noqa: E731
        batch_of([clips[r] for r in rows], first=rows[0], dtype=torch.float64), spec
    )
    together = content(as_one([0, 1, 2, 3]))
    for row in range(4):
        for name, alone in content(as_one([row])).items():
            torch.testing.assert_close(alone[0], together[name][row], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "spec", [s for s in CHAINS if s.name not in ("plain", "whole")], ids=lambda s: s.name
)
def test_two_draws_of_a_view_differ_and_so_do_two_seeds(spec):
    encoder = make_encoder("conv", norm="fixed")
    batch = batch_of(sounds(6, 4000))
    found = []
    for used, seed in ((spec, 3), (view(spec.name, 1, **dict(spec.args)), 3), (spec, 4)):
        found.append(content(encoder.view(replace(batch, seed=seed), used)))
    for a, b in itertools.combinations(found, 2):
        assert any(not torch.equal(a[k], b[k]) for k in a)


def test_an_argument_that_a_view_does_not_have_is_refused():
    encoder, batch = make_encoder("conv"), batch_of(sounds(2, 4000))
    for name in VIEWS:
        with pytest.raises(ValueError, match=f"'{name}' has no loudness"):
            encoder.view(batch, view(name, loudness=1))


# -- waveforms ----------------------------------------------------------------------------------


def test_crop_is_one_run_of_the_whole_sample_at_the_start_of_the_view():
    encoder = make_encoder("conv", norm="fixed")
    ramp = [np.arange(1, 12_001, dtype=np.float32)] * 64
    sound = encoder.sound(batch_of(ramp), view("crop", low=0.5, high=0.8))
    count = sound.mask.sum(1)
    assert ((count >= 2000) & (count <= 3200)).all() and len(count.unique()) > 20
    first = sound.waveform[:, 0]
    place = torch.arange(4000)
    expected = torch.where(place < count[:, None], first[:, None] + place, 0)
    torch.testing.assert_close(sound.waveform, expected)
    assert first.min() < 1500 and first.max() > 7500  # from anywhere in the 1.5 s


def test_crop_of_a_short_sample_stays_inside_it():
    encoder = make_encoder("conv", norm="fixed")
    sound = encoder.sound(batch_of([np.ones(100, np.float32)] * 32), view("crop", low=0.2))
    count = sound.mask.sum(1)
    assert count.min() >= 20 and count.max() <= 100
    assert torch.equal(sound.waveform.sum(1), count.float())


def test_jitter_adds_noise_of_the_strength_asked_relative_to_the_level():
    encoder = make_encoder("conv", norm="fixed")
    batch = batch_of([0.01 * w for w in sounds(32, 4000)])
    clean = encoder.sound(batch, view("plain")).waveform
    noised = encoder.sound(batch, view("jitter", gain=0.0, low=0.1, high=0.1)).waveform
    share = (noised - clean).std(1) / clean.square().mean(1).sqrt()
    torch.testing.assert_close(share, torch.full((32,), 0.1), atol=0.01, rtol=0)


def test_jitter_changes_the_loudness_by_at_most_the_gain():
    encoder = make_encoder("conv", norm="fixed")
    batch = batch_of(sounds(64, 4000))
    clean = encoder.sound(batch, view("plain")).waveform
    louder = encoder.sound(batch, view("jitter", gain=6.0, high=0)).waveform
    decibels = 20 * torch.log10((louder / clean)[:, 7])
    assert decibels.abs().max() <= 6.0 and decibels.max() > 4 and decibels.min() < -4
    torch.testing.assert_close(louder / clean, (louder / clean)[:, :1].expand(-1, 4000))


def test_silence_stays_silent_under_jitter_and_mix():
    encoder = make_encoder("conv", norm="fixed")
    batch = batch_of([np.zeros(4000, np.float32)] * 2)
    for name in ("jitter", "mix"):
        assert not encoder.sound(batch, view(name)).waveform.any()


def test_polarity_changes_the_sign_of_about_its_share_and_no_spectrogram():
    batch = batch_of(sounds(64, 4000))
    conv, ast = make_encoder("conv", norm="fixed"), make_encoder(norm="fixed")
    sign = conv.sound(batch, view("polarity")).waveform / conv.sound(batch, view("plain")).waveform
    assert set(sign[:, 0].tolist()) == {1.0, -1.0} and 16 < (sign[:, 0] < 0).sum() < 48
    same = [ast.view(batch, view(name)).inputs["patches"] for name in ("plain", "polarity")]
    torch.testing.assert_close(*same)


def test_mix_adds_the_next_sample_at_the_level_of_this_one():
    encoder = make_encoder("conv", norm="fixed")
    clips = [np.full(4000, 0.5, np.float32), np.full(4000, -0.1, np.float32)]
    mixed = encoder.sound(batch_of(clips), view("mix", high=0.4)).waveform[:, 0]
    weight = (0.5 - mixed[0]) / 1.0
    assert 0 < weight < 0.4
    other = (mixed[1] + 0.1) / 0.2
    assert 0 < other < 0.4 and weight != other


def test_reverse_turns_what_exists_and_twice_is_nothing():
    encoder = make_encoder("conv", norm="fixed")
    batch = batch_of([np.arange(1, 5, dtype=np.float32), np.arange(1, 4001, dtype=np.float32)])
    turned = encoder.sound(batch, view("reverse"))
    assert turned.waveform[0, :5].tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert turned.waveform[1, :2].tolist() == [4000.0, 3999.0]
    again = VIEWS["reverse"](turned, batch, view("reverse"), layout=encoder.layout)
    assert torch.equal(again.waveform, encoder.sound(batch, view("plain")).waveform)


def test_reorder_asks_for_the_rank_of_the_order():
    encoder = make_encoder("conv", norm="fixed")
    ramp = np.arange(1, 3001, dtype=np.float32)
    batch = batch_of([ramp] * 32)
    seen = encoder.view(batch, view("reorder", segments=3, ask=True))
    assert seen.target is not None and seen.is_target is not None and seen.is_target.all()
    heard = encoder.sound(batch, view("reorder", segments=3, ask=True)).waveform[:, :3000]
    orders = list(itertools.permutations(range(3)))
    for row in range(32):
        order = orders[int(seen.target[row, 0])]
        expected = np.concatenate([ramp[1000 * s : 1000 * s + 1000] for s in order])
        assert np.array_equal(heard[row].numpy(), expected)
    assert len(seen.target.unique()) == 6


@pytest.mark.parametrize("name", ["crop", "speed", "reverse", "reorder", "frequency_warp"])
def test_moving_sound_behind_a_mask_is_refused(name):
    with pytest.raises(ValueError, match="put it before"):
        make_encoder("conv").view(batch_of(sounds(2, 4000)), view(f"mask_values+{name}"))


# -- voices ----------------------------------------------------------------------------------


def tones(hertz, rows, samples=4000):
    time = np.arange(samples) / RATE
    return [np.sin(2 * np.pi * hertz * time).astype(np.float32)] * rows


def factors(args, heard):
    """Log-uniform over the range that was asked for, and different for every sample."""
    low, high = args["low"], args["high"]
    assert low * 0.98 <= heard.min() < low * 1.2 and high / 1.2 < heard.max() <= high * 1.02
    assert abs(heard.log().mean() - np.log(low * high) / 2) < 0.12


def test_speed_changes_pitch_and_length_by_one_factor():
    encoder = make_encoder("conv", norm="fixed")
    args: dict[str, Any] = {"low": 0.6, "high": 1.5}
    sound = encoder.sound(batch_of(tones(600, 64, 2000)), view("speed", **args))
    count = sound.mask.sum(1)
    assert torch.equal(sound.mask.long().diff(dim=1).ne(0).sum(1), torch.ones(64).long())
    length = 2000 / count
    factors(args, length)
    place = torch.fft.rfft(sound.waveform, n=16_000, dim=1).abs().argmax(1) * (RATE / 16_000)
    torch.testing.assert_close(place / 600, length, atol=0.01, rtol=0.01)


def test_speed_one_changes_nothing_and_other_speeds_read_a_slow_wave_exactly():
    encoder = make_encoder("conv", norm="fixed")
    batch = batch_of(tones(100, 4))
    same = encoder.sound(batch, view("speed", low=1, high=1))
    torch.testing.assert_close(same.waveform, encoder.sound(batch, view("plain")).waveform)
    slow = encoder.sound(batch, view("speed", low=0.8, high=0.8)).waveform[0, 5:3900]
    expected = np.sin(2 * np.pi * 80 * np.arange(5, 3900) / RATE)
    np.testing.assert_allclose(slow, expected, atol=1e-3)


def test_frequency_warp_moves_bands_by_the_factor_up_to_the_edge():
    encoder = make_encoder(config={"num_mel_bins": 64}, norm="fixed", window=0.05)
    args: dict[str, Any] = {"low": 0.8, "high": 1.25}
    sound = encoder.sound(batch_of(tones(1000, 64)), view("frequency_warp", **args))
    assert sound.band_at is not None and sound.is_hidden is None
    hertz = lambda band: 700 * ((1 + RATE / 2 / 700) ** ((band + 1) / 65) - 1)  # noqa: E731
    read, own = hertz(sound.band_at), hertz(torch.arange(64.0))
    ratio = read / own
    factor = ratio[:, 0]
    factors(args, factor)
    inside = (own < 0.6 * RATE / 2 * factor[:, None].clamp(max=1) / factor[:, None]) & (own > 0)
    torch.testing.assert_close(ratio[inside], factor[:, None].expand_as(ratio)[inside])
    assert (read.diff(dim=1) > 0).all() and (read < RATE / 2).all()  # no band is lost or doubled
    # A tone is heard where its band is now read.
    loudest = rearrange(
        encoder.finish(sound).inputs["patches"], "b (t f) (q p) -> b (t p) (f q)", f=8, q=8
    ).mean(1).argmax(1)  # fmt: skip
    expected = (read - 1000).abs().argmin(1)
    assert ((loudest - expected).abs() <= 1).all()


def test_frequency_warp_of_one_changes_nothing_and_of_waveforms_is_refused():
    encoder, batch = make_encoder(), batch_of(sounds(3, 4000))
    same = encoder.view(batch, view("frequency_warp", low=1, high=1)).inputs["patches"]
    torch.testing.assert_close(
        same, encoder.view(batch, view("plain")).inputs["patches"], atol=1e-4, rtol=1e-4
    )
    with pytest.raises(ValueError, match="the view 'speed'"):
        make_encoder("conv").view(batch, view("frequency_warp"))


def test_equalize_is_a_filter_of_at_most_the_gain_that_no_two_samples_share():
    encoder = make_encoder("conv", norm="fixed")
    noise = [np.random.default_rng(0).normal(size=4000).astype(np.float32)] * 32
    clean, heard = (
        torch.fft.rfft(encoder.sound(batch_of(noise), v).waveform, dim=1).abs()[:, 1:-1]
        for v in (view("plain"), view("equalize", gain=9.0))
    )
    decibels = 20 * torch.log10(heard / clean)
    assert 8 < decibels.abs().max() <= 9.01
    assert decibels.diff(dim=1).abs().quantile(0.99) < 0.2  # lines, no comb
    assert torch.pdist(decibels).min() > 1


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("speed", {"low": 1.2, "high": 1.1}, "0 < low <= high"),
        ("frequency_warp", {"low": 0}, "0 < low <= high"),
        ("equalize", {"points": 1}, "2 points at least"),
    ],
)
def test_voices_that_cannot_be_are_refused(name, args, said):
    with pytest.raises(ValueError, match=said):
        make_encoder().view(batch_of(sounds(2, 4000)), view(name, **args))


# -- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "share"), [("patch", 6 / 12), ("time", 3 / 6), ("band", 1 / 2)])
def test_masks_hide_an_exact_share_and_ask_for_it(unit, share):
    encoder = make_encoder()
    batch = batch_of(sounds(4, 4000))
    whole = encoder.view(batch, view("plain"))
    seen = encoder.view(batch, view("mask_values", unit=unit, ratio=0.5))
    assert seen.is_target is not None and seen.target is not None
    assert (seen.is_target.all(2) == seen.is_target.any(2)).all()
    hidden = seen.is_target.any(2)
    assert (hidden.float().mean(1) == share).all()
    assert not values_of(seen)[hidden].any() and values_of(seen)[~hidden].all()
    by_time = rearrange(hidden, "b (t f) -> b t f", f=encoder.grid[1])
    if unit == "time":
        assert (by_time.all(2) == by_time.any(2)).all()
    if unit == "band":
        assert (by_time.all(1) == by_time.any(1)).all()
    # What is asked for is the spectrogram, up to what the visible part is normalised by.
    asked, own = seen.target[hidden], values_of(whole)[hidden]
    apart = torch.linalg.lstsq(
        torch.stack([own[:64].flatten(), torch.ones(own[:64].numel())], 1),
        asked[:64].reshape(-1, 1),
    )
    assert apart.solution[0, 0] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_what_would_be_seen(kind):
    encoder = make_encoder(kind, norm="fixed")
    batch = batch_of([*sounds(2, 4000), *sounds(1, 2000)])
    whole = encoder.view(batch, view("plain"))
    seen = encoder.view(batch, view("mask_values", ratio=0.5))
    assert seen.is_target is not None and seen.target is not None
    torch.testing.assert_close(seen.target[seen.is_target], values_of(whole)[seen.is_target])
    assert not seen.target[~seen.is_target].any()


def test_spans_cover_their_share_on_average():
    encoder = make_encoder("conv")
    batch = batch_of(sounds(1, 4000) * 300)
    seen = encoder.view(batch, view("mask_values", unit="span", ratio=0.3, mean_length=4))
    assert seen.is_target is not None
    hidden = seen.is_target.any(2).float()
    assert abs(hidden.mean() - 0.3) < 0.04
    runs = (hidden.diff(dim=1) == 1).sum() + hidden[:, 0].sum()
    assert 3 < hidden.sum() / runs < 5


def test_no_padding_is_asked_for():
    encoder = make_encoder()
    seen = encoder.view(batch_of([*sounds(1, 1920), *sounds(1, 4000)]), view("mask_values"))
    assert seen.is_target is not None
    assert not (seen.is_target.any(2) & ~seen.mask).any()


@pytest.mark.parametrize("unit", ["patch", "time", "band"])
def test_dropped_tokens_are_those_hidden_and_the_rest_is_as_it_was(unit):
    encoder = make_encoder()
    batch = batch_of([*sounds(2, 4000), *sounds(1, 1920)])
    specs = [view("mask_values", unit=unit, ratio=0.5, drop=d) for d in (False, True)]
    whole, seen = (encoder.view(batch, spec) for spec in specs)
    assert whole.is_target is not None
    for row in range(3):
        places = seen.inputs["positions"][row][seen.mask[row]]
        expected = (~whole.is_target[row].any(1) & whole.mask[row]).nonzero()[:, 0]
        assert torch.equal(places.sort().values, expected)
        torch.testing.assert_close(
            seen.inputs["patches"][row][seen.mask[row]], whole.inputs["patches"][row][places]
        )
    assert seen.mask.shape[1] == encoder.length // 2


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("after", ["", "+jitter", "+frequency_mask"])
def test_nothing_of_hidden_sound_reaches_the_encoder(drop, after):
    """Half of the frames are hidden, and their sound is changed beyond the reach of windows."""
    encoder = make_encoder()
    clips = sounds(4, encoder.layout.samples)
    name = f"mask_values{after}"
    args = {"unit": "time", "ratio": 0.5, "drop": drop}
    named = {f"mask_values.{k}": v for k, v in args.items()} if after else args
    # The noise of a jitter is measured by the level of the whole sound: none here.
    named |= {"jitter.high": 0} if "jitter" in after else {}
    spec = view(name, **named)
    hidden = encoder.sound(batch_of(clips), spec).is_hidden
    assert hidden is not None
    is_time = hidden.all(2)
    others = []
    for row, clip in enumerate(clips):
        reach = np.convolve(~is_time[row].numpy(), np.ones(7), "same") > 0  # 3 frames on each side
        samples = np.repeat(~reach, 80)
        assert samples.any()
        others.append(np.where(samples, 5.0, clip).astype(np.float32))
    a, b = (encoder.view(batch_of(c), spec) for c in (clips, others))
    torch.testing.assert_close(a.inputs["patches"], b.inputs["patches"], atol=1e-4, rtol=1e-4)
    assert a.target is not None and b.target is not None
    assert (a.target - b.target).abs().max() > 1


def test_nothing_of_hidden_samples_reaches_a_network_of_waveforms():
    encoder = make_encoder("conv")
    clips = sounds(4, 4000)
    hidden = encoder.sound(batch_of(clips), view("mask_values", ratio=0.5)).is_hidden
    assert hidden is not None
    samples = hidden[:, :, 0].repeat_interleave(160, 1).numpy()
    others = [np.where(h, 7.0, c) for h, c in zip(samples, clips, strict=True)]
    seen = [encoder.view(batch_of(c), view("mask_values", ratio=0.5)) for c in (clips, others)]
    torch.testing.assert_close(*(s.inputs["waveform"] for s in seen))


def test_what_changes_the_sound_after_a_mask_leaves_the_target():
    encoder = make_encoder(norm="fixed")
    batch = batch_of(sounds(3, 4000))
    plain = encoder.view(batch, view("mask_values", ratio=0.5))
    noised = encoder.view(batch, chain("mask_values", "jitter", args={"mask_values.ratio": 0.5}))
    assert plain.is_target is not None and noised.is_target is not None
    # Which tokens are hidden is another draw in a chain; where both ask, they ask for the same.
    both = plain.is_target & noised.is_target
    assert both.any() and plain.target is not None and noised.target is not None
    torch.testing.assert_close(plain.target[both], noised.target[both])
    assert not torch.allclose(plain.inputs["patches"], noised.inputs["patches"])


def test_masks_that_cannot_be_are_refused():
    encoder, batch = make_encoder("conv"), batch_of(sounds(2, 4000))
    given = lambda args: {f"mask_values.{k}": v for k, v in args.items()}  # noqa: E731
    for args, said in (
        ({"unit": "word"}, "no unit 'word'"),
        ({"unit": "span", "drop": True}, "cannot be dropped"),
        ({"ratio": 1}, "hide everything"),
        ({"unit": "band"}, "have one band"),
    ):
        with pytest.raises(ValueError, match=said):
            encoder.view(batch, chain("mask_values", args=given(args)))
    overlapping = make_encoder(config={"time_stride": 4, "frequency_stride": 4})
    with pytest.raises(ValueError, match="patches overlap"):
        overlapping.view(batch, view("mask_values"))


def test_span_cutoff_is_one_run_of_frames_and_asks_for_nothing():
    encoder = make_encoder()
    sound = encoder.sound(batch_of(sounds(64, 4000)), view("span_cutoff", ratio=0.25))
    assert sound.is_hidden is not None and sound.is_asked is None
    frames = sound.is_hidden.all(2)
    assert (frames == sound.is_hidden.any(2)).all() and (frames.sum(1) == 48 // 4).all()
    assert ((frames.long().diff(dim=1) == 1).sum(1) <= 1).all()
    assert frames[:, 0].any() and frames[:, -1].any()  # it comes everywhere


def test_frequency_mask_is_one_run_of_bands():
    encoder = make_encoder()
    sound = encoder.sound(batch_of(sounds(64, 4000)), view("frequency_mask", ratio=0.25))
    assert sound.is_hidden is not None
    bands = sound.is_hidden.all(1)
    assert (bands == sound.is_hidden.any(1)).all() and (bands.sum(1) == 4).all()
    assert ((bands.long().diff(dim=1) == 1).sum(1) <= 1).all()


def test_frequency_mask_takes_a_run_of_the_mel_scale_out_of_a_waveform():
    encoder = make_encoder("conv", norm="fixed")
    noise = [np.random.default_rng(i).normal(size=4000).astype(np.float32) for i in range(8)]
    heard = encoder.sound(batch_of(noise), view("frequency_mask", ratio=0.3)).waveform
    power = torch.fft.rfft(heard, dim=1).abs()
    hertz = torch.linspace(0, RATE / 2, 2001)
    mel = torch.log1p(hertz / 700) / np.log1p(RATE / 2 / 700)
    for row in power:
        gone = mel[row < 1e-3]
        assert abs(float(gone.max() - gone.min()) - 0.3) < 0.01 and (row > 1e-3).any()


def test_cutoffs_zero_their_share_of_tokens_and_columns():
    encoder = make_encoder()
    batch = batch_of(sounds(4, 4000))
    tokens = encoder.view(batch, view("token_cutoff", ratio=0.25)).keep_positions
    columns = encoder.view(batch, view("feature_cutoff", ratio=0.25)).keep_features
    assert tokens is not None and (~tokens).sum(1).tolist() == [3] * 4
    assert columns is not None and (~columns).sum(1).tolist() == [4] * 4
