import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from unlabel.benchmarks import cross_modal as measures
from unlabel.benchmarks.actions import trained_stride
from unlabel.benchmarks.pair_pictures import first_ranks, plane
from unlabel.benchmarks.pair_vectors import PairVectors, encode_pairs
from unlabel.benchmarks.retrieval import bench_retrieval, ranks_of_own
from unlabel.benchmarks.retrieval_pairs import Measured
from unlabel.benchmarks.saved import saved_encoder
from unlabel.data_pipes import synthetic_pairs
from unlabel.data_pipes.pairs import PairData
from unlabel.embedding import load_embedder
from unlabel.kinds.pairs import PairsOptions
from unlabel.objectives import Objective
from unlabel.report import report
from unlabel.training.arguments import TrainingArguments


def unit(*rows):
    found = np.array(rows, dtype=np.float64)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def vectors(alike=None, labels=None, told=None, teachers=None, **shared):
    count = len(next(iter(shared.values())))
    return PairVectors(
        shared,
        shared,
        {name: np.arange(count) for name in shared} | (alike or {}),
        np.full(count, -1) if labels is None else np.array(labels),
        () if labels is None else ("circle", "square"),
        ("text",),
        told,
        teachers or {},
    )


def table(result):
    return {name: score.score for name, score in result.encoders[0].scores.items()}


def random_units(count, width=16, seed=0):
    return unit(*np.random.default_rng(seed).normal(size=(count, width)))


# -- ranks ----------------------------------------------------------------------------------------


def test_ranks_of_hand_made_vectors_are_exact():
    documents = unit([1, 0], [1, 1], [0, 1])
    queries = unit([1, 0.1], [1, -0.1], [1, 0])  # own document first, second, last
    assert ranks_of_own(queries, documents).tolist() == [1, 2, 3]


def test_ties_put_the_right_one_last_and_several_right_ones_are_met_at_the_first():
    queries, documents = unit(*[[1, 0]] * 4), unit([1, 0], [1, 0], [0, 1], [0, 1])
    assert ranks_of_own(queries, documents).tolist() == [2, 2, 4, 4]
    right, rows = measures.answers(np.array([0, 1, 1, 0]), np.arange(4))
    assert right.toarray().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]
    assert ranks_of_own(queries, documents[rows], right).tolist() == [2, 2, 2, 2]


def test_equal_documents_are_one():
    right, rows = measures.answers(np.arange(4), np.array([7, 5, 7, 5]))
    assert right.shape == (4, 2)
    assert sorted(rows.tolist()) == [0, 1]
    documents, queries = unit([1, 0], [0, 1], [1, 0], [0, 1]), unit(*[[2, 1]] * 4)
    ranks = ranks_of_own(queries, documents[rows], right)
    assert ranks.tolist() == [1, 2, 1, 2]  # not 3: the wrong caption counts once


def test_ranks_are_the_same_whatever_the_block():
    queries, documents = random_units(700), random_units(700, seed=1)
    whole = ranks_of_own(queries, documents)
    cosine = queries @ documents.T
    assert whole.tolist() == (cosine >= np.diag(cosine)[:, None]).sum(1).tolist()


@pytest.mark.parametrize("count", [128, 256, 512])
def test_any_number_of_equal_pairs_answer_each_other(count):
    right, _ = measures.answers(np.zeros(count, int), np.zeros(count, int))
    assert right.shape == (count, 1) and right.toarray().all()


def test_chance_of_single_answers_is_k_of_n():
    right, _ = measures.answers(np.arange(40), np.arange(40))
    within = measures.chance_of_ranks(right)
    np.testing.assert_allclose(within, np.arange(1, 41) / 40)
    assert measures.median_of(within) == 20.5
    assert measures.mean_reciprocal(within) == pytest.approx((1 / np.arange(1, 41)).sum() / 40)


