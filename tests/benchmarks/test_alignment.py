"""Frames matched between two cameras: known errors, ties, and vectors of single moments."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unlabel.benchmarks.alignment import (
    CONTROLS,
    Take,
    alignment_error,
    bench_alignment,
    evaluate_alignment,
    frame_vectors,
    read_takes,
)
from unlabel.modalities.visual import VisualEncoder

TIMES = 12
CONFIGS = {
    "vit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "patch_size": 8, "model_type": "vit"},
    "videomae": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "intermediate_size": 32, "patch_size": 8, "model_type": "videomae"},
}  # fmt: skip


def encoder(kind: str, frames: int) -> VisualEncoder:
    return VisualEncoder.from_config(CONFIGS[kind], frames=frames, size=32)


def brighter(tint: float = 1.0) -> np.ndarray:
    """A square on a ground, both brighter from frame to frame."""
    frames = np.zeros((TIMES, 32, 32, 3))
    frames[:] = 20 + 8 * np.arange(TIMES)[:, None, None, None]
    frames[:, 8:20, 8:20] *= 2 * tint
    return frames.clip(0, 255).astype(np.uint8)


def test_error_is_the_mean_distance_in_time_to_the_nearest_over_the_length():
    one = np.arange(4.0)[:, None]
    assert alignment_error(one, one) == 0
    assert alignment_error(one, one[::-1]) == pytest.approx((3 + 1 + 1 + 3) / 4 / 4)
    late = one - 1  # what shows at t in one view shows at t + 1 in the other, the last one nowhere
    assert alignment_error(one, late) == pytest.approx((1 + 1 + 1 + 0) / 4 / 4)


def test_vectors_that_know_nothing_are_off_by_a_third():
    drawn = np.random.default_rng(0)
    errors = [alignment_error(*drawn.normal(size=(2, 50, 8))) for _ in range(200)]
    assert np.mean(errors) == pytest.approx(1 / 3, abs=0.01)
    # All frames are equally near to a constant: no order of the frames may decide.
    assert alignment_error(np.ones((50, 3)), np.ones((50, 3))) == pytest.approx((1 - 1 / 50**2) / 3)


def test_takes_are_averaged_over_all_ordered_pairs_of_their_views_with_an_interval():
    takes = [Take("a", (brighter(), brighter(0.9), brighter(1.1))), Take("b", (brighter(),) * 2)]
    raw = lambda frames: frames.reshape(TIMES, -1).astype(float)  # noqa: E731
    result = evaluate_alignment(raw, takes, bootstrap=50)
    score = result.encoders[0].scores["error"]
    assert score.pairs == 2 and score.subsets["b"] == 0 and result.better == "lower"
    assert 0 < score.subsets["a"] < 0.1 and score.low <= score.score <= score.high
    wanted = np.mean([
        alignment_error(raw(takes[0].views[i]), raw(takes[0].views[j]))
        for i in range(3) for j in range(3) if i != j
    ])  # fmt: skip
    assert score.subsets["a"] == pytest.approx(wanted)


def test_colour_shows_a_change_of_brightness_and_standardised_grey_does_not():
    take = [Take("a", (brighter(), brighter()))]
    flat = [Take("a", (np.repeat(brighter()[:1], TIMES, 0),) * 2)]
    error = {
        (name, kind): evaluate_alignment(control, data).encoders[0].scores["error"].score
        for name, control in CONTROLS.items()
        for kind, data in (("moves", take), ("still", flat))
    }
    chance = (1 - 1 / TIMES**2) / 3
    assert error["Lab frame", "moves"] == 0
    assert error["constant", "moves"] == pytest.approx(chance)
    assert all(error[name, "still"] == pytest.approx(chance) for name in CONTROLS)


@pytest.mark.parametrize(("kind", "frames"), [("vit", 1), ("vit", 4), ("videomae", 4)])
def test_every_frame_has_a_unit_vector_that_tells_moments_and_not_places(kind, frames):
    own, movie = encoder(kind, frames), brighter()
    found = frame_vectors(own, movie, batch_size=5)
    assert found.shape == (TIMES, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found, frame_vectors(own, movie, batch_size=7), atol=1e-5)
    assert alignment_error(found, found) == 0
    still = frame_vectors(own, np.repeat(movie[:1], TIMES, 0))
    np.testing.assert_allclose(still, still[:1].repeat(TIMES, 0), atol=1e-5)


@pytest.fixture
def listed(tmp_path):
    rows = []
    for take in ("x", "y"):
        for view in (1, 2):
            folder = tmp_path / take / str(view)
            folder.mkdir(parents=True)
            for place, frame in enumerate(brighter(1 - view / 10)[: TIMES - view]):
                Image.fromarray(frame).save(folder / f"{place:02}.png")
            rows.append({"path": f"{take}/{view}", "take": take, "view": view})
    rows.append({"path": "x/1", "take": "alone", "view": 1})
    pd.DataFrame(rows).to_csv(tmp_path / "takes.csv", index=False)
    return tmp_path / "takes.csv"


def test_a_list_names_takes_and_views_which_are_cut_to_one_length(listed):
    takes = read_takes(str(listed))
    assert [take.name for take in takes] == ["x", "y"]
    assert [len(view) for view in takes[0].views] == [TIMES - 2] * 2


def test_a_list_without_a_column_or_a_second_view_is_refused(listed):
    table = pd.read_csv(listed)
    table.drop(columns="take").to_csv(listed, index=False)
    with pytest.raises(ValueError, match="no column take; it needs path, take, view"):
        read_takes(str(listed))
    table[table["view"] == 1].to_csv(listed, index=False)
    with pytest.raises(ValueError, match="has two views"):
        read_takes(str(listed))


def test_the_command_puts_controls_beside_an_encoder_and_saves_the_table(listed, tmp_path):
    encoder("vit", 1).save_pretrained(tmp_path / "vit")
    output = tmp_path / "alignment.json"
    bench_alignment(tmp_path / "vit", takes=str(listed), bootstrap=10, output=output)
    saved = json.loads(output.read_text())
    assert [e["name"] for e in saved["encoders"]] == ["vit", *CONTROLS]
    assert saved["encoders"][-1]["scores"]["error"]["score"] == pytest.approx(0.33, abs=0.01)
