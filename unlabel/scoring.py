"""`unlabel score`: how unusual each step of series, picture, video or piece of sound is."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from torch import Tensor

from unlabel.checks import check_above_0
from unlabel.core import view
from unlabel.data_pipes.audio_store import AudioStore
from unlabel.data_pipes.series import read_series
from unlabel.data_pipes.series_data import SeriesData
from unlabel.data_pipes.series_future import times_of
from unlabel.data_pipes.series_rows import SeriesRows
from unlabel.embedding import device_of, modality_of, run_model_folder
from unlabel.files import replacing
from unlabel.heads import load_scoring
from unlabel.media_embedding import clips_of, names_of, trained_sampling
from unlabel.modalities import MODALITIES
from unlabel.modalities.audio import AudioEncoder, window_starts
from unlabel.modalities.series import SeriesEncoder
from unlabel.modalities.visual import VisualEncoder
from unlabel.objectives import Objective
from unlabel.objectives.likelihood import level_bits


def score_series(
    encoder: SeriesEncoder,
    method: Objective,
    data: SeriesData,
    *,
    per_window: bool = False,
    stride: int | None = None,
    size: int = 256,
) -> pd.DataFrame:
    """An anomaly score for every step of series, or for every window of `context` steps.

    The score is what the method lost there: an autoencoder's distance, the nats a value of a VAE,
    of autoregression or of a flow; high is unusual. It is taken in each window's normalised units
    and is the mean over channels that are together. A step's is the mean over all windows that
    hold it. What was not measured has none (NaN), and a flow scores no window with a gap.

    Args:
        encoder: of the run.
        method: one that has `surprise`, with its trained heads.
        data: the series.
        per_window: a row for each window, by its first and last step.
        stride: steps from window to window; default a quarter of the context.
        size: windows a forward pass.

    Returns:
        Columns: the ids (`item_id` where they have no name), `target_name` where channels are
        apart, the time stamps (`start` and `end` of windows), and `score`.

    Raises:
        ValueError: a stride below 1.
    """
    stride = max(1, encoder.context // 4) if stride is None else stride
    if stride < 1:
        raise ValueError(f"stride is the steps from window to window, but {stride} came.")
    encoder.check_gaps(data.time_gap)
    data = data.in_order(encoder.names)
    rows = SeriesRows(data.series, together=encoder.channels > 1)
    row, origin = _windows(rows.length, encoder.length * encoder.patch, stride)
    scores = _scores(encoder, method, rows, row, origin, size)  # (windows, steps)
    steps = origin[:, None] + np.arange(-scores.shape[1], 0)
    known = np.isfinite(scores) & (steps >= 0)
    if per_window:
        count = known.sum(1)
        mean = np.where(known, scores, 0).sum(1) / np.maximum(count, 1)
        table = _names(data, rows, row)
        table["start"] = _stamps(data, rows, row, np.maximum(steps[:, 0], 0))
        table["end"] = _stamps(data, rows, row, origin - 1)
        return table.assign(score=np.where(count > 0, mean, np.nan))
    total, count = np.zeros(len(rows.values)), np.zeros(len(rows.values))
    place = (rows.begin[row][:, None] + steps)[known]
    np.add.at(total, place, scores[known])
    np.add.at(count, place, 1)
    unmeasured = ~np.isfinite(rows.values).any(1)
    found = np.where((count > 0) & ~unmeasured, total / np.maximum(count, 1), np.nan)
    each = np.repeat(np.arange(len(rows)), rows.length)
    step = np.arange(len(each)) - rows.begin[each]
    table = _names(data, rows, each)
    table[data[0].time_name or "step"] = _stamps(data, rows, each, step)
    return table.assign(score=found)


def score(
    model: str,
    data: str,
    output: str = "scores.csv",
    *,
    per_window: bool = False,
    stride: int | None = None,
    batch_size: int = 256,
    id_column: str | None = None,
    timestamp_column: str | None = None,
    target: list[str] | None = None,
    freq: str | None = None,
    device: str | None = None,
) -> None:
    """Score how unusual each step of series, picture, video or piece of sound is to a run.

    High is unusual. Runs of `autoencoder`, `vae`, `flow_prior` and `next_step` score by what their
    heads expect, those of `flow` by the likelihood of whole windows, pictures or clips; of the
    latter two beside it in bits per dimension of 8-bit pixels (`bits`).

    Args:
        model: a run's output folder, or an invertible encoder's.
        data: a file, folder or glob of series, pictures, videos or recordings.
        output: ends in `.csv` or `.parquet`.
        per_window: of series: a row for each window, and not for each step.
        stride: of series: steps from window to window; default a quarter of the context.
        batch_size: windows or clips a forward pass.
        id_column: of series: which column of a table tells them apart.
        timestamp_column: of series: which column holds the time.
        target: of series: columns of values; default every column of numbers.
        freq: of series: the step, in pandas' names.
        device: as for torch; a GPU where there is one.
    """
    check_above_0(batch_size=batch_size, stride=stride)
    path = Path(output)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{output}: scores are written as .csv or .parquet; choose one.")
    folder = run_model_folder(Path(model)) or Path(model)
    if (kind := modality_of(folder)) not in ("series", "frames", "video", "audio"):
        raise ValueError(
            f"{model} is an encoder of {kind}; series, frames, videos and recordings are scored."
        )
    encoder: Any = MODALITIES[kind].from_pretrained(folder, local_files_only=True)
    encoder = encoder.eval().to(device_of(device))
    method = load_scoring(Path(model), encoder).to(device_of(device))
    columns: dict[str, Any] = {
        "id_column": id_column, "timestamp_column": timestamp_column, "target": target, "freq": freq
    }  # fmt: skip
    if kind == "series":
        source = read_series(data, time_gap=encoder.time_gap or False, **columns)
        about: dict[str, Any] = {"per_window": per_window, "stride": stride, "size": batch_size}
        found = score_series(encoder, method, source, **about)
        what = "windows" if per_window else "steps"
    else:
        given = {**columns, "stride": stride, "per_window": per_window or None}
        if unused := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{model} is an encoder of {kind}, which has no {', '.join(unused)}.")
        if kind == "audio":
            found = score_sounds(encoder, method, data, size=batch_size)
        else:
            how: dict[str, Any] = {"size": batch_size, "sampling": trained_sampling(folder)}
            found = score_clips(encoder, method, data, **how)
        what = {"frames": "pictures", "audio": "pieces of recordings"}.get(kind, "videos")
    with replacing(path) as partial:
        (found.to_parquet if path.suffix == ".parquet" else found.to_csv)(partial, index=False)
    none = int(np.isnan(found["score"].to_numpy()).sum())
    print(f"{len(found):,} {what} scored, {none:,} of them without a value: {output}")
    if "bits" in found:
        print(f"mean: {found['bits'].mean():.4f} bits per dimension of 8-bit pixels")


@torch.inference_mode()
def score_clips(
    encoder: VisualEncoder,
    method: Objective,
    source: Any,
    *,
    clips: int = 3,
    size: int = 64,
    sampling: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """An anomaly score for every picture or video: what the method lost there, a value.

    Args:
        encoder: of the run.
        method: one that has `surprise`, with its trained heads.
        source: what `read_frames` or `read_videos` takes.
        clips: of each video, evenly over it; its score is their mean.
        size: clips a forward pass.
        sampling: how the frames of a clip lie in a video, as `VideoStore` takes it.

    Returns:
        Columns `name`, `label` where there is one, `score` in units of the method's view, and, of
        an exact likelihood of dequantised pixels, `bits` (see `level_bits`).
    """
    store, each = clips_of(source, encoder, clips, sampling=sampling)
    device, found = next(encoder.parameters()).device, []
    (spec,) = method.views
    for start in range(0, len(store), size):
        samples = [store[place] for place in range(start, min(start + size, len(store)))]
        seen = encoder.view(encoder.collator()(samples).to(device), spec)
        told = method.surprise(encoder(seen), seen)
        assert told is not None and seen.is_target is not None
        if told.dim() == 3:
            told = told.masked_fill(~seen.is_target, torch.nan).flatten(1).nanmean(1)
        found.append(told.float().cpu())
    table = pd.DataFrame(names_of(store, each))
    table["score"] = torch.cat(found).view(-1, each).mean(1).numpy()
    levels = level_bits(encoder, spec)  # type: ignore[arg-type]
    return table.assign(bits=table["score"] / math.log(2) + levels) if levels else table


@torch.inference_mode()
def score_sounds(
    encoder: AudioEncoder, method: Objective, source: Any, *, size: int = 64
) -> pd.DataFrame:
    """An anomaly score for every piece of recordings (a token's time): what the method lost there.

    A recording is heard in windows of a view, one after the other; the last ends where it ends.

    Args:
        encoder: of the run.
        method: one that has `surprise`, with its trained heads.
        source: what `read_audio` takes.
        size: windows a forward pass.

    Returns:
        Columns `name`, `label` where there is one, `start` and `end` in seconds, and `score`, the
        mean over what is heard at that time, in units of the encoder's norm.
    """
    store = AudioStore(source, rate=encoder.rate, seconds=None, cache_bytes=0)
    layout, found = encoder.layout, []
    first = np.arange(layout.grid[0]) * layout.stride[0] * layout.hop
    for place in range(len(store)):
        wave = store[place]["waveform"]
        starts = np.array(window_starts(len(wave), layout.samples))
        begin = starts[:, None] + first
        end = np.minimum(begin + layout.cell[0] * layout.hop, len(wave))
        # Of the last window only what the one before it did not hear.
        heard = np.append(0, starts[:-1] + layout.samples)[:, None]
        is_new = (end > heard) & (begin < end)
        windows = [wave[start : start + layout.samples] for start in starts]
        scores = _of_sounds(encoder, method, windows, size)
        table = pd.DataFrame({"start": begin[is_new], "end": end[is_new]}) / encoder.rate
        found.append(table.assign(score=scores[is_new]))
    names = pd.DataFrame(names_of(store, 1))
    each = np.repeat(np.arange(len(found)), [len(table) for table in found])
    pieces = pd.concat(found, ignore_index=True)
    return pd.concat([names.iloc[each].reset_index(drop=True), pieces], axis=1)


def _of_sounds(
    encoder: AudioEncoder, method: Objective, windows: list[np.ndarray], size: int
) -> np.ndarray:
    """Of each window at each of its tokens' times, NaN where it is shorter than a view."""
    device, found, collate = next(encoder.parameters()).device, [], encoder.collator()
    for at in range(0, len(windows), size):
        own = [{"waveform": w, "index": 0, "ordinal": 0} for w in windows[at : at + size]]
        seen = encoder.view(collate(own).to(device), view("whole"))
        told = method.surprise(encoder(seen), seen)
        assert told is not None and seen.is_target is not None
        told = told.float().masked_fill(~seen.is_target, torch.nan)
        by_time = rearrange(told, "n (t b) v -> n t (b v)", t=encoder.grid[0])
        found.append(by_time.nanmean(2).cpu().numpy())
    return np.concatenate(found)


def _windows(length: np.ndarray, context: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and origin (one past the last step) of windows that cover each row to its end."""
    ends = [np.unique([*range(min(context, n), n, stride), n]) for n in length.tolist()]
    return np.repeat(np.arange(len(length)), [len(e) for e in ends]), np.concatenate(ends)


@torch.inference_mode()
def _scores(
    encoder: SeriesEncoder,
    method: Objective,
    rows: SeriesRows,
    row: np.ndarray,
    origin: np.ndarray,
    size: int,
) -> np.ndarray:
    """Of each window's steps, NaN where there is none; the mean over channels."""
    device, found = next(encoder.parameters()).device, []
    for start in range(0, len(row), size):
        now = slice(start, start + size)
        batch = rows.batch(row[now], origin[now], encoder.context).to(device)
        seen = encoder.view(batch, view("whole"))
        told = method.surprise(encoder(seen), seen)
        assert told is not None and seen.target is not None and seen.is_target is not None
        wide = told.float() if told.dim() == 3 else told.float()[:, None, None]
        wide = wide.expand(seen.target.shape).masked_fill(~seen.is_target, torch.nan)
        found.append(_by_step(wide, encoder.channels).cpu().numpy())
    return np.concatenate(found)


def _by_step(values: Tensor, channels: int) -> Tensor:
    return rearrange(values, "b l (p c) -> b (l p) c", c=channels).nanmean(2)


def _names(data: SeriesData, rows: SeriesRows, row: np.ndarray) -> pd.DataFrame:
    """Ids, and names of channels where they are apart."""
    own = [data[int(s)] for s in rows.series]
    ids = np.array([s.id for s in own], dtype=object)
    columns: dict[str, Any] = {data[0].id_name or "item_id": ids[row]}
    if rows.values.shape[1] == 1:
        pairs = zip(own, rows.channel, strict=True)
        names = [s.names[c] if s.names else str(c) for s, c in pairs]
        columns["target_name"] = np.array(names, dtype=object)[row]
    return pd.DataFrame(columns)


def _stamps(data: SeriesData, rows: SeriesRows, row: np.ndarray, step: np.ndarray) -> pd.Index:
    """Time stamps of steps of rows, the rows in order."""
    counts = np.bincount(row, minlength=len(rows))
    places = np.split(step, np.cumsum(counts)[:-1])
    own = [data[int(s)] for s in rows.series]
    times = [times_of(s, 0, len(s))[p] for s, p in zip(own, places, strict=True)]
    return times[0].append(times[1:])


__all__ = ["score", "score_clips", "score_series", "score_sounds"]
