"""Examples run, and do what they say."""

import importlib.util
import sys
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


@pytest.fixture(scope="module")
def curl():
    pytest.importorskip("gymnasium")
    return load("curl")


FEW = ["--width=8", "--batch=4", "--warm=20", "--memory=30"]


def test_a_ball_is_caught_or_not_and_always_inside_any_crop(curl):
    env = curl.Catch(size=40)
    for seed in range(20):
        picture, _ = env.reset(seed=seed)
        rewards = []
        for _ in range(6):
            ground = picture[0, 0]
            shown = np.argwhere((picture != ground).any(2))
            assert shown.min() >= 6 and shown.max() < 34  # within 8 of every edge, less 2
            picture, reward, ended, *_ = env.step(int(np.sign(env.column - env.paddle)) + 1)
            rewards.append(reward)
        assert ended and rewards[:-1] == [0.0] * 5 and rewards[-1] in (-1.0, 1.0)


def test_memory_gives_stacks_of_one_episode_and_only_what_is_there(curl):
    memory = curl.Memory(20, 2)
    for i in range(57):
        memory.see(np.full((2, 2, 3), i), i % 8)
        if i % 8 < 7:
            memory.act(i % 3, float(i), i % 8 == 6)
    places = memory.draw(16, np.random.default_rng(0))
    assert places.min() >= 57 - 20 + 2 and places.max() < 56 and (places % 8 < 7).all()
    stacks = memory.stacks(places)[:, :, 0, 0, 0]
    for place, stack in zip(places, stacks, strict=True):
        first = place - place % 8
        assert stack.tolist() == [max(place - k, first) for k in (2, 1, 0)]
        assert memory.reward[place % 20] == place


def test_both_losses_reach_the_one_encoder(curl):
    torch.manual_seed(0)
    make = importlib.import_module("unlabel.modalities.visual").VisualEncoder.from_config
    config = {"model_type": "videomae", "tubelet_size": 3, "patch_size": 8, "hidden_size": 8}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    agent = curl.Agent(make(config, frames=3, size=32, dropout=0.0), 3, size=40)
    memory, env = curl.Memory(50, 40), curl.Catch(size=40)
    for episode in range(4):
        memory.see(env.reset(seed=episode)[0], 0)
        for age in range(1, 7):
            picture, reward, ended, *_ = env.step(0)
            memory.act(0, reward, ended)
            memory.see(picture, age)
    losses = agent.losses(memory, memory.draw(8, np.random.default_rng(0)))
    for loss in losses.values():
        own = list(agent.values.encoder.parameters())
        grads = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.any() for g in grads)
    assert set(losses) == {"reward", "contrast"}


def test_tenths_are_means_of_the_episodes_that_ended_there(curl):
    ends = [[0, 1.0], [5, 0.0], [19, 3.0], [199, -1.0]]
    assert curl.tenths(ends, 200) == {20: 4 / 3, 200: -1.0}


@pytest.mark.slow
def test_curl_plays_its_own_game_and_any_that_renders(curl, tmp_path, capsys):
    out = f"--out={tmp_path / 'curl.png'}"
    found = curl.main([*FEW, "--steps=60", out])
    assert -1 <= found["on"] <= 1 and -1 <= found["off"] <= 1
    assert (tmp_path / "curl.png").is_file()
    said = capsys.readouterr().out.splitlines()
    # One of both by itself is as it was beside the other; every seed has its line.
    alone = curl.main([*FEW, "--steps=60", out, "--contrast=off", "--seeds=2"])
    again = capsys.readouterr().out.splitlines()
    assert again[0] == said[1] and again[1].startswith(
        "contrast off, seed 1, an episode by step: 6: "
    )
    assert len(again) == 3 and "on" not in alone
    pytest.importorskip("pygame")
    found = curl.main([*FEW, "--steps=60", "--env=CartPole-v1", out])
    assert np.isfinite(found["seconds"])


def test_curl_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(SystemExit, match=r"pip install 'unlabel\[agents\]'"):
        load("curl")
