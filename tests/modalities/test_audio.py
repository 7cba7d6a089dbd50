import base64
import copy
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ASTFeatureExtractor, AutoModel, BertConfig, BertModel

from unlabel.core import cat_views, view
from unlabel.modalities.audio import AudioCollator, AudioEncoder
from unlabel.modalities.audio_features import quarters
from unlabel.modalities.audio_sound import LogMel, Norm, Sound

pytest.importorskip("torchaudio")

from audio_tools import RATE, batch_of, make_encoder, sounds

KINDS = ["ast", "conv"]


# -- the spectrogram ----------------------------------------------------------------------------


def test_log_mel_is_the_logarithm_of_windowed_power_under_mel_triangles():
    mel = LogMel(rate=RATE, hop=80, window=200, bands=12).double()
    wave = torch.randn(1, 800, dtype=torch.float64)
    found = mel(wave)
    assert found.shape == (1, 10, 12) and mel.size == 512
    # Frame 4: 512 samples around the middle of its hop, of which the window takes the middle 200.
    middle = 4 * 80 + 40
    window = torch.hann_window(200, dtype=torch.float64)
    piece = wave[0, middle - 100 : middle + 100] * window
    power = torch.fft.rfft(piece, n=512).abs().square()
    hertz = torch.linspace(0, RATE // 2, 257, dtype=torch.float64)
    to_mel = lambda h: 2595 * torch.log10(1 + h / 700)  # noqa: E731
    edges = torch.linspace(0, float(to_mel(hertz[-1])), 14, dtype=torch.float64)
    edges = 700 * (10 ** (edges / 2595) - 1)
    low, top, high = (edges[i : len(edges) - 2 + i, None] for i in range(3))
    rise, fall = (hertz - low) / (top - low), (high - hertz) / (high - top)
    weights = torch.minimum(rise, fall).clamp(min=0)
    torch.testing.assert_close(found[0, 4], (weights @ power + 1e-10).log(), atol=1e-3, rtol=1e-4)


def test_frames_are_as_many_as_whole_hops():
    mel = LogMel(rate=RATE, hop=80, window=200, bands=8)
    assert mel(torch.zeros(2, 879)).shape == (2, 10, 8)


def test_a_frame_hears_no_further_than_its_window():
    mel = LogMel(rate=RATE, hop=80, window=200, bands=8)
    wave = torch.zeros(1, 1600)
    wave[0, 800] = 1.0
    loud = (mel(wave)[0] > np.log(1e-9)).any(1).nonzero()[:, 0]
    assert loud.tolist() == [9, 10]  # middles at 760 and 840; those of 8 and 11 are 120 away


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["clip", "fixed"])
def test_silence_is_finite(kind, norm):
    encoder = make_encoder(kind, norm=norm)
    seen = encoder.view(batch_of([np.zeros(4000, np.float32)] * 2), view("plain"))
    inputs = seen.inputs["patches" if kind == "ast" else "waveform"]
    assert inputs.isfinite().all() and encoder(seen).pooled.isfinite().all()
    if norm == "clip":
        assert not inputs.any()


def test_norm_clip_gives_mean_0_and_std_1_over_what_exists():
    encoder = make_encoder()
    short, whole = sounds(1, 1920)[0], sounds(1, 3840, first=1)[0]
    seen = encoder.view(batch_of([short, whole]), view("plain"))
    for row in range(2):
        values = seen.inputs["patches"][row][seen.mask[row]]
        assert abs(values.mean()) < 1e-4 and abs(values.std(correction=0) - 1) < 1e-3


def test_norm_clip_does_not_know_how_loud_a_clip_is_and_fixed_does():
    loud, soft = sounds(1, 4000)[0], sounds(1, 4000)[0] / 8
    for norm, same in (("clip", True), ("fixed", False)):
        x = make_encoder(norm=norm).view(batch_of([loud, soft]), view("plain")).inputs["patches"]
        assert torch.allclose(x[0], x[1], atol=1e-3) == same


def test_fixed_statistics_are_measured_over_all_clips():
    encoder = make_encoder(norm="fixed")
    batch = batch_of(sounds(4, 4000))
    encoder.measure(batch)
    values = encoder.view(batch, view("plain")).inputs["patches"]
    assert abs(values.mean()) < 1e-5 and abs(values.std() - 1) < 1e-5
    with pytest.raises(ValueError, match="Only norm 'fixed'"):
        make_encoder().measure(batch)


def test_fixed_norm_is_what_was_given():
    loc, scale = Norm("fixed", -3.0, 2.0)(torch.zeros(2, 5, 4), torch.ones(2, 5, 4).bool())
    assert (float(loc), float(scale)) == (-3.0, 2.0)


