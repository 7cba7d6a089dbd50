"""Time series: the encoders of series behind one door."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from unlabel.core import Batch, Encoding, View, ViewSpec
from unlabel.modalities.configs import (
    new_config,
    save_settings,
    saved_config,
    saved_settings,
)
from unlabel.modalities.coupling_flow import CouplingFlowConfig
from unlabel.modalities.order import reversed_steps
from unlabel.modalities.patchtst import DEFAULTS, PatchTST
from unlabel.modalities.pooling import pool
from unlabel.modalities.series_collator import SeriesCollator, inputs_of
from unlabel.modalities.series_drivers import Convolution, Flow, check_sizes, driver_of, places_of
from unlabel.modalities.series_encode import encode
from unlabel.modalities.series_show import show
from unlabel.modalities.series_views import SPLITS, VIEWS, Window, finish
from unlabel.modalities.series_window import NORMS

POOLINGS = ("mean", "last", "max")
_WEIGHTS = "unlabel.safetensors"
_GIVES = frozenset({"pooled", "tokens", "times", "layers", "values", "length"})
_GIVES |= {"future", "sensor", "places", "turned"}
# Links that zero embeddings.
_ZEROES = frozenset({"token_cutoff", "span_cutoff", "feature_cutoff"})


class SeriesEncoder(nn.Module):
    """An encoder of series that sees views and gives pooled and token vectors.

    With norm `standard` or `last` a window's own mean (or newest value) and scale are taken out,
    from visible values of the history alone. They are two numbers a channel that every token of
    a causal encoder shares; with norm `none` it knows nothing of later steps at all.

    Args:
        model: a PatchTSTModel (one channel at a time), a DilatedConvModel (a token a step), or a
            CouplingFlowModel (invertible, with the likelihood of whole windows).
        context: steps of a whole view.
        channels: values of one step.
        norm: `standard` (mean and std), `last` (newest value and std) or `none`.
        pooling: how tokens become one vector: `mean`, `last` (the newest) or `max`.
        covariates: kinds of numbers known beside each step, added to the embedding.
        static: kinds of numbers known of the series, likewise.
        causal: every token of a PatchTST sees itself and earlier ones only.
        time_gap: unit of the time gaps that are the last of the covariates, see `read_series`.
        names: of the channels that it takes together, where they are known: series are put in
            their order.

    Raises:
        ValueError: an unknown setting, or a model this class cannot drive.
    """

    # What some encoder of series gives; an instance says what it gives itself.
    gives = _GIVES | {"causal", "visible_only", "likelihood"}
    views = frozenset(VIEWS)
    usual = "crop+jitter"
    local = ViewSpec("crop+jitter", args=(("crop.ratio", 0.8),))
    turned = (ViewSpec("plain"), ViewSpec("reverse"))

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        context: int,
        channels: int = 1,
        norm: str = "standard",
        pooling: str = "mean",
        covariates: int = 0,
        static: int = 0,
        causal: bool = False,
        time_gap: float | None = None,
        names: Sequence[str] = (),
    ):
        super().__init__()
        if time_gap is not None and not covariates:
            raise ValueError("A time gap is one of the covariates; make that at least 1.")
        for name, value, known in (("pooling", pooling, POOLINGS), ("norm", norm, NORMS)):
            if value not in known:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}.")
        self.driver = driver_of(model, causal=causal)
        self.width, self.patch = self.driver.width, self.driver.patch
        self.context, self.channels, self.norm, self.pooling = context, channels, norm, pooling
        self.length, self.token_values = context // self.patch, self.patch * channels
        self.grid = (self.length,)
        self.causal = causal or isinstance(self.driver, Convolution)
        check_sizes(model, context=context, channels=channels, tokens=self.length)
        self.layer_width = embedding = self.driver.embedding_width
        extra = lambda n: nn.Linear(n, embedding, bias=False) if n else None  # noqa: E731
        patches = isinstance(self.driver, PatchTST)
        self.missing = extra(self.token_values if patches else 0)
        self.covariates, self.static = extra(covariates * self.patch), extra(static)
        self.kinds, self.time_gap, self.names = (covariates, static), time_gap, tuple(names)
        if self.missing is not None:
            nn.init.zeros_(self.missing.weight)  # a plain PatchTST starts as what it was
        self.gives = _GIVES | ({"causal"} if self.causal else set())
        self.gives |= {"visible_only"} if patches else set()
        if isinstance(self.driver, Flow):
            if covariates or static:
                raise ValueError("A flow has no room for covariates or static values.")
            self.gives |= {"likelihood"}
            self.views = frozenset(VIEWS) - _ZEROES  # there is nothing to zero
        # A context shorter than the position table takes its last places.
        self.first_place = places_of(model, self.length) - self.length

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
        context: int,
        channels: int = 1,
        dropout: float | None = None,
        **settings: Any,
    ) -> "SeriesEncoder":
        """An untrained encoder from a transformers configuration.

        Args:
            config: keys of the configuration, `model_type` among them: `patchtst` (default, small,
                patches of 12 steps), `dilated_conv`, or `coupling_flow` (`patch_size` steps a
                token).
            context: steps of a whole view.
            channels: values of one step.
            dropout: sets every dropout probability of the model; None leaves them alone.
            settings: as for the class.

        Raises:
            ValueError: a key that the configuration does not have.
        """
        keys = dict(config)
        kind = keys.pop("model_type", "patchtst")
        defaults: dict[str, Any] = {"num_input_channels": channels}
        if kind == "patchtst":
            defaults |= {**DEFAULTS, "context_length": context}
            defaults["patch_stride"] = keys.get("patch_length", DEFAULTS["patch_length"])
        if kind == "coupling_flow":
            patch = keys.get("patch_size", CouplingFlowConfig().patch_size)
            defaults = {"length": context // patch, "values": patch * channels}
        made = new_config(kind, keys, defaults=defaults, dropout=dropout)
        model = AutoModel.from_config(made)
        return cls(model, context=context, channels=channels, **settings)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dropout: float | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> "SeriesEncoder":
        """An encoder from a folder (ours or transformers') or a hub name.

        It comes in evaluation mode, as transformers' own do.

        Args:
            path: folder or hub name.
            dropout: sets every dropout probability of the model; None leaves them alone.
            local_files_only: never ask the hub.
            settings: as for the class, over what the folder says.

        Raises:
            FileNotFoundError: the folder holds no model.
            ValueError: neither the folder nor the settings say how long a context is.
        """
        config = saved_config(path, dropout=dropout, local_files_only=local_files_only)
        folder = Path(path)
        model = AutoModel.from_pretrained(
            str(path), config=config, dtype=torch.float32, local_files_only=local_files_only
        )
        settings = {**_said(folder, config), **settings}
        if "context" not in settings:
            raise ValueError(
                f"{path} does not say how many steps its encoder saw; give context=336, or so."
            )
        made = cls(model, **settings)
        if (folder / _WEIGHTS).is_file():
            made.load_state_dict(load_file(folder / _WEIGHTS), strict=False)
        return made.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a plain transformers folder, with our settings and added weights beside it."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("driver.")}
        if own:
            save_file({k: v.contiguous() for k, v in own.items()}, folder / _WEIGHTS)
        save_settings(folder, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What a transformers folder cannot say of this encoder."""
        names = ("context", "channels", "norm", "pooling", "causal", "time_gap", "names")
        covariates, static = self.kinds
        return {
            "modality": "series",
            **{n: getattr(self, n) for n in names},
            "covariates": covariates,
            "static": static,
        }

    # -- views and encoding -----------------------------------------------------------------

    def collator(self, *, seed: int = 0) -> SeriesCollator:
        """The collator for windows of series."""
        return SeriesCollator(seed=seed)

    def view(self, batch: Batch, spec: ViewSpec) -> View:
        """Make a view of the batch (or of one of its partners) on its device."""
        return self.finish(self.window(batch, spec))

    def window(self, batch: Batch, spec: ViewSpec) -> Window:
        """Run the links of a view, in raw units.

        Raises:
            ValueError: no view or partner of that name, or data of another shape.
        """
        parts = spec.parts()
        if unknown := [p.name for p in parts if p.name not in VIEWS]:
            has = ", ".join(sorted(VIEWS))
            raise ValueError(f"Series have no view {unknown[0]!r}; they have {has}.")
        splits = [p for p in parts if p.name in SPLITS]
        horizon = sum(int(dict(p.args).get("horizon", 0)) for p in splits)
        inputs, mask = inputs_of(batch, spec.partner, channels=self.channels, kinds=self.kinds)
        if len(splits) > 1 or (splits and not 0 < horizon < mask.shape[1]):
            raise ValueError(
                f"The view {spec.name!r} splits off {horizon} steps in {len(splits)} links, but "
                f"samples have {mask.shape[1]} steps; split once, and read windows of the context "
                "and the horizon."
            )
        window = Window.of(
            inputs,
            mask,
            context=self.context,
            history=self.length * self.patch,
            horizon=horizon,
        )
        if any(p.name == "past" for p in parts):
            window = window.take(reversed_steps(window.mask))
        for part in parts:
            about = {"patch": self.patch, "width": self.driver.embedding_width}
            window = VIEWS[part.name](window, batch, part, **about)
        return window

    def finish(self, window: Window) -> View:
        """Normalise a window and cut it into tokens; its `loc` and `scale` lead back."""
        return finish(window, norm=self.norm, patch=self.patch)

    def forward(self, view: View, *, want: frozenset[str] = frozenset()) -> Encoding:
        """Encode one view; `want` may name `layers`."""
        dtype = next(self.parameters()).dtype  # of the weights; windows are exact
        seen = {k: v.to(dtype) if v.is_floating_point() else v for k, v in view.inputs.items()}
        view = replace(view, inputs=seen)
        states, tokens, *nats = self.driver(
            view.inputs["values"],
            view.inputs["observed"],
            self._added(view),
            mask=view.mask,
            positions=view.inputs["positions"] + self.first_place,
            keep_positions=view.keep_positions,
            keep_features=view.keep_features,
        )
        return Encoding(
            pooled=pool(tokens, view.mask, self.pooling),
            tokens=tokens,
            mask=view.mask,
            layers=tuple(states) if "layers" in want else None,
            likelihood=nats[0] if nats else None,
        )

    def of_values(self, values: Float[Tensor, "batch length values"]) -> View:
        """The view of whole windows that are these values, all of them measured."""
        cut = rearrange(values, "b l (p c) -> b l p c", c=self.channels)
        everywhere = torch.ones_like(cut, dtype=torch.bool)
        places = torch.arange(cut.shape[1], device=cut.device).expand(len(cut), -1)
        inputs = {"values": cut, "observed": everywhere, "positions": places}
        return View(inputs, everywhere[:, :, 0, 0])

    def restored(
        self, values: Float[Tensor, "batch length values"]
    ) -> Float[np.ndarray, "batch steps channels"]:
        """Windows, step by step; in units of each window's own unless norm is `none`."""
        steps = rearrange(values, "b l (p c) -> b (l p) c", c=self.channels)
        return steps.float().cpu().numpy()

    def check_gaps(self, time_gap: float | None) -> None:
        """Refuse series whose time gaps have another unit (or none) than the encoder's."""
        if time_gap != self.time_gap:
            wanted = False if self.time_gap is None else self.time_gap
            has = "no time gaps" if time_gap is None else f"time gaps in units of {time_gap:g}"
            raise ValueError(
                f"The series have {has}, but the encoder was made for time_gap={wanted}; read "
                "them so."
            )

    def show(self, view: View, rows: int) -> dict[str, Any]:
        """The first rows of a view as numbers, for the report."""
        return show(view, rows)

    def _added(self, view: View) -> Tensor | float:
        """What gaps, covariates and static values add to the embedding."""
        seen, total = view.inputs, 0.0
        if any(self.kinds) and not {"covariates", "static"} & set(seen):
            raise ValueError(
                "The encoder was made for covariates or static values, which windows that are "
                "values alone do not have; train one without them."
            )
        flat = lambda x: rearrange(x, "b l p c -> b l (p c)")  # noqa: E731
        if self.missing is not None:
            total = self.missing(flat(~seen["observed"]).to(seen["values"].dtype))
        if self.covariates is not None:
            total = total + self.covariates(flat(seen["covariates"]))
        if self.static is not None:
            total = total + self.static(seen["static"])[:, None]
        return total

    # -- use ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(
        self,
        values: np.ndarray,
        *,
        observed: np.ndarray | None = None,
        batch_size: int = 64,
        per_step: bool = False,
        stride: int | None = None,
    ) -> Float[np.ndarray, "*rows width"]:
        """Vectors of windows, or of every step of long series; no step knows a later one.

        A PatchTST's vector of a step is the pooled one of the window that ends there, or up to
        `stride - 1` steps before. A convolution goes over the whole series once; its vector of a
        step is that step's token. Unless norm is `none`, it normalises `stride` steps at a time,
        by the `context` steps up to the first of them (each window of training has one scale
        too); `stride=1` is the same as sliding a window over the series.

        Args:
            values: `(steps, channels)` or `(series, steps, channels)`, NaN where missing. Of a
                window longer than `context` the last steps count.
            observed: False where a value is missing too, likewise.
            batch_size: windows a forward pass.
            per_step: one vector for every step, else one for the whole.
            stride: see above; the default is a patch, or a quarter of the context.

        Returns:
            `([series], [steps], [channels], width)`: an axis of channels where the encoder takes
            one at a time and there are several.

        Raises:
            ValueError: another shape, or an encoder made for covariates.
        """
        was_training = self.training
        self.eval()
        try:
            return encode(
                self,
                _bare(values),
                observed,
                batch_size=batch_size,
                per_step=per_step,
                stride=stride,
            )
        finally:
            self.train(was_training)


def _bare(values: Any) -> np.ndarray:
    """An array without a mask: what is masked is missing."""
    if isinstance(values, np.ma.MaskedArray):
        return values.astype(np.float64).filled(np.nan)
    return np.asarray(values)


def _said(folder: Path, config: Any) -> dict[str, Any]:
    """Our settings of a folder, or what its configuration tells."""
    if said := saved_settings(folder):
        return said
    if config.model_type == "patchtst":
        return {"context": config.context_length}
    return {"channels": getattr(config, "num_input_channels", 1)}


__all__ = ["POOLINGS", "SeriesCollator", "SeriesEncoder"]
