r"""CURL: an agent that sees pixels alone, with contrast of its own views beside what it is told.

A DQN whose encoder learns from rewards and, at the same time, from the contrast of two random crops
of what it saw. Both agents, with the contrast and without, see the same game from the same seed.

    python examples/curl.py                            # a ball to catch, about 90 s of one CPU
    python examples/curl.py --contrast off --seeds 5   # one of both agents, from seeds 0 to 4
    python examples/curl.py --env CartPole-v1 --size 100 --crop 84 --patch 12 --layers 4 \
        --width 128 --batch 512 --rate 0.0001 --memory 100000 --steps 100000 --device cuda

The last line is at the paper's scale, for a GPU, and of any environment of gymnasium that renders
(`pip install 'unlabel[agents]'`). The first is a beginning: random play gets -0.71 an episode, the
agent with contrast -0.49 in its last 400 steps, and 1 is the most; more `--steps` go on. The reward
of an episode in each tenth of the steps is printed, by agent and seed, and drawn as one picture.

Reference: Srinivas et al. 2020, arXiv 2004.04136; DQN: Mnih et al. 2015, Nature 518.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor, nn

from unlabel.core import Batch, view
from unlabel.data_pipes.faults import library
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import CURL
from unlabel.objectives.heads import mlp
from unlabel.objectives.state import Teacher
from unlabel.training.pretraining import Pretraining

try:
    gymnasium = library("gymnasium", "agents")
except ImportError as error:
    raise SystemExit(str(error)) from None

STACK = 3  # frames that are seen at once


class Catch(gymnasium.Env):
    """A ball falls, straight or to a side, and is to be caught: 1 if it is, -1 if not.

    A field of 7 x 7 in the middle of the picture; its ground changes from episode to episode.

    Args:
        size: rows and columns of the picture.
    """

    def __init__(self, *, size: int):
        self.size = size
        self.action_space = gymnasium.spaces.Discrete(3)
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """A new ball at the top."""
        super().reset(seed=seed)
        self.row, self.column, self.paddle = 0, int(self.np_random.integers(7)), 3
        self.drift = int(self.np_random.integers(-1, 2))
        self.ground = self.np_random.integers(0, 120, 3).astype(np.uint8)
        return self.render(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the paddle left, not at all or right; the ball falls by one, off the walls."""
        self.paddle = int(np.clip(self.paddle + action - 1, 0, 6))
        if not 0 <= self.column + self.drift <= 6:
            self.drift = -self.drift
        self.row, self.column = self.row + 1, self.column + self.drift
        ended = self.row == 6
        reward = 0.0 if not ended else 1.0 if self.column == self.paddle else -1.0
        return self.render(), reward, ended, False, {}

    def render(self) -> UInt8[np.ndarray, "size size 3"]:
        """Ball and paddle as squares, in a picture with a margin."""
        picture = np.empty((self.size, self.size, 3), np.uint8)
        picture[:] = self.ground
        side = self.size // 10
        margin = (self.size - 7 * side) // 2
        for row, column, color in ((6, self.paddle, (90, 255, 90)), (self.row, self.column, 255)):
            y, x = margin + row * side, margin + column * side
            picture[y : y + side, x : x + side] = color
        return picture


class Memory:
    """All that was seen, frame by frame; the oldest is forgotten.

    Args:
        limit: frames.
        size: rows and columns.
    """

    def __init__(self, limit: int, size: int):
        self.frames = np.zeros((limit, size, size, 3), np.uint8)
        self.age = np.zeros(limit, np.int64)  # frames since its episode began
        self.action, self.reward = np.zeros(limit, np.int64), np.zeros(limit, np.float32)
        self.ended, self.follows = np.zeros(limit, bool), np.zeros(limit, bool)
        self.count = 0

    def see(self, frame: np.ndarray, age: int) -> None:
        """One more frame."""
        at = self.count % len(self.frames)
        self.frames[at], self.age[at], self.follows[at] = frame, age, False
        self.count += 1

    def act(self, action: int, reward: float, ended: bool) -> None:
        """What was done after the last frame, and what came of it."""
        at = (self.count - 1) % len(self.frames)
        self.action[at], self.reward[at] = action, reward
        self.ended[at], self.follows[at] = ended, True

    def draw(self, batch: int, random: np.random.Generator) -> Int[np.ndarray, "batch"]:
        """Places of frames that something was done after, of which all is still there."""
        first = max(0, self.count - len(self.frames)) + STACK
        some = random.integers(first, self.count - 1, 4 * batch)
        return some[self.follows[some % len(self.frames)]][:batch]

    def stacks(self, places: Any) -> UInt8[np.ndarray, "places stack size size 3"]:
        """Frames up to each place; before an episode its first frame stands."""
        places = np.asarray(places)
        back = np.minimum(np.arange(STACK)[::-1], self.age[places % len(self.frames), None])
        return self.frames[(places[:, None] - back) % len(self.frames)]


