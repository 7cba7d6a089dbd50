"""A frozen series encoder as features of windows, for the ridge of the forecasting benchmark."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unlabel.benchmarks.forecast_ridge import Featured, Features, Fit, raw_features, ridge
from unlabel.benchmarks.saved import saved_encoder
from unlabel.core import Batch, Encoding, View, view
from unlabel.modalities.series import SeriesEncoder

Take = Literal["tokens", "pooled", "last", "values+tokens"]
FEATURES = get_args(Take)
Read = Callable[[Encoding, View, Tensor], Tensor]
_tokens = lambda encoding: rearrange(encoding.tokens, "b l d -> b (l d)")  # noqa: E731
READS: dict[Take, Callable[[Encoding], Tensor]] = {
    "tokens": _tokens,
    "values+tokens": _tokens,
    "pooled": lambda encoding: encoding.pooled,
    "last": lambda encoding: encoding.tokens[:, -1],
}
WIDEST = 8192  # features of a ridge: its Gram matrix is half a gigabyte then


def encoder_features(
    encoder: SeriesEncoder, *, take: Take | None = None, batch_size: int = 512
) -> Features:
    """Features of windows by a frozen encoder, from their last `encoder.context` steps.

    What the ridge predicts is normalised as the encoder normalises what it sees (as a forecasting
    head on the encoder has it), so that a head of the ridge's weights forecasts the same. With
    `values+tokens` it is in the units of the data, and so are the tokens, times the window's scale:
    without them, the ridge is the one on values (`raw_features`).

    Args:
        encoder: of single channels (one head for all of them), or of all channels together.
        take: `tokens` one after the other, their `pooled` vector, the `last` one, or
            `values+tokens`, the window itself before them with its last value taken off; default
            `tokens`, or `last` where that is too wide (an encoder whose tokens are single steps).
        batch_size: sequences a forward pass.

    Raises:
        ValueError: unknown or too many features, or another number of channels than the set's.
    """
    width = encoder.length * encoder.width
    kind = take or ("tokens" if width <= WIDEST else "last")
    if kind not in FEATURES:
        raise ValueError(f"features={take!r}: choose one of {', '.join(FEATURES)}.")
    if "tokens" in kind and width > WIDEST:
        raise ValueError(
            f"{encoder.length} tokens of width {encoder.width} are {width:,} features, and a ridge "
            f"takes up to {WIDEST:,}; choose features='last' or 'pooled'."
        )

    def features(history: Float[np.ndarray, "windows channels lookback"]) -> Featured:
        read = lambda encoding, *_: READS[kind](encoding)  # noqa: E731
        x, loc, scale = read_windows(encoder, history, read, batch_size=batch_size)
        alone = encoder.channels == 1
        if alone:
            x = rearrange(x, "(n c) d -> n c d", c=history.shape[1])
        if kind != "values+tokens":
            return Featured(x, loc, scale)
        seen = raw_features("last")(history[..., -own_steps(encoder) :])
        tokens = (x if alone else x[:, None]) * scale[..., None]
        x = np.concatenate([seen.x, tokens], axis=-1)
        return Featured(x, seen.loc, seen.scale, shared=alone)

    return features


def own_steps(encoder: SeriesEncoder) -> int:
    """Steps of a window that the encoder sees in whole tokens: its values beside the tokens."""
    return encoder.length * encoder.patch


def read_windows(
    encoder: SeriesEncoder,
    history: Float[np.ndarray, "windows channels lookback"],
    read: Read,
    *,
    batch_size: int = 512,
) -> tuple[
    Float[np.ndarray, "rows *numbers"],
    Float[np.ndarray, "windows channels"],
    Float[np.ndarray, "windows channels"],
]:
    """What is read of the encodings of windows, and what the encoder took off and divided by.

    Args:
        encoder: in evaluation for this call, however it came.
        history: of which it sees the last `encoder.context` steps.
        read: makes numbers of an encoding, its view and what that was divided by, a row each; a
            row is a channel of a window (window by window) where the encoder takes single
            channels, else a window.
        batch_size: sequences a forward pass.

    Raises:
        ValueError: the encoder takes another number of channels.
    """
    alone = encoder.channels == 1
    if not alone and encoder.channels != history.shape[1]:
        raise ValueError(
            f"The encoder takes {encoder.channels} channels together, the set has "
            f"{history.shape[1]}; give a set with as many, or an encoder of single channels."
        )
    shape = history.shape[:2]
    history = history[..., -encoder.context :].astype(np.float32)
    rows = rearrange(history, "n c t -> (n c) t 1" if alone else "n c t -> n t c")
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            starts = range(0, len(rows), batch_size)
            parts = [_encode(encoder, rows[i : i + batch_size], read) for i in starts]
    finally:
        encoder.train(was_training)
    x, loc, scale = (torch.cat(some).double().cpu().numpy() for some in zip(*parts, strict=True))
    return x, loc.reshape(shape), scale.reshape(shape)


def _encode(
    encoder: SeriesEncoder,
    values: Float[np.ndarray, "batch steps channels"],
    read: Read,
) -> tuple[Tensor, Tensor, Tensor]:
    seen = torch.from_numpy(values).to(next(encoder.parameters()).device)
    place = torch.arange(len(seen), device=seen.device)
    observed = torch.ones_like(seen, dtype=torch.bool)
    inputs = {"values": seen, "observed": observed}
    window = encoder.window(Batch(inputs, observed[:, :, 0], place, place), view("plain"))
    shown = encoder.finish(window)
    assert window.loc is not None and window.scale is not None  # finish set them
    return read(encoder(shown), shown, window.scale), window.loc, window.scale


def load_series_encoder(path: str | Path, *, device: str | None = None) -> SeriesEncoder:
    """An encoder of series, see `saved_encoder`."""
    return saved_encoder(path, "series", device=device)


@dataclass(frozen=True)
class EncoderForecast:
    """The ridge on a frozen encoder's features, under the name the encoder has in tables.

    Attributes:
        name: of the encoder.
        fit: the ridge.
        context: steps that the encoder was made for.
    """

    name: str
    fit: Fit
    context: int


def load_forecast_encoder(
    path: str | Path,
    *,
    name: str | None = None,
    take: Take | None = None,
    batch_size: int = 512,
    device: str | None = None,
) -> EncoderForecast:
    """The series encoder of a run's output folder, or of a folder it was saved in.

    Args:
        path: the folder.
        name: shown in tables; default the folder's name.
        take: see `encoder_features`.
        batch_size: sequences a forward pass.
        device: as for torch; a GPU where there is one.

    Raises:
        FileNotFoundError: no such folder, or no model in it.
        ValueError: the folder holds an encoder of something else.
    """
    encoder = load_series_encoder(path, device=device)
    features = encoder_features(encoder, take=take, batch_size=batch_size)
    fit = ridge(features, split=own_steps(encoder) if take == "values+tokens" else 0)
    return EncoderForecast(name or Path(path).name, fit, encoder.context)
