import json
import subprocess
import sys
from pathlib import Path

import pytest

from unlabel.cli import main, run
from unlabel.files import alone_in
from unlabel.objectives import CATALOGUE
from unlabel.pretrain import is_finished

RECIPES_FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(RECIPES_FOLDER.rglob("*.yaml"))
TINY = [
    "--text.config",
    '{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,'
    ' "max_position_embeddings": 40}',
    "--text.vocabulary=200",
    "--training.per_device_train_batch_size=4",
    "--training.max_steps=3",
    "--training.logging_steps=1",
    "--training.save_steps=2",
]


@pytest.fixture
def notes(tmp_path, sentences):
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(sentences) + "\n")
    return path


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_list_names_every_method_with_its_paper(capsys):
    main(["list"])
    out = capsys.readouterr().out
    for name in CATALOGUE:
        assert f"│ {name} " in out
    assert "series" in out and "1810.04805" in out


def test_list_for_one_kind_of_data_says_what_a_method_lacks_there(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main(["list", "--modality=text"])
    out = capsys.readouterr().out
    assert "second sensor" in out and "overlap" in out
    can, cannot = out.split("Not on text")
    assert "│ mlm " in can and "│ mae " in cannot and "│ mlm " not in cannot
    # The views that its objectives may name, too.
    assert "│ span_cutoff " in can.split("Views of text")[1]


def test_list_says_where_a_view_comes_from_and_what_runs_on_sides(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main(["list", "--modality=frames"])
    row = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("│ background "))
    assert "Ryali et al. 2021" in row
    main(["list", "--modality=pairs"])
    can, cannot = capsys.readouterr().out.split("Not on pairs")
    assert all(f"│ {name} " in can for name in ("clip", "siglip", "cmc", "distill_sides"))
    assert "│ barlow " in cannot and "Views of" not in can


def test_the_list_is_a_line_or_two_a_method(capsys):
    main(["list"])
    assert len(capsys.readouterr().out.splitlines()) < 2 * len(CATALOGUE)


def test_list_of_an_unknown_modality_says_which_there_are(capsys):
    said = refused(capsys, "list", "--modality=smell")
    assert "No modality 'smell'; there are text, series" in said


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_accepted_and_short_and_says_how_to_run_it(recipe, capsys):
    text = recipe.read_text()
    assert len(text.splitlines()) <= 40
    place = recipe.relative_to(RECIPES_FOLDER.parent).as_posix()
    assert text.startswith("# ") and f"unlabel train {place}" in text
    with pytest.raises(SystemExit) as stop:
        main(["train", str(recipe), "--print_config"])
    assert stop.value.code == 0
    assert "class_path: unlabel.objectives" in capsys.readouterr().out


def test_a_misspelt_option_is_refused_by_name(capsys, notes):
    said = refused(
        capsys, "train", "--objective=simcse", f"--data={notes}", "--training.max_stepps=3"
    )
    wanted = "There is no option 'max_stepps' of TrainingArguments (did you mean max_steps?)."
    assert said == f"unlabel: {wanted}\n"


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("trian notes.txt", "No command 'trian' (did you mean train?); there are train, compare,"),
        ("bench stss RUN", "No command 'stss' (did you mean sts?); there are sts, retrieval"),
        ("", "`unlabel` wants a command: train, compare"),
        ("bench", "`unlabel bench` wants a command: sts, retrieval"),
        ("train --data=n.txt", "`unlabel train` wants --objective; see `unlabel train --help`."),
        ("embed RUN", "`unlabel embed` wants a SOURCE; see `unlabel embed --help`."),
        ("list --modalty=text", "no option --modalty (did you mean --modality?); `unlabel list"),
        (
            "train --objective=simcse --trainng.max_steps=3",
            "no option --trainng.max_steps (did you mean --training.max_steps?); `unlabel",
        ),
        ("train n.txt --objective=simcse", "`unlabel train` has no place for 'n.txt': name the"),
        ("train none.yaml", "none.yaml: there is no such recipe."),
        (
            "train --objective=simcse --objective.temprature=1",
            "There is no option 'temprature' of SimCSE (did you mean temperature?).",
        ),
        (
            "train --objective=simcse --objective.temperature=warm",
            "temperature of SimCSE is a number, but warm came.",
        ),
        (
            "train --objective=forecast --series.target=load",
            "target of SeriesOptions is a list, such as [a, b], but load came.",
        ),
        ("train --objective=mlm --text.limit=x", "limit of TextOptions is a whole number, but x"),
        (
            "export RUN --to=onxx",
            "to is one of 'sentence-transformers', 'transformers', but onxx came.",
        ),
        (
            "train --objective=debiased --objective.widht=9",
            "There is no option 'widht' of Debiased (did you mean width?).",
        ),
        (
            "train --objective=simcse --modality=txt",
            "modality is one of 'text', 'series', 'frames', 'video', 'audio', 'pairs', but txt",
        ),
    ],
)
def test_a_slip_is_told_in_one_sentence_with_what_was_meant(capsys, line, wanted):
    said = refused(capsys, *line.split())
    assert said.startswith("unlabel: ") and said.count("\n") == 1 and wanted in said


