"""`unlabel compare`: several objectives on the same data."""

import json

import pytest

from unlabel.benchmarks.result import EncoderScores, Score
from unlabel.cli import main
from unlabel.compare import Compared, compare
from unlabel.training.arguments import TrainingArguments

SMALL = {
    "--training.max_steps": "2",
    "--training.per_device_train_batch_size": "8",
    "--training.save_strategy": "no",
    "--training.report_to": "none",
    "--seeds": "2",
    "--samples": "16",
}


def run(folder, *more, **changes):
    given = SMALL | {f"--{k}": v for k, v in changes.items()}
    words = [w for pair in given.items() for w in pair]
    main(["compare", *more, *words, "--training.output_dir", str(folder)])
    return json.loads((folder / "compare.json").read_text())


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    sizes = "{num_mel_bins: 16, patch_size: 16, num_hidden_layers: 1, hidden_size: 16}"
    words = ["--modality", "audio", "--audio.config", sizes, "--audio.limit", "16"]
    words += ["--objectives", "simclr,masked_values,mlm", "--labels", "[synthetic]"]
    return folder, words, run(folder, *words)


@pytest.mark.slow
def test_every_objective_is_trained_measured_and_ranked(audio):
    folder, _, found = audio
    assert sorted(found["ranking"]) == ["masked_values", "simclr"]
    assert set(found["figures"]) == {"untrained", "simclr", "masked_values"}
    assert set(found["labels"]) == set(found["figures"])
    for figures in found["figures"].values():
        assert set(figures["scores"]) == {
            "effective rank",
            "views found",
            "alignment",
            "uniformity",
        }
        assert len(figures["scores"]["effective rank"]["seeds"]) == 2
    means = {n: s["scores"]["synthetic logistic"]["score"] for n, s in found["labels"].items()}
    assert found["ranking"] == sorted(found["ranking"], key=lambda n: -means[n])
    assert set(found["agreement"]) == set(figures["scores"])
    assert (folder / "compare.png").stat().st_size > 5000
    assert (folder / "simclr/seed-42/model/config.json").is_file()


@pytest.mark.slow
def test_what_cannot_run_is_named_and_the_others_go_on(audio):
    assert set(audio[2]["refused"]) == {"mlm"} and "MLM needs" in audio[2]["refused"]["mlm"]


@pytest.mark.slow
def test_what_is_trained_already_is_kept(audio):
    folder, words, before = audio
    weights = folder / "simclr/seed-42/model/model.safetensors"
    at = weights.stat().st_mtime_ns
    again = run(folder, *words)
    assert weights.stat().st_mtime_ns == at
    assert again["figures"] == before["figures"] and again["labels"] == before["labels"]


@pytest.mark.slow
def test_another_budget_does_not_mix_with_what_was_trained_before(audio, capsys):
    folder, words, _ = audio
    with pytest.raises(SystemExit):
        run(folder, *words, **{"training.max_steps": "3"})
    assert "was trained with another max_steps" in capsys.readouterr().err


def test_unknown_objectives_are_refused_before_any_work(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path / "out"), report_to="none")
    with pytest.raises(ValueError, match="No objective 'simclear'"):
        compare(objectives=["simclr", "simclear"], training=args)
    assert not (tmp_path / "out").exists()


def test_without_labels_the_order_is_that_of_the_places():
    figures = {
        name: EncoderScores("", {"effective rank": Score(rank), "views found": Score(views)})
        for name, rank, views in (("untrained", 9, 9), ("a", 2, 80), ("b", 5, 90), ("c", 3, 70))
    }
    found = Compared(figures)
    assert found.places() == {"a": 2.5, "b": 1.0, "c": 2.5}
    assert found.ranking()[0] == "b"
    found.labels = {
        n: EncoderScores("", {"x": Score(s)}) for n, s in zip("abc", (3, 1, 2), strict=True)
    }
    assert found.ranking() == ["a", "c", "b"]
