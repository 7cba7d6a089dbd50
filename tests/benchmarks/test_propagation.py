"""Masks carried by affinity: against a plain loop, and on things that move."""

import numpy as np
import pytest
import torch

from unlabel.benchmarks.mask_carrying import (
    CONTROLS,
    Affinity,
    affinity,
    along_flow,
    by_features,
    carried,
    first_mask,
    lab_features,
)
from unlabel.benchmarks.propagation import (
    davis_sequences,
    evaluate_propagation,
    jaccard,
    token_features,
)
from unlabel.modalities.visual import VisualEncoder


def moving_square(times=6, step=3):
    """A reddish square that moves right over a ground, both with a texture of their own."""
    y, x = np.mgrid[:64, :96]
    frames = np.empty((times, 64, 96, 3))
    frames[:] = (90 + 30 * np.sin(x / 3) * np.cos(y / 4))[..., None]
    masks = np.zeros((times, 64, 96), bool)
    for t in range(times):
        masks[t, 16:40, 16 + step * t : 40 + step * t] = True
        own = 40 * np.sin((x - step * t) / 2.5) * np.sin(y / 3)
        frames[t][masks[t]] = (np.array([200, 50, 50]) + own[..., None])[masks[t]]
    return frames.clip(0, 255).astype(np.uint8), masks


def encoder(**settings):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 32, "patch_size": 8}  # fmt: skip
    return VisualEncoder.from_config(sizes, size=32, **settings).double()


def test_affinity_is_minus_half_the_squared_distance_inside_the_square_and_the_picture():
    torch.manual_seed(0)
    query, keys = torch.randn(4, 5, 3, dtype=torch.double), torch.randn(2, 4, 5, 3).double()
    found = affinity(query, keys, radius=1).reshape(4, 5, 2, 3, 3)
    for y in range(4):
        for x in range(5):
            for r in range(2):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        value = found[y, x, r, dy + 1, dx + 1]
                        if 0 <= y + dy < 4 and 0 <= x + dx < 5:
                            gap = query[y, x] - keys[r, y + dy, x + dx]
                            assert value == pytest.approx(-0.5 * float(gap @ gap), abs=1e-12)
                        else:
                            assert value == -torch.inf


def test_a_mask_moves_with_cells_that_are_known_by_their_features():
    features = torch.zeros(4, 6, 12, 6 * 12)
    ids = torch.arange(72).reshape(6, 12)
    for t in range(4):
        features[t] = torch.nn.functional.one_hot(ids.roll(t, dims=1), 72).float()
    first = torch.zeros(6, 12)
    first[2:4, 1:3] = 1
    shares = carried(features, first, Affinity(top=1))
    for t in range(4):
        torch.testing.assert_close(shares[t], first.roll(t, dims=1))
    near = carried(features, first, Affinity(top=1, radius=1, last=0))
    assert not torch.equal(near[3], shares[3])  # it moved farther than the square reaches
    soft = carried(features, first, Affinity(top=10, temperature=1e6))
    assert 0 < soft[1].max() < 1 / 2


def test_jaccard_is_intersection_over_union_and_one_where_nothing_is():
    a = np.zeros((3, 4, 4), bool)
    b = a.copy()
    a[0, :2], b[0, 1:3] = True, True
    a[1] = True
    np.testing.assert_allclose(jaccard(a, b), [4 / 12, 0, 1])


def test_controls_copy_stay_or_follow():
    frames, masks = moving_square()
    still = jaccard(first_mask(frames, masks), masks)
    np.testing.assert_allclose(still, [(24 - 3 * t) / (24 + 3 * t) for t in range(6)])
    assert jaccard(along_flow(frames, masks), masks)[-1] > still[-1] + 0.2
    assert jaccard(CONTROLS["Lab colours"](frames, masks), masks).min() > 0.7
    assert lab_features(frames).shape == (6, 8, 12, 3)


@pytest.mark.parametrize("frames", [1, 4])
def test_tokens_of_any_encoder_are_unit_vectors_on_the_grid_of_the_picture(frames):
    own = encoder(frames=frames)
    movie, masks = moving_square(times=3)
    found = token_features(own, batch_size=2)(movie)
    assert found.shape == (3, 8, 12, 32)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, 8, 12))
    finer = token_features(own, height=128)(movie[:1])
    assert finer.shape == (1, 16, 24, 32)
    again = token_features(own, batch_size=3)(movie)
    torch.testing.assert_close(found, again, atol=1e-5, rtol=1e-4)
    assert by_features(token_features(own), Affinity())(movie, masks).shape == masks.shape


def test_only_the_first_mask_is_read():
    frames, masks = moving_square()
    hidden = masks.copy()
    hidden[1:] = np.random.default_rng(0).random(masks[1:].shape) > 0.5
    for carry in CONTROLS.values():
        np.testing.assert_array_equal(carry(frames, masks), carry(frames, hidden))


def test_refuses_settings_that_copy_nothing():
    for wrong in ({"top": 0}, {"radius": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError):
            Affinity(**wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.data
@pytest.mark.slow
def test_the_first_mask_scores_as_measured_and_pictures_are_kept(data_folder):
    found = evaluate_propagation(first_mask, data_folder / "video", name="first mask")
    assert found.encoders[0].scores["J"].score == pytest.approx(0.267, abs=0.0005)
    assert found.encoders[0].scores["J"].pairs == 20
    assert found.examples["blackswan"]["encoders"]["first mask"]["strip"]
    with pytest.raises(ValueError, match="no sequence 'swan'"):
        next(davis_sequences(data_folder / "video", ["swan"]))
