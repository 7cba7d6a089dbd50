"""How each kind of model of frames or clips is called, and the sizes it has."""

import math
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel, VideoMAEModel, ViTModel

from unlabel.core import View
from unlabel.modalities.clip import Cell
from unlabel.modalities.conv_mae import ConvMAEModel
from unlabel.modalities.coupling_flow import CouplingFlowModel
from unlabel.modalities.patch_transformer import PatchTransformer
from unlabel.modalities.r2plus1d import R2Plus1DModel
from unlabel.modalities.visual_fit import real_cells


class States(NamedTuple):
    """What a driver gives.

    Attributes:
        layers: tokens by layer, each `(batch, length, width)`, the last one the encoder's.
        mask: True at real tokens, `(batch, length)`.
        first: the class token, `(batch, width)`, where the model has one.
        likelihood: ln p of each clip, `(batch,)`, where the model gives it.
    """

    layers: list[Tensor]
    mask: Tensor
    first: Tensor | None = None
    likelihood: Tensor | None = None


class Patches(nn.Module):
    """A ViT or VideoMAE on patches, visible ones only where the view is so.

    Causal, each sees those before it alone: earlier frames, then rows above, then to the left.
    """

    framewise, in_patches = False, True

    def __init__(self, model: PreTrainedModel, *, causal: bool = False):
        super().__init__()
        self.transformer, self.causal = PatchTransformer(model), causal
        frames, rows, columns = self.transformer.cell
        self.cell, self.width = Cell(frames, rows, columns), self.transformer.width
        self.specials = self.transformer.specials

    @property
    def model(self) -> Any:
        """The transformers model inside."""
        return self.transformer.model

    def forward(self, view: View) -> States:
        """Hidden states of a view's patches by layer."""
        grid = view.inputs.get("grid")
        states = self.transformer(
            view.inputs["patches"],
            positions=view.inputs["positions"],
            mask=padding_of(view.mask),
            grid=None if grid is None else grid.shape[2:],
            keep_positions=view.keep_positions,
            keep_features=view.keep_features,
            causal=self.causal,
        )
        count = self.specials
        first = states[-1][:, 0] if count else None
        return States([s[:, count:] for s in states], view.mask, first)


