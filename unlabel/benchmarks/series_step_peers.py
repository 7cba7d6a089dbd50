"""The other sides of `series_step`: transformers' PatchTST, and the authors' TS2Vec."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from transformers import PatchTSTConfig, PatchTSTForPretraining

from unlabel.benchmarks.series_step_job import (
    RATIO,
    TRAINED,
    WARM,
    Job,
    Missing,
    adamw,
    endless,
    first,
    share,
    size_of,
    stride_of,
    timed,
)
from unlabel.modalities.patchtst import DEFAULTS


def masked_transformers(job: Job, values: np.ndarray) -> dict[str, Any]:
    """Masked patches by `PatchTSTForPretraining`, which scales and masks windows itself."""
    sizes = {**DEFAULTS, **(job.sizes or {})}
    sizes |= {"patch_stride": sizes["patch_length"], "num_input_channels": values.shape[1]}
    model = PatchTSTForPretraining(
        PatchTSTConfig(
            **{**sizes, "scaling": "std"}, context_length=job.context, random_mask_ratio=RATIO
        )
    )
    model.train()
    now = int(TRAINED * len(values))
    loader = lambda x: DataLoader(  # noqa: E731
        TensorDataset(torch.from_numpy(x).unfold(0, job.context, 1).transpose(1, 2)),
        batch_size=job.windows,
        shuffle=True,
        drop_last=True,
    )
    optimizer, batches = adamw(model), endless(loader(values[:now]))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model(past_values=next(batches)[0]).loss
        loss.backward()
        optimizer.step()
        return loss

    done = timed(step, job.steps)
    model.eval()
    error, power = [], []
    with torch.no_grad():
        for (held,) in first(loader(values[now:])):
            out = model.model(past_values=held)
            apart = model.head(out.last_hidden_state) - out.patch_input
            error.append(apart[out.mask.bool()].square().mean())
            power.append(out.patch_input[out.mask.bool()].square().mean())
    made = {"sequences": job.windows * values.shape[1] * job.steps, "parameters": size_of(model)}
    return {**done, **made, "error": share(error, power)}


def _ts2vec(job: Job, channels: int, **settings: Any) -> Any:
    """The authors' model, from the folder it lies in."""
    folder = Path(job.ts2vec or "")
    if job.ts2vec is None or not (folder / "ts2vec.py").is_file():
        raise Missing("TS2Vec left out: give the folder of its public code as --ts2vec")
    if not hasattr(np, "bool"):
        np.bool = np.bool_  # its helpers use names that older numpy had
    sys.path.insert(0, str(folder))
    from ts2vec import TS2Vec  # type: ignore[import-not-found]

    names = {"hidden_size": "hidden_dims", "output_size": "output_dims"}
    names |= {"num_hidden_layers": "depth"}
    sizes = {names[k]: v for k, v in (job.sizes or {}).items()}
    return TS2Vec(channels, device="cpu", lr=1e-3, **sizes, **settings)


def contrast_ts2vec(job: Job, values: np.ndarray) -> dict[str, Any]:
    """Training by the authors' `fit`; its clock starts after the first steps."""
    marks: list[tuple[float, float, float]] = []
    lengths: list[int] = []

    def mark(_: Any, loss: float) -> None:
        marks.append((time.process_time(), time.perf_counter(), loss))

    model = _ts2vec(job, values.shape[1], batch_size=job.windows, after_iter_callback=mark)
    model._net.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    # Contiguous windows of the same places as ours; (windows, channels, steps) until turned.
    cut = np.lib.stride_tricks.sliding_window_view(values, job.context, 0)
    windows = np.ascontiguousarray(cut[:: stride_of(job, values)].transpose(0, 2, 1))
    model.fit(windows, n_iters=WARM + job.steps)
    cpu, wall = (marks[-1][i] - marks[WARM - 1][i] for i in (0, 1))
    last = [loss for _, _, loss in marks[-max(1, job.steps // 4) :]]
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "steps": len(marks) - WARM,
        "sequences": job.windows * job.steps,
        "parameters": size_of(model._net),
        "loss": float(np.mean(last)),
        "encoded": 2 * float(np.mean(lengths[2 * WARM :])),
    }


def encode_ts2vec(job: Job, values: np.ndarray) -> dict[str, Any]:
    """A vector for each step by the authors' sliding windows, as their forecasting task does."""
    model = _ts2vec(job, values.shape[1])
    given = {"causal": True, "sliding_length": 1, "sliding_padding": job.context - 1}
    model.encode(values[None, :4], **given, batch_size=256)
    cpu, wall = time.process_time(), time.perf_counter()
    found = model.encode(values[None, : job.steps], **given, batch_size=256)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    done = {"cpu_seconds": cpu, "wall_seconds": wall, "steps": found.shape[1]}
    return {**done, "width": found.shape[-1], "parameters": size_of(model._net)}
