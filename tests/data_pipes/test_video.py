import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from unlabel.data_pipes.faults import DecodeError, library
from unlabel.data_pipes.media import examine
from unlabel.data_pipes.video import places_at, read_clip, read_clips

from .conftest import numbered, places_in, write_video

OPEN = {"x264-params": "open-gop=1:keyint=12:bframes=3"}
KINDS = {
    "closed.mp4": ("libx264", {"x264-params": "keyint=12:bframes=3"}),
    "open.mp4": ("libx264", OPEN),
    "open.mkv": ("libx264", OPEN),
    "stream.ts": ("libx264", {"x264-params": "keyint=12:bframes=3"}),
    "h265.mp4": ("libx265", {"x265-params": "open-gop=1:keyint=12:log-level=none"}),
    "b_frames.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "b_frames.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
    "old.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
}


@pytest.fixture(scope="session")
def kinds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for name, (codec, options) in KINDS.items():
        write_video(folder / name, numbered(110), codec=codec, options=options)
    return folder


@pytest.fixture(scope="session")
def mp4(kinds) -> Path:
    return kinds / "closed.mp4"


@pytest.mark.parametrize("name", KINDS)
def test_every_place_gives_its_own_frame_in_every_container(kinds, name):
    wanted = [109, 0, 57, 13, 12, 11, 13, 96, 30]
    assert places_in(read_clip(kinds / name, wanted)) == wanted
    for place in range(0, 110, 9):
        assert places_in(read_clip(kinds / name, [place])) == [place]
    assert len(read_clip(kinds / name)) == 110


@pytest.mark.parametrize("name", [n for n in KINDS if n != "stream.ts"])
def test_decord_gives_the_same_places_because_its_seek_is_not_used(kinds, name):
    wanted = [109, 0, 57, 13, 12, 11, 13, 96, 30]
    assert places_in(read_clip(kinds / name, wanted, backend="decord")) == wanted


def test_only_what_is_asked_for_is_decoded(kinds, monkeypatch):
    from unlabel.data_pipes import video_readers

    seen = []
    real = video_readers.Pixels.__call__
    monkeypatch.setattr(
        video_readers.Pixels, "__call__", lambda *given: seen.append(1) or real(*given)
    )
    a, b = read_clips(kinds / "open.mp4", [[3, 4, 5], [5, 4, 100]])
    assert (places_in(a), places_in(b)) == ([3, 4, 5], [5, 4, 100])
    assert len(seen) == 4  # 3, 4, 5 and 100


def test_every_kind_of_source_gives_the_same_frames(mp4):
    import av
    import decord

    content = mp4.read_bytes()
    expected = read_clip(mp4, [5, 9])
    with mp4.open("rb") as file, av.open(str(mp4)) as container:
        sources = [
            str(mp4),
            content,
            bytearray(content),
            io.BytesIO(content),
            file,
            {"path": str(mp4), "bytes": None},
            {"path": None, "bytes": content},
            container,
            decord.VideoReader(str(mp4)),
            numbered(20),
            numbered(20).transpose(0, 3, 1, 2),
        ]
        for source in sources:
            np.testing.assert_allclose(
                read_clip(source, [5, 9]).astype(int), expected.astype(int), atol=12
            )
            assert places_in(read_clip(source, [5, 9])) == [5, 9], type(source)


def test_a_torch_tensor_with_channels_first_is_a_clip():
    import torch

    frames = torch.from_numpy(numbered(4)).permute(0, 3, 1, 2)
    assert read_clip(frames).shape == (4, 48, 64, 3)
    with pytest.raises(DecodeError, match="uint8"):
        read_clip(frames.float())


def test_a_datasets_video_and_its_raw_value_are_sources(mp4):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"video": [str(mp4)]})
    raw = data.cast_column("video", datasets.Video(decode=False))[0]["video"]
    assert places_in(read_clip(raw, [7])) == [7]


