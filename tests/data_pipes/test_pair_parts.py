"""Parts of films and recordings as the sides of samples, each named by its seconds."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from unlabel.data_pipes import decoded, videos, waveforms
from unlabel.data_pipes.audio import read_waveform
from unlabel.data_pipes.pairs import read_pairs
from unlabel.data_pipes.report import ReadReport
from unlabel.data_pipes.video_list import Entry
from unlabel.kinds.pairs import PairsOptions
from unlabel.objectives import Objective
from unlabel.training.arguments import TrainingArguments

from .conftest import numbered, places_in, write_video, write_wave

BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 16}  # fmt: skip
TEXT: dict[str, Any] = {"column": "caption", "vocabulary": 60, "config": BERT}
TIMES = {"start_column": "from", "end_column": "to"}
VIDEO: dict[str, Any] = {"column": "path", "frames": 4, "size": 64, **TIMES,
                         "config": {"model_type": "r2plus1d"}}  # fmt: skip
COLUMNS = ["path", "from", "to", "caption"]


def prepared(folder: Path, rows: list[tuple[Any, ...]], sides: dict[str, Any]) -> Any:
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "list.csv", index=False)
    args = TrainingArguments(output_dir=str(folder / "run"), seed=0)
    options = PairsOptions(sides=sides, width=8)
    return options.prepare(str(folder / "list.csv"), Objective(), args, None)


@pytest.fixture
def film(tmp_path) -> Path:
    """Four seconds of numbered frames, and a tone that is another one in each second."""
    seconds = np.arange(64000) / 16000
    tone = 0.5 * np.sin(2 * np.pi * (400 + 400 * np.floor(seconds)) * seconds)
    return write_video(tmp_path / "film.mp4", numbered(100, 64, 64), sound=tone)


def test_a_caption_of_a_part_goes_with_the_clips_and_the_sound_of_that_part(film, monkeypatch):
    read: list[Any] = []
    for module, name in ((decoded, "read_clip"), (waveforms, "read_waveform")):
        real = getattr(module, name)
        reading = lambda *a, real=real, **k: read.append(a[0]) or real(*a, **k)  # noqa: E731
        monkeypatch.setattr(module, name, reading)
    parts = [("0", "1.0"), ("1", "2.5"), ("3", ""), ("", "0.5")]
    rows = [("film.mp4", *part, f"part {i}") for i, part in enumerate(parts)]
    sides = {"text": TEXT, "video": VIDEO, "audio": {"sound_of": "video", "rate": 16_000}}
    made = prepared(film.parent, [*rows, rows[0]], sides)
    assert len(made.store) == 5 and len(made.store.stores["video"].data) == 4
    decode = made.encoder.towers["text"].tokenizer.decode
    for ordinal in range(25):
        sample = made.store[ordinal]["sides"]
        start, end = (float(x or d) for x, d in zip(parts[ordinal % 5 % 4], (0, 4), strict=True))
        times = sample["video"]["times"]
        assert start <= times[0] and times[-1] + 0.04 <= end + 1e-6
        assert places_in(sample["video"]["frames"]) == np.round(times * 25).astype(int).tolist()
        heard, _ = read_waveform(film, start=float(times[0]), seconds=0.16)
        np.testing.assert_array_equal(sample["audio"]["waveform"], heard)
        assert str(ordinal % 5 % 4) in decode(sample["text"]["input_ids"])
    assert read == [str(film)]  # its sound, once; reading kept the frames


def test_parts_that_cannot_be_drop_their_pairs_alone_and_are_named(film):
    parts = [(0, 1), (2, 1), (1, 1), (-1, 1), ("soon", 1), (9, 12), (3, 12)]
    rows = [("film.mp4", *part, f"part {i}") for i, part in enumerate(parts)]
    made = prepared(film.parent, rows, {"text": TEXT, "video": VIDEO})
    assert len(made.store) == 2
    assert "2 rows with end not after start of video (" in made.read
    assert "list.csv:3: part 1 | film.mp4 | 2 | 1; " in made.read
    assert "1 rows with start below 0 of video" in made.read
    assert "1 rows with unreadable times of video" in made.read
    assert "1 rows lost their video" in made.read
    assert "film.mp4, 9 s to 12 s: " in made.read and "holds no frame of 4.00 s" in made.read
    with pytest.raises(ValueError, match=r"film.mp4, 9 s to 12 s: .* holds no frame of 4.00 s"):
        prepared(film.parent, [("film.mp4", 9, 12, "late")] * 2, {"text": TEXT, "video": VIDEO})


def test_recordings_and_single_frames_have_parts_too(film):
    write_wave(film.parent / "ramp.wav", np.arange(16000) / 16000)
    audio = {"column": "path", "seconds": 0.25, **TIMES}
    made = prepared(film.parent, [("ramp.wav", 0.5, 1, "a"), ("ramp.wav", 1, 1.5, "b")],
                    {"text": TEXT, "audio": audio})  # fmt: skip
    for ordinal in range(20):
        heard = made.store[ordinal]["sides"]["audio"]["waveform"]
        begin = 0.5 * (1 + ordinal % 2)
        assert begin - 1e-3 <= heard[0] * 2 and heard[-1] * 2 <= begin + 0.5
    frames = {"kind": "frames", "column": "path", "size": 64, **TIMES}
    rows = [("film.mp4", 0, 1, "a"), ("film.mp4", 2, 3, "b")]
    made = prepared(film.parent, rows, {"text": TEXT, "frames": frames})
    seen = [places_in(made.store[i]["sides"]["frames"]["frames"])[0] for i in range(20)]
    assert all(50 * (i % 2) <= place < 50 * (i % 2) + 25 for i, place in enumerate(seen))


def test_sides_may_be_different_parts_of_one_file(film):
    other = {**VIDEO, "kind": "video", "start_column": "to", "end_column": None}
    sides = {"before": {**VIDEO, "kind": "video"}, "after": other}
    made = prepared(film.parent, [("film.mp4", 0, 1, "x"), ("film.mp4", 1, 3, "x")], sides)
    for ordinal in range(10):
        before, after = (made.store[ordinal]["sides"][n]["times"] for n in sides)
        assert before[-1] < (1, 3)[ordinal % 2] <= after[0]


def test_parts_of_a_file_in_a_data_set_are_examined_once(tmp_path, monkeypatch):
    path = write_wave(tmp_path / "ramp.wav", np.arange(16000) / 16000)
    content = {"bytes": path.read_bytes(), "path": None}
    table = {"sound": [content, content], "from": [0.0, 1.0], "to": [1.0, None]}
    data = datasets.Dataset.from_dict(table).cast_column("sound", datasets.Audio())
    rows = read_pairs(data, {"audio": "sound"}, times={"audio": ("from", "to")})
    one, two = rows.columns["audio"]
    assert (one.start, one.end, two.start, two.end) == (0.0, 1.0, 1.0, None)
    scanned: list[Any] = []
    real = videos.scan_files
    monkeypatch.setattr(
        videos, "scan_files", lambda paths, **how: scanned.extend(paths) or real(paths, **how)
    )
    entries = [Entry(str(i), p.source, None, p.start, p.end) for i, p in enumerate((one, two))]
    found = videos.look_into(entries, ReadReport(), what="recording", kind="sound")
    assert [len(item) for item in found] == [8000, 8000] and len(scanned) == 1
    assert len(found.files()[0]) == 1


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"text": {**TEXT, **TIMES}, "video": VIDEO}, "and 'text' is none"),
        ({"video": VIDEO, "audio": {"sound_of": "video", **TIMES}}, "and 'audio' is none"),
        ({"text": TEXT, "video": {**VIDEO, "end_column": "until"}}, "no column 'until'"),
    ],
)
def test_times_that_nothing_has_are_refused(film, sides, message):
    with pytest.raises(ValueError, match=message):
        prepared(film.parent, [("film.mp4", 0, 1, "x")] * 2, sides)


def test_files_of_one_stem_have_no_parts(film):
    (film.parent / "film.txt").write_text("a caption")
    with pytest.raises(ValueError, match=r"of video name columns of a list, but .* list them"):
        read_pairs(film.parent, {"text": None, "video": None}, times={"video": ("from", "to")})


def test_sides_that_go_together_begin_at_the_same_moment_of_their_parts(film):
    # Another camera of another rate, and a recording that begins where the part of the film does.
    write_video(film.parent / "other.mp4", numbered(200, 64, 64), rate=50)
    write_wave(film.parent / "ramp.wav", np.arange(16000) / 16000)
    rows = [
        ("film.mp4", "other.mp4", "ramp.wav", 1, 3, 0),
        ("film.mp4", "other.mp4", "ramp.wav", 0, 1.5, 0),
    ]
    table = pd.DataFrame(rows, columns=["left", "right", "sound", "from", "to", "zero"])
    table.to_csv(film.parent / "list.csv", index=False)
    left = {**VIDEO, "kind": "video", "column": "left"}
    sides = {
        "left": left,
        "right": {**left, "column": "right", "fps": 25},
        "audio": {"column": "sound", "seconds": 0.25, "start_column": "zero"},
        "heard": {"kind": "audio", "sound_of": "left", "rate": 8000},
    }
    args = TrainingArguments(output_dir=str(film.parent / "run"), seed=0)

    def store(together: list[str]) -> Any:
        options = PairsOptions(sides=sides, width=8, together=together)
        return options.prepare(str(film.parent / "list.csv"), Objective(), args, None).store

    made, begins = store(["left", "right", "audio"]), []
    for ordinal in range(20):
        seen = made[ordinal]["sides"]
        start = (1, 0)[ordinal % 2]
        one, two = (seen[name]["times"][0] - start for name in ("left", "right"))
        heard = 2 * float(seen["audio"]["waveform"][0])
        assert one == pytest.approx(two, abs=0.04) and one == pytest.approx(heard, abs=0.041)
        assert len(seen["heard"]["waveform"]) == 1280
        begins.append(round(float(one), 2))
    # All of them fit: 0.25 s into the sound of 2 s, and 0.16 s into the part of 1.5 s.
    assert max(begins[::2]) <= 1.75 and max(begins[1::2]) <= 1.34 and len(set(begins)) > 12
    apart = [store([])[i]["sides"] for i in (0, 2, 4, 6, 8)]
    far = [m["left"]["times"][0] - 1 - 2 * float(m["audio"]["waveform"][0]) for m in apart]
    assert max(map(abs, far)) > 0.1
    with pytest.raises(ValueError, match=r"together names text, but sides .* are left, right, a"):
        store(["text"])
