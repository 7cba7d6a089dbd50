"""Actions: what clips are taken, what controls see, and the whole table from real files."""

import json

import numpy as np
import pytest
import torch

from unlabel.benchmarks import actions_data
from unlabel.benchmarks.actions import (
    bench_actions,
    evaluate_controls,
    kept_views,
    load_visual_encoder,
    trained_stride,
    video_features,
)
from unlabel.benchmarks.actions_data import (
    clip_places,
    control_features,
    frame_difference,
    load_actions,
    mean_pixels,
    middle_frame,
    motion_amount,
    read_views,
    scene_groups,
)
from unlabel.benchmarks.clip_pictures import neighbours_html
from unlabel.benchmarks.labelled import labelled
from unlabel.benchmarks.probes import probe_scores
from unlabel.data_pipes.synthetic_video import write_video
from unlabel.modalities.visual import VisualEncoder


def encoder(seed=0, frames=4):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16, "patch_size": 16}  # fmt: skip
    return VisualEncoder.from_config(sizes, frames=frames, size=32)


def dots(folder, count=24, frames=10):
    """Clips of a bright bar that moves left or right; four people, whose ground is their own."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 90, (4, 32, 48, 3))
    files, label, group = [], [], []
    for i in range(count):
        way, person, start = (-1, 1)[i % 2], (i // 2) % 4, int(rng.integers(48))
        clip = np.repeat(ground[person][None], frames, axis=0).astype(np.uint8)
        for t in range(frames):
            clip[t, :, (start + way * 3 * t + np.arange(6)) % 48] = 250
        files.append(folder / f"{i}.mp4")
        write_video(files[-1], clip, 10)
        label.append(("left", "right")[i % 2])
        group.append(f"p{person}")
    return labelled("bars", files, label, group=group)


def test_clips_lie_evenly_over_a_video_and_a_short_one_is_shown_once():
    places = np.stack(clip_places(20, frames=4, stride=2, clips=3))
    assert places.tolist() == [[0, 2, 4, 6], [6, 8, 10, 12], [13, 15, 17, 19]]
    assert clip_places(20, frames=4, stride=2, clips=1)[0].tolist() == [6, 8, 10, 12]
    assert [p.tolist() for p in clip_places(5, frames=4, stride=2, clips=3)] == [[0, 2, 4]]
    assert len(clip_places(7, frames=4, stride=2, clips=3)) == 1  # all would be the same


def test_controls_see_what_they_are_named_for():
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    frames[:, :, :, 0] = np.arange(5)[:, None, None] * 10
    np.testing.assert_allclose(mean_pixels(frames).reshape(3, 16, 16)[0], 20)
    np.testing.assert_allclose(frame_difference(frames), 2.99, rtol=1e-5)  # 10 x 0.299
    np.testing.assert_array_equal(frame_difference(frames[:1]), 0)
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    shown = middle_frame(noisy)
    assert shown.mean() == pytest.approx(0, abs=1e-5) and shown.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(
        shown, middle_frame(np.concatenate([noisy[3:], noisy[2:3], noisy[:2]]))
    )


def test_scenes_are_linked_by_likeness():
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(3, 1, 256))
    looks = [scenes[i % 3] * (1 + i) + 5 * i + 0.1 * rng.normal(size=(4, 256)) for i in range(9)]
    groups = scene_groups(looks)
    assert groups.tolist() == [groups[0], groups[1], groups[2]] * 3 and len(set(groups)) == 3


def test_what_is_read_is_the_middle_of_each_frame_and_read_once(tmp_path, monkeypatch):
    data = dots(tmp_path, count=8)
    views = read_views(data, frames=4, size=16, stride=2, clips=2)
    assert len(views) == 8 and views[0][0].shape == (4, 16, 16, 3) and len(views[0]) == 2
    reads = []
    real = actions_data.read_clip
    monkeypatch.setattr(actions_data, "read_clip", lambda *a, **k: reads.append(a) or real(*a, **k))
    read = kept_views(stride=1)
    read(data, encoder())
    read(data, encoder(1))
    assert len(reads) == 8


def test_one_frame_has_no_motion_and_a_video_is_the_mean_of_its_clips(tmp_path):
    data = dots(tmp_path, count=8)
    own = encoder()
    views = read_views(data, frames=4, size=32, stride=1, clips=2)
    found = video_features(own, views)
    each = np.stack([own.encode(video).mean(axis=0) for video in views])
    np.testing.assert_allclose(found, each, atol=1e-5)
    still = [[np.repeat(c[2:3], 4, axis=0) for c in video] for video in views]
    np.testing.assert_allclose(
        video_features(own, views, one_frame=True), video_features(own, still), atol=1e-5
    )
    assert np.abs(found - video_features(own, still)).max() > 1e-3


def test_a_run_is_probed_before_and_after_beside_its_controls(tmp_path):
    dots(tmp_path, count=16)
    table = "path,label,subject\n" + "\n".join(
        f"{i}.mp4,{('left', 'right')[i % 2]},p{(i // 2) % 4}" for i in range(16)
    )
    (tmp_path / "bars.csv").write_text(table + "\n")
    for seed in (0, 1):
        for name, first in (("untrained", 0), ("model", 10)):
            encoder(first + seed).save_pretrained(tmp_path / "run" / f"seed-{seed}" / name)
    run = tmp_path / "run"
    found = bench_actions(run, sets=(str(tmp_path / "bars.csv"),), bootstrap=20, probes=("1-NN",))
    names = ["untrained", "trained", "middle frame", "mean pixels", "frame difference"]
    names.append("motion amount")
    assert [e.name for e in found.encoders] == names
    saved = json.loads((run / "results" / "actions.json").read_text())
    rows = ["bars 1-NN", "bars R@1", "bars R@5", "bars R@10", "bars, one frame 1-NN"]
    assert list(saved["encoders"][0]["scores"]) == rows
    examples = json.loads((run / "results" / "actions_examples.json").read_text())
    assert set(examples["bars 0"]["encoders"]) == {"untrained", "trained"}
    page = neighbours_html(examples)
    assert page.count("<table>") == 4 and "data:image/png;base64," in page
    (run / "seed-0" / "run.json").write_text(json.dumps({"encoder": {"stride": 3}}))
    assert trained_stride(run) == 3 and trained_stride(tmp_path) == 1


def test_refuses_encoders_of_something_else_and_sets_that_are_not_there(tmp_path, monkeypatch):
    encoder().save_pretrained(tmp_path / "e")
    assert load_visual_encoder(tmp_path / "e").frames == 4
    (tmp_path / "e" / "unlabel.json").write_text('{"modality": "series"}')
    with pytest.raises(ValueError, match="an encoder of series"):
        load_visual_encoder(tmp_path / "e")
    monkeypatch.delenv("UNLABEL_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="no set weizmann9"):
        load_actions("weizmann9")
    with pytest.raises(FileNotFoundError, match="no folder of class folders"):
        load_actions(str(tmp_path / "nothing.csv"))


def test_a_broken_video_in_a_class_folder_is_left_out_and_named(tmp_path):
    for kind in ("left", "right"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
    data = dots(tmp_path, count=12)
    for file, kind in zip(data.sources, data.label, strict=True):
        file.rename(tmp_path / "mine" / str(kind) / file.name)
    torn = tmp_path / "mine" / "left" / "torn.mp4"
    torn.write_bytes(b"no video" * 100)
    read = load_actions(str(tmp_path / "mine"))
    assert len(read) == 12 and torn not in read.sources
    assert "1 of 13 files are broken and left out" in read.note and "torn.mp4" in read.note
    assert len(control_features(read)["mean pixels"]) == 12
    (tmp_path / "list.csv").write_text("path,label\nmine/left/torn.mp4,a\n")
    with pytest.raises(ValueError, match=r"No usable video among 1: .*torn\.mp4"):
        load_actions(str(tmp_path / "list.csv"))


def test_amount_of_motion_is_two_numbers_and_none_of_a_still():
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    assert np.allclose(motion_amount(frames), np.log(1e-3))
    frames[1::2] = 100  # all pixels by the same: no deviation
    assert np.allclose(motion_amount(frames), np.log([100.001, 1e-3]), atol=1e-3)
    assert np.allclose(motion_amount(frames[:1]), np.log(1e-3))


@pytest.mark.data
@pytest.mark.slow
def test_floors_of_weizmann_are_as_measured(data_folder):
    data = load_actions("weizmann9", data_folder / "video")
    assert data.split == "leave one group out" and len(data.folds) == 9
    found = {
        name: probe_scores(data, x, probes=("1-NN",), ks=(1,), bootstrap=0)
        for name, x in control_features(data).items()
    }
    assert found["middle frame"]["weizmann9 1-NN"].score == pytest.approx(57.8, abs=0.05)
    assert found["frame difference"]["weizmann9 R@1"].score == pytest.approx(79.5, abs=0.05)
    assert found["frame difference"]["weizmann9 1-NN"].score == pytest.approx(85.5, abs=0.05)


def test_the_middle_frame_of_embedded_videos_is_chance(tmp_path):
    from unlabel.data_pipes.synthetic_video import embedded_videos

    parts = {
        s: embedded_videos(tmp_path, split=s, count=72, frames=8, rate=0) for s in ("train", "test")
    }
    clips = [c for p in parts.values() for c in p]
    split = [s for s, p in parts.items() for _ in p]
    data = labelled("embedded", [c.path for c in clips], [c.action for c in clips], split=split)
    (middle, *_) = evaluate_controls([data], probes=("5-NN",), bootstrap=0)
    score = middle.encoders[0].scores["embedded 5-NN"].score
    assert score < 100 * (1 / 6 + 4 * np.sqrt(1 / 6 * 5 / 6 / 72))
