import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from unlabel.data_pipes import decoded as decoding
from unlabel.data_pipes.frame_cache import FrameCache, temporary_folder
from unlabel.data_pipes.frame_store import FrameStore
from unlabel.data_pipes.kept_frames import Keep, KeptFrames, Spool
from unlabel.data_pipes.media import Media, examine
from unlabel.data_pipes.video_store import VideoStore
from unlabel.data_pipes.videos import read_frames, read_videos
from unlabel.kinds.visual import FramesOptions, VideoOptions

from .conftest import numbered, write_video


def noise(count: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, rows, columns, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A film of odd size, one of a codec that counts its packets, one of variable rate."""
    folder = tmp_path_factory.mktemp("films")
    times = [0.04 * i**1.2 for i in range(9)]
    write_video(folder / "a.mkv", noise(21, 47, 83), pixels="yuv444p")
    write_video(folder / "b.avi", noise(13, 50, 34), codec="mpeg4")
    write_video(folder / "c.mkv", noise(9, 48, 64), times=times)
    return folder


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the files that a store decodes."""
    asked, real = [], decoding.read_clip
    named = lambda source, *a, **k: asked.append(str(source)) or real(source, *a, **k)  # noqa: E731
    monkeypatch.setattr(decoding, "read_clip", named)
    return asked


def clips(store: VideoStore) -> list[np.ndarray]:
    return [store[i]["frames"] for i in range(len(store))]


def equal(a: VideoStore, b: VideoStore) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(clips(a), clips(b), strict=True))


def left(data) -> int:
    """Files of kept frames that nobody took."""
    return len(list(data.kept.folder.iterdir()))


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({"size": 24}, Keep.of(24)),
        ({"size": (60, 20)}, Keep.of((60, 20))),
        ({"size": (30, 31), "fit": "stretch"}, Keep.of((30, 31), fit="stretch")),
        ({"size": 16, "tracked": True}, Keep.of(16, tracked=True)),
    ],
)
def test_kept_frames_are_those_that_decoding_again_gives(folder, decoded, options, keep):
    data = read_videos(folder, keep=keep)
    ours = VideoStore(data, frames=6, clips=2, **options)
    assert (ours._frames.cache.held, left(data)) == (43 * keep.frame, 0)
    held = clips(ours)
    assert not decoded
    again = VideoStore(read_videos(folder), frames=6, clips=2, **options)
    assert all(np.array_equal(a, b) for a, b in zip(held, clips(again), strict=True))
    assert len(decoded) == 3


def test_a_store_that_reads_its_data_itself_decodes_each_file_once(folder, decoded):
    clips(VideoStore(folder, size=24, frames=4))
    clips(FrameStore(folder, size=24))
    assert not decoded


def test_pictures_and_folders_of_them_are_kept_too(tmp_path, decoded):
    for place, frame in enumerate(noise(3, 40, 60)):
        (tmp_path / "cow").mkdir(exist_ok=True)
        picture = Image.fromarray(frame)
        (picture.quantize() if place == 1 else picture).save(tmp_path / "cow" / f"{place}.png")
    for read, frames in ((read_frames, 1), (read_videos, 3)):
        ours = VideoStore(read(tmp_path, keep=Keep.of(24)), size=24, frames=frames)
        held = clips(ours)
        assert not decoded
        again = VideoStore(read(tmp_path), size=24, frames=frames)
        assert all(np.array_equal(a, b) for a, b in zip(held, clips(again), strict=True))
        decoded.clear()


def test_sources_in_memory_are_read_with_and_without_kept_frames(folder, decoded):
    content = (folder / "b.avi").read_bytes()
    for source, again in (([content, content], 0), (noise(8, 48, 64)[None], 1)):
        data = read_videos(source, keep=Keep.of(24))
        ours = VideoStore(data, size=24, frames=4)
        held = clips(ours)
        assert len(decoded) == again
        other = VideoStore(read_videos(source), size=24, frames=4)
        assert all(np.array_equal(a, b) for a, b in zip(held, clips(other), strict=True))
        decoded.clear()


