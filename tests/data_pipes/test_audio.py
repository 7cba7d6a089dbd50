import io
import logging
import pickle
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from unlabel.data_pipes.audio import read_waveform, resampled, resampled_length
from unlabel.data_pipes.audio_store import AudioStore, read_audio
from unlabel.data_pipes.faults import DecodeError
from unlabel.data_pipes.media import examine
from unlabel.data_pipes.sound_header import promised

from .conftest import numbered, write_video, write_wave


def tone(pitch: float, seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def pitch_of(waveform: np.ndarray, rate: int) -> float:
    return np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform)


def test_every_kind_of_source_gives_the_same_waveform(tmp_path):
    expected = tone(440, 0.5, 8000).astype(np.float32)
    path = write_wave(tmp_path / "x.wav", expected)
    content = path.read_bytes()
    for source in (
        path, str(path), content, io.BytesIO(content), {"path": str(path), "bytes": None},
        {"path": None, "bytes": content}, {"array": expected, "sampling_rate": 8000},
        (expected, 8000), ((expected * 32768).astype(np.int16), 8000),
        (np.stack([expected, expected], 1), 8000), (np.stack([expected, expected]), 8000),
        (expected[None], 8000),
    ):  # fmt: skip
        waveform, rate = read_waveform(source)
        assert (waveform.dtype, waveform.shape, rate) == (np.float32, (4000,), 8000)
        np.testing.assert_allclose(waveform, expected, atol=1e-4)


def test_channels_are_averaged_and_bytes_have_their_zero_in_the_middle():
    two = np.stack([np.ones(8), -np.ones(8) / 2], 1)
    np.testing.assert_allclose(read_waveform((two, 8000))[0], 0.25)
    loud = read_waveform((np.array([0, 128, 255], np.uint8), 8000))[0]
    np.testing.assert_allclose(loud, [-1, 0, 127 / 128])


def test_a_part_in_seconds_is_the_part_of_the_whole(tmp_path):
    path = write_wave(tmp_path / "x.wav", tone(440, 1, 8000))
    whole, _ = read_waveform(path)
    part, _ = read_waveform(path, start=0.25, seconds=0.5)
    np.testing.assert_array_equal(part, whole[2000:6000])
    assert len(read_waveform(path, start=0.9, seconds=5)[0]) == 800
    with pytest.raises(DecodeError, match="no sound at 3 s"):
        read_waveform(path, start=3)


@pytest.mark.parametrize(("own", "rate"), [(8000, 16000), (44100, 16000), (16000, 11025)])
def test_resampling_keeps_pitch_and_length_and_lets_nothing_fold_back(own, rate):
    out = resampled(tone(1000, 1, own).astype(np.float32), own, rate)
    assert len(out) == resampled_length(own, own, rate)
    assert pitch_of(out, rate) == pytest.approx(1000, abs=2)
    high = resampled(tone(0.45 * own, 1, own).astype(np.float32), own, rate)
    if 0.45 * own > rate / 2:
        assert np.abs(high[200:-200]).max() < 0.01


def test_the_sound_track_of_a_video_is_read(tmp_path):
    path = write_video(tmp_path / "x.mp4", numbered(25), sound=tone(600, 1, 16000))
    waveform, rate = read_waveform(path)
    assert (rate, pitch_of(waveform, rate)) == (16000, pytest.approx(600, abs=2))
    part, _ = read_waveform(path.read_bytes(), rate=8000, start=0.5, seconds=0.25)
    assert len(part) == 2000