def test_pictures_and_folders_of_pictures_are_clips(tmp_path):
    from PIL import Image

    for place, frame in enumerate(numbered(3)):
        Image.fromarray(frame).save(tmp_path / f"{place:03}.png")
    np.testing.assert_array_equal(read_clip(tmp_path), numbered(3))
    assert places_in(read_clip(tmp_path, [2, 0])) == [2, 0]
    assert read_clip(tmp_path / "001.png").shape == (1, 48, 64, 3)
    assert read_clip(tmp_path / "001.png", size=24).shape == (1, 24, 32, 3)
    assert read_clip({"path": "x.png", "bytes": (tmp_path / "001.png").read_bytes()}).shape[0] == 1
    Image.fromarray(numbered(1, rows=10)[0]).save(tmp_path / "003.png")
    with pytest.raises(DecodeError, match="different sizes"):
        read_clip(tmp_path)


def test_a_video_whose_frames_change_their_size_is_refused_in_one_sentence(tmp_path):
    wide = write_video(tmp_path / "a.ts", numbered(8)).read_bytes()
    small = write_video(tmp_path / "b.ts", numbered(8, rows=24)).read_bytes()
    (tmp_path / "c.ts").write_bytes(wide + small)
    assert examine(tmp_path / "c.ts").fault == "frame 8 has another size"
    with pytest.raises(DecodeError, match="its frames have different sizes"):
        read_clip(tmp_path / "c.ts")
    assert len(read_clip(tmp_path / "c.ts", range(8))) == 8


def test_bytes_of_a_picture_are_read_as_its_file_is(tmp_path):
    from PIL import Image

    scene = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    first, second = Image.fromarray(scene), Image.fromarray(255 - scene)
    several = {"save_all": True, "append_images": [second]}
    first.save(tmp_path / "a.jpg")
    first.convert("CMYK").save(tmp_path / "b.jpg")
    first.save(tmp_path / "c.png", **several)
    first.save(tmp_path / "d.webp", **several)
    first.convert("F").point(lambda grey: grey / 256).save(tmp_path / "e.tif")
    for path in sorted(tmp_path.iterdir()):
        content, expected = path.read_bytes(), read_clip(path)
        assert expected.shape == (1, 16, 24, 3)
        for source in (content, io.BytesIO(content), {"bytes": content, "path": None}):
            np.testing.assert_array_equal(read_clip(source), expected)
    with pytest.raises(DecodeError, match=r"(?i)truncated"):
        read_clip((tmp_path / "a.jpg").read_bytes()[:-300])


def test_text_is_no_video(tmp_path):
    path = tmp_path / "notes.txt"  # whose letters FFmpeg would draw
    path.write_text("A cat sat on the mat.\n" * 50)
    assert examine(path).fault == "it is text, not a video"
    with pytest.raises(DecodeError, match="it is text, not a video"):
        read_clip(path, [0])


def test_pictures_are_upright_and_their_grey_values_keep_their_steps(tmp_path):
    from PIL import Image

    (tmp_path / "._0.png").write_bytes(b"what another system left")
    words, shares = np.linspace(0, 65_535, 48).astype(np.uint16), np.linspace(0, 1, 48, dtype="f4")
    for kind, values in {"png": words, "tif": shares}.items():
        path = tmp_path / f"0.{kind}"
        Image.fromarray(values.reshape(6, 8)).save(path)
        wanted = np.rint(np.linspace(0, 255, 48)).reshape(6, 8)
        for source in (path, tmp_path):
            (pixels,) = read_clip(source).astype(int)
            assert np.abs(pixels - wanted[..., None]).max() <= 1
        path.unlink()
    Image.fromarray(np.full((6, 8), -3, np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(DecodeError, match="grey values from -3 to -3; of this kind"):
        read_clip(tmp_path / "depth.tif")
    notes = Image.Exif()
    notes[0x0112] = 6  # the phone was held upright: a quarter turn to the right
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 40:] = 255
    Image.fromarray(wide).save(tmp_path / "phone.jpg", exif=notes)
    assert np.abs(read_clip(tmp_path / "phone.jpg")[0].astype(int) - np.rot90(wide, -1)).max() < 9
    found = examine(tmp_path / "phone.jpg")
    assert (found.rows, found.columns) == (80, 40)


@pytest.mark.parametrize("backend", ["av", "decord"])
@pytest.mark.parametrize(
    ("size", "shape"), [(None, (48, 64)), (24, (24, 32)), ((20, 20), (20, 20)), (96, (96, 128))]
)
def test_size_is_of_the_shorter_side_and_keeps_the_aspect_unless_both_are_given(
    mp4, backend, size, shape
):
    frames = read_clip(mp4, [40, 2], size=size, backend=backend)
    assert frames.shape == (2, *shape, 3)
    assert places_in(frames) == [40, 2]


# Quarter turns to the right, as phones write them: a, b, c and d of the track's matrix.
TURNS = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}


