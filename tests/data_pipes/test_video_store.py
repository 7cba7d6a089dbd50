import gzip
import json
import logging
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from unlabel.data_pipes.audio_store import read_audio
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.frame_cache import FrameCache
from unlabel.data_pipes.frame_store import FrameStore
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.video_windows import (
    Sampling,
    even_start,
    motion_start,
    spread_out,
    window,
)
from unlabel.data_pipes.videos import read_frames, read_videos

from .conftest import numbered, places_in, write_video


@pytest.fixture(scope="module")
def data(folder_of_videos):
    return read_videos(folder_of_videos)


def _as_is(sample: dict) -> dict:
    return sample


def same(a: dict, b: dict) -> bool:
    return a["index"] == b["index"] and np.array_equal(a["frames"], b["frames"])


def test_clips_by_motion_lie_where_it_moves_and_not_where_it_flickers(tmp_path):
    ground = np.random.default_rng(0).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    still = np.kron(ground, np.ones((8, 8, 1), np.uint8))  # squares of 8 x 8
    flicker = [still // (1 + place % 2) for place in range(20)]
    moves = [np.roll(still, 2 * place, axis=1) for place in range(20)]
    path = write_video(tmp_path / "x.mp4", np.stack(flicker + moves), options={"crf": "10"})
    store = VideoStore([path], size=(48, 64), frames=4, start="motion")
    starts = [round(25 * float(store[i]["times"][0])) for i in range(100)]
    assert np.mean(np.array(starts) > 16) > 0.75


def test_a_clip_of_a_rate_goes_by_the_clock_where_the_file_has_no_constant_rate(tmp_path):
    stamps = np.concatenate([np.arange(20) * 0.04, 1 + np.arange(10) * 0.5])
    path = write_video(tmp_path / "x.mkv", numbered(30), times=stamps.tolist())
    shown = lambda seconds: np.searchsorted(stamps, seconds + 1e-3, side="right") - 1  # noqa: E731
    rates: list[dict[str, Any]] = [{"fps": 2.0}, {"duration": 2.0}]
    for how in rates:
        evenly = VideoStore([path], size=(48, 64), frames=4, hop=1.0, **how)
        assert len(evenly) == 5
        for place, clip in enumerate(evenly):
            expected = shown(place + 0.5 * np.arange(4)).tolist()
            assert places_in(clip["frames"]) == expected
        drawn = VideoStore([path], size=(48, 64), frames=4, **how)
        for clip in (drawn[ordinal] for ordinal in range(20)):
            since = clip["times"] - clip["times"][0] - 0.5 * np.arange(4)
            assert len(since) == 4 and np.abs(since).max() < 0.5
    late = pd.DataFrame([{"path": str(path), "start": 1.0, "end": 4.0}])
    (item,) = read_videos(late)
    assert (len(item), item.fps) == (6, pytest.approx(2.0))
    places = item.clip(Sampling(4, fps=1.0), 0).tolist()
    assert places == [0, 2, 4] and item.clip(Sampling(4, stride=1), 2).tolist() == [2, 3, 4, 5]


# -- arithmetic -----------------------------------------------------------------------------------


def test_windows_respect_stride_rate_and_duration():
    assert window(Sampling(4, stride=3), 2, 30, 25).tolist() == [2, 5, 8, 11]
    assert window(Sampling(4, fps=10), 0, 30, 25).tolist() == [0, 2, 5, 7]
    assert window(Sampling(4, fps=10), 0, 99, 30).tolist() == [0, 3, 6, 9]
    assert window(Sampling(5, duration=2.0), 0, 99, 30).tolist() == [0, 12, 24, 36, 48]
    assert Sampling(4, fps=10).span(25) == 8.5
    assert [Sampling(4, fps=10).fits(count, 25) for count in (8, 9)] == [False, True]
    # A rate above the video's repeats frames.
    assert window(Sampling(4, fps=50), 0, 9, 25).tolist() == [0, 0, 1, 1]


def test_a_short_video_gives_what_it_has_or_starts_again():
    assert window(Sampling(5, stride=2), 0, 6, 25).tolist() == [0, 2, 4]
    assert window(Sampling(5, stride=2, short="loop"), 0, 6, 25).tolist() == [0, 2, 4, 0, 2]


def test_uniform_places_lie_one_in_each_part():
    assert spread_out(4, 40).tolist() == [5, 15, 25, 35]
    assert spread_out(4, 40, np.array([0, 0.99, 0, 0.99])).tolist() == [0, 19, 20, 39]
    assert spread_out(4, 2).tolist() == [0, 0, 1, 1]


def test_even_clips_reach_from_the_first_frame_to_the_last():
    assert [even_start(k, 3, 20) for k in range(3)] == [0, 10, 20]
    assert even_start(0, 1, 20) == 10
    assert even_start(1, 3, -4) == 0


def test_windows_are_drawn_in_proportion_to_their_motion():
    motion = np.array([0, 0, 3, 0, 1, 0, 0, 0], np.float32)
    # Windows of two frames hold one change each: starts 2 and 4 have 3 and 1 of 4.
    starts = [motion_start(motion, 2, chance) for chance in np.linspace(0, 0.9999, 400)]
    assert np.bincount(starts, minlength=7)[[2, 4]].tolist() == pytest.approx([300, 100], abs=2)
    assert motion_start(motion, 9, 0.5) == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stride": 2, "fps": 5}, "one of stride, fps and duration"),
        ({"frames": 0}, "above 0"),
        ({"start": "best"}, "start is one of"),
        ({"spread": "uniform", "stride": 2}, "no step"),
    ],
)
def test_sampling_refuses_what_does_not_go_together(wrong, said):
    with pytest.raises(ValueError, match=said):
        Sampling(**wrong)


