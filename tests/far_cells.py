"""A step of every method on a device that is not there: tensors that refuse to meet a CPU's.

    python tests/far_cells.py DATA FOLDER

Torch lets a back end be written in Python. This one computes on the CPU, but its tensors say that
they are elsewhere, and what would fail on a GPU (a tensor of the CPU's among its own) fails here.
Each method takes its turn on one kind of data; the last line says what failed, as JSON.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from test_matrix import CELLS, cell, reader, runs
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("far", _Backend())
torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(1, device="far") comes to the mode, too


class Far(torch.Tensor):
    """A tensor of the CPU that says it is on the device."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> "Far":
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, device=torch.device("far:0"),
        )  # fmt: skip
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.near.tolist()


class Elsewhere(TorchDispatchMode):
    """Sees what makes tensors on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _near(x: Any) -> Any:
    return x.near if isinstance(x, Far) else x


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    name = str(func)
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    far = any(isinstance(x, Far) for x in given)
    if far and not name.startswith(("aten.copy_.", "aten._to_copy.")):
        for x in given:
            # Numbers travel, and so do indices.
            whole = x.dtype in (torch.int64, torch.bool) and "index" in name
            if not isinstance(x, Far) and x.dim() and not whole:
                raise RuntimeError(f"{name}: {x.dtype} {tuple(x.shape)} is on the CPU")
    if kwargs.get("device") is not None:
        far = torch.device(kwargs["device"]).type == "far"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif name.startswith("aten.copy_."):
        far = isinstance(args[0], Far)
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():  # what it looks like from outside
            func(*args, **kwargs)
    found = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    known = {id(x.near): x for x in given if isinstance(x, Far)}  # of what is changed in place

    def there(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return known[id(x)] if id(x) in known else Far(x)

    return tree_map(there, found) if far else found


def _gru(self: Any, x: torch.Tensor, h: torch.Tensor | None = None) -> tuple[Any, Any]:
    """One layer step by step; the fused one is a kernel of each back end."""
    steps = x.unbind(1 if self.batch_first else 0)
    h = x.new_zeros(len(steps[0]), self.hidden_size) if h is None else h[0]
    outs = []
    for step in steps:
        a, b, c = F.linear(step, self.weight_ih_l0, self.bias_ih_l0).chunk(3, -1)
        d, e, f = F.linear(h, self.weight_hh_l0, self.bias_hh_l0).chunk(3, -1)
        update, new = torch.sigmoid(b + e), torch.tanh(c + torch.sigmoid(a + d) * f)
        h = (1 - update) * new + update * h
        outs.append(h)
    return torch.stack(outs, 1 if self.batch_first else 0), h[None]


def move(module: nn.Module) -> None:
    """Parameters and buffers to the device; `Module.to` would change them in place."""
    for part in module.modules():
        for name, x in part._parameters.items():
            if x is not None:
                part._parameters[name] = nn.Parameter(Far(x.data), requires_grad=x.requires_grad)
        for name, x in part._buffers.items():
            part._buffers[name] = None if x is None else Far(x)


def step(module: nn.Module, batch: Any) -> None:
    """Two steps, so that what the first one leaves behind is used."""
    move(module)
    with Elsewhere(), sdpa_kernel(SDPBackend.MATH):
        batch = batch.to(torch.device("far"))
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
        for _ in range(2):
            found: Any = module(batch)
            assert found.loss.device.type == "far"
            optimizer.zero_grad()
            found.loss.backward()
            optimizer.step()
            module.step()


def main(data: str, folder: str) -> None:
    nn.GRU.forward = _gru
    read = reader(Path(data), Path(folder))
    kinds: dict[str, list[str]] = {}
    for name, kind in CELLS:
        if runs(name, kind):
            kinds.setdefault(name, []).append(kind)
    failed = {}
    for number, (name, those) in enumerate(kinds.items()):
        kind = those[number % len(those)]
        try:
            step(*cell(name, kind, read))
        except Exception:
            failed[f"{name} on {kind}"] = traceback.format_exc()[-1500:]
    print(json.dumps({"methods": len(kinds), "failed": failed}), flush=True)
    os._exit(0)  # the thread of the device's gradients does not end


if __name__ == "__main__":
    main(*sys.argv[1:])