def test_chance_of_several_answers_is_what_random_orders_give():
    asked = np.repeat(np.arange(8), [1, 1, 2, 2, 3, 3, 4, 4])
    right, rows = measures.answers(asked, np.arange(20))
    within = measures.chance_of_ranks(right)
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        at = rng.normal(size=(2, 20, 12))
        found.append(ranks_of_own(unit(*at[0]), unit(*at[1])[rows], right))
    found = np.concatenate(found)
    for k in (1, 3, 5):
        assert within[k - 1] == pytest.approx((found <= k).mean(), abs=0.02)
    assert measures.mean_reciprocal(within) == pytest.approx((1 / found).mean(), abs=0.02)
    assert abs(measures.median_of(within) - np.median(found)) <= 1


# -- the space ------------------------------------------------------------------------------------


def test_gap_of_equal_sets_is_0_and_of_opposite_points_2():
    some = random_units(20)
    assert measures.gap(some, some[::-1]) == pytest.approx(0, abs=1e-12)
    assert measures.gap(unit(*[[3, 0]] * 5), unit(*[[-1, 0]] * 5)) == pytest.approx(2)
    assert measures.gap(np.array([[2.0, 0]] * 3), np.array([[0, 5.0]] * 3)) == pytest.approx(2**0.5)


def test_plane_keeps_the_distances_of_what_lies_in_one():
    at = np.random.default_rng(0).normal(size=(2, 30, 2))
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 9)))
    found = plane({"text": at[0] @ turn[:2], "video": at[1] @ turn[:2]})
    points = {name: np.array(side) for name, side in found["sides"].items()}
    apart = np.linalg.norm(points["text"] - points["video"], axis=1)
    np.testing.assert_allclose(apart, np.linalg.norm(at[0] - at[1], axis=1), atol=1e-3)
    assert sum(found["variance"]) == pytest.approx(1, abs=1e-3)


def test_nearest_neighbour_is_never_the_sample_itself():
    at = unit([1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.25])
    found = measures.neighbours_right(at, np.array([0, 0, 1, 0, 1]))
    assert found.tolist() == [1, 1, 0, 0, 0]


# -- the tables -----------------------------------------------------------------------------------


def test_perfect_encoder_has_100_both_ways_and_no_gap():
    same = random_units(50)
    measured = Measured("x", vectors(text=same, video=same), bootstrap=100)
    found = measured.retrieval()
    assert set(table(found).values()) == {100.0}
    assert found.encoders[0].average.score == 100
    space = table(measured.space())
    assert space["text to video median rank"] == 1
    assert space["text and video gap"] == pytest.approx(0, abs=1e-9)
    assert space["text and video alignment"] == pytest.approx(0, abs=1e-9)
    assert space["text uniformity"] == space["video uniformity"] < 0


def test_each_ordered_pair_of_three_sides_is_measured():
    sides = {n: random_units(12, seed=i) for i, n in enumerate(("text", "video", "audio"))}
    measured = Measured("x", vectors(**sides), bootstrap=0)
    found = table(measured.retrieval())
    assert len(found) == 6 * 4
    assert len(first_ranks(found)) == 6
    assert found["audio to text R@10"] >= found["audio to text R@5"] >= found["audio to text R@1"]
    chance = table(measured.chance("retrieval"))
    assert set(chance) == set(found)
    assert chance["video to audio R@5"] == pytest.approx(100 * 5 / 12)
    assert table(measured.chance("space"))["video to audio median rank"] == 6.5


def test_random_vectors_score_as_chance_and_their_interval_holds_it():
    measured = Measured("x", vectors(text=random_units(300), video=random_units(300, seed=5)))
    found = measured.retrieval().encoders[0].scores["text to video R@10"]
    assert found.low < 100 * 10 / 300 < found.high


def test_zero_shot_is_the_nearest_name_of_a_class():
    told = unit([1, 0], [0, 1])
    video = unit([2, 1], [1, 2], [1, 3], [3, 1])
    measured = Measured(
        "x", vectors(text=video, video=video, labels=[0, 1, 0, -1], told=told), bootstrap=0
    )
    found = table(measured.retrieval())
    assert found["video zero-shot"] == pytest.approx(200 / 3)
    assert "text zero-shot" not in found
    assert table(measured.chance("retrieval"))["video zero-shot"] == 50
    assert "of 2 classes" in measured.retrieval().note
    without = Measured("x", vectors(text=video, video=video, labels=[0, 1, 0, -1]), bootstrap=0)
    assert "video zero-shot" not in table(without.retrieval())