class Values(nn.Module):
    """What each action is worth, of a stack of frames.

    Args:
        encoder: of stacks.
        actions: number of them.
    """

    def __init__(self, encoder: VisualEncoder, actions: int):
        super().__init__()
        self.encoder = encoder
        self.head = mlp(encoder.length * encoder.width, 128, actions)

    def forward(self, batch: Batch) -> Tensor:
        """One value for each action."""
        seen = self.encoder(self.encoder.view(batch, view("plain")))
        return self.head(seen.tokens.flatten(1))


class Agent(nn.Module):
    """A DQN with CURL beside it: one encoder, two losses.

    Args:
        encoder: of stacks of frames.
        actions: number of them.
        size: of the pictures, as they are.
        contrast: weight of the contrast; 0 leaves it out.
        discount: of later rewards.
    """

    def __init__(
        self,
        encoder: VisualEncoder,
        actions: int,
        *,
        size: int,
        contrast: float = 1.0,
        discount: float = 0.99,
    ):
        super().__init__()
        area = (encoder.size / size) ** 2
        crops = {"crop.low": area, "crop.high": area, "crop.aspect": 1.0}
        self.curl = Pretraining(encoder, CURL(args=crops))
        self.values = Values(encoder, actions)
        self.target = Teacher(self.values, momentum=0.95)
        self.contrast, self.discount, self.drawn = contrast, discount, 0

    def batch(self, stacks: np.ndarray, places: Any, *, whole: bool) -> Batch:
        """Stacks as they are, or their middle, which is what the values are of."""
        frames = torch.from_numpy(np.moveaxis(stacks, 4, 2))
        if not whole:
            keep = self.values.encoder.size
            edge = (frames.shape[3] - keep) // 2
            frames = frames[..., edge : edge + keep, edge : edge + keep]
        # No two crops are alike: each draws by its own place in the whole run.
        ordinal = torch.arange(len(frames)) + self.drawn
        self.drawn += len(frames)
        mask = torch.ones(frames.shape[:2], dtype=torch.bool)
        made = Batch({"frames": frames.contiguous()}, mask, torch.as_tensor(places), ordinal)
        return made.to(next(self.parameters()).device)

    def losses(self, memory: Memory, places: np.ndarray) -> dict[str, Tensor]:
        """Of what was seen at these places."""
        at = places % len(memory.frames)
        on = lambda x: torch.from_numpy(x[at]).to(next(self.parameters()).device)  # noqa: E731
        seen = memory.stacks(places)
        now = self.values(self.batch(seen, places, whole=False))
        after = self.target(self.batch(memory.stacks(places + 1), places, whole=False)).amax(1)
        aim = on(memory.reward) + self.discount * after * (~on(memory.ended)).float()
        found = {"reward": F.smooth_l1_loss(now.gather(1, on(memory.action)[:, None])[:, 0], aim)}
        if self.contrast:
            found["contrast"] = self.contrast * self.curl(self.batch(seen, places, whole=True)).loss
        return found

    @torch.no_grad()
    def choose(self, memory: Memory) -> int:
        """The action that is worth most after the last frame."""
        last = [memory.count - 1]
        return int(self.values(self.batch(memory.stacks(last), last, whole=False)).argmax())

    def step(self) -> None:
        """Move both teachers; called after each optimizer step."""
        self.target.step()
        self.curl.step()


