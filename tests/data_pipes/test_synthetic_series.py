import numpy as np
import pytest

from unlabel.data_pipes.series_store import SeriesStore
from unlabel.data_pipes.synthetic_series import generate_series


def test_the_signal_itself_reaches_the_variance_of_the_noise_and_nothing_beats_it():
    data = generate_series(8, 4000, noise=0.5, missing=0.05, seed=1)
    values = np.stack([s.values for s in data])
    oracle = np.nanmean((values - data.signal) ** 2, axis=1)
    # The mean of 3800 squares of a Gaussian has a relative standard deviation of sqrt(2/3800).
    np.testing.assert_allclose(oracle, data.noise_std**2, rtol=5 * np.sqrt(2 / 3800))
    np.testing.assert_allclose(data.noise_std, 0.5 * data.signal.std(axis=1), rtol=1e-4)
    for worse in (0.97 * data.signal, np.roll(data.signal, 1, axis=1)):
        assert np.nanmean((values - worse) ** 2) > np.nanmean(oracle)


def test_noise_is_independent_from_step_to_step_and_of_the_signal():
    data = generate_series(4, 20_000, noise=1.0, missing=0.0, channels=2)
    values = np.stack([s.values for s in data])
    noise = (values - data.signal) / data.noise_std[:, None]
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert abs((noise[:, 1:] * noise[:, :-1]).mean(1)).max() < 5 / np.sqrt(20_000)
    centred = (data.signal - data.signal.mean(1, keepdims=True)) / data.signal.std(1, keepdims=True)
    assert abs((noise * centred).mean(1)).max() < 5 / np.sqrt(20_000)


def test_day_and_week_are_seasons_of_every_series_and_each_has_one_of_its_own():
    hours = 168 * 24
    data = generate_series(6, hours, mean_regime=np.inf, trend=0.0, missing=0.0, drivers=1)
    power = np.abs(np.fft.rfft(data.signal - data.signal.mean(1, keepdims=True), axis=1)) ** 2
    power /= power.sum(axis=1, keepdims=True)
    day, week = hours // 24, hours // 168
    known = [week, 2 * week, day, 2 * day]
    assert (power[:, day] > 0.05).all() and (power[:, week] > 0.01).all()
    power[:, known] = 0
    own = power[..., 0].argmax(axis=1)
    assert len(set(own.tolist())) >= 5  # two of six series may share one of 600 places
    assert ((own >= hours / 97) & (own <= 2 * hours / 6 + 1)).all()
    # What is left is the own season: two lines, somewhat widened where they lie between places.
    near = np.stack([power[i, max(o - 9, 0) : o + 10, 0].sum() for i, o in enumerate(own)])
    assert (near / power[..., 0].sum(1) > 0.5).all()


def test_without_noise_and_change_a_series_repeats_but_for_its_own_season_and_trend():
    data = generate_series(3, 1000, noise=0, missing=0, mean_regime=np.inf)
    assert (data.regime == 0).all() and (data.noise_std == 0).all()
    np.testing.assert_array_equal(np.stack([s.values for s in data]), data.signal)


def test_regimes_change_as_often_as_asked_and_the_level_jumps_there():
    data = generate_series(20, 10_000, mean_regime=1000, missing=0, channels=1)
    changes = np.diff(data.regime, axis=1) == 1
    assert changes.sum() == pytest.approx(200, abs=5 * np.sqrt(200))
    jumps = abs(np.diff(data.signal[..., 0], axis=1))
    # A lag delays the jump by up to 6 hours; such hours are 0.7 % of all.
    near = np.stack([np.convolve(c, np.ones(7))[: c.size] > 0 for c in changes])
    assert near[np.arange(20), jumps.argmax(axis=1)].mean() > 0.5


def test_the_share_and_length_of_gaps_are_as_asked():
    data = generate_series(10, 20_000, missing=0.1, mean_gap=8.0)
    gone = np.isnan(np.stack([s.values for s in data]))
    assert gone.mean() == pytest.approx(0.1, abs=0.005)
    assert data.missing == pytest.approx(gone.mean())
    ends = gone[:, :-1] & ~gone[:, 1:]
    assert gone.sum() / ends.sum() == pytest.approx(8.4, abs=0.5)  # some runs meet
    assert not (gone.all(axis=-1).mean() > 0.01)  # each channel by itself


def test_channels_share_drivers_but_series_do_not():
    data = generate_series(40, 3000, drivers=1, channels=2, noise=0, missing=0)
    x = data.signal - data.signal.mean(1, keepdims=True)
    within = abs(np.stack([np.corrcoef(s.T)[0, 1] for s in x]))
    between = abs(np.stack([np.corrcoef(x[i, :, 0], x[i + 1, :, 0])[0, 1] for i in range(39)]))
    assert within.mean() > 0.6 and between.mean() < 0.35


def test_one_seed_gives_one_corpus():
    mine, its, other = (generate_series(2, 100, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(mine[1].values, its[1].values)
    assert not np.array_equal(mine[1].values, other[1].values)


def test_the_corpus_is_read_like_any_other():
    data = generate_series(3, 200, channels=2)
    assert data.summary().startswith("3 series of 200 steps and 2 channel(s), step h")
    store = SeriesStore(data, context=96, horizon=24)
    assert len(store) == 3 * 2 * 81
    np.testing.assert_array_equal(store[1]["values"][:, 0], data[0].values[:120, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length is at least 1, but 0"),
        ({"missing": 1.0}, "missing is a share"),
        ({"noise": -1}, "noise is at least 0"),
        ({"mean_gap": 0.5}, "mean_gap is at least 1"),
    ],
)
def test_impossible_corpora_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        generate_series(**{"count": 2, "length": 50, **options})
