"""A share of the labels: how many of each class, and which."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unlabel.data_pipes.labels import kept_labels
from unlabel.data_pipes.pairs import read_pairs
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.text import read_text
from unlabel.data_pipes.tokens import TokenStore
from unlabel.data_pipes.videos import read_frames

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


def test_a_column_of_a_table_of_text_holds_the_classes(tmp_path, tokenizer):
    path = tmp_path / "reviews.csv"
    rows = ["text,label", "good food here,yes", "bad service there,no", "just food,", "so good,yes"]
    path.write_text("\n".join(rows))
    data = read_text(path, column="text", label_column="label", min_words=2)
    assert data.texts == ["good food here", "bad service there", "just food", "so good"]
    assert data.classes == ("no", "yes") and data.labels.tolist() == [1, 0, -1, 1]
    assert not data.partners
    store = TokenStore(
        data.texts, tokenizer, max_length=8, labels=data.labels, path=tmp_path / "store"
    )
    for one in (store, TokenStore.open(tmp_path / "store")):
        assert [one[i]["label"] for i in range(4)] == [1, 0, -1, 1]
    assert "label" not in TokenStore(data.texts, tokenizer, max_length=8)[0]
    with pytest.raises(ValueError, match="needs the column of the text by name"):
        read_text(path, label_column="label")


def test_a_column_of_a_table_of_series_holds_the_classes(tmp_path):
    path = tmp_path / "series.csv"
    rows = [
        f"{one},{t},{t * t},{kind}"
        for one, kind in (("a", "x"), ("b", "y"), ("c", "x"), ("d", ""))
        for t in range(8)
    ]
    path.write_text("\n".join(["unique_id,ds,y,kind", *rows]))
    data = read_series(path, label_column="kind")
    assert data.classes == ("x", "y") and [s.label for s in data] == [0, 1, 0, -1]
    assert data[0].values.shape == (8, 1)
    with pytest.raises(ValueError, match="no column 'sort'"):
        read_series(path, label_column="sort")


@pytest.mark.parametrize("empty", [None, float("nan"), np.float32("nan"), " ", pd.NA])
def test_an_empty_field_is_no_class_in_a_table_of_any_kind(tmp_path, empty):
    for place in range(3):
        Image.new("L", (4, 4)).save(tmp_path / f"{place}.png")
    rows = [
        {"text": f"Text {i}.", "path": str(tmp_path / f"{i}.png"), "label": label}
        for i, label in enumerate(["b", empty, "a"])
    ]
    for source in (rows, pd.DataFrame(rows)):
        text = read_text(source, column="text", label_column="label")
        sides = {"text": "text", "frames": "path"}
        for data in (text, read_pairs(source, sides, label_column="label"), read_frames(source)):
            assert data.classes == ("a", "b")
            assert np.asarray(data.labels).tolist() == [1, -1, 0]
