import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from unlabel.data_pipes.media import Media, examine
from unlabel.data_pipes.sandbox import Sandbox
from unlabel.data_pipes.scan import read_manifest, scan, scan_files, write_manifest
from unlabel.data_pipes.video import read_clip
from unlabel.data_pipes.videos import read_videos

from .conftest import numbered, write_video, write_wave


def test_a_whole_video_has_its_true_count_rate_and_size(tmp_path):
    media = examine(write_video(tmp_path / "x.mp4", numbered(33), rate=20))
    assert (media.kind, media.frames, media.fps, media.fault) == ("video", 33, 20.0, "")
    assert (media.rows, media.columns, media.codec, media.stamps) == (48, 64, "h264", None)
    assert media.seconds == pytest.approx(1.65)
    assert media.unchanged()


def test_a_whole_video_of_variable_rate_is_not_said_to_be_cut(tmp_path):
    times = [0, 0.04, 0.08, 0.5, 1.0, 1.04, 2.0, 2.04]
    assert not examine(write_video(tmp_path / "a.mkv", numbered(8), times=times)).cut


def test_a_whole_video_that_begins_late_is_not_said_to_be_cut(tmp_path):
    times = [3 + i / 25 for i in range(30)]
    media = examine(write_video(tmp_path / "a.mkv", numbered(30), times=times))
    assert (media.frames, media.cut) == (30, False) and 30 <= media.header <= 31


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_a_name_that_is_no_utf_8_costs_no_manifest(tmp_path, kind):
    name = os.fsdecode(b"\xff")
    write_video(tmp_path / "good.mp4", numbered(3)).rename(tmp_path / f"{name}.mp4")
    write_wave(tmp_path / "good.wav", np.zeros(800)).rename(tmp_path / f"{name}.wav")
    found = scan(str(tmp_path), output=str(tmp_path / f"m.{kind}"), quiet=True)
    assert [(m.frames, m.fault) for m in found] == [(3, ""), (800, "")]
    assert [m.frames for m in read_manifest(tmp_path / f"m.{kind}")] == [3, 800]
    (item,) = read_videos(tmp_path)
    assert item.name == f"{tmp_path}/\\udcff.mp4" and len(read_clip(item.source)) == 3


def test_a_variable_rate_keeps_its_time_stamps(tmp_path):
    times = [0, 0.1, 0.2, 1.0, 1.1, 3.0]
    media = examine(write_video(tmp_path / "x.mkv", numbered(6), times=times))
    assert media.times.tolist() == pytest.approx(times)
    assert media.fps == pytest.approx(5 / 3)


def test_what_is_wrong_is_named_and_nothing_is_raised(tmp_path):
    good = write_video(tmp_path / "good.mp4", numbered(60))
    content = good.read_bytes()
    files = {
        "empty.mp4": (b"", "the file is empty"),
        "text.mp4": (b"no video at all\n" * 50, "Invalid data"),
        "cut.mp4": (content[: len(content) * 2 // 3], "Invalid data"),
    }
    for name, (data, fault) in files.items():
        (tmp_path / name).write_bytes(data)
        assert fault in examine(tmp_path / name).fault
    cut = examine(tmp_path / "cut.mp4")
    assert 0 < cut.frames < 60 == cut.header
    assert "no such file" in examine(tmp_path / "none.mp4").fault
    from PIL import Image

    Image.fromarray(numbered(1)[0]).save(tmp_path / "picture.jpg")
    (tmp_path / "picture.jpg").rename(tmp_path / "picture.mp4")
    assert "it is a picture" in examine(tmp_path / "picture.mp4").fault


def test_a_file_cut_between_frames_is_whole_but_marked_as_cut(tmp_path):
    good = write_video(tmp_path / "x.mkv", numbered(100), options={"g": "10"})
    whole = examine(good)
    (tmp_path / "y.mkv").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    media = examine(tmp_path / "y.mkv")
    assert not whole.cut
    assert media.frames < 60
    assert media.cut or media.fault


def test_one_lost_frame_of_an_avi_is_found(tmp_path):
    """decord lets it pass at `fault_tol=1`, shifts what follows and copies the last frame."""
    import av

    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / "x.avi", noise, codec="mpeg4", options={"g": "30"})
    with av.open(str(path)) as file:
        packet = next(bytes(p) for i, p in enumerate(file.demux(video=0)) if i == 40)
    content = bytearray(path.read_bytes())
    at = content.find(packet)
    content[at : at + len(packet)] = bytes(len(packet))
    path.write_bytes(content)
    media = examine(path)
    assert media.fault
    assert media.frames <= 40
    from unlabel.data_pipes.faults import DecodeError
    from unlabel.data_pipes.video import read_clip

    for backend in ("av", "decord"):
        with pytest.raises(DecodeError):
            read_clip(path, range(35, 60), backend=backend)


def test_a_hole_of_zeros_is_found_and_the_frames_around_it_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / "x.mp4", noise, options={"x264-params": "keyint=20"})
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 800] = bytes(800)
    path.write_bytes(content)
    media = examine(path)
    assert media.fault
    assert media.frames < 33
    from unlabel.data_pipes.faults import DecodeError
    from unlabel.data_pipes.video import read_clip

    assert len(read_clip(path, range(media.frames))) == media.frames
    with pytest.raises(DecodeError, match=r"damaged|Invalid"):
        read_clip(path, range(60))


