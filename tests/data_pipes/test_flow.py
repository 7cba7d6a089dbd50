import numpy as np
import pytest

from unlabel.data_pipes.flow import flow_magnitude, optical_flow
from unlabel.data_pipes.tracks import follow, track_patch
from unlabel.data_pipes.video_partners import tracked


def texture(rows: int, columns: int, seed: int) -> np.ndarray:
    import cv2

    noise = np.random.default_rng(seed).integers(0, 255, (rows, columns, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    span = smooth.max() - smooth.min()
    return (255 * (smooth - smooth.min()) / span).astype(np.uint8)


@pytest.fixture(scope="module")
def moving() -> np.ndarray:
    """A patch of 60 x 60 that moves 3 pixels right and 2 down a frame over a still ground."""
    ground, patch = texture(128, 160, 0), texture(60, 60, 1)
    frames = np.repeat(ground[None], 8, 0)
    for place, frame in enumerate(frames):
        top, left = 20 + 2 * place, 30 + 3 * place
        frame[top : top + 60, left : left + 60] = patch
    return frames


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_is_the_motion_in_pixels_to_the_right_and_down(moving, method):
    flow = optical_flow(moving, method=method)
    assert (flow.dtype, flow.shape) == (np.float16, (7, 128, 160, 2))
    inside = flow[3, 40:70, 55:85].astype(np.float32)
    assert np.median(inside, (0, 1)) == pytest.approx([3, 2], abs=0.3)
    assert np.abs(flow[3, 110:, :].astype(np.float32)).mean() < 0.2


def test_flow_at_a_smaller_size_still_counts_in_pixels_of_the_frames(moving):
    flow = optical_flow(moving, (64, 80), method="farneback")
    assert flow.shape == (7, 64, 80, 2)
    inside = flow[3, 20:35, 28:42].astype(np.float32)
    assert np.median(inside, (0, 1)) == pytest.approx([3, 2], abs=0.5)


def test_a_flicker_of_brightness_is_no_motion_though_its_pixels_differ_more(moving):
    flicker = np.repeat(moving[:1], 9, 0)
    flicker[1::2] //= 2
    clip = np.concatenate([flicker, moving])
    change = np.abs(np.diff(clip.astype(np.int16), axis=0)).mean((1, 2, 3))
    assert change[:8].min() > 5 * change[9:].max()
    amount = flow_magnitude(clip)
    assert (amount.dtype, amount.shape, amount[-1]) == (np.float32, (17,), 0)
    assert amount[9:-1].min() > 3 * amount[:8].max()
    assert flow_magnitude(moving[:1]).tolist() == [0]


def test_corners_are_followed_from_the_first_frame_to_the_last(moving):
    begin, end = follow(moving)
    way = end - begin
    on_patch = ((begin > [24, 34]) & (begin < [70, 80])).all(1)
    assert on_patch.sum() > 10
    assert np.median(way[on_patch], 0) == pytest.approx([14, 21], abs=0.5)
    assert len(follow(np.zeros((3, 64, 64, 3), np.uint8))[0]) == 0


def test_the_moving_patch_is_found_and_followed(moving):
    boxes = track_patch(moving, (60, 60))
    assert boxes is not None
    first, last = boxes
    assert np.abs(first - [20, 30, 80, 90]).max() <= 14
    assert (last - first).tolist() == pytest.approx([14, 21, 14, 21], abs=1)


def test_still_scenes_and_moving_cameras_give_no_patch(moving):
    assert track_patch(np.repeat(moving[:1], 8, 0), (60, 60)) is None
    wide = texture(160, 220, 2)
    camera = np.stack([wide[2 * t : 2 * t + 128, 3 * t : 3 * t + 160] for t in range(8)])
    assert track_patch(camera, (60, 60)) is None
    with pytest.raises(ValueError, match="does not fit"):
        track_patch(moving, (200, 60))


def test_where_nothing_moves_other_clips_are_tried_and_then_a_place_is_drawn(moving):
    still, asked = np.repeat(moving[:1], 8, 0), []

    def another() -> np.ndarray:
        asked.append(1)
        return moving if len(asked) == 2 else still

    random = np.random.default_rng(0)
    first, last = tracked(still, (60, 60), another, random)
    assert len(asked) == 2
    assert first.shape == last.shape == (1, 60, 60, 3)
    # The same patch, but for a pixel, so nearly the same content away from its edge.
    middle = first[0, 15:45, 15:45].astype(int)
    assert np.abs(middle - last[0, 15:45, 15:45]).mean() < 20
    assert np.abs(middle - moving[-1, 35:65, 45:75]).mean() > 30
    a, b = tracked(still[:, :120, :120], (60, 60), lambda: still[:, :120, :120], random)
    np.testing.assert_array_equal(a, b)


def test_flow_refuses_a_single_frame_and_unknown_methods(moving):
    with pytest.raises(ValueError, match="2 or more"):
        optical_flow(moving[:1])
    with pytest.raises(ValueError, match="farneback"):
        optical_flow(moving, method="raft")
