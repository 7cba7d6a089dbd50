r"""CUT: translate one set of pictures so that they look like another, without any pairs.

A generator G turns pictures of a set A into what a judge cannot tell from pictures of a set B,
while each place of the translation is to know its own in the picture it came from, among all
places of that picture (PatchNCE); what is of B already is to stay as it is (identity).

    python examples/cut.py                             # drawn shapes, about a minute on one CPU
    python examples/cut.py --a horses --b zebras --size 256 --width 64 --blocks 9 --places 256 \
        --heads 256 --weight 1 --rate 0.0002 --batch 1 --steps 400000

The second line is the paper's scale, for a GPU (`--device cuda`). Written is one picture: inputs
above, translations below.

Reference: Park et al. 2020, arXiv 2007.15651; the judge of patches: Isola et al. 2017, 1611.07004.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from unlabel.data_pipes.frame_store import FrameStore
from unlabel.data_pipes.videos import read_frames
from unlabel.objectives.heads import mlp
from unlabel.objectives.patches import patch_nce
from unlabel.objectives.players import play

# Of pictures that are drawn in place of files: the colours of each set's ground, from its lowest to
# its highest, and of its shapes.
COLORS = {
    "a": ((10, 20, 80), (60, 150, 170), (235, 235, 225)),
    "b": ((110, 20, 30), (220, 110, 40), (255, 245, 170)),
}


class Residual(nn.Module):
    """Two convolutions beside a straight way."""

    def __init__(self, width: int):
        super().__init__()
        self.inside = nn.Sequential(*convolution(width, width), *convolution(width, width)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """As wide as it came."""
        return x + self.inside(x)


def convolution(before: int, after: int, *, size: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution, normed by picture and channel, and ReLU."""
    conv = nn.Conv2d(before, after, size, stride, size // 2, padding_mode="reflect")
    return [conv, nn.InstanceNorm2d(after), nn.ReLU()]


class Generator(nn.Sequential):
    """Down by four, residual blocks, and up again; pictures from -1 to 1.

    Args:
        width: channels of the first convolution; twice and four times as many further down.
        blocks: residual ones.
    """

    def __init__(self, *, width: int = 16, blocks: int = 3):
        up = lambda n: [nn.Upsample(scale_factor=2), *convolution(n, n // 2)]  # noqa: E731
        first = [
            nn.Sequential(*convolution(3, width, size=7)),
            nn.Sequential(*convolution(width, 2 * width, stride=2)),
            nn.Sequential(*convolution(2 * width, 4 * width, stride=2)),
            *(Residual(4 * width) for _ in range(blocks)),
        ]
        last = nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect")
        super().__init__(*first, *up(4 * width), *up(2 * width), last, nn.Tanh())
        # Read by the contrast: the pixels, both ways down, and the first and middle block.
        self.read = sorted({0, 1, 2, 3, 3 + blocks // 2})
        self.widths = [3, width, 2 * width, *[4 * width] * (len(self.read) - 3)]

    def features(self, x: Float[Tensor, "batch 3 rows columns"]) -> list[Tensor]:
        """What the layers that are read see, the pixels first."""
        found = []
        for i in range(self.read[-1] + 1):
            if i in self.read:
                found.append(x)
            x = self[i](x)
        return found


class Judge(nn.Sequential):
    """A logit for each patch of a picture that it is real."""

    def __init__(self, *, width: int = 16):
        down = lambda a, b: nn.Conv2d(a, b, 4, 2, 1)  # noqa: E731
        super().__init__(
            *(down(3, width), nn.LeakyReLU(0.2)),
            *(down(width, 2 * width), nn.InstanceNorm2d(2 * width), nn.LeakyReLU(0.2)),
            nn.Conv2d(2 * width, 1, 4, 1, 1),
        )


class CUT(nn.Module):
    """Generator, judge, and the heads of the contrast.

    Args:
        width: of generator and judge.
        blocks: of the generator.
        places: that are contrasted in each layer.
        heads: width of the heads of the contrast.
        weight: of the contrast and of the identity together.
        temperature: of the contrast.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        blocks: int = 9,
        places: int = 256,
        heads: int = 256,
        weight: float = 1.0,
        temperature: float = 0.07,
    ):
        super().__init__()
        self.generator, self.judge = Generator(width=width, blocks=blocks), Judge(width=width)
        self.heads = nn.ModuleList(mlp(n, heads, heads) for n in self.generator.widths)
        self.places, self.weight, self.temperature = places, weight, temperature

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The losses of one pass, whose sum is to be lowered."""
        made, same = self.generator(torch.cat([a, b])).chunk(2)
        told, fooled = play(self.judge, (b,), (made,))
        return {
            "fooled": fooled.mean(),
            "nce": self.contrast(a, made) * self.weight / 2,
            "identity": self.contrast(b, same) * self.weight / 2,
            "told": told.mean(),
        }

    def contrast(self, source: Tensor, made: Tensor) -> Tensor:
        """Places of what was made against those of its source; mean over places and layers."""
        seen = self.generator.features(torch.cat([made, source]))
        losses = []
        for head, layer in zip(self.heads, seen, strict=True):
            flat = rearrange(layer, "b c y x -> b (y x) c")
            chosen = torch.randperm(flat.shape[1], device=flat.device)[: self.places]
            query, keys = head(flat[:, chosen]).chunk(2)
            # As in the authors' code, what is looked for does not move towards who looks.
            losses.append(patch_nce(query, keys.detach(), temperature=self.temperature).mean())
        return torch.stack(losses).mean()


def drawn(kind: str, count: int, *, size: int, seed: int) -> UInt8[np.ndarray, "count size size 3"]:
    """Discs and bars on hilly ground, in the colours of a set."""
    random = np.random.default_rng(seed)
    low, high, front = (np.array(color) for color in COLORS[kind])
    y, x = np.mgrid[:size, :size] / size
    hills = F.interpolate(
        torch.from_numpy(random.random((count, 1, 6, 6))), size=(size, size), mode="bicubic"
    )
    pictures = np.empty((count, size, size, 3), np.uint8)
    for picture, (ground,) in zip(pictures, hills.numpy(), strict=True):
        cy, cx = random.uniform(0.3, 0.7, 2)
        long, wide = random.uniform(0.12, 0.28, 2)
        away = np.abs(y - cy) / long, np.abs(x - cx) / wide
        inside = np.hypot(*away) < 1 if random.random() < 0.5 else np.maximum(*away) < 1
        back = low + ground[..., None] * (high - low)
        picture[:] = np.where(inside[..., None], front, back).clip(0, 255)
    return pictures


def read(source: str, *, size: int) -> UInt8[np.ndarray, "count size size 3"]:
    """Pictures of a folder, glob or list, or frames of its videos, in one size."""
    store = FrameStore(read_frames(source), size=size)
    return np.concatenate([store[i]["frames"] for i in range(len(store))])


def as_tensor(pictures: np.ndarray, device: str) -> Float[Tensor, "count 3 size size"]:
    """From -1 to 1, channels first."""
    return rearrange(torch.from_numpy(pictures).to(device), "n y x c -> n c y x") / 127.5 - 1


def train(
    model: CUT, a: Tensor, b: Tensor, *, steps: int, batch: int, rate: float, seed: int
) -> dict[str, float]:
    """Lower the sum of the losses; one optimizer for all, since no player's loss moves another.

    Args:
        model: to train.
        a: pictures to translate.
        b: pictures of how they should look.
        steps: of the optimizer.
        batch: pictures of each set a step.
        rate: of learning; it falls to 0 over the second half.
        seed: of the order.

    Returns:
        The losses, means over the last tenth of the steps.
    """
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 2 * (1 - step / steps))
    )
    seen: list[dict[str, float]] = []
    for step in range(steps):
        rows = (x[torch.randint(len(x), (batch,))] for x in (a, b))
        losses = model(*(torch.where(torch.rand(()) < 0.5, x, x.flip(3)) for x in rows))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        schedule.step()
        seen.append({name: float(loss.detach()) for name, loss in losses.items()})
        if step % max(1, steps // 10) == 0 or step == steps - 1:
            print(step, " ".join(f"{name} {loss:.3f}" for name, loss in seen[-1].items()))
    last = seen[-max(1, steps // 10) :]
    return {name: float(np.mean([row[name] for row in last])) for name in last[0]}


@torch.no_grad()
def picture(model: CUT, a: Tensor, *, count: int = 8, scale: int = 2) -> Image.Image:
    """The first pictures above, their translations below."""
    rows = torch.stack([a[:count], model.generator(a[:count])])
    whole = rearrange(rows, "r n c y x -> (r y) (n x) c").clamp(-1, 1)
    image = Image.fromarray(((whole + 1) * 127.5).round().byte().cpu().numpy())
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


@torch.no_grad()
def kept(model: CUT, a: Tensor) -> float:
    """How far what was there stays: correlation of brightness, either way, mean over pictures."""
    flat = lambda x: F.normalize((g := x.mean(1).flatten(1)) - g.mean(1, keepdim=True), dim=1)  # noqa: E731
    return float((flat(a) * flat(model.generator(a))).sum(1).abs().mean())


def main(words: list[str] | None = None) -> dict[str, float]:
    """Train, translate, write the picture, and print what came of it."""
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--a", help="pictures to translate; left out, shapes are drawn")
    ask.add_argument("--b", help="pictures of how they should look")
    sizes = {"size": 32, "width": 16, "blocks": 3, "places": 64, "heads": 64}
    for name, default in {**sizes, "steps": 400, "batch": 4, "seed": 0}.items():
        ask.add_argument(f"--{name}", type=int, default=default)
    # The paper's weight is 1, and 10 without the identity; a short run keeps more with 4.
    ask.add_argument("--weight", type=float, default=4.0, help="of contrast and identity")
    ask.add_argument("--rate", type=float, default=5e-4)
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--out", type=Path, default=Path("cut.png"))
    given = ask.parse_args(words)
    if (given.a is None) != (given.b is None):
        ask.error("give both --a and --b, or neither")
    a, b = (
        as_tensor(
            drawn(kind, 200, size=given.size, seed=i)
            if source is None
            else read(source, size=given.size),
            given.device,
        )
        for i, (kind, source) in enumerate({"a": given.a, "b": given.b}.items())
    )
    torch.manual_seed(given.seed)
    names = ("width", "blocks", "places", "heads", "weight")
    model = CUT(**{name: getattr(given, name) for name in names}).to(given.device)
    started, size = time.time(), {"steps": given.steps, "batch": given.batch}
    found = train(model, a, b, **size, rate=given.rate, seed=given.seed)
    model.eval()
    test = a[:64]
    with torch.no_grad():
        mean = lambda x: x.mean((0, 2, 3))  # noqa: E731
        found["colour before"] = float((mean(test) - mean(b)).norm())
        found["colour after"] = float((mean(model.generator(test)) - mean(b)).norm())
    found |= {"kept": kept(model, test), "seconds": time.time() - started}
    picture(model, test).save(given.out)
    print(" ".join(f"{name} {value:.3f}" for name, value in found.items()), f"-> {given.out}")
    return found


if __name__ == "__main__":
    main()