def test_parts_of_one_file_share_what_was_kept_of_it(folder, tmp_path, decoded):
    (tmp_path / "link.avi").symlink_to(folder / "b.avi")
    (tmp_path / "list.csv").write_text(
        f"path,start,end\n{folder}/b.avi,0,0.2\n{folder}/b.avi,0.2,0.4\n{tmp_path}/link.avi,,\n"
    )
    data = read_videos(tmp_path / "list.csv", keep=Keep.of(24))
    assert left(data) == 1
    first = VideoStore(data.part([0, 2]), size=24, frames=4)
    assert (len(clips(first)), decoded, left(data)) == (2, [], 0)
    again = VideoStore(read_videos(tmp_path / "list.csv").part([0, 2]), size=24, frames=4)
    assert equal(first, again)


def test_workers_share_what_was_kept(folder, decoded):
    store = VideoStore(read_videos(folder, keep=Keep.of(24), jobs=2), size=24, frames=4)
    copy = pickle.loads(pickle.dumps(store))
    assert equal(copy, store)
    del copy
    for start in ("fork", "spawn"):
        about = {"batch_size": None, "num_workers": 1, "multiprocessing_context": start}
        loader = DataLoader(store, sampler=[0, 1, 2], **about)  # pyright: ignore
        found = [sample["frames"] for sample in loader]
        assert all(np.array_equal(a, b) for a, b in zip(found, clips(store), strict=True))
    assert not decoded
    assert store.data.kept.folder.exists()


