"""Frames and video: the encoders of pictures and clips behind one door."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from unlabel.checks import check_above_0
from unlabel.core import Batch, Encoding, View, ViewSpec
from unlabel.core import view as named
from unlabel.modalities.clip import Clip
from unlabel.modalities.configs import (
    new_config,
    save_settings,
    saved_config,
    saved_settings,
)
from unlabel.modalities.visual_collator import VisualCollator
from unlabel.modalities.visual_configs import defaults_of, said_of_pixels, save_processor
from unlabel.modalities.visual_drivers import Flow, check_flow, driver_of, local_size
from unlabel.modalities.visual_features import hog_values
from unlabel.modalities.visual_fit import finish, fit, grid_of
from unlabel.modalities.visual_show import pictures, show
from unlabel.modalities.visual_views import MOVES, RAW, TIMED, VIEWS

POOLINGS = ("mean", "cls", "max")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels
# Shares of the area of small crops, of DINO's; an instance adds their size.
_LOCAL = (("crop.high", 0.3), ("crop.low", 0.05))
# The last two are partners that clips may come with: another camera, a tracked patch.
_GIVES = frozenset({"pooled", "tokens", "values", "length", "grid", "places", "turned"})
# What needs more than one frame.
_CLIPS_GIVE = frozenset({"times", "view", "tracked"})
_CLIP_VIEWS = TIMED | {"flow", "frames", "motion"}


class VisualEncoder(nn.Module):
    """An encoder of frames or clips that sees views and gives pooled and token vectors.

    A transformer of patches (VideoMAE, and on single frames ViT and ConvMAE) takes any cells of the
    grid; any other image model is applied to each frame alone.

    Args:
        model: a transformers image model, a VideoMAEModel, an R2Plus1DModel or a ConvMAEModel.
        frames: of a whole view; 1 for single pictures.
        size: rows and columns of a whole view, in pixels.
        pooling: how tokens become one vector: `mean`, `cls` (the class token) or `max`.
        mean: of the pixels from 0 to 1, by channel, taken out of them.
        std: likewise, divided by.
        causal: every patch sees itself and those before it only, in the grid's order (time, rows,
            columns).

    Raises:
        ValueError: an unknown setting, sizes that do not go together, or a model this class
            cannot drive.
    """

    # What some encoder of clips gives; an instance says what it gives itself.
    gives = _GIVES | _CLIPS_GIVE | {"layers", "visible_only", "framewise", "likelihood", "causal"}
    views = frozenset(VIEWS)
    usual = "crop+flip+jitter"
    local = ViewSpec("crop+flip+jitter", args=_LOCAL)
    turned = tuple(named("rotate", turns=turns) for turns in range(4))
    channels = 3
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        frames: int,
        size: int,
        pooling: str = "mean",
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        causal: bool = False,
    ):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLINGS)}.")
        self.driver = driver_of(model, frames=frames, size=size, causal=causal)
        self.frames, self.size, self.pooling, self.causal = frames, size, pooling, causal
        self.width, self.cell = self.driver.width, self.driver.cell
        self.layer_width = self.width
        self.grid = _grid(self.driver, frames, size)
        self.length, self.token_values = math.prod(self.grid), math.prod(self.cell) * self.channels
        if pooling == "cls" and causal:
            raise ValueError("A causal class token sees no patch; set pooling to mean or max.")
        if pooling == "cls" and not self.driver.specials:
            raise ValueError(
                f"{type(model).__name__} has no class token to pool by; set pooling to mean or max."
            )
        small = local_size(self.driver, size)
        self.resizes = small < size
        self.local = ViewSpec(self.local.name, args=(*_LOCAL, ("crop.size", small)))
        self.level_bits = 8 + sum(math.log2(s) for s in std) / len(std)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.in_patches, is_flow = self.driver.in_patches, isinstance(self.driver, Flow)
        in_layers = self.in_patches and not is_flow
        self.gives = _GIVES | ({"layers", "visible_only"} if in_layers else set())
        self.gives |= {"likelihood"} if is_flow else {"causal"} if causal else set()
        self.gives |= {"framewise"} if frames == 1 or self.driver.framewise else set()
        self.gives |= frozenset() if frames == 1 else _CLIPS_GIVE
        self.views = frozenset(VIEWS) - (_CLIP_VIEWS if frames == 1 else frozenset())
        if not self.in_patches:
            self.views -= {"feature_cutoff"}  # there are no embedding columns
        if is_flow:
            self.views -= {"token_cutoff", "span_cutoff", "feature_cutoff"}
            check_flow(model, self.grid, self.token_values)

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model inside."""
        return self.driver.model

    # -- making, loading and saving ---------------------------------------------------------

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        *,
        frames: int,
        size: int,
        dropout: float | None = None,
        **settings: Any,
    ) -> "VisualEncoder":
        """An untrained encoder from a transformers configuration.

        Args:
            config: keys of the configuration, `model_type` among them: `vit` (default of single
                frames), `videomae` (default of clips), `r2plus1d`, `convmae`, or any image model's,
                as `resnet`, or `coupling_flow` (invertible); small unless said otherwise.
            frames: of a whole view.
            size: of a whole view, in pixels.
            dropout: sets every dropout probability of the model; None leaves them alone.
            settings: as for the class.

        Raises:
            ValueError: a key that the configuration does not have.
        """
        keys = dict(config)
        kind = keys.pop("model_type", "vit" if frames == 1 else "videomae")
        made = new_config(
            kind, keys, defaults=defaults_of(kind, frames, size, keys), dropout=dropout
        )
        return cls(_bare(AutoModel.from_config, made), frames=frames, size=size, **settings)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dropout: float | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> "VisualEncoder":
        """An encoder from a folder (ours or transformers') or a hub name.

        It comes in evaluation mode, as transformers' own do.

        Args:
            path: folder or hub name.
            dropout: sets every dropout probability of the model; None leaves them alone.
            local_files_only: never ask the hub.
            settings: as for the class, over what the folder says.

        Raises:
            FileNotFoundError: the folder holds no model.
            ValueError: neither the folder nor the settings say the size of a picture.
        """
        config = saved_config(path, dropout=dropout, local_files_only=local_files_only)
        settings = {**said_of(path, config, local_files_only), **settings}
        if not isinstance(settings.get("size"), int):
            raise ValueError(f"{path} does not say the size of its pictures; give size=224, or so.")
        load = lambda config, **more: AutoModel.from_pretrained(  # noqa: E731
            str(path),
            config=config,
            dtype=torch.float32,
            local_files_only=local_files_only,
            **more,
        )
        return cls(_bare(load, config), **settings).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a plain transformers folder, with its image processor and our settings beside."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        save_processor(self, folder)
        save_settings(folder, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What a transformers folder cannot say of this encoder."""
        return {
            "modality": "frames" if self.frames == 1 else "video",
            **{n: getattr(self, n) for n in ("frames", "size", "pooling", "causal")},
            **{n: [round(x, 6) for x in getattr(self, n).tolist()] for n in ("mean", "std")},
        }

    # -- views and encoding -----------------------------------------------------------------

    def collator(self, *, seed: int = 0) -> VisualCollator:
        """The collator for clips."""
        return VisualCollator(seed=seed)

    def view(self, batch: Batch, spec: ViewSpec) -> View:
        """Make a view of the batch (or of one of its partners) on its device."""
        return self.finish(self.clip(batch, spec))

    def clip(self, batch: Batch, spec: ViewSpec) -> Clip:
        """Run the links of a view, on pixels from 0 to 1.

        Raises:
            ValueError: no view or partner of that name, or links in an order that cannot be.
        """
        parts = spec.parts()
        if unknown := [p.name for p in parts if p.name not in self.views]:
            has = ", ".join(sorted(self.views))
            raise ValueError(f"This encoder has no view {unknown[0]!r}; it has {has}.")
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        sizes: dict[str, Any] = {"frames": self.frames, "size": self.size, "dtype": dtype}
        clip = _source(batch, spec.partner)
        for part in parts:
            if clip.is_hidden is not None and part.name in MOVES:
                raise ValueError(
                    f"{part.name!r} moves pixels, and some are hidden by then; put it before the "
                    f"mask in {spec.name!r}."
                )
            about = {**sizes, "cell": self.cell, "width": self.width, "mean": self.mean}
            about |= {"std": self.std, "resizes": self.resizes}
            if part.name not in RAW:
                clip = fit(clip, **sizes, cell=self.cell)
                about["grid"] = grid_of(clip, self.cell)
            # A piece is a sample of its own.
            own = batch if clip.ordinal is None else replace(batch, ordinal=clip.ordinal)
            clip = VIEWS[part.name](clip, own, part, **about)
        return fit(clip, **sizes, cell=self.cell)

    def target_values(self, link: ViewSpec) -> int:
        """Numbers that a link which makes features asks of a token.

        Raises:
            ValueError: the link makes none.
        """
        if link.name != "hog":
            raise ValueError(f"View {link.name!r} makes no features of pictures; 'hog' does.")
        return hog_values(link, self.cell, self.channels)

    def finish(self, clip: Clip) -> View:
        """Normalise a clip and cut it into what the model takes."""
        view = finish(
            clip,
            mean=self.mean.to(clip.frames),
            std=self.std.to(clip.frames),
            cell=self.cell,
            grid=self.grid,
            in_patches=self.in_patches,
        )
        if clip.frames.dtype != self.dtype:
            view.inputs = {
                k: v.to(self.dtype) if v.is_floating_point() else v for k, v in view.inputs.items()
            }
        return view

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return next(self.driver.parameters()).dtype

    def forward(self, view: View, *, want: frozenset[str] = frozenset()) -> Encoding:
        """Encode one view; `want` may name `layers`."""
        states = self.driver(view)
        tokens = states.layers[-1]
        return Encoding(
            pooled=states.first
            if self.pooling == "cls"
            else pool(tokens, states.mask, self.pooling),
            tokens=tokens,
            mask=states.mask,
            layers=tuple(states.layers) if "layers" in want else None,
            likelihood=states.likelihood,
        )

    def of_values(self, values: Float[Tensor, "batch length values"]) -> View:
        """The view of whole clips whose cells are these values, normalised as the encoder's."""
        values = values.to(self.dtype)
        if not self.in_patches:
            frames = pictures(values, self.cell, self.grid)
            return View({"frames": frames}, frames.new_ones(frames.shape[:2]).bool())
        places = torch.arange(self.length, device=values.device).expand(len(values), -1)
        inputs = {"patches": values, "positions": places}
        return View(inputs, torch.ones_like(places, dtype=torch.bool))

    def restored(
        self, values: Float[Tensor, "batch length values"]
    ) -> UInt8[np.ndarray, "batch *times rows columns colors"]:
        """Pixels from 0 to 255, without an axis of time for an encoder of single frames."""
        frames = pictures(values, self.cell, self.grid)
        pixels = frames * self.std[:, None, None] + self.mean[:, None, None]
        found = rearrange((pixels.clamp(0, 1) * 255).round().byte(), "b t c y x -> b t y x c")
        return (found[:, 0] if self.frames == 1 else found).cpu().numpy()

    def show(self, view: View, rows: int) -> dict[str, Any]:
        """The first rows of a view as strips of frames, for the report."""
        return show(view, rows, mean=self.mean, std=self.std, cell=self.cell, grid=self.grid)

    # -- use ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(
        self, frames: np.ndarray | Sequence[np.ndarray], *, batch_size: int = 64
    ) -> Float[np.ndarray, "clips width"]:
        """Vectors of clips or pictures: the middle frames, resized and cropped in the middle.

        Args:
            frames: uint8 RGB, `(clips, times, rows, columns, 3)`, `(pictures, rows, columns, 3)`,
                or a list of clips or pictures of different lengths and sizes.
            batch_size: clips a forward pass.

        Raises:
            ValueError: batches of nothing.
        """
        check_above_0(batch_size=batch_size)
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        collate, found = self.collator(), np.zeros((len(frames), self.width), np.float32)
        try:
            for places in _by_size(frames, batch_size):
                rows = [np.asarray(frames[place]) for place in places]
                samples = [{"frames": x[None] if x.ndim == 3 else x} for x in rows]
                view = self.view(collate(samples).to(device), ViewSpec("plain"))
                found[places] = self(view).pooled.float().cpu().numpy()
        finally:
            self.train(was_training)
        return found