def turned(path: Path, turns: int) -> Path:
    """The mp4 with a display matrix in its track header."""
    content, (a, b, c, d) = bytearray(path.read_bytes()), (65536 * n for n in TURNS[turns])
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("backend", ["av", "decord"])
@pytest.mark.parametrize("turns", TURNS)
def test_a_phones_turn_is_made_by_every_reader_and_counts_in_rows_and_columns(
    tmp_path, turns, backend
):
    colours = np.array([[[220, 30, 30], [30, 220, 30]], [[30, 30, 220], [220, 220, 220]]], np.uint8)
    frames = np.repeat(np.kron(colours, np.ones((64, 96, 1), np.uint8))[None], 3, 0)
    path = turned(write_video(tmp_path / "phone.mp4", frames, options={"crf": "5"}), turns)
    shown = np.rot90(frames[1], -turns)
    found = examine(path)
    assert (found.rows, found.columns) == shown.shape[:2]
    for size in (None, 64, (96, 64)):
        clip = read_clip(path, [1], size=size, backend=backend)[0]
        rows, columns = clip.shape[:2]
        if size != (96, 64):
            assert rows / columns == shown.shape[0] / shown.shape[1]
        quarters = clip[rows // 4 :: rows // 2, columns // 4 :: columns // 2].astype(int)
        assert np.abs(quarters - np.rot90(colours, -turns)).max() < 12


def test_times_give_the_frame_that_is_shown_then(mp4):
    assert places_in(read_clip(mp4, times=[0, 0.039, 0.04, 1.0, 99.0, -1])) == [0, 0, 1, 25, 109, 0]
    with pytest.raises(ValueError, match="not both"):
        read_clip(mp4, [1], times=[0.0])


def test_times_of_a_variable_rate_follow_its_time_stamps(tmp_path):
    times = [0, 0.1, 0.2, 1.0, 1.1, 3.0]
    path = write_video(tmp_path / "vfr.mkv", numbered(6), times=times)
    assert places_in(read_clip(path, times=[0.15, 0.99, 1.0, 2.9, 3.0])) == [1, 2, 3, 4, 5]


def test_places_at_forgives_the_rounding_of_milliseconds():
    stamps = np.array([0, 0.033, 0.067, 0.1])
    assert places_at(stamps, [2 / 30, 1 / 30 - 0.002, 5.0]).tolist() == [2, 0, 3]


@pytest.mark.parametrize("backend", ["av", "decord"])
def test_a_place_outside_is_told_with_the_count(mp4, backend):
    with pytest.raises(DecodeError, match=r"closed.mp4, frame 110: it has 110 frames") as caught:
        read_clip(mp4, [0, 110], backend=backend)
    assert (caught.value.index, caught.value.path) == (110, str(mp4))
    assert places_in(read_clip(mp4, [-1], backend=backend)) == [109]
    with pytest.raises(DecodeError, match="frame -111"):
        read_clip(mp4, [-111], backend=backend)


def test_what_cannot_be_a_source_is_refused_in_one_sentence(tmp_path, mp4):
    for source in (3, object(), {"a": 1}, tmp_path / "none.mp4", tmp_path):
        with pytest.raises(DecodeError):
            read_clip(source)
    with pytest.raises(ValueError, match="no backend 'cv'"):
        read_clip(mp4, backend="cv")
    with pytest.raises(ValueError, match="whole numbers"):
        read_clip(mp4, np.array([0.5]))  # pyright: ignore[reportArgumentType]


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DecodeError("x.mp4", "cut", index=3, reader="av")))
    assert (error.path, error.cause, error.index, error.reader) == ("x.mp4", "cut", 3, "av")
    assert str(error) == "x.mp4, frame 3: cut (av)."


def test_a_missing_library_is_told_with_the_way_to_install_it():
    with pytest.raises(ImportError, match=r"pip install 'unlabel\[video\]'"):
        library("no_such_library", "video")


def test_an_open_decoder_stays_open(mp4):
    import av

    with av.open(str(mp4)) as container:
        for _ in range(2):
            assert places_in(read_clip(container, [60])) == [60]
