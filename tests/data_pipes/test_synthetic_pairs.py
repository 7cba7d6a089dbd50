"""Pairs of four sides: real files that agree, of combinations that the other split never shows."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from pair_features import SIDES, frames_of, listed, moments_of, told, weights_of

from unlabel.data_pipes.audio_store import read_audio
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.synthetic_captions import (
    COLOR_WORDS,
    DIRECTION_WORDS,
    MOTION_WORDS,
    PACE_WORDS,
    SHAPE_WORDS,
    write_caption,
)
from unlabel.data_pipes.synthetic_objects import (
    COLORS,
    MOTIONS,
    PACES,
    SHAPES,
    Split,
    combinations,
    draw_objects,
    states,
)
from unlabel.data_pipes.synthetic_pairs import COUNTS, embedded_pairs
from unlabel.data_pipes.synthetic_senses import (
    COLUMNS,
    object_frames,
    object_readings,
    object_sound,
)
from unlabel.data_pipes.videos import read_videos

FRAMES, READINGS, SAMPLES = np.arange(16) / 10, np.arange(64) / 40, np.arange(12_800) / 8000


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return embedded_pairs(tmp_path_factory.mktemp("pairs"), split="test", count=24)


def of_motion(motion, count=400):
    objects = draw_objects(count, seed=3)
    return objects.rows(np.flatnonzero(objects.motion == list(MOTIONS).index(motion)))  # pyright: ignore


def loudness(sound, step=400):
    return np.sqrt(np.square(sound.reshape(len(sound), -1, step)).mean(-1))


def test_splits_share_no_combination_and_each_has_every_pair_that_it_can():
    train, test = (combinations(split) for split in ("train", "test"))
    assert len(train) + len(test) == len(SHAPES) * len(COLORS) * len(MOTIONS) == 320
    assert len(test) == 64
    assert not set(map(tuple, train)) & set(map(tuple, test))
    for part, names in enumerate((SHAPES, COLORS, MOTIONS)):
        assert set(test[:, part]) == set(train[:, part]) == set(range(len(names)))
    for two in ([0, 1], [0, 2], [1, 2]):  # training sees any two of a held-out three together
        assert set(map(tuple, test[:, two])) <= set(map(tuple, train[:, two]))


def test_every_combination_comes_as_often_and_at_every_pace():
    splits: tuple[tuple[Split, int], ...] = (("train", 6), ("test", 3))
    for split, each in splits:
        objects = draw_objects(COUNTS[split], split=split)
        shown = np.stack([objects.shape, objects.color, objects.motion, objects.pace], axis=1)
        whole, times = np.unique(shown[:, :3], axis=0, return_counts=True)
        assert (times == each).all() and (whole == combinations(split)).all()
        assert (np.unique(shown, axis=0, return_counts=True)[1] == each // len(PACES)).all()
        first = shown[: len(whole), :3]
        assert len(np.unique(first, axis=0)) == len(first)


def test_an_object_stays_in_the_frame_and_only_its_motion_moves_it():
    objects = draw_objects(800, seed=1)
    at = states(objects, READINGS)
    for middle in (at.x, at.y):
        assert (middle - at.radius > -0.01).all() and (middle + at.radius < 1.01).all()
    moves = {"slide": {"x"}, "rise": {"y"}, "circle": {"x", "y"}, "spin": {"angle"},
             "pulse": {"radius"}, "bounce": {"y"}, "swing": {"x", "y", "angle"},
             "shake": {"x", "angle"}}  # fmt: skip
    for row, motion in enumerate(objects.motion):
        moved = {name for name, v in at._asdict().items() if np.ptp(v[row]) > 1e-9}
        assert moved == moves[list(MOTIONS)[motion]]


def test_the_clip_shows_the_object_where_the_series_says(pairs):
    for row in listed(pairs)[:16]:
        series = pd.read_csv(pairs.parent / row["series"])
        seen = moments_of(weights_of(frames_of(pairs.parent / row["video"]).astype(float)))
        read = series.iloc[::4].reset_index(drop=True)
        for k, name in enumerate(("x", "y")):
            if np.ptp(read[name]) > 0.2:
                assert np.corrcoef(seen[:, k], read[name])[0, 1] > 0.9
        if row["motion"] == "pulse":
            assert np.corrcoef(np.sqrt(seen[:, 2]), read["size"])[0, 1] > 0.9


def test_readings_are_of_the_object_of_the_clip():
    objects = draw_objects(200, seed=2)
    read = dict(zip(COLUMNS, np.moveaxis(object_readings(objects, READINGS), -1, 0), strict=True))
    at = states(objects, READINGS)
    assert (
        np.abs(read["x"] - at.x).max() < 0.05
        and np.abs(read["angle"] / 360 - at.angle).max() < 0.03
    )
    rgb = np.stack([read[c].mean(1) for c in ("red", "green", "blue")], axis=1)
    own = np.array(list(COLORS.values()))[objects.color] / 255
    assert np.abs(rgb - own).max() < 0.2
    assert (read["outline"] < at.radius * 1.1 + 0.03).all()
    # The light of the clip is the light of the sensors.
    ground = object_frames(objects.rows(slice(0, 32)), FRAMES, size=32)[:, :, 0].mean((-1, -2))
    light = read["red"][:32, ::4]
    assert np.median([np.corrcoef(g, r)[0, 1] for g, r in zip(ground, light, strict=True)]) > 0.8


def test_the_sound_follows_the_motion():
    sound = lambda objects: object_sound(objects, SAMPLES, rate=8000)  # noqa: E731
    middle = (np.arange(32) + 0.5) * 0.05
    together = lambda a, b: np.median(  # noqa: E731
        [np.corrcoef(u, v)[0, 1] for u, v in zip(a, b, strict=True)]
    )
    pulse = of_motion("pulse")
    assert together(loudness(sound(pulse)), states(pulse, middle).radius) > 0.9
    slide = of_motion("slide")
    speed = np.abs(np.cos(2 * np.pi * slide.phase(middle)))
    rush = np.diff(sound(slide), prepend=0)
    assert together(loudness(rush), speed) > 0.5
    rise = of_motion("rise")
    heard = np.stack(
        [np.abs(np.fft.rfft(s.reshape(32, 400) * np.hanning(400), 4096)) for s in sound(rise)]
    )
    at = np.fft.rfftfreq(4096, 1 / 8000)
    shift = np.stack([_shifts(h, at) for h in heard])
    assert together(shift, -states(rise, middle).y) > 0.8
    bounce = of_motion("bounce")
    low = np.stack([np.convolve(s, np.ones(30) / 30, "same") for s in sound(bounce)])
    landed = np.exp(-(bounce.phase(middle) % 1) / bounce.rate[:, None] / 0.06)
    assert together(loudness(low), landed) > 0.4


def _shifts(spectra, hertz):
    """How far each spectrum lies above the mean one, in steps of a logarithmic scale."""
    scale = np.geomspace(100, 3500, 600)
    logs = np.log(np.stack([np.interp(scale, hertz, s) for s in spectra]) + 1e-2)
    mean = logs.mean(0)
    steps = np.arange(-40, 41)
    fits = np.stack([[np.dot(np.roll(mean, s), one) for s in steps] for one in logs - logs.mean()])
    return steps[fits.argmax(1)]


def test_register_tells_the_colour():
    objects = of_motion("spin")
    sound = object_sound(objects, SAMPLES, rate=8000)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(12_800)))
    spectrum /= np.sqrt((spectrum**2).sum(1, keepdims=True))
    # The harmonics of the right pitch are heard, and nothing halfway between them.
    hertz = 120 * 2 ** (0.3 * np.arange(len(COLORS))[:, None] + np.linspace(-0.06, 0.06, 49))
    places = hertz[..., None] * np.arange(1, 30) * 1.6
    heard = lambda at: spectrum[:, np.minimum(np.rint(at), 6400).astype(int)] * (at < 5600)  # noqa: E731
    fits = (heard(places) - heard(places - hertz[..., None] * 0.8)).sum(-1).max(-1)
    assert (fits.argmax(1) == objects.color).mean() > 0.9


def test_captions_say_what_is_shown_in_many_ways(pairs):
    for row in listed(pairs):
        text = row["text"].lower()
        said = lambda words: any(re.search(rf"\b{re.escape(w)}\b", text) for w in words)  # noqa: B023, E731
        assert said(SHAPE_WORDS[row["shape"]]) and said(COLOR_WORDS[row["color"]])
        assert said([w for two in MOTION_WORDS[row["motion"]] for w in two])
        assert row["pace"] == "medium" or said(PACE_WORDS[row["pace"]])
        assert not row["direction"] or said(DIRECTION_WORDS[row["direction"]])
        others = [w for c, own in COLOR_WORDS.items() if c != row["color"] for w in own]
        assert not said(others)
        assert row["label"] == f"{row['color']} {row['shape']} {row['motion']}"
    random = np.random.default_rng(0)
    about = {"shape": "bar", "color": "orange", "motion": "spin", "pace": "slow",
             "direction": "clockwise"}  # fmt: skip
    written = {write_caption(random, **about) for _ in range(300)}
    assert len(written) > 150
    assert all("  " not in w and " :" not in w and w.endswith(".") for w in written)
    assert all(" a amber" not in w.lower() and " a orange" not in w.lower() for w in written)
    assert set(COLOR_WORDS) == set(COLORS) and set(MOTION_WORDS) == set(MOTIONS)
    assert set(SHAPE_WORDS) == set(SHAPES) and set(PACE_WORDS) == set(PACES)


def test_our_readers_read_every_file(pairs):
    rows = listed(pairs)
    videos = read_videos(pairs, path_column="video", label_column="motion")
    assert len(videos) == 24 and not videos.report.broken
    assert {v.media.frames for v in videos} == {16} and {v.media.fps for v in videos} == {10.0}
    sounds = read_audio(pairs, path_column="audio")
    assert len(sounds) == 24 and {(s.media.frames, s.media.fps) for s in sounds} == {(12_800, 8000)}
    tracks = read_audio(pairs, path_column="video")
    assert len(tracks) == 24 and {t.media.fps for t in tracks} == {8000}
    series = read_series([pairs.parent / row["series"] for row in rows])
    assert len(series) == 24 and {s.values.shape for s in series} == {(64, len(COLUMNS))}
    assert not series.report.broken


def test_files_are_found_again_and_a_folder_that_is_not_whole_is_written_again(tmp_path):
    make = lambda folder=tmp_path: embedded_pairs(folder, count=3, frames=8)  # noqa: E731
    file = make()
    assert file.parent.parent == tmp_path and file.name == "pairs.csv"
    before = {p: p.stat().st_mtime_ns for p in file.parent.rglob("*")}
    assert make() == file
    assert {p: p.stat().st_mtime_ns for p in file.parent.rglob("*")} == before
    lost = file.parent / listed(file)[1]["audio"]
    whole = lost.read_bytes()
    lost.unlink()
    assert make() == file and lost.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [file.parent.name]


def test_the_same_arguments_give_the_same_bytes_and_splits_differ(tmp_path):
    files = [embedded_pairs(tmp_path / f, count=2, frames=8) for f in "ab"]
    first, second = ([p.read_bytes() for p in sorted(f.parent.rglob("*.*"))] for f in files)
    assert first == second and len(first) == 7
    other = embedded_pairs(tmp_path / "a", split="test", count=2, frames=8)
    assert other.read_text() != files[0].read_text() and other != files[0]


def test_two_that_write_at_once_leave_one_whole_folder(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: embedded_pairs(tmp_path, count=4, frames=8), range(3)))
    assert len(set(found)) == 1
    assert len(listed(found[0])) == 4
    assert [p.name for p in tmp_path.iterdir()] == [found[0].parent.name]


def test_the_cache_is_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path))
    assert embedded_pairs(count=1, frames=2).is_relative_to(tmp_path / "pairs")


def test_refuses_what_cannot_be_written(tmp_path):
    for wrong, said in (
        ({"split": "dev"}, "'train' or 'test'"), ({"size": 63}, "even"), ({"rate": 0}, "sound"),
        ({"count": 0}, "at least 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            embedded_pairs(tmp_path, **wrong)  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_linear_model_tells_shape_colour_and_motion_of_held_out_combinations(tmp_path):
    """Chance is 0.2 for the shape, 0.125 for colour and motion: what R@1 between sides rests on."""
    train = embedded_pairs(tmp_path, count=768)
    test = embedded_pairs(tmp_path, split="test", count=128)
    for side in SIDES:
        right = told(train, test, side)
        assert min(right.values()) > 0.6, (side, right)
