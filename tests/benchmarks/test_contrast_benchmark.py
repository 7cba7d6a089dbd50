"""The contrast benchmark measures what it says, and names what it could not measure."""

import argparse
import itertools
import json
from pathlib import Path

import pytest
import torch

from unlabel.benchmarks import contrast as benchmark
from unlabel.benchmarks.contrast_methods import METHODS, Missing, bare_import, useful_flops
from unlabel.benchmarks.contrast_peers import PEERS, _apart, agreement

MISSING = "open_clip is not installed: pip install open-clip-torch"


def test_only_our_form_stays_within_1e5_at_every_temperature() -> None:
    rows = benchmark.exactness()
    assert min(row["loss"] for row in rows) < 1e-12
    for row in rows:
        assert row["unlabel_loss_error"] < 1e-5
        assert row["unlabel_gradient_error"] < 1e-5
    assert max(row["cross_entropy_loss_error"] for row in rows) > 0.1


@pytest.mark.parametrize("task", list(METHODS))
def test_the_full_matrix_is_the_same_loss(task: str) -> None:
    a, b = torch.randn(2, 33, 8, dtype=torch.float64)
    ours, full = (METHODS[task][m]()(a, b) for m in ("unlabel", "full matrix"))
    torch.testing.assert_close(ours, full)


def test_a_peer_that_is_not_installed_is_missing_by_name() -> None:
    with pytest.raises(Missing, match="no_such_library is not installed"):
        bare_import("no_such_library.loss")


def test_useful_work_of_nt_xent_is_two_thirds_of_the_plain_form() -> None:
    logits = 2 * (2 * 100) ** 2 * 16
    assert useful_flops("nt_xent", 100, 16) == pytest.approx(2 / 3 * 3 * logits)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_loss_and_all_gradients_are_those_of_the_whole_matrix(ranks: int) -> None:
    found = agreement(PEERS, ranks)
    assert tuple(found) == PEERS and all(len(peers) > 1 for peers in found.values())
    for peer, share in itertools.chain(*(peers.items() for peers in found.values())):
        assert share == MISSING if isinstance(share, str) else share < 1e-14, peer


def test_a_difference_of_one_gradient_shows() -> None:
    ours = [torch.ones(()), torch.ones(3, 2), torch.ones(())]
    theirs = [ours[0], torch.tensor([[1.0, 1], [1, 1], [1, 1.5]]), ours[2]]
    assert _apart(ours, theirs) == 0.5


def test_tasks_stand_apart_or_are_joined_by_commas() -> None:
    assert benchmark._tasks("clip,siglip") == ["clip", "siglip"]
    with pytest.raises(argparse.ArgumentTypeError, match="'clipp' is none of nt_xent, clip"):
        benchmark._tasks("clip,clipp")


@pytest.mark.slow
def test_the_command_writes_one_row_for_each_method(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "RANKS", (1,))
    out = tmp_path / "contrast.json"
    small = "--tasks clip --pairs 64 --width 8 --threads 1 --repeats 1 --device cpu".split()
    benchmark.main([*small, "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["peers"]["1"].keys() == {"clip"}
    rows = {row["method"]: row for row in found["speed"]}
    assert set(rows) == set(METHODS["clip"])
    assert rows["unlabel"]["loss"] == pytest.approx(rows["full matrix"]["loss"], rel=1e-5)
    assert "note" in rows["open_clip"] or rows["open_clip"]["loss"] == pytest.approx(
        rows["unlabel"]["loss"], rel=1e-5
    )
