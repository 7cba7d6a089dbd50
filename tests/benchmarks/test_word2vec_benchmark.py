import gzip
import importlib.util
import json

import pytest

from unlabel.benchmarks.word2vec import main

no_gensim = importlib.util.find_spec("gensim") is None


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(no_gensim, reason="gensim is not installed: pip install 'unlabel[peers]'")
def test_both_sides_train_on_the_same_words_and_are_scored(data_folder, tmp_path, capsys):
    with gzip.open(data_folder / "text/wiki_en_valid.txt.gz", "rt") as lines:
        (tmp_path / "text.txt").write_text("".join(next(lines) for _ in range(400)))
    main(["--data", str(tmp_path / "text.txt"), "--width", "16", "--epochs", "2",
          "--output", str(tmp_path / "out.json")])  # fmt: skip
    sides = json.loads((tmp_path / "out.json").read_text())["sides"]
    assert [side["name"].split()[0] for side in sides] == ["gensim", "unlabel"] * 2 + ["unlabel"]
    assert len({side["words"] for side in sides}) == 1
    assert all(side["rate"] > 0 and -100 < side["score"] < 100 for side in sides)
    assert "ratio" in capsys.readouterr().out


@pytest.mark.skipif(not no_gensim, reason="gensim is installed, so there is nothing to hint at")
def test_missing_gensim_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("one two three\n")
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path / "text.txt")])
    assert "pip install 'unlabel[peers]'" in capsys.readouterr().err