class FrameByFrame(nn.Module):
    """Any image model, applied to each frame alone; a clip's tokens are its frames' in order."""

    framewise, in_patches = True, False

    def __init__(self, model: PreTrainedModel, *, size: int):
        super().__init__()
        self.model: Any = model
        self.resizes = isinstance(model, ViTModel)
        shape, self.specials = _probe(self, model, size)
        self.width, rows, columns = shape
        self.cell = Cell(1, size // rows, size // columns)

    def forward(self, view: View) -> States:
        """Tokens of all frames, without layers; padding comes out as 0."""
        frames, mask = view.inputs["frames"], view.mask
        # Left out, padding is no part of a batch norm's statistics.
        skips = not torch.compiler.is_compiling() and padding_of(mask) is not None
        flat = lambda x: rearrange(x, "b t ... -> (b t) ...")  # noqa: E731
        tokens, first, (rows, columns) = self.tokens(frames[mask] if skips else flat(frames))

        def back(x: Tensor) -> Tensor:
            if not skips:
                return x.unflatten(0, mask.shape)
            whole = x.new_zeros(*mask.shape, *x.shape[1:])
            whole[mask] = x
            return whole

        if first is not None:
            # One for each frame; the clip's is their mean.
            real = mask[:, :, None].to(first)
            first = (back(first) * real).sum(1) / real.sum(1).clamp(min=1)
        tokens = rearrange(back(tokens), "b t l d -> b (t l) d")
        return States([tokens], mask.repeat_interleave(rows * columns, 1), first)

    def tokens(self, pictures: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """Tokens of pictures, their class tokens, and how the tokens lie."""
        more = {"interpolate_pos_encoding": True} if self.resizes else {}
        out = self.model(pixel_values=pictures, **more).last_hidden_state
        if out.dim() == 4:
            return rearrange(out, "n d y x -> n (y x) d"), None, tuple(out.shape[2:])
        rows, columns = pictures.shape[2] // self.cell.rows, pictures.shape[3] // self.cell.columns
        first = out[:, 0] if self.specials else None
        return out[:, self.specials :], first, (rows, columns)


class Convolution(nn.Module):
    """A (2+1)D convolution network on clips."""

    framewise, in_patches, specials = False, False, 0

    def __init__(self, model: R2Plus1DModel):
        super().__init__()
        self.model: Any = model
        self.width: int = model.config.hidden_sizes[-1]
        self.cell = Cell(*model.config.strides)

    def forward(self, view: View) -> States:
        """Tokens of all cells, without layers."""
        out = self.model(view.inputs["frames"], frame_mask=view.mask).last_hidden_state
        real = real_cells(view.mask, self.cell, out.shape[2:])
        return States([rearrange(out, "b d t y x -> b (t y x) d")], real.flatten(1))


class MaskedConvolution(nn.Module):
    """A ConvMAE on single frames, put together again from the patches that a view shows."""

    framewise, in_patches, specials = False, True, 0

    def __init__(self, model: ConvMAEModel, *, size: int):
        super().__init__()
        self.model: Any = model
        self.width: int = model.config.hidden_sizes[-1]
        side = model.config.patch_size
        self.cell, self.grid = Cell(1, side, side), (size // side, size // side)

    def forward(self, view: View) -> States:
        """Hidden states of a view's patches by layer; no pixel of any other reaches them."""
        patches, at, grid = (view.inputs.get(k) for k in ("patches", "positions", "grid"))
        assert patches is not None and at is not None  # every view in patches has both
        rows, columns = self.grid if grid is None else grid.shape[3:]
        shown = view.mask if view.keep_positions is None else view.mask & view.keep_positions
        # What is not shown goes to a place behind the last, which is then dropped.
        place = torch.where(shown, at, rows * columns)
        cells = patches.new_zeros(len(patches), rows * columns + 1, patches.shape[2])
        cells = cells.scatter(1, place[:, :, None].expand_as(patches), patches)[:, :-1]
        is_visible = shown.new_zeros(cells.shape[0], rows * columns + 1)
        is_visible = is_visible.scatter(1, place, shown)[:, :-1]
        whole = "b (y x) (c ky kx) -> b c (y ky) (x kx)"
        out = self.model(
            rearrange(cells, whole, y=rows, ky=self.cell.rows, kx=self.cell.columns),
            is_visible=is_visible.unflatten(1, (rows, columns)),
            positions=at,
            mask=padding_of(view.mask),
            keep_features=view.keep_features,
        )
        return States(list(out.hidden_states), view.mask)


class Flow(nn.Module):
    """An invertible model of whole clips, in patches."""

    framewise, in_patches, specials = False, True, 0

    def __init__(self, model: CouplingFlowModel):
        super().__init__()
        self.model: Any = model
        self.width: int = model.config.hidden_size
        side = model.config.patch_size
        self.cell = Cell(model.config.tubelet_size, side, side)

    def forward(self, view: View) -> States:
        """One vector a token (the flow's latents are no layers: they have its values' width)."""
        out = self.model(view.inputs["patches"])
        return States([out.last_hidden_state], view.mask, likelihood=out.log_prob)


def driver_of(
    model: PreTrainedModel, *, frames: int, size: int, causal: bool = False
) -> Patches | FrameByFrame | Convolution | MaskedConvolution | Flow:
    """What calls the model.

    Raises:
        ValueError: a model that nothing here can call, or not causally.
    """
    in_patches = isinstance(model, VideoMAEModel) or (isinstance(model, ViTModel) and frames == 1)
    if causal and not in_patches:
        raise ValueError(
            f"{type(model).__name__} on {frames} frame(s) has no order of patches to be causal in; "
            "use a VideoMAEModel (videomae), or a ViTModel (vit) on single frames."
        )
    if isinstance(model, R2Plus1DModel):
        return Convolution(model)
    if isinstance(model, CouplingFlowModel):
        return Flow(model)
    if isinstance(model, ConvMAEModel) and frames == 1:
        return MaskedConvolution(model, size=size)
    if in_patches:
        return Patches(model, causal=causal)
    if getattr(model, "main_input_name", "") == "pixel_values" and "image" in (
        getattr(model, "input_modalities", None) or ()
    ):
        return FrameByFrame(model, size=size)
    raise ValueError(
        f"{type(model).__name__} is no encoder of frames or clips that unlabel can drive; use a "
        "transformers image model (vit, resnet, convnext, ...), a VideoMAEModel (videomae), an "
        "R2Plus1DModel (r2plus1d) or a CouplingFlowModel (coupling_flow)."
    )


def check_flow(model: Any, grid: tuple[int, ...], values: int) -> None:
    """Refuse a flow of other sizes than those of a view."""
    config = model.config
    if (config.length, config.values) != (math.prod(grid), values):
        raise ValueError(
            f"The flow takes {config.length} tokens of {config.values} numbers, but a view is "
            f"{math.prod(grid)} of {values}."
        )


def padding_of(mask: Tensor) -> Tensor | None:
    """The mask where it hides something; None spares the attention one.

    Looking at its values would stop a compiled graph, or make an accelerator wait.
    """
    if mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all()):
        return None
    return mask


def local_size(driver: Any, size: int) -> int:
    """Rows and columns of a small crop: about 3/7 of a whole view's, as 96 of 224 pixels.

    A model that takes pictures of one size only sees small crops at that size.
    """
    cell = math.lcm(driver.cell.rows, driver.cell.columns)
    small = max(1, round(size * 3 / 7 / cell)) * cell
    if isinstance(driver, Flow):
        return size
    if isinstance(driver, FrameByFrame) and small < size:
        try:
            _probe(driver, driver.model, small)
        except (ValueError, RuntimeError):
            return size
    return min(small, size)


def _probe(
    driver: FrameByFrame, model: PreTrainedModel, size: int
) -> tuple[tuple[int, int, int], int]:
    """Width, rows and columns of what the model gives for a picture, and its class tokens."""
    was_training = model.training
    model.eval()
    like = next(model.parameters())
    with torch.no_grad():
        more = {"interpolate_pos_encoding": True} if driver.resizes else {}
        blank = like.new_zeros(1, 3, size, size)
        out = model(pixel_values=blank, **more).last_hidden_state
    model.train(was_training)
    if out.dim() == 4:
        return (out.shape[1], out.shape[2], out.shape[3]), 0
    length = out.shape[1]
    patch = getattr(model.config, "patch_size", None)
    side = size // patch if isinstance(patch, int) else 0
    if not side or side**2 > length:  # patches are merged on the way (Swin)
        side = int(length**0.5)
    return (out.shape[2], side, side), length - side**2


__all__ = [
    "Convolution",
    "Flow",
    "FrameByFrame",
    "MaskedConvolution",
    "Patches",
    "States",
    "check_flow",
    "driver_of",
    "local_size",
    "padding_of",
]
