"""What a series looks like, in words whose truth is known."""

import numpy as np
import pytest

from unlabel.data_pipes.describe import describe

T = np.arange(96)


def noise(seed: int = 0, size: int = 96) -> np.ndarray:
    """White noise of deviation 1."""
    return np.random.default_rng(seed).normal(size=size)


def test_a_line_rises_or_falls_evenly():
    assert "the series rises steadily, smooth, around 47.5 between 0 and 95" in describe(T)
    assert "lowest at the start and highest at the end, and changes evenly" in describe(T)
    assert "falls steadily" in describe(5 - 0.3 * T)
    assert "rises, very noisy" in describe(0.02 * T + noise())


@pytest.mark.parametrize("period", [3, 7, 12, 24])
@pytest.mark.parametrize("strength", [0.0, 0.4])
def test_a_season_is_named_by_its_period(period, strength):
    wave = np.sin(2 * np.pi * T / period + 1)
    assert f"repeats every {period} steps" in describe(wave + strength * noise())
    assert f"repeats every {period} steps" in describe(10.0 * (T % period == 1))
    assert f"rises and repeats every {period} steps" in describe(wave + 0.04 * T)


def test_a_period_need_not_be_a_whole_number():
    assert "repeats every 7.3 steps" in describe(np.sin(2 * np.pi * T / 7.3))


def test_noise_has_neither_season_nor_trend():
    told = [describe(noise(seed)) for seed in range(100)]
    assert sum("repeats" in t for t in told) == 0
    assert sum("has no trend, very noisy" in t for t in told) >= 95


def test_noise_that_grows_and_a_jump_are_told():
    calm = np.concatenate([0.1 * noise(0, 48), noise(1, 48)])
    assert "very noisy and ever wilder" in describe(calm)
    assert "very noisy and ever calmer" in describe(calm[::-1])
    step = np.where(T > 70, 3.0, 0.0) + 0.01 * noise()
    assert "jumps up late" in describe(step) and "jumps down late" in describe(-step)
    assert "jumps down early" in describe(step[::-1])


def test_constants_gaps_and_nothing_are_told():
    assert describe(np.full(10, 5.0)) == "Over 10 steps the series stays at 5."
    assert describe(np.full(10, np.nan)) == "Over 10 steps the series has no value."
    assert describe(np.array([3.0])) == "Over 1 step the series stays at 3."
    gaps = np.where(T % 5 == 2, np.nan, T)
    assert describe(gaps).startswith("Over 96 steps the series rises steadily")
    with pytest.raises(ValueError, match=r"\(0,\)|\(0, 1\)"):
        describe(np.zeros(0))


def test_channels_and_steps_have_their_names():
    table = np.stack([T, np.sin(2 * np.pi * T / 24)], 1)
    told = describe(table, names=["x_out", "1"], freq="h")
    assert told.startswith("Over 96 hours x out rises steadily")
    assert "; channel 2 repeats every 24 hours" in told and told.endswith(".") and ". " not in told
    assert describe(T, names=["value"], freq="15min").startswith("Over 24 hours the series")
    for freq, words in (("D", "96 days"), ("MS", "96 months"), ("min", "96 minutes"),
                        ("W-SUN", "96 weeks"), ("2h", "192 hours"), ("x", "96 steps")):  # fmt: skip
        assert describe(T, freq=freq).startswith(f"Over {words} ")


def test_any_series_has_one_sentence():
    for seed in range(400):
        random = np.random.default_rng(seed)
        values = random.normal(size=int(random.integers(1, 60))) * 10.0 ** random.integers(-9, 9)
        values = values.cumsum() if seed % 2 else values
        if seed % 3 == 0:
            values = np.where(random.random(len(values)) < 0.3, np.nan, np.round(values))
        told = describe(values)
        assert told.startswith("Over ") and told.endswith(".") and "nan" not in told


def test_equal_values_give_equal_sentences_whatever_their_type():
    wave = np.sin(2 * np.pi * T / 24).astype(np.float32)
    assert describe(wave) == describe(wave.astype(np.float64)) == describe(wave[:, None])