def test_a_value_that_cannot_be_is_refused_in_one_sentence(capsys, notes):
    said = refused(
        capsys, "train", "--data", str(notes), "--objective", "simcse",
        "--training.output_dir", str(notes.parent / "run"), "--training.length_window", "0",
    )  # fmt: skip
    assert said == "unlabel: length_window is at least 1, but 0 came.\n"


def test_ctrl_c_ends_in_a_line_and_the_code_that_shells_expect(capsys, monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unlabel.cli.main", interrupted)
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "unlabel: interrupted.\n"


def test_what_would_do_nothing_is_refused_in_one_sentence(capsys, notes):
    train = ["train", "--data", str(notes), "--objective", "simcse"]
    out = ["--training.output_dir", str(notes.parent / "run")]
    assert (
        refused(capsys, *train, *out, "--seeds=0") == "unlabel: seeds is at least 1, but 0 came.\n"
    )
    said = refused(capsys, *train, *out, "--training.gradient_accumulation_steps=0")
    assert said == "unlabel: gradient_accumulation_steps is at least 1, but 0 came.\n"
    assert "An empty --data" in refused(capsys, "train", "--data=", "--objective=simcse", *out)
    assert "An empty --data" in refused(capsys, *train, "--training.output_dir=")
    said = refused(capsys, "scan", "")
    assert said.startswith("unlabel: An empty path came; name a file or folder")
    inside = ["--training.output_dir", str(notes / "run")]
    assert refused(capsys, *train, *inside) == (
        f"unlabel: {notes} is a file; give --training.output_dir a folder.\n"
    )
    said = refused(capsys, *train, *out, "--objective.temperature=0")
    assert said == "unlabel: A temperature is above 0, but 0.0 came.\n"
    for words in (["score", "run", str(notes)], ["index", "run", str(notes)]):
        said = refused(capsys, *words, "--batch_size=0")
        assert said == "unlabel: batch_size is at least 1, but 0 came.\n"
    for option in ("batch_size", "max_length"):
        said = refused(capsys, "embed", str(notes), str(notes), f"--{option}=0")
        assert said == f"unlabel: {option} is at least 1, but 0 came.\n"


def test_an_unknown_objective_is_refused_with_the_list(capsys, notes):
    said = refused(capsys, "train", "--objective", "simcsee", f"--data={notes}")
    assert "No objective 'simcsee' (did you mean simcse?); `unlabel list` names all." in said


def test_missing_data_is_one_sentence(capsys, tmp_path):
    out = f"--training.output_dir={tmp_path / 'out'}"
    said = refused(capsys, "train", "--objective", "simcse", "--data", "no/such.txt", out)
    assert "no/such.txt" in said and "Traceback" not in said


@pytest.mark.parametrize("kind", ["text", "video", "frames", "series", "audio", "pairs"])
def test_a_pretrained_model_that_is_nowhere_is_one_sentence(capsys, tmp_path, kind):
    words = ["--modality", kind, "--objective", "clip" if kind == "pairs" else "simclr"]
    out = str(tmp_path / "r")
    with pytest.raises(SystemExit) as stop:
        main(["train", *words, f"--{kind}.pretrained", "no/such/folder",
              "--training.output_dir", out])  # fmt: skip
    said = capsys.readouterr().err.strip().splitlines()[-1]
    there = "is no folder" if kind == "pairs" else "no model of that name came from"
    assert stop.value.code == 2 and "no/such/folder" in said and there in said
    assert "huggingface.co" not in said


def test_an_objective_that_the_data_cannot_feed_is_refused_before_training(capsys, notes, tmp_path):
    run = tmp_path / "run"
    out = f"--training.output_dir={run}"
    said = refused(capsys, "train", "--objective", "pairs", "--data", str(notes), out, *TINY)
    assert "wants a 'positive' sentence beside each sample" in said
    # Nothing was trained, so the folder is free for another try.
    main(["train", "--objective", "simcse", "--data", str(notes), out, *TINY])
    assert (run / "model" / "config.json").is_file()


def test_train_then_embed_export_and_report(notes, tmp_path, capsys):
    run = tmp_path / "run"
    out = f"--training.output_dir={run}"
    main(["train", "--objective", "simcse", "--data", str(notes), out, *TINY])
    about = json.loads((run / "run.json").read_text())
    assert about["result"]["finished"] and about["samples"] == 16
    assert about["result"]["padding"]["by_length"] <= about["result"]["padding"]["shuffled"]
    assert 0 < about["result"]["waiting_share"] < 1
    lines = [json.loads(x) for x in (run / "log.jsonl").read_text().splitlines()]
    first = lines[0]
    assert first["objective/contrast"] == pytest.approx(first["loss"], rel=1e-4)
    assert first["chance/contrast"] == pytest.approx(1.386, abs=1e-3)
    monitors = ("std", "effective_rank", "alignment", "waiting")
    assert {f"monitor/{name}" for name in monitors} <= first.keys()
    main(["embed", str(run), str(notes), "--output", str(tmp_path / "vectors.parquet")])
    main(["export", str(run)])
    main(["report", str(run)])
    assert (tmp_path / "vectors.parquet").is_file()
    assert (run / "sentence-transformers" / "modules.json").is_file()
    assert (run / "report.html").is_file()
    again = refused(capsys, "train", "--objective", "simcse", "--data", str(notes), out, *TINY)
    assert "holds a run already" in again


def test_resume_of_another_recipe_is_refused(notes, tmp_path, capsys):
    out = f"--training.output_dir={tmp_path / 'run'}"
    main(["train", "--objective", "simcse", "--data", str(notes), out, *TINY])
    said = refused(
        capsys, "train", "--objective", "cutoff", "--data", str(notes), out, "--resume", *TINY
    )
    assert "was begun with another objective" in said
    again = ["train", "--objective", "simcse", "--data", str(notes), out, "--resume", *TINY]
    said = refused(capsys, *again, "--training.learning_rate=0.5", "--training.weight_decay=0.1")
    assert "begun with another training.learning_rate, training.weight_decay, so" in said
    main(again)


def test_seeds_that_are_finished_are_passed_over_unless_more_is_asked_of_them(
    notes, tmp_path, capsys
):
    out = f"--training.output_dir={tmp_path / 'run'}"
    again = ["train", "--objective", "simcse", "--data", str(notes), out, "--seeds=2", *TINY]
    main(again)
    records = [tmp_path / "run" / f"seed-{n}" / "run.json" for n in (42, 43)]
    before = [r.read_text() for r in records]
    main([*again, "--resume"])
    assert [r.read_text() for r in records] == before
    said = refused(capsys, *again, "--resume", "--training.learning_rate=0.5")
    assert "seed-42 was begun with another training.learning_rate, so" in said
    main([*again, "--resume", "--training.max_steps=6"])
    assert [json.loads(r.read_text())["result"]["steps"] for r in records] == [6, 6]


def test_a_folder_is_of_one_process_at_a_time_and_of_none_that_died(notes, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    hold = "import sys, time; from pathlib import Path; from unlabel.files import alone_in\n"
    hold += "with alone_in(Path(sys.argv[1])): print('held', flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", hold, run], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with (
            pytest.raises(ValueError, match="Another process is at work in"),
            alone_in(run, patience=0),
        ):
            pass
        other.kill()
    out = f"--training.output_dir={run}"
    main(["train", "--objective", "simcse", "--data", str(notes), out, *TINY])
    assert is_finished(run)


def test_a_run_of_several_seeds_that_is_asked_to_stop_begins_no_other_seed(
    notes, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    arguments = ["train", "--objective", "simcse", "--data", str(notes), "--seeds", "2"]
    arguments += [f"--training.output_dir={run}", "--training.seed=5", *TINY]
    with monkeypatch.context() as asked:
        asked.setattr("unlabel.training.stop.StopSignal.agree", lambda self, device: True)
        main(arguments)
    assert not is_finished(run / "seed-5") and not (run / "seed-6").exists()
    main([*arguments, "--resume"])
    assert is_finished(run / "seed-5") and is_finished(run / "seed-6")


def test_several_seeds_train_into_folders_of_their_own(notes, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", "--objective", "simcse", "--data", str(notes), "--seeds", "2"]
    arguments += [f"--training.output_dir={run}", "--training.seed=5", *TINY]
    main(arguments)
    weights = [(run / f"seed-{s}" / "model" / "model.safetensors").read_bytes() for s in (5, 6)]
    assert weights[0] != weights[1]
    stamp = (run / "seed-5" / "run.json").stat().st_mtime_ns
    main([*arguments, "--resume"])  # both are finished: nothing is trained again
    assert (run / "seed-5" / "run.json").stat().st_mtime_ns == stamp
