import json
import random
import sys
from pathlib import Path

import pytest

from unlabel.benchmarks.text_step import main, text_step
from unlabel.benchmarks.text_step_sides import Work, timed


@pytest.fixture
def model(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def data(tmp_path, sentences):
    """96 lines of 2 to 9 words drawn at random."""
    words, draw = " ".join(sentences).split(), random.Random(0)
    lines = [" ".join(draw.choices(words, k=2 + i % 8)) for i in range(96)]
    file = tmp_path / "sentences.txt"
    file.write_text("".join(line + "\n" for line in lines))
    return str(file)


@pytest.fixture
def sts(tmp_path, sentences):
    rows = ["subset\tscore\tsentence1\tsentence2"]
    rows += [f"dev\t{i % 6}\t{s}\t{sentences[i - 1]}" for i, s in enumerate(sentences)]
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "stsb_dev.tsv").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "sts")


WORK = Work("", ("text",), 8, 32, "mean", 1, False, False, 1e-3, 1, 16, 0, 0.0, 0.0)
BURN = """
import json, pathlib, sys, time

def burn(seconds):
    began = time.process_time()
    while time.process_time() - began < seconds: pass

log = pathlib.Path(sys.argv[1]) / "log.jsonl"
burn(0.6)
log.write_text("")
burn(0.4)
time.sleep(0.3)
with log.open("a") as f: f.write(json.dumps({"train_runtime": 0.7, "step": 2}) + "\\n")
burn(0.6)
"""


def test_cpu_seconds_are_those_of_the_loop_alone(tmp_path):
    line, cpu = timed([sys.executable, "-c", BURN, str(tmp_path)], tmp_path, WORK)
    assert line["train_runtime"] == 0.7
    assert 0.25 < cpu < 0.6  # not what it burns before and after, nor what it sleeps


def test_a_training_that_fails_is_reported_with_what_it_said(tmp_path):
    with pytest.raises(RuntimeError, match=r"ended with 1:\nno such tokeniser"):
        timed([sys.executable, "-c", "raise SystemExit('no such tokeniser')"], tmp_path, WORK)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [None, ["short", "long"]])
def test_both_sides_do_the_same_work_and_are_timed(columns, model, data, sts, tmp_path):
    output = tmp_path / "results" / "step.json"
    if columns:
        lines = Path(data).read_text().splitlines()
        data = str(tmp_path / "pairs.csv")
        beside = [f"{i},{line} {line} {line}" for i, line in enumerate(lines)]
        Path(data).write_text("short,long\n" + "\n".join(beside))
    result = text_step(
        model=model, data=data, columns=columns, sentences=96, batch=8, max_length=32, lr=1e-3,
        rounds=1, seed=3, length_window=1, sts=sts, output=str(output),
    )  # fmt: skip
    (entry,) = result["rounds"]
    assert entry["seed"] == 3
    for side in ("ours", "peer"):
        run = entry[side]
        assert 0 < run["loop_seconds"] <= run["seconds"] < 60
        assert 0 < run["loop_cpu_seconds"] <= run["cpu_seconds"] < 60
        assert run["rate"] == pytest.approx(96 / run["seconds"])
        assert -100 <= entry["stsb_dev"][side] <= 100
    # The same sentences, weights and objective; shuffles and dropout are drawn differently. (Sorted
    # by length the loss would be higher: sentences of like length are harder to tell apart.)
    assert entry["ours"]["train_loss"] == pytest.approx(entry["peer"]["train_loss"], rel=0.25)
    assert entry["ours"]["padding"] == pytest.approx(entry["peer"]["padding"], rel=0.25)
    assert entry["stsb_dev"]["ours"] != entry["stsb_dev"]["before"]  # it did train
    assert entry["ratio"]["cpu"] == pytest.approx(
        entry["peer"]["cpu_seconds"] / entry["ours"]["cpu_seconds"]
    )
    assert result["summary"]["cpu"]["median"] == entry["ratio"]["cpu"]
    assert json.loads(output.read_text()) == json.loads(json.dumps(result))


def test_sentences_that_fill_no_whole_batches_are_refused(model, data):
    with pytest.raises(ValueError, match=r"30 sentences .* batches of 8.* take 32"):
        text_step(model=model, data=data, sentences=30, batch=8)


def test_columns_are_those_of_a_pair(model, data):
    with pytest.raises(ValueError, match="the two of a pair"):
        text_step(model=model, data=data, columns=["text"], sentences=96, batch=8)


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
