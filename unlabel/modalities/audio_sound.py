"""The sound that view functions of audio pass along, and how it becomes a view.

A sound is a waveform until `finish`. What a view hides is told in frames and bands: those of the
log-mel spectrogram, or one band for a network that hears the waveform itself. `finish` makes the
spectrogram, normalises it by what the encoder may hear, and cuts it into tokens.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlabel._torchaudio import load_torchaudio
from unlabel.core import View, ViewSpec
from unlabel.modalities.series_window import mean_and_std
from unlabel.modalities.visible import visible_only

NORMS = ("clip", "fixed")
# Under the power of one quantisation step of 16 bits: digital silence has a finite logarithm.
_FLOOR = 1e-10


class Layout(NamedTuple):
    """How the sounds of an encoder lie.

    Attributes:
        rate: samples a second.
        samples: of a whole view.
        hop: samples a frame.
        frames: of a whole view.
        bands: of a frame; 1 where the encoder hears the waveform itself.
        cell: frames and bands of a token.
        stride: frames and bands from token to token.
        grid: tokens over time and over bands.
        width: of the embedding.
    """

    rate: int
    samples: int
    hop: int
    frames: int
    bands: int
    cell: tuple[int, int]
    stride: tuple[int, int]
    grid: tuple[int, int]
    width: int


@dataclass
class Sound:
    """Waveforms of a batch on their way through a chain of views.

    Attributes:
        waveform: of any length until a link brings it to that of the view, `(batch, samples)`.
        mask: True at samples that exist, likewise; shorter sounds are padded at the end.
        is_hidden: True where the encoder is not let hear, `(batch, frames, bands)`; None for none.
        is_asked: True where it is hidden and to be predicted, likewise.
        band_at: the band (counted in bands, between two of them too) that each band of the
            spectrogram is read at, `(batch, bands)`; None for its own.
        clean: the waveform that is asked for, where later links changed what is heard.
        keeps: tokens that a view without hidden tokens has; None leaves them in.
        keep_positions: False at tokens zeroed after the embedding, `(batch, tokens)`.
        keep_features: False for embedding columns zeroed, `(batch, width)`.
        target: one that is no sound: a class, `(batch, places)`.
    """

    waveform: Float[Tensor, "batch samples"]
    mask: Bool[Tensor, "batch samples"]
    is_hidden: Bool[Tensor, "batch frames bands"] | None = None
    is_asked: Bool[Tensor, "batch frames bands"] | None = None
    band_at: Float[Tensor, "batch bands"] | None = None
    clean: Float[Tensor, "batch samples"] | None = None
    keeps: int | None = None
    keep_positions: Bool[Tensor, "batch tokens"] | None = None
    keep_features: Bool[Tensor, "batch width"] | None = None
    target: Tensor | None = None

    def run(self, first: Tensor, count: Tensor, samples: int) -> "Sound":
        """`count` samples from `first` on, `(batch,)` each, padded at the end to `samples`."""
        place = torch.arange(samples, device=first.device)
        index, last = first[:, None] + place, self.mask.shape[1] - 1
        exists = (place < count[:, None]) & (index <= last)
        index = index.clamp(max=last)
        mask = exists & self.mask.gather(1, index)
        found = torch.where(mask, self.waveform.gather(1, index), 0)
        return replace(self, waveform=found, mask=mask)

    def middle(self, samples: int) -> "Sound":
        """The middle of each sound, as long as a view; shorter ones are padded at the end."""
        if self.mask.shape[1] == samples:
            return self
        first = ((self.mask.sum(1) - samples) // 2).clamp(min=0)
        return self.run(first, torch.full_like(first, samples), samples)

    def change(self, waveform: Tensor) -> "Sound":
        """New samples where there are some; what is asked for stays as it was."""
        return replace(self, waveform=torch.where(self.mask, waveform, 0))

    def hide(self, is_hidden: Bool[Tensor, "batch frames bands"]) -> "Sound":
        """Hide these frames and bands too."""
        return replace(
            self, is_hidden=is_hidden if self.is_hidden is None else self.is_hidden | is_hidden
        )


def frames_of(mask: Bool[Tensor, "batch samples"], layout: Layout) -> Bool[Tensor, "batch frames"]:
    """True at frames that have a sample that exists."""
    return rearrange(mask[:, : layout.frames * layout.hop], "b (t h) -> b t h", h=layout.hop).any(2)


def tokens_of(mask: Bool[Tensor, "batch samples"], layout: Layout) -> Bool[Tensor, "batch tokens"]:
    """True at tokens that have such a frame, counted time first."""
    exists = frames_of(mask, layout).unfold(1, layout.cell[0], layout.stride[0]).any(2)
    return exists.repeat_interleave(layout.grid[1], 1)


def refuse_hidden(sound: Sound, spec: ViewSpec) -> None:
    """Refuse a link behind one that hid a part of the sound, which it would move.

    Raises:
        ValueError: a part is hidden.
    """
    if sound.is_hidden is not None:
        raise ValueError(
            f"The view {spec.name!r} moves sound in time or pitch, so it cannot follow one that "
            "hides a part of it; put it before."
        )


class LogMel(nn.Module):
    """The logarithm of mel energies, one frame for each whole hop, its window around that hop.

    Energies are those of a waveform from -1 to 1, in torchaudio's scale (HTK's mel, power 2,
    triangles of height 1), and their logarithm is the natural one.

    Args:
        rate: samples a second.
        hop: samples from frame to frame.
        window: samples that a frame looks at; the transform is of at least twice as many, so that
            the lowest bands have a frequency to look at.
        bands: of the mel scale, from 0 to half the rate.

    Raises:
        ImportError: torchaudio is missing.
    """

    def __init__(self, *, rate: int, hop: int, window: int, bands: int):
        super().__init__()
        torchaudio = load_torchaudio("Log-mel spectrograms")
        self.hop, self.size = hop, 2 ** ((2 * window - 1).bit_length())
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=rate,
            n_fft=self.size,
            win_length=window,
            hop_length=hop,
            n_mels=bands,
            center=False,
        )
        # Made from the settings again, so not part of what is saved.
        for module in self.mel.modules():
            module._non_persistent_buffers_set.update(module._buffers)

    def _apply(self, fn: Any, recurse: bool = True) -> "LogMel":
        # Goes where the encoder goes, but not to half precision, which has no Fourier transform.
        half = (torch.float16, torch.bfloat16)
        kept = lambda x: x.to(m.device) if (m := fn(x)).dtype in half else m  # noqa: E731
        return super()._apply(kept, recurse)

    def forward(
        self, waveform: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch frames bands"]:
        """`samples // hop` frames."""
        whole = waveform[:, : waveform.shape[1] // self.hop * self.hop]
        over = self.size - self.hop
        padded = F.pad(whole, (over // 2, over - over // 2))
        # Half precision cannot hold these powers.
        with torch.autocast(waveform.device.type, enabled=False):
            power = self.mel(padded.to(self.mel.spectrogram.window.dtype))
            return rearrange((power + _FLOOR).log(), "b f t -> b t f")


class Norm(NamedTuple):
    """How sounds are normalised.

    Attributes:
        kind: `clip`, the mean and standard deviation of what is heard of each clip, or `fixed`.
        mean: of all clips, for `fixed`.
        std: likewise.
    """

    kind: str = "clip"
    mean: float = 0.0
    std: float = 1.0

    def __call__(
        self,
        values: Float[Tensor, "batch frames bands *samples"],
        heard: Bool[Tensor, "batch frames bands"],
    ) -> tuple[Tensor, Tensor]:
        """What to subtract and what to divide by; of a silent clip the latter is its level."""
        if self.kind == "fixed":
            like = values.new_ones(())
            return like * self.mean, like * self.std
        flat, known = values.flatten(1)[:, :, None], heard
        if values.dim() == 4:
            known = repeat(heard, "b t f -> b t f h", h=values.shape[3])
        found = mean_and_std(flat, known.flatten(1)[:, :, None])
        shape = (-1, *(1,) * (values.dim() - 1))
        return found[0].reshape(shape), found[1].reshape(shape)


def finish(sound: Sound, layout: Layout, mel: LogMel | None, norm: Norm) -> View:
    """Normalise a sound by what of it may be heard, and cut it into tokens.

    The statistics come from frames that exist and are not hidden.

    Args:
        sound: as long as a view.
        layout: of the encoder.
        mel: makes the spectrogram; None for a network of waveforms.
        norm: of the spectrogram's values, or of the samples.
    """
    frames = lambda x: _at_bands(_frames(x, layout, mel), sound.band_at)  # noqa: E731
    values = frames(sound.waveform)
    there = repeat(frames_of(sound.mask, layout), "b t -> b t f", f=layout.bands)
    heard = there if sound.is_hidden is None else there & ~sound.is_hidden
    loc, scale = norm(values, heard)
    seen = torch.where(_wide(heard, values), (values - loc) / scale, 0)
    rows, count = len(seen), layout.grid[0] * layout.grid[1]
    places = repeat(torch.arange(count, device=seen.device), "l -> b l", b=rows)
    name = "waveform" if mel is None else "patches"
    view = View(
        inputs={name: _cells(seen, layout), "positions": places},
        mask=tokens_of(sound.mask, layout),
        target=sound.target,
        keep_positions=sound.keep_positions,
        keep_features=sound.keep_features,
    )
    if sound.target is not None:
        view.is_target = torch.ones_like(sound.target, dtype=torch.bool)
    elif sound.is_asked is not None:
        changed = sound.clean is not None and sound.clean is not sound.waveform
        asked = frames(sound.clean) if changed else values
        is_target = _wide(sound.is_asked & there, values).expand_as(values)
        view.is_target = _cells(is_target, layout)
        view.target = _cells(torch.where(is_target, (asked - loc) / scale, 0), layout)
    if sound.keeps is None or sound.is_hidden is None:
        return view
    is_whole = ~_cells(_wide(sound.is_hidden, values).expand_as(values), layout).any(2)
    return visible_only(view, view.mask & is_whole, sound.keeps, pad="left")


def _frames(waveform: Tensor, layout: Layout, mel: LogMel | None) -> Tensor:
    """Frames and bands of the spectrogram; or of the waveform, with its samples behind."""
    whole = waveform[:, : layout.frames * layout.hop]
    if mel is None:
        return rearrange(whole, "b (t h) -> b t 1 h", h=layout.hop)
    return mel(whole).to(waveform.dtype)


def _at_bands(values: Tensor, band_at: Float[Tensor, "batch bands"] | None) -> Tensor:
    """A spectrogram read at other bands, on the line between the two next to each."""
    if band_at is None:
        return values
    at = band_at.clamp(0, values.shape[2] - 1)
    low = at.long().clamp(max=values.shape[2] - 2)
    read = lambda bands: values.gather(2, bands[:, None].expand(values.shape))  # noqa: E731
    return torch.lerp(read(low), read(low + 1), (at - low)[:, None].to(values))


def _wide(is_so: Bool[Tensor, "batch frames bands"], like: Tensor) -> Tensor:
    return is_so if like.dim() == 3 else is_so[..., None]


def _cells(x: Tensor, layout: Layout) -> Tensor:
    """Tokens counted time first; the values of each counted bands first, as an AST's weights."""
    if x.dim() == 4:
        return rearrange(x, "b t 1 h -> b t h")
    (frames, bands), (later, higher) = layout.cell, layout.stride
    cells: Any = x.unfold(1, frames, later).unfold(2, bands, higher)
    return rearrange(cells, "b t f p q -> b (t f) (q p)")


__all__ = ["NORMS", "Layout", "LogMel", "Norm", "Sound", "finish", "frames_of", "refuse_hidden",
           "tokens_of"]  # fmt: skip