# -- tokens and encodings -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_go_together(kind):
    encoder = make_encoder(kind)
    seen = encoder.view(batch_of(sounds(3, 4000)), view("plain"))
    out = encoder(seen, want=frozenset({"layers"}))
    values = seen.inputs["patches" if kind == "ast" else "waveform"]
    times, bands = encoder.grid
    assert values.shape == (3, encoder.length, encoder.token_values)
    assert encoder.length == times * bands and seen.mask.all()
    assert out.pooled.shape == (3, encoder.width)
    assert out.tokens.shape == (3, encoder.length, encoder.width)
    assert out.layers is not None and all(x.shape == out.tokens.shape for x in out.layers)


def test_all_patches_in_order_give_what_the_transformers_model_gives():
    encoder = make_encoder()
    seen = encoder.view(batch_of(sounds(2, 4000)), view("plain"))
    assert encoder.mel is not None
    sound = encoder.sound(batch_of(sounds(2, 4000)), view("plain"))
    mels = encoder.mel(sound.waveform)
    mels = (mels - mels.mean((1, 2), True)) / mels.std((1, 2), correction=0, keepdim=True)
    whole = encoder.model(input_values=mels).last_hidden_state[:, 2:]
    times, bands = encoder.grid
    expected = whole.unflatten(1, (bands, times)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(encoder(seen).tokens, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "cls"])
def test_pooling(pooling):
    encoder = make_encoder(pooling=pooling)
    seen = encoder.view(batch_of([*sounds(1, 4000), *sounds(1, 2000)]), view("plain"))
    out = encoder(seen)
    mine = out.tokens[1][out.mask[1]]
    expected = {"mean": mine.mean(0), "max": mine.amax(0), "last": mine[-1], "cls": out.pooled[1]}
    torch.testing.assert_close(out.pooled[1], expected[pooling])
    assert not torch.allclose(out.pooled[1], out.pooled[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_sound_is_encoded_as_it_is_alone(kind):
    encoder = make_encoder(kind).double()
    short, whole = sounds(1, 1280)[0], sounds(1, 4000, first=1)[0]

    def encode(clips):
        batch = batch_of(clips, dtype=torch.float64)
        return encoder(encoder.view(batch, view("plain"))).pooled

    alone, together = encode([short]), encode([short, whole])[:1]
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)


def test_plain_takes_the_middle_of_a_longer_sound():
    encoder = make_encoder("conv", norm="fixed")
    ramp = np.arange(10_000, dtype=np.float32)
    seen = encoder.view(batch_of([ramp]), view("plain")).inputs["waveform"].flatten()
    assert seen[0] == 3000 and seen[-1] == 6999


@pytest.mark.parametrize("kind", KINDS)
def test_views_of_different_lengths_are_encoded_together(kind):
    encoder = make_encoder(kind)
    batch = batch_of(sounds(2, 4000))
    names = [view("plain"), view("crop+jitter", 1), view("crop", 2)]
    seen = [encoder.view(batch, spec) for spec in names]
    together = encoder(cat_views(seen)).pooled
    apart = torch.cat([encoder(v).pooled for v in seen])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)


def test_overlapping_patches_give_tokens_but_no_values():
    encoder = make_encoder(config={"time_stride": 4, "frequency_stride": 4})
    assert encoder.grid == (11, 3) and not {"values", "visible_only"} & encoder.gives
    assert encoder(encoder.view(batch_of(sounds(2, 4000)), view("plain"))).tokens.shape[1] == 33


def test_an_encoder_copied_or_cast_keeps_its_spectrogram():
    encoder = copy.deepcopy(make_encoder()).double()
    batch = batch_of(sounds(2, 4000), dtype=torch.float64)
    assert encoder(encoder.view(batch, view("plain"))).pooled.dtype == torch.float64
    assert not [k for k in encoder.state_dict() if k.startswith("mel")]


# -- making, loading and saving -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_bfloat16_hear_what_those_of_float32_hear(kind):
    encoder, clips = make_encoder(kind), sounds(3, 4000)
    exact = encoder.encode(clips)
    encoder.bfloat16()
    assert np.abs(encoder.encode(clips) - exact).max() < 0.05 * np.abs(exact).max()
    batch = encoder.collator()([{"waveform": w} for w in clips])
    assert encoder(encoder.view(batch, view("plain"))).pooled.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_encoder_comes_back_with_its_settings_and_vectors(tmp_path, kind):
    encoder = make_encoder(kind, pooling="max", norm="fixed", mean=-2.0, std=3.0)
    encoder.save_pretrained(tmp_path)
    again = AudioEncoder.from_pretrained(tmp_path)
    assert not any(part.training for part in again.modules())
    assert again.settings == encoder.settings == json.loads((tmp_path / "unlabel.json").read_text())
    clips = sounds(3, 4000)
    np.testing.assert_allclose(again.encode(clips), encoder.encode(clips), atol=1e-6)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(encoder.model)


