"""Series made by formula, whose noise-free signal is known: what a forecast can at best reach."""

from dataclasses import dataclass, field

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Int64

from unlabel.checks import check_above_0
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.series_data import Series, SeriesData
from unlabel.data_pipes.series_time import timestamp

DAY, WEEK = 24.0, 168.0  # hours
MONDAY = 1_704_067_200_000_000  # microseconds to the first hour, 2024-01-01


@dataclass
class SyntheticSeries(SeriesData):
    """Series with what they were made from.

    Attributes:
        signal: the values without noise and without gaps, `(series, steps, channels)`.
        noise_std: of the noise of each channel, `(series, channels)`. No forecast has a lower
            expected squared error than its square, and `signal` itself reaches it.
        regime: which regime a step belongs to, counted from 0, `(series, steps)`.
    """

    signal: Float32[np.ndarray, "series steps channels"] = field(kw_only=True)
    noise_std: Float[np.ndarray, "series channels"] = field(kw_only=True)
    regime: Int64[np.ndarray, "series steps"] = field(kw_only=True)


def generate_series(
    count: int,
    length: int,
    *,
    channels: int = 4,
    drivers: int = 3,
    seed: int = 0,
    noise: float = 0.3,
    missing: float = 0.01,
    mean_gap: float = 6.0,
    mean_regime: float = 1500.0,
    trend: float = 0.5,
) -> SyntheticSeries:
    r"""Hourly series of several channels that share drivers, in the manner of electrical loads.

    Driver k of a series, at hour t in regime r(t):

        d_k(t) = level_k(r) + slope_k t / length + sum_j a_kj(r) s(theta_kj(t), h_kj)
        s(theta, h) = cos(theta) + h cos(2 theta)
        theta_kj(t) = phase_kj + sum_{u <= t} 2 pi / period_j(r(u))

    with the seasons j: a day (24), a week (168) and one of the series' own (log-uniform between 6
    and 96 hours). Day and week are the calendar's and keep their period; at a change of regime,
    which comes at every hour with probability 1 / mean_regime, the level jumps, the amplitudes
    are drawn anew and the own period takes another value, while the phase runs on. Channel c:

        signal_c(t) = offset_c + scale_c sum_k w_ck d_k(t - lag_ck)
        values_c(t) = signal_c(t) + sigma_c e_c(t),   e ~ N(0, 1) independent,
        sigma_c = noise * std_t(signal_c)

    with lags of 0 to 6 hours, so that one channel tells of another's future. Since the noise is
    independent of everything before it, the expected squared error of any forecast is at least
    sigma_c ** 2, in units of the signal's variance `noise ** 2`; forecasting `signal` reaches it.
    (Who has to guess the changes of regime to come reaches it only between them.) Gaps come in
    runs of geometric length, mean `mean_gap`, for each channel by itself.

    Args:
        count: number of series.
        length: hours of each.
        channels: of each series.
        drivers: signals that the channels of a series mix.
        seed: of everything drawn; the same arguments give the same series on every machine.
        noise: standard deviation of the noise over that of the signal.
        missing: expected share of the values that are missing.
        mean_gap: hours that a run of missing values lasts on average.
        mean_regime: hours that a regime lasts on average; infinity for no change.
        trend: standard deviation of the drivers' slope over the whole length, beside seasons of
            about 1.

    Raises:
        ValueError: for sizes below 1 or shares outside [0, 1).
    """
    _check(count, length, channels, drivers, noise, missing, mean_gap, mean_regime)
    random = np.random.default_rng(seed)
    longest = 6  # hours of lag: the drivers begin so much earlier
    regime = _regimes(random, count, length + longest, mean_regime)
    driver = _drivers(random, regime, drivers, length, trend)
    signal = _mix(random, driver, channels, length, longest)
    noise_std = noise * signal.std(axis=1)
    values = signal + noise_std[:, None] * random.standard_normal(signal.shape)
    is_missing = _gaps(random, signal.shape, missing, mean_gap)
    values = np.where(is_missing, np.nan, values).astype(np.float32)
    names = tuple(f"channel-{c}" for c in range(channels))
    start = timestamp(MONDAY)
    series = [Series(f"synthetic-{i}", v, names, start, "h") for i, v in enumerate(values)]
    report = ReadReport(files=[f"synthetic, seed {seed}"], lines=count * length)
    report.kept = report.lines
    return SyntheticSeries(
        series, report, signal=signal.astype(np.float32), noise_std=noise_std,
        regime=regime[:, longest:] - regime[:, longest : longest + 1],
    )  # fmt: skip