def test_zero_shot_of_a_collapsed_encoder_is_chance():
    same = unit([1, 0], [1, 0], [1, 0], [1, 1e-9])
    labels, told = [0, 0, 0, 1], unit([1, 1], [1, 1])
    measured = Measured("x", vectors(text=same, video=same, labels=labels, told=told), bootstrap=0)
    assert table(measured.retrieval())["video zero-shot"] == 50


def test_teacher_is_measured_by_its_own_neighbours_beside_those_of_the_side():
    good, bad = unit([1, 0], [1, 0.1], [0, 1], [0.1, 1]), unit([1, 0], [0, 1], [1, 0.1], [0.1, 1])
    about = {"labels": [0, 0, 1, 1], "teachers": {"alone": ("video", good)}}
    measured = Measured("x", vectors(text=bad, video=bad, **about), bootstrap=0)
    assert table(measured.retrieval())["video neighbours"] == 0
    assert [table(t) for t in measured.taught()] == [{"video neighbours": 100.0}]
    whole = measured.retrieval() + measured.taught()[0]
    assert [e.name for e in whole.encoders] == ["x", "alone"]


def test_vectors_that_are_not_finite_have_no_score_and_a_reason():
    text = random_units(6)
    text[2] = np.nan
    measured = Measured("x", vectors(text=text, video=random_units(6)))
    found = measured.retrieval().encoders[0].scores["video to text R@1"]
    assert np.isnan(found.score)
    assert "not finite" in (found.reason or "")
    assert not measured.space().examples


# -- runs -----------------------------------------------------------------------------------------


class Store(list):
    """Samples that were made by hand."""

    classes, labels = (), np.zeros(0, np.int64)


def test_vectors_are_those_of_encode_and_bad_pairs_are_left_out(make_joint, joint_data):
    encoder = make_joint("text", "audio")
    ids = encoder.towers["text"].tokenize(joint_data["text"])
    ids[3] = ids[0]
    store = Store(
        {
            "sides": {"text": {"input_ids": ids[i]}, "audio": {"waveform": joint_data["audio"][i]}},
            "index": 1 if i == 2 else i,  # its file went bad, and another pair was drawn
            "ordinal": i,
        }
        for i in range(4)
    )
    found = encode_pairs(encoder, store, batch_size=3)  # pyright: ignore[reportArgumentType]
    audio = encoder.encode("audio", joint_data["audio"])[[0, 1, 3]]
    np.testing.assert_allclose(found.shared["audio"], audio, atol=1e-6)
    np.testing.assert_allclose(
        found.own["audio"], encoder.towers["audio"].encode(joint_data["audio"])[[0, 1, 3]],
        atol=1e-6,
    )  # fmt: skip
    assert len(found) == 3
    assert found.alike["text"][0] == found.alike["text"][2] != found.alike["text"][1]
    assert len(set(found.alike["audio"])) == 3