def small(picture: Any, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A picture in this size."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def play(env: Any, agent: Agent, *, given: argparse.Namespace, size: int) -> list[list[float]]:
    """Let the agent act and learn; the step at which each episode ended, and its reward."""
    random = np.random.default_rng(given.seed)
    memory = Memory(given.memory, size)
    optimizer = torch.optim.AdamW(agent.parameters(), lr=given.rate)
    ends: list[list[float]] = []
    env.reset(seed=given.seed)
    age, sum_ = 0, 0.0
    memory.see(small(env.render(), size), age)
    for step in range(given.steps):
        greedy = random.random() > max(0.05, 1 - 2 * step / given.steps)
        action = agent.choose(memory) if greedy else int(random.integers(env.action_space.n))
        _, reward, ended, stopped, _ = env.step(action)
        memory.act(action, float(reward), ended)
        age, sum_ = age + 1, sum_ + float(reward)
        memory.see(small(env.render(), size), age)
        if ended or stopped:
            ends.append([step, sum_])
            env.reset()
            age, sum_ = 0, 0.0
            memory.see(small(env.render(), size), age)
        if step >= given.warm and step % given.every == 0:
            losses = agent.losses(memory, memory.draw(given.batch, random))
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            agent.step()
    return ends


def learn(name: str | None, contrast: float, given: argparse.Namespace) -> list[list[float]]:
    """One agent from the start to the end."""
    size = given.size
    env = Catch(size=size) if name is None else gymnasium.make(name, render_mode="rgb_array")
    torch.manual_seed(given.seed)
    config = {"model_type": "videomae", "tubelet_size": STACK, "patch_size": given.patch}
    config |= {"hidden_size": given.width, "intermediate_size": 2 * given.width}
    config |= {"num_hidden_layers": given.layers, "num_attention_heads": 2}
    encoder = VisualEncoder.from_config(config, frames=STACK, size=given.crop, dropout=0.0)
    agent = Agent(encoder, int(env.action_space.n), size=size, contrast=contrast)
    ends = play(env, agent.to(given.device), given=given, size=size)
    env.close()
    return ends


def late(ends: list[list[float]], steps: int) -> float:
    """Mean reward of the episodes of the last fifth of the steps."""
    return float(np.mean([reward for step, reward in ends if step >= 0.8 * steps] or [np.nan]))


def tenths(ends: list[list[float]], steps: int) -> dict[int, float]:
    """Mean reward of an episode in each tenth of the run, by its last step; none if none ended."""
    part = np.array([int(step) * 10 // steps for step, _ in ends])
    reward = np.array([reward for _, reward in ends])
    return {(i + 1) * steps // 10: float(reward[part == i].mean()) for i in sorted({*part})}


def picture(curves: dict[str, list[list[float]]], steps: int, out: Path) -> None:
    """The mean reward of an episode in each tenth of the run."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(5, 3), layout="constrained")).add_subplot()
    for name, ends in curves.items():
        axes.plot(*zip(*tenths(ends, steps).items(), strict=True), label=f"contrast {name}")
    axes.set(xlabel="steps", ylabel="reward of an episode")
    axes.legend()
    figure.savefig(out)


def main(words: list[str] | None = None) -> dict[str, float]:
    """Let agents learn, write the picture, and print what came of it."""
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--env", help="of gymnasium; left out, a ball is to be caught")
    sizes = {"size": 40, "crop": 32, "patch": 8, "width": 32, "layers": 1, "batch": 64}
    runs = {"memory": 10000, "steps": 2000, "warm": 200, "every": 2, "seed": 0, "seeds": 1}
    for name, default in {**sizes, **runs}.items():
        ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--contrast", choices=("both", "on", "off"), default="both")
    ask.add_argument("--weight", type=float, default=1.0, help="of the contrast")
    ask.add_argument("--rate", type=float, default=2e-3)
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--out", type=Path, default=Path("curl.png"))
    given = ask.parse_args(words)
    started, curves = time.time(), {}
    both = (("on", given.weight), ("off", 0.0))
    weights = {name: weight for name, weight in both if given.contrast in (name, "both")}
    for seed, name in itertools.product(range(given.seed, given.seed + given.seeds), weights):
        ends = learn(given.env, weights[name], argparse.Namespace(**{**vars(given), "seed": seed}))
        curves.setdefault(name, []).extend(ends)
        shown = " ".join(f"{step}: {x:.3f}" for step, x in tenths(ends, given.steps).items())
        last = f"last fifth {late(ends, given.steps):.3f}"
        print(f"contrast {name}, seed {seed}, an episode by step: {shown}; {last}", flush=True)
    picture(curves, given.steps, given.out)
    found = {name: late(ends, given.steps) for name, ends in curves.items()}
    found["seconds"] = time.time() - started
    print(" ".join(f"{name} {value:.3f}" for name, value in found.items()), f"-> {given.out}")
    return found


if __name__ == "__main__":
    main()
