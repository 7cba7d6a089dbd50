"""The sides that `series_step` compares; each does its job in a process of its own.

    python -m unlabel.benchmarks.series_step_sides job.json

The last line it prints is a JSON object: CPU and wall seconds of the loop, after steps that are
not counted, and what was done in it.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unlabel.benchmarks.series_step_job import (
    RATIO,
    TRAINED,
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
from unlabel.benchmarks.series_step_peers import (
    contrast_ts2vec,
    encode_ts2vec,
    masked_transformers,
)
from unlabel.data_pipes.sampling import LengthBatches
from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.modalities.series import SeriesEncoder
from unlabel.objectives import HierarchicalContrast, MaskedValues, Objective
from unlabel.training.pretraining import Pretraining


def _loader(store: SeriesStore, encoder: SeriesEncoder, batch: int, seed: int) -> DataLoader:
    batches = LengthBatches(store.lengths, batch, seed=seed)
    collate = encoder.collator(seed=seed)
    return DataLoader(store, batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]


def _train(
    job: Job, encoder: SeriesEncoder, objective: Objective, store: SeriesStore, batch: int
) -> tuple[Pretraining, dict[str, Any]]:
    module = Pretraining(encoder, objective)
    optimizer = adamw(module)
    batches = endless(_loader(store, encoder, batch, job.seed))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = module(next(batches)).loss
        loss.backward()
        optimizer.step()
        module.step()
        return loss

    done = timed(step, job.steps)
    return module, {**done, "sequences": batch * job.steps, "parameters": size_of(module)}


def masked_ours(job: Job, values: np.ndarray) -> dict[str, Any]:
    """Masked patches; a sample is one channel of one window."""
    series = SeriesStore([Series("benchmark", values)], context=job.context)
    encoder = SeriesEncoder.from_config(job.sizes or {}, context=job.context)
    batch = job.windows * values.shape[1]
    module, done = _train(job, encoder, MaskedValues(ratio=RATIO), series.part(0, TRAINED), batch)
    module.eval()
    error, power = [], []
    with torch.no_grad():
        for held in first(_loader(series.part(TRAINED), encoder, batch, 0)):
            (view,) = views = module.view(held)
            assert view.target is not None
            error.append(module.score(module.encode(views), views, held).loss)
            power.append(view.target[view.is_target].square().mean())
    return {**done, "error": share(error, power)}


def contrast_ours(job: Job, values: np.ndarray) -> dict[str, Any]:
    """TS2Vec's objective; a sample is all channels of one window."""
    store = SeriesStore(
        [Series("benchmark", values)],
        context=job.context,
        channels="together",
        stride=stride_of(job, values),
    )
    encoder = _convolution(job, values.shape[1], context=job.context, norm="none")
    done = _train(job, encoder, HierarchicalContrast(), store, job.windows)[1]
    return {**done, "encoded": 2 * job.context}


def encode_ours(job: Job, values: np.ndarray) -> dict[str, Any]:
    """A vector for each step, from at least `context` steps that end there."""
    norm = "standard" if "standard" in job.side else "none"
    stride = 1 if "window" in job.side else None
    encoder = _convolution(job, values.shape[1], context=job.context, norm=norm)
    values = values[: job.steps]
    encoder.encode(values[:32], per_step=True)
    cpu, wall = time.process_time(), time.perf_counter()
    found = encoder.encode(values, per_step=True, stride=stride, batch_size=256)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    done = {"cpu_seconds": cpu, "wall_seconds": wall, "steps": len(found)}
    return {**done, "width": found.shape[-1], "parameters": size_of(encoder)}


def _convolution(job: Job, channels: int, **settings: Any) -> SeriesEncoder:
    config = {"model_type": "dilated_conv", **(job.sizes or {})}
    return SeriesEncoder.from_config(config, channels=channels, **settings)


SIDES: dict[str, dict[str, Callable[[Job, np.ndarray], dict[str, Any]]]] = {
    "masked": {"unlabel": masked_ours, "transformers": masked_transformers},
    "contrast": {"unlabel": contrast_ours, "TS2Vec": contrast_ts2vec},
    "encode": {
        "unlabel": encode_ours,
        "unlabel, norm standard": encode_ours,
        "unlabel, a window a step": encode_ours,
        "TS2Vec": encode_ts2vec,
    },
}


def work(job: Job) -> dict[str, Any]:
    """Do a job in this process.

    Raises:
        Missing: the peer is not there.
    """
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)  # TS2Vec draws its crops from it
    return SIDES[job.task][job.side](job, np.load(job.values))


def main() -> None:
    """Read a job, do it, print one line."""
    try:
        print(json.dumps(work(Job(**json.loads(Path(sys.argv[1]).read_text())))))
    except Missing as error:
        print(json.dumps({"note": str(error)}))


if __name__ == "__main__":
    main()
