"""Synthetic scenes: no frame tells the action, the frames do; and the files are real ones."""

import av
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlabel.data_pipes.synthetic_render import render_frames, render_sound
from unlabel.data_pipes.synthetic_scenes import (
    ACTIONS,
    FAR,
    LARGE,
    PHASES,
    SMALL,
    angles,
    draw_scenes,
    places,
    radii,
)
from unlabel.data_pipes.synthetic_video import cache_folder, embedded_videos, write_video

COUNT, TIMES = 3000, np.arange(32) / 16


def decoded(path):
    with av.open(str(path)) as file:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    with av.open(str(path)) as file:
        sound = [f.to_ndarray() for f in file.decode(audio=0)] if file.streams.audio else []
    return frames, np.concatenate(sound, axis=1)[0] if sound else None


def states():
    """Everything a frame depends on, (clips, times, numbers)."""
    scenes = draw_scenes(COUNT, seed=5)
    phases = scenes.phases(TIMES)
    place, angle, radius = (f(scenes, phases) for f in (places, angles, radii))
    circle = lambda x: [np.cos(x), np.sin(x)]  # noqa: E731
    gap = place[:, :, 1] - place[:, :, 0]
    parts = [*circle(2 * np.pi * place[:, :, 0]), *circle(2 * np.pi * gap), *circle(angle), radius]
    return scenes, np.concatenate(parts, axis=-1)


def probe(x, label):
    fit = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    half = len(x) // 2
    return (fit.fit(x[:half], label[:half]).predict(x[half:]) == label[half:]).mean()


def test_one_moment_tells_nothing_of_the_action_and_two_moments_do():
    scenes, state = states()
    spread = 5 * np.sqrt(1 / 6 * 5 / 6 / (COUNT / 2))
    for moment in (0, 15, 31):
        x = state[:, moment]
        squares = np.concatenate([x, x**2, x[:, :4] * x[:, 4:8]], axis=1)
        assert abs(probe(squares, scenes.action) - 1 / 6) < spread
    moved = np.abs(np.diff(state[:, :4], axis=1)).mean(1)
    assert probe(moved, scenes.action) > 0.6  # what grows and what shrinks change alike


def test_every_action_has_the_same_places_sizes_and_distances_at_every_moment():
    scenes, state = states()
    each = COUNT / len(ACTIONS)
    for moment in (0, 20):
        for action in range(len(ACTIONS)):
            own, rest = (
                state[s, moment] for s in (scenes.action == action, scenes.action != action)
            )
            gap = (own.mean(0) - rest.mean(0)) / (rest.std(0) / np.sqrt(each) + 1e-9)
            assert np.abs(gap).max() < 4.5
            assert np.abs(np.log(own.std(0) / rest.std(0))).max() < 0.2


def test_an_action_runs_one_phase_and_the_others_stand():
    scenes = draw_scenes(600, seed=1)
    runs = scenes.rate != 0
    assert (runs.sum(1) == 1).all()
    named = [PHASES[k] for k in runs.argmax(1)]
    expected = {"turn": {"spin"}, "grow": {"size"}, "shrink": {"size"}, "bounce": {"hop"},
                "collide": {"apart"}, "move": {"x", "y"}}  # fmt: skip
    for action, phase, way in zip(scenes.action, named, scenes.rate.sum(1), strict=True):
        assert phase in expected[ACTIONS[action]]
        if ACTIONS[action] in ("grow", "shrink"):
            assert (way > 0) == (ACTIONS[action] == "grow")
    assert np.bincount(scenes.action).tolist() == [100] * 6


def test_shapes_keep_their_size_touch_when_they_collide_and_never_overlap():
    scenes = draw_scenes(300, seed=2)
    times = np.linspace(0, 2, 400)
    phases = scenes.phases(times)
    place, radius = places(scenes, phases), radii(scenes, phases)
    apart = np.linalg.norm((place[:, :, 1] - place[:, :, 0] + 0.5) % 1 - 0.5, axis=-1)
    contact = radius.sum(-1)
    assert (apart >= contact - 1e-9).all() and apart.max() <= FAR + 1e-9
    collide = scenes.action == ACTIONS.index("collide")
    assert ((apart - contact)[collide].min(1) < 0.01).all()  # every one of them meets
    assert radius.min() >= 0.8 * SMALL and radius.max() <= LARGE
    steady = ~np.isin(scenes.action, [ACTIONS.index(a) for a in ("grow", "shrink")])
    assert np.ptp(radius[steady], axis=1).max() < 1e-9


