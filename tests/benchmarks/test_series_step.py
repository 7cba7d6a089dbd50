import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from unlabel.benchmarks.series_step import main, series_step
from unlabel.benchmarks.series_step_job import Job, Missing, timed
from unlabel.benchmarks.series_step_sides import SIDES, work
from unlabel.benchmarks.series_step_sides import main as sides

PATCH = {"patch_length": 4, "d_model": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
PATCH["ffn_dim"] = 8
CONV = {"hidden_size": 4, "output_size": 6, "num_hidden_layers": 2}
# What the public code offers, and what this benchmark uses of it.
TS2VEC = """
import numpy as np
import torch

np.bool


class TS2Vec:
    def __init__(self, input_dims, output_dims=320, hidden_dims=64, depth=10, device="cuda",
                 lr=0.001, batch_size=16, after_iter_callback=None):
        self._net = torch.nn.Linear(input_dims, output_dims)
        self.batch_size, self.mark = batch_size, after_iter_callback

    def fit(self, train_data, n_iters):
        for _ in range(n_iters):
            x = torch.from_numpy(train_data[: self.batch_size])
            assert x.shape[0] == self.batch_size
            self._net(x), self._net(x)
            self.mark(self, 2.0)

    def encode(self, data, causal, sliding_length, sliding_padding, batch_size):
        assert causal and sliding_length == 1 and sliding_padding == 200
        return self._net(torch.from_numpy(data)).detach().numpy()
"""


@pytest.fixture
def values(tmp_path):
    random = np.random.default_rng(0)
    waves = np.sin(np.arange(300)[:, None] / 5 + np.arange(3))
    np.save(tmp_path / "values.npy", (waves + 0.1 * random.normal(size=(300, 3))).astype("f4"))
    return str(tmp_path / "values.npy")


@pytest.fixture
def public(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "ts2vec.py").write_text(TS2VEC)
    return str(tmp_path / "public")


def test_the_steps_before_the_clock_are_not_counted():
    calls = []

    def step():
        calls.append(len(calls))
        return torch.tensor(float(calls[-1]))

    done = timed(step, 8)
    assert len(calls) == 10 and done["steps"] == 8
    assert done["loss"] == 8.5  # the mean of the last quarter: 8 and 9


@pytest.mark.parametrize("side", list(SIDES["masked"]))
def test_both_masked_sides_see_the_same_number_of_sequences(side, values):
    done = work(Job("masked", side, values, context=24, windows=2, steps=3, sizes=PATCH))
    assert (done["steps"], done["sequences"]) == (3, 2 * 3 * 3)
    assert done["cpu_seconds"] > 0 and done["error"] > 0 and np.isfinite(done["loss"])


def test_masked_sides_have_the_same_weights_but_for_our_flags_of_gaps(values):
    made = {
        side: work(Job("masked", side, values, context=24, windows=2, steps=1, sizes=PATCH))
        for side in SIDES["masked"]
    }
    flags = PATCH["patch_length"] * PATCH["d_model"]
    assert made["unlabel"]["parameters"] == made["transformers"]["parameters"] + flags


def test_our_contrast_trains_on_whole_windows(values):
    done = work(Job("contrast", "unlabel", values, context=40, windows=4, steps=2, sizes=CONV))
    assert (done["steps"], done["sequences"], done["encoded"]) == (2, 8, 80)
    assert np.isfinite(done["loss"])


@pytest.mark.parametrize("side", [s for s in SIDES["encode"] if s != "TS2Vec"])
def test_every_step_gets_a_vector(side, values):
    done = work(Job("encode", side, values, context=9, windows=4, steps=50, sizes=CONV))
    assert (done["steps"], done["width"]) == (50, 6)


@pytest.mark.parametrize("task", ["contrast", "encode"])
def test_a_peer_that_is_not_there_says_what_to_give(task, values):
    with pytest.raises(Missing, match="--ts2vec"):
        work(Job(task, "TS2Vec", values, context=9, windows=4, steps=5))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tasks": ["video"]}, "no task 'video'; the tasks are masked"),
        ({"rounds": 0}, "rounds is at least 1, but 0 came"),
        ({"masked": [9000]}, "want 54000"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_side_runs(wrong, said):
    with pytest.raises(ValueError, match=said):
        series_step(**wrong)


def _here(words, **_):
    """Do a side's job in this process."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(sys, "argv", words[2:])
        sides()
    return subprocess.CompletedProcess(words, 0, said.getvalue(), "")


def test_the_command_line_says_what_is_wrong_and_ends_with_two(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--rounds", "0"])
    assert end.value.code == 2
    assert "series_step: rounds is at least 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_sides_run_in_turn_and_a_missing_peer_is_a_note(
    there, public, tmp_path, capsys, monkeypatch
):
    if not there:  # processes of their own have been tried with all sides
        monkeypatch.setattr(subprocess, "run", _here)
    output = tmp_path / "results" / "step.json"
    result = series_step(
        rounds=1, steps=4, seed=3, tasks=["contrast", "encode"], contrast=[32], slice=210,
        ts2vec=public if there else None, sizes={"contrast": CONV, "encode": CONV},
        output=str(output),
    )  # fmt: skip
    contrast, encode = result["rows"]
    ours, peer = contrast["sides"]
    assert ours["ratio"]["median"] == 1 and ours["runs"][0]["sequences"] == 16
    sliding = {s["side"]: s["runs"][0]["steps"] for s in encode["sides"] if "runs" in s}
    assert sliding["unlabel"] == 17_420 and sliding["unlabel, a window a step"] == 210
    if there:
        assert peer["runs"][0]["sequences"] == 16 and peer["ratio"]["median"] > 0
        assert peer["encoded"] == 64 and sliding["TS2Vec"] == 210
    else:
        assert "left out" in peer["note"] and "TS2Vec" not in sliding
    assert json.loads(output.read_text()) == result
    assert "TS2Vec" in capsys.readouterr().out