def test_a_plain_ast_folder_is_heard_by_the_norm_of_its_feature_extractor(tmp_path):
    make_encoder().model.save_pretrained(tmp_path)
    extract = ASTFeatureExtractor(sampling_rate=8_000, mean=-4.0, std=3.0)
    extract.save_pretrained(tmp_path)
    encoder = AudioEncoder.from_pretrained(tmp_path)
    assert encoder.norm == Norm("fixed", -4.0, 6.0) and encoder.rate == 8_000
    values = np.full((1, 2, 2), 2.0, np.float32)  # as the extractor has it: 6 / (2 * 3)
    np.testing.assert_allclose(extract.normalize(values), (2 + 4) / encoder.norm.std)
    assert AudioEncoder.from_pretrained(tmp_path, norm="clip").norm.kind == "clip"
    ASTFeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    assert AudioEncoder.from_pretrained(tmp_path).norm == Norm("clip")


def test_a_plain_ast_folder_says_how_long_a_view_is(tmp_path):
    make_encoder().model.save_pretrained(tmp_path)
    encoder = AudioEncoder.from_pretrained(tmp_path)
    assert (encoder.rate, encoder.seconds) == (16_000, 0.5)


def test_a_new_ast_has_no_two_equal_positions():
    table = make_encoder().model.embeddings.position_embeddings[0]
    assert len(table.unique(dim=0)) == len(table)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="pooling 'best' is not one of"):
        make_encoder(pooling="best")
    with pytest.raises(ValueError, match="norm 'loud' is not one of"):
        make_encoder(norm="loud")
    with pytest.raises(ValueError, match="no class token"):
        make_encoder("conv", pooling="cls")
    with pytest.raises(ValueError, match="not one token; give more seconds"):
        make_encoder("conv", seconds=0.01)
    with pytest.raises(ValueError, match="std divides"):
        make_encoder(std=0.0)
    for seconds, frames in ((0.25, 25), (1.0, 100)):
        with pytest.raises(ValueError, match=rf"takes 50 frames, but {frames} .* seconds=0\.5"):
            AudioEncoder(make_encoder().model, rate=RATE, seconds=seconds)
    other = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(ValueError, match="BertModel is no encoder of sound"):
        AudioEncoder(BertModel(other))
    with pytest.raises(ValueError, match="no such key"):
        make_encoder(config={"hiden_size": 8})


def test_an_unknown_view_or_partner_is_refused():
    encoder, batch = make_encoder("conv"), batch_of(sounds(2, 4000))
    with pytest.raises(ValueError, match="Audio has no view 'solarize'"):
        encoder.view(batch, view("solarize"))
    with pytest.raises(ValueError, match="wants a 'video' beside each sample"):
        encoder.view(batch, view("plain", partner="video"))


# -- batches and use ------------------------------------------------------------------------------


def test_collator_pads_at_the_end_and_says_where():
    waves = [np.ones(3, np.float32), np.ones(5, np.float32)]
    partners = {"other": {"waveform": np.ones(2, np.float32)}}
    samples = [{"waveform": w, "label": 4, "partners": partners} for w in waves]
    batch = AudioCollator(seed=7)(samples)
    assert batch.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert batch.inputs["waveform"].tolist() == batch.mask.float().tolist()
    assert batch.seed == 7 and batch.label is not None and batch.label.tolist() == [4, 4]
    assert batch.partners["other"]["mask"].shape == (2, 2)
    with pytest.raises(ValueError, match=r"one of shape \(3, 2\) came"):
        AudioCollator()([{"waveform": np.ones((3, 2), np.float32)}])


def test_a_long_clip_is_the_mean_of_its_windows_the_last_of_which_ends_with_it():
    encoder = make_encoder("conv")
    (clip,) = sounds(1, 10_000)
    parts = encoder.encode([clip[:4000], clip[4000:8000], clip[6000:]])
    np.testing.assert_allclose(encoder.encode([clip])[0], parts.mean(0), atol=1e-6)


def test_clips_come_out_in_order_whatever_the_batch_size():
    encoder = make_encoder()
    clips = [*sounds(2, 4000), *sounds(1, 9000), *sounds(1, 1000)]
    np.testing.assert_allclose(
        encoder.encode(clips), encoder.encode(clips, batch_size=2), atol=1e-5
    )


