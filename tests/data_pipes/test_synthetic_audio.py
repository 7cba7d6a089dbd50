import numpy as np
import pytest

from unlabel.data_pipes.synthetic_audio import CLASSES, generate_audio

RATE = 8_000


@pytest.fixture(scope="module")
def made():
    return generate_audio(320, noise=0.0, seed=1)


def of(made, name: str) -> np.ndarray:
    return np.flatnonzero(made.label == CLASSES.index(name))


def loudest(waveform: np.ndarray, part: slice) -> np.ndarray:
    """Frequency of the lowest strong partial of a part of each clip, in Hz."""
    piece = waveform[:, part] * np.hanning(part.stop - part.start)
    power = np.abs(np.fft.rfft(piece, n=16_384, axis=1)) ** 2
    strong = power > 0.02 * power.max(1, keepdims=True)
    return strong.argmax(1) * RATE / 16_384


def test_every_class_comes_as_often_and_nothing_is_clipped(made):
    assert np.bincount(made.label).tolist() == [40] * len(CLASSES)
    peak = np.abs(made.waveform).max(1)
    assert made.waveform.dtype == np.float32 and peak.max() <= 1 + 1e-6 and peak.min() > 0.09


def test_steady_tones_have_their_pitch(made):
    rows = of(made, "steady")
    found = loudest(made.waveform[rows], slice(0, RATE))
    # The lowest partial may be so weak that the next one counts.
    ratio = found / made.pitch[rows]
    assert (np.abs(ratio - np.maximum(ratio.round(), 1)) < 0.05).all()


@pytest.mark.parametrize(("name", "way"), [("rising", 1), ("falling", -1), ("steady", 0)])
def test_glides_go_their_way(made, name, way):
    clips = made.waveform[of(made, name)]
    early, late = (loudest(clips, slice(a, a + 1500)) for a in (0, RATE - 1500))
    octaves = np.median(np.log2(late / early))
    assert abs(octaves) < 0.02 if way == 0 else 0.3 < way * octaves < 1.5


def envelope(clips: np.ndarray) -> np.ndarray:
    """Level of each clip over time, with what is steady taken out."""
    level = np.sqrt(np.square(clips).reshape(len(clips), 200, -1).mean(2))
    return level - level.mean(1, keepdims=True)


def test_tremolo_and_beats_go_at_their_tempo(made):
    for name in ("tremolo", "regular"):
        rows = of(made, name)
        spectrum = np.abs(np.fft.rfft(envelope(made.waveform[rows]), n=4000, axis=1))
        found = spectrum[:, 60:180].argmax(1) + 60  # 3 to 9 Hz, 20 bins a Hz
        assert np.abs(found / 20 - made.tempo[rows]).mean() < 0.3


def test_irregular_beats_have_no_tempo(made):
    spectra = [
        np.abs(np.fft.rfft(envelope(made.waveform[of(made, n)]), n=4000, axis=1))
        for n in ("regular", "irregular")
    ]
    sharp = [(s[:, 60:180].max(1) / s[:, 60:400].mean(1)).mean() for s in spectra]
    assert sharp[0] > 1.2 * sharp[1]


def test_hiss_is_noise_of_an_octave(made):
    rows = of(made, "hiss")
    power = np.abs(np.fft.rfft(made.waveform[rows], axis=1)) ** 2
    hertz = np.fft.rfftfreq(RATE, 1 / RATE)
    inside = np.abs(np.log2(np.maximum(hertz, 1) / made.pitch[rows][:, None])) <= 0.51
    assert ((power * inside).sum(1) / power.sum(1) > 0.99).all()


def test_the_same_seed_gives_the_same_sounds():
    one, two, other = (generate_audio(8, seconds=0.2, seed=s) for s in (4, 4, 5))
    assert np.array_equal(one.waveform, two.waveform)
    assert not np.array_equal(one.waveform, other.waveform)


def test_noise_is_as_strong_as_asked():
    clean, noisy = (generate_audio(16, noise=n, seed=2) for n in (0.0, 0.5))
    scale = [
        (c * n).sum() / (c * c).sum() for c, n in zip(clean.waveform, noisy.waveform, strict=True)
    ]
    rest = noisy.waveform - np.array(scale)[:, None] * clean.waveform
    level = lambda x: np.sqrt(np.square(x).mean(1))  # noqa: E731
    share = level(rest) / (np.abs(scale) * level(clean.waveform))
    np.testing.assert_allclose(share, 0.5, atol=0.05)


def test_it_is_a_store_by_place_in_the_run(made):
    sample = made[320 + 7]
    assert (sample["index"], sample["ordinal"], sample["label"]) == (7, 327, made.label[7])
    assert len(made.lengths) == len(made) == 320 and set(made.lengths) == {RATE}
    assert made.summary() == "320 generated clips of 1 s at 8,000 Hz"


def test_a_rate_too_low_for_the_voices_is_refused():
    with pytest.raises(ValueError, match="8,000 Hz or more"):
        generate_audio(4, rate=4_000)