# -- reading --------------------------------------------------------------------------------------


def test_folders_are_classes_and_what_is_broken_is_left_out_and_named(tmp_path):
    write_video(tmp_path / "a" / "x.mp4", numbered(9))
    write_video(tmp_path / "b" / "y.mp4", numbered(9))
    (tmp_path / "b" / "bad.mp4").write_bytes(b"")
    (tmp_path / "b" / "notes.txt").write_text("no video")
    data = read_videos(tmp_path)
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [0, 1])
    assert list(data.report.broken.values()) == ["the file is empty"]
    assert (data.report.lines, data.report.kept, data.report.dropped) == (3, 2, {"broken": 1})
    assert "1 broken, left out" in data.summary()
    assert "bad.mp4: the file is empty" in data.summary()
    with pytest.raises(ValueError, match=r"No usable video among 1: .*bad.mp4: the file is empty"):
        read_videos([tmp_path / "b" / "bad.mp4"])
    with pytest.raises(FileNotFoundError):
        read_videos(tmp_path / "none")


def test_a_damaged_file_is_left_out_or_used_up_to_its_damage(tmp_path):
    content = write_video(tmp_path / "x.mp4", numbered(100), options={"g": "10"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 4 // 5])
    data = read_videos(tmp_path)
    assert [item.name.endswith("x.mp4") for item in data] == [True]
    assert "whole frames before" in next(iter(data.report.broken.values()))
    used = read_videos(tmp_path, damaged="use")
    cut = used[0]
    assert 0 < len(cut) < 100
    store = VideoStore(used, size=(48, 64), frames=len(cut), start="even")
    assert places_in(store[0]["frames"]) == list(range(len(cut)))
    assert not store.lost


def test_a_list_names_parts_in_seconds_labels_and_further_columns(tmp_path):
    write_video(tmp_path / "v" / "x.mp4", numbered(50))
    (tmp_path / "list.csv").write_text(
        "path,label,start,end,subject\nv/x.mp4,run,0.4,0.8,007\nv/x.mp4,walk,1.0,,008\n"
    )
    data = read_videos(tmp_path / "list.csv")
    assert [(i.first, i.last) for i in data] == [(10, 20), (25, 50)]
    assert (data.classes, data.column("subject")) == (("run", "walk"), ["007", "008"])
    store = VideoStore(data, size=(48, 64), frames=30, start="even")
    assert places_in(store[0]["frames"]) == list(range(10, 20))
    assert store[1]["times"][[0, -1]].tolist() == pytest.approx([1.0, 1.96])
    with pytest.raises(ValueError, match="no column 'film'"):
        read_videos(tmp_path / "list.csv", path_column="film")
    (tmp_path / "late.csv").write_text("path,start\nv/x.mp4,9\n")
    with pytest.raises(ValueError, match=r"holds no frame of 2.00 s"):
        read_videos(tmp_path / "late.csv")


def test_rows_in_memory_name_parts_and_labels_as_those_of_a_list(tmp_path):
    import datasets

    path = str(write_video(tmp_path / "x.mp4", numbered(48)))
    rows = [{"video": path, "label": c, "start": s} for c, s in (("a", None), ("b", 1.0))]
    made = datasets.Dataset.from_list(rows).cast_column("video", datasets.Video())
    from_rows = read_videos(rows, path_column="video")
    for data in (from_rows, read_videos(made), read_videos(made, start_column="start")):
        assert data.classes == ("a", "b") and [i.label for i in data] == [0, 1]
        assert len(data[1]) == len(data[0]) - data[1].first < len(data[0])
    with pytest.raises(ValueError, match="no column 'from'; it has video, label, start"):
        read_videos(made, start_column="from")
    with pytest.raises(ValueError, match="Views are told apart in a table"):
        read_videos(made, view_column="label")


def test_lists_as_other_programs_write_them(tmp_path):
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v" / "x ü.mp4", numbered(8))
    rows = "path;label\r\nv/x ü.mp4;one\r\n;two\r\nv/none.mp4;two\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "list.csv").write_bytes(rows.encode(encoding))
        data = read_videos(tmp_path / "list.csv")
        assert [item.name for item in data.items] == [str(tmp_path / "v" / "x ü.mp4")]
        empty = f"{tmp_path / 'list.csv'}, line 3"
        assert data.report.broken[empty] == "it names no file"
        assert data.report.dropped == {"broken": 2}
    for content in (b"", "größe\n1\n".encode("latin-1"), b"path,label\na,b,c,d\n"):
        (tmp_path / "bad.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.csv cannot be read as a list: "):
            read_videos(tmp_path / "bad.csv")
    rows = [{"path": "v/x ü.mp4", "label": "one", "shot": 7}, {"path": "v/none.mp4"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress("path,shot\nv/x ü.mp4,7\n".encode()))
    for name in ("list.jsonl", "list.csv.gz"):
        (item,) = read_videos(tmp_path / name)
        assert item.source == tmp_path / "v" / "x ü.mp4" and int(item.row["shot"]) == 7
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read as a list: "):
        read_videos(tmp_path / "bad.parquet")


def test_what_is_missing_is_told_in_the_words_of_the_kind(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"video is read from \.mp4, .*\.gif\.$"):
        read_videos(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"sound is read from \.wav, .*\.wma\.$"):
        read_audio(tmp_path)


def test_file_names_give_labels_and_columns_by_a_pattern(folder_of_videos):
    data = read_videos(folder_of_videos, pattern="^(?P<label>x|y|short)(?P<rest>.)")
    assert (data.classes, data.column("rest")) == (("short", "x", "y"), ["."] * 4)
    with pytest.raises(ValueError, match="does not fit"):
        read_videos(folder_of_videos, pattern="^(?P<label>x)")


def test_sources_in_memory_are_videos_too(tmp_path):
    import datasets

    content = write_video(tmp_path / "x.mp4", numbered(12)).read_bytes()
    for source in (
        [content, {"bytes": content, "path": None}],
        np.stack([numbered(12)] * 2),
        datasets.Dataset.from_dict({"video": [str(tmp_path / "x.mp4")] * 2, "label": ["a", "b"]})
        .cast_column("video", datasets.Video())
        .class_encode_column("label"),
    ):
        data = read_videos(source)
        assert [len(i) for i in data] == [12, 12]
        store = VideoStore(data, size=(48, 64), frames=12)
        assert places_in(store[1]["frames"]) == list(range(12))
    assert store[1]["label"] == 1
    with pytest.raises(ValueError, match="No usable"):
        read_videos([b"nonsense"])


# -- the store ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 8},
        {"frames": 8, "clips": 3, "start": "even"},
        {"frames": 8, "fps": 10, "short": "loop"},
        {"frames": 6, "spread": "uniform"},
        {"frames": 8, "start": "motion"},
        {"frames": 4, "hop": 0.4, "pair": (0.2, 0.5)},
    ],
)
def test_a_sample_is_the_same_with_and_without_cache_and_in_workers(data, options):
    store = VideoStore(data, size=24, seed=5, **options)
    bare = VideoStore(data, size=24, seed=5, cache_bytes=0, **options)
    copy = pickle.loads(pickle.dumps(store))
    order = [*range(len(store)), 2 * len(store) + 1]
    expected = [store[i] for i in order]
    for other in (bare, copy):
        assert all(
            same(other[i], e) for i, e in zip(reversed(order), reversed(expected), strict=True)
        )
    about = {"sampler": order, "batch_size": None, "num_workers": 2, "collate_fn": lambda x: x}
    loader = DataLoader(store, **about)  # pyright: ignore[reportArgumentType]
    assert all(same(a, b) for a, b in zip(loader, expected, strict=True))


def test_another_seed_or_epoch_draws_other_clips(data):
    a, b = (VideoStore(data, size=(48, 64), frames=4, seed=s) for s in (0, 1))
    starts = lambda store, epoch: [  # noqa: E731
        places_in(store[epoch * 4 + i]["frames"])[0] for i in range(4)
    ]
    assert starts(a, 0) == starts(a, 0)
    assert starts(a, 0) != starts(a, 1)
    assert starts(a, 0) != starts(b, 0)
    assert a[4 * 7 + 2]["index"] == 2
    with pytest.raises(IndexError, match="0 or more"):
        a[-1]


def test_random_clips_reach_both_ends_and_stay_inside(folder_of_videos):
    store = VideoStore([folder_of_videos / "a" / "x.mp4"], size=(48, 64), frames=27)
    starts = {places_in(store[i]["frames"])[0] for i in range(60)}
    assert starts == {0, 1, 2, 3}


def test_hop_gives_long_videos_more_clips(data):
    # 30, 40, 8 and 50 frames at 25 a second, clips of 8 frames every 10 frames.
    store = VideoStore(data, size=(48, 64), frames=8, hop=0.4)
    assert [i.name.split("/")[-1] for i in data] == ["x.mp4", "y.mp4", "short.mp4", "x.mp4"]
    assert np.bincount([store._locate(i)[0] for i in range(len(store))]).tolist() == [3, 4, 1, 5]
    assert [places_in(store[i]["frames"])[0] for i in range(3)] == [0, 10, 20]
    assert store.labels.tolist() == [0] * 7 + [1] * 6
    assert len(store.lengths) == 13


def test_short_videos_are_padded_looped_or_left_out(data):
    padded = VideoStore(data, size=24, frames=16)
    assert padded[2]["frames"].shape == (8, 24, 24, 3)
    assert "1 videos shorter than a clip padded" in padded.summary()
    assert VideoStore(data, size=24, frames=16, short="loop")[2]["frames"].shape[0] == 16
    left_out = VideoStore(data, size=24, frames=16, short="skip")
    assert len(left_out) == 3
    assert "short.mp4" in left_out.too_short[0]
    with pytest.raises(ValueError, match="the longest of 4 videos, 50"):
        VideoStore(data, size=24, frames=60, short="skip")


def test_frames_cover_the_size_and_are_cut_at_the_centre(tmp_path):
    frames = np.zeros((3, 48, 96, 3), np.uint8)
    frames[:, :, 24:72] = 200  # the middle half is bright
    path = write_video(tmp_path / "x.mp4", frames)
    cover = VideoStore([path], size=24, frames=2)[0]["frames"]
    stretch = VideoStore([path], size=24, frames=2, fit="stretch")[0]["frames"]
    assert cover.shape == stretch.shape == (2, 24, 24, 3)
    assert cover[:, :, 1:-1].min() > 150
    assert stretch[:, :, :4].max() < 50 < 150 < stretch[:, :, 10:14].min()


def test_a_file_that_goes_bad_is_replaced_counted_and_named(tmp_path, caplog):
    for name, count in (("a", 20), ("b", 21), ("c", 22)):
        write_video(tmp_path / f"{name}.mp4", numbered(count))
    store = VideoStore(read_videos(tmp_path), size=24, frames=4)
    healthy = [store[i]["index"] for i in (0, 2)]
    assert healthy == [0, 2]
    (tmp_path / "b.mp4").write_bytes(b"overwritten")
    with caplog.at_level(logging.WARNING):
        first = [store[i] for i in range(1, 30, 3)]
    assert all(s["index"] in (0, 2) for s in first)
    assert caplog.text.count("it changed since it was examined") == 1
    assert [name[-5:] for name in store.lost] == ["b.mp4"]
    assert "1 went bad during the run" in store.summary()
    assert pickle.loads(pickle.dumps(store)).lost == store.lost  # workers share it
    # What was decoded before is still served from the cache.
    (tmp_path / "a.mp4").unlink()
    assert store[3]["index"] == 0


def test_a_run_without_a_readable_file_ends_with_an_error(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(9))
    store = VideoStore(read_videos([path]), size=24, frames=4)
    path.unlink()
    with pytest.raises(DecodeError, match="all bad"):
        store[0]


def test_the_cache_is_bounded_and_can_be_kept(data, tmp_path):
    sizes = [24 * 24 * 3 * n for n in (30, 40, 8, 50)]
    store = VideoStore(data, size=24, frames=4, cache_bytes=sizes[0] + sizes[2])
    for i in range(4):
        store[i]
    assert store._frames.cache.held == sizes[0] + sizes[2]  # 40 and 50 frames had no room
    kept = VideoStore(data, size=24, frames=4, cache=tmp_path / "kept")
    expected = [kept[i] for i in range(4)]
    again = VideoStore(data, size=24, frames=4, cache=tmp_path / "kept")
    assert again._frames.cache.held == sum(sizes)
    assert all(same(again[i], e) for i, e in enumerate(expected))
    other = VideoStore(data, size=20, frames=4, cache=tmp_path / "kept")
    assert other._frames.cache.held == 0
    assert other[0]["frames"].shape == (4, 20, 20, 3)


def test_a_temporary_cache_goes_with_its_store(data):
    store = VideoStore(data, size=24, frames=4)
    folder = store._frames.cache.folder
    assert folder.exists()
    del store
    assert not folder.exists()


def test_a_cache_of_nothing_holds_nothing():
    cache = FrameCache([3], (2, 2, 3), limit=0)
    assert 0 not in cache
    assert cache.get(0) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 0}, "size is at least 1"),
        ({"clips": 0}, "clips is at least 1"),
        ({"hop": 0}, "hop is in seconds"),
        ({"fit": "crop"}, "cover' or 'stretch"),
        ({"view": True}, "several cameras"),
        ({"sound": 16000}, "with a sound track"),
        ({"pair": (2, 1)}, r"\(least, most\)"),
        ({"flow": 8, "frames": 1}, "between frames"),
    ],
)
def test_the_store_refuses_what_does_not_go_together(data, wrong, said):
    with pytest.raises(ValueError, match=said):
        VideoStore(data, **wrong)


