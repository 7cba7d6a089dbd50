"""The sound of clips out of the tracks of their videos: decoded once, and broken ones."""

import av
import numpy as np
import pandas as pd
import pytest

from unlabel.data_pipes import audio, waveforms
from unlabel.data_pipes.audio import read_waveform
from unlabel.data_pipes.report import NothingUsable
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.videos import read_videos

from .conftest import numbered, write_video, write_wave

TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)


def break_track(path) -> None:
    """Overwrite some packets of sound; the pictures stay whole."""
    with av.open(str(path)) as file:
        found = file.demux(file.streams.audio[0])
        packets = [(p.pos, p.size) for p in found if p.size and p.pos is not None]
    content = bytearray(path.read_bytes())
    for begin, size in packets[3:6]:
        content[begin : begin + size] = b"\xff" * size
    path.write_bytes(content)


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """What is decoded for its sound by the process of the run."""
    met, real = [], waveforms.read_waveform
    monkeypatch.setattr(
        waveforms, "read_waveform", lambda s, **how: met.append(str(s)) or real(s, **how)
    )
    return met


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", numbered(50), sound=TONE)
    return tmp_path


def test_a_track_is_decoded_once_for_all_its_clips_and_parts(folder, reads):
    rows = [("a.mp4", 0, 1), ("a.mp4", 1, 2), ("b.mp4", 0, 2)]
    pd.DataFrame(rows, columns=["path", "start", "end"]).to_csv(folder / "list.csv", index=False)
    data = read_videos(folder / "list.csv", manifest=folder / "media.json")
    store = VideoStore(data, size=24, frames=5, sound=16000, clips=3)
    for ordinal in range(len(store) * 3):
        sample = store[ordinal]
        begin = float(sample["times"][0])
        video = store.sources[sample["index"]].source
        heard, _ = read_waveform(video, start=begin, seconds=0.2)
        np.testing.assert_array_equal(sample["partners"]["sound"]["waveform"], heard)
    assert sorted(reads) == [str(folder / "a.mp4"), str(folder / "b.mp4")]
    assert store._frames.cache.room == 2 * 50 * 24 * 24 * 3


def test_where_there_is_no_room_the_part_of_the_clip_alone_is_held(folder, reads):
    kept, none = (
        VideoStore(folder, size=24, frames=5, sound=16000, cache_bytes=room)
        for room in (1 << 30, 0)
    )
    for ordinal in range(4):
        one, other = (store[ordinal]["partners"]["sound"]["waveform"] for store in (kept, none))
        np.testing.assert_array_equal(one, other)
    assert len(reads) == 2 + 4
    assert none._sound is not None and none._sound.room == 0
    # What is kept of both, pictures and sound, is within the limit.
    tight = VideoStore(folder, size=24, frames=5, sound=16000, cache_bytes=3 << 17)
    assert tight._sound is not None and tight._sound.room > 0
    assert tight._sound.room + tight._frames.cache.room <= 3 << 17


def test_a_broken_track_and_none_at_all_leave_their_videos_out_and_are_named(folder):
    write_video(folder / "broken.mp4", numbered(50), sound=TONE)
    break_track(folder / "broken.mp4")
    write_video(folder / "silent.mp4", numbered(50))
    store = VideoStore(folder, size=24, frames=5, sound=16000)
    assert len(store) == 2
    why = {name.rpartition("/")[2]: said for name, said in store.unheard.items()}
    assert why["silent.mp4"] == "it has no sound track" and "occurred" in why["broken.mp4"]
    assert "2 without sound left out" in store.summary()
    assert len(VideoStore(folder, size=24, frames=5)) == 4  # the pictures of all are whole
    for name in ("a", "b"):
        break_track(folder / f"{name}.mp4")
    with pytest.raises(ValueError, match=r"of 4 none has one \(.*a.mp4: .*occurred"):
        VideoStore(folder, size=24, frames=5, sound=16000)
    (folder / "a.mp4").write_bytes(b"")
    with pytest.raises(NothingUsable):
        VideoStore([folder / "a.mp4"], sound=16000)


def test_a_track_that_goes_bad_during_the_run_is_told_once_and_another_clip_drawn(folder, caplog):
    store = VideoStore(folder, size=24, frames=5, sound=16000)
    (folder / "a.mp4").unlink()
    assert {store[ordinal]["index"] for ordinal in range(20)} == {1}
    assert store.lost == [str(folder / "a.mp4")]
    assert caplog.text.count("it is gone") == 1


def test_a_track_that_ends_before_its_video_gives_no_clip_of_silence(tmp_path):
    write_video(tmp_path / "short.mp4", numbered(50), sound=TONE[:8000])
    store = VideoStore(tmp_path, size=24, frames=5, sound=16000)
    assert all(len(store[ordinal]["partners"]["sound"]["waveform"]) for ordinal in range(30))
    assert not store.lost


def test_a_long_recording_is_measured_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    path = write_wave(tmp_path / "x.wav", np.arange(5500) / 10000)
    beats: list[int] = []
    assert audio.measure_waveform(path, lambda: beats.append(1)) == (5500, 8000, "")
    assert len(beats) == 6
    part, _ = read_waveform(path, start=0.25, seconds=0.25)
    np.testing.assert_array_equal(part, read_waveform(path)[0][2000:4000])
