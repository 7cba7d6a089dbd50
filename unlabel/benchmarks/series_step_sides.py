"""The sides that `series_step` compares; each does its job in a process of its own.

    python -m unlabel.benchmarks.series_step_sides job.json

The last line it prints is a JSON object: CPU and wall seconds of the loop, after steps that are
not counted, and what was done in it.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import PatchTSTConfig, PatchTSTForPretraining

from unlabel.data_pipes.sampling import LengthBatches
from unlabel.data_pipes.series_data import Series
from unlabel.data_pipes.series_store import SeriesStore
from unlabel.modalities.patchtst import DEFAULTS
from unlabel.modalities.series import SeriesEncoder
from unlabel.objectives import HierarchicalContrast, MaskedValues, Objective
from unlabel.training.pretraining import Pretraining

RATIO = 0.4  # of the patches that are masked
PADDING = 200  # earlier steps that TS2Vec's own forecasting task shows the encoder
TRAINED = 0.8  # share of the rows that is trained on; the error is that of the rest
WARM = 2  # steps before the clock starts


class Missing(RuntimeError):
    """A peer that is not there; its rows are left out with this note."""


@dataclass(frozen=True)
class Job:
    """What one side is given to do.

    Attributes:
        task: `masked`, `contrast` or `encode`.
        side: who does it.
        values: `.npy` file of `(steps, channels)`, standardised, without gaps.
        context: steps of a window.
        windows: windows a step.
        steps: training steps that are timed, or rows of the series that are encoded.
        seed: of weights and order.
        threads: of torch.
        ts2vec: folder of the public TS2Vec code.
        sizes: configuration keys of the encoder, over its defaults.
    """

    task: str
    side: str
    values: str
    context: int
    windows: int
    steps: int
    seed: int = 0
    threads: int = 1
    ts2vec: str | None = None
    sizes: dict[str, Any] | None = None


def timed(step: Callable[[], Tensor], steps: int) -> dict[str, Any]:
    """Seconds of `steps` calls after a few that are not counted, and the loss of the last ones."""
    for _ in range(WARM):
        step()
    losses, cpu, wall = [], time.process_time(), time.perf_counter()
    for _ in range(steps):
        losses.append(step().detach())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    last = torch.stack(losses[-max(1, steps // 4) :]).mean()
    return {"cpu_seconds": cpu, "wall_seconds": wall, "steps": steps, "loss": float(last)}


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Its batches, epoch after epoch."""
    while True:
        yield from loader


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """The optimizer of all sides: TS2Vec's."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def size_of(model: nn.Module) -> int:
    """Weights that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# -- ours -----------------------------------------------------------------------------------------


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
        for held in _first(_loader(series.part(TRAINED), encoder, batch, 0)):
            (view,) = views = module.view(held)
            assert view.target is not None
            error.append(module.score(module.encode(views), views, held).loss)
            power.append(view.target[view.is_target].square().mean())
    return {**done, "error": _share(error, power)}


def contrast_ours(job: Job, values: np.ndarray) -> dict[str, Any]:
    """TS2Vec's objective; a sample is all channels of one window."""
    store = SeriesStore(
        [Series("benchmark", values)],
        context=job.context,
        channels="together",
        stride=_stride(job, values),
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


def _stride(job: Job, values: np.ndarray) -> int:
    """Between windows, so that there are about 512, and at least a batch."""
    return max(1, (len(values) - job.context) // max(512, job.windows))


def _first(loader: Iterable[Any], batches: int = 8) -> Iterator[Any]:
    return (batch for _, batch in zip(range(batches), loader, strict=False))


def _share(error: list[Tensor], power: list[Tensor]) -> float:
    """Squared error over the squared values that were hidden: 1 for predicting the mean."""
    return float(torch.stack(error).mean() / torch.stack(power).mean())


# -- the peers ------------------------------------------------------------------------------------


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
        for (held,) in _first(loader(values[now:])):
            out = model.model(past_values=held)
            apart = model.head(out.last_hidden_state) - out.patch_input
            error.append(apart[out.mask.bool()].square().mean())
            power.append(out.patch_input[out.mask.bool()].square().mean())
    made = {"sequences": job.windows * values.shape[1] * job.steps, "parameters": size_of(model)}
    return {**done, **made, "error": _share(error, power)}


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
    windows = np.ascontiguousarray(cut[:: _stride(job, values)].transpose(0, 2, 1))
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
