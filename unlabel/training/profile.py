"""Where the time of a step goes, by name: `--training.profile_steps`."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import TrainerCallback

from unlabel.files import write_json

logger = logging.getLogger(__name__)

PARTS = ("batches", "transfer", "views", "encode", "loss", "backward", "clip", "optimizer", "state")
WARM_UP = 5  # steps before: caches fill, and torch.compile compiles
SHOWN = 10  # operators
_STEP = "step"


def part(name: str) -> AbstractContextManager[Any]:
    """A part of the step by its name, for whoever profiles; nothing otherwise."""
    return record_function(f"unlabel:{name}")


class StepProfile(TrainerCallback):
    """Profiles some steps of rank 0 and writes `profile.json` into the run's folder.

    The parts are `PARTS`, the rest is the trainer's own. On a GPU a part has two times: that of the
    Python that launches its work, and that of the device which does it.

    Args:
        run: the run's folder.
        steps: to profile, after a few that warm up; 0 for none.
        cuda: whether a GPU works.
    """

    def __init__(self, run: Path, steps: int, *, cuda: bool = False):
        self.run, self.steps = run, steps
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._profile = profile(activities=activities) if steps else None
        self._left = 0
        self._open: AbstractContextManager[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count."""
        self._left = WARM_UP + self.steps if self._profile and args.process_index == 0 else 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin after the steps that warm up; end and tell after those asked for."""
        if not self._left or self._profile is None:
            return
        self._close()
        self._left -= 1
        if self._left == self.steps:
            self._profile.start()
        if 0 < self._left <= self.steps:
            self._open = part(_STEP)
            self._open.__enter__()
        if not self._left:
            self._profile.stop()
            found = times(self._profile.events(), self.steps)
            write_json(self.run / "profile.json", found)
            Console(stderr=True, width=100).print(table(found))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A run shorter than what was asked for has no profile, and says so."""
        if self._left:
            self._close()
            if self._profile is not None and self._left < self.steps:
                self._profile.stop()
            logger.warning(
                "No profile: it takes %d steps (%d to warm up), and this run made %d.",
                WARM_UP + self.steps, WARM_UP, WARM_UP + self.steps - self._left,
            )  # fmt: skip
            self._left = 0

    def _close(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


def times(events: Any, steps: int) -> dict[str, Any]:
    """Milliseconds a step of each part and of the slowest operators, from a profiler's events."""
    # What ran on a device is an event of the same name there: the CPU's has its time, too.
    averages = [e for e in events.key_averages() if e.device_type == DeviceType.CPU]
    by_name = {_named(e.key): e for e in averages}
    cuda = any(e.device_time_total > 0 for e in averages)
    of_device = _device_times(events) if cuda else {}

    def ms(name: str) -> dict[str, float]:
        found = {"cpu": by_name[name].cpu_time_total}
        found |= {"device": of_device.get(name, 0.0)} if cuda else {}
        return {k: v / steps / 1000 for k, v in found.items()}

    def own(event: Any) -> dict[str, float]:
        kinds = ("cpu", "device") if cuda else ("cpu",)
        return {k: getattr(event, f"self_{k}_time_total") / steps / 1000 for k in kinds}

    whole = ms(f"unlabel:{_STEP}")
    parts = {p: ms(f"unlabel:{p}") for p in PARTS if f"unlabel:{p}" in by_name}
    rest = {k: max(0.0, v - sum(p[k] for p in parts.values())) for k, v in whole.items()}
    longest = "device" if cuda else "cpu"
    each = [(e.key, own(e)) for e in averages if not e.key.startswith(("unlabel:", "Optimizer."))]
    slow = sorted(each, key=lambda kv: -kv[1][longest])[:SHOWN]
    return {"steps": steps, "step": whole, "parts": {**parts, "trainer": rest},
            "operators": dict(slow)}  # fmt: skip


def _named(key: str) -> str:
    """A part's name; torch names its optimizers' steps itself."""
    return "unlabel:optimizer" if key.startswith("Optimizer.step#") else key


def _device_times(events: Any) -> dict[str, float]:
    """Microseconds on the device of what was launched during each part, and during all steps.

    By the time of the launch: gradients are launched by a thread of their own, so that nothing of
    them lies below the part `backward`.
    """
    on_cpu = [e for e in events if e.device_type == DeviceType.CPU]
    # A part's own span on the device is no kernel.
    held = [sum(k.duration for k in e.kernels if k.name != e.name) for e in on_cpu]
    launched, busy = np.array([e.time_range.start for e in on_cpu]), np.array(held)
    spans: dict[str, list[tuple[float, float]]] = {}
    for e in on_cpu:
        spans.setdefault(_named(e.key), []).append((e.time_range.start, e.time_range.end))
    found = {}
    for name in (f"unlabel:{p}" for p in (*PARTS, _STEP)):
        if name in spans:
            start, end = np.array(sorted(spans[name])).T
            at = np.searchsorted(start, launched, side="right") - 1
            found[name] = float(busy[(at >= 0) & (launched <= end[at])].sum())
    return found


def table(found: Mapping[str, Any]) -> Table:
    """The parts and the slowest operators, in milliseconds and shares of a step."""
    whole = found["step"]
    title = f"Where a step's time goes, mean of {found['steps']} steps (profiled, so a little slow)"
    made = Table(title=title, title_justify="left")
    made.add_column("part of the step")
    for kind in whole:
        made.add_column(f"{kind} ms", justify="right")
        made.add_column("share", justify="right")

    def row(name: str, of: Mapping[str, float]) -> None:
        cells = [(f"{of[k]:.2f}", f"{100 * of[k] / whole[k]:.0f} %" if whole[k] else "")
                 for k in whole]  # fmt: skip
        made.add_row(name, *(c for pair in cells for c in pair))

    for name, of in found["parts"].items():
        row(name, of)
    made.add_section()
    row("all", whole)
    made.add_section()
    for name, of in found["operators"].items():
        row(name[:48], of)
    return made


__all__ = ["PARTS", "StepProfile", "part", "table", "times"]
