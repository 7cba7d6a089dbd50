import json

import pytest

from unlabel.benchmarks.text_step import main, text_step


@pytest.fixture
def model(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def data(tmp_path, sentences):
    """96 sentences, long and short ones mixed."""
    file = tmp_path / "sentences.txt"
    lines = [f"{sentence} {i}" for i in range(6) for sentence in sentences]
    file.write_text("".join(line + "\n" for line in lines))
    return str(file)


@pytest.fixture
def sts(tmp_path, sentences):
    rows = ["subset\tscore\tsentence1\tsentence2"]
    rows += [f"dev\t{i % 6}\t{s}\t{sentences[i - 1]}" for i, s in enumerate(sentences)]
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "stsb_dev.tsv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "sts")


@pytest.mark.slow
def test_both_sides_do_the_same_work_and_are_timed(model, data, sts, tmp_path):
    output = tmp_path / "results" / "step.json"
    result = text_step(
        model=model, data=data, sentences=96, batch=8, max_length=32, lr=1e-3, rounds=1, seed=3,
        sts=sts, output=str(output),
    )  # fmt: skip
    (entry,) = result["rounds"]
    assert entry["seed"] == 3
    for side in ("ours", "peer"):
        run = entry[side]
        assert 0 < run["loop_seconds"] <= run["seconds"] < 60
        assert 0 < run["loop_cpu_seconds"] <= run["cpu_seconds"] < 60
        assert run["rate"] == pytest.approx(96 / run["seconds"])
        assert -100 <= entry["stsb_dev"][side] <= 100
    # The same loss on the same sentences and weights; batches and dropout are drawn differently.
    assert entry["ours"]["train_loss"] == pytest.approx(entry["peer"]["train_loss"], rel=0.3)
    assert entry["ours"]["padding"] < entry["peer"]["padding"]
    assert entry["stsb_dev"]["ours"] != entry["stsb_dev"]["before"]  # it did train
    assert entry["ratio"]["cpu"] == pytest.approx(
        entry["peer"]["cpu_seconds"] / entry["ours"]["cpu_seconds"]
    )
    assert result["summary"]["cpu"]["median"] == entry["ratio"]["cpu"]
    assert json.loads(output.read_text()) == json.loads(json.dumps(result))


def test_sentences_that_fill_no_whole_batches_are_refused(model, data):
    with pytest.raises(ValueError, match=r"30 sentences .* batches of 8.* take 32"):
        text_step(model=model, data=data, sentences=30, batch=8)


def test_too_few_sentences_are_refused(model, data):
    with pytest.raises(ValueError, match="holds 96 usable sentences, 128 were asked for"):
        text_step(model=model, data=data, sentences=128, batch=8)


def test_a_model_that_would_be_fetched_is_refused(data):
    with pytest.raises(ValueError, match=r"no-such-model is no model folder"):
        text_step(model="no-such-model", data=data, sentences=32, batch=8)


def test_the_command_line_takes_dashes_and_ends_user_errors_in_one_sentence(model, data, capsys):
    given = ["--model", model, "--data", data, "--max-length", "32", "--sentences", "30"]
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--batch", "8"])
    said = capsys.readouterr().err
    assert said.startswith("text_step: 30 sentences") and said.count("\n") == 1