def embedded_series(*, missing: float = 0.01) -> SyntheticSeries:
    """The default corpus, which needs no download: 600 days of seven hourly loads.

    The share that is missing changes nothing of what is there.
    """
    return generate_series(1, 14_400, channels=7, seed=0, missing=missing)


def _regimes(
    random: np.random.Generator, count: int, steps: int, mean_regime: float
) -> Int64[np.ndarray, "series steps"]:
    changes = random.random((count, steps)) < 1 / mean_regime
    changes[:, 0] = False
    return changes.cumsum(axis=1)


def _drivers(
    random: np.random.Generator,
    regime: Int64[np.ndarray, "series steps"],
    drivers: int,
    length: int,
    trend: float,
) -> Float[np.ndarray, "series steps drivers"]:
    count, steps = regime.shape
    many = int(regime.max()) + 1
    # What a regime decides is drawn for all regimes, then read off at each hour.
    here = lambda drawn: np.take_along_axis(  # noqa: E731
        drawn, regime.reshape(count, steps, *(1,) * (drawn.ndim - 2)), axis=1
    )
    level = here(random.normal(0, 0.7, (count, many, drivers)))
    amplitude = random.lognormal(0, 0.4, (count, many, drivers, 3)) * [0.8, 0.5, 0.4]
    own = here(np.exp(random.uniform(np.log(6), np.log(96), (count, many))))
    slope = random.normal(0, trend, (count, 1, drivers))
    phase = random.uniform(0, 2 * np.pi, (count, 1, drivers, 3))
    second = random.uniform(0, 0.5, (count, 1, drivers, 3))
    signal = level + slope * np.arange(steps)[:, None] / length
    for j, period in enumerate((np.full_like(own, DAY), np.full_like(own, WEEK), own)):
        turned = np.cumsum(2 * np.pi / period, axis=1)[..., None]
        theta = phase[..., j] + turned
        wave = np.cos(theta) + second[..., j] * np.cos(2 * theta)
        signal += here(amplitude[..., j]) * wave
    return signal


def _mix(
    random: np.random.Generator,
    driver: Float[np.ndarray, "series steps drivers"],
    channels: int,
    length: int,
    longest: int,
) -> Float[np.ndarray, "series length channels"]:
    count, _, drivers = driver.shape
    weight = random.normal(0, 1 / np.sqrt(drivers), (count, channels, drivers))
    lag = random.integers(0, longest + 1, (count, channels, drivers))
    scale = random.lognormal(0, 1, (count, 1, channels))
    offset = random.normal(0, 3, (count, 1, channels)) * scale
    hours = np.arange(length)[:, None, None] + longest - lag[:, None]  # (series, hour, channel, k)
    mixed = np.zeros((count, length, channels))
    for k in range(drivers):
        lagged = np.take_along_axis(driver[..., k : k + 1], hours[..., k], axis=1)
        mixed += lagged * rearrange(weight[..., k], "n c -> n 1 c")
    return offset + scale * mixed


def _gaps(
    random: np.random.Generator, shape: tuple[int, ...], missing: float, mean_gap: float
) -> Bool[np.ndarray, "series steps channels"]:
    # A step is missing when a run began at most its length before: with starts of probability
    # q at every step a share 1 - (1 - q) ** mean_gap is, nearly.
    count, steps, channels = shape
    start_share = 1 - (1 - missing) ** (1 / mean_gap)
    before = int(20 * mean_gap) if missing else 0  # runs that began before the first step
    begins = random.random((count, steps + before, channels)) < start_share
    series, at, channel = np.nonzero(begins)
    runs = random.geometric(1 / mean_gap, len(at))
    change = np.zeros((count, steps + before + 1, channels), np.int32)
    np.add.at(change, (series, at, channel), 1)
    np.add.at(change, (series, np.minimum(at + runs, steps + before), channel), -1)
    return change.cumsum(axis=1)[:, before : before + steps] > 0


def _check(
    count: int, length: int, channels: int, drivers: int,
    noise: float, missing: float, mean_gap: float, mean_regime: float,
) -> None:  # fmt: skip
    check_above_0(count=count, length=length, channels=channels, drivers=drivers)
    check_above_0(mean_gap=mean_gap, mean_regime=mean_regime)
    if not 0 <= missing < 1:
        raise ValueError(f"missing is a share of at least 0 and below 1, but {missing} came.")
    if noise < 0:
        raise ValueError(f"noise is at least 0, but {noise} came.")