def test_what_holds_no_sound_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_bytes(b"no sound" * 100)
    silent = write_video(tmp_path / "silent.mp4", numbered(3))
    for source, said in (
        (tmp_path / "empty.wav", "the file is empty"),
        (tmp_path / "text.wav", "Invalid data"),
        (tmp_path / "none.wav", "no such file"),
        (silent, "no sound track"),
        (3, "sound is read from"),
        ((np.array([0.0, np.nan]), 8000), "sample 1 is no finite number"),
        ((np.zeros((2, 2, 2)), 8000), "samples, channels"),
    ):
        with pytest.raises(DecodeError, match=said):
            read_waveform(source)
    with pytest.raises(ValueError, match="seconds above 0"):
        read_waveform(silent, seconds=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ramp in each recording, of 0.2, 0.5 and 1 s, so that a crop tells where it lies."""
    path = tmp_path_factory.mktemp("sound")
    for name, seconds in (("0_ann_0", 0.2), ("1_bob_0", 0.5), ("1_ann_1", 1.0)):
        write_wave(path / f"{name}.wav", np.arange(round(8000 * seconds)) / 10000)
    return path


PATTERN = r"(?P<label>\d)_(?P<speaker>[a-z]+)_(?P<take>\d)"


def test_recordings_are_found_with_labels_from_their_names(folder):
    data = read_audio(folder, pattern=PATTERN)
    assert (data.classes, data.labels.tolist()) == (("0", "1"), [0, 1, 1])
    assert data.column("speaker") == ["ann", "ann", "bob"]
    assert "3 recordings of 0.20 to 1.00 s (2 s in all), 8,000 samples a second" in data.summary()


def test_crops_depend_on_seed_and_ordinal_alone(folder):
    data = read_audio(folder, pattern=PATTERN)
    store, bare = (AudioStore(data, rate=8000, seconds=0.25, cache_bytes=b) for b in (1 << 20, 0))
    copy = pickle.loads(pickle.dumps(store))
    starts = set()
    for ordinal in range(40):
        sample = store[ordinal]
        for other in (bare, copy):
            np.testing.assert_array_equal(other[ordinal]["waveform"], sample["waveform"])
        assert sample["label"] == [0, 1, 1][ordinal % 3] == store.labels[sample["index"]]
        if ordinal % 3 == 1:
            assert sample["waveform"].shape == (2000,)
            starts.add(float(sample["waveform"][0]))
    assert len(starts) > 8
    assert min(starts) >= 0
    assert max(starts) <= 0.61
    assert AudioStore(data, rate=8000, seconds=0.25, seed=1)[1]["waveform"][0] not in starts


def test_short_recordings_are_padded_looped_or_left_out(folder):
    assert len(AudioStore(folder, rate=8000, seconds=0.25)[0]["waveform"]) == 1600
    looped = AudioStore(folder, rate=8000, seconds=0.25, short="loop")[0]["waveform"]
    np.testing.assert_array_equal(looped[1600:], looped[:400])
    store = AudioStore(folder, rate=8000, seconds=0.25, short="skip")
    assert (len(store), len(store.too_short)) == (2, 1)
    with pytest.raises(ValueError, match=r"longest of 3 recordings has 1.00 s"):
        AudioStore(folder, rate=8000, seconds=2, short="skip")
    whole = AudioStore(folder, rate=8000, seconds=None)
    assert [len(whole[i]["waveform"]) for i in range(3)] == [1600, 8000, 4000]
    assert whole.lengths.tolist() == [8000] * 3


def test_even_clips_and_another_rate(folder):
    store = AudioStore(folder, rate=16000, seconds=0.25, clips=3, start="even")
    begins = [float(store[i]["waveform"][200]) for i in range(3, 6)]  # of the second recording
    assert np.diff(begins) == pytest.approx([0.3, 0.3], abs=0.01)
    assert len(store) == 9


def test_parts_of_a_list_are_cut_out(folder, tmp_path):
    (tmp_path / "list.csv").write_text(f"path,start,end\n{folder / '1_ann_1.wav'},0.5,0.75\n")
    waveform = AudioStore(tmp_path / "list.csv", rate=8000, seconds=None)[0]["waveform"]
    assert len(waveform) == 2000
    assert waveform[0] == pytest.approx(0.4, abs=1e-3)


def test_bad_recordings_are_left_out_and_later_ones_replaced(tmp_path, caplog):
    for name in "abc":
        write_wave(tmp_path / f"{name}.wav", np.zeros(4000))
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    store = AudioStore(tmp_path, rate=8000, seconds=0.1)
    assert len(store) == 3
    assert [name[-7:] for name in store.data.report.broken] == ["bad.wav"]
    (tmp_path / "b.wav").unlink()
    with caplog.at_level(logging.WARNING):
        assert {store[i]["index"] for i in range(30)} == {0, 2}
    assert caplog.text.count("it is gone") == 1
    assert [name[-5:] for name in store.lost] == ["b.wav"]


@pytest.mark.parametrize("kind", ["wav", "aiff", "mp3", "flac", "ogg"])
def test_a_recording_that_is_cut_off_is_left_out_and_named_or_used_and_counted(tmp_path, kind):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 80_000)
    for name in ("cut", "whole"):
        soundfile.write(tmp_path / f"{name}.{kind}", noise, 16000)
    assert not examine(tmp_path / f"whole.{kind}").fault
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 55 // 100])
    data = read_audio(tmp_path)
    assert len(data) == 1 and "1 broken" in data.summary()
    ((name, why),) = data.report.broken.items()
    assert name == str(cut) and "samples before" in why
    assert kind == "ogg" or int(why.split("tells of ")[1].split()[0]) == pytest.approx(80_000, 0.1)
    used = read_audio(tmp_path, damaged="use")
    there, whole = (item.media.frames for item in used)
    assert 10_000 < there < 50_000 and whole == 80_000
    assert used.report.counts["damaged_used"] == 1
    assert f"cut.{kind}" in used.report.examples["damaged_used"][0]
    heard, expected = (one["waveform"] for one in AudioStore(used, rate=16000, seconds=None))
    assert len(heard) == there
    np.testing.assert_allclose(heard, expected[:there], atol=0.01)
    with pytest.raises(ValueError, match=r"No usable recording among 1: "):
        read_audio(cut)


@pytest.mark.parametrize("kind", ["webm", "mka", "rf64"])
def test_a_container_that_tells_its_bytes_is_cut_off_below_them(tmp_path, kind):
    noise, path = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 48_000)), tmp_path / "whole"
    if kind == "rf64":
        soundfile.write(path, noise[0], 16000, format="RF64", subtype="PCM_16")
    else:
        encoded(path, kind, noise)
    live = tmp_path / "live"
    encoded(live, "webm", noise, live="1")
    for whole in (path, live):
        content = whole.read_bytes()
        assert not examine(whole, "sound").fault
        whole.write_bytes(content[: len(content) * 55 // 100])
    found = examine(path, "sound")
    assert found.fault.startswith("it is cut off, its header tells of ")
    assert found.header == pytest.approx(48_000, rel=0.1) and found.frames < 0.6 * 48_000
    assert not examine(live, "sound").fault  # which did not know its length


def encoded(path: Path, kind: str, waveform: np.ndarray, **options: str) -> None:
    with av.open(
        str(path), "w", format={"mka": "matroska"}.get(kind, kind), options=options
    ) as file:
        stream: Any = file.add_stream("libopus", rate=48_000)
        stream.layout = "mono"
        for begin in range(0, waveform.shape[1], 960):
            piece = (waveform[:, begin : begin + 960] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48_000, begin
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def test_an_mp3_that_is_cut_off_is_read_up_to_its_end_and_nothing_of_memory_behind_it(tmp_path):
    path = tmp_path / "x.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 16000)
    whole, _ = read_waveform(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut, _ = read_waveform(path)
    assert len(cut) < 45_000
    np.testing.assert_allclose(cut, whole[: len(cut)], atol=1e-4)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 8044])
def test_a_stream_that_did_not_know_its_length_is_not_cut_off(tmp_path, size):
    path = write_wave(tmp_path / "x.wav", tone(440, 0.5, 8000))
    content = bytearray(path.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert promised(path, 4000) == 4000
    assert not size or not examine(path).fault


def test_in_memory_recordings_and_sound_tracks_are_read(tmp_path):
    assert len(read_audio((np.zeros(8000), 8000))) == 1
    with pytest.raises(ValueError, match="its rate is 1 sample a second or more, but 0 came"):
        read_audio((np.zeros(8000), 0))
    store = AudioStore([(np.zeros(8000), 8000), (np.ones(4000), 8000)], rate=8000, seconds=0.5)
    assert store[1]["waveform"].tolist() == [1.0] * 4000
    write_video(tmp_path / "x.mp4", numbered(25), sound=tone(600, 1, 16000))
    assert AudioStore(tmp_path, rate=16000, seconds=0.5)[0]["waveform"].shape == (8000,)
