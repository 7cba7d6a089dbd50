"""`unlabel sample`: new samples from a trained run, as numbers, a table, a picture or sentences."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float32, Shaped
from torch import Tensor

from unlabel.embedding import device_of, modality_of, run_model_folder
from unlabel.files import replacing
from unlabel.heads import load_drawing
from unlabel.modalities import MODALITIES

_TABLES = (".csv", ".parquet")
_GAP = 2  # pixels between pictures


def draw_samples(
    model: str | Path,
    count: int = 16,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    device: str | None = None,
) -> tuple[Any, Shaped[Tensor, "count length *values"]]:
    """The encoder of a trained run, and new samples in its own units.

    `encoder.restored(values)` are the samples as data: pixels from 0 to 255, steps of series,
    waveforms and log-mel spectrograms, or sentences of tokens. What an encoder scales window by
    window (series and sounds, unless the norm is `none` or `fixed`) has no other units than those
    of its own window.

    Args:
        model: a run's output folder, or an invertible encoder's.
        count: how many; they are made together.
        seed: of the noise.
        temperature: factor of the noise, such as 0.7 for samples nearer to the likeliest; of text
            what ln p is divided by.
        device: as for torch; a GPU where there is one.

    Raises:
        ValueError: no sample asked for, a negative temperature, or a run that draws nothing.
    """
    if count < 1 or temperature < 0:
        raise ValueError(
            f"count is 1 or more and temperature 0 or more, but {count} and {temperature} came."
        )
    folder = run_model_folder(Path(model)) or Path(model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{model} holds no trained run (no model/ folder); train one first.")
    kind: Any = MODALITIES[modality_of(folder)]
    encoder = kind.from_pretrained(folder, local_files_only=True).eval().to(device_of(device))
    method = load_drawing(Path(model), encoder).to(device_of(device))
    values = method.drawn(encoder, count, seed=seed, temperature=temperature)
    if values is None:
        raise ValueError(
            f"{type(method).__name__} has learned a distance here, and no density to draw from; "
            "train it with loss 'gaussian'."
        )
    return encoder, values


def sample(
    model: str,
    output: str | None = None,
    *,
    count: int = 16,
    seed: int = 0,
    temperature: float = 1.0,
    device: str | None = None,
) -> None:
    """Draw new samples from a trained run; the same seed gives the same ones.

    Runs of `vae`, `flow_prior`, `adversarial_autoencoder` and `bigan` decode noise, those of
    `next_step` (with a Gaussian) go step by step or patch by patch, those of `flow` run backwards.
    Runs of `next_token` write sentences, token by token.

    Args:
        model: a run's output folder, or an invertible encoder's.
        output: ends in `.npy` (pixels from 0 to 255, steps of series, waveforms or log-mel
            spectrograms), `.png` (to look at) or, for series, `.csv` or `.parquet`; default
            `samples.npy`. Sentences go into `.txt`, one a line; by default they are printed.
        count: how many.
        seed: of the noise.
        temperature: factor of the noise, such as 0.7 for samples nearer to the likeliest; of text
            what ln p is divided by.
        device: as for torch; a GPU where there is one.
    """
    kind = modality_of(run_model_folder(Path(model)) or Path(model))
    how: dict[str, Any] = {"seed": seed, "temperature": temperature, "device": device}
    if kind == "text":
        return _write_sentences(model, output, count, **how)
    path = Path(output or "samples.npy")
    if path.suffix not in (".npy", ".png", *_TABLES):
        raise ValueError(
            f"{path}: samples are written as .npy, .png, .csv or .parquet; choose one."
        )
    if path.suffix in _TABLES and kind != "series":
        raise ValueError(f"{path}: samples of {kind} make no table; choose .npy or .png.")
    encoder, values = draw_samples(model, count, **how)
    found = encoder.restored(values)
    with replacing(path) as partial:
        if path.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, found)
        elif path.suffix == ".png" and kind == "series":
            _lines(found).savefig(partial, format="png")
        elif path.suffix == ".png":
            clips = encoder.show(encoder.of_values(values), count)["clips"]
            _tiled([clip["seen"] for clip in clips]).save(partial, format="png")
        else:
            table = _table(found)
            (table.to_parquet if path.suffix == ".parquet" else table.to_csv)(partial, index=False)
    print(f"{count:,} samples drawn: {path}")


def _write_sentences(model: str, output: str | None, count: int, **how: Any) -> None:
    if output is not None and Path(output).suffix != ".txt":
        raise ValueError(
            f"{output}: sentences are written as .txt, or printed where no --output is given."
        )
    encoder, ids = draw_samples(model, count, **how)
    text = "\n".join(encoder.restored(ids))
    if output is None:
        print(text)
        return
    with replacing(Path(output)) as partial:
        partial.write_text(text + "\n")
    print(f"{count:,} sentences drawn: {output}")


def _table(windows: Float32[np.ndarray, "windows steps channels"]) -> pd.DataFrame:
    """A row for each step of each window."""
    count, steps, channels = windows.shape
    names = ["value"] if channels == 1 else [f"value_{c}" for c in range(channels)]
    table = pd.DataFrame(rearrange(windows, "n t c -> (n t) c"), columns=names)
    table.insert(0, "item_id", np.repeat(np.arange(count), steps))
    table.insert(1, "step", np.tile(np.arange(steps), count))
    return table


def _lines(windows: Float32[np.ndarray, "windows steps channels"]) -> Any:
    """A panel for each window, all on one scale."""
    from matplotlib.figure import Figure

    columns = math.ceil(math.sqrt(len(windows) / 2))
    rows = math.ceil(len(windows) / columns)
    figure = Figure(figsize=(4 * columns, 1.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, ax in enumerate(axes.flat):
        if place < len(windows):
            ax.plot(windows[place], linewidth=0.9)
        else:
            ax.set_axis_off()
    return figure


def _tiled(pictures: Sequence[str]) -> Any:
    """Pictures of one size (PNGs in base64) beside and below each other."""
    from PIL import Image

    each = [Image.open(io.BytesIO(base64.b64decode(p))) for p in pictures]
    wide, high = (n + _GAP for n in each[0].size)
    columns = min(len(each), max(1, round(math.sqrt(len(each) * high / wide))))
    rows = math.ceil(len(each) / columns)
    whole = Image.new(each[0].mode, (columns * wide - _GAP, rows * high - _GAP), "white")
    for place, picture in enumerate(each):
        whole.paste(picture, (place % columns * wide, place // columns * high))
    return whole


__all__ = ["draw_samples", "sample"]
