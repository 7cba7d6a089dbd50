"""The link `whole`: all is asked for as it was, whatever the encoder is shown of it later."""

import pytest
import torch

from unlabel.objectives.chains import chain


def target_of(encoder, batch, *links, **args):
    seen = encoder.view(batch, chain(*links, args=args))
    return seen, seen.target, seen.is_target


@pytest.mark.parametrize("kind", ["patchtst", "conv"])
def test_every_measured_value_of_a_window_is_asked_for(make_series, make_windows, kind):
    encoder = make_series(kind).double()
    seen, target, is_target = target_of(encoder, make_windows(encoder, gaps=True), "whole")
    assert torch.equal(is_target, seen.inputs["observed"].flatten(2))
    assert torch.equal(target, seen.inputs["values"].flatten(2))


@pytest.mark.parametrize("after", ["jitter", "hide", "crop", "reverse"])
def test_later_links_change_what_is_seen_and_not_what_is_asked(make_series, make_windows, after):
    encoder = make_series(norm="none").double()
    batch = make_windows(encoder, gaps=True)
    plain, target, is_target = target_of(encoder, batch, "whole")
    noised, same, where = target_of(encoder, batch, "whole", after)
    assert torch.equal(target, same) and torch.equal(is_target, where)
    assert not torch.equal(plain.inputs["values"], noised.inputs["values"])


def test_links_before_change_both(make_series, make_windows):
    encoder = make_series().double()
    seen, target, _ = target_of(encoder, make_windows(encoder), "jitter", "whole")
    assert torch.equal(target, seen.inputs["values"].flatten(2))


@pytest.mark.parametrize("kind", ["videomae", "vit"])
def test_every_pixel_of_frames_that_exist_is_asked_for(make_visual, make_clips, kind):
    encoder = make_visual(kind)
    batch = make_clips(encoder, lengths=[8, 4, 8, 8])
    seen, target, is_target = target_of(encoder, batch, "whole")
    _, same, where = target_of(encoder, batch, "whole", "jitter+mask_values")
    torch.testing.assert_close(target, same)
    assert torch.equal(is_target, where)
    assert is_target[0].all() and is_target[1].float().mean() == 0.5
    assert target.shape == (4, encoder.length, encoder.token_values)
    if "patches" in seen.inputs:
        torch.testing.assert_close(target[seen.mask], seen.inputs["patches"][seen.mask])


def test_every_value_of_a_sound_is_asked_for_as_it_was():
    pytest.importorskip("torchaudio")
    from audio_tools import batch_of, make_encoder, sounds

    for kind in ("ast", "conv"):
        encoder = make_encoder(kind)
        batch = batch_of(sounds(3, 4000))
        seen, target, is_target = target_of(encoder, batch, "whole")
        assert is_target is not None
        values = seen.inputs["patches" if kind == "ast" else "waveform"]
        assert torch.equal(is_target.any(2), seen.mask)
        torch.testing.assert_close(target, values.masked_fill(~is_target, 0))
        _, same, _ = target_of(encoder, batch, "whole", "span_cutoff")
        assert same.shape == target.shape
        assert (same != 0).sum() == (target != 0).sum()