def test_shuffled_pairs_keep_every_value_and_belong_together_no_more():
    data = PairData({"text": list("abcdefgh"), "video": list(range(8)), "audio": list(range(8))})
    mixed = data.shuffled(seed=3)
    assert mixed.columns["text"] == data.columns["text"]
    assert {n: sorted(v) for n, v in mixed.columns.items()} == data.columns
    orders = [mixed.columns["video"], mixed.columns["audio"], list(range(8))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert data.shuffled(seed=3).columns == mixed.columns
    assert data.shuffled(seed=4).columns != mixed.columns
    with pytest.raises(ValueError, match="nothing to shuffle"):
        PairData({"video": [1, 2]}).shuffled(seed=0)


@pytest.fixture
def run(tmp_path, make_joint, joint_data):
    """A run's folder of text and audio, and a list of pairs that it has not seen."""
    from scipy.io import wavfile

    lines = ["path,said,kind"]
    for i in range(8):
        sound = np.random.default_rng(i).normal(size=4_000) * 0.2
        wavfile.write(
            tmp_path / f"{i}.wav", 8_000, (sound * 32_767).clip(-32_767, 32_767).astype("<i2")
        )
        lines.append(f"{i}.wav,{joint_data['text'][i % 4].replace(',', '')},{'ab'[i % 2]}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    sides = {"text": {"column": "said"}, "audio": {"column": "path", "rate": 8_000, "seconds": 0.5}}
    about = {"modality": "pairs", "data": "seen.csv", "encoder": {"sides": sides, "width": 8}}
    for seed in (0, 1):
        own = tmp_path / "run" / f"seed-{seed}"
        torch.manual_seed(seed)
        for part in ("untrained", "model"):
            encoder = make_joint("text", "audio")
            torch.nn.init.normal_(encoder.projections["audio"].weight)
            encoder.save_pretrained(own / part)
        (own / "run.json").write_text(json.dumps(about))
    return tmp_path / "run", tmp_path / "list.csv"


def test_command_measures_a_run_over_its_seeds_and_draws_it(run, tmp_path, make_joint):
    folder, data = run
    teacher = make_joint("text", "audio").towers["audio"]
    teacher.save_pretrained(tmp_path / "alone")
    bench_retrieval(
        folder,
        data=str(data),
        classes_column="kind",
        template="the sound {}",
        teacher=[str(tmp_path / "alone")],
        compare=[str(folder / "seed-0")],
        bootstrap=20,
    )
    saved = json.loads((folder / "results" / "retrieval.json").read_text())
    names = ["untrained", "trained", "seed-0", "chance", "alone"]
    assert [e["name"] for e in saved["encoders"]] == names
    assert len(saved["encoders"][1]["scores"]["audio to text MRR"]["seeds"]) in (0, 2)
    assert saved["encoders"][3]["scores"]["audio to text R@1"]["score"] == 25  # of 4 texts
    assert saved["encoders"][3]["scores"]["text to audio R@1"]["score"] == 25  # 2 of 8 sounds
    assert "audio zero-shot" in saved["encoders"][0]["scores"]
    assert list(saved["encoders"][4]["scores"]) == ["audio neighbours"]
    assert "'the sound {}'" in saved["note"]
    space = json.loads((folder / "results" / "space.json").read_text())
    assert space["better"] == "lower"
    assert "text and audio gap" in space["encoders"][0]["scores"]
    for picture in ("retrieval.png", "space.png"):
        assert (folder / "results" / picture).stat().st_size > 5_000
    assert (folder / "seed-1" / "results" / "space_examples.json").is_file()
    page = report(str(folder)).read_text()
    assert page.count("R@1 of each side for each other one") == 4  # the teacher finds none
    assert page.count("the sides in the shared space: ") == 3  # nor has chance a place
    assert "#070707" not in page and "var(--c1)" in page


def test_single_encoder_is_written_where_it_is_asked_for(run, tmp_path):
    folder, data = run
    model = folder / "seed-0" / "model"
    bench_retrieval(model, data=str(data), output=tmp_path / "o" / "x.json", limit=5, bootstrap=0)
    found = json.loads((tmp_path / "o" / "x.json").read_text())
    assert [e["name"] for e in found["encoders"]] == ["model", "chance"]
    assert found["setting"].startswith("one side finds the other of its pair among 5 ")
    assert {p.name for p in (tmp_path / "o").iterdir()} == {
        "x.json", "x.png", "x_space.json", "x_space.png", "x_space_examples.json"
    }  # fmt: skip


def test_run_on_generated_pairs_is_measured_on_their_held_out_ones(tmp_path, monkeypatch):
    made, asked = synthetic_pairs.embedded_pairs, []

    def few(split: Any = "train"):
        asked.append(split)
        return made(tmp_path, split=split, count=6)

    monkeypatch.setattr(synthetic_pairs, "embedded_pairs", few)
    options, args = PairsOptions(), TrainingArguments(output_dir=str(tmp_path / "run"))
    encoder = options.prepare("synthetic", Objective(), args, None).encoder
    for part in ("untrained", "model"):
        encoder.save_pretrained(tmp_path / "run" / part)
    about = {"modality": "pairs", "data": "synthetic", "encoder": dataclasses.asdict(options)}
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    found = bench_retrieval(tmp_path / "run", bootstrap=0)
    assert asked[:2] == ["train", "test"]
    assert "among 6 by cosine" in found.setting
    assert len(first_ranks(found.encoders[0].scores)) == 12
    assert "series zero-shot" in found.encoders[0].scores
    # A list of two of the sides, by an encoder of four.
    held = pd.read_csv(synthetic_pairs.embedded_pairs(split="test"))
    folder = Path(synthetic_pairs.embedded_pairs(split="test")).parent
    held = held.assign(audio=[str(folder / name) for name in held["audio"]])
    held[["text", "audio"]].to_csv(tmp_path / "two.csv", index=False)
    how: dict[str, Any] = {"data": str(tmp_path / "two.csv"), "bootstrap": 0}
    two = bench_retrieval(tmp_path / "run", sides=["text", "audio"], **how)
    assert first_ranks(two.encoders[0].scores).keys() == {("text", "audio"), ("audio", "text")}
    whole = found.encoders[1].scores["text to audio R@1"]
    assert two.encoders[1].scores["text to audio R@1"].score == whole.score
    with pytest.raises(ValueError, match="no column 'video', 'series'"):
        bench_retrieval(tmp_path / "run", **how)
    assert table(found) == {k: s.score for k, s in found.encoders[1].scores.items()}


def test_what_cannot_be_measured_is_refused(run, tmp_path, make_joint, make_encoder):
    folder, data = run
    with pytest.raises(ValueError, match=r"was trained on seen\.csv: name a list of pairs"):
        bench_retrieval(folder)
    with pytest.raises(ValueError, match="leave columns"):
        bench_retrieval(folder, columns=("a", "b"))
    make_encoder().save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="of text, which has no template"):
        bench_retrieval(tmp_path / "text", template="a {}")
    with pytest.raises(ValueError, match="teacher text is an encoder of text"):
        bench_retrieval(folder, data=str(data), teacher=[str(tmp_path / "text")])
    other = make_joint("text", "audio").towers["audio"]
    other.rate = 4_000
    other.save_pretrained(tmp_path / "slow")
    with pytest.raises(ValueError, match="made for rate=4000, but audio of the pairs is read with"):
        bench_retrieval(
            folder, data=str(data), teacher=[str(tmp_path / "slow")], classes_column="kind"
        )
    with pytest.raises(ValueError, match="compared by classes"):
        make_joint("text", "audio").towers["audio"].save_pretrained(tmp_path / "alone")
        bench_retrieval(folder, data=str(data), teacher=[str(tmp_path / "alone")])
    (tmp_path / "bare").mkdir()
    make_joint("text", "audio").save_pretrained(tmp_path / "bare" / "m")
    with pytest.raises(ValueError, match="Nothing says how"):
        bench_retrieval(tmp_path / "bare" / "m", data=str(data))


def test_benchmarks_of_one_kind_take_their_side_of_a_run_of_pairs(tmp_path, make_joint, joint_data):
    encoder = make_joint("text", "video", "audio")
    for part in ("untrained", "model"):
        encoder.save_pretrained(tmp_path / part)
    sides = {"seen": {"kind": "text"}, "video": {"stride": 4}}
    (tmp_path / "run.json").write_text(json.dumps({"encoder": {"sides": sides}}))
    found = {
        "video": saved_encoder(tmp_path, "frames", "video").encode(joint_data["video"]),
        "audio": saved_encoder(tmp_path / "untrained", "audio").encode(joint_data["audio"]),
        "text": load_embedder(tmp_path)(joint_data["text"]),
    }
    for side, of_run in found.items():
        expected = encoder.towers[side].encode(joint_data[side])
        np.testing.assert_allclose(of_run, expected, atol=1e-6)
    for place in (tmp_path, tmp_path / "model" / "video", tmp_path / "untrained" / "video"):
        assert trained_stride(place) == 4
    with pytest.raises(ValueError, match="is an encoder of pairs; this benchmark is for series"):
        saved_encoder(tmp_path, "series")
    with pytest.raises(ValueError, match="is an encoder of pairs"):
        saved_encoder(tmp_path, "video", "audio")  # which of the two?
