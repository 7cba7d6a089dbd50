"""Benchmarks of runs: seeds, and the encoder whitened as a control."""

import json

import pytest

from unlabel.benchmarks import (
    actions,
    alignment,
    classification,
    forecasting,
    propagation,
    retrieval,
    sounds,
    sts,
)
from unlabel.benchmarks.result import Score
from unlabel.benchmarks.retrieval import evaluate_retrieval
from unlabel.benchmarks.runs import bench, seed_runs
from unlabel.report.scores import score_table


@pytest.fixture
def run(tmp_path, make_encoder):
    """A run of three seeds."""
    for seed in (2, 10, 9):
        folder = tmp_path / "run" / f"seed-{seed}"
        make_encoder(seed=seed).save_pretrained(folder / "untrained")
        make_encoder(seed=100 + seed).save_pretrained(folder / "model")
    return tmp_path / "run"


def test_seeds_are_taken_in_the_order_of_their_numbers(run):
    assert [p.name for p in seed_runs(run)] == ["seed-2", "seed-9", "seed-10"]
    assert seed_runs(run / "seed-2") == [run / "seed-2"]
    assert seed_runs(run / "seed-2" / "model") == []


def test_a_run_of_seeds_gives_means_and_each_seed_keeps_its_own_result(run, sentences):
    def evaluate(embed):
        return evaluate_retrieval(embed, sentences[:8], sentences[8:], bootstrap=20)

    result = bench(run, evaluate, whiten_on=sentences)
    names = [e.name for e in result.encoders]
    assert names == ["untrained", "trained", "trained, whitened"]
    own = [
        json.loads((run / f"seed-{s}" / "results" / "retrieval.json").read_text())
        for s in (2, 9, 10)
    ]
    scores = [o["encoders"][1]["scores"]["mrr"]["score"] for o in own]
    trained = result.encoders[1].scores["mrr"]
    assert trained.score == pytest.approx(sum(scores) / 3, abs=1e-5)
    assert trained.seeds == pytest.approx(scores, abs=1e-5)
    assert trained.low < trained.score < trained.high
    saved = json.loads((run / "results" / "retrieval.json").read_text())
    assert saved["encoders"][1]["scores"]["mrr"]["seeds"] == pytest.approx(scores, abs=1e-5)


def test_encoders_of_equal_folder_names_stay_apart(run, sentences):
    """A report tells columns apart by their names: `untrained` would be another run's."""
    pairs = (sentences[:8], sentences[8:])
    result = bench(
        run / "seed-2",
        lambda embed: evaluate_retrieval(embed, *pairs, bootstrap=0),
        compare=[run / "seed-9" / "untrained", run / "seed-10" / "untrained", run / "seed-9"],
    )
    names = [e.name for e in result.encoders]
    beside = ["seed-9/untrained", "seed-10/untrained", "seed-9"]
    assert names == ["untrained", "trained", *beside]
    table = score_table(result.to_dict())
    assert table.columns == ("untrained", "trained", "gain", *beside)
    own = result.encoders[0].scores["mrr"].score
    assert table.rows[-1].cells[0]["score"] == pytest.approx(own, abs=1e-6)


def test_differences_over_seeds_are_paired():
    before = Score.over_seeds([Score(10.0), Score(20.0), Score(30.0)])
    after = Score.over_seeds([Score(11.0), Score(21.5), Score(32.0)])
    gain = after - before
    assert gain.score == pytest.approx(1.5) and gain.seeds == pytest.approx((1.0, 1.5, 2.0))
    # Student's interval: 1.5 -+ 4.3027 * 0.5 / sqrt(3)
    assert gain.low == pytest.approx(1.5 - 1.2421, abs=1e-3)
    assert (after - Score(10.0)).seeds == pytest.approx((1.0, 11.5, 22.0))


BENCHES = {
    "sts": (sts, {"controls_from": "none.txt"}, "series"),
    "retrieval": (retrieval, {}, "series"),
    "forecasting": (forecasting, {}, "text"),
    "classification": (classification, {}, "text"),
    "actions": (actions, {}, "text"),
    "alignment": (alignment, {}, "text"),
    "propagation": (propagation, {}, "text"),
    "sounds": (sounds, {}, "text"),
}


@pytest.mark.parametrize("name", BENCHES)
def test_what_cannot_be_measured_is_refused_before_anything_is(name, run, tmp_path, monkeypatch):
    """Neither sets are read nor controls computed for a run of something else, or for none."""
    module, more, kind = BENCHES[name]
    of_text = run / "seed-2" / "model"
    other = tmp_path / "other"
    of_text.rename(other)
    (other / "unlabel.json").write_text(json.dumps({"modality": kind}))

    def computed(*args, **kwargs):
        raise AssertionError("it was computed")

    works = [n for n in vars(module) if n.startswith(("evaluate_", "load_", "read_", "docstring"))]
    for work in works:
        if not work.endswith(("_encoder", "_embedder")):
            monkeypatch.setattr(module, work, computed)
    bench_it = getattr(module, f"bench_{name}")
    with pytest.raises(ValueError, match=f"is an encoder of {kind}"):
        bench_it(other, **more)
    with pytest.raises((ValueError, FileNotFoundError), match=r"no folder|does not exist"):
        bench_it(tmp_path / "nothing there", **more)
