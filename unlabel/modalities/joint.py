"""Several kinds of data in one space: an encoder for each side of a sample, and a projection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import nn

from unlabel.core import Batch, Encoding, View, ViewSpec
from unlabel.modalities.audio import AudioEncoder
from unlabel.modalities.configs import save_settings, saved_settings
from unlabel.modalities.joint_config import JointConfig
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.text import TextEncoder
from unlabel.modalities.visual import PictureEncoder, VisualEncoder

# Each kind of data by name, with the adapter whose `gives` says what objectives may ask of it.
TOWERS = {
    "text": TextEncoder,
    "series": SeriesEncoder,
    "frames": PictureEncoder,
    "video": VisualEncoder,
    "audio": AudioEncoder,
}
PROJECTIONS = "projections.safetensors"


class JointEncoder(nn.Module):
    """An encoder for each side of a sample (its text, its clip), whose vectors lie in one space.

    A side is seen by its own encoder, and a linear projection without bias takes its vector into
    the shared space. An objective names the side of a view as the view's `partner`.

    Args:
        towers: the adapter of each side, by the side's name.
        width: of the shared space.
        locked: sides whose encoder stays as it is, while its projection learns (LiT).

    Raises:
        ValueError: fewer than two sides, or a locked one that is not among them.

    Reference: Radford et al. 2021 (CLIP), arXiv 2103.00020, section 2.4; locked: Zhai et al. 2022
    (LiT), arXiv 2111.07991, section 3.
    """

    sides: tuple[str, ...] = tuple(TOWERS)  # of the class: what a sample may have
    every = TOWERS
    gives = frozenset({"pooled", "sides", *TOWERS})
    views: frozenset[str] = frozenset()  # each side has its own
    usual = "plain"
    local = None
    turned = ()
    towers: Any
    projections: Any

    def __init__(
        self,
        towers: Mapping[str, Any],
        *,
        width: int = 128,
        locked: Sequence[str] = (),
    ):
        super().__init__()
        if len(towers) < 2:
            raise ValueError(
                f"Sides of a sample are two or more, but {', '.join(towers) or 'none'} came."
            )
        if unknown := sorted(set(locked) - set(towers)):
            raise ValueError(
                f"{', '.join(unknown)} is to be locked, but the sides are {', '.join(towers)}."
            )
        self.sides, self.width, self.locked = tuple(towers), width, tuple(locked)
        self.towers = nn.ModuleDict(towers)
        self.projections = nn.ModuleDict()
        for name, tower in towers.items():
            into = nn.Linear(tower.width, width, bias=False)
            nn.init.normal_(into.weight, std=tower.width**-0.5)
            self.projections[name] = into
            tower.requires_grad_(name not in locked)
        self.gives = frozenset({"pooled", "sides", *towers})
        self.train(self.training)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dropout: float | None = None,
        locked: Sequence[str] | None = None,
        local_files_only: bool = False,
    ) -> "JointEncoder":
        """An encoder from a folder that `save_pretrained` wrote.

        It comes in evaluation mode, as transformers' own do.

        Args:
            path: folder.
            dropout: sets every dropout probability of all encoders; None leaves them alone.
            locked: as for the class; None is what the folder says.
            local_files_only: never ask the hub.

        Raises:
            FileNotFoundError: the folder holds no such encoder.
        """
        folder, said = Path(path), saved_settings(path)
        if "sides" not in said or not (folder / PROJECTIONS).is_file():
            raise FileNotFoundError(
                f"{folder} holds no encoder of several kinds of data ({PROJECTIONS}); give the "
                "folder of one, or the output folder of a run with --modality pairs."
            )
        load: dict[str, Any] = {"dropout": dropout, "local_files_only": local_files_only}
        towers = {
            side: TOWERS[kind].from_pretrained(folder / side, **load)
            for side, kind in said["sides"].items()
        }
        shut = said["locked"] if locked is None else locked
        encoder = cls(towers, width=said["width"], locked=shut)
        encoder.load_projections(folder)
        return encoder.eval()

    def load_projections(self, folder: str | Path) -> None:
        """Take the projections that `save_pretrained` wrote to a folder."""
        saved = load_file(Path(folder) / PROJECTIONS)
        own = {k: v for k, v in saved.items() if k.split(".")[0] in self.towers}
        self.projections.load_state_dict(own)

    def only(self, sides: Sequence[str]) -> "JointEncoder":
        """The same encoder, its weights shared, with some of its sides.

        Raises:
            ValueError: a side that it has not, or fewer than two.
        """
        if unknown := sorted(set(sides) - set(self.sides)):
            raise ValueError(
                f"{', '.join(unknown)} is no side of it, which has {', '.join(self.sides)}."
            )
        towers = {n: self.towers[n] for n in self.sides if n in sides}
        shut = [n for n in self.locked if n in towers]
        made = JointEncoder(towers, width=self.width, locked=shut)
        made.projections = nn.ModuleDict({n: self.projections[n] for n in towers})
        return made.train(self.training)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a transformers folder for each side, and the projections beside them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, tower in self.towers.items():
            tower.save_pretrained(folder / name)
        weights = {k: v.contiguous() for k, v in self.projections.state_dict().items()}
        save_file(weights, folder / PROJECTIONS, metadata={"format": "pt"})
        JointConfig.of(self).save_pretrained(folder)  # for AutoModel, see `JointModel`
        save_settings(folder, self.settings)

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of data of each side."""
        return {name: tower.settings["modality"] for name, tower in self.towers.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """What the folder of the whole says beside the folders of its sides."""
        about = {"modality": "pairs", "sides": self.kinds, "width": self.width}
        return {**about, "locked": list(self.locked)}

    def train(self, mode: bool = True) -> "JointEncoder":
        """As torch's; what is locked stays in evaluation mode."""
        super().train(mode)
        for name in self.locked:
            self.towers[name].eval()
        return self

    # -- views and encoding -----------------------------------------------------------------

    def collator(self, *, seed: int = 0) -> "JointCollator":
        """The collator for samples of all sides."""
        own = {n: t.collator(seed=seed) for n, t in self.towers.items()}
        return JointCollator(own, seed)

    def view(self, batch: Batch, spec: ViewSpec) -> View:
        """Make a view of the side that `spec.partner` names.

        Raises:
            ValueError: no side of that name, or the data has none.
        """
        side = spec.partner or ""
        if side not in self.towers or side not in batch.sides:
            what = "encoder" if side not in self.towers else "data"
            has = self.sides if side not in self.towers else tuple(batch.sides)
            raise ValueError(
                f"The objective wants a view of {side or 'no side'}, but the sides of the {what} "
                f"are {', '.join(has)}."
            )
        seen = self.towers[side].view(batch.sides[side], spec.alone)
        return replace(seen, side=side)

    def forward(self, view: View, *, want: frozenset[str] = frozenset()) -> Encoding:
        """Encode a view of one side; `pooled` lies in the shared space, the rest is the side's."""
        side = view.side or ""
        with torch.set_grad_enabled(torch.is_grad_enabled() and side not in self.locked):
            found = self.towers[side](view, want=want)
        return replace(found, pooled=self.projections[side](found.pooled))

    def show(self, view: View, rows: int) -> dict[str, Any]:
        """The first rows of a view, as its side shows them, for the report."""
        return {"side": view.side, **self.towers[view.side or ""].show(view, rows)}

    # -- use ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, side: str, data: Any, **options: Any) -> Float[np.ndarray, "rows width"]:
        """Vectors of length 1 in the shared space; their inner products are cosines.

        Args:
            side: whose encoder sees the data.
            data: what that encoder's own `encode` takes.
            options: likewise.

        Raises:
            ValueError: no such side.
        """
        if side not in self.towers:
            raise ValueError(f"No side {side!r}; there are {', '.join(self.sides)}.")
        vectors = torch.from_numpy(np.array(self.towers[side].encode(data, **options), np.float32))
        return self.project(side, vectors).numpy()

    def project(self, side: str, vectors: torch.Tensor) -> Float[torch.Tensor, "rows width"]:
        """Vectors of a side's own encoder in the shared space, of length 1, on the CPU."""
        into = self.projections[side]
        return nn.functional.normalize(into(vectors.to(into.weight)), dim=-1).float().cpu()


@dataclass(frozen=True)
class JointCollator:
    """Samples of several sides to a `Batch` of batches; works with any DataLoader or Trainer.

    Attributes:
        own: the collator of each side.
        seed: of the run.
    """

    own: Mapping[str, Any]
    seed: int = 0

    def __call__(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """Samples with `sides`, a sample of each, and `index`, `ordinal` and maybe `label`."""
        # Every side draws its augmentations from the whole sample's place in the run.
        whole = [{k: v for k, v in s.items() if k != "sides"} for s in samples]
        sides = {
            name: collate([{**s["sides"][name], **w} for s, w in zip(samples, whole, strict=True)])
            for name, collate in self.own.items()
        }
        there = torch.ones(len(samples), 1, dtype=torch.bool)
        made = Batch.of(samples, {}, there, seed=self.seed, partners={})
        return replace(made, sides=sides)


__all__ = ["PROJECTIONS", "TOWERS", "JointCollator", "JointEncoder"]