class PictureEncoder(VisualEncoder):
    """A `VisualEncoder` of single frames, which have no order, no other camera and no track."""

    gives = VisualEncoder.gives - _CLIPS_GIVE
    views = VisualEncoder.views - _CLIP_VIEWS


def pool(tokens: Tensor, mask: Tensor, pooling: str) -> Float[Tensor, "batch width"]:
    """One vector a sample: mean or maximum of its real tokens; 0 where it has none."""
    if pooling == "max":
        highest = tokens.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
        return torch.where(mask.any(1, keepdim=True), highest, 0)
    weight = mask[:, :, None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def _by_size(frames: np.ndarray | Sequence[np.ndarray], batch_size: int) -> Iterator[list[int]]:
    """Places of clips of one size each, a batch at a time."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place in range(len(frames)):
        places.setdefault(np.shape(frames[place])[-3:], []).append(place)
    for same in places.values():
        yield from (same[start : start + batch_size] for start in range(0, len(same), batch_size))


def _source(batch: Batch, partner: str | None) -> Clip:
    """Frames of the samples or of a partner of theirs, as stored."""
    if partner is None:
        return _whole(batch.inputs["frames"], batch.mask)
    theirs = batch.partners.get(partner, {})
    if "frames" not in theirs:
        raise ValueError(
            f"The objective wants the frames of a {partner!r} beside each clip, but the data has "
            f"{sorted(batch.partners) or 'none'}; read data that comes with it."
        )
    return _whole(theirs["frames"], theirs["mask"])


def _whole(frames: Tensor, mask: Tensor) -> Clip:
    # (0, 0), (0, 1) and (1, 0), made where the clip is.
    corners = F.pad(torch.eye(2, device=mask.device).flip(0), (0, 0, 1, 0))
    return Clip(frames, mask, corners=corners.expand(len(mask), -1, -1))


def _grid(driver: Any, frames: int, size: int) -> tuple[int, int, int]:
    cell = driver.cell
    if frames % cell.frames or size % cell.rows or size % cell.columns or frames < 1:
        raise ValueError(
            f"{frames} frames of {size} x {size} pixels are no whole cells of {tuple(cell)} "
            "(frames, rows, columns); choose multiples."
        )
    return frames // cell.frames, size // cell.rows, size // cell.columns


def _bare(make: Any, config: Any) -> PreTrainedModel:
    # ViT's pooler would be a layer that no objective trains.
    more = {"add_pooling_layer": False} if config.model_type == "vit" else {}
    return make(config, **more)


def said_of(path: str | Path, config: Any, local_files_only: bool = False) -> dict[str, Any]:
    """Our settings of a folder, or what its configuration and image processor tell."""
    if said := saved_settings(path):
        return said
    return {
        "frames": getattr(config, "num_frames", 1),
        "size": getattr(config, "image_size", None),
        **said_of_pixels(path, local_files_only=local_files_only),
    }


__all__ = ["MEAN", "POOLINGS", "STD", "PictureEncoder", "VisualCollator", "VisualEncoder", "pool"]
