import numpy as np
import pytest

from unlabel.benchmarks.video_decode import video_decode
from unlabel.benchmarks.video_faults import video_faults


@pytest.mark.slow
def test_no_damage_crashes_or_hangs_a_reader_and_pyav_gives_hardly_a_wrong_frame(capsys):
    outcomes = video_faults()
    assert "0 crashes or hangs" in capsys.readouterr().out
    assert len(outcomes) > 40
    assert not any(o.died for o in outcomes)
    mine = [o for o in outcomes if o.backend == "av"]
    # A flipped bit may leave a valid stream that shows something else; nothing can tell that.
    wrong = {b: sum(o.wrong or 0 for o in outcomes if o.backend == b) for b in ("av", "decord")}
    assert wrong["av"] <= 2
    assert wrong["av"] < wrong["decord"]
    assert sum(o.lost_good for o in mine) == 0


@pytest.mark.slow
@pytest.mark.data
def test_every_file_of_the_zoo_is_reported(data_folder):
    folder = data_folder / "video" / "decoder_zoo"
    outcomes = video_faults(zoo=str(folder), copies=False)
    scanned = {o.file: o.whole for o in outcomes if o.backend == "scan"}
    assert not any(o.died for o in outcomes)
    for file, said in scanned.items():
        bad = "cut off" in said or "frames" not in said
        assert bad == file.startswith("bad_"), (file, said)


def test_all_sides_of_the_speed_table_make_the_same_number_of_frames(tmp_path, capsys):
    import av

    for name in ("a.mp4", "b.mp4"):
        with av.open(str(tmp_path / name), "w") as file:
            stream = file.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(12):
                pixels = np.zeros((48, 64, 3), np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            file.mux(stream.encode(None))
    result = video_decode(str(tmp_path), size=16, kept=24, frames=4, epochs=2, rounds=1)
    assert {run["frames"] for side in result["sides"] for run in side["runs"]} == {16}
    assert "ours over it" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no videos"):
        video_decode(str(tmp_path / "none"))
