"""Sound: the encoders of audio behind one door."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from unlabel.core import Batch, Encoding, View, ViewSpec
from unlabel.core import view as named
from unlabel.data_pipes.audio import resampled
from unlabel.modalities.audio_collator import AudioCollator
from unlabel.modalities.audio_drivers import Patches, defaults_for, driver_of, wake
from unlabel.modalities.audio_features import check_parts, summary
from unlabel.modalities.audio_show import show
from unlabel.modalities.audio_sound import NORMS, LogMel, Norm, Sound, finish
from unlabel.modalities.audio_views import VIEWS
from unlabel.modalities.configs import (
    new_config,
    processor_keys,
    save_settings,
    saved_config,
    saved_settings,
)
from unlabel.modalities.series import pool

POOLINGS = ("mean", "max", "last", "cls")
_GIVES = frozenset({"pooled", "tokens", "times", "layers", "length", "grid", "turned"})


class AudioEncoder(nn.Module):
    """An encoder of sound that sees views and gives pooled and token vectors.

    An AST hears the log-mel spectrogram, in patches of frames and bands; a WaveConvModel the
    waveform. With norm `clip` the mean and standard deviation of each clip, over what of it is
    heard, are taken out of the spectrogram's values (or of the samples); with `fixed` those given
    are, and the encoder knows how loud a clip is. Silence is finite, and 0 with norm `clip`.

    Args:
        model: an ASTModel or a WaveConvModel.
        rate: samples a second of the sounds that come.
        seconds: of a whole view; whole tokens of it count.
        norm: `clip` or `fixed`.
        mean: for `fixed`, of all clips.
        std: likewise.
        pooling: how tokens become one vector: `mean`, `max`, `last` (the newest) or `cls` (the
            mean of an AST's class tokens).
        hop: seconds from frame to frame of the spectrogram.
        window: seconds that a frame looks at.

    Raises:
        ValueError: an unknown setting, or a model this class cannot drive.
        ImportError: torchaudio is missing (for an AST).
    """

    # What some encoder of sound gives; an instance says what it gives itself.
    gives = _GIVES | {"values", "visible_only", "causal"}
    views = frozenset(VIEWS)
    usual = "crop+jitter"
    local = ViewSpec("crop+jitter", args=(("crop.high", 0.4), ("crop.low", 0.1)))
    turned = (ViewSpec("plain"), ViewSpec("reverse"))

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rate: int = 16_000,
        seconds: float = 1.0,
        norm: str = "clip",
        mean: float = 0.0,
        std: float = 1.0,
        pooling: str = "mean",
        hop: float = 0.01,
        window: float = 0.025,
    ):
        super().__init__()
        for name, value, known in (("pooling", pooling, POOLINGS), ("norm", norm, NORMS)):
            if value not in known:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}.")
        if not std > 0:
            raise ValueError(f"std divides what is heard, but {std} came.")
        self.driver = driver_of(model)
        self.mel: LogMel | None = None
        if isinstance(self.driver, Patches):
            step, bands = round(hop * rate), self.driver.bands
            self.mel = LogMel(rate=rate, hop=step, window=round(window * rate), bands=bands)
            self.layout = self.driver.layout(rate, step)
            self._check_frames(round(seconds * rate) // step)
        else:
            self.layout = self.driver.layout(rate, round(seconds * rate))
        if pooling == "cls" and self.mel is None:
            raise ValueError("A WaveConvModel has no class token; pool by mean, max or last.")
        self.rate, self.seconds, self.hop, self.window = rate, seconds, hop, window
        self.norm, self.pooling = Norm(norm, mean, std), pooling
        self.width, self.grid = self.driver.width, self.layout.grid
        self.layer_width = self.width
        self.length, self.channels = self.grid[0] * self.grid[1], 1
        cell = self.layout.cell
        self.token_values = cell[0] * cell[1] * (1 if self.mel else self.layout.hop)
        if not self.length:
            raise ValueError(f"{seconds} s at {rate} Hz are not one token; give more seconds.")
        self.gives = _GIVES | self.driver.gives

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model inside."""
        return self.driver.model

    def _check_frames(self, frames: int) -> None:
        if not 0 <= frames - self.layout.frames < self.layout.stride[0]:
            config: Any = self.model.config
            raise ValueError(
                f"The model takes {config.max_length} frames, but {frames} come in a view; give "
                f"seconds={config.max_length * self.layout.hop / self.layout.rate:g}."
            )

    # -- making, loading and saving ---------------------------------------------------------

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        *,
        rate: int = 16_000,
        seconds: float = 1.0,
        hop: float = 0.01,
        dropout: float | None = None,
        **settings: Any,
    ) -> "AudioEncoder":
        """An untrained encoder from a transformers configuration.

        Args:
            config: keys of the configuration, `model_type` among them:
                `audio-spectrogram-transformer` (default, small, 64 bands, patches of 16 frames
                and 16 bands) or `wave_conv`.
            rate: samples a second.
            seconds: of a whole view.
            hop: seconds from frame to frame of the spectrogram.
            dropout: sets every dropout probability of the model; None leaves them alone.
            settings: as for the class.

        Raises:
            ValueError: a key that the configuration does not have.
        """
        keys = dict(config)
        kind = keys.pop("model_type", "audio-spectrogram-transformer")
        frames = round(seconds * rate) // max(1, round(hop * rate))
        made = new_config(kind, keys, defaults=defaults_for(kind, keys, frames), dropout=dropout)
        model = AutoModel.from_config(made)
        wake(model)
        return cls(model, rate=rate, seconds=seconds, hop=hop, **settings)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dropout: float | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> "AudioEncoder":
        """An encoder from a folder (ours or transformers') or a hub name.

        It comes in evaluation mode, as transformers' own do.

        Args:
            path: folder or hub name.
            dropout: sets every dropout probability of the model; None leaves them alone.
            local_files_only: never ask the hub.
            settings: as for the class, over what the folder says; a plain AST's view has the
                length that its configuration tells, and the rate and the fixed norm that its
                feature extractor tells, whose spectrograms differ in their filters.

        Raises:
            FileNotFoundError: the folder holds no model.
        """
        config = saved_config(path, dropout=dropout, local_files_only=local_files_only)
        model = AutoModel.from_pretrained(
            str(path), config=config, dtype=torch.float32, local_files_only=local_files_only
        )
        said = _said(path, config, local_files_only)
        return cls(model, **{**said, **settings}).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a plain transformers folder, with our settings beside it."""
        folder = Path(folder)
        self.model.save_pretrained(folder)
        save_settings(folder, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What a transformers folder cannot say of this encoder."""
        names = ("rate", "seconds", "pooling", "hop", "window")
        norm = {"norm": self.norm.kind, "mean": self.norm.mean, "std": self.norm.std}
        return {"modality": "audio", **{n: getattr(self, n) for n in names}, **norm}

    # -- views and encoding -----------------------------------------------------------------

    def collator(self, *, seed: int = 0) -> AudioCollator:
        """The collator for waveforms."""
        return AudioCollator(seed=seed)

    def view(self, batch: Batch, spec: ViewSpec) -> View:
        """Make a view of the batch (or of one of its partners) on its device."""
        return self.finish(self.sound(batch, spec))

    def sound(self, batch: Batch, spec: ViewSpec) -> Sound:
        """Run the links of a view, as waveforms; all but a first `crop` see the sound's middle.

        Raises:
            ValueError: no view or partner of that name.
        """
        parts = spec.parts()
        if unknown := [p.name for p in parts if p.name not in VIEWS]:
            has = ", ".join(sorted(VIEWS))
            raise ValueError(f"Audio has no view {unknown[0]!r}; it has {has}.")
        inputs, mask = batch.inputs, batch.mask
        if spec.partner is not None:
            if spec.partner not in batch.partners:
                raise ValueError(
                    f"The objective wants a {spec.partner!r} beside each sample, but the data has "
                    f"{sorted(batch.partners) or 'none'}."
                )
            inputs = batch.partners[spec.partner]
            mask = inputs["mask"]
        sound = Sound(inputs["waveform"], mask)
        if parts[0].name != "crop":
            sound = sound.middle(self.layout.samples)
        for part in parts:
            sound = VIEWS[part.name](sound, batch, part, layout=self.layout)
        return sound

    def finish(self, sound: Sound) -> View:
        """Normalise a sound and cut it into tokens."""
        return finish(sound, self.layout, self.mel, self.norm)

    @torch.no_grad()
    def measure(self, batch: Batch) -> None:
        """Take the mean and deviation of a batch's values, over all its clips, as the fixed ones.

        Raises:
            ValueError: the norm is not `fixed`, or the batch is silent.
        """
        if self.norm.kind != "fixed":
            raise ValueError(
                f"Only norm 'fixed' has statistics to measure, not {self.norm.kind!r}."
            )
        raw = self.sound(batch, named("plain"))
        seen = finish(raw, self.layout, self.mel, Norm("fixed"))
        values = seen.inputs["patches" if self.mel else "waveform"][seen.mask].double()
        std = float(values.std())
        if not std > 0:
            raise ValueError("The clips are silent or all alike, so there is nothing to scale by.")
        self.norm = Norm("fixed", float(values.mean()), std)

    def forward(self, view: View, *, want: frozenset[str] = frozenset()) -> Encoding:
        """Encode one view; `want` may name `layers`."""
        dtype = next(self.parameters()).dtype  # of the weights; sounds are exact
        states, first = self.driver(
            {k: v.to(dtype) if v.is_floating_point() else v for k, v in view.inputs.items()},
            mask=view.mask,
            keep_positions=view.keep_positions,
            keep_features=view.keep_features,
        )
        pooled = first if self.pooling == "cls" else pool(states[-1], view.mask, self.pooling)
        assert pooled is not None  # a model without class tokens is not pooled by them
        return Encoding(
            pooled=pooled,
            tokens=states[-1],
            mask=view.mask,
            layers=tuple(states) if "layers" in want else None,
        )

    def of_values(self, values: Float[Tensor, "batch length values"]) -> View:
        """The view of whole clips that are these values, normalised as the encoder's."""
        places = torch.arange(self.length, device=values.device).expand(len(values), -1)
        name = "patches" if self.mel else "waveform"
        inputs = {name: values, "positions": places}
        return View(inputs, torch.ones_like(places, dtype=torch.bool))

    def restored(
        self, values: Float[Tensor, "batch length values"]
    ) -> Float[np.ndarray, "batch frames *bands"]:
        """Log-mel energies, or samples; in units of each clip's own where the norm is `clip`."""
        if self.norm.kind == "fixed":
            values = values * self.norm.std + self.norm.mean
        if self.mel is None:
            return values.flatten(1).float().cpu().numpy()
        (times, bands), (frames, high) = self.grid, self.layout.cell
        sizes = {"t": times, "b": bands, "m": high, "f": frames}
        found = rearrange(values, "n (t b) (m f) -> n (t f) (b m)", **sizes)
        return found.float().cpu().numpy()

    def show(self, view: View, rows: int) -> dict[str, Any]:
        """The first rows of a view as numbers, for the report."""
        return show(view, rows, grid=self.grid, cell=self.layout.cell)

    # -- use ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(
        self,
        waveforms: np.ndarray | Sequence[np.ndarray],
        *,
        rate: int | None = None,
        batch_size: int = 64,
        features: Sequence[str] = ("pooled",),
    ) -> Float[np.ndarray, "clips features"]:
        """One vector a clip, from its windows of a view's length.

        Windows follow each other; the last one of a clip ends where the clip ends, and a clip
        shorter than a view is one window.

        Args:
            waveforms: `(clips, samples)`, or waveforms of any lengths, from -1 to 1.
            rate: of the waveforms; None is the encoder's own, another is resampled.
            batch_size: windows a forward pass.
            features: what the vector is made of, side by side: `pooled`, the mean over windows of
                the encoder's own vector; or of the tokens of all windows the `mean`, `std`, `max`
                and `quarters` (means over four equal parts of the time).

        Raises:
            ValueError: no clip, one without a sample or of whole numbers, or an unknown feature.
        """
        check_parts(features)
        clips = [np.asarray(w) for w in waveforms]
        if not clips or not all(w.ndim == 1 and len(w) for w in clips):
            raise ValueError(
                "Clips come as (clips, samples) or as a list of (samples,), with at least one "
                f"sample each, but {[w.shape for w in clips][:3]} came."
            )
        AudioCollator.check(clips)
        clips = [w.astype(np.float32, copy=False) for w in clips]
        if rate is not None and rate != self.rate:
            clips = [resampled(w, rate, self.rate) for w in clips]
        size = self.layout.samples
        starts = [window_starts(len(w), size) for w in clips]
        windows = [w[a : a + size] for w, s in zip(clips, starts, strict=True) for a in s]
        was_training = self.training
        self.eval()
        try:
            with_tokens = set(features) != {"pooled"}
            batches = [
                self._vectors(windows[i : i + batch_size], with_tokens)
                for i in range(0, len(windows), batch_size)
            ]
        finally:
            self.train(was_training)
        pooled = torch.cat([own for own, _ in batches])
        tokens = [own for _, rows in batches for own in rows]
        ends = np.cumsum([0, *map(len, starts)])
        found = [
            summary(pooled[a:b], torch.cat(tokens[a:b]) if with_tokens else None, features)
            for a, b in pairwise(ends)
        ]
        return torch.stack(found).numpy()

    def _vectors(
        self, windows: Sequence[np.ndarray], with_tokens: bool
    ) -> tuple[Float[Tensor, "windows width"], list[Float[Tensor, "tokens width"]]]:
        """The pooled vector of each window and, where asked for, its existing tokens."""
        found = self(self.finish(self._sound(windows)))
        pooled = found.pooled.float().cpu()
        if not with_tokens:
            return pooled, []
        assert found.tokens is not None and found.mask is not None
        rows = zip(found.tokens.float().cpu(), found.mask.cpu(), strict=True)
        return pooled, [own[is_there] for own, is_there in rows]

    def _sound(self, windows: Sequence[np.ndarray]) -> Sound:
        like = next(self.parameters())
        waveform, mask = AudioCollator.stack(windows)
        dtype = torch.promote_types(like.dtype, torch.float32)  # half would lose much of a sound
        sound = Sound(waveform.to(like.device, dtype), mask.to(like.device))
        return sound.middle(self.layout.samples)


def window_starts(samples: int, size: int) -> list[int]:
    """Where the windows of a clip start: one after the other, the last where it ends with it."""
    starts = [*range(0, max(1, samples - size + 1), size)]
    return [*starts, samples - size] if samples > starts[-1] + size else starts


def _said(path: str | Path, config: Any, local_files_only: bool) -> dict[str, Any]:
    """Our settings of a folder, or what its configuration and feature extractor tell."""
    if said := saved_settings(path):
        return said
    if config.model_type == "wave_conv":
        return {}
    # The frames of transformers' own feature extractor come every 10 ms.
    found = {"seconds": config.max_length * 0.01}
    said = processor_keys(path, local_files_only=local_files_only)
    if said.get("do_normalize") and {"mean", "std"} <= set(said):
        # It divides by twice the deviation.
        found |= {"norm": "fixed", "mean": said["mean"], "std": 2 * said["std"]}
    return found | ({"rate": said["sampling_rate"]} if "sampling_rate" in said else {})


__all__ = ["POOLINGS", "AudioCollator", "AudioEncoder", "window_starts"]
