"""Clips of two planes: their depth is what parallax says."""

import numpy as np

from unlabel.data_pipes.synthetic_planes import draw_planes


def test_the_board_is_near_the_wall_is_far_and_both_are_seen():
    made = draw_planes(16, frames=5, size=24, seed=3)
    assert made.frames.shape == (16, 5, 24, 24, 3) and made.frames.dtype == np.uint8
    assert made.depth.shape == (16, 5, 24, 24) and made.camera.shape == (16, 5, 3)
    is_board = made.depth < 2
    assert (is_board.mean((2, 3)) > 0.02).all() and (is_board.mean((2, 3)) < 0.6).all()
    assert made.depth.min() > 0.7 and made.depth.max() < 4.4
    assert made.frames.std((2, 3, 4)).min() > 10


def test_a_camera_that_moves_right_sees_the_board_move_left_faster_than_the_wall():
    made = draw_planes(8, frames=3, size=64, speed=(0.08, 0.08), seed=1)
    middle = [np.array([np.nonzero(row < 2)[1].mean() for row in clip]) for clip in made.depth]
    for clip, camera, depth in zip(middle, made.camera, made.depth, strict=True):
        # A pixel of the board moves by f * shift / depth; 0.866 is f of 60 degrees.
        expected = -0.866 * 64 * (camera[2, 0] - camera[0, 0]) / depth.min()
        assert np.sign(clip[2] - clip[0]) == np.sign(expected)


def test_the_same_seed_gives_the_same_clips_and_no_speed_gives_a_clip_that_stands():
    one, other = (draw_planes(2, seed=4) for _ in range(2))
    assert np.array_equal(one.frames, other.frames)
    still = draw_planes(2, speed=(0.0, 0.0))
    assert np.array_equal(still.frames[:, 0], still.frames[:, 2])