# -- partners -------------------------------------------------------------------------------------


def test_views_of_one_take_are_partners_at_the_same_times(tmp_path):
    lines = ["path,take,view"]
    for take in (1, 2):
        for view, rate in (("left", 25), ("right", 50)):
            name = f"{take}{view}.mp4"
            write_video(tmp_path / name, numbered(20 * rate // 25), rate=rate)
            lines.append(f"{name},{take},{view}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    data = read_videos(tmp_path / "pairs.csv")
    assert [i.partners for i in data] == [(1,), (0,), (3,), (2,)]
    store = VideoStore(data, size=(48, 64), frames=5, view=True)
    for index, factor in ((0, 2), (1, 0.5), (2, 2)):
        sample = store[index]
        mine, theirs = (
            places_in(f) for f in (sample["frames"], sample["partners"]["view"]["frames"])
        )
        assert theirs == [int(factor * p) for p in mine]
    assert data.part([0, 1, 2])[2].partners == ()


def test_a_pair_of_clips_lies_as_far_apart_as_asked(folder_of_videos):
    store = VideoStore([folder_of_videos / "b" / "x.mp4"], size=(48, 64), frames=4, pair=(0.4, 0.8))
    for ordinal in range(30):
        sample = store[ordinal]
        a, b = places_in(sample["frames"]), places_in(sample["partners"]["clip"]["frames"])
        assert 9 <= abs(a[0] - b[0]) <= 20
        assert len(b) == 4


def test_the_sound_of_a_clip_is_of_its_own_seconds(tmp_path):
    seconds = np.arange(32000) / 16000
    # One tone in the first second, another in the second one.
    tone = 0.5 * np.sin(2 * np.pi * np.where(seconds < 1, 400, 1600) * seconds)
    write_video(tmp_path / "x.mp4", numbered(50), sound=tone)
    store = VideoStore(tmp_path, size=24, frames=10, sound=8000, clips=2, start="even")
    for index, pitch in ((0, 400), (1, 1600)):
        waveform = store[index]["partners"]["sound"]["waveform"]
        assert waveform.shape == (3200,)
        spectrum = np.abs(np.fft.rfft(waveform))
        assert spectrum.argmax() * 8000 / 3200 == pytest.approx(pitch, abs=10)


# -- pictures -------------------------------------------------------------------------------------


def test_pictures_and_frames_of_videos_are_clips_of_one_frame(tmp_path, data):
    for place, frame in enumerate(numbered(3)):
        (tmp_path / "cats").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "cats" / f"{place}.png")
    store = FrameStore(tmp_path, size=(48, 64))
    assert [places_in(store[i]["frames"]) for i in range(3)] == [[0], [1], [2]]
    assert (store.classes, store[0]["label"]) == (("cats",), 0)
    assert "3 pictures, 64x48" in store.summary()
    frames = FrameStore(data, size=(48, 64), hop=0.4)
    assert [places_in(frames[i]["frames"])[0] for i in range(4)] == [0, 10, 20, 0]
    assert len(read_frames(tmp_path, pattern="(?P<number>[0-9])").column("number")) == 3


def test_a_folder_of_frames_is_one_video(tmp_path):
    for name in ("cow", "dog"):
        (tmp_path / name).mkdir()
        for place, frame in enumerate(numbered(6)):
            Image.fromarray(frame).save(tmp_path / name / f"{place:05}.png")
    data = read_videos(tmp_path)
    assert [len(i) for i in data] == [6, 6]
    assert places_in(VideoStore(data, size=(48, 64), frames=6)[1]["frames"]) == list(range(6))
