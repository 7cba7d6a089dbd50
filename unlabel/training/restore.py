"""What a checkpoint's files become in a run, whole or sharded; files that may be hostile.

A checkpoint holds whole tensors, however the run that wrote it was sharded, so that one of FSDP2
is resumed by DDP or by one process, and the other way round. Its files are taken for what anybody
may have written: numbers are read and nothing else, and only those that fit what is trained.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

Made = TypeVar("Made")

# Adafactor keeps a matrix's means over rows and over columns in place of the matrix.
_FACTORED: dict[str, Callable[[torch.Size], torch.Size]] = {
    "exp_avg_sq_row": lambda shape: shape[:-1],
    "exp_avg_sq_col": lambda shape: shape[:-2] + shape[-1:],
}


def whole(nest: Any) -> Any:
    """A nest of dicts, lists and tensors without shards, on the CPU; a call of all ranks."""
    if isinstance(nest, dict):
        return {k: whole(v) for k, v in nest.items()}
    if isinstance(nest, list | tuple):
        return type(nest)(whole(v) for v in nest)
    if isinstance(nest, DTensor):
        nest = nest.full_tensor()
    return nest.detach().cpu() if isinstance(nest, Tensor) else nest


def load_weights(file: Path, module: nn.Module) -> None:
    """Load a safetensors file, each rank its share of what is sharded.

    Raises:
        ValueError: it is none, or not of this module.
    """
    try:
        state = safetensors.torch.load_file(file)
        own = module.state_dict()
        shared = {k: _like(v, own[k]) if k in own else v for k, v in state.items()}
        module.load_state_dict(shared, strict=True)
    except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{file} does not fit this encoder and objective; resume with those that the run "
            f"began with, or begin a new run. {str(error)[:300]}"
        ) from error


def load_optimizer(file: Path, optimizer: Any) -> None:
    """Load an optimizer's state, each rank its share of what is sharded.

    Raises:
        ValueError: it holds more than numbers, or not those of these parameters.
    """
    state = load_numbers(file)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with _refusing(file, "is no state of this optimizer"):
        for number, values in state["state"].items():
            like = parameters[number]
            for name, value in values.items():
                if not isinstance(value, Tensor) or not value.dim():
                    continue
                if name in _FACTORED and value.shape == _FACTORED[name](like.shape):
                    continue
                values[name] = _like(value, like)
        optimizer.load_state_dict(state)


def load_numbers(file: Path) -> Any:
    """What `torch.save` wrote of numbers, tensors, strings, lists and dicts.

    Raises:
        ValueError: it holds anything else, or more than its own size.
    """
    with _refusing(file, "holds more than numbers"):
        with zipfile.ZipFile(file) as packed:
            if any(part.compress_type != zipfile.ZIP_STORED for part in packed.infolist()):
                raise ValueError("it is compressed")
        return torch.load(file, map_location="cpu", weights_only=True)


def load_record(file: Path, take: Callable[[Any], Made]) -> Made:
    """What `take` makes of a JSON file.

    Raises:
        ValueError: it makes nothing of it.
    """
    with _refusing(file, "is no record of a run"):
        return take(json.loads(file.read_text(encoding="utf-8")))


class _refusing:
    """Whatever goes wrong with a file is one sentence: nobody knows what was written into it."""

    def __init__(self, file: Path, why: str):
        self.file, self.why = file, why

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
            raise ValueError(
                f"{self.file} {self.why} and was not taken; use a checkpoint that you trust. "
                f"({' '.join(str(error).split())[:200]})"
            ) from error


def _like(value: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a value, sharded as `like` is.

    A view of few numbers may have any shape: what does not fit is refused before it is copied.
    """
    if value.shape != like.shape:
        raise ValueError(f"a tensor of shape {tuple(value.shape)} came for {tuple(like.shape)}")
    if not isinstance(like, DTensor):
        return value
    # Each rank has read the file itself: nothing is sent.
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def scalars(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters without a dimension, which cannot be sharded and stay whole on each rank."""
    return (p for p in module.parameters() if p.dim() == 0)


__all__ = ["load_numbers", "load_optimizer", "load_record", "load_weights", "scalars", "whole"]