def test_pictures_and_sounds_are_examined_too(tmp_path):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(numbered(1)[0]).save(buffer, "png")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (tmp_path / "b.png").write_bytes(buffer.getvalue()[:60])
    write_wave(tmp_path / "c.wav", np.zeros(800), rate=8000)
    found = {Path(m.path).name: m for m in scan(str(tmp_path), quiet=True)}
    assert (found["a.png"].kind, found["a.png"].frames, found["a.png"].fault) == ("picture", 1, "")
    assert found["b.png"].fault
    assert (found["c.wav"].kind, found["c.wav"].frames, found["c.wav"].fps) == ("sound", 800, 8000)


WORKER = """
import json, os, sys, time
print(flush=True)
for line in sys.stdin:
    name = json.loads(line)[0]
    if "crash" in name:
        os.abort()
    if "hang" in name:
        time.sleep(60)
    if "slow" in name:
        for _ in range(5):
            time.sleep(0.15)
            print(flush=True)
    print(json.dumps({"path": name, "frames": 7}), flush=True)
"""


def test_crashes_and_hangs_are_contained_named_and_the_next_file_is_read(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    box = Sandbox(patience=0.5, command=[sys.executable, str(tmp_path / "worker.py")])
    try:
        assert box.examine("a.mp4").frames == 7
        assert box.examine("crash.mp4").fault == "the decoder crashed (signal 6)"
        assert box.examine("b.mp4").fault == ""
        assert box.examine("hang.mp4").fault == "the decoder gave no frame for 0.5 s"
        # Slower than the patience in all, but never silent for that long.
        assert box.examine("slow.mp4").frames == 7
    finally:
        box.close()


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_manifest_gives_back_what_was_written(tmp_path, suffix):
    found = [Media("a.mp4", frames=3, stamps=(0.0, 0.5, 0.6)), Media("b.mp4", fault="empty")]
    write_manifest(tmp_path / f"m{suffix}", found)
    assert read_manifest(tmp_path / f"m{suffix}") == found
    assert read_manifest(tmp_path / f"none{suffix}") == []
    (tmp_path / f"m{suffix}").write_bytes(b"{")
    assert read_manifest(tmp_path / f"m{suffix}") == []


def test_files_that_did_not_change_are_not_decoded_again(tmp_path, monkeypatch):
    from unlabel.data_pipes import scan as module

    asked = []
    real = module.examine_all
    monkeypatch.setattr(
        module,
        "examine_all",
        lambda paths, *a, **k: asked.append(len(paths)) or real(paths, *a, **k),
    )
    paths = [write_video(tmp_path / f"{i}.mp4", numbered(5 + i)) for i in range(2)]
    first = scan_files(paths, tmp_path / "m.json")
    again = scan_files(paths, tmp_path / "m.json")
    assert first == again
    write_video(paths[1], numbered(9))
    assert [m.frames for m in scan_files(paths, tmp_path / "m.json")] == [5, 9]
    assert asked == [2, 0, 1]


def test_the_table_names_bad_files_and_their_reasons(tmp_path, capsys):
    write_video(tmp_path / "data" / "good.mp4", numbered(5))
    (tmp_path / "data" / "bad.mp4").write_bytes(b"")
    scan(str(tmp_path / "data"), output=str(tmp_path / "m.json"))
    printed = capsys.readouterr().out
    assert "2 files, 1 bad" in printed
    assert "bad.mp4" in printed
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["bad.mp4", "good.mp4"]
    with pytest.raises(ValueError, match=r"parquet or \.json"):
        scan(str(tmp_path), output="m.txt")
    with pytest.raises(FileNotFoundError):
        scan(str(tmp_path / "none"), quiet=True)