@pytest.mark.parametrize("room", [0, 1, 20, 22, 31, 34])
def test_no_more_is_kept_than_the_limit(folder, room):
    keep = Keep.of(24, limit=room * Keep.of(24).frame + 5)
    data = read_videos(folder, keep=keep, jobs=1)
    kept = [f.stat().st_size // keep.frame for f in data.kept.folder.iterdir()]
    # 21, 13 and 9 frames, in this order, each as a whole.
    assert sorted(kept) == {0: [], 1: [], 20: [13], 22: [21], 31: [9, 21], 34: [13, 21]}[room]
    assert equal(VideoStore(data, size=24, frames=4), VideoStore(folder, size=24, frames=4))


def test_a_file_longer_than_a_cache_takes_is_not_kept(folder, monkeypatch):
    from unlabel.data_pipes import kept_frames

    monkeypatch.setattr(kept_frames, "LONGEST", 15 * Keep.of(24).frame)
    data = read_videos(folder, keep=Keep.of(24))
    assert left(data) == 2


def test_other_sizes_and_changed_files_are_decoded_anew(tmp_path, decoded):
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", numbered(8))
    data = read_videos(tmp_path, keep=Keep.of(24))
    assert VideoStore(data, size=26, frames=4)[0]["frames"].shape == (4, 26, 26, 3)
    clips(VideoStore(data, size=24, fit="stretch", frames=4))
    assert (len(decoded), left(data)) == (3, 2)
    (tmp_path / "b.mp4").write_bytes(b"overwritten")
    store = VideoStore(data, size=24, frames=4)
    assert [store[i]["index"] for i in range(4)] == [0] * 4
    assert [Path(name).name for name in store.lost] == ["b.mp4"]
    assert (len(decoded), left(data)) == (3, 0)


def test_files_known_from_a_manifest_are_decoded_when_they_are_met(folder, tmp_path, decoded):
    about = {"manifest": tmp_path / "media.json", "keep": Keep.of(24)}
    first, second = (read_videos(folder, **about) for _ in range(2))
    assert (left(first), left(second)) == (3, 0)
    ours, again = (VideoStore(data, size=24, frames=4) for data in (first, second))
    assert equal(ours, again)
    assert len(decoded) == 3


def test_a_cache_that_is_full_already_needs_nothing_kept(folder, tmp_path, decoded):
    for _ in range(2):
        data = read_videos(folder, keep=Keep.of(24))
        store = VideoStore(data, size=24, frames=4, cache=tmp_path / "cache")
        assert (left(data), len(clips(store)), decoded) == (0, 3, [])


def test_a_damaged_file_leaves_frames_only_where_it_is_used(tmp_path, decoded):
    content = write_video(tmp_path / "x.mp4", numbered(100), options={"g": "10"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 4 // 5])
    (tmp_path / "text.mp4").write_text("no film")
    assert left(read_videos(tmp_path, keep=Keep.of(24))) == 1
    data = read_videos(tmp_path, keep=Keep.of(24), damaged="use")
    assert left(data) == 2
    again = read_videos(tmp_path, damaged="use")
    ours, theirs = (VideoStore(d, size=24, frames=len(again[0])) for d in (data, again))
    assert equal(ours, theirs)
    assert not any("x.mp4" in name for name in decoded[:-2])


def test_what_a_crash_left_is_removed(tmp_path):
    kept = KeptFrames(Keep.of(2, limit=100))
    spool = Spool(*(kept.order("x") or []))
    spool.add((4, 4), lambda size: np.zeros((*size, 3), np.uint8))
    spool.close()
    assert len(list(kept.folder.iterdir())) == 1
    kept.settle(Media("x", fault="the decoder crashed (signal 6)"))
    assert not list(kept.folder.iterdir())
    assert kept.frames(Media("x", frames=1)) is None


def test_what_cannot_be_kept_is_no_fault_of_the_file(folder, tmp_path):
    spool = Spool(str(tmp_path / "none" / "x"), (24, 24), "cover", 99)
    assert examine(folder / "a.mkv", spool=spool) == examine(folder / "a.mkv")
    wrong = Spool(str(tmp_path / "x"), (24, 24), "cover", 99)
    wrong.add((48, 64), lambda size: np.zeros((*size, 3), np.uint8))
    wrong.add((48, 64), lambda size: 1 / 0)  # pyright: ignore
    assert not list(tmp_path.iterdir())


INTERRUPTED = """
import sys
from unlabel.data_pipes.kept_frames import Keep
from unlabel.data_pipes.videos import read_videos
data = read_videos(sys.argv[1], keep=Keep.of(24))
print(data.kept.folder, len(list(data.kept.folder.iterdir())), flush=True)
raise KeyboardInterrupt
"""


def test_kept_frames_go_with_their_data_and_with_an_interrupted_process(folder):
    data = read_videos(folder, keep=Keep.of(24))
    place = data.kept.folder
    part = data.part([0])
    del data
    assert place.exists()
    del part
    assert not place.exists()
    command = [sys.executable, "-c", INTERRUPTED, str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    place, count = said.stdout.rsplit(maxsplit=1)
    assert (count, Path(place).exists()) == ("3", False)


@pytest.mark.parametrize("partner", [None, "tracked"])
@pytest.mark.parametrize("options", [FramesOptions, VideoOptions])
def test_a_run_reads_with_what_its_store_keeps(folder, decoded, options, partner):
    partner = None if options is FramesOptions else partner
    objective: Any = SimpleNamespace(views=[SimpleNamespace(partner=partner, parts=lambda: [])])
    run = options(size=16, spare=1.25).settled(0, None)
    data = run._read(folder, keep=run._keep(objective))
    store = run._store(data, objective, seed=0)
    assert (len(clips(store)), decoded, left(data)) == (3, [], 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"size": (0, 9)}, "size is at least 1"), ({"size": (9, 9), "fit": "crop"}, "'stretch'")],
)
def test_frames_that_no_store_has_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Keep(**wrong)


HOLD = """
import time
from unlabel.data_pipes.frame_cache import FrameCache, temporary_folder
owner = FrameCache.__new__(FrameCache)
print(temporary_folder(owner, "frames-"), flush=True)
time.sleep(60)
"""


def test_the_folder_of_a_killed_process_goes_with_the_next_one_and_a_living_ones_stays(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    about: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    about["env"] = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", HOLD], **about) as holder:
        held = Path(holder.stdout.readline().strip())
        owner = FrameCache.__new__(FrameCache)
        mine = temporary_folder(owner, "frames-")
        assert set(tmp_path.iterdir()) == {held, mine}
        holder.kill()
    assert held.exists()
    another = FrameCache.__new__(FrameCache)
    last = temporary_folder(another, "frames-")
    assert set(tmp_path.iterdir()) == {mine, last}
    del owner
    assert set(tmp_path.iterdir()) == {last}
