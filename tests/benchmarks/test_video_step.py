import json

import pytest

from unlabel.benchmarks import video_step as module
from unlabel.benchmarks.video_step import video_step

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}


@pytest.fixture
def tiny(monkeypatch):
    sizes = {"tiny": (4, 16, 2, {**TINY, "intermediate_size": 32}, {"hidden": 16, "layers": 1})}
    monkeypatch.setattr(module, "SIZES", sizes)


def test_all_sides_are_timed_and_written(tiny, tmp_path, capsys):
    rows = video_step(sizes=["tiny"], steps=1, output=str(tmp_path / "out" / "rows.json"))
    assert json.loads((tmp_path / "out" / "rows.json").read_text()) == rows
    (row,) = rows
    seconds = row["seconds"]
    assert row["tokens"] == 32 and set(seconds) == {"visible", "all", "transformers"}
    assert row["ratio"] == {side: s / seconds["visible"] for side, s in seconds.items()}
    assert "tiny" in capsys.readouterr().out


def test_wrong_options_are_named(tiny, capsys):
    with pytest.raises(ValueError, match="no size 'huge'"):
        video_step(sizes=["huge"])
    with pytest.raises(SystemExit):
        module.main(["--sizes", "[tiny]", "--steps", "0"])
    assert "steps is at least 1" in capsys.readouterr().err
