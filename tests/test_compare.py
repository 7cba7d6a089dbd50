"""`unlabel compare`: several objectives on the same data."""

import json
import math
from pathlib import Path

import pytest

from unlabel.benchmarks.result import EncoderScores, Score
from unlabel.candidates import BUDGET, Setting, Stopped
from unlabel.cli import main
from unlabel.compare import Compared, _agreement, compare
from unlabel.objectives import InstanceContrast
from unlabel.training.arguments import TrainingArguments

SMALL = {
    "--training.max_steps": "2",
    "--training.per_device_train_batch_size": "8",
    "--training.save_strategy": "no",
    "--training.report_to": "none",
    "--seeds": "2",
    "--samples": "20",  # there are 16
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
        assert figures["scores"]["effective rank"]["pairs"] == 16
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
    with pytest.raises(SystemExit):
        run(folder, *words, **{"audio.limit": "12"})
    assert "was trained with another limit" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"seeds": "1"}, {"training.seed": "7"}])
def test_other_seeds_do_not_mix_with_those_that_were_trained_before(audio, capsys, other):
    folder, words, _ = audio
    with pytest.raises(SystemExit):
        run(folder, *words, **other)
    assert "simclr/seed-42 is none of the" in capsys.readouterr().err
    assert not (folder / "simclr/run.json").exists()


def test_a_method_of_other_settings_is_not_the_one_that_was_trained_under_its_name(
    tmp_path, monkeypatch
):
    args = TrainingArguments(output_dir=str(tmp_path / "out"), report_to="none")
    budget = {k: getattr(args, k) for k in (*BUDGET, "seed")}
    about = {"training": budget, "encoder": {}, "result": {"finished": True}}

    def trained(*, training, **options):
        (Path(training.output_dir) / "run.json").write_text(json.dumps(about))

    monkeypatch.setattr("unlabel.candidates.train", trained)
    setting = Setting("audio", None, {"audio": None}, args)
    for temperature in (0.1, 0.1):
        setting.train("cold", InstanceContrast(temperature=temperature))
    with pytest.raises(
        ValueError, match="another InstanceContrast or other settings of it: take another"
    ):
        setting.train("cold", InstanceContrast(temperature=0.5))
    setting.train("warm", InstanceContrast(temperature=0.5))


def test_what_was_stopped_half_way_is_not_ranked(tmp_path, monkeypatch):
    """The training ends in good order when it is asked to, and leaves a run that says so."""
    asked = []
    monkeypatch.setattr("unlabel.candidates.train", lambda **options: asked.append(options))
    args = TrainingArguments(output_dir=str(tmp_path / "out"), report_to="none")
    with pytest.raises(Stopped, match="simclr was stopped before its end; the same command"):
        compare(objectives=["simclr", "vicreg"], modality="audio", training=args)
    assert len(asked) == 1


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


def test_what_has_no_score_comes_last_and_does_not_hide_what_the_figures_are_worth():
    """An encoder that collapsed has no rank correlation: its score is NaN."""
    scores = {"untrained": 1, "a": 10, "b": math.nan, "c": 50, "d": 70}
    kinds = ("effective rank", "views found", "alignment", "uniformity")
    looked: dict[str, list[dict[str, float]]] = {}
    looked |= {n: [dict.fromkeys(kinds, float(i))] for i, n in enumerate(scores)}
    figures = {n: EncoderScores("", {k: Score(v) for k, v in f[0].items()})
               for n, f in looked.items()}  # fmt: skip
    labels = {n: EncoderScores("", {"x": Score(s)}) for n, s in scores.items()}
    assert Compared(figures, labels).ranking() == ["d", "c", "a", "b"]
    assert _agreement(looked, labels)["effective rank"] == 1
