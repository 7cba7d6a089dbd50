"""A share of the labels: how many of each class, and which."""

import numpy as np
import pytest

from unlabel.data_pipes.labels import kept_labels

LABELS = np.random.default_rng(3).integers(-1, 4, 500)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_each_class_keeps_its_share(share):
    kept = kept_labels(LABELS, share)
    assert ((kept == LABELS) | (kept == -1)).all()
    for label in range(4):
        assert (kept == label).sum() == round(share * (LABELS == label).sum())


def test_all_and_none():
    assert (kept_labels(LABELS, 1.0) == LABELS).all()
    assert (kept_labels(LABELS, 0.0) == -1).all()


def test_a_small_share_leaves_one_of_each_class():
    kept = kept_labels(LABELS, 1e-6)
    assert sorted(kept[kept >= 0]) == [0, 1, 2, 3]


def test_the_draw_is_the_seeds_and_no_class_is_drawn_by_its_place():
    same, other = kept_labels(LABELS, 0.3, seed=1), kept_labels(LABELS, 0.3, seed=2)
    assert (kept_labels(LABELS, 0.3, seed=1) == same).all() and (same != other).any()
    assert 0.3 < (np.flatnonzero(same >= 0) < 250).mean() < 0.7


def test_data_without_labels_stays_so():
    assert (kept_labels(np.full(5, -1), 0.5) == -1).all()
    assert len(kept_labels(np.zeros(0, np.int64), 0.5)) == 0


def test_no_share_is_refused():
    with pytest.raises(ValueError, match="share of labels to keep, from 0 to 1, but 10 came"):
        kept_labels(LABELS, 10)