def test_another_rate_is_resampled():
    encoder = make_encoder()
    t = np.arange(8000) / 16_000
    fast, slow = np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 440 * t[::2] * 1.0)
    found, expected = encoder.encode([fast], rate=16_000), encoder.encode([slow])
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_no_clip_is_refused():
    with pytest.raises(ValueError, match="with at least one sample each"):
        make_encoder("conv").encode([np.zeros(0, np.float32)])


def test_waveforms_of_whole_numbers_are_refused():
    wave = np.arange(9_000, dtype=np.int16)
    encoder = make_encoder("conv")
    with pytest.raises(ValueError, match="from -1 to 1, but int16 came; divide by 32,768"):
        encoder.encode([wave], rate=16_000)
    with pytest.raises(ValueError, match="from -1 to 1, but int16 came; divide by 32,768"):
        encoder.collator()([{"waveform": wave}])


def test_show_tells_what_is_seen_and_asked():
    encoder = make_encoder()
    batch = batch_of(sounds(2, 4000))
    shown = encoder.show(encoder.view(batch, view("mask_values", ratio=0.5, drop=True)), 1)
    (row,) = shown["clips"]
    open_ = lambda s: np.asarray(Image.open(io.BytesIO(base64.b64decode(s)))).astype(int)  # noqa: E731
    seen, asked = open_(row["seen"]), open_(row["asked"])
    bands, frames = encoder.layout.bands, encoder.layout.frames
    assert seen.shape == asked.shape == (bands, frames)
    hidden = seen == 128  # the mean, where nothing is shown
    assert 0.4 < hidden.mean() < 0.6 and (asked == seen)[~hidden].all()
    assert (asked[hidden] != 128).mean() > 0.9


def test_the_lowest_band_is_shown_at_the_bottom_and_time_runs_to_the_right():
    encoder = make_encoder()
    made = encoder.view(batch_of(sounds(1, 4000)), view("plain"))
    times, bands = encoder.grid
    made.inputs["patches"] = torch.zeros_like(made.inputs["patches"])
    made.inputs["patches"][0, (times - 1) * bands] = 9.0  # the last time of the lowest bands
    shown = encoder.show(made, 1)["clips"][0]["seen"]
    lit = np.argwhere(np.asarray(Image.open(io.BytesIO(base64.b64decode(shown)))) == 255)
    cell = encoder.layout.cell
    assert lit[:, 0].min() == bands * cell[1] - cell[1] and lit[:, 1].min() == (times - 1) * cell[0]


def test_run_cuts_and_pads():
    sound = Sound(torch.arange(6.0)[None], torch.ones(1, 6).bool())
    cut = sound.run(torch.tensor([4]), torch.tensor([5]), 4)
    assert cut.waveform.tolist() == [[4.0, 5.0, 0.0, 0.0]]
    assert cut.mask.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_clip_are_statistics_of_the_tokens_of_all_its_windows(kind):
    encoder = make_encoder(kind)
    size = encoder.layout.samples
    clips = [*sounds(1, 2 * size), *sounds(1, size // 2, first=1)]
    found = encoder.encode(clips, features=("std", "mean", "max", "quarters"))
    width = encoder.width
    assert found.shape == (2, 7 * width)
    for clip, row in zip(clips, found, strict=True):
        windows = [clip[i : i + size] for i in range(0, len(clip), size)]
        views = [encoder.view(batch_of([w]), view("plain")) for w in windows]
        tokens = torch.cat([encoder(v).tokens[v.mask] for v in views]).detach().numpy()
        std, mean, most = row[: 3 * width].reshape(3, width)
        np.testing.assert_allclose(std, tokens.std(0), atol=1e-5)
        np.testing.assert_allclose(mean, tokens.mean(0), atol=1e-5)
        np.testing.assert_allclose(most, tokens.max(0), atol=1e-5)
        first = tokens[: -(-len(tokens) // 4)].mean(0)
        np.testing.assert_allclose(row[3 * width : 4 * width], first, atol=1e-5)


def test_quarters_of_few_tokens_share_them():
    tokens = torch.arange(3.0)[:, None]
    assert quarters(tokens).tolist() == [0.0, 0.5, 1.5, 2.0]
    assert quarters(tokens[:1]).tolist() == [0.0] * 4


def test_pooled_is_what_encode_gives_unasked_and_unknown_features_are_refused():
    encoder, clips = make_encoder(), sounds(2, 4000)
    both = encoder.encode(clips, features=("pooled", "std"))
    np.testing.assert_allclose(both[:, : encoder.width], encoder.encode(clips), atol=1e-6)
    for wrong in ((), ("median",)):
        with pytest.raises(ValueError, match="features is a list of some of pooled"):
            encoder.encode(clips, features=wrong)
