"""`unlabel train` with a share of the labels, from the command line."""

import json

import pytest

from unlabel.cli import main

pytestmark = pytest.mark.slow
TRAIN = ["--training.max_steps=2", "--training.per_device_train_batch_size=8"]
TRAIN += ["--training.logging_steps=1", "--training.save_strategy=no", "--training.report_to=none"]


def trained(out, *words):
    main(["train", *words, *TRAIN, f"--training.output_dir={out}"])
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return json.loads((out / "run.json").read_text()), lines[0]


@pytest.mark.data
def test_series_of_classes_train_s4l_with_any_pretext(tmp_path, data_folder):
    data = data_folder / "series/classification/GunPoint_TRAIN.ts.gz"
    words = ["--modality=series", f"--data={data}", "--series.context=96", "--series.labels=0.2"]
    pretext = ["--objective.pretext=ReorderPrediction", "--objective.pretext.segments=2"]
    about, log = trained(tmp_path / "run", *words, "--objective=s4l", *pretext)
    assert about["classes"] == 2
    parts = about["objective"]["parts"]
    assert [p["class"] for p in parts.values()] == ["Supervised", "ReorderPrediction"]
    assert log["chance/supervised/label"] == pytest.approx(0.693, abs=1e-3)
    assert log["objective/pretext/order"] > 0


def test_generated_sounds_train_sla(tmp_path):
    words = ["--modality=audio", "--audio.limit=32", "--audio.seconds=0.5", "--objective=sla"]
    about, log = trained(tmp_path / "run", *words)
    assert about["classes"] == 8
    assert log["chance/joint"] == pytest.approx(2.773, abs=1e-3)


def test_text_of_classes_trains_s4l_on_a_share_of_them(tmp_path, sentences):
    rows = [f'"{text}",{("even", "odd")[i % 2]}' for i, text in enumerate(sentences)]
    (tmp_path / "text.csv").write_text("\n".join(["text,kind", *rows]))
    words = [f"--data={tmp_path / 'text.csv'}", "--text.column=text", "--text.label_column=kind"]
    small = "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}"
    words += ["--text.labels=0.5", "--text.vocabulary=200", f"--text.config={small}"]
    about, log = trained(tmp_path / "run", *words, "--objective=s4l")
    assert about["classes"] == 2
    assert log["chance/supervised/label"] == pytest.approx(0.693, abs=1e-3)


def test_data_without_labels_is_refused_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit):
        trained(tmp_path / "run", "--modality=series", "--objective=sla")
    assert "learns from the labels of at least two classes" in capsys.readouterr().err