def test_frames_show_the_shapes_in_their_colours_where_the_scene_puts_them():
    scenes = draw_scenes(60, seed=3)
    frames = render_frames(scenes, size=64, frames=4, fps=16)
    assert frames.shape == (60, 4, 64, 64, 3) and frames.dtype == np.uint8
    place = places(scenes, scenes.phases(np.arange(4) / 16))
    from unlabel.data_pipes.synthetic_scenes import COLORS, SHAPES

    colors = np.array(list(COLORS.values()))
    for row in np.flatnonzero(scenes.shape[:, 1] == SHAPES.index("square"))[:8]:
        x, y = (place[row, 2, 1] * 64).astype(int) % 64
        np.testing.assert_allclose(frames[row, 2, y, x], colors[scenes.color[row, 1]], atol=1)


def test_pitch_rises_as_shapes_grow_and_knocks_come_with_landings():
    scenes = draw_scenes(60, seed=4)
    sound = render_sound(scenes, rate=16_000, seconds=2.0)
    assert sound.shape == (60, 32_000) and np.abs(sound).max() <= 1
    for row in np.flatnonzero(scenes.action == ACTIONS.index("grow"))[:4]:
        spectrum = np.abs(np.fft.rfft(sound[row].reshape(20, 1600) * np.hanning(1600), axis=1))
        pitch = spectrum.argmax(1) * 10
        steps = np.diff(pitch)
        assert (steps >= -10).sum() >= 17  # it falls but where it begins anew
        assert pitch.max() > 1.5 * pitch.min()
    hop = PHASES.index("hop")
    for row in np.flatnonzero(scenes.action == ACTIONS.index("bounce"))[:4]:
        phase = scenes.start[row, hop] + scenes.rate[row, hop] * np.arange(32_000) / 16_000
        landed = np.flatnonzero(np.diff(np.floor(phase)) > 0)
        loud = np.abs(sound[row])
        after = np.mean([loud[t : t + 800].max() for t in landed if t < 31_000])
        before = np.mean([loud[max(t - 800, 0) : t].max() for t in landed if t > 800])
        assert after > 1.5 * before


def test_files_are_written_once_decode_to_what_was_drawn_and_say_what_they_show(tmp_path):
    clips = embedded_videos(tmp_path, count=6, frames=8)
    frames, sound = decoded(clips[0].path)
    drawn = render_frames(draw_scenes(6, seed=0), size=64, frames=8, fps=16)[0]
    assert frames.shape == drawn.shape
    assert np.abs(frames.astype(int) - drawn).mean() < 5  # colour at half the resolution
    assert sound is not None and len(sound) >= 8000
    times = [c.path.stat().st_mtime_ns for c in clips]
    again = embedded_videos(tmp_path, count=6, frames=8)
    assert again == clips and [c.path.stat().st_mtime_ns for c in again] == times
    with av.open(str(clips[0].path)) as file:
        assert file.metadata["title"] == clips[0].caption
    assert sorted(c.action for c in clips) == sorted(ACTIONS)
    assert all(c.action in c.caption and c.colors[0] in c.caption.lower() for c in clips)


def test_the_same_seed_gives_the_same_bytes_and_splits_differ(tmp_path):
    first = embedded_videos(tmp_path / "a", count=2, frames=4)
    second = embedded_videos(tmp_path / "b", count=2, frames=4)
    assert [c.path.read_bytes() for c in first] == [c.path.read_bytes() for c in second]
    other = embedded_videos(tmp_path / "a", split="test", count=2, frames=4, rate=0)
    assert first[0].path.parent != other[0].path.parent
    assert first[0].path.read_bytes() != other[0].path.read_bytes()
    assert decoded(other[0].path)[1] is None


def test_a_folder_that_is_not_whole_is_written_again(tmp_path):
    clips = embedded_videos(tmp_path, count=2, frames=4)
    clips[1].path.unlink()
    assert all(c.path.is_file() for c in embedded_videos(tmp_path, count=2, frames=4))


def test_the_cache_lies_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("UNLABEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "x" / "unlabel"


def test_refuses_what_cannot_be_encoded(tmp_path):
    for wrong, said in (({"size": 63}, "even"), ({"fps": 0}, "at least 1"), ({"rate": 10}, "8000")):
        with pytest.raises(ValueError, match=said):
            embedded_videos(tmp_path, count=1, **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'train' or 'test'"):
        embedded_videos(tmp_path, split="dev")  # pyright: ignore[reportArgumentType]
    write_video(tmp_path / "silent.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8)
    assert decoded(tmp_path / "silent.mp4")[0].shape == (2, 16, 16, 3)


@pytest.mark.slow
def test_a_pixel_of_one_decoded_frame_tells_nothing_of_the_action(tmp_path):
    clips = embedded_videos(tmp_path, count=300, frames=8, rate=0)
    x = np.stack([decoded(c.path)[0][5, ::4, ::4].ravel() for c in clips]).astype(np.float32)
    label = np.array([c.label for c in clips])
    assert probe(x, label) < 1 / 6 + 4 * np.sqrt(1 / 6 * 5 / 6 / 150)
