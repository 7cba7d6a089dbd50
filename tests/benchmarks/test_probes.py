"""Probes, splits and retrieval on features whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from unlabel.benchmarks.intervals import group_mean_resamples
from unlabel.benchmarks.labelled import labelled, read_labelled
from unlabel.benchmarks.probes import accuracy, first_hits, inner_folds, predict, probe_scores


def blobs(rows=60, classes=3, seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    label = np.arange(rows) % classes
    return np.eye(classes)[label] + spread * rng.normal(size=(rows, classes)), label.astype(str)


def test_the_rank_of_the_first_hit_counts_wrong_neighbours_that_are_nearer_or_as_near():
    train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.0]])
    ranks = first_hits(train, list("abca"), np.array([[1.0, 0.05]] * 4), list("abcd"))
    angle = np.abs(np.arctan2(train[:, 1], train[:, 0]) - np.arctan(0.05))
    order = np.array(list("abca"))[np.argsort(angle)]
    assert ranks[0] == 1 + list(order).index("a") and ranks[2] == 4
    assert ranks[1] == 1 + 2  # both a are as near as each other, and nearer than b
    assert ranks[3] == 5  # no d in the train part
    assert first_hits(np.ones((3, 2)), list("abb"), np.ones((1, 2)), ["a"])[0] == 3  # a tie


def test_probes_find_classes_and_nothing_in_shuffled_labels():
    x, label = blobs()
    data = labelled("blobs", range(60), label, seed=0)
    found = probe_scores(data, x, probes=("1-NN", "5-NN", "logistic"), bootstrap=200)
    assert list(found) == [f"blobs {p}" for p in ("1-NN", "5-NN", "logistic", "R@1", "R@5", "R@10")]
    assert all(s.score > 85 and s.low <= s.score <= s.high for s in found.values())
    mixed = labelled("blobs", range(60), np.random.default_rng(1).permutation(label), seed=0)
    chance = probe_scores(mixed, x, probes=("5-NN", "logistic"), ks=(), bootstrap=0)
    assert all(10 < s.score < 60 for s in chance.values())


def test_groups_that_a_sets_own_parts_do_not_keep_together_are_told():
    label, group = ["a", "b"] * 4, ["x", "x", "y", "y", "z", "z", "w", "w"]
    split = ["train"] * 5 + ["test"] * 3
    note = labelled("mine", range(8), label, group=group, split=split).note
    assert note == "mine: 1 group(s) (z, ...) in both parts of its own train and test."
    whole = ["train"] * 4 + ["test"] * 4
    assert not labelled("mine", range(8), label, group=group, split=whole).note
    fold = [0, 0, 0, 1, 1, 1, 1, 1]
    note = labelled("mine", range(8), label, group=group, fold=fold, note="more").note
    assert note == "mine: 1 group(s) (y, ...) in both parts of its own folds. more"


def test_groups_are_whole_in_every_fold_and_in_the_folds_inside_it():
    group = np.repeat(np.arange(20), 3).astype(str)
    label = np.random.default_rng(0).integers(0, 2, 60).astype(str)
    data = labelled("grouped", range(60), label, group=group)
    assert data.split == "5 grouped folds" and not data.note
    assert sorted(data.tested.tolist()) == list(range(60))
    for train, test in data.folds:
        assert not set(group[train]) & set(group[test])
        for a, b in inner_folds(label[train], group[train], 0) or []:
            assert not set(group[train][a]) & set(group[train][b])
    few = labelled("few", range(60), label, group=np.repeat(np.arange(4), 15))
    assert few.split == "leave one group out" and len(few.folds) == 4


def test_a_probe_that_knows_the_group_is_no_better_than_chance_on_unseen_groups():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 4)
    label = rng.integers(0, 2, 30)[group].astype(str)  # a group has one class
    x = rng.normal(size=(30, 8))[group] + 0.01 * rng.normal(size=(120, 8))
    apart = probe_scores(labelled("a", range(120), label, group=group), x, probes=("1-NN",), ks=())
    mixed = probe_scores(labelled("m", range(120), label), x, probes=("1-NN",), ks=())
    assert mixed["m 1-NN"].score > 98 and apart["a 1-NN"].score < 75


def test_the_bootstrap_of_groups_is_wider_than_that_of_single_samples():
    groups = np.repeat(np.arange(10), 10)
    values = np.repeat(np.array([0.0, 100.0] * 5), 10)
    drawn = group_mean_resamples(values, groups, resamples=4000, rng=np.random.default_rng(0))
    # Ten groups of mean 0 or 100: the standard error is 50 / sqrt(10).
    assert drawn.std() == pytest.approx(50 / np.sqrt(10), rel=0.05)
    assert drawn.mean() == pytest.approx(50, abs=1)
    data = labelled("g", range(100), ["a", "b"] * 50, group=groups)
    score = accuracy(data, np.ones(100, bool), bootstrap=50, seed=0)
    assert (score.score, score.low, score.high) == (100, 100, 100)


def test_given_splits_and_folds_are_kept():
    split = ["train", "test", "val"] * 4
    data = labelled("s", range(12), ["a", "b"] * 6, split=split)
    (train, test), *more = data.folds
    assert not more and train.tolist() == [0, 3, 6, 9] and test.tolist() == [1, 4, 7, 10]
    folds = labelled("f", range(12), ["a", "b"] * 6, fold=np.arange(12) // 4).folds
    assert [test.tolist() for _, test in folds] == [[*range(4)], [*range(4, 8)], [*range(8, 12)]]
    with pytest.raises(ValueError, match="0 say 'train' and 12 'test'"):
        labelled("s", range(12), ["a", "b"] * 6, split=["test"] * 12)
    with pytest.raises(ValueError, match="1 classes"):
        labelled("s", range(4), ["a"] * 4)


def test_class_folders_and_lists_are_read_with_what_they_say_of_splits(tmp_path):
    for part in ("train", "test"):
        for kind in ("run", "walk"):
            (tmp_path / "tree" / part / kind).mkdir(parents=True)
            (tmp_path / "tree" / part / kind / f"{part}.mp4").touch()
    data = read_labelled(tmp_path / "tree", (".mp4",))
    assert data.split == "own train and test" and sorted(set(data.label)) == ["run", "walk"]
    rows = [(f"{i}.mp4", "ab"[i % 2], f"p{i // 4}") for i in range(12)]
    for name, _, _ in rows:
        (tmp_path / name).touch()
    pd.DataFrame(rows, columns=["file", "class", "subject"]).to_csv(tmp_path / "l.csv", index=False)
    data = read_labelled(str(tmp_path / "l.csv"), (".mp4",))
    assert data.name == "l" and data.split == "leave one group out" and len(data.folds) == 3
    assert data.sources[3] == tmp_path / "3.mp4"
    alone = pd.DataFrame(rows, columns=["file", "class", "subject"]).drop(columns="subject")
    alone.to_csv(tmp_path / "alone.csv", index=False)
    assert "may lie in both" in read_labelled(tmp_path / "alone.csv", (".mp4",)).note


def test_refuses_lists_without_labels_lost_files_and_unknown_probes(tmp_path):
    pd.DataFrame({"path": ["a.mp4"], "x": [1]}).to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(ValueError, match="wanted for the label"):
        read_labelled(tmp_path / "l.csv", (".mp4",))
    pd.DataFrame({"path": ["a.mp4"], "label": ["b"]}).to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(FileNotFoundError, match=r"a\.mp4, and 1 in all are not there"):
        read_labelled(tmp_path / "l.csv", (".mp4",))
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match="in no class folder"):
        read_labelled(_lone(tmp_path / "lone"), (".mp4",))
    with pytest.raises(ValueError, match="No probe 'svm'"):
        predict("svm", *blobs(), blobs()[0])  # pyright: ignore[reportArgumentType]
    data = labelled("b", range(60), blobs()[1])
    with pytest.raises(ValueError, match="not finite"):
        probe_scores(data, np.full((60, 2), np.nan))


@pytest.mark.parametrize("column", ["label", "group"])
def test_a_row_of_a_list_that_says_nothing_is_no_class_and_no_group(tmp_path, column):
    table = pd.DataFrame({"path": [f"{i}.mp4" for i in range(12)], "label": ["a", "None"] * 6})
    table["group"] = [f"p{i // 4}" for i in range(12)]
    for name in table["path"]:
        (tmp_path / name).touch()
    table.to_csv(tmp_path / "l.csv", index=False)
    assert set(read_labelled(tmp_path / "l.csv", (".mp4",)).label) == {"a", "None"}
    table.loc[4:5, column] = ""
    table.to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(ValueError, match=f"2 rows have no {column}, the first of them line 6;"):
        read_labelled(tmp_path / "l.csv", (".mp4",))


def _lone(folder):
    folder.mkdir()
    (folder / "a.mp4").touch()
    return folder


def test_data_sets_of_the_datasets_library_are_read_undecoded():
    import datasets

    rows = {"clip": [{"bytes": b"x", "path": f"{i}.wav"} for i in range(6)], "kind": [0, 1] * 3}
    one = datasets.Dataset.from_dict(rows)
    one = one.cast_column("clip", datasets.Audio(decode=False))
    one = one.cast_column("kind", datasets.ClassLabel(names=["cat", "dog"]))
    data = read_labelled({"train": one, "test": one}, (".wav",))
    assert data.split == "own train and test" and data.label.tolist() == ["cat", "dog"] * 6
    assert data.sources[0]["bytes"] == b"x"
