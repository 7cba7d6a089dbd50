"""Examples run, and do what they say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
TINY = ["--size=16", "--width=4", "--blocks=1", "--places=8", "--heads=8", "--batch=2"]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cut():
    return load("cut")


@pytest.fixture(scope="module")
def monodepth():
    return load("monodepth")


def test_cut_writes_inputs_and_translations(cut, tmp_path):
    found = cut.main([*TINY, "--steps=3", f"--out={tmp_path / 'cut.png'}"])
    assert all(np.isfinite(list(found.values())))
    with Image.open(tmp_path / "cut.png") as image:
        assert image.size == (8 * 16 * 2, 2 * 16 * 2)


def test_cut_reads_folders_of_pictures(cut, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i, picture in enumerate(cut.drawn(name, 4, size=24, seed=0)):
            Image.fromarray(picture).save(tmp_path / name / f"{i}.png")
    assert cut.read(str(tmp_path / "a"), size=16).shape == (4, 16, 16, 3)
    both = [f"--{name}={tmp_path / name}" for name in "ab"]
    cut.main([*TINY, "--steps=1", *both, f"--out={tmp_path / 'cut.png'}"])
    assert (tmp_path / "cut.png").is_file()
    with pytest.raises(SystemExit):
        cut.main([both[0]])


def test_no_loss_of_cut_moves_the_other_player(cut):
    torch.manual_seed(0)
    model = cut.CUT(width=4, blocks=1, places=8, heads=8)
    a, b = torch.rand(2, 2, 3, 16, 16) * 2 - 1
    losses = model(a, b)
    judge, generator = list(model.judge.parameters()), list(model.generator.parameters())
    assert len(model.generator.read) == len(model.heads) == 4
    for name, loss in losses.items():
        mine, others = (judge, generator) if name == "told" else (generator, judge)
        grad = lambda p, loss=loss: torch.autograd.grad(  # noqa: E731
            loss, p, retain_graph=True, allow_unused=True
        )
        assert any(g is not None and g.any() for g in grad(mine)), name
        assert all(g is None for g in grad(others)), name


@pytest.mark.slow
def test_cut_takes_on_the_colours_and_keeps_what_is_there(cut, tmp_path):
    found = cut.main([f"--out={tmp_path / 'cut.png'}"])
    assert found["colour after"] < 0.2 * found["colour before"]
    assert found["kept"] > 0.9


SMALL = ["--size=16", "--width=8", "--hidden=8", "--scales=2", "--count=8", "--batch=2"]


def test_monodepth_writes_frames_depth_and_truth(monodepth, tmp_path):
    found = monodepth.main([*SMALL, "--steps=2", f"--out={tmp_path / 'depth.png'}"])
    assert all(np.isfinite(list(found.values())))
    with Image.open(tmp_path / "depth.png") as image:
        assert image.size == (10 * 16 * 3, 3 * 16 * 3)


def test_monodepth_reads_videos(monodepth, tmp_path):
    write = importlib.import_module("unlabel.data_pipes.synthetic_video").write_video
    planes = importlib.import_module("unlabel.data_pipes.synthetic_planes").draw_planes
    for i, frames in enumerate(planes(5, frames=6, size=32).frames):
        write(tmp_path / f"{i}.mp4", frames, 8, None, 0, title="")
    words = [*SMALL, "--steps=2", f"--out={tmp_path / 'depth.png'}", f"--clips={tmp_path}"]
    found = monodepth.main([*words, "--model=resnet18", "--width=32", "--size=32"])
    assert "order" not in found and np.isfinite(found["photometric"])
    with Image.open(tmp_path / "depth.png") as image:
        assert image.size == (32 * 3, 2 * 32 * 3)


@pytest.mark.slow
def test_monodepth_learns_what_is_near_from_motion_alone(monodepth, tmp_path):
    found = monodepth.main(["--steps=200", f"--out={tmp_path / 'depth.png'}"])
    assert found["photometric"] < 0.85 * found["as they are"]
    assert found["order"] > 0.9
    assert found["correlation"] > found["with another's"] + 0.4
